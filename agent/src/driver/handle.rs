//! What the agent's socket asks for, done on the running pairs.

use super::pair::Pair;
use super::{drill, engine_mode, explain, facts};
use crate::config::{self, Config};
use crate::control::{
    AgentHandle, Done, Drilled, Failure, FailureCode, Operation, OperationKind, SnapshotRequest, Verified,
    VerifiedDatabase, VerifyRequest, WaitRequest, Why,
};
use crate::events::Event;
use crate::status::Status;
use lockstep_client::Acknowledged;
use lockstep_engine::files::ship::VerifyHow;
use lockstep_engine::pair::{self as engine, Command};
use lockstep_failover::{Refusal, Request, status::State};
use lockstep_wire::PairId;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often an operation looks whether it has come to its end.
const LOOK: Duration = Duration::from_millis(20);

/// Longer than any promotion or release takes: wait, hold-off, probes, an application's stop and start.
const OPERATION_LIMIT: Duration = Duration::from_secs(120);

/// A standby that just released only turns round; a resync goes on behind the answer.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// After this an operation that has not begun to show is taken as failed.
const SETTLE: Duration = Duration::from_secs(2);

/// The running agent.
pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) pairs: Vec<Arc<Pair>>,
}

impl Agent {
    fn pair(&self, id: Option<&PairId>) -> Result<&Arc<Pair>, Failure> {
        match (id, &self.pairs[..]) {
            (None, [only]) => Ok(only),
            (None, _) => {
                let names: Vec<&str> = self.pairs.iter().map(|p| p.config.id.as_str()).collect();
                let sentence = format!("this node has several pairs: name one of {}", names.join(", "));
                Err(Failure::new(FailureCode::Pair, sentence))
            }
            (Some(id), pairs) => pairs.iter().find(|p| p.config.id == *id).ok_or_else(|| {
                Failure::new(FailureCode::Pair, format!("pair {id} is not in this node's configuration"))
            }),
        }
    }
}

impl Pair {
    pub(super) fn machine(&self) -> lockstep_failover::Status {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn refused(refusal: &Refusal) -> Failure {
    Failure::new(FailureCode::Refused, refusal.to_string())
}

pub(super) fn stopping() -> Failure {
    Failure::new(FailureCode::Failed, "the agent is stopping: ask again when it runs")
}

impl AgentHandle for Agent {
    async fn wait(&self, request: WaitRequest) -> Result<Acknowledged, Failure> {
        let pair = self.pair(Some(&request.pair))?;
        let known = pair.config.databases.iter().any(|d| d.name == request.database);
        if !known {
            let sentence = format!("database {} is not in pair {}", request.database, request.pair);
            return Err(Failure::new(FailureCode::Database, sentence));
        }
        let (reply, answer) = oneshot::channel();
        let mode = engine_mode(request.mode);
        pair.engine.command(Command::Wait { database: request.database, mode, reply }).await;
        match answer.await {
            Ok(Ok(engine::Acknowledged::Ok(_, position))) => {
                Ok(Acknowledged::Replicated { mode: request.mode, position: position.to_string() })
            }
            Ok(Ok(engine::Acknowledged::Solo(epoch))) => Ok(Acknowledged::Solo { epoch: epoch.to_string() }),
            Ok(Err(sentence)) => Err(Failure::new(FailureCode::Standby, sentence)),
            Err(_) => Err(Failure::new(FailureCode::Standby, "this node no longer serves the database")),
        }
    }

    async fn status(&self) -> Status {
        facts::status(&self.config, &self.pairs)
    }

    async fn events(&self, pair: Option<PairId>, last: u32) -> Result<Vec<Event>, Failure> {
        let chosen: Vec<Arc<Pair>> = match pair {
            Some(id) => vec![self.pair(Some(&id))?.clone()],
            None => self.pairs.clone(),
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut events = Vec::new();
            for pair in chosen {
                events.extend(pair.log.last(last)?);
            }
            events.sort_by_key(|e| e.boot_ms);
            let surplus = events.len().saturating_sub(last as usize);
            Ok::<_, crate::events::EventLogError>(events.split_off(surplus))
        });
        let read = read.await.map_err(|_| stopping())?;
        read.map_err(|error| Failure::new(FailureCode::Failed, error.to_string()))
    }

    async fn operate(&self, operation: Operation) -> Result<Done, Failure> {
        let pair = self.pair(operation.pair.as_ref())?;
        let (request, was_active) = match operation.kind {
            OperationKind::Switchover => (Request::Switchover, pair.machine().state == State::Active),
            OperationKind::Failback => (Request::Failback, pair.machine().state == State::Active),
            OperationKind::Failover { accept_loss } => (Request::Failover { accept_loss }, false),
            OperationKind::Observe(on) => return switch(pair, Request::Observe(on)).await,
            OperationKind::Maintenance(on) => return switch(pair, Request::Maintenance(on)).await,
        };
        let answer = pair.queue.request(request).await.map_err(|_| stopping())?;
        answer.map_err(|refusal| refused(&refusal))?;
        let done = await_end(pair, was_active).await?;
        let planned = !matches!(operation.kind, OperationKind::Failover { .. });
        Ok(if planned { await_sync(pair, done).await } else { done })
    }

    async fn why(&self, pair: Option<PairId>) -> Result<Why, Failure> {
        explain::why(self.pair(pair.as_ref())?).await
    }

    async fn drill(&self, pair: Option<PairId>) -> Result<Drilled, Failure> {
        drill::run(self.pair(pair.as_ref())?).await
    }

    async fn discarded(&self, pair: PairId, entry: String) -> Result<Done, Failure> {
        let pair = self.pair(Some(&pair))?;
        pair.queue.note(
            false,
            "quarantine.discarded",
            format!("kept data {entry} was removed by the operator"),
        );
        pair.engine.command(Command::CountQuarantine).await;
        let sentence = "the agent took note".to_owned();
        Ok(Done { sentence, in_sync: facts::in_sync(pair) })
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<Done, Failure> {
        let holder = |p: &&Arc<Pair>| p.config.databases.iter().any(|d| d.name == request.database);
        let pair = match &request.pair {
            Some(id) => self.pair(Some(id))?,
            None => self.pairs.iter().find(holder).ok_or_else(|| {
                let sentence = format!("no pair of this node has a database {}", request.database);
                Failure::new(FailureCode::Database, sentence)
            })?,
        };
        let (reply, done) = oneshot::channel();
        let (database, destination) = (request.database.clone(), request.file.clone());
        pair.engine.command(Command::Snapshot { database, destination, reply }).await;
        match done.await {
            Ok(Ok(())) => Ok(Done {
                sentence: format!("{} written to {}", request.database, request.file.display()),
                in_sync: facts::in_sync(pair),
            }),
            Ok(Err(sentence)) => Err(Failure::new(FailureCode::Failed, sentence)),
            Err(_) => Err(stopping()),
        }
    }

    async fn verify(&self, request: VerifyRequest) -> Result<Vec<Verified>, Failure> {
        let pair = self.pair(request.pair.as_ref())?;
        let wanted = |name: &str| request.name.as_ref().is_none_or(|one| one.as_str() == name);
        let databases = pair.config.databases.iter().filter(|d| wanted(d.name.as_str()));
        let trees = pair.config.trees.iter().filter(|t| wanted(t.name.as_str()));
        let mut verified = Vec::new();
        for database in databases {
            verified.push(Verified::Database(verify_database(pair, database).await?));
        }
        for tree in trees {
            let how = VerifyHow { deep: request.deep, repair: request.repair };
            verified.push(Verified::Tree(super::trees::verify(pair, tree, how).await?));
        }
        if let (Some(name), true) = (&request.name, verified.is_empty()) {
            let sentence = format!("pair {} has no database or tree {name}", pair.config.id);
            return Err(Failure::new(FailureCode::Database, sentence));
        }
        Ok(verified)
    }
}

/// Maintenance and observe: nothing moves, so nothing is waited for.
async fn switch(pair: &Pair, request: Request) -> Result<Done, Failure> {
    if pair.config.observe && request == Request::Observe(false) {
        let sentence = "`observe = true` is in this node's configuration: change it there, on both nodes";
        return Err(Failure::new(FailureCode::Refused, sentence));
    }
    pair.queue.request(request).await.map_err(|_| stopping())?.map_err(|refusal| refused(&refusal))?;
    let sentence = match request {
        Request::Maintenance(true) => {
            "maintenance is on: neither node moves the service by itself; end it with `lockstep maintenance off`"
        }
        Request::Maintenance(false) => "maintenance is off: the service moves by itself again",
        Request::Observe(true) => {
            "this node observes: it decides and logs, and moves nothing; end it with `lockstep observe off`"
        }
        _ => "this node no longer observes: it acts by what it decides",
    };
    Ok(Done { sentence: sentence.into(), in_sync: facts::in_sync(pair) })
}

/// The operator asks for a switchover and waits for its end on this node.
pub(super) async fn switch_over(pair: &Pair) -> Result<Done, Failure> {
    let was_active = pair.machine().state == State::Active;
    let answer = pair.queue.request(Request::Switchover).await.map_err(|_| stopping())?;
    answer.map_err(|refusal| refused(&refusal))?;
    await_end(pair, was_active).await
}

async fn verify_database(pair: &Pair, database: &config::Database) -> Result<VerifiedDatabase, Failure> {
    let (reply, answer) = oneshot::channel();
    pair.engine.command(Command::Verify { database: database.name.clone(), reply }).await;
    let engine::Verified { pages, repaired } = match answer.await {
        Ok(Ok(done)) => done,
        Ok(Err(sentence)) => return Err(Failure::new(FailureCode::Standby, sentence)),
        Err(_) => return Err(stopping()),
    };
    Ok(VerifiedDatabase { database: database.name.to_string(), pages, repaired_pages: repaired })
}

/// After a planned move the other node follows at once; waits a little for it.
async fn await_sync(pair: &Pair, mut done: Done) -> Done {
    let began = Instant::now();
    while !done.in_sync && began.elapsed() < SYNC_PATIENCE {
        tokio::time::sleep(LOOK).await;
        done.in_sync = facts::in_sync(pair);
    }
    done
}

/// Waits until the node has changed sides and stands again.
async fn await_end(pair: &Pair, was_active: bool) -> Result<Done, Failure> {
    let began = Instant::now();
    let wanted = if was_active { State::Standby } else { State::Active };
    loop {
        tokio::time::sleep(LOOK).await;
        let now = pair.machine();
        let arrived = now.state == wanted || (was_active && now.state == State::Copying);
        if arrived {
            let sentence = match wanted {
                State::Active => format!("this node serves with epoch {}", now.epoch),
                _ => format!("the peer serves with epoch {}, this node stands by", now.epoch),
            };
            return Ok(Done { sentence, in_sync: facts::in_sync(pair) });
        }
        let settled = matches!(now.state, State::Active | State::Standby | State::Holding | State::Copying);
        if settled && began.elapsed() >= SETTLE && !was_active && now.state == State::Holding {
            let why = now.question.unwrap_or(now.evidence);
            return Err(Failure::new(FailureCode::Failed, format!("not done: {why}")));
        }
        if began.elapsed() >= OPERATION_LIMIT {
            let sentence = format!("not done within {} s: {}", OPERATION_LIMIT.as_secs(), now.evidence);
            return Err(Failure::new(FailureCode::Timeout, sentence));
        }
    }
}

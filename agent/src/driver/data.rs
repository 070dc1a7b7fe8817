//! The data path as the failover machine sees it: commands one way, facts the other.
//!
//! Carries out [`EngineAction`]s on the engine and turns what the engine says into events. Retries
//! nothing by itself: the machine asks again for what has not happened.

use super::alarms::Alarms;
use super::queue::EventQueue;
use crate::heartbeat::Heart;
use lockstep_engine::pair::{Command, DatabaseState, Engine, EngineEvent, EngineStatus};
use lockstep_failover::{Engine as EngineAction, Event, SoloAfter, Status, status::State};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often the databases are looked at: positions serve lineage and questions only, alarms people.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Carries out engine actions, one after the other in their order.
pub(super) async fn carry_out(
    engine: Engine,
    queue: EventQueue,
    mut orders: mpsc::UnboundedReceiver<(u64, EngineAction)>,
) {
    while let Some((order, action)) = orders.recv().await {
        let outcome = Outcome { order, queue: &queue };
        match action {
            EngineAction::BecomeActive { epoch } => {
                become_role(&engine, outcome, |reply| Command::BecomeActive { epoch, reply }).await;
            }
            EngineAction::BecomeStandby { epoch } => {
                become_role(&engine, outcome, |reply| Command::BecomeStandby { epoch, reply }).await;
            }
            EngineAction::Promote { epoch } => {
                become_role(&engine, outcome, |reply| Command::Promote { epoch, reply }).await;
            }
            EngineAction::AllowSolo { epoch } => engine.command(Command::AllowSolo(epoch)).await,
            EngineAction::HoldCommits => {
                when_done(&engine, outcome, Command::HoldCommits, Event::StandbyDurable).await;
            }
            EngineAction::Drain => when_done(&engine, outcome, Command::Drain, Event::Drained).await,
            EngineAction::Stop => {
                let (reply, done) = oneshot::channel();
                engine.command(Command::BecomeIdle(reply)).await;
                let _ = done.await;
            }
        }
    }
}

/// Where the outcome of an order goes.
#[derive(Clone, Copy)]
struct Outcome<'a> {
    order: u64,
    queue: &'a EventQueue,
}

async fn become_role(
    engine: &Engine,
    outcome: Outcome<'_>,
    command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
) {
    let (reply, done) = oneshot::channel();
    engine.command(command(reply)).await;
    outcome.queue.done(
        outcome.order,
        match done.await {
            Ok(Ok(())) => Event::EngineReady,
            Ok(Err(sentence)) => Event::EngineFailed(sentence),
            Err(_) => Event::EngineFailed("the data thread has stopped".into()),
        },
    );
}

/// The answer may take as long as the standby needs, and later actions must not wait for it.
async fn when_done(
    engine: &Engine,
    outcome: Outcome<'_>,
    command: impl FnOnce(oneshot::Sender<()>) -> Command,
    event: Event,
) {
    let (reply, done) = oneshot::channel();
    engine.command(command(reply)).await;
    let (order, queue) = (outcome.order, outcome.queue.clone());
    tokio::spawn(async move {
        // A dropped reply: the standby went away first, which the machine hears by another event.
        if done.await.is_ok() {
            queue.done(order, event);
        }
    });
}

/// Turns what the engine says into events, until it stops.
pub(super) async fn listen(
    mut events: mpsc::UnboundedReceiver<EngineEvent>,
    queue: EventQueue,
    heart: Arc<Heart>,
) {
    while let Some(event) = events.recv().await {
        match event {
            EngineEvent::Connected { keys, path, peer } => {
                if let Err(error) = heart.set_keys(&keys) {
                    queue.note(true, "heartbeat", error.to_string());
                }
                queue.event(Event::LinkKeys(true));
                queue.note(false, "link.up", format!("data connection to {peer} over the {path}"));
            }
            EngineEvent::Disconnected { reason } => {
                queue.note(false, "link.down", format!("data connection ended: {reason}"));
            }
            EngineEvent::InSync(in_sync) => drop(queue.event(Event::EngineInSync(in_sync))),
            EngineEvent::CopyComplete(complete) => drop(queue.event(Event::CopyComplete(complete))),
            EngineEvent::HigherEpoch(epoch) => {
                queue.note(false, "epoch.higher", format!("the peer speaks with the newer epoch {epoch}"));
            }
            EngineEvent::Quarantined { database, directory } => queue.note(
                true,
                "quarantined",
                format!(
                    "database {database}: commits that only this node had are kept in {}",
                    directory.display()
                ),
            ),
            EngineEvent::Notice { alarm, sentence } => queue.note(alarm, "data", sentence),
        }
    }
}

/// What [`watch_databases`] tells, and by what it judges.
pub(super) struct Watch {
    pub(super) queue: EventQueue,
    pub(super) alarms: Alarms,
    pub(super) machine: Arc<Mutex<Status>>,
    pub(super) solo_after: SoloAfter,
}

/// Why so many commits wait, in a sentence; none when the standby follows, and they wait only for its answer.
pub(super) fn why_commits_wait(
    machine: &Status,
    solo_after: SoloAfter,
    waiting: u32,
    held_by_tree: Option<&str>,
) -> Option<String> {
    if waiting == 0 || machine.state != State::Active {
        return None;
    }
    if let Some(why) = held_by_tree.filter(|_| !machine.solo) {
        return Some(format!("{waiting} {why}"));
    }
    if !machine.waits_for_standby {
        return None;
    }
    let until = match solo_after {
        SoloAfter::Never => "is back (`solo_after` is \"never\")".to_owned(),
        SoloAfter::Delay(Duration::ZERO) => "is back, or the last grant is over".to_owned(),
        SoloAfter::Delay(delay) => {
            format!("is back, or the last grant and `solo_after` ({} ms) are over", delay.as_millis())
        }
    };
    Some(format!("{waiting} commits wait until the standby {until}: bring it back"))
}

/// Reports where the databases stand and which are refused, until the queue's other end is gone.
pub(super) async fn watch_databases(engine: Engine, watch: Watch) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        every.tick().await;
        let EngineStatus { databases, trees, held_by_tree, .. } = engine.status();
        watch.alarms.databases(&databases);
        watch.alarms.trees(&trees);
        let waiting = databases.iter().map(|database| database.waiting).sum();
        let why = {
            let machine = watch.machine.lock().unwrap_or_else(PoisonError::into_inner);
            why_commits_wait(&machine, watch.solo_after, waiting, held_by_tree.as_deref())
        };
        watch.alarms.commits(why.as_deref());
        for database in databases {
            let known = !matches!(database.state, DatabaseState::Absent | DatabaseState::Idle);
            if known && !watch.queue.event(Event::At { database: database.name, position: database.position })
            {
                return;
            }
        }
    }
}

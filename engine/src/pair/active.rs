//! Active: the databases being served, their shipments and their waiters.
//!
//! `capture -> ship -> link` runs in one task per database; acknowledgements come back through the
//! main loop into the barrier. This file holds no I/O of its own: it starts captures, gives
//! shipments their standby, and answers waiters.

use super::barrier::{Acknowledged, Barrier, CommitMode, Progress};
use super::connection::Connection;
use super::scrub::VerifyReply;
use super::served::Served;
use super::ship::{ShipNote, Shipment};
use super::standby::Own;
use super::starting::Starting;
use super::status::{DatabaseState, DatabaseStatus};
use super::thread::{Input, Inputs};
use super::trees::ServedTrees;
use super::{EngineConfig, board::CommitBoards, boot::boot};
use crate::capture::{Capture, CaptureCommand, CaptureEvent};
use crate::files::ship::{TreeVerified, VerifyHow};
use lockstep_wire::{
    Ack, Databases, Epoch, FileAttributes, ForkPages, FrameNo, Message, MirrorState, PageHashes, Position,
    Rewound, WalGeneration,
};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How often a database that cannot be followed yet is tried again.
const CAPTURE_RETRY: Duration = Duration::from_millis(100);

/// What answers a waiter.
pub(super) type WaitReply = oneshot::Sender<Result<Acknowledged, String>>;

/// What answers who wanted a tree compared.
pub(super) type TreeVerifyReply = oneshot::Sender<Result<TreeVerified, String>>;

/// Bytes of ACLs and labels beside the names of databases: half of what the message may have. What is beyond is
/// told when a copy of its database begins.
const ATTRIBUTES_BUDGET_BYTES: usize = lockstep_wire::MAX_CONTROL_BYTES / 2;

fn within_budget(attributes: Vec<FileAttributes>) -> Vec<FileAttributes> {
    let mut used = 0;
    let fitting = attributes.into_iter().take_while(|told| {
        used += told.acl.len() + told.label.len();
        used <= ATTRIBUTES_BUDGET_BYTES
    });
    fitting.collect()
}

/// The active role of this node.
pub(super) struct Active {
    pub(super) epoch: Epoch,
    databases: Vec<Served>,
    trees: Rc<ServedTrees>,
    session: Option<Session>,
    inputs: Inputs,
    in_sync: bool,
    /// Answered once everything committed before is durable on the standby.
    durable_replies: Vec<oneshot::Sender<()>>,
    /// Since when there is no standby.
    alone_since: Option<Instant>,
    /// After so long without one nobody may begin to write.
    refuse_alone_after: Option<Duration>,
}

struct Session {
    connection: Rc<Connection>,
    /// The standby has said what it holds.
    answered: bool,
    /// What the standby said it holds; taken by the shipment.
    standby: Vec<Option<MirrorState>>,
    hashes: Vec<mpsc::Sender<PageHashes>>,
    hash_queues: Vec<Option<mpsc::Receiver<PageHashes>>>,
    forks: Vec<mpsc::Sender<ForkPages>>,
    fork_queues: Vec<Option<mpsc::Receiver<ForkPages>>>,
}

impl Active {
    /// Begins to follow the databases; what each `own` was until now is known.
    pub(super) fn start(
        config: &EngineConfig,
        own: Vec<Own>,
        boards: &CommitBoards,
        epoch: Epoch,
        inputs: Inputs,
    ) -> Self {
        let each = config.databases.iter().zip(own).enumerate();
        let databases = each
            .map(|(i, (c, t))| {
                let of = (c.clone(), super::standby::mirror_dir(config, c));
                Served::new(of, t, boards.of(i), config.commit_mode)
            })
            .collect();
        let mut active = Self {
            epoch,
            databases,
            trees: Rc::new(ServedTrees::start(config, &inputs)),
            session: None,
            inputs,
            in_sync: false,
            durable_replies: Vec::new(),
            alone_since: None,
            refuse_alone_after: config.boards.as_ref().and_then(|boards| boards.refuse_alone_after),
        };
        for index in 0..active.databases.len() {
            active.databases[index].marks.void(false);
            active.try_capture(index, Duration::ZERO);
        }
        active
    }

    /// Ends every capture; the WALs stay as they are. Waiters are told that this node no longer serves.
    pub(super) async fn stop(&mut self) {
        self.session = None;
        self.trees.stop().await;
        for database in &mut self.databases {
            database.barrier = Barrier::default();
            database.scrub.borrow_mut().give_up("this node no longer serves: verify on the node that does");
            if let Some(shipment) = database.shipment.take() {
                shipment.abort();
                // Cancelled or done: either way its hold on the capture is gone.
                let _ = shipment.await;
            }
            if let Some(starting) = database.starting.take() {
                starting.give_up().await;
            }
            database.capture = None;
            database.sums.borrow_mut().close();
        }
    }

    fn try_capture(&mut self, index: usize, after: Duration) {
        let database = &mut self.databases[index];
        // Without pokes nothing is sent before it is published, so that file changes before the commit are found first.
        let pokes = database.marks.pokes().filter(|_| !self.trees.any_before_commits());
        let continued = (database.continues, pokes);
        let starting = Starting::begin(&database.config, continued, after, index, &self.inputs);
        database.starting = Some(starting);
    }

    /// A capture runs, or is tried again.
    pub(super) fn capture_started(&mut self, index: usize) {
        let database = &mut self.databases[index];
        // Without a result this is the word of an earlier attempt.
        let Some(started) = database.starting.as_ref().and_then(Starting::result) else { return };
        database.starting = None;
        match started {
            Ok((capture, events)) => {
                if let Some(warning) = capture.status().sqlite_warning() {
                    self.inputs.notice(true, format!("database {}: {warning}", database.config.name));
                }
                database.marks.set_file(&database.config.path);
                database.capture = Some(Rc::new(capture));
                database.events = Some(events);
                database.state = DatabaseState::Alone;
                database.synced = false;
                database.taken = None;
                database.refused_at = None;
            }
            Err(error) => {
                // Nothing was ever acknowledged of a database that does not exist.
                database.synced = matches!(error, crate::capture::CaptureError::Missing { .. });
                database.refused(&error, &self.inputs);
                self.try_capture(index, CAPTURE_RETRY);
            }
        }
        self.stamp(index);
        self.ship(index);
        self.judge_sync();
    }

    /// Looks whether captures still run, also while no shipment would hear of it. True: one does not, and
    /// the connection must be made anew.
    pub(super) fn watch_captures(&mut self) -> bool {
        let mut renew = false;
        for index in 0..self.databases.len() {
            let database = &mut self.databases[index];
            let Some(status) = database.capture.as_ref().map(|capture| capture.status()) else { continue };
            if status.let_go && !database.let_go {
                let name = &database.config.name;
                self.inputs.notice(true, format!("database {name}: the WAL grew beyond its limit while the standby took nothing; its pages will be compared"));
            }
            database.let_go = status.let_go;
            database.waited(status.poked);
            if let Some(sentence) = status.failed {
                self.inputs.notice(true, format!("database {}: {sentence}", database.config.name));
                database.capture_failed(sentence);
                self.try_capture(index, CAPTURE_RETRY);
                self.judge_sync();
                renew = true;
            }
        }
        renew
    }

    /// Where commits are never acknowledged alone, programs are refused before they write, not after: a
    /// connection that comes back soon is waited for. And the trees, of which no message tells.
    pub(super) fn watch_standby(&mut self) {
        if self.trees.any() {
            self.judge_sync();
        }
        let answered = self.session.as_ref().is_some_and(|session| session.answered);
        self.alone_since = if answered { None } else { self.alone_since.or_else(|| Some(Instant::now())) };
        let Some(after) = self.refuse_alone_after else { return };
        let in_vain = self.alone_since.is_some_and(|since| since.elapsed() >= after);
        for database in &mut self.databases {
            database.marks.set_in_vain(in_vain);
        }
    }

    /// A standby is connected: tell it what will come.
    pub(super) fn connected(&mut self, connection: Rc<Connection>) {
        let names = self.databases.iter().map(|d| d.config.name.to_string()).collect();
        let attributes = self.databases.iter().map(Served::attributes).map(Option::unwrap_or_default);
        let attributes = within_budget(attributes.collect());
        connection.send_control(Databases { names, attributes, boot: boot() }.into());
        self.trees.connected(&connection);
        let count = self.databases.len();
        let (hashes, hash_queues) = (0..count).map(|_| mpsc::channel(2)).map(|(s, r)| (s, Some(r))).unzip();
        let (forks, fork_queues) = (0..count).map(|_| mpsc::channel(1)).map(|(s, r)| (s, Some(r))).unzip();
        self.session = Some(Session {
            connection,
            answered: false,
            standby: vec![None; count],
            hashes,
            hash_queues,
            forks,
            fork_queues,
        });
    }

    /// The standby is gone: positions wait for the next one.
    pub(super) fn disconnected(&mut self) {
        self.session = None;
        self.trees.disconnected();
        for database in &mut self.databases {
            database.detach();
        }
        self.judge_sync();
        self.durable_replies.clear();
    }

    /// A message of the standby.
    pub(super) fn message(&mut self, stream: u16, message: Message) -> Result<(), String> {
        match message {
            Message::MirrorStates(states) => self.mirror_states(states.states),
            Message::Ack(ack) => self.ack(stream, &ack),
            Message::PageHashes(hashes) => {
                let session = self.session.as_ref();
                let queue = session.and_then(|s| s.hashes.get(usize::from(stream).wrapping_sub(1)));
                // A full queue means an answer nobody asked for.
                queue.map_or(Ok(()), |q| {
                    q.try_send(hashes).map_err(|_| "page hashes that were not asked for".into())
                })
            }
            Message::ForkPages(pages) => {
                let session = self.session.as_ref();
                let queue = session.and_then(|s| s.forks.get(usize::from(stream).wrapping_sub(1)));
                queue.map_or(Ok(()), |q| {
                    q.try_send(pages).map_err(|_| "pages of a fork that were not asked for".into())
                })
            }
            Message::Rewound(rewound) => self.rewound(stream, &rewound),
            Message::TreeStates(states) => match &self.session {
                Some(session) => self.trees.states(&session.connection, states.states),
                None => Ok(()),
            },
            message @ (Message::TreeAck(_) | Message::TreeListing(_)) => self.trees.message(stream, message),
            other => Err(format!("{} is not a standby's message", other.name())),
        }
    }

    fn mirror_states(&mut self, states: Vec<MirrorState>) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        if states.len() != session.standby.len() {
            return Err(format!("expected {} mirror states, found {}", session.standby.len(), states.len()));
        }
        if session.answered {
            return Err("mirror states twice".into());
        }
        session.standby = states.into_iter().map(Some).collect();
        session.answered = true;
        for index in 0..self.databases.len() {
            self.ship(index);
        }
        self.judge_sync();
        Ok(())
    }

    /// Starts the shipment of a database once capture, standby and event queue are all there.
    fn ship(&mut self, index: usize) {
        let Some(session) = &mut self.session else { return };
        let database = &mut self.databases[index];
        let (Some(capture), true) = (database.capture.clone(), session.standby[index].is_some()) else {
            return;
        };
        let Some(mut events) = database.events.take() else { return };
        let standby = session.standby[index].take().expect("checked above");
        let hashes = session.hash_queues[index].take().expect("taken with the standby's state");
        let forks = session.fork_queues[index].take().expect("taken with the standby's state");
        database.barrier.unstamp();
        let sender = session.connection.stream(index as u16 + 1);
        let inputs = self.inputs.clone();
        let of = Rc::downgrade(&capture);
        let attributes = database.attributes();
        let trees = self.trees.clone();
        let sums = database.sums.clone();
        let waiters = database.waiters.clone();
        let (scrub, wake, resync) = (database.scrub.clone(), database.scrub_wake.clone(), database.resync);
        let shipment = tokio::task::spawn_local(async move {
            let notes = inputs.clone();
            let connection = sender.connection_id();
            let note = move |note| notes.send(Input::Ship { index, connection, note });
            Shipment {
                capture: &capture,
                events: &mut events,
                sender,
                hashes,
                forks,
                attributes,
                trees,
                note: &note,
                scrub,
                sums,
                wake,
                waiters,
                resync,
            }
            .run(standby)
            .await;
            drop(capture);
            inputs.send(Input::ShipEnded { index, of, events });
        });
        database.shipment = Some(shipment);
    }

    /// A shipment has ended and gives its event queue back, which is of use only with its capture.
    pub(super) fn ship_ended(
        &mut self,
        index: usize,
        of: &Weak<Capture>,
        events: mpsc::Receiver<CaptureEvent>,
    ) {
        let database = &mut self.databases[index];
        if database.capture.as_ref().is_some_and(|capture| std::ptr::eq(Rc::as_ptr(capture), of.as_ptr())) {
            database.events = Some(events);
            self.ship(index);
        }
    }

    /// A shipment says something; true: the connection must be made anew.
    pub(super) fn ship_note(&mut self, index: usize, note: ShipNote) -> bool {
        let database = &mut self.databases[index];
        let mut renew = false;
        match note {
            ShipNote::Attached { held, published, complete, last } => {
                database.attached(held, published, complete, last);
            }
            ShipNote::Target(position) => {
                database.target = database.target.max(Some(position));
                database.judge();
            }
            ShipNote::Copy(progress) => database.copy = Some(progress),
            ShipNote::Word(word) => {
                self.inputs
                    .notice(word.alarm, format!("database {}: {}", database.config.name, word.sentence));
            }
            ShipNote::Resync => {
                database.resync = true;
                renew = true;
            }
            ShipNote::CopySent(position) => {
                database.resync = false;
                database.published(position);
                database.target = Some(position);
                database.judge();
            }
            ShipNote::Sent { position, published, salts, commits } => {
                database.sent(position, published, salts, &commits);
                database.judge();
            }
            ShipNote::Published(position) => {
                database.published(position);
                database.judge();
            }
            ShipNote::Rewind(to) => database.rewind(to),
            ShipNote::Ahead => {
                let name = &database.config.name;
                self.inputs.notice(true, format!("database {name}: the standby holds commits that this node lost (was its power cut without synchronous=FULL?): {}", super::IN_ITS_QUARANTINE));
            }
            ShipNote::LetGo => renew = true,
        }
        self.stamp(index);
        self.judge_sync();
        renew
    }

    fn ack(&mut self, stream: u16, ack: &Ack) -> Result<(), String> {
        let index = self.announced(stream)?;
        let database = &mut self.databases[index];
        let at = |frame| Position { generation: WalGeneration(ack.generation), frame: FrameNo(frame) };
        database.complete |= ack.complete;
        // Frames beside half a copy are on the standby's disk, but no database that could be served.
        if database.complete {
            let (received, durable) = (at(ack.received_frame), at(ack.durable_frame));
            database.acknowledged(Progress { received, durable });
        }
        database.judge();
        database.compare_sums(ack);
        self.judge_sync();
        Ok(())
    }

    /// The standby has taken frames back.
    fn rewound(&mut self, stream: u16, rewound: &Rewound) -> Result<(), String> {
        let (index, generation) = (self.announced(stream)?, WalGeneration(rewound.generation));
        self.databases[index].rewound(Position { generation, frame: FrameNo(rewound.frame) })
    }

    fn announced(&self, stream: u16) -> Result<usize, String> {
        match usize::from(stream).wrapping_sub(1) {
            index if index < self.databases.len() => Ok(index),
            _ => Err(format!("an answer on stream {stream}, which was never announced")),
        }
    }

    /// Tells the agent when the standby holds everything acknowledged, or no longer.
    fn judge_sync(&mut self) {
        let follows = self.session.as_ref().is_some_and(|s| s.answered);
        let trees = self.trees.are_whole();
        let all = follows && trees && self.databases.iter().all(|d| d.synced);
        if all {
            for reply in self.durable_replies.drain(..) {
                let _ = reply.send(());
            }
        }
        // Waiting for the last commits before solo ends is no loss of sync: said as one, it would
        // let commits go alone again, and the next wait would begin.
        let streaming = || self.databases.iter().all(|d| d.state == DatabaseState::Streaming);
        let kept = self.in_sync && follows && !self.durable_replies.is_empty() && streaming();
        let in_sync = all || kept;
        if in_sync != self.in_sync {
            self.in_sync = in_sync;
            self.inputs.in_sync(in_sync);
        }
    }

    /// The application has stopped: answered as [`Self::when_durable`], and for the trees too.
    pub(super) fn drain(&mut self, reply: oneshot::Sender<()>) {
        let (trees, inputs) = (self.trees.clone(), self.inputs.clone());
        tokio::task::spawn_local(async move {
            trees.drain().await;
            inputs.send(Input::TreesDrained(reply));
        });
    }

    /// Answers once everything committed by now is durable on the standby. A connection that ends
    /// meanwhile, or no connection at all, drops the reply.
    pub(super) fn when_durable(&mut self, reply: oneshot::Sender<()>) {
        if self.session.is_none() {
            return;
        }
        self.durable_replies.push(reply);
        for index in 0..self.databases.len() {
            self.retarget(index);
        }
        // With no database to wait for the answer is due at once.
        self.judge_sync();
    }

    /// Everything committed by now must be durable on the standby before the database counts as synced again.
    fn retarget(&mut self, index: usize) {
        let database = &mut self.databases[index];
        let Some(capture) = database.capture.clone() else { return };
        database.synced = false;
        let (inputs, serial) = (self.inputs.clone(), database.stamp_serial);
        let (reply, position) = oneshot::channel();
        if capture.command(CaptureCommand::Sync(reply)).is_err() {
            return; // It has failed, and says so as an event.
        }
        tokio::task::spawn_local(async move {
            if let Ok(position) = position.await {
                inputs.send(Input::Target { index, serial, position });
            }
        });
    }

    /// The end asked for by [`Self::retarget`].
    pub(super) fn target(&mut self, index: usize, serial: u64, position: Position) {
        let database = &mut self.databases[index];
        // A copy under way ends later than this reading, and its end is a target of its own.
        if serial == database.stamp_serial && database.state != DatabaseState::Copying {
            database.target = database.target.max(Some(position));
            database.judge();
            self.judge_sync();
        }
    }

    /// True while the standby holds everything acknowledged.
    pub(super) fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// Somebody waits for a commit.
    pub(super) fn wait(&mut self, database: &str, mode: CommitMode, reply: WaitReply) {
        let Some(index) = self.databases.iter().position(|d| d.config.name.as_str() == database) else {
            let _ = reply.send(Err(format!("database {database} is not configured in this pair")));
            return;
        };
        let database = &mut self.databases[index];
        database.waiters.seen(Instant::now());
        database.barrier.wait(mode, reply);
        self.stamp(index);
    }

    /// Reads the wal-index for whoever has asked since the last reading.
    fn stamp(&mut self, index: usize) {
        let database = &mut self.databases[index];
        let Some(capture) = database.capture.clone() else { return };
        if !database.barrier.begin_stamping() {
            return;
        }
        let (inputs, serial) = (self.inputs.clone(), database.stamp_serial);
        let (reply, position) = oneshot::channel();
        if capture.command(CaptureCommand::Sync(reply)).is_err() {
            database.barrier.not_stamped();
            return;
        }
        tokio::task::spawn_local(async move {
            if let Ok(position) = position.await {
                inputs.send(Input::Stamped { index, serial, position });
            }
        });
    }

    /// A reading is back.
    pub(super) fn stamped(&mut self, index: usize, serial: u64, position: Position) {
        let database = &mut self.databases[index];
        if serial == database.stamp_serial {
            database.barrier.stamped(position);
            database.waited(position);
        }
        self.stamp(index);
    }

    /// Commits are acknowledged alone from now on, until they are held again and proven durable.
    pub(super) fn allow_solo(&mut self, epoch: Epoch) {
        for database in &mut self.databases {
            database.barrier.set_solo(Some(epoch));
        }
    }

    /// Commits wait for the standby.
    pub(super) fn hold_commits(&mut self) {
        for database in &mut self.databases {
            database.barrier.set_solo(None);
            database.marks.rule(false);
        }
    }

    /// Answers everybody who may be answered. Called only while the lease holds.
    pub(super) fn release(&mut self) {
        for database in &mut self.databases {
            database.marks.rule(database.barrier.is_solo());
            database.release_marks();
            database.barrier.retain(|reply| !reply.is_closed());
            for (reply, answer) in database.barrier.release() {
                let _ = reply.send(Ok(answer));
            }
        }
    }

    /// This node may not acknowledge now: nobody returns because it runs alone.
    pub(super) fn withhold(&self) {
        for database in &self.databases {
            database.marks.rule(false);
        }
    }

    /// True when somebody waits, or may have to be told.
    pub(super) fn waiting(&self) -> bool {
        let waiting = |d: &Served| d.barrier.waiting() > 0 || d.barrier.is_solo() || d.has_safe_marks();
        self.databases.iter().any(waiting)
    }

    /// Somebody wants every page compared, now.
    pub(super) fn verify(&mut self, name: &str, reply: VerifyReply) {
        let Some(database) = self.databases.iter().find(|d| d.config.name.as_str() == name) else {
            let _ = reply.send(Err(format!("database {name} is not configured in this pair")));
            return;
        };
        database.scrub.borrow_mut().verify(reply, Instant::now());
        database.scrub_wake.notify_one();
    }

    /// Somebody wants a tree compared.
    pub(super) fn verify_tree(&self, name: &str, how: VerifyHow, reply: TreeVerifyReply) {
        let answer = match self.trees.verify(name, how) {
            Ok(answer) => answer,
            Err(sentence) => return drop(reply.send(Err(sentence))),
        };
        tokio::task::spawn_local(async move {
            let ended = || Err("the tree's thread has ended: try again".to_owned());
            // Whoever asked may have gone.
            let _ = reply.send(answer.await.unwrap_or_else(|_| ended()));
        });
    }

    /// Writes a copy of the live database, through SQLite, to a new file.
    pub(super) fn snapshot(
        &self,
        name: &str,
        destination: PathBuf,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let Some(database) = self.databases.iter().find(|d| d.config.name.as_str() == name) else {
            let _ = reply.send(Err(format!("database {name} is not configured in this pair")));
            return;
        };
        let path = database.config.path.clone();
        tokio::task::spawn_blocking(move || {
            let _ = reply
                .send(crate::copy::snapshot_live(&path, &destination).map_err(|e| {
                    format!("snapshot of {} to {}: {e}", path.display(), destination.display())
                }));
        });
    }

    /// Why commits wait for a tree; `None`: they do not, or only until files have arrived.
    pub(super) fn held_by_tree(&self) -> Option<String> {
        self.trees.held()
    }

    /// For the status, the file trees.
    pub(super) fn tree_statuses(&self) -> Vec<crate::files::ship::TreeStatus> {
        self.trees.statuses()
    }

    /// For the status.
    pub(super) fn statuses(&self) -> Vec<DatabaseStatus> {
        self.databases.iter().map(Served::status).collect()
    }
}

//! The data thread: one queue of inputs, one role at a time.
//!
//! Everything that happens to a pair's data path (a command, a connection, a message, a note of a
//! task) comes through one queue, so that the two roles are plain state machines over it. Disk
//! and link run as tasks on the same thread; nothing here waits for a peer.

use super::active::Active;
use super::board::CommitBoards;
use super::connection::{Connection, Credit};
use super::ship::ShipNote;
use super::standby::{Own, Standby, StandbyNote};
use super::{Command, DatabaseStatus, EngineConfig, EngineEvent, EngineStatus};
use crate::capture::{Capture, CaptureEvent};
use crate::link::{EpochCell, Established, Link, LinkStats};
use crate::storage::{self, Backend, BackendReport};
use lockstep_wire::{Epoch, Message, Position};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Commands waiting for the data thread; each is small and the agent sends few, but many may wait for commits.
const COMMAND_QUEUE: usize = 1024;

/// How often waiters are looked at while the lease keeps them, and the status is renewed.
const TICK: Duration = Duration::from_millis(20);

/// The agent's handle on one pair's data thread. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    status: Arc<Mutex<EngineStatus>>,
}

/// What happens to the data path.
pub(super) enum Input {
    /// A connection stands.
    Connected(Box<Established>),
    /// A connection is gone.
    Lost { connection: u64, reason: String },
    /// A message came.
    Message { connection: u64, stream: u16, message: Message, credit: Credit },
    /// A capture runs, or could not start.
    CaptureStarted { index: usize },
    /// A shipment says something.
    Ship { index: usize, connection: u64, note: ShipNote },
    /// A shipment has ended.
    ShipEnded { index: usize, of: Weak<Capture>, events: mpsc::Receiver<CaptureEvent> },
    /// The wal-index was read for the barrier.
    Stamped { index: usize, serial: u64, position: Position },
    /// The wal-index was read to prove that the standby has everything.
    Target { index: usize, serial: u64, position: Position },
    /// The active broke the protocol about a tree.
    TreeBroken { connection: u64, sentence: String },
    /// Every tree has arrived that could: go on with the databases.
    TreesDrained(oneshot::Sender<()>),
    /// A mirror says something.
    Standby { index: usize, note: StandbyNote },
}

/// Where tasks of the data thread put their inputs. Unbounded, yet limited by what sends: a connection's
/// reader waits for room in [`super::connection`], and notes follow frames that were already bounded.
#[derive(Clone)]
pub(super) struct Inputs {
    queue: mpsc::UnboundedSender<Input>,
    events: mpsc::UnboundedSender<EngineEvent>,
}

impl Inputs {
    pub(super) fn send(&self, input: Input) {
        // The queue closes only when the data thread ends, and then nobody needs the input.
        let _ = self.queue.send(input);
    }

    pub(super) fn notice(&self, alarm: bool, sentence: String) {
        self.event(EngineEvent::Notice { alarm, sentence });
    }

    /// Tells the operator from any thread.
    pub(super) fn notices(&self) -> impl Fn(bool, String) + Send + Sync + 'static {
        let events = self.events.clone();
        move |alarm, sentence| {
            // Nobody listens when the data thread has ended.
            let _ = events.send(EngineEvent::Notice { alarm, sentence });
        }
    }

    pub(super) fn in_sync(&self, in_sync: bool) {
        self.event(EngineEvent::InSync(in_sync));
    }

    pub(super) fn event(&self, event: EngineEvent) {
        let _ = self.events.send(event);
    }
}

enum Role {
    Idle,
    Active(Active),
    Standby(Standby),
    /// From standby to active, with what was last shown of the databases.
    TakingOver(Vec<DatabaseStatus>),
}

/// How a takeover ended.
enum TakeOver {
    Done(Vec<Own>),
    /// Nothing was changed.
    Refused(Box<Standby>, String),
    Failed(String),
}

async fn take_over(mut standby: Standby, epoch: Epoch, own: EpochCell) -> TakeOver {
    if let Err(sentence) = standby.prepare_take_over().await {
        return TakeOver::Refused(Box::new(standby), sentence);
    }
    own.raise(epoch);
    match standby.take_over().await {
        Ok(taken) => TakeOver::Done(taken),
        Err(sentence) => TakeOver::Failed(sentence),
    }
}

struct DataThread {
    config: EngineConfig,
    backend: Backend,
    report: BackendReport,
    boards: CommitBoards,
    role: Role,
    epoch: EpochCell,
    link: Arc<LinkStats>,
    connection: Option<Rc<Connection>>,
    connections: u64,
    inputs: Inputs,
    status: Arc<Mutex<EngineStatus>>,
}

impl Engine {
    /// Starts the data thread. Events come in order; the agent must take them.
    ///
    /// # Errors
    /// When the thread cannot be made or the link's addresses cannot be listened on.
    pub fn start(config: EngineConfig) -> std::io::Result<(Self, mpsc::UnboundedReceiver<EngineEvent>)> {
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let (events, event_queue) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(EngineStatus::default()));
        let shown = status.clone();
        let preference = config.storage;
        let name = format!("data-{}", config.link.greeting.pair);
        std::thread::Builder::new().name(name).spawn(move || {
            let notices = events.clone();
            let ran = storage::run(preference, |backend, report| async move {
                run(config, (backend, report), command_queue, events, shown).await
            });
            if let Err(sentence) = ran.map_err(|error| error.to_string()).flatten() {
                let _ = notices.send(EngineEvent::Notice { alarm: true, sentence });
            }
        })?;
        Ok((Self { commands, status }, event_queue))
    }

    /// Gives a command; waits for room in the queue.
    pub async fn command(&self, command: Command) {
        // A closed queue means that the thread has stopped; the dropped reply tells the caller.
        let _ = self.commands.send(command).await;
    }

    /// What the data thread shows of itself, at most 20 ms old.
    ///
    /// # Panics
    /// When the data thread panicked while it wrote its status.
    pub fn status(&self) -> EngineStatus {
        self.status.lock().expect("the data thread does not panic").clone()
    }
}

async fn run(
    config: EngineConfig,
    (backend, report): (Backend, BackendReport),
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::UnboundedSender<EngineEvent>,
    status: Arc<Mutex<EngineStatus>>,
) -> Result<(), String> {
    let (queue, mut input_queue) = mpsc::unbounded_channel();
    let inputs = Inputs { queue, events };
    // Known from the start: a standby that finds nobody may be told by its operator to serve.
    let complete = super::standby::is_complete_on_disk(&backend, &config).await;
    inputs.event(EngineEvent::CopyComplete(complete));
    let epoch = EpochCell::new(Epoch::NONE);
    let link = Link::new(config.link.clone(), &config.identity, epoch.clone()).map_err(|e| e.to_string())?;
    let stats = link.stats();
    spawn_connector(link, inputs.clone());
    let (boards, alarms) = CommitBoards::open(&config);
    for sentence in alarms {
        inputs.notice(true, sentence);
    }
    let mut thread = DataThread {
        config,
        backend,
        report,
        boards,
        role: Role::Idle,
        epoch,
        link: stats,
        connection: None,
        connections: 0,
        inputs,
        status,
    };
    thread.count_quarantine();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Stop(done)) => {
                    thread.become_idle("this node stops").await;
                    let _ = done.send(());
                    return Ok(());
                }
                Some(command) => thread.command(command).await,
                None => {
                    thread.become_idle("this node stops").await;
                    return Ok(());
                }
            },
            input = input_queue.recv() => thread.input(input.expect("the thread holds a sender")),
            _ = tick.tick() => thread.tick(),
        }
        thread.release();
    }
}

fn spawn_connector(mut link: Link, inputs: Inputs) {
    tokio::task::spawn_local(async move {
        loop {
            let established = link.next().await;
            inputs.send(Input::Connected(Box::new(established)));
        }
    });
}

impl DataThread {
    async fn command(&mut self, command: Command) {
        match command {
            Command::BecomeActive { epoch, reply } => {
                self.become_idle("this node becomes active").await;
                super::followed::forget_followed(&self.config, &self.inputs);
                let own = super::standby::open_own(&self.backend, &self.config).await;
                let _ = reply.send(own.map(|taken| self.serve(epoch, taken)));
            }
            Command::BecomeStandby { epoch, reply } => {
                self.become_idle("this node becomes standby").await;
                self.epoch.raise(epoch);
                self.boards.refuse();
                let standby = Standby::open(&self.backend, &self.config, self.inputs.clone()).await;
                self.role = Role::Standby(standby);
                let _ = reply.send(Ok(()));
            }
            Command::Promote { epoch, reply } => {
                let _ = reply.send(self.promote(epoch).await);
            }
            Command::AllowSolo(epoch) => {
                if let Role::Active(active) = &mut self.role {
                    active.allow_solo(epoch);
                }
            }
            Command::HoldCommits(reply) => {
                if let Role::Active(active) = &mut self.role {
                    active.hold_commits();
                    active.when_durable(reply);
                }
            }
            Command::Drain(reply) => {
                if let Role::Active(active) = &mut self.role {
                    active.drain(reply);
                }
            }
            Command::Wait { database, mode, reply } => match &mut self.role {
                Role::Active(active) => active.wait(database.as_str(), mode, reply),
                _ => drop(reply.send(Err("this node is not active: connect to the virtual address".into()))),
            },
            Command::BecomeIdle(reply) => {
                self.boards.refuse();
                self.become_idle("this node neither serves nor mirrors").await;
                let _ = reply.send(());
            }
            Command::Snapshot { database, destination, reply } => {
                self.snapshot(database.as_str(), destination, reply);
            }
            Command::CountQuarantine => self.count_quarantine(),
            Command::Verify { database, reply } => match &mut self.role {
                Role::Active(active) => active.verify(database.as_str(), reply),
                _ => drop(reply.send(Err("this node is not active: verify on the node that serves".into()))),
            },
            Command::VerifyTree { tree, how, reply } => match &self.role {
                Role::Active(active) => active.verify_tree(tree.as_str(), how, reply),
                _ => drop(reply.send(Err("this node is not active: verify on the node that serves".into()))),
            },
            Command::Stop(_) => unreachable!("handled by the loop"),
        }
    }

    /// Refuse older frames, let the mirrors be opened by SQLite, serve.
    async fn promote(&mut self, epoch: Epoch) -> Result<(), String> {
        if matches!(&self.role, Role::Active(active) if active.epoch == epoch) {
            return Ok(());
        }
        self.drop_connection("the standby takes over");
        super::trees::forget_indexes(&self.config);
        if matches!(self.role, Role::Idle) {
            self.role = Role::Standby(Standby::open(&self.backend, &self.config, self.inputs.clone()).await);
        }
        let Role::Standby(standby) = &self.role else {
            return Err("this node serves with another epoch: it must stand by first".into());
        };
        let shown = standby.statuses();
        let Role::Standby(standby) = std::mem::replace(&mut self.role, Role::TakingOver(shown)) else {
            unreachable!("it was one just now")
        };
        let taking = take_over(standby, epoch, self.epoch.clone());
        match self.show_until(taking).await {
            TakeOver::Done(taken) => {
                self.serve(epoch, taken);
                Ok(())
            }
            // It can go on following the active it has.
            TakeOver::Refused(standby, sentence) => {
                self.role = Role::Standby(*standby);
                Err(sentence)
            }
            TakeOver::Failed(sentence) => {
                self.become_idle("the standby could not take over").await;
                Err(sentence)
            }
        }
    }

    /// Waits for something that may take seconds, and renews the status meanwhile.
    async fn show_until<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => self.show(),
            }
        }
    }

    fn serve(&mut self, epoch: Epoch, own: Vec<Own>) {
        self.epoch.raise(epoch);
        let active = Active::start(&self.config, own, &self.boards, epoch, self.inputs.clone());
        self.role = Role::Active(active);
    }

    async fn become_idle(&mut self, reason: &str) {
        self.drop_connection(reason);
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Active(mut active) => {
                self.boards.refuse();
                active.stop().await;
            }
            Role::Standby(mut standby) => standby.close().await,
            Role::Idle | Role::TakingOver(_) => {}
        }
    }

    fn snapshot(
        &mut self,
        database: &str,
        destination: std::path::PathBuf,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        match &mut self.role {
            Role::Standby(standby) => standby.snapshot(database, destination, reply),
            Role::Active(active) => active.snapshot(database, destination, reply),
            Role::Idle | Role::TakingOver(_) => {
                drop(reply.send(Err("this node neither serves nor mirrors now: try again".into())));
            }
        }
    }

    fn drop_connection(&mut self, reason: &str) {
        if let Some(connection) = self.connection.take() {
            connection.goodbye(reason);
            self.lost(reason.to_owned());
        }
    }

    fn lost(&mut self, reason: String) {
        match &mut self.role {
            Role::Active(active) => active.disconnected(),
            Role::Standby(standby) => standby.disconnected(),
            Role::Idle | Role::TakingOver(_) => {}
        }
        self.inputs.event(EngineEvent::Disconnected { reason });
    }

    fn connected(&mut self, established: Established) {
        if self.connection.take().is_some() {
            self.lost("a newer connection replaces it".into());
        }
        if established.peer_epoch > self.epoch.load() {
            self.inputs.event(EngineEvent::HigherEpoch(established.peer_epoch));
        }
        self.connections += 1;
        self.inputs.event(EngineEvent::Connected {
            keys: established.keys.clone(),
            path: established.path,
            peer: established.peer.node_name.clone(),
        });
        let connection = Rc::new(Connection::start(
            self.connections,
            established,
            self.epoch.clone(),
            self.inputs.clone(),
        ));
        match &mut self.role {
            Role::Active(active) => active.connected(connection.clone()),
            Role::Standby(standby) => standby.connected(connection.clone()),
            Role::Idle | Role::TakingOver(_) => {}
        }
        self.connection = Some(connection);
    }

    fn current(&self, id: u64) -> bool {
        self.connection.as_ref().is_some_and(|c| c.id() == id)
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Connected(established) => self.connected(*established),
            Input::Lost { connection, reason } if self.current(connection) => {
                self.connection = None;
                self.lost(reason);
            }
            Input::Message { connection, stream, message, credit } if self.current(connection) => {
                self.message(stream, message, credit);
            }
            Input::TreeBroken { connection, sentence } if self.current(connection) => {
                self.inputs.notice(true, format!("the peer broke the protocol: {sentence}"));
                self.drop_connection(&sentence);
            }
            Input::Lost { .. } | Input::Message { .. } | Input::TreeBroken { .. } => {}
            Input::Standby { index, note } => {
                if matches!(note, StandbyNote::Quarantined(_)) {
                    self.count_quarantine();
                }
                if let Role::Standby(standby) = &mut self.role
                    && let Some(reason) = standby.note(index, note)
                {
                    self.drop_connection(&reason);
                }
            }
            other => self.active_input(other),
        }
    }

    fn active_input(&mut self, input: Input) {
        let Role::Active(active) = &mut self.role else { return };
        match input {
            Input::CaptureStarted { index } => active.capture_started(index),
            Input::Ship { index, connection, note } => {
                let current = self.connection.as_ref().is_some_and(|c| c.id() == connection);
                if current && active.ship_note(index, note) {
                    self.drop_connection("the standby must attach anew");
                }
            }
            Input::ShipEnded { index, of, events } => active.ship_ended(index, &of, events),
            Input::Stamped { index, serial, position } => active.stamped(index, serial, position),
            Input::Target { index, serial, position } => active.target(index, serial, position),
            Input::TreesDrained(reply) => active.when_durable(reply),
            _ => unreachable!("the other inputs were handled before"),
        }
    }

    fn message(&mut self, stream: u16, message: Message, credit: Credit) {
        let handled = match &mut self.role {
            Role::Active(active) => active.message(stream, message),
            Role::Standby(standby) => standby.message(stream, message, credit),
            // A peer may be quicker than our own decision; it says everything again on the next connection.
            Role::Idle | Role::TakingOver(_) => Ok(()),
        };
        if let Err(sentence) = handled {
            self.inputs.notice(true, format!("the peer broke the protocol: {sentence}"));
            self.drop_connection(&sentence);
        }
    }

    /// Releases waiters, while the lease holds.
    fn release(&mut self) {
        if let Role::Active(active) = &mut self.role
            && active.waiting()
        {
            if (self.config.may_release)() {
                active.release();
            } else {
                active.withhold();
            }
        }
    }

    fn tick(&mut self) {
        if let Role::Active(active) = &mut self.role {
            active.watch_standby();
            if active.watch_captures() {
                self.drop_connection("the standby must attach anew");
            }
        }
        self.show();
    }

    /// Counts what is kept; only now and then, so that no status reads the disk.
    fn count_quarantine(&self) {
        let (backend, state_dir) = (self.backend.clone(), self.config.state_dir.clone());
        let (status, inputs) = (self.status.clone(), self.inputs.clone());
        tokio::task::spawn_local(async move {
            match crate::copy::quarantine::list(&backend, &state_dir).await {
                Ok(found) => {
                    let count = u32::try_from(found.kept.len()).unwrap_or(u32::MAX);
                    status.lock().expect("no holder of the status lock panics").quarantined = count;
                }
                Err(error) => inputs.notice(true, format!("the quarantine cannot be counted: {error}")),
            }
        });
    }

    fn show(&self) {
        let (epoch, active, in_sync, databases) = match &self.role {
            Role::Active(active) => (active.epoch, true, active.in_sync(), active.statuses()),
            Role::Standby(standby) => (self.epoch.load(), false, false, standby.statuses()),
            Role::Idle => (self.epoch.load(), false, false, Vec::new()),
            Role::TakingOver(shown) => (self.epoch.load(), false, false, shown.clone()),
        };
        let trees = match &self.role {
            Role::Active(active) => active.tree_statuses(),
            Role::Standby(standby) => standby.tree_statuses(),
            _ => Vec::new(),
        };
        let held = match &self.role {
            Role::Active(active) => active.held_by_tree(),
            _ => None,
        };
        let mut status = self.status.lock().expect("no holder of the status lock panics");
        (status.trees, status.held_by_tree) = (trees, held);
        status.epoch = epoch;
        status.active = active;
        status.in_sync = in_sync;
        status.databases = databases;
        status.io_backend = self.report.to_string();
        status.link = Some(self.link.snapshot());
    }
}

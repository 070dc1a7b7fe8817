//! Standby: the mirrors, and how they come to and from the tasks that feed them.
//!
//! `link -> apply -> mirror`. A mirror lives in its task while a connection stands
//! ([`super::apply`]) and comes back when the task ends; taking over needs all of them at home.

use super::apply::{self, Work};
use super::connection::{Connection, Credit};
use super::followed::FollowedTrees;
use super::status::{CopyProgress, DatabaseState, DatabaseStatus, EqualityStatus};
use super::thread::Inputs;
use super::{CommitMode, DatabaseConfig, EngineConfig};
use crate::copy::quarantine::Quarantine;
use crate::mirror::{Mirror, MirrorConfig, MirrorError, SnapshotStop, TakenOver};
use crate::storage::Backend;
use crate::wal::WalPoint;
use lockstep_wire::{Databases, FileAttributes, Message, MirrorState, MirrorStates, Position, Refusal};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What a task says of its mirror.
pub(super) enum StandbyNote {
    /// Where it stands.
    At { received: Position, durable: Position, complete: bool },
    /// Progress of a copy.
    Copy(Option<CopyProgress>),
    /// It cannot go on with this connection.
    Failed(Refusal),
    /// What of the active's owner, mode, ACL and label the files here could not be given.
    LacksAttributes(Vec<String>),
    /// Diverged data was kept.
    Quarantined(PathBuf),
}

/// The standby role of this node.
pub(super) struct Standby {
    databases: Vec<StandbyDatabase>,
    connection: Option<Rc<Connection>>,
    /// stream - 1 -> index, as the active announced.
    streams: Vec<usize>,
    /// The run of the active's machine that the mirrors' published points are of; 0: not known.
    active_boot: u64,
    inputs: Inputs,
    acknowledge_received: bool,
    complete: Option<bool>,
    quarantine: Quarantine,
    trees: FollowedTrees,
    /// Ends the snapshots of all mirrors.
    stop: SnapshotStop,
}

struct StandbyDatabase {
    config: DatabaseConfig,
    opener: Opener,
    mirror: Home,
    /// The last alarm about it; a fault that stays is not told at every connection.
    alarm: Option<String>,
    /// What its files could not be given; told once.
    lacks: Vec<String>,
    /// Feeds the task.
    queue: Option<mpsc::UnboundedSender<Work>>,
    position: Position,
    durable: Position,
    complete: bool,
    level_since: Option<Instant>,
    copy: Option<CopyProgress>,
}

/// Where a mirror is.
enum Home {
    Here(Box<Mirror>),
    /// With its task, which sends it back when its queue is closed.
    Away(oneshot::Receiver<Option<Box<Mirror>>>),
    /// Not open: the disk failed, or it is not ours to open yet. Whoever needs it opens it anew.
    Closed,
}

/// What opening a mirror needs.
#[derive(Clone)]
struct Opener {
    backend: Backend,
    config: MirrorConfig,
}

impl Home {
    async fn bring(&mut self, opener: &Opener) -> Result<Box<Mirror>, MirrorError> {
        let mirror = match std::mem::replace(self, Self::Closed) {
            Self::Here(mirror) => Some(mirror),
            Self::Away(returns) => returns.await.ok().flatten(),
            Self::Closed => None,
        };
        match mirror {
            Some(mirror) => Ok(mirror),
            None => Mirror::open(opener.backend.clone(), opener.config.clone()).await.map(Box::new),
        }
    }
}

/// Where what is known of a database on this node is kept.
pub(super) fn mirror_dir(config: &EngineConfig, database: &DatabaseConfig) -> PathBuf {
    config.state_dir.join("mirror").join(database.name.as_str())
}

/// How this node mirrors a database.
pub(super) fn mirror_config(config: &EngineConfig, database: &DatabaseConfig) -> MirrorConfig {
    let state_dir = mirror_dir(config, database);
    MirrorConfig { page_hashes: database.page_hashes, ..MirrorConfig::new(&database.path, state_dir) }
}

/// Is every database a complete mirror by its state on disk? A damaged state says no here, and why when
/// the mirror is opened.
pub(super) async fn is_complete_on_disk(backend: &Backend, config: &EngineConfig) -> bool {
    for database in &config.databases {
        let mirror = mirror_config(config, database);
        if !Mirror::is_complete_on_disk(backend, &mirror).await.unwrap_or(false) {
            return false;
        }
    }
    true
}

/// A database of a node that becomes active.
pub(super) struct Own {
    /// It was a mirror until just now.
    pub(super) taken: Option<TakenOver>,
    /// Where this node took over, now or at an earlier start.
    pub(super) took_over: Option<WalPoint>,
}

impl From<TakenOver> for Own {
    fn from(taken: TakenOver) -> Self {
        Self { took_over: Some(taken.point), taken: Some(taken) }
    }
}

/// The databases of a node that becomes active by its own data: what is still a mirror by its state on
/// disk is opened first; what this node wrote itself may be in use by its application, and is left alone.
pub(super) async fn open_own(backend: &Backend, config: &EngineConfig) -> Result<Vec<Own>, String> {
    let each = config.databases.iter().map(|database| async {
        let mirror = mirror_config(config, database);
        if !Mirror::is_mirror_on_disk(backend, &mirror).await? {
            return Ok(Own { taken: None, took_over: Mirror::took_over_at(backend, &mirror).await? });
        }
        Mirror::open(backend.clone(), mirror).await?.take_over().await.map(Own::from)
    });
    all(each).await
}

/// What a copy is called before the operator.
fn kind_of(copy: &CopyProgress) -> &'static str {
    match copy {
        CopyProgress { rewind: true, .. } => "rewind to where the histories parted",
        CopyProgress { resync: true, .. } => "resync by pages",
        _ => "full copy",
    }
}

/// Does it for every database at once; each is brought to its end before the first error is answered.
async fn all<T>(
    each: impl Iterator<Item = impl Future<Output = Result<T, MirrorError>>>,
) -> Result<Vec<T>, String> {
    let results = futures_util::future::join_all(each).await;
    results.into_iter().collect::<Result<_, _>>().map_err(|error: MirrorError| error.to_string())
}

impl StandbyDatabase {
    fn take_home(&mut self, mirror: Box<Mirror>) {
        self.position = mirror.received();
        self.durable = mirror.point().position;
        self.complete = mirror.is_complete();
        self.mirror = Home::Here(mirror);
    }

    fn alarm(&mut self, inputs: &Inputs, sentence: String) {
        if self.alarm.as_ref() != Some(&sentence) {
            inputs.notice(true, sentence.clone());
            self.alarm = Some(sentence);
        }
    }
}

impl Standby {
    /// Opens a mirror of every database. One that cannot be opened now is an alarm, and is tried again with
    /// each connection and at a takeover.
    pub(super) async fn open(backend: &Backend, config: &EngineConfig, inputs: Inputs) -> Self {
        let mut databases = Vec::new();
        for database in &config.databases {
            let opener = Opener { backend: backend.clone(), config: mirror_config(config, database) };
            let mut opened = StandbyDatabase {
                config: database.clone(),
                opener,
                mirror: Home::Closed,
                alarm: None,
                lacks: Vec::new(),
                position: Position::default(),
                durable: Position::default(),
                complete: false,
                queue: None,
                level_since: None,
                copy: None,
            };
            match opened.mirror.bring(&opened.opener).await {
                Ok(mirror) => opened.take_home(mirror),
                Err(error) => opened.alarm(&inputs, error.to_string()),
            }
            databases.push(opened);
        }
        let trees = FollowedTrees::start(config, &inputs);
        let mut standby = Self {
            databases,
            connection: None,
            streams: Vec::new(),
            active_boot: 0,
            inputs,
            acknowledge_received: config.commit_mode == CommitMode::Received,
            complete: None,
            quarantine: Quarantine {
                pair: config.link.greeting.pair.clone(),
                state_dir: config.state_dir.clone(),
                limit_bytes: config.quarantine_max_bytes,
            },
            stop: SnapshotStop::default(),
            trees,
        };
        standby.judge_complete();
        standby
    }

    /// A connection stands; the active speaks first.
    pub(super) fn connected(&mut self, connection: Rc<Connection>) {
        self.connection = Some(connection);
    }

    /// The connection is gone: the tasks finish what they have and send the mirrors home.
    pub(super) fn disconnected(&mut self) {
        self.connection = None;
        self.trees.disconnected();
        self.streams.clear();
        for database in &mut self.databases {
            database.queue = None;
            database.copy = None;
        }
    }

    /// A message of the active.
    pub(super) fn message(&mut self, stream: u16, message: Message, credit: Credit) -> Result<(), String> {
        match message {
            Message::Databases(databases) => return self.announced(&databases),
            Message::Trees(trees) => return self.trees.announced(&trees, self.connection.as_ref()),
            Message::TreeOps(_) | Message::TreeListRequest(_) => return self.trees.message(stream, message),
            _ => {}
        }
        let index = self.streams.get(usize::from(stream).wrapping_sub(1)).copied();
        let Some(index) = index else {
            return Err(format!("{} on stream {stream}, which was never announced", message.name()));
        };
        if let Some(queue) = &self.databases[index].queue {
            // A closed queue: the task has failed and said so already.
            let _ = queue.send(Work::Message(message, credit));
        }
        Ok(())
    }

    /// The active names its databases: start a task for each and answer what is held.
    fn announced(&mut self, announced: &Databases) -> Result<(), String> {
        let names = &announced.names;
        let Some(connection) = self.connection.clone() else { return Ok(()) };
        if !self.streams.is_empty() {
            return Err("databases announced twice".into());
        }
        let find = |name: &String| {
            let index = self.databases.iter().position(|d| d.config.name.as_str() == name);
            index.ok_or_else(|| format!("the active sends database {name}, which this node's configuration lacks: configure the same databases on both nodes"))
        };
        let streams: Vec<usize> = names.iter().map(find).collect::<Result<_, _>>()?;
        let mut distinct = streams.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != self.databases.len() || streams.len() != distinct.len() {
            return Err(format!(
                "the active sends {} databases, this node's configuration has {}: configure the same databases on both nodes",
                names.len(),
                self.databases.len()
            ));
        }
        self.streams.clone_from(&streams);
        // A machine that lost its power may have lost published commits with it: what lies beyond the last one it
        // told of is no proof any more that it was never published.
        let same_boot = announced.boot != 0 && announced.boot == self.active_boot;
        self.active_boot = announced.boot;
        let mut states = Vec::new();
        for (at, index) in streams.iter().enumerate() {
            let attributes = announced.attributes.get(at).filter(|told| told.mode > 0).cloned();
            states.push(self.start_task(*index, at as u16 + 1, &connection, (attributes, same_boot)));
        }
        tokio::task::spawn_local(async move {
            let mut held = Vec::new();
            for state in states {
                match state.await {
                    Ok(state) => held.push(state),
                    Err(_) => return,
                }
            }
            connection.send_control(MirrorStates { states: held }.into());
        });
        Ok(())
    }

    /// Gives the mirror (once it is home) to a task; answers what it holds.
    fn start_task(
        &mut self,
        index: usize,
        stream: u16,
        connection: &Rc<Connection>,
        (attributes, same_boot): (Option<FileAttributes>, bool),
    ) -> oneshot::Receiver<MirrorState> {
        let (queue, work) = mpsc::unbounded_channel();
        let (returning, returns) = oneshot::channel();
        let (held, state) = oneshot::channel();
        let database = &mut self.databases[index];
        database.queue = Some(queue);
        let mut home = std::mem::replace(&mut database.mirror, Home::Away(returns));
        let applier = apply::Applier {
            index,
            name: database.config.name.clone(),
            sender: connection.stream(stream),
            inputs: self.inputs.clone(),
            acknowledge_received: self.acknowledge_received,
            quarantine: self.quarantine.clone(),
            stop: self.stop.clone(),
            epoch: connection.epoch(),
            attributes,
        };
        let opener = database.opener.clone();
        tokio::task::spawn_local(async move {
            let returned = match home.bring(&opener).await {
                Ok(mut mirror) => {
                    if !same_boot {
                        mirror.forget_published();
                    }
                    applier.begin(mirror, u32::from(stream), held, work).await
                }
                Err(error) => {
                    applier.cannot_open(&error);
                    None
                }
            };
            let _ = returning.send(returned);
        });
        state
    }

    /// A task says something; a sentence when the connection must end.
    pub(super) fn note(&mut self, index: usize, note: StandbyNote) -> Option<String> {
        let database = &mut self.databases[index];
        match note {
            StandbyNote::At { received, durable, complete } => {
                database.position = received;
                database.durable = durable;
                database.complete = complete;
                if received == durable {
                    database.level_since = Some(Instant::now());
                    database.alarm = None;
                }
            }
            StandbyNote::Copy(progress) => {
                let earlier = database.copy.take();
                let before = earlier.map(|copy| copy.started);
                database.copy = progress;
                if let (Some(copy), None) = (earlier, progress) {
                    let what = format!("the {}", kind_of(&copy));
                    let (name, pages, hashes) = (&database.config.name, copy.bytes_sent, copy.hash_bytes);
                    let sentence = format!(
                        "database {name}: {what} was sent, {pages} bytes of pages and {hashes} bytes of hashes"
                    );
                    self.inputs.notice(false, sentence);
                }
                if let Some(copy) = progress.filter(|copy| Some(copy.started) != before) {
                    let what = format!("a {}", kind_of(&copy));
                    let name = &database.config.name;
                    let sentence = format!("database {name}: {what} begins, {} pages", copy.pages_total);
                    self.inputs.notice(false, sentence);
                }
            }
            StandbyNote::Quarantined(directory) => {
                let name = database.config.name.clone();
                self.inputs.event(super::EngineEvent::Quarantined { database: name, directory });
            }
            StandbyNote::LacksAttributes(lacks) => {
                if database.lacks != lacks && !lacks.is_empty() {
                    let (name, lacks) = (&database.config.name, lacks.join(", "));
                    self.inputs.notice(false, format!("database {name}: its files on this standby could not be given the active's {lacks}: run Lockstep as root, or make them fit before the application opens them here"));
                }
                database.lacks = lacks;
            }
            StandbyNote::Failed(refusal) => {
                let sentence = refusal.sentence.clone();
                database.alarm(&self.inputs, sentence.clone());
                if let Some(connection) = &self.connection {
                    connection.send_control(refusal.into());
                }
                return Some(sentence);
            }
        }
        self.judge_complete();
        None
    }

    fn judge_complete(&mut self) {
        let complete = self.databases.iter().all(|d| d.complete);
        if self.complete != Some(complete) {
            self.complete = Some(complete);
            self.inputs.event(super::EngineEvent::CopyComplete(complete));
        }
    }

    /// Brings the mirrors home and sees whether every one may be opened with SQLite; changes nothing.
    ///
    /// # Errors
    /// One sentence on the first that may not. The mirrors stay mirrors.
    pub(super) async fn prepare_take_over(&mut self) -> Result<(), String> {
        self.disconnected();
        // A generation switch may be waiting for one to end, and its mirror comes home after that.
        self.stop_snapshots("the standby takes over");
        for database in &mut self.databases {
            let mirror = database.mirror.bring(&database.opener).await.map_err(|error| error.to_string())?;
            database.take_home(mirror);
        }
        for database in &self.databases {
            if let Home::Here(mirror) = &database.mirror
                && !mirror.never_held_anything()
            {
                mirror.may_be_opened().map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn stop_snapshots(&mut self, why: &'static str) {
        std::mem::take(&mut self.stop).stop(why);
    }

    /// Opens every mirror with SQLite, all at once, after [`Self::prepare_take_over`]. When one fails nevertheless
    /// (its disk), this role is over: opened anew, the others are still whole.
    pub(super) async fn take_over(mut self) -> Result<Vec<Own>, String> {
        self.trees.stop(true).await;
        let each = self.databases.into_iter().map(|mut database| async move {
            let mirror = database.mirror.bring(&database.opener).await?;
            if mirror.never_held_anything() {
                // The active never had this database, so nothing was acknowledged of it.
                return mirror.close().await.map(|()| Own { taken: None, took_over: None });
            }
            mirror.take_over().await.map(Own::from)
        });
        all(each).await
    }

    /// Ends the role: the mirrors are closed and keep their state on disk.
    pub(super) async fn close(&mut self) {
        self.disconnected();
        self.trees.stop(false).await;
        self.stop_snapshots("this node ceases to mirror");
        for database in &mut self.databases {
            let mirror = match std::mem::replace(&mut database.mirror, Home::Closed) {
                Home::Here(mirror) => Some(mirror),
                Home::Away(returns) => returns.await.ok().flatten(),
                Home::Closed => None,
            };
            if let Some(mirror) = mirror
                && let Err(error) = mirror.close().await
            {
                self.inputs.notice(true, error.to_string());
            }
        }
    }

    /// Writes a sound copy of the last durable commit to `destination`.
    pub(super) fn snapshot(
        &mut self,
        name: &str,
        destination: PathBuf,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let Some(database) = self.databases.iter().find(|d| d.config.name.as_str() == name) else {
            let _ = reply.send(Err(format!("database {name} is not configured in this pair")));
            return;
        };
        match (&database.queue, &database.mirror) {
            (Some(queue), _) => {
                // A closed queue drops the reply, and the caller is told that the task ended.
                let _ = queue.send(Work::Snapshot(destination, reply));
            }
            (None, Home::Here(mirror)) => {
                apply::start_snapshot(mirror, &destination, reply, &self.stop);
            }
            (None, Home::Away(_)) => {
                let _ = reply.send(Err("the mirror is busy with its last frames: try again".into()));
            }
            (None, Home::Closed) => {
                let why = database.alarm.clone().unwrap_or_else(|| "its disk failed".into());
                let _ = reply.send(Err(format!("the mirror of {name} is not open: {why}")));
            }
        }
    }

    /// For the status, the file trees.
    pub(super) fn tree_statuses(&self) -> Vec<crate::files::ship::TreeStatus> {
        self.trees.statuses()
    }

    /// For the status.
    pub(super) fn statuses(&self) -> Vec<DatabaseStatus> {
        let status = |d: &StandbyDatabase| DatabaseStatus {
            name: d.config.name.clone(),
            state: if d.copy.is_some() { DatabaseState::Copying } else { DatabaseState::Mirror },
            position: d.position,
            durable: d.durable,
            level_since: d.level_since,
            wal_bytes: std::fs::metadata(wal_path(&d.config.path)).map_or(0, |m| m.len()),
            commits: 0,
            unwaited_commits: 0,
            waiting: 0,
            copy: d.copy,
            equality: EqualityStatus::default(),
        };
        self.databases.iter().map(status).collect()
    }
}

fn wal_path(database: &std::path::Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

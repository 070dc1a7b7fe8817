//! One pair's data thread: what the agent commands, what it is told, and the sessions between.
//!
//! Sits between the agent (which decides roles) and capture, link and mirror (which move bytes).
//! [`Engine`] is the agent's handle; everything else runs on one thread per pair. The engine
//! knows its epoch and whether it is active or standby, never why.

mod active;
mod apply;
mod barrier;
mod board;
mod boot;
mod connection;
mod copying;
mod folding;
mod followed;
mod hashing;
mod scrub;
mod served;
mod sharing;
mod ship;
#[cfg(test)]
mod spoilt;
mod standby;
mod standing;
mod starting;
mod status;
mod sums;
mod thread;
mod trees;
mod whole;

pub use barrier::{Acknowledged, CommitMode, Progress};
pub use scrub::{SCRUB_BYTES_PER_S, Verified};
pub use status::{CopyProgress, DatabaseState, DatabaseStatus, EngineStatus, EqualityStatus};
pub use thread::Engine;
pub use trees::STUCK_PATIENCE;

use crate::files::ship::{TreeConfig, TreeVerified, VerifyHow};
use crate::link::{HeartbeatKeys, Identity, LinkConfig, Path};
use crate::storage::BackendChoice;
use lockstep_wire::{DatabaseName, Epoch, TreeName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// In the notice that the standby had commits of its own which the active lacks.
pub const IN_ITS_QUARANTINE: &str = "they go to the standby's quarantine";

/// What the data thread of one pair needs to know.
#[derive(Clone)]
pub struct EngineConfig {
    /// The databases, in the order of the configuration; both nodes name the same ones.
    pub databases: Vec<DatabaseConfig>,
    /// The file trees, in the order of the configuration; both nodes name the same ones.
    pub trees: Vec<TreeConfig>,
    /// `<state>/<pair>`: mirror.state, quarantine.
    pub state_dir: PathBuf,
    /// How much quarantine may hold, bytes; a resync that would need more waits for the operator.
    pub quarantine_max_bytes: u64,
    /// This node's certificate and key.
    pub identity: Arc<Identity>,
    /// The data connection.
    pub link: LinkConfig,
    /// The mode the standby acknowledges for: with `received` it also reports what is not yet on disk.
    pub commit_mode: CommitMode,
    /// Where programs on this node learn which of their commits are safe; None: they are not told.
    pub boards: Option<BoardConfig>,
    /// Which disk backend to try.
    pub storage: BackendChoice,
    /// May commits be released now? Asked before each release: the VIP lease must not have ended.
    pub may_release: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Where commit boards are.
#[derive(Debug, Clone)]
pub struct BoardConfig {
    /// The directory with the agent's socket; boards are in a directory below it named after the pair.
    pub runtime_dir: PathBuf,
    /// Whose members may look and poke; None: this process's own group.
    pub group: Option<u32>,
    /// Programs wait before anybody can read a commit, not after.
    pub strict: bool,
    /// After so long without a standby no program may begin to write: its commit would wait without an end.
    /// None: commits are acknowledged alone at some time, so that waiting is better.
    pub refuse_alone_after: Option<Duration>,
}

/// One replicated database on this node.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Its name, the same on both nodes.
    pub name: DatabaseName,
    /// Its file on this node.
    pub path: PathBuf,
    /// Hand over to a checkpoint when the WAL has grown by this many frames.
    pub checkpoint_frames: u32,
    /// How large the WAL may grow while the standby takes nothing.
    pub wal_retain_max_bytes: u64,
    /// How fast pages are compared with the standby's disk in the background; 0: only on demand.
    pub scrub_bytes_per_s: u64,
    /// Remember page hashes: they make a resync short, and their sums are compared all the time.
    pub page_hashes: bool,
}

/// What the agent asks for. Role changes are executed in order and answered when done.
pub enum Command {
    /// Serve: follow the local databases and ship them.
    BecomeActive {
        /// The epoch to stamp on every frame.
        epoch: Epoch,
        /// Answered when captures run (a database that does not exist yet is waited for meanwhile).
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Mirror: open the mirrors and take what an active of at least this epoch sends.
    BecomeStandby {
        /// The highest epoch known.
        epoch: Epoch,
        /// Answered when the mirrors are open.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// From standby to active: refuse frames of older epochs, open the mirrors with SQLite, serve.
    Promote {
        /// The epoch to stamp from now on.
        epoch: Epoch,
        /// Answered when the databases may be opened by the application.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Commits are acknowledged alone from now on: the caller has recorded it durably.
    AllowSolo(Epoch),
    /// Commits wait for the standby (again). Answered once everything acknowledged so far is durable there;
    /// the reply is dropped when there is no standby or its connection ends first.
    HoldCommits(oneshot::Sender<()>),
    /// The application has stopped: answered once every commit is durable on the standby; dropped as above.
    Drain(oneshot::Sender<()>),
    /// A commit has returned: answer when it is safe. Dropping the reply's receiver gives up.
    Wait {
        /// The database.
        database: DatabaseName,
        /// How safe.
        mode: CommitMode,
        /// The answer, or one sentence why there will be none.
        reply: oneshot::Sender<Result<Acknowledged, String>>,
    },
    /// Neither serve nor mirror; answered when nothing is open any more.
    BecomeIdle(oneshot::Sender<()>),
    /// Write a sound copy of a database, as of now, to a new file.
    Snapshot {
        /// The database.
        database: DatabaseName,
        /// The file to make; must not exist.
        destination: PathBuf,
        /// Done, or one sentence why not.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Somebody changed the quarantine on disk: count it anew.
    CountQuarantine,
    /// Active: compare every page with what the standby's disk holds, at full speed; what differs is put right.
    Verify {
        /// The database.
        database: DatabaseName,
        /// What came of it, or one sentence why there will be no answer. Waits for a standby that is away.
        reply: oneshot::Sender<Result<Verified, String>>,
    },
    /// Active: compare a file tree with what the standby's disk holds.
    VerifyTree {
        /// The tree.
        tree: TreeName,
        /// How.
        how: VerifyHow,
        /// What came of it, or one sentence why it could not be compared.
        reply: oneshot::Sender<Result<TreeVerified, String>>,
    },
    /// Let go of everything and end the thread.
    Stop(oneshot::Sender<()>),
}

/// What the agent is told, in order.
#[derive(Debug, Clone)]
pub enum EngineEvent {
    /// A connection stands; heartbeats use these keys from now on.
    Connected {
        /// Keys derived from the session.
        keys: HeartbeatKeys,
        /// Which way it runs.
        path: Path,
        /// Name of the peer, for people.
        peer: String,
    },
    /// The connection is gone.
    Disconnected {
        /// One sentence why.
        reason: String,
    },
    /// Active: the standby holds (or may no longer hold) everything acknowledged.
    InSync(bool),
    /// Standby: every mirror is a sound database (true), or a copy or resync has begun (false).
    CopyComplete(bool),
    /// The peer speaks with a higher epoch: this node must demote.
    HigherEpoch(Epoch),
    /// Diverged data was kept before it was changed.
    Quarantined {
        /// The database.
        database: DatabaseName,
        /// Where it is.
        directory: PathBuf,
    },
    /// Something the operator should know; one sentence.
    Notice {
        /// True: an alarm, false: information.
        alarm: bool,
        /// The sentence.
        sentence: String,
    },
}

//! Active node: follow a WAL database with rolling read marks and publish what is committed.
//!
//! First station of the data path: database -> capture -> link. One thread per database does
//! everything that may lock or checkpoint. It publishes only frames the wal-index calls committed,
//! in order and without gaps, or says that it cannot ([`CaptureEvent::LetGo`]). It knows nothing of
//! epochs, roles, connections or acknowledgements; that is `pair`'s.
//!
//! The process must not open the database, its `-wal` or `-shm` anywhere else: closing any
//! descriptor of them drops SQLite's locks.

mod admission;
mod attach;
mod checkpointer;
mod cursor;
mod error;
mod files;
mod follow;
mod hand_over;
mod marks;
mod outbox;
mod pages;
mod prepare;
mod prepared;
mod scrub;
mod status;
mod take;
mod thread;
mod wakeup;
mod worker;

pub use admission::{DatabaseHeader, Opener, Openers, examine, openers};
pub use error::CaptureError;
pub use scrub::READ_PAGES_MAX;
pub use status::{CaptureStatus, sqlite_warning};

use crate::wal::WalPoint;
use bytes::Bytes;
use lockstep_barrier::PokeReceiver;
use lockstep_wire::{Chain, FrameNo, Position, Salts, WalGeneration};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc::Sender;
use wakeup::Signal;

/// Commands that may wait. A session has a handful on the way; more is a mistake of its own.
pub const COMMANDS_MAX: usize = 64;

/// What to follow and how.
#[derive(Debug, Clone)]
pub struct CaptureConfig {
    /// The database file.
    pub path: PathBuf,
    /// Hand over to a checkpoint when the WAL has grown by this many frames.
    pub checkpoint_frames: u32,
    /// Let the read mark go when the WAL is larger than this while nobody takes frames.
    pub wal_retain_max_bytes: u64,
    /// The timer beneath the inotify hint, milliseconds.
    pub poll_ms: u32,
    /// The generation to continue at when the WAL is the one of this point (a promoted mirror or a restarted agent).
    pub continues: Option<WalPoint>,
    /// Where programs tell of commit frames they have written; each wakes the thread before the commit is published,
    /// and its frames are shipped at once, as prepared.
    pub pokes: Option<Arc<PokeReceiver>>,
}

/// What the capture thread publishes, in order, on a bounded channel: back-pressure holds the read mark.
#[derive(Debug, Clone)]
pub enum CaptureEvent {
    /// A generation begins with its first published frame. `previous` is where the one before ended
    /// (None: after an attach that starts from nothing).
    Generation {
        /// Our count.
        generation: WalGeneration,
        /// The WAL header as on disk.
        wal_header: Bytes,
        /// Last point of the generation before.
        previous: Option<WalPoint>,
    },
    /// Consecutive frames: published ones, or a run through a commit that a program is about to publish (prepared).
    Frames {
        /// Their generation.
        generation: WalGeneration,
        /// First frame in `data`.
        first: FrameNo,
        /// Last frame in `data`.
        last: FrameNo,
        /// Running checksum before the first.
        chain_before: Chain,
        /// Running checksum after the last.
        chain_after: Chain,
        /// Frames through this one are committed; beyond it they are prepared, and [`CaptureEvent::Published`] or
        /// [`CaptureEvent::Rewind`] follows.
        published: FrameNo,
        /// Frame headers and pages, as on disk; at most 256 KiB.
        data: Bytes,
        /// Salts of their WAL.
        salts: Salts,
        /// Commit frames among them, each with the running checksum after it; as many at most as `data` has frames.
        commits: Vec<(FrameNo, Chain)>,
    },
    /// Prepared frames came true: everything through this position is committed.
    Published(Position),
    /// Frames sent after this point were never published: the standby must forget them before the next event.
    Rewind(WalPoint),
    /// Pages asked for by [`CaptureCommand::ReadPages`] or [`CaptureCommand::DifferingPages`].
    Pages {
        /// First page, from 1.
        first_page: u32,
        /// Whole pages; at most 256 KiB.
        data: Bytes,
    },
    /// Behind the last page of one [`CaptureCommand::ReadPages`] or [`CaptureCommand::DifferingPages`], also when
    /// none had to be sent.
    PagesDone,
    /// The answer to [`CaptureCommand::EndOfCopy`]: every page event before it is covered by frames up to this position.
    EndOfCopy {
        /// The position.
        position: Position,
        /// Size of the database file in pages.
        page_count: u32,
    },
    /// The answer to [`CaptureCommand::ReadAt`], behind every frame up to its position.
    PagesAt {
        /// Where in this stream the pages are as they were read; None: that cannot be told, ask again.
        at: Option<Position>,
        /// The pages.
        pages: PagesAt,
    },
    /// The read mark was let go (WAL too large): the standby needs a resync.
    LetGo,
    /// Capture cannot go on (database gone, left WAL mode, I/O error); one sentence with the remedy.
    Failed(String),
}

/// What the pair session asks of the capture thread; executed in order.
#[derive(Debug)]
pub enum CaptureCommand {
    /// Start publishing after this point if the WAL provably contains it, else from the start of the present WAL.
    Attach {
        /// What the standby holds, if anything.
        from: Option<WalPoint>,
        /// The last point of it that an active of this run of the machine has called published: what lies beyond and
        /// is not in the WAL was never published.
        published: Option<WalPoint>,
        /// How it went.
        reply: tokio::sync::oneshot::Sender<Attached>,
    },
    /// Where did the WAL of a node that served before us and these commits part?
    Fork {
        /// Its last commit.
        of: WalPoint,
        /// None: it did not part from here, or that is not known.
        reply: tokio::sync::oneshot::Sender<Option<Fork>>,
    },
    /// Stop publishing; keep the mark at the last published point (within `wal_retain_max_bytes`).
    Detach,
    /// Read the wal-index anew and answer the position that covers every commit that has returned.
    Sync(tokio::sync::oneshot::Sender<Position>),
    /// Emit these pages of the database file as [`CaptureEvent::Pages`].
    ReadPages {
        /// First page, from 1.
        first_page: u32,
        /// How many; cut at the end of the file.
        page_count: u32,
    },
    /// Emit those of these pages whose xxh3-64 differs from the given hash, and pages beyond the given ones within `page_count`.
    DifferingPages {
        /// First page, from 1.
        first_page: u32,
        /// How many pages to look at.
        page_count: u32,
        /// The standby's hashes, from `first_page` on.
        hashes: Vec<u64>,
    },
    /// Emit [`CaptureEvent::EndOfCopy`].
    EndOfCopy,
    /// Read pages through SQLite in a transaction of their own and emit [`CaptureEvent::PagesAt`]. One at a
    /// time: a second one replaces the first if that has not begun.
    ReadAt(ReadAt),
}

/// Pages to read through SQLite, at most [`READ_PAGES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAt {
    /// Hashes of neighbouring pages, cut at the end of the database.
    Hashes {
        /// First page, from 1.
        first_page: u32,
        /// How many.
        page_count: u32,
    },
    /// Contents.
    Contents {
        /// Their numbers, ascending; those beyond the end of the database are left out.
        pages: Vec<u32>,
    },
}

/// Pages as SQLite read them in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PagesAt {
    /// Page size in bytes.
    pub page_size: u32,
    /// Size of the database in pages.
    pub page_count: u32,
    /// First of the pages in `hashes`.
    pub first_page: u32,
    /// xxh3-64 of each page; 0 for the lock page.
    pub hashes: Vec<u64>,
    /// Number and content.
    pub contents: Vec<(u32, Bytes)>,
}

/// Where two histories parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// Where this node took over; the other node's WAL, which has the same salts, held it.
    pub point: WalPoint,
    /// The WAL as it stands still holds it: frames can follow from there.
    pub in_wal: bool,
}

/// How an attach went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// Frames after the given point follow, or a [`CaptureEvent::Rewind`] to the published one and frames after that.
    Resumed {
        /// What of the standby's frames counts.
        held: Position,
        /// What of them is known to be published; the rest is in doubt.
        published: Position,
    },
    /// The point is not provably in this WAL: a `Generation { previous: None }` and the whole WAL follow, pages must be sent.
    FromStart {
        /// Page size in bytes.
        page_size: u32,
        /// Size of the database file in pages.
        page_count: u32,
        /// The given point is of the WAL as it stands, and not in its committed part: the standby holds
        /// commits that this node lost (power loss without `synchronous=FULL`).
        ahead: bool,
    },
}

/// Between the thread and its handle.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    status: Mutex<CaptureStatus>,
}

/// A database that is followed. Dropping it stops the thread.
///
/// To attach anew: `Detach`, wait for the answer to a `Sync`, empty the channel, `Attach`; then no
/// event of the earlier attachment is left.
#[derive(Debug)]
pub struct Capture {
    commands: SyncSender<CaptureCommand>,
    signal: Arc<Signal>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Opens the database and starts the thread; waits until both are done or refused (at most a few
    /// seconds, when the database is locked). Nothing is published before an `Attach`.
    ///
    /// # Errors
    /// Every reason why the database cannot be followed, with its remedy.
    pub fn start(config: CaptureConfig, events: Sender<CaptureEvent>) -> Result<Self, CaptureError> {
        let io = |what, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| CaptureError::Io { what, path, source }
        };
        let signal = Arc::new(Signal::new().map_err(io("make a wake-up for", &config.path))?);
        let shared = Arc::new(Shared::default());
        let (commands, received) = sync_channel(COMMANDS_MAX);
        let (opened, open) = sync_channel(1);
        let start_failed = io("start a thread for", &config.path);
        let start = thread::Start {
            config,
            events,
            commands: received,
            signal: Arc::clone(&signal),
            shared: Arc::clone(&shared),
            opened,
        };
        let thread = std::thread::Builder::new()
            .name("lockstep-sqlite".to_owned())
            .spawn(move || thread::run(start))
            .map_err(start_failed)?;
        let capture = Self { commands, signal, shared, thread: Some(thread) };
        open.recv().unwrap_or(Err(CaptureError::Stopped))?;
        Ok(capture)
    }

    /// Hands a command to the thread; does not wait.
    ///
    /// # Errors
    /// The thread has ended, or [`COMMANDS_MAX`] commands are waiting.
    pub fn command(&self, command: CaptureCommand) -> Result<(), CaptureError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => CaptureError::Busy(COMMANDS_MAX),
            TrySendError::Disconnected(_) => CaptureError::Stopped,
        })?;
        self.signal.raise();
        Ok(())
    }

    /// What the thread last reported.
    pub fn status(&self) -> CaptureStatus {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread and its connections. No checkpoint is made and the WAL stays as it is, byte for byte.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.signal.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the capture thread panicked");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.join();
    }
}

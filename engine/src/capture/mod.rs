//! Active node: follow a WAL database with rolling read marks and publish what is committed.

use crate::wal::WalPoint;
use bytes::Bytes;
use lockstep_wire::{Chain, FrameNo, Position, WalGeneration};
use std::path::PathBuf;

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
    /// Consecutive published frames.
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
        /// Frames through this one are committed.
        published: FrameNo,
        /// Frame headers and pages, as on disk; at most 1 MiB.
        data: Bytes,
        /// Commit frames among them.
        commits: u32,
    },
    /// Pages asked for by [`CaptureCommand::ReadPages`] or [`CaptureCommand::DifferingPages`].
    Pages {
        /// First page, from 1.
        first_page: u32,
        /// Whole pages; at most 256 KiB.
        data: Bytes,
    },
    /// The answer to [`CaptureCommand::EndOfCopy`]: every page event before it is covered by frames up to this position.
    EndOfCopy {
        /// The position.
        position: Position,
        /// Size of the database file in pages.
        page_count: u32,
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
        /// How it went.
        reply: tokio::sync::oneshot::Sender<Attached>,
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
}

/// How an attach went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attached {
    /// Frames after the given point follow.
    Resumed,
    /// The point is not provably in this WAL: a `Generation { previous: None }` and the whole WAL follow, pages must be sent.
    FromStart {
        /// Page size in bytes.
        page_size: u32,
        /// Size of the database file in pages.
        page_count: u32,
    },
}

//! What the data thread shows of itself, read at any time by status and metrics.

use crate::files::ship::TreeStatus;
use crate::link::LinkSnapshot;
use lockstep_wire::{DatabaseName, Epoch, Position};
use std::time::Instant;

/// A snapshot of one pair's data thread.
#[derive(Debug, Clone, Default)]
pub struct EngineStatus {
    /// The epoch in use.
    pub epoch: Epoch,
    /// This node ships.
    pub active: bool,
    /// Active: the standby holds everything acknowledged.
    pub in_sync: bool,
    /// Which disk backend runs, and why.
    pub io_backend: String,
    /// The data connection.
    pub link: Option<LinkSnapshot>,
    /// Databases in quarantine.
    pub quarantined: u32,
    /// One entry per database, in the order of the configuration.
    pub databases: Vec<DatabaseStatus>,
    /// Active: one entry per file tree, in the order of the configuration.
    pub trees: Vec<TreeStatus>,
    /// Active: why commits wait for a tree, in a sentence; `None`: they do not.
    pub held_by_tree: Option<String>,
}

/// One database.
#[derive(Debug, Clone)]
pub struct DatabaseStatus {
    /// Its name.
    pub name: DatabaseName,
    /// What happens with it.
    pub state: DatabaseState,
    /// Active: last published; standby: last received.
    pub position: Position,
    /// Last position on the standby's disk.
    pub durable: Position,
    /// When `durable` last equalled `position` (for the lag in time).
    pub level_since: Option<Instant>,
    /// Size of the WAL file in bytes.
    pub wal_bytes: u64,
    /// Commits seen since this node became active.
    pub commits: u64,
    /// Of those, commits after the newest one somebody waited for.
    pub unwaited_commits: u64,
    /// How many wait now.
    pub waiting: u32,
    /// A copy or resync under way.
    pub copy: Option<CopyProgress>,
    /// Active: what of it is proven to be on the standby's disk.
    pub equality: EqualityStatus,
}

/// How far the comparison with the standby's disk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EqualityStatus {
    /// When the last pass over all pages ended; None: none since this node became active.
    pub verified_at: Option<Instant>,
    /// Pages of the present pass that were compared.
    pub pages_done: u32,
    /// Pages in all; 0: not known yet.
    pub pages_total: u32,
    /// When the sums over all pages of both nodes were last compared and equal.
    pub sums_equal_at: Option<Instant>,
    /// Pages that differed since this node became active.
    pub mismatched_pages: u64,
    /// Of them, those that are equal again.
    pub repaired_pages: u64,
}

/// What happens with a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseState {
    /// Nothing yet.
    Idle,
    /// The file does not exist yet.
    Absent,
    /// Cannot be replicated: one sentence with the remedy.
    Refused(String),
    /// Active, no standby attached.
    Alone,
    /// Pages are being copied or compared.
    Copying,
    /// Frames flow.
    Streaming,
    /// Standby, waiting for the active.
    Mirror,
}

/// How far a copy or resync is.
#[derive(Debug, Clone, Copy)]
pub struct CopyProgress {
    /// Only differing pages are sent.
    pub resync: bool,
    /// Only pages that were written after the point where two histories parted are compared.
    pub rewind: bool,
    /// Page size in bytes.
    pub page_size: u32,
    /// Pages looked at.
    pub pages_done: u32,
    /// Pages in all.
    pub pages_total: u32,
    /// Bytes of pages sent.
    pub bytes_sent: u64,
    /// Bytes of page hashes sent.
    pub hash_bytes: u64,
    /// When it began.
    pub started: Instant,
}

impl CopyProgress {
    /// Pages per second since it began.
    pub fn pages_per_s(&self) -> f64 {
        f64::from(self.pages_done) / self.started.elapsed().as_secs_f64().max(0.001)
    }

    /// Seconds until the end at that rate; None before the first page.
    pub fn remaining_s(&self) -> Option<f64> {
        let rate = self.pages_per_s();
        (rate > 0.0).then(|| f64::from(self.pages_total.saturating_sub(self.pages_done)) / rate)
    }
}

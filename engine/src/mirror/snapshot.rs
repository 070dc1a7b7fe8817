//! A sound copy of the database at the last durable commit, for looking at while mirroring goes on.
//!
//! Reads our own descriptors, database file below and WAL pages above, so no SQLite connection
//! touches the mirror. Appends and flushes go on beside it; a generation switch, a rewind or a copy
//! waits until the snapshot is done. The result is no WAL database, so that any tool opens it read-only.

use super::{FORMAT_BYTES_OFFSET, Mirror, MirrorError};
use crate::{
    durable::{self, LatestPages},
    storage::{Backend, DiskFile, Storage},
};
use lockstep_wire::{FrameNo, Position};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A snapshot that has not run yet; owns all it needs.
pub struct SnapshotTicket {
    disk: Backend,
    database: DiskFile,
    wal: DiskFile,
    latest: LatestPages,
    target: PathBuf,
    position: Position,
    _unchanging: tokio::sync::OwnedRwLockReadGuard<()>,
}

/// Ends snapshots before they are finished: others need what these hold unchanged. Clones are one switch.
#[derive(Debug, Clone, Default)]
pub struct SnapshotStop(Arc<OnceLock<&'static str>>);

impl SnapshotStop {
    /// Ends those that run and those that are begun later with this switch. `why` begins the sentence for whoever
    /// asked for the snapshot.
    pub fn stop(&self, why: &'static str) {
        let _ = self.0.set(why);
    }
}

/// A finished snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit it shows.
    pub position: Position,
    /// Its size in pages.
    pub page_count: u32,
}

impl Mirror {
    /// Prepares a snapshot of the last durable commit into the new file `target`.
    ///
    /// # Errors
    /// [`MirrorError::Incomplete`] while a copy runs; `protocol` while the database is empty.
    pub fn start_snapshot(&self, target: &Path) -> Result<SnapshotTicket, MirrorError> {
        if !self.can_be_opened() {
            return Err(MirrorError::Incomplete(self.config.database.clone()));
        }
        let page_bytes = self.state.page_size as usize;
        let plain = LatestPages { pages: Vec::new(), page_bytes, page_count: self.page_count };
        let guard = Arc::clone(&self.pages_lock).try_read_owned();
        Ok(SnapshotTicket {
            disk: self.disk.clone(),
            database: self.database.clone(),
            wal: self.wal.clone(),
            latest: self.latest_pages(FrameNo(0), self.durable).unwrap_or(plain),
            target: target.to_owned(),
            position: self.position(self.durable),
            _unchanging: guard.expect("changes hold the mirror mutably to their end"),
        })
    }
}

impl SnapshotTicket {
    /// Writes the snapshot; it appears under its name when it is whole and durable.
    ///
    /// # Errors
    /// [`MirrorError::Exists`]; [`MirrorError::Stopped`], nothing of it is left then; `disk`.
    pub async fn run(self, stop: &SnapshotStop) -> Result<Snapshot, MirrorError> {
        const NO_WAL: [u8; 2] = [1, 1];
        if self.disk.identity(&self.target).await?.is_some() {
            return Err(MirrorError::Exists(self.target));
        }
        let page_count = self.latest.page_count;
        let target = durable::CopyTarget { path: &self.target, patch: (FORMAT_BYTES_OFFSET, &NO_WAL) };
        let stopped = || stop.0.get().is_some();
        let sources = (&self.database, &self.wal);
        if !durable::write_copy_durably(&self.disk, sources, &self.latest, target, &stopped).await? {
            return Err(MirrorError::Stopped(stop.0.get().expect("it stopped the copy")));
        }
        Ok(Snapshot { position: self.position, page_count })
    }
}

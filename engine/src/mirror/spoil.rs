//! Tests only: a bit of a page flips in this node's memory, after the frame was checked and before it is written.
//!
//! No checksum of the link or the WAL sees that; the sums over all pages must.

use lockstep_wire::WalBatch;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The mirror whose next batch is spoilt.
static NEXT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Spoils the next batch that the mirror of this database takes.
pub(crate) fn next_batch_of(database: &Path) {
    *NEXT.lock().unwrap_or_else(PoisonError::into_inner) = Some(database.to_owned());
}

/// The batch has been spoilt.
pub(crate) fn is_done() -> bool {
    NEXT.lock().unwrap_or_else(PoisonError::into_inner).is_none()
}

/// What memory holds of a batch that was checked.
pub(super) fn in_memory(batch: WalBatch, database: &Path) -> WalBatch {
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    if next.as_deref() != Some(database) {
        return batch;
    }
    *next = None;
    let mut data = batch.data.to_vec();
    if let Some(last) = data.last_mut() {
        *last ^= 16;
    }
    WalBatch { data: data.into(), ..batch }
}

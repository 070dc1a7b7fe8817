//! Remembered page hashes of a database and their sum, which both nodes compare at a position.
//!
//! `sums` is pure: how commits, truncations and readings change hashes and sum. `file` keeps the hashes
//! in a mapped file of our own beside the mirror's state. Both nodes have one: the standby from the
//! frames it received, the active from those it sent. It is a cache: whatever does not fit leads to
//! building it anew, never to a refusal. What the disk really holds is the scrub's to say.

mod file;
mod sums;

pub use file::{PageFile, PageFileError, Stamp};
pub use sums::{Slots, Sums};

use crate::wal::WalPoint;
use lockstep_wire::Salts;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages read at once while the hashes are built.
pub const BUILD_PAGES: u32 = 256;

/// How fast a database is read to build its hashes: 2 GiB in half a minute, beside commits on a slow disk.
pub const BUILD_BYTES_PER_S: u64 = 64 << 20;

/// Before a range is read again whose position could not be told.
pub const BUILD_RETRY: Duration = Duration::from_millis(20);

/// The page hashes of one database on this node, with their file.
#[derive(Debug)]
pub struct PageHashCache {
    sums: Sums<PageFile>,
}

impl PageHashCache {
    /// The file in a database's state directory.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("pages.hash")
    }

    /// Opens the file, or makes it. What it holds counts if it was closed cleanly at this page size; the caller
    /// says with [`Sums::resume`] where the database stands.
    ///
    /// # Errors
    /// The path and what the system said; go on without.
    pub fn open(path: &Path, page_size: u32) -> Result<Self, PageFileError> {
        let (file, stamp) = PageFile::open(path, page_size)?;
        Ok(Self { sums: Sums::new(file, page_size, stamp) })
    }

    /// Closes the file with its stamp, if the hashes are complete.
    ///
    /// # Errors
    /// The path and what the system said; the file then counts as not closed.
    pub fn close(self) -> Result<(), PageFileError> {
        let (file, stamp) = self.sums.into_parts();
        match stamp {
            Some(stamp) => file.close(&stamp),
            None => Ok(()),
        }
    }

    /// How long to wait after reading `pages` pages.
    pub fn pause(&self, pages: usize) -> Duration {
        let bytes = pages as u64 * u64::from(self.sums.page_size());
        Duration::from_secs_f64(bytes as f64 / BUILD_BYTES_PER_S as f64)
    }
}

impl std::ops::Deref for PageHashCache {
    type Target = Sums<PageFile>;

    fn deref(&self) -> &Self::Target {
        &self.sums
    }
}

impl std::ops::DerefMut for PageHashCache {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.sums
    }
}

/// Equal but for the number of the generation, which each node may have counted differently.
fn same_place(one: &WalPoint, other: &WalPoint) -> bool {
    // Without a WAL only the number tells one state from another.
    let named = one.salts != Salts::default() || one.position == other.position;
    named && (one.position.frame, one.chain, one.salts) == (other.position.frame, other.chain, other.salts)
}

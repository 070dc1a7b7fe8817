//! Disk access of the data path behind one trait: io_uring, blocking and simulated twins.
//!
//! Everything the mirror does to a disk passes through here, so that one suite of tests runs on all
//! three and a simulated disk can lose, reorder and tear what was not synced. *When* to sync or
//! rename is decided in [`crate::durable`] only. Nothing here crosses threads: one data thread owns
//! its files.

mod attributes;
mod backend;
mod blocking;
mod brisk;
mod error;
mod posix;
mod run;
mod simulated;
#[cfg(test)]
mod tests;
mod uring;

pub use attributes::{ACL_MAX_BYTES, Applied, LABEL_MAX_BYTES, attributes_of, check_attributes};
pub use backend::{Backend, DiskFile};
pub use blocking::{BlockingDisk, BlockingFile};
pub use error::StorageError;
pub(crate) use posix::read_full;
pub use run::{BackendChoice, BackendReport, run};
pub use simulated::{SimulatedDisk, SimulatedFile, SwallowedSync, Unsynced};
pub use uring::{UringDisk, UringFile};

use bytes::Bytes;
use lockstep_wire::FileAttributes;
use std::path::Path;

/// How to open a file; it is always opened for reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// Make the file if there is none; nobody but this process's user may then use it.
    pub create: bool,
}

/// Names a file independently of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// A disk. Operations on names; a name change is on disk only after [`Storage::sync_dir`].
#[allow(async_fn_in_trait, reason = "one data thread owns its files: no future is sent")]
pub trait Storage: Clone {
    /// An open file of this disk.
    type File: StorageFile;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn open(&self, path: &Path, how: Open) -> Result<Self::File, StorageError>;

    /// Renames within one directory, replacing what is there.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError>;

    /// Removes a file; false when there was none.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn remove(&self, path: &Path) -> Result<bool, StorageError>;

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn create_dir_all(&self, path: &Path) -> Result<(), StorageError>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn sync_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// The file names in a directory, sorted; empty when there is no such directory.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn list(&self, path: &Path) -> Result<Vec<String>, StorageError>;

    /// Which file the path names now; `None` when there is none.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn identity(&self, path: &Path) -> Result<Option<FileIdentity>, StorageError>;

    /// Copies a file, sharing its blocks where the file system can; not yet durable. True: blocks are shared.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn copy_file(&self, from: &Path, to: &Path) -> Result<bool, StorageError>;
}

/// An open file. Clones share one descriptor. Data is durable only after a sync.
#[allow(async_fn_in_trait, reason = "one data thread owns its files: no future is sent")]
pub trait StorageFile: Clone {
    /// At most `length` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// As the operating system says, with the path; part of the data may then be written.
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), StorageError>;

    /// Makes the data, and the length needed to read it, durable (`fdatasync`).
    ///
    /// # Errors
    /// As the operating system says. What was written before is then in doubt for good: open the file anew.
    async fn sync_data(&self) -> Result<(), StorageError>;

    /// Makes data and all metadata durable (`fsync`).
    ///
    /// # Errors
    /// As for [`StorageFile::sync_data`].
    async fn sync_all(&self) -> Result<(), StorageError>;

    /// Cuts or extends (with unwritten zeros) the file.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn set_len(&self, length: u64) -> Result<(), StorageError>;

    /// Gives the file an owner, group, mode, ACL and label as far as this process may; durable after a
    /// [`StorageFile::sync_all`].
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn set_attributes(&self, wanted: &FileAttributes) -> Result<Applied, StorageError>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn length(&self) -> Result<u64, StorageError>;

    /// Which file this is.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn identity(&self) -> Result<FileIdentity, StorageError>;

    /// Takes SQLite's PENDING, RESERVED and SHARED bytes for as long as the descriptor lives: every
    /// other opener gets "database is locked". False when somebody holds one of them.
    ///
    /// # Errors
    /// As the operating system says, with the path.
    async fn lock_sqlite(&self) -> Result<bool, StorageError>;

    /// Closes the descriptor and returns when that is done; a lock goes with it.
    ///
    /// # Errors
    /// When another clone is in use: its operation must end first.
    async fn close(self) -> Result<(), StorageError>;
}

//! One of the three disks, chosen at run time, so that its users need no type parameter.
//!
//! Pure dispatch; what each twin does is in its own file.

use super::{
    Applied, BlockingDisk, BlockingFile, FileIdentity, Open, SimulatedDisk, SimulatedFile, Storage,
    StorageError, StorageFile, UringDisk, UringFile,
};
use bytes::Bytes;
use lockstep_wire::FileAttributes;
use std::path::Path;

/// The disk in use.
#[derive(Clone)]
pub enum Backend {
    /// io_uring.
    Uring(UringDisk),
    /// Blocking calls.
    Blocking(BlockingDisk),
    /// A disk in memory that can crash.
    Simulated(SimulatedDisk),
}

/// An open file of the disk in use.
#[derive(Clone)]
pub enum DiskFile {
    /// io_uring.
    Uring(UringFile),
    /// Blocking calls.
    Blocking(BlockingFile),
    /// In memory.
    Simulated(SimulatedFile),
}

macro_rules! on_disk {
    ($self:ident, $disk:ident => $call:expr) => {
        match $self {
            Backend::Uring($disk) => $call.await,
            Backend::Blocking($disk) => $call.await,
            Backend::Simulated($disk) => $call.await,
        }
    };
}

macro_rules! on_file {
    ($self:ident, $file:ident => $call:expr) => {
        match $self {
            DiskFile::Uring($file) => $call.await,
            DiskFile::Blocking($file) => $call.await,
            DiskFile::Simulated($file) => $call.await,
        }
    };
}

impl Storage for Backend {
    type File = DiskFile;

    async fn open(&self, path: &Path, how: Open) -> Result<DiskFile, StorageError> {
        Ok(match self {
            Self::Uring(disk) => DiskFile::Uring(disk.open(path, how).await?),
            Self::Blocking(disk) => DiskFile::Blocking(disk.open(path, how).await?),
            Self::Simulated(disk) => DiskFile::Simulated(disk.open(path, how).await?),
        })
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        on_disk!(self, disk => disk.rename(from, to))
    }

    async fn remove(&self, path: &Path) -> Result<bool, StorageError> {
        on_disk!(self, disk => disk.remove(path))
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        on_disk!(self, disk => disk.create_dir_all(path))
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        on_disk!(self, disk => disk.sync_dir(path))
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        on_disk!(self, disk => disk.list(path))
    }

    async fn identity(&self, path: &Path) -> Result<Option<FileIdentity>, StorageError> {
        on_disk!(self, disk => disk.identity(path))
    }

    async fn copy_file(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        on_disk!(self, disk => disk.copy_file(from, to))
    }
}

impl StorageFile for DiskFile {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        on_file!(self, file => file.read_at(offset, length))
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), StorageError> {
        on_file!(self, file => file.write_at(offset, data))
    }

    async fn sync_data(&self) -> Result<(), StorageError> {
        on_file!(self, file => file.sync_data())
    }

    async fn sync_all(&self) -> Result<(), StorageError> {
        on_file!(self, file => file.sync_all())
    }

    async fn set_len(&self, length: u64) -> Result<(), StorageError> {
        on_file!(self, file => file.set_len(length))
    }

    async fn set_attributes(&self, wanted: &FileAttributes) -> Result<Applied, StorageError> {
        on_file!(self, file => file.set_attributes(wanted))
    }

    async fn length(&self) -> Result<u64, StorageError> {
        on_file!(self, file => file.length())
    }

    async fn identity(&self) -> Result<FileIdentity, StorageError> {
        on_file!(self, file => file.identity())
    }

    async fn lock_sqlite(&self) -> Result<bool, StorageError> {
        on_file!(self, file => file.lock_sqlite())
    }

    async fn close(self) -> Result<(), StorageError> {
        on_file!(self, file => file.close())
    }
}

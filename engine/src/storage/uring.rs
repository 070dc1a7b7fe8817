//! The io_uring twin: reads, writes and syncs through the ring of the data thread, except for what is over
//! sooner in the thread itself (see [`super::brisk`]).
//!
//! Lives only inside a `tokio_uring::Runtime` (see [`super::run`]); used elsewhere it panics. An
//! operation that was begun goes on when its future is dropped: never race one against a timer, and
//! finish all before the runtime ends. No type of tokio-uring leaves this file.

use super::brisk::Pace;
use super::{Applied, FileIdentity, Open, Storage, StorageError, StorageFile, attributes, blocking, posix};
use bytes::Bytes;
use lockstep_wire::FileAttributes;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    rc::Rc,
};

/// The disk by io_uring.
#[derive(Debug, Clone, Copy, Default)]
pub struct UringDisk;

/// An open file of [`UringDisk`].
#[derive(Clone)]
pub struct UringFile {
    file: Rc<tokio_uring::fs::File>,
    path: Rc<PathBuf>,
    pace: Rc<Pace>,
}

impl Storage for UringDisk {
    type File = UringFile;

    async fn open(&self, path: &Path, how: Open) -> Result<UringFile, StorageError> {
        let file = posix::open(path, how).map_err(StorageError::of("open", path))?;
        let file = tokio_uring::fs::File::from_std(file);
        Ok(UringFile { file: Rc::new(file), path: Rc::new(path.to_owned()), pace: Rc::default() })
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        std::fs::rename(from, to).map_err(StorageError::of("replace", to))
    }

    async fn remove(&self, path: &Path) -> Result<bool, StorageError> {
        posix::remove(path).map_err(StorageError::of("remove", path))
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        std::fs::create_dir_all(path).map_err(StorageError::of("create directory", path))
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        let opened = std::fs::File::open(path).map_err(StorageError::of("open directory", path))?;
        let directory = tokio_uring::fs::File::from_std(opened);
        let synced = directory.sync_all().await;
        let closed = directory.close().await;
        synced.and(closed).map_err(StorageError::of("sync directory", path))
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        posix::list(path).map_err(StorageError::of("list", path))
    }

    async fn identity(&self, path: &Path) -> Result<Option<FileIdentity>, StorageError> {
        posix::identity(path).map_err(StorageError::of("look at", path))
    }

    async fn copy_file(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        let (source, target) = (from.to_owned(), to.to_owned());
        let copied = blocking::beside(false, move || posix::copy(&source, &target)).await;
        copied.map_err(StorageError::of("copy to", to))
    }
}

impl UringFile {
    fn named(&self, action: &'static str) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::of(action, self.path.to_path_buf())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.file` keeps the descriptor open for as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) }
    }
}

impl StorageFile for UringFile {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        let mut data = Vec::with_capacity(length);
        while data.len() < length {
            let wanted = Vec::with_capacity(length - data.len());
            let (result, part) = self.file.read_at(wanted, offset + data.len() as u64).await;
            match result {
                Ok(0) => break,
                Ok(read) => data.extend_from_slice(&part[..read.min(length - data.len())]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.named("read")(error)),
            }
        }
        Ok(data)
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), StorageError> {
        let result = if self.pace.write(data.len() as u64) {
            posix::write_all_at(&self.fd(), &data, offset)
        } else {
            self.file.write_all_at(data, offset).await.0
        };
        result.map_err(self.named("write"))
    }

    async fn sync_data(&self) -> Result<(), StorageError> {
        let here = self.pace.sync();
        let began = std::time::Instant::now();
        let result = if here { posix::sync_data(&self.fd()) } else { self.file.sync_data().await };
        self.pace.took(began.elapsed());
        result.map_err(self.named("sync"))
    }

    async fn sync_all(&self) -> Result<(), StorageError> {
        self.file.sync_all().await.map_err(self.named("sync"))
    }

    async fn set_len(&self, length: u64) -> Result<(), StorageError> {
        posix::set_len(&self.fd(), length).map_err(self.named("resize"))
    }

    async fn set_attributes(&self, wanted: &FileAttributes) -> Result<Applied, StorageError> {
        attributes::apply(&self.fd(), wanted).map_err(self.named("set owner and mode of"))
    }

    async fn length(&self) -> Result<u64, StorageError> {
        posix::stat(&self.fd()).map(|(_, length)| length).map_err(self.named("look at"))
    }

    async fn identity(&self) -> Result<FileIdentity, StorageError> {
        posix::stat(&self.fd()).map(|(identity, _)| identity).map_err(self.named("look at"))
    }

    async fn lock_sqlite(&self) -> Result<bool, StorageError> {
        posix::lock_sqlite(&self.fd()).map_err(self.named("lock"))
    }

    async fn close(self) -> Result<(), StorageError> {
        let named = self.named("close");
        match Rc::try_unwrap(self.file) {
            Ok(file) => file.close().await.map_err(named),
            Err(_) => Err(named(io::Error::from(io::ErrorKind::ResourceBusy))),
        }
    }
}

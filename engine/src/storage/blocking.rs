//! The blocking twin: ordinary system calls, for machines without io_uring.
//!
//! Reads and writes hit the page cache and block the data thread for microseconds; a sync waits for
//! the disk, so inside a runtime it runs on tokio's blocking pool and the data thread gathers the
//! next batch meanwhile.

use super::{Applied, FileIdentity, Open, Storage, StorageError, StorageFile, attributes, posix};
use bytes::Bytes;
use lockstep_wire::FileAttributes;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The disk by blocking calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockingDisk {
    /// Never hand a call to another thread, so that every future is ready at its first poll.
    pub inline: bool,
}

/// An open file of [`BlockingDisk`].
#[derive(Debug, Clone)]
pub struct BlockingFile {
    file: Arc<File>,
    path: Arc<PathBuf>,
    inline: bool,
}

/// Runs a slow call beside the runtime where there is one.
pub(super) async fn beside<T: Send + 'static>(
    inline: bool,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if inline || tokio::runtime::Handle::try_current().is_err() {
        return call();
    }
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

impl Storage for BlockingDisk {
    type File = BlockingFile;

    async fn open(&self, path: &Path, how: Open) -> Result<BlockingFile, StorageError> {
        let file = posix::open(path, how).map_err(StorageError::of("open", path))?;
        Ok(BlockingFile { file: Arc::new(file), path: Arc::new(path.to_owned()), inline: self.inline })
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
        posix::sync_dir(path).map_err(StorageError::of("sync directory", path))
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        posix::list(path).map_err(StorageError::of("list", path))
    }

    async fn identity(&self, path: &Path) -> Result<Option<FileIdentity>, StorageError> {
        posix::identity(path).map_err(StorageError::of("look at", path))
    }

    async fn copy_file(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        let (source, target) = (from.to_owned(), to.to_owned());
        let copied = beside(self.inline, move || posix::copy(&source, &target)).await;
        copied.map_err(StorageError::of("copy to", to))
    }
}

impl BlockingFile {
    fn named(&self, action: &'static str) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::of(action, self.path.to_path_buf())
    }
}

impl StorageFile for BlockingFile {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        let mut data = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.named("read")(error)),
            }
        }
        data.truncate(filled);
        Ok(data)
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), StorageError> {
        self.file.write_all_at(&data, offset).map_err(self.named("write"))
    }

    async fn sync_data(&self) -> Result<(), StorageError> {
        let file = Arc::clone(&self.file);
        beside(self.inline, move || file.sync_data()).await.map_err(self.named("sync"))
    }

    async fn sync_all(&self) -> Result<(), StorageError> {
        let file = Arc::clone(&self.file);
        beside(self.inline, move || file.sync_all()).await.map_err(self.named("sync"))
    }

    async fn set_len(&self, length: u64) -> Result<(), StorageError> {
        posix::set_len(&self.file, length).map_err(self.named("resize"))
    }

    async fn set_attributes(&self, wanted: &FileAttributes) -> Result<Applied, StorageError> {
        attributes::apply(&self.file, wanted).map_err(self.named("set owner and mode of"))
    }

    async fn length(&self) -> Result<u64, StorageError> {
        posix::stat(&self.file).map(|(_, length)| length).map_err(self.named("look at"))
    }

    async fn identity(&self) -> Result<FileIdentity, StorageError> {
        posix::stat(&self.file).map(|(identity, _)| identity).map_err(self.named("look at"))
    }

    async fn lock_sqlite(&self) -> Result<bool, StorageError> {
        posix::lock_sqlite(&self.file).map_err(self.named("lock"))
    }

    async fn close(self) -> Result<(), StorageError> {
        let named = self.named("close");
        match Arc::try_unwrap(self.file) {
            Ok(file) => {
                drop(file);
                Ok(())
            }
            Err(_) => Err(named(io::Error::from(io::ErrorKind::ResourceBusy))),
        }
    }
}

//! The simulated twin: a disk in memory that remembers every operation and can crash at any of them.
//!
//! What may survive a crash is decided in `crash.rs`. It can also be full, fail its syncs, or swallow
//! some of them, so that a test shows that it would notice a sync that is not there.

mod crash;

pub use crash::Unsynced;

use super::{Applied, FileIdentity, Open, Storage, StorageError, StorageFile};
use bytes::Bytes;
use crash::{Operation, Tree};
use lockstep_wire::FileAttributes;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

/// A kind of sync that the disk answers and does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwallowedSync {
    /// `fdatasync`.
    Data,
    /// `fdatasync` after which nothing but the first 512 bytes of the file is new: that of a header.
    Header,
    /// `fsync` of a file.
    All,
    /// `fsync` of a directory.
    Directory,
}

/// Bytes at the start of a file that [`SwallowedSync::Header`] means.
const HEADER_BYTES: usize = 512;

#[derive(Debug, Default)]
struct World {
    /// What was on the disk before the first operation of the log.
    base: Tree,
    now: Tree,
    log: Vec<Operation>,
    locked: BTreeSet<usize>,
    capacity_bytes: Option<usize>,
    syncs_fail: bool,
    swallowed: Option<SwallowedSync>,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk {
    world: Rc<RefCell<World>>,
}

/// An open file of [`SimulatedDisk`].
#[derive(Debug, Clone)]
pub struct SimulatedFile {
    world: Rc<RefCell<World>>,
    file: usize,
    path: Rc<PathBuf>,
    // A lock ends with the last clone.
    lock: Rc<RefCell<Option<Lock>>>,
}

#[derive(Debug)]
struct Lock {
    world: Rc<RefCell<World>>,
    file: usize,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.world.borrow_mut().locked.remove(&self.file);
    }
}

impl SimulatedDisk {
    /// Operations so far: the moment now, for [`Self::crash_image`].
    pub fn moment(&self) -> usize {
        self.world.borrow().log.len()
    }

    /// Refuse to grow beyond this many bytes in all, as a full disk does.
    pub fn set_capacity(&self, capacity_bytes: Option<usize>) {
        self.world.borrow_mut().capacity_bytes = capacity_bytes;
    }

    /// Let every sync of a file fail. As on Linux the data stays readable, is lost with the power,
    /// and a later sync of the same file succeeds without it.
    pub fn set_syncs_fail(&self, syncs_fail: bool) {
        self.world.borrow_mut().syncs_fail = syncs_fail;
    }

    /// Let every sync of this kind do nothing and succeed. A test that turns this must find damage.
    pub fn swallow_syncs(&self, kind: SwallowedSync) {
        self.world.borrow_mut().swallowed = Some(kind);
    }

    /// Bytes in all files.
    pub fn used_bytes(&self) -> usize {
        self.world.borrow().now.files.iter().map(Vec::len).sum()
    }

    /// Contents of a file now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.borrow();
        world.now.names.get(path).map(|&file| world.now.files[file].clone())
    }

    /// Every file's path, now.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world.borrow().now.names.keys().cloned().collect()
    }

    /// Inode of the file under this path now.
    pub fn inode(&self, path: &Path) -> Option<u64> {
        self.world.borrow().now.names.get(path).map(|&file| file as u64)
    }

    /// A new disk as it may be found when the power went after the first `moment` operations.
    pub fn crash_image(&self, moment: usize, unsynced: Unsynced) -> Self {
        let world = self.world.borrow();
        let base = crash::image(&world.base, &world.log[..moment], unsynced);
        let image = World { now: base.clone(), base, ..World::default() };
        Self { world: Rc::new(RefCell::new(image)) }
    }

    fn open_file(&self, path: &Path, create: bool) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        if let Some(&file) = world.now.names.get(path) {
            return Ok(file);
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = world.now.files.len();
        world.now.files.push(Vec::new());
        world.change(Operation::Name { path: path.to_owned(), file: Some(file) });
        Ok(file)
    }
}

impl World {
    fn room(&self, file: usize, length: usize) -> io::Result<()> {
        let used: usize = self.now.files.iter().map(Vec::len).sum();
        let growth = length.saturating_sub(self.now.files[file].len());
        match self.capacity_bytes {
            Some(capacity) if growth > 0 && used + growth > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, operation: Operation) {
        self.now.apply(&operation);
        self.log.push(operation);
    }

    fn sync(&mut self, file: usize, kind: SwallowedSync) -> io::Result<()> {
        if self.syncs_fail {
            self.log.push(Operation::SyncFailed(file));
            return Err(io::Error::other("I/O error"));
        }
        let header = || kind == SwallowedSync::Data && self.only_header_is_new(file);
        if self.swallowed == Some(kind) || (self.swallowed == Some(SwallowedSync::Header) && header()) {
            return Ok(());
        }
        self.log.push(Operation::SyncFile(file));
        Ok(())
    }

    fn only_header_is_new(&self, of: usize) -> bool {
        let unsynced = self.log.iter().rev().take_while(
            |operation| !matches!(operation, Operation::SyncFile(file) | Operation::SyncFailed(file) if *file == of),
        );
        let mut ends = unsynced.filter_map(|operation| match operation {
            Operation::Write { file, offset, data } if *file == of => Some(offset + data.len()),
            Operation::SetLen { file, .. } if *file == of => Some(usize::MAX),
            _ => None,
        });
        ends.all(|end| end <= HEADER_BYTES)
    }

    /// A directory that holds anything, or was made here.
    fn is_directory(&self, path: &Path) -> bool {
        let inside = |name: &PathBuf| name != path && name.starts_with(path);
        self.now.made.contains(path) || self.now.names.keys().chain(&self.now.made).any(inside)
    }
}

/// Stands for the inode of a directory; no file has it.
const DIRECTORY_INODE: u64 = u64::MAX;

impl Storage for SimulatedDisk {
    type File = SimulatedFile;

    async fn open(&self, path: &Path, how: Open) -> Result<SimulatedFile, StorageError> {
        let file = self.open_file(path, how.create).map_err(StorageError::of("open", path))?;
        Ok(SimulatedFile {
            world: Rc::clone(&self.world),
            file,
            path: Rc::new(path.to_owned()),
            lock: Rc::default(),
        })
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let mut world = self.world.borrow_mut();
        let Some(&file) = world.now.names.get(from) else {
            return Err(StorageError::of("replace", to)(io::ErrorKind::NotFound.into()));
        };
        world.change(Operation::Rename { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<bool, StorageError> {
        let mut world = self.world.borrow_mut();
        let existed = world.now.names.contains_key(path);
        if existed {
            world.change(Operation::Name { path: path.to_owned(), file: None });
        }
        Ok(existed)
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        let mut world = self.world.borrow_mut();
        let mut missing: Vec<&Path> = path
            .ancestors()
            .take_while(|above| above.parent().is_some() && !world.is_directory(above))
            .collect();
        while let Some(directory) = missing.pop() {
            world.change(Operation::MakeDir(directory.to_owned()));
        }
        Ok(())
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        let mut world = self.world.borrow_mut();
        if world.swallowed != Some(SwallowedSync::Directory) {
            world.log.push(Operation::SyncDir(path.to_owned()));
        }
        Ok(())
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        let world = self.world.borrow();
        let all = world.now.names.keys().chain(&world.now.made);
        let inside = all.filter_map(|name| name.strip_prefix(path).ok()?.components().next());
        let names: BTreeSet<String> =
            inside.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    async fn identity(&self, path: &Path) -> Result<Option<FileIdentity>, StorageError> {
        let world = self.world.borrow();
        let file = world.now.names.get(path).map(|&file| file as u64);
        let inode = file.or_else(|| world.is_directory(path).then_some(DIRECTORY_INODE));
        Ok(inode.map(|inode| FileIdentity { device: 0, inode }))
    }

    async fn copy_file(&self, from: &Path, to: &Path) -> Result<bool, StorageError> {
        let Some(data) = self.contents(from) else {
            return Err(StorageError::of("copy to", to)(io::ErrorKind::NotFound.into()));
        };
        let target = self.open(to, Open { create: true }).await?;
        target.set_len(0).await?;
        target.write_at(0, data.into()).await?;
        Ok(false)
    }
}

impl StorageFile for SimulatedFile {
    async fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        let world = self.world.borrow();
        let data = &world.now.files[self.file];
        let start = (offset as usize).min(data.len());
        Ok(data[start..(start + length).min(data.len())].to_vec())
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), StorageError> {
        let mut world = self.world.borrow_mut();
        let offset = offset as usize;
        let room = world.room(self.file, offset + data.len());
        room.map_err(StorageError::of("write", self.path.as_path()))?;
        world.change(Operation::Write { file: self.file, offset, data });
        Ok(())
    }

    async fn sync_data(&self) -> Result<(), StorageError> {
        let done = self.world.borrow_mut().sync(self.file, SwallowedSync::Data);
        done.map_err(StorageError::of("sync", self.path.as_path()))
    }

    async fn sync_all(&self) -> Result<(), StorageError> {
        let done = self.world.borrow_mut().sync(self.file, SwallowedSync::All);
        done.map_err(StorageError::of("sync", self.path.as_path()))
    }

    async fn set_len(&self, length: u64) -> Result<(), StorageError> {
        self.world.borrow_mut().change(Operation::SetLen { file: self.file, length: length as usize });
        Ok(())
    }

    async fn set_attributes(&self, _wanted: &FileAttributes) -> Result<Applied, StorageError> {
        Ok(Applied::default())
    }

    async fn length(&self) -> Result<u64, StorageError> {
        Ok(self.world.borrow().now.files[self.file].len() as u64)
    }

    async fn identity(&self) -> Result<FileIdentity, StorageError> {
        Ok(FileIdentity { device: 0, inode: self.file as u64 })
    }

    async fn lock_sqlite(&self) -> Result<bool, StorageError> {
        if self.lock.borrow().is_some() {
            return Ok(true);
        }
        let free = self.world.borrow_mut().locked.insert(self.file);
        if free {
            *self.lock.borrow_mut() = Some(Lock { world: Rc::clone(&self.world), file: self.file });
        }
        Ok(free)
    }

    async fn close(self) -> Result<(), StorageError> {
        Ok(())
    }
}

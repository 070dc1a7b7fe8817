//! The simulated twin: a disk in memory that remembers every operation and can crash at any of them.
//!
//! A crash image keeps everything that was synced. Of the rest it keeps, per file, nothing, all, the
//! first or the last writes, some whole writes or some 512-byte sectors; of the unsynced names a
//! prefix, as journalling file systems order them. That is at least as cruel as a page cache whose power went.

use super::{Applied, FileIdentity, Open, Storage, StorageError, StorageFile};
use bytes::Bytes;
use lockstep_wire::FileAttributes;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Operation {
    Write {
        file: usize,
        offset: usize,
        data: Bytes,
    },
    SetLen {
        file: usize,
        length: usize,
    },
    SyncFile(usize),
    /// What was written before is on no disk, although it can still be read.
    SyncFailed(usize),
    Name {
        path: PathBuf,
        file: Option<usize>,
    },
    SyncDir(PathBuf),
}

#[derive(Debug, Default)]
struct World {
    names: BTreeMap<PathBuf, usize>,
    files: Vec<Vec<u8>>,
    locked: BTreeSet<usize>,
    log: Vec<Operation>,
    capacity_bytes: Option<usize>,
    syncs_fail: bool,
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

/// A small deterministic generator (splitmix64), so that a crash replays from its seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound.max(1)
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

    /// Bytes in all files.
    pub fn used_bytes(&self) -> usize {
        self.world.borrow().files.iter().map(Vec::len).sum()
    }

    /// Contents of a file now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.borrow();
        world.names.get(path).map(|&file| world.files[file].clone())
    }

    /// A new disk as it may be found when the power went at `moment`; the same seed gives the same image.
    pub fn crash_image(&self, moment: usize, seed: u64) -> Self {
        let world = self.world.borrow();
        let mut dice = Dice(seed);
        let mut image = World { files: vec![Vec::new(); world.files.len()], ..World::default() };
        let mut unsynced: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
        let mut unsynced_names: Vec<(&PathBuf, Option<usize>)> = Vec::new();
        for operation in &world.log[..moment] {
            match operation {
                Operation::Write { file, .. } | Operation::SetLen { file, .. } => {
                    unsynced.entry(*file).or_default().push(operation);
                }
                Operation::SyncFile(file) => {
                    for operation in unsynced.remove(file).unwrap_or_default() {
                        apply(&mut image.files, operation);
                    }
                }
                Operation::SyncFailed(file) => {
                    unsynced.remove(file);
                }
                Operation::Name { path, file } => unsynced_names.push((path, *file)),
                Operation::SyncDir(directory) => unsynced_names.retain(|(path, file)| {
                    let inside = path.parent() == Some(directory);
                    if inside {
                        set_name(&mut image.names, path, *file);
                    }
                    !inside
                }),
            }
        }
        let kept = dice.below(unsynced_names.len() as u64 + 1) as usize;
        for (path, file) in &unsynced_names[..kept] {
            set_name(&mut image.names, path, *file);
        }
        for operations in unsynced.into_values() {
            survive(&mut image.files, &operations, &mut dice);
        }
        Self { world: Rc::new(RefCell::new(image)) }
    }

    fn open_file(&self, path: &Path, create: bool) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        if let Some(&file) = world.names.get(path) {
            return Ok(file);
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = world.files.len();
        world.files.push(Vec::new());
        world.rename(path.to_owned(), Some(file));
        Ok(file)
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, usize>, path: &Path, file: Option<usize>) {
    match file {
        Some(file) => names.insert(path.to_owned(), file),
        None => names.remove(path),
    };
}

fn apply(files: &mut [Vec<u8>], operation: &Operation) {
    match operation {
        Operation::Write { file, offset, data } => put(&mut files[*file], *offset, data),
        Operation::SetLen { file, length } => files[*file].resize(*length, 0),
        Operation::SyncFile(_)
        | Operation::SyncFailed(_)
        | Operation::Name { .. }
        | Operation::SyncDir(_) => {}
    }
}

fn put(file: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if file.len() < offset + data.len() {
        file.resize(offset + data.len(), 0);
    }
    file[offset..offset + data.len()].copy_from_slice(data);
}

fn survive(files: &mut [Vec<u8>], operations: &[&Operation], dice: &mut Dice) {
    let manner = dice.below(6);
    let border = dice.below(operations.len() as u64 + 1) as usize;
    for (index, operation) in operations.iter().enumerate() {
        match (manner, operation) {
            (0, _) => {}
            (1, _) => apply(files, operation),
            (2, _) if index < border => apply(files, operation),
            (3, _) if index >= border => apply(files, operation),
            (2 | 3, _) => {}
            (4, Operation::Write { file, offset, data }) => {
                let mut at = *offset;
                let end = offset + data.len();
                while at < end {
                    let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                    if dice.below(2) == 0 {
                        put(&mut files[*file], at, &data[at - offset..next - offset]);
                    }
                    at = next;
                }
            }
            _ if dice.below(2) == 0 => apply(files, operation),
            _ => {}
        }
    }
}

impl World {
    fn rename(&mut self, path: PathBuf, file: Option<usize>) {
        set_name(&mut self.names, &path, file);
        self.log.push(Operation::Name { path, file });
    }

    fn room(&self, file: usize, length: usize) -> io::Result<()> {
        let used: usize = self.files.iter().map(Vec::len).sum();
        let growth = length.saturating_sub(self.files[file].len());
        match self.capacity_bytes {
            Some(capacity) if growth > 0 && used + growth > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, operation: Operation) {
        apply(&mut self.files, &operation);
        self.log.push(operation);
    }
}

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
        let Some(&file) = world.names.get(from) else {
            return Err(StorageError::of("replace", to)(io::ErrorKind::NotFound.into()));
        };
        // One journalled change: the new name first, so that a prefix never has neither.
        world.rename(to.to_owned(), Some(file));
        world.rename(from.to_owned(), None);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<bool, StorageError> {
        let mut world = self.world.borrow_mut();
        let existed = world.names.contains_key(path);
        if existed {
            world.rename(path.to_owned(), None);
        }
        Ok(existed)
    }

    async fn create_dir_all(&self, _path: &Path) -> Result<(), StorageError> {
        Ok(())
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.world.borrow_mut().log.push(Operation::SyncDir(path.to_owned()));
        Ok(())
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        let world = self.world.borrow();
        let inside = world.names.keys().filter_map(|name| name.strip_prefix(path).ok()?.components().next());
        let names: BTreeSet<String> =
            inside.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    async fn identity(&self, path: &Path) -> Result<Option<FileIdentity>, StorageError> {
        let world = self.world.borrow();
        Ok(world.names.get(path).map(|&file| FileIdentity { device: 0, inode: file as u64 }))
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
        let data = &world.files[self.file];
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
        let mut world = self.world.borrow_mut();
        if world.syncs_fail {
            world.log.push(Operation::SyncFailed(self.file));
            return Err(StorageError::of("sync", self.path.as_path())(io::Error::other("I/O error")));
        }
        world.log.push(Operation::SyncFile(self.file));
        Ok(())
    }

    async fn sync_all(&self) -> Result<(), StorageError> {
        self.sync_data().await
    }

    async fn set_len(&self, length: u64) -> Result<(), StorageError> {
        self.world.borrow_mut().change(Operation::SetLen { file: self.file, length: length as usize });
        Ok(())
    }

    async fn set_attributes(&self, _wanted: &FileAttributes) -> Result<Applied, StorageError> {
        Ok(Applied::default())
    }

    async fn length(&self) -> Result<u64, StorageError> {
        Ok(self.world.borrow().files[self.file].len() as u64)
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

//! Puts a batch in place: each operation in order, each a rename or as atomic as one.
//!
//! Nothing is ever unlinked to make room: a reader finds the old entry or the new one. What changes below a
//! directory changes the directory's times; they are put back at the end, or set to those that the batch brings.

use super::op::Expected;
use super::stage::{Failed, Staged, Staging, check_expected};
use crate::files::attributes::{Opened, mtime_of};
use crate::files::beneath::{Root, identity, is_directory, stat_in};
use crate::files::{Meta, Mtime, TreePath};
use lockstep_wire::{TreeKind, TreeReason};
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{self, AtFlags, Mode, OFlags, RenameFlags},
    io::{self, Errno},
};
use std::collections::{BTreeMap, btree_map::Entry};
use std::ops::Bound;

/// Something to put in place.
#[derive(Debug)]
pub(super) enum Step {
    Install { path: TreePath, staged: Staged, meta: Option<Meta> },
    Link { path: TreePath, from: TreePath, expected: Option<Expected> },
    Remove { path: TreePath },
    Rename { path: TreePath, from: TreePath, expected: Option<Expected> },
    Exchange { path: TreePath, from: TreePath, expected: Option<Expected> },
    Meta { path: TreePath, meta: Meta },
}

/// A batch under way to its place.
pub(super) struct Placing<'a> {
    root: &'a Root,
    staging: &'a mut Staging,
    /// Directories that changed, and the time each gets at the end.
    directories: BTreeMap<TreePath, Mtime>,
    /// Files whose metadata changed where they are.
    files: Vec<TreePath>,
    /// Something changed that only a sync of the whole file system makes durable.
    sync_all: bool,
}

impl<'a> Placing<'a> {
    pub(super) fn new(root: &'a Root, staging: &'a mut Staging) -> Self {
        Self { root, staging, directories: BTreeMap::new(), files: Vec::new(), sync_all: false }
    }

    /// Does one step. `Ok` may hold what of an entry's metadata is lacking.
    pub(super) fn step(&mut self, step: Step) -> Result<Option<Failed>, Failed> {
        match step {
            Step::Install { path, staged, meta } => {
                let lacking = staged.lacking.clone();
                match (staged.kind, meta) {
                    (TreeKind::Directory, Some(meta)) => return self.directory(&path, &staged, &meta),
                    _ => self.install(&path, &staged.name, false)?,
                }
                Ok(lacking)
            }
            Step::Link { path, from, expected } => self.link(&path, &from, expected).map(|()| None),
            Step::Remove { path } => self.remove(&path).map(|()| None),
            Step::Rename { path, from, expected } => self.rename(&path, &from, expected).map(|()| None),
            Step::Exchange { path, from, expected } => self.exchange(&path, &from, expected).map(|()| None),
            Step::Meta { path, meta } => self.meta(&path, &meta),
        }
    }

    /// A directory: one that is there stays with what it holds.
    fn directory(&mut self, path: &TreePath, staged: &Staged, meta: &Meta) -> Result<Option<Failed>, Failed> {
        if self.root.stat(path)?.is_some_and(|stat| is_directory(&stat)) {
            return self.meta(path, meta);
        }
        self.install(path, &staged.name, true)?;
        self.directories.insert(path.clone(), meta.mtime);
        Ok(staged.lacking.clone())
    }

    /// Gives the staged entry its place.
    fn install(&mut self, path: &TreePath, staged: &str, is_dir: bool) -> Result<(), Failed> {
        let (parent, name) = self.root.parent(path)?;
        self.changes(path, parent.as_fd())?;
        let there = stat_in(parent.as_fd(), name)?;
        match there {
            Some(there) if is_dir || is_directory(&there) => {
                // Only an exchange replaces one type by the other in one step.
                fs::renameat_with(self.staging.fd(), staged, &parent, name, RenameFlags::EXCHANGE)?;
                self.forget(path);
            }
            _ => fs::renameat(self.staging.fd(), staged, &parent, name)?,
        }
        Ok(())
    }

    fn link(&mut self, path: &TreePath, from: &TreePath, expected: Option<Expected>) -> Result<(), Failed> {
        let (from_parent, from_name) = self.root.parent(from)?;
        let Some(source) = stat_in(from_parent.as_fd(), from_name)? else { return Err(missing()) };
        check_expected(&source, expected)?;
        if is_directory(&source) {
            return Err(Failed::new(TreeReason::Differs, "a directory has one name"));
        }
        if self.root.stat(path)?.is_some_and(|there| identity(&there) == identity(&source)) {
            return Ok(());
        }
        let staged = self.staging.link(from_parent.as_fd(), from_name)?;
        // The number of its names is in the inode.
        self.files.push(path.clone());
        self.install(path, &staged, false)
    }

    fn remove(&mut self, path: &TreePath) -> Result<(), Failed> {
        let (parent, name) = match self.root.parent(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            found => found?,
        };
        let Some(there) = stat_in(parent.as_fd(), name)? else { return Ok(()) };
        self.changes(path, parent.as_fd())?;
        if is_directory(&there) {
            // Gone at once with all below it; what was in it is removed when nobody waits.
            self.forget(path);
            let trash = self.staging.name();
            return Ok(fs::renameat(&parent, name, self.staging.fd(), &trash)?);
        }
        Ok(fs::unlinkat(&parent, name, AtFlags::empty())?)
    }

    fn rename(&mut self, path: &TreePath, from: &TreePath, expected: Option<Expected>) -> Result<(), Failed> {
        let (from_parent, from_name) = self.root.parent(from)?;
        let Some(source) = stat_in(from_parent.as_fd(), from_name)? else { return Err(missing()) };
        check_expected(&source, expected)?;
        let (parent, name) = self.root.parent(path)?;
        self.changes(from, from_parent.as_fd())?;
        self.changes(path, parent.as_fd())?;
        let there = stat_in(parent.as_fd(), name)?;
        if there.as_ref().is_some_and(|there| identity(there) == identity(&source)) {
            // Two names of one file: rename(2) would leave both.
            return match path == from {
                true => Ok(()),
                false => Ok(fs::unlinkat(&from_parent, from_name, AtFlags::empty())?),
            };
        }
        match there {
            Some(there) if is_directory(&there) || is_directory(&source) => {
                fs::renameat_with(&from_parent, from_name, &parent, name, RenameFlags::EXCHANGE)?;
                let trash = self.staging.name();
                fs::renameat(&from_parent, from_name, self.staging.fd(), &trash)?;
            }
            _ => fs::renameat(&from_parent, from_name, &parent, name)?,
        }
        self.forget(path);
        for (inner, mtime) in self.taken(from) {
            if let Some(moved) = inner.moved(from, path) {
                self.directories.insert(moved, mtime);
            }
        }
        for file in &mut self.files {
            if let Some(moved) = file.moved(from, path) {
                *file = moved;
            }
        }
        Ok(())
    }

    fn exchange(
        &mut self,
        path: &TreePath,
        from: &TreePath,
        expected: Option<Expected>,
    ) -> Result<(), Failed> {
        let (from_parent, from_name) = self.root.parent(from)?;
        let Some(source) = stat_in(from_parent.as_fd(), from_name)? else { return Err(missing()) };
        check_expected(&source, expected)?;
        let (parent, name) = self.root.parent(path)?;
        self.changes(from, from_parent.as_fd())?;
        self.changes(path, parent.as_fd())?;
        fs::renameat_with(&from_parent, from_name, &parent, name, RenameFlags::EXCHANGE)?;
        let (of_from, of_path) = (self.taken(from), self.taken(path));
        for (inner, mtime) in of_from {
            self.directories.extend(inner.moved(from, path).map(|moved| (moved, mtime)));
        }
        for (inner, mtime) in of_path {
            self.directories.extend(inner.moved(path, from).map(|moved| (moved, mtime)));
        }
        // Which of the files are where now is not worth telling apart.
        self.sync_all |= self.files.iter().any(|file| file.is_in(path) || file.is_in(from));
        Ok(())
    }

    fn meta(&mut self, path: &TreePath, meta: &Meta) -> Result<Option<Failed>, Failed> {
        let handle = self.root.handle(path)?;
        let stat = fs::fstat(&handle)?;
        let lacking = Opened::handle(handle.as_fd(), &stat).set(meta, false)?;
        if is_directory(&stat) {
            self.directories.insert(path.clone(), meta.mtime);
        } else {
            self.files.push(path.clone());
        }
        Ok(Failed::lacking(lacking))
    }

    /// An entry of this directory is about to change: remembers the directory's time.
    fn changes(&mut self, path: &TreePath, parent: BorrowedFd<'_>) -> Result<(), Failed> {
        let directory = path.parent().unwrap_or_default();
        if let Entry::Vacant(vacant) = self.directories.entry(directory) {
            vacant.insert(mtime_of(&fs::fstat(parent)?));
        }
        Ok(())
    }

    /// Forgets directories that are gone.
    fn forget(&mut self, path: &TreePath) {
        self.taken(path);
    }

    /// Takes out what is remembered of a directory and of all below it.
    fn taken(&mut self, path: &TreePath) -> Vec<(TreePath, Mtime)> {
        let mut taken: Vec<_> = self.directories.remove_entry(path).into_iter().collect();
        let first = path.join(b"\x01").unwrap_or_else(|_| path.clone());
        // All that lies below sorts behind the path with a slash, which no name's first byte precedes.
        let below = (Bound::Included(first), Bound::Unbounded);
        let keys: Vec<TreePath> = self
            .directories
            .range(below)
            .map(|(key, _)| key)
            .take_while(|key| key.is_in(path))
            .cloned()
            .collect();
        taken.extend(keys.iter().filter_map(|key| self.directories.remove_entry(key)));
        taken
    }

    /// Puts the times of directories back and makes everything durable. Up to `each_max` directories and files are
    /// synced one by one, more by one sync of the file system.
    pub(super) fn finish(self, each_max: usize) -> io::Result<()> {
        let mut opened = Vec::new();
        let each = !self.sync_all && self.directories.len() + self.files.len() <= each_max;
        for (path, mtime) in &self.directories {
            let directory = match self.root.directory(path) {
                // Removed or replaced by a later step.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                found => found?,
            };
            if mtime_of(&fs::fstat(&directory)?) != *mtime {
                Opened::file(directory.as_fd()).set_mtime(*mtime)?;
            }
            if each {
                opened.push(directory);
            }
        }
        if !each {
            return fs::syncfs(self.root.fd());
        }
        for path in &self.files {
            match self.root.file(path) {
                Ok((file, _)) => opened.push(file),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // A symlink or FIFO cannot be opened to be synced.
                Err(Errno::INVAL) => return fs::syncfs(self.root.fd()),
                Err(error) => return Err(error),
            }
        }
        opened.iter().try_for_each(fs::fsync)
    }
}

fn missing() -> Failed {
    Failed::new(TreeReason::Missing, "there is no such entry")
}

/// Opens the directory in which Lockstep keeps its own things in a tree, without a trace on the root's time.
pub(super) fn open_hidden(root: &Root, name: &[u8]) -> io::Result<rustix::fd::OwnedFd> {
    let before = fs::fstat(root.fd())?;
    if stat_in(root.fd(), name)?.is_none() {
        fs::mkdirat(root.fd(), name, Mode::from_raw_mode(0o700))?;
        Opened::file(root.fd()).set_mtime(mtime_of(&before))?;
    }
    let hidden = crate::files::beneath::open_beneath(root.fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    fs::fsync(root.fd())?;
    Ok(hidden)
}

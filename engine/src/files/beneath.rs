//! A tree's root, held open, and how anything below it is reached: by the kernel's word that the way leads nowhere
//! else (`openat2`), never by a path of the whole file system.
//!
//! Whoever else works in the tree may swap a directory for a symlink at any moment. What was opened here stays what
//! it was, and what is opened next is refused with `ELOOP`.

use super::path::TreePath;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat},
    io::{Errno, Result},
};
use std::path::Path;

/// Below the root, through no symlink and no magic link, and on one file system: what is staged could not be renamed
/// to another one.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// How often a lookup is tried again that a rename elsewhere in the tree disturbed (`EAGAIN`).
const RETRIES: u32 = 100;

/// The held root of a tree.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    identity: (u64, u64),
}

/// Device and inode.
pub(crate) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Root {
    /// Opens the directory at `path`; the path itself may lead through symlinks, for it is the operator's.
    ///
    /// # Errors
    /// As openat(2) says.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let identity = identity(&fs::fstat(&fd)?);
        Ok(Self { fd, identity })
    }

    /// Is it still what the operator's path names?
    pub fn is_at(&self, path: &Path) -> bool {
        fs::statat(CWD, path, AtFlags::empty()).is_ok_and(|stat| identity(&stat) == self.identity)
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a directory of the tree to work in it.
    ///
    /// # Errors
    /// As openat2(2) says.
    pub fn directory(&self, path: &TreePath) -> Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The directory that holds an entry, and the entry's name there.
    ///
    /// # Errors
    /// As openat2(2) says; `EINVAL` for the root, which is in no directory of the tree.
    pub fn parent<'a>(&self, path: &'a TreePath) -> Result<(OwnedFd, &'a [u8])> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Err(Errno::INVAL) };
        Ok((self.open_at(&parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// An entry of any type, not opened: for its metadata.
    ///
    /// # Errors
    /// As openat2(2) says.
    pub fn handle(&self, path: &TreePath) -> Result<OwnedFd> {
        self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// A regular file, for reading. What is none is not opened: that could block, or act on a device.
    ///
    /// # Errors
    /// As openat2(2) says; `EINVAL` for another type.
    pub fn file(&self, path: &TreePath) -> Result<(OwnedFd, Stat)> {
        let handle = self.handle(path)?;
        if !is_file(&fs::fstat(&handle)?) {
            return Err(Errno::INVAL);
        }
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = fs::fstat(&fd)?;
        if is_file(&stat) { Ok((fd, stat)) } else { Err(Errno::INVAL) }
    }

    /// What an entry is; `None` when there is none.
    ///
    /// # Errors
    /// As openat2(2) and fstatat(2) say.
    pub fn stat(&self, path: &TreePath) -> Result<Option<Stat>> {
        if path.is_root() {
            return fs::fstat(&self.fd).map(Some);
        }
        let (parent, name) = match self.parent(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            found => found?,
        };
        stat_in(parent.as_fd(), name)
    }

    fn open_at(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd> {
        let relative = if path.is_root() { b"." } else { path.as_bytes() };
        open_beneath(self.fd.as_fd(), relative, flags)
    }
}

/// Opens what `relative` names below `directory`.
///
/// # Errors
/// As openat2(2) says.
pub(crate) fn open_beneath(directory: BorrowedFd<'_>, relative: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut left = RETRIES;
    loop {
        match fs::openat2(directory, relative, flags, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN) if left > 0 => left -= 1,
            result => return result,
        }
    }
}

/// What the entry `name` of an open directory is; `None` when there is none.
///
/// # Errors
/// As fstatat(2) says.
pub(crate) fn stat_in(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Is it a regular file?
pub(crate) fn is_file(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode).is_file()
}

/// Is it a directory?
pub(crate) fn is_directory(stat: &Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// The entries of an open directory, without `.` and `..`, in no order.
///
/// # Errors
/// As getdents(2) says.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes an entry of an open directory and all below it, one open directory per level and no recursion: a tree's
/// depth is its owner's choice.
///
/// # Errors
/// As unlinkat(2) and the like say; what was removed by then stays so.
pub(crate) fn remove_all(directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    if unlink(directory, name)? {
        return Ok(());
    }
    let enter = |directory: BorrowedFd<'_>, name: Vec<u8>| -> Result<_> {
        let fd = open_beneath(directory, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entries = names(fd.as_fd())?;
        Ok((fd, name, entries))
    };
    let mut open = vec![enter(directory, name.to_vec())?];
    while let Some((current, _, entries)) = open.last_mut() {
        match entries.pop() {
            Some(entry) if unlink(current.as_fd(), &entry)? => {}
            Some(entry) => {
                let below = enter(current.as_fd(), entry)?;
                open.push(below);
            }
            None => {
                let (_, done, _) = open.pop().expect("the loop looked at it");
                let above = open.last().map_or(directory, |(fd, ..)| fd.as_fd());
                fs::unlinkat(above, &done[..], AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

/// Removes an entry, or an empty directory; false: it is a directory with something in it.
fn unlink(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn nothing_is_reached_through_a_symlink() {
        let dir = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        std::fs::write(outside.path().join("file"), "x").unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink(outside.path(), dir.path().join("away")).unwrap();
        symlink("real", dir.path().join("near")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for way in ["away/file", "near/file"] {
            assert_eq!(root.file(&path(way)).err(), Some(Errno::LOOP), "{way}");
            assert_eq!(root.parent(&path(way)).err(), Some(Errno::LOOP), "{way}");
            assert_eq!(root.stat(&path(way)).err(), Some(Errno::LOOP), "{way}");
        }
        assert_eq!(root.directory(&path("away")).err(), Some(Errno::LOOP));
        assert!(root.handle(&path("away")).is_ok(), "the symlink itself");
        assert!(root.stat(&path("real")).unwrap().is_some());
        assert!(root.stat(&path("none/x")).unwrap().is_none());
    }

    #[test]
    fn a_root_that_was_replaced_is_noticed() {
        let dir = TempDir::new().unwrap();
        let at = dir.path().join("tree");
        std::fs::create_dir(&at).unwrap();
        let root = Root::open(&at).unwrap();
        assert!(root.is_at(&at));
        std::fs::rename(&at, dir.path().join("moved")).unwrap();
        assert!(!root.is_at(&at));
        std::fs::create_dir(&at).unwrap();
        assert!(!root.is_at(&at));
    }

    #[test]
    fn a_deep_tree_is_removed_and_what_symlinks_point_at_is_not() {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("kept"), "x").unwrap();
        let mut deep = dir.path().join("tree");
        for _ in 0..200 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "x").unwrap();
        symlink(dir.path(), deep.join("up")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        remove_all(root.fd(), b"tree").unwrap();
        remove_all(root.fd(), b"none").unwrap();
        assert_eq!(names(root.fd()).unwrap(), [b"kept"]);
    }
}

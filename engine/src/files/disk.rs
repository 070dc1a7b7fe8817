//! Reads a tree on the active's disk: always beneath one held root, never through a symlink.
//!
//! The application may swap a directory for a symlink to `/etc` at any moment; the kernel refuses the path then
//! (`openat2`), so that nothing outside the root is ever read and sent.

use super::attributes::sized;
use super::{Meta, Mtime, TreePath, Xattrs, is_carried};
use lockstep_wire::TreeKind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The kernel gives up on a path while something on it is renamed; it says so and asks to try again.
const TRIES: u32 = 64;

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Which file it is, whatever its name. The device is left out: its number changes when the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileId {
    /// Number of the inode; 0: not known.
    pub inode: u64,
    /// When it was made, where the file system tells: inode numbers are used again.
    pub born: Option<Mtime>,
}

/// Name and type of an entry of a directory.
pub type Listed = (Vec<u8>, FileType);

/// An entry as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Type.
    pub kind: TreeKind,
    /// Owner, mode, time and extended attributes.
    pub meta: Meta,
    /// Size of a file in bytes; 0 of anything else.
    pub size: u64,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Which file it is.
    pub id: FileId,
    /// Last change of anything.
    pub ctime: Mtime,
    /// It changed in the very tick of the clock that gives the times: another change could have the same ones.
    pub racy: bool,
    /// How many names it has.
    pub links: u32,
    /// The file system it is on.
    pub device: (u32, u32),
}

/// A tree's root, held open.
#[derive(Debug)]
pub struct Disk {
    root: OwnedFd,
    path: PathBuf,
}

/// None when there is no such entry, or a file or symlink stands where a directory of the path should be.
fn absent<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name for an open file which system calls take that know no descriptors of `O_PATH`.
fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl Disk {
    /// Opens the root, which may be reached through symlinks: the operator named it.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is the directory at the path still the one that is held?
    pub fn is_in_place(&self) -> bool {
        let held = rustix::fs::fstat(&self.root);
        let there = rustix::fs::stat(&self.path);
        matches!((held, there), (Ok(held), Ok(there))
            if held.st_nlink > 0 && (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino))
    }

    /// The root itself.
    pub fn root(&self) -> impl AsFd + '_ {
        &self.root
    }

    fn open_at(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let name: &[u8] = if path.is_root() { b"." } else { path.as_bytes() };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut left = TRIES;
        loop {
            match rustix::fs::openat2(&self.root, name, flags, Mode::empty(), BENEATH) {
                Err(Errno::AGAIN | Errno::INTR) if left > 0 => left -= 1,
                result => return result,
            }
        }
    }

    /// Opens a directory to be watched.
    ///
    /// # Errors
    /// The system's; None: there is no such directory.
    pub fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        absent(self.open_at(path, OFlags::PATH | OFlags::DIRECTORY))
    }

    /// What stands at `path`; None: nothing.
    ///
    /// # Errors
    /// The system's: it cannot be looked at.
    pub fn look(&self, path: &TreePath) -> io::Result<Option<Found>> {
        let Some(fd) = absent(self.open_at(path, OFlags::PATH))? else { return Ok(None) };
        look_at(&fd).map(Some)
    }

    /// The entries of a directory and whether each is one itself, in no order; None: there is no such directory.
    ///
    /// # Errors
    /// The system's: it cannot be read.
    pub fn list(&self, path: &TreePath) -> io::Result<Option<Vec<Listed>>> {
        let Some(fd) = absent(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY))? else {
            return Ok(None);
        };
        entries_of(fd).map(Some)
    }

    /// Opens a file for reading and says what it is now; None: there is no regular file.
    ///
    /// # Errors
    /// The system's.
    pub fn file(&self, path: &TreePath) -> io::Result<Option<(File, Found)>> {
        // Never waits for the writer of a FIFO that took the file's place.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match self.open_at(path, flags | OFlags::NOATIME) {
            Err(Errno::PERM) => self.open_at(path, flags),
            opened => opened,
        };
        let Some(fd) = absent(match opened {
            Err(Errno::NXIO) => Err(Errno::NOENT), // a socket took its place
            opened => opened,
        })?
        else {
            return Ok(None);
        };
        let found = look_at(&fd)?;
        Ok((found.kind == TreeKind::File).then(|| (File::from(fd), found)))
    }
}

/// The entries of a directory that is held, in no order.
///
/// # Errors
/// The system's: it cannot be read.
pub fn list_directory(directory: &OwnedFd) -> io::Result<Vec<Listed>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    entries_of(rustix::fs::openat(directory, c".", flags, Mode::empty())?)
}

fn entries_of(directory: OwnedFd) -> io::Result<Vec<Listed>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::new(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(entries)
}

/// What an open file is.
///
/// # Errors
/// The system's.
pub fn look_at(fd: &OwnedFd) -> io::Result<Found> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let tick = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let tick = Mtime { s: tick.tv_sec, ns: u32::try_from(tick.tv_nsec).unwrap_or(0) };
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => TreeKind::File,
        FileType::Directory => TreeKind::Directory,
        FileType::Symlink => TreeKind::Symlink,
        FileType::Fifo => TreeKind::Fifo,
        _ => TreeKind::Other,
    };
    let symlink = kind == TreeKind::Symlink;
    let time = |at: rustix::fs::StatxTimestamp| Mtime { s: at.tv_sec, ns: at.tv_nsec };
    let born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let target = if symlink { rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes() } else { Vec::new() };
    let xattrs = if kind == TreeKind::Other { Xattrs::new() } else { xattrs(fd)? };
    Ok(Found {
        kind,
        meta: Meta {
            mode: if symlink { 0 } else { u32::from(stat.stx_mode) & 0o7777 },
            user: stat.stx_uid,
            group: stat.stx_gid,
            mtime: time(stat.stx_mtime),
            xattrs,
        },
        size: if kind == TreeKind::File { stat.stx_size } else { 0 },
        target,
        id: FileId { inode: stat.stx_ino, born: born.then(|| time(stat.stx_btime)) },
        ctime: time(stat.stx_ctime),
        racy: time(stat.stx_ctime) >= tick,
        links: stat.stx_nlink,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
    })
}

/// The extended attributes that are replicated.
fn xattrs(fd: &OwnedFd) -> io::Result<Xattrs> {
    let path = proc_path(fd);
    let names = match sized(|buffer| rustix::fs::listxattr(&path, buffer)) {
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Xattrs::new()),
        names => names?,
    };
    let mut found = Xattrs::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_carried(name)) {
        match sized(|buffer| rustix::fs::getxattr(&path, name, buffer)) {
            Err(Errno::NODATA) => {} // removed meanwhile: an event tells
            value => drop(found.insert(name.to_vec(), value?)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_type_is_told_and_nothing_is_read_through_a_symlink() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(directory.path().join("secret"), "secret").unwrap();
        std::fs::write(root.join("d/f"), "hello").unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("../secret", root.join("s")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("p"), Mode::from_raw_mode(0o600)).unwrap();
        let disk = Disk::open(&root).unwrap();
        let kind = |text: &str| disk.look(&path(text)).unwrap().map(|found| found.kind);
        assert_eq!(kind("d"), Some(TreeKind::Directory));
        assert_eq!(kind("d/f"), Some(TreeKind::File));
        assert_eq!(kind("s"), Some(TreeKind::Symlink));
        assert_eq!(kind("p"), Some(TreeKind::Fifo));
        assert_eq!(kind("d/f/x"), None);
        assert_eq!(kind("up/secret"), None);
        assert_eq!(disk.look(&path("s")).unwrap().unwrap().target, b"../secret");
        assert!(disk.file(&path("s")).unwrap().is_none() && disk.file(&path("p")).unwrap().is_none());
        assert_eq!(disk.file(&path("d/f")).unwrap().unwrap().1.size, 5);
        let mut names: Vec<_> =
            disk.list(&TreePath::root()).unwrap().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, [&b"d"[..], b"p", b"s", b"up"]);
        assert!(disk.is_in_place());
        std::fs::rename(&root, directory.path().join("away")).unwrap();
        assert!(!disk.is_in_place());
    }

    #[test]
    fn extended_attributes_are_read_of_files_and_long_ones_too() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), "").unwrap();
        let long = vec![7; 3000];
        for (name, value) in [("user.a", &b"1"[..]), ("user.long", &long)] {
            let set = rustix::fs::setxattr(
                directory.path().join("f"),
                name,
                value,
                rustix::fs::XattrFlags::empty(),
            );
            if set == Err(Errno::OPNOTSUPP) {
                return; // this file system has none
            }
            set.unwrap();
        }
        let found = Disk::open(directory.path()).unwrap().look(&path("f")).unwrap().unwrap();
        assert_eq!(found.meta.xattrs[&b"user.a"[..]], b"1");
        assert_eq!(found.meta.xattrs[&b"user.long"[..]].len(), 3000);
    }
}

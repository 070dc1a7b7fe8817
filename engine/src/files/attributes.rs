//! Metadata of an entry on disk: read, and set in the order owner, mode, extended attributes, times.
//!
//! The order matters: a change of the owner takes setuid and capabilities away, an ACL sets the bits of the group,
//! and everything but the last step changes no time. Works on opened files and on handles (`O_PATH`) of symlinks and
//! FIFOs, which are never opened; attributes of those go through the descriptor's own name in /proc.

use super::entry::{MAX_XATTR_BYTES, Meta, Mtime, Xattrs, is_carried};
use rustix::{
    fd::{AsRawFd, BorrowedFd},
    fs::{self, AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::{Errno, Result},
};

/// An open entry.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    fd: BorrowedFd<'a>,
    /// It is only a handle.
    handle: bool,
    symlink: bool,
}

/// What could not be set, while the rest was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lacking(pub Option<(String, Errno)>);

impl<'a> Opened<'a> {
    /// A file or directory opened for reading or writing.
    pub fn file(fd: BorrowedFd<'a>) -> Self {
        Self { fd, handle: false, symlink: false }
    }

    /// A handle of an entry with this `stat`.
    pub fn handle(fd: BorrowedFd<'a>, stat: &Stat) -> Self {
        let symlink = fs::FileType::from_raw_mode(stat.st_mode).is_symlink();
        Self { fd, handle: true, symlink }
    }

    fn own_name(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Its metadata.
    ///
    /// # Errors
    /// As the system says; `E2BIG` for more extended attributes than are replicated.
    pub fn read(&self, stat: &Stat) -> Result<Meta> {
        Ok(Meta {
            mode: if self.symlink { 0 } else { stat.st_mode & 0o7777 },
            user: stat.st_uid,
            group: stat.st_gid,
            mtime: mtime_of(stat),
            xattrs: self.xattrs()?,
        })
    }

    /// Gives it all of `meta`; `fresh` says that it was made here a moment ago and has no extended attributes.
    /// What the file system or our rights do not allow is answered, and the rest is set.
    ///
    /// # Errors
    /// As the system says.
    pub fn set(&self, meta: &Meta, fresh: bool) -> Result<Lacking> {
        let mut lacking = Lacking::default();
        let stat = fs::fstat(self.fd)?;
        if (stat.st_uid, stat.st_gid) != (meta.user, meta.group) {
            let owner = (Some(Uid::from_raw(meta.user)), Some(Gid::from_raw(meta.group)));
            let set = fs::chownat(self.fd, c"", owner.0, owner.1, AtFlags::EMPTY_PATH);
            lacking.note(set, || format!("owner {}:{}", meta.user, meta.group))?;
        }
        // Also when it seems to fit: the change of the owner may have taken bits away.
        if !self.symlink && (stat.st_mode & 0o7777 != meta.mode || meta.mode & 0o6000 != 0) {
            let mode = Mode::from_raw_mode(meta.mode);
            let set = if self.handle { fs::chmod(self.own_name(), mode) } else { fs::fchmod(self.fd, mode) };
            lacking.note(set, || format!("mode {:04o}", meta.mode))?;
        }
        self.set_xattrs(&meta.xattrs, fresh, &mut lacking)?;
        self.set_mtime(meta.mtime)?;
        Ok(lacking)
    }

    /// Sets the time of the last change alone.
    ///
    /// # Errors
    /// As utimensat(2) says.
    pub fn set_mtime(&self, mtime: Mtime) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.s, tv_nsec: mtime.ns.into() },
        };
        match self.handle {
            true => fs::utimensat(self.fd, c"", &times, AtFlags::EMPTY_PATH),
            false => fs::futimens(self.fd, &times),
        }
    }

    fn set_xattrs(&self, wanted: &Xattrs, fresh: bool, lacking: &mut Lacking) -> Result<()> {
        if fresh && wanted.is_empty() {
            return Ok(());
        }
        let present = if fresh { Xattrs::new() } else { self.xattrs()? };
        for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
            let set = match self.handle {
                true => fs::removexattr(self.own_name(), &name[..]),
                false => fs::fremovexattr(self.fd, &name[..]),
            };
            lacking.note(set, || format!("extended attribute {}", name.escape_ascii()))?;
        }
        for (name, value) in wanted {
            // A change of the owner or mode may have taken away or altered what was there.
            let special = !name.starts_with(b"user.");
            if !special && present.get(name) == Some(value) {
                continue;
            }
            let set = match self.handle {
                true => fs::setxattr(self.own_name(), &name[..], value, XattrFlags::empty()),
                false => fs::fsetxattr(self.fd, &name[..], value, XattrFlags::empty()),
            };
            lacking.note(set, || format!("extended attribute {}", name.escape_ascii()))?;
        }
        Ok(())
    }

    fn xattrs(&self) -> Result<Xattrs> {
        let list = sized(|buffer| match self.handle {
            true => fs::listxattr(self.own_name(), buffer),
            false => fs::flistxattr(self.fd, buffer),
        });
        let list = match list {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Xattrs::new()),
            list => list?,
        };
        let mut xattrs = Xattrs::new();
        let mut total = 0;
        for name in list.split(|byte| *byte == 0).filter(|name| is_carried(name)) {
            let value = sized(|buffer| match self.handle {
                true => fs::getxattr(self.own_name(), name, buffer),
                false => fs::fgetxattr(self.fd, name, buffer),
            });
            match value {
                // Removed in between.
                Err(Errno::NODATA) => {}
                value => {
                    let value = value?;
                    total += name.len() + value.len();
                    if total > MAX_XATTR_BYTES / 2 {
                        return Err(Errno::TOOBIG);
                    }
                    xattrs.insert(name.to_vec(), value);
                }
            }
        }
        Ok(xattrs)
    }
}

/// Reads into a buffer that grows until what is read fits.
pub(super) fn sized(mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    /// XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux.
    const LONGEST_BYTES: usize = 64 << 10;
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LONGEST_BYTES => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// When the content of a `stat`'s file last changed.
pub fn mtime_of(stat: &Stat) -> Mtime {
    Mtime { s: stat.st_mtime, ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

impl Lacking {
    /// A right that is missing and a file system without the feature do not keep the content from the standby.
    fn note(&mut self, result: Result<()>, what: impl FnOnce() -> String) -> Result<()> {
        match result {
            Err(error @ (Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::RANGE)) => {
                self.0.get_or_insert_with(|| (what(), error));
                Ok(())
            }
            // An inode's room for attributes is a limit of the file system, not of the disk.
            Err(error @ (Errno::NOSPC | Errno::TOOBIG)) => {
                self.0.get_or_insert_with(|| (what(), error));
                Ok(())
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{beneath::Root, path::TreePath};
    use rustix::fd::AsFd;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn roundtrip(root: &Root, name: &str, meta: &Meta) -> Meta {
        let handle = root.handle(&TreePath::parse(name.as_bytes()).unwrap()).unwrap();
        let stat = fs::fstat(&handle).unwrap();
        let opened = Opened::handle(handle.as_fd(), &stat);
        assert_eq!(opened.set(meta, false), Ok(Lacking(None)), "{name}");
        opened.read(&fs::fstat(&handle).unwrap()).unwrap()
    }

    #[test]
    fn metadata_of_every_type_is_read_as_it_was_set() {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        symlink("nowhere", dir.path().join("symlink")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        fs::mknodat(root.fd(), "fifo", fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let own = fs::fstat(root.fd()).unwrap();
        let mtime = Mtime { s: -3, ns: 999_999_999 };
        let meta = Meta { mode: 0o6751, user: own.st_uid, group: own.st_gid, mtime, xattrs: Xattrs::new() };
        for name in ["file", "directory", "fifo"] {
            assert_eq!(roundtrip(&root, name, &meta), meta, "{name}");
        }
        let bare = Meta { mode: 0, ..meta.clone() };
        assert_eq!(roundtrip(&root, "symlink", &bare), bare);
        let mut with = meta.clone();
        with.xattrs.insert(b"user.a".to_vec(), b"1".to_vec());
        with.xattrs.insert(b"user.long".to_vec(), vec![7; 2000]);
        assert_eq!(roundtrip(&root, "file", &with), with);
        with.xattrs.remove(&b"user.a"[..]);
        assert_eq!(roundtrip(&root, "file", &with), with, "an attribute that is gone is removed");
    }
}

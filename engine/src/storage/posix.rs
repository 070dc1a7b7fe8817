//! Name, length and lock operations that io_uring and blocking twins share.
//!
//! They are rare beside reads, writes and syncs, so plain system calls do. File contents are written here by
//! [`copy`], which keeps a file before a resync, and by the short writes the ring is not worth.

use super::{FileIdentity, Open};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

/// SQLite's PENDING_BYTE; RESERVED is the next and SHARED the 510 after it (os.h).
const SQLITE_LOCK_OFFSET: i64 = 0x4000_0000;
const SQLITE_LOCK_BYTES: i64 = 512;

pub(super) fn open(path: &Path, how: Open) -> io::Result<File> {
    let plain = OpenOptions::new().read(true).write(true).open(path);
    match plain {
        Err(error) if how.create && error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn list(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// No such name, also because what should be a directory on the way is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn identity(path: &Path) -> io::Result<Option<FileIdentity>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileIdentity { device: metadata.dev(), inode: metadata.ino() })),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn stat(fd: &impl AsFd) -> io::Result<(FileIdentity, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    let length = u64::try_from(stat.st_size).expect("a file has no negative length");
    Ok((FileIdentity { device: stat.st_dev, inode: stat.st_ino }, length))
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// Writes all of `data`, however often that takes.
pub(super) fn write_all_at(fd: &impl AsFd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(fd, data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn sync_data(fd: &impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(fd)?)
}

pub(super) fn set_len(fd: &impl AsFd, length: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(fd, length)?)
}

/// FICLONE where the file system has it, else a copy in the kernel. True: blocks are shared.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(true);
    }
    io::copy(&mut &source, &mut &target)?;
    Ok(false)
}

/// An open-file-description lock: unlike SQLite's own POSIX locks it is not dropped when some other
/// descriptor of the file is closed in this process, and it conflicts with them in every process.
pub(super) fn lock_sqlite(fd: &impl AsRawFd) -> io::Result<bool> {
    // SAFETY: `flock` is plain integers, for which zero is a valid value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = SQLITE_LOCK_OFFSET;
    range.l_len = SQLITE_LOCK_BYTES;
    // SAFETY: the descriptor is open for the call and `range` outlives it.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

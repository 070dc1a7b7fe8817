//! What may be followed: refusals before the first lock is taken, each with its remedy.
//!
//! Works on the name and on a descriptor that the caller keeps. Exclusive locks are found later,
//! when the first read transaction begins.

use super::CaptureError;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes of the header at the beginning of a database file.
const DATABASE_HEADER_BYTES: usize = 100;

/// What the database's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseHeader {
    /// Page size in bytes.
    pub page_size: u32,
    /// `SQLITE_VERSION_NUMBER` of the library that last changed page 1.
    pub sqlite_version: u32,
    /// It is in WAL mode; false: in a rollback-journal mode.
    pub wal: bool,
}

/// A process that has a database open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// Its number.
    pub pid: u32,
    /// It has the database file open.
    pub database: bool,
    /// It has the WAL open.
    pub wal: bool,
    /// It has the wal-index open.
    pub index: bool,
}

/// Who has a database open, as far as this user may see: all for root, one's own otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Openers {
    /// Those that were found, without this process.
    pub found: Vec<Opener>,
    /// Processes whose files this user may not see.
    pub unseen: u32,
}

/// Looks at a database that may be followed one day: where it really lies and what its header says.
/// Not for a process that has it open with SQLite: its locks would be dropped.
///
/// # Errors
/// Every reason why it can never be followed as it is, besides its journal mode.
pub fn examine(path: &Path) -> Result<(PathBuf, DatabaseHeader), CaptureError> {
    look(path).map(|(real, _, header)| (real, header))
}

/// Resolves links, opens the database for reading and checks that its commits can be followed.
pub(super) fn admit(path: &Path) -> Result<(PathBuf, File, DatabaseHeader), CaptureError> {
    let (real, file, header) = look(path)?;
    if !header.wal {
        return Err(CaptureError::RollbackMode { path: real });
    }
    Ok((real, file, header))
}

fn look(path: &Path) -> Result<(PathBuf, File, DatabaseHeader), CaptureError> {
    let io = |what| {
        move |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => CaptureError::Missing { path: path.to_owned() },
            _ => CaptureError::Io { what, path: path.to_owned(), source },
        }
    };
    // SQLite resolves symbolic links too, so the WAL lies beside the resolved name.
    let real = std::fs::canonicalize(path).map_err(io("resolve"))?;
    let file = File::open(&real).map_err(io("open"))?;
    let metadata = file.metadata().map_err(io("look at"))?;
    if !metadata.is_file() {
        let found = "not a regular file".to_owned();
        return Err(CaptureError::NotADatabase { path: real, found });
    }
    if metadata.nlink() > 1 {
        return Err(CaptureError::HardLinks { path: real, links: metadata.nlink() });
    }
    let kind = rustix::fs::fstatfs(&file).map_err(|e| io("look at the file system of")(e.into()))?.f_type;
    if let Some(kind) = remote_kind(kind as u32) {
        return Err(CaptureError::NetworkFileSystem { path: real, kind });
    }
    let header = read_header(&real, &file, metadata.len())?;
    let strange = |opener: &&Opener| opener.wal && !opener.index;
    if let Some(opener) = openers(&real).found.iter().find(strange) {
        return Err(CaptureError::NoSharedIndex { path: real, pid: opener.pid });
    }
    Ok((real, file, header))
}

fn read_header(path: &Path, file: &File, size_bytes: u64) -> Result<DatabaseHeader, CaptureError> {
    let refuse = |found: String| CaptureError::NotADatabase { path: path.to_owned(), found };
    if size_bytes == 0 {
        // What SQLite has opened and not yet written is a database that is still to come.
        return Err(CaptureError::Missing { path: path.to_owned() });
    }
    if size_bytes < DATABASE_HEADER_BYTES as u64 {
        return Err(refuse(format!("{size_bytes} bytes")));
    }
    let mut bytes = [0; DATABASE_HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(|source| CaptureError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })?;
    if &bytes[..16] != b"SQLite format 3\0" {
        return Err(refuse("its first 16 bytes are not SQLite's".to_owned()));
    }
    let wal = match bytes[18].max(bytes[19]) {
        0 | 1 => false,
        2 => true,
        format => return Err(CaptureError::Wal2 { path: path.to_owned(), format }),
    };
    let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        size => u32::from(size),
    };
    if !crate::wal::page_size_is_valid(page_size) {
        return Err(refuse(format!("page size {page_size}")));
    }
    let sqlite_version = u32::from_be_bytes([bytes[96], bytes[97], bytes[98], bytes[99]]);
    Ok(DatabaseHeader { page_size, sqlite_version, wal })
}

/// File systems whose clients do not share memory or locks (magic numbers of statfs(2)).
fn remote_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        0x0bd0_0bd0 => "Lustre",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        _ => return None,
    })
}

/// Which other processes have the database at this resolved path open.
pub fn openers(database: &Path) -> Openers {
    let named = |suffix| NamedFile::new(super::files::beside(database, suffix));
    let (database, wal, index) = (named(""), named("-wal"), named("-shm"));
    let mut openers = Openers::default();
    let Ok(processes) = std::fs::read_dir("/proc") else { return openers };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let descriptors = match std::fs::read_dir(entry.path().join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                openers.unseen += u32::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        let mut opener = Opener { pid, database: false, wal: false, index: false };
        for descriptor in descriptors.flatten().map(|descriptor| descriptor.path()) {
            let Ok(link) = std::fs::read_link(&descriptor) else { continue };
            let is = |file: &NamedFile| file.is_open_as(&link, &descriptor);
            opener.database |= is(&database);
            opener.wal |= is(&wal);
            opener.index |= is(&index);
        }
        if (opener.database || opener.wal) && pid != std::process::id() {
            openers.found.push(opener);
        }
    }
    openers
}

/// A file by its name here, and by its number for a program that has another name for it.
struct NamedFile {
    path: PathBuf,
    number: Option<(u64, u64)>,
}

impl NamedFile {
    fn new(path: PathBuf) -> Self {
        let number = std::fs::metadata(&path).ok().map(|file| (file.dev(), file.ino()));
        Self { path, number }
    }

    /// A descriptor in `/proc` with this link is of this file. A container has other folders, but the same
    /// names in them; what is named otherwise is not looked at, as a dead network file system would hang us.
    fn is_open_as(&self, link: &Path, descriptor: &Path) -> bool {
        let same_number = || {
            let open = std::fs::metadata(descriptor).ok().map(|file| (file.dev(), file.ino()));
            self.number.is_some() && open == self.number
        };
        link == self.path || (link.file_name() == self.path.file_name() && same_number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_whose_clients_share_no_memory_are_known_and_local_ones_are_not() {
        let kinds = [0x6969, 0x517b, 0x0102_1997, 0x6573_5546].map(remote_kind);
        assert_eq!(kinds, [Some("NFS"), Some("SMB"), Some("9P"), Some("FUSE")]);
        let (ext4, xfs, tmpfs) = (0xef53, 0x5846_5342, 0x0102_1994);
        assert_eq!([ext4, xfs, tmpfs].map(remote_kind), [None; 3]);
    }
}

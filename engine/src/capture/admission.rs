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
#[derive(Debug, Clone, Copy)]
pub(super) struct DatabaseHeader {
    /// Page size in bytes.
    pub(super) page_size: u32,
    /// `SQLITE_VERSION_NUMBER` of the library that last changed page 1.
    pub(super) sqlite_version: u32,
}

/// Resolves links, opens the database for reading and checks that its commits can be followed.
pub(super) fn admit(path: &Path) -> Result<(PathBuf, File, DatabaseHeader), CaptureError> {
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
    if let Some(pid) = opener_without_index(&real) {
        return Err(CaptureError::NoSharedIndex { path: real, pid });
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
    match bytes[18].max(bytes[19]) {
        0 | 1 => return Err(CaptureError::RollbackMode { path: path.to_owned() }),
        2 => {}
        format => return Err(CaptureError::Wal2 { path: path.to_owned(), format }),
    }
    let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        size => u32::from(size),
    };
    if !crate::wal::page_size_is_valid(page_size) {
        return Err(refuse(format!("page size {page_size}")));
    }
    let sqlite_version = u32::from_be_bytes([bytes[96], bytes[97], bytes[98], bytes[99]]);
    Ok(DatabaseHeader { page_size, sqlite_version })
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

/// A process that has the WAL open and the wal-index not. Only processes whose descriptors may be
/// looked at are seen: all of them for root, one's own otherwise.
fn opener_without_index(database: &Path) -> Option<u32> {
    let wal = super::files::beside(database, "-wal");
    let index = super::files::beside(database, "-shm");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let (mut has_wal, mut has_index) = (false, false);
        for link in descriptors.flatten().filter_map(|d| std::fs::read_link(d.path()).ok()) {
            has_wal |= link == wal;
            has_index |= link == index;
        }
        if has_wal && !has_index && pid != std::process::id() {
            return Some(pid);
        }
    }
    None
}

//! Long-lived raw descriptors of database, `-wal` and `-shm`, read with `pread` only.
//!
//! Closing *any* descriptor of the database or `-shm` drops all POSIX locks SQLite holds on it in
//! this process. So each is opened once, kept until the connections are gone, and nobody else in
//! the process opens these files. They are never mapped: they shrink, and a mapping would be SIGBUS.

use super::CaptureError;
use crate::storage::read_full;
use crate::wal::{
    FRAME_HEADER_BYTES, FrameHeader, WAL_HEADER_BYTES, WAL_INDEX_BYTES, WalError, WalHeader, WalIndex,
};
use bytes::Bytes;
use lockstep_wire::FrameNo;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Tries to read the wal-index while somebody writes it: a writer needs well under a microsecond,
/// so this many failures mean that it was killed in between.
const INDEX_TRIES: u32 = 100;

/// The name of a file that belongs to a database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The three files of a database.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) path: PathBuf,
    database: File,
    wal: File,
    index: File,
    page_size: u32,
}

impl Files {
    /// Takes the database's descriptor and opens the other two, which exist once a connection has read.
    pub(super) fn open(path: PathBuf, database: File, page_size: u32) -> Result<Self, CaptureError> {
        let open = |suffix| {
            let name = beside(&path, suffix);
            File::open(&name).map_err(|source| CaptureError::Io { what: "open", path: name, source })
        };
        let (wal, index) = (open("-wal")?, open("-shm")?);
        Ok(Self { path, database, wal, index, page_size })
    }

    pub(super) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// The wal-index header; None while a killed writer's half-written one stands there.
    pub(super) fn wal_index(&self) -> Result<Option<WalIndex>, CaptureError> {
        for _ in 0..INDEX_TRIES {
            let (first, second) = (self.read_index()?, self.read_index()?);
            // Twice the same: then the backfill count belongs to the header before it.
            match (first, second) {
                (Ok(first), Ok(second)) if first == second => return Ok(Some(first)),
                _ => std::hint::spin_loop(),
            }
        }
        Ok(None)
    }

    fn read_index(&self) -> Result<Result<WalIndex, WalError>, CaptureError> {
        let mut bytes = [0; WAL_INDEX_BYTES];
        let length =
            read_full(&self.index, &mut bytes, 0).map_err(|e| self.io("read the wal-index of", e))?;
        Ok(WalIndex::parse(&bytes[..length]))
    }

    /// The WAL header as it stands now.
    pub(super) fn wal_header(&self) -> Result<Result<WalHeader, WalError>, CaptureError> {
        let mut bytes = [0; WAL_HEADER_BYTES];
        let length = read_full(&self.wal, &mut bytes, 0).map_err(|e| self.io("read the WAL of", e))?;
        Ok(WalHeader::parse(&bytes[..length]))
    }

    /// Header of one frame, unchecked; None beyond the end of the file.
    pub(super) fn frame_header(&self, frame: FrameNo) -> Result<Option<FrameHeader>, CaptureError> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let offset = crate::wal::frame_offset(frame, self.page_size);
        let length = read_full(&self.wal, &mut bytes, offset).map_err(|e| self.io("read the WAL of", e))?;
        Ok((length == FRAME_HEADER_BYTES).then(|| FrameHeader::parse(&bytes)))
    }

    /// Whole frames, unchecked; shorter at the end of the file.
    pub(super) fn frames(&self, first: FrameNo, count: u32) -> Result<Bytes, CaptureError> {
        let mut bytes = vec![0; (u64::from(count) * crate::wal::frame_bytes(self.page_size)) as usize];
        let offset = crate::wal::frame_offset(first, self.page_size);
        let length = read_full(&self.wal, &mut bytes, offset).map_err(|e| self.io("read the WAL of", e))?;
        bytes.truncate(length);
        Ok(bytes.into())
    }

    /// Whole pages of the database file; shorter at the end of the file.
    pub(super) fn pages(&self, first_page: u32, count: u32) -> Result<Bytes, CaptureError> {
        let size = u64::from(self.page_size);
        let mut bytes = vec![0; (u64::from(count) * size) as usize];
        let offset = u64::from(first_page.saturating_sub(1)) * size;
        let length = read_full(&self.database, &mut bytes, offset).map_err(|e| self.io("read", e))?;
        bytes.truncate(length / size as usize * size as usize);
        Ok(bytes.into())
    }

    /// Size of the database file in whole pages.
    pub(super) fn page_count(&self) -> Result<u32, CaptureError> {
        let metadata = self.database.metadata().map_err(|e| self.io("look at", e))?;
        Ok((metadata.len() / u64::from(self.page_size)) as u32)
    }

    /// Writes the WAL to disk. It carries no locks: its descriptor is free to use.
    pub(super) fn sync_wal(&self) -> Result<(), CaptureError> {
        self.wal.sync_data().map_err(|e| self.io("write to disk the WAL of", e))
    }

    /// Writes the database file to disk.
    pub(super) fn sync_database(&self) -> Result<(), CaptureError> {
        self.database.sync_data().map_err(|e| self.io("write to disk", e))
    }

    /// Whether the names still lead to the files that are open.
    pub(super) fn check_names(&self) -> Result<(), CaptureError> {
        for (file, suffix) in [(&self.database, ""), (&self.wal, "-wal"), (&self.index, "-shm")] {
            let path = beside(&self.path, suffix);
            let open = file.metadata().map_err(|e| self.io("look at", e))?;
            match std::fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (open.dev(), open.ino()) => {}
                Ok(_) => return Err(CaptureError::Replaced { path, what: "another file has its name" }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(CaptureError::Replaced { path, what: "the name is gone" });
                }
                Err(source) => return Err(CaptureError::Io { what: "look at", path, source }),
            }
        }
        Ok(())
    }

    fn io(&self, what: &'static str, source: io::Error) -> CaptureError {
        CaptureError::Io { what, path: self.path.clone(), source }
    }
}

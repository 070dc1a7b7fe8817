//! Makes ordinary databases of what is kept: the kept state, and the state at the fork.
//!
//! Works on copies in a directory of the caller's; the kept files are only read, and checked
//! against the manifest. SQLite's own recovery reads the WAL. The state at the fork exists only
//! while no checkpoint had moved a later frame into the database file before it was kept; that is
//! looked at page by page, because a database cut in the middle would look sound and be wrong.

use super::{DATABASE, Kept, WAL};
use crate::wal::{
    FRAME_HEADER_BYTES, FrameHeader, WAL_HEADER_BYTES, WalHeader, WalPoint, frame_bytes, frame_offset,
};
use lockstep_wire::FrameNo;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Kept data as ordinary databases, none with a WAL.
#[derive(Debug)]
pub struct Unpacked {
    /// What this node had.
    pub kept: PathBuf,
    /// What both nodes had, or why that cannot be told any more.
    pub fork: Result<PathBuf, NoFork>,
}

/// Why the state at the fork cannot be had from the kept data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoFork {
    /// Nobody knew it when the data was kept.
    #[error("where the two histories parted is not recorded")]
    Unknown,
    /// Later frames were moved into the database file.
    #[error("a checkpoint had moved later commits into the database file")]
    Checkpointed,
    /// SQLite does not find a sound database there.
    #[error("the database at the fork is not sound")]
    Unsound,
}

/// Why kept data cannot be opened up.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A kept file is not what was kept.
    #[error("{} is not what was kept (its {what} differs from the manifest's): restore it from a backup", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Size or checksum.
        what: &'static str,
    },
    /// SQLite's recovery found another end of the WAL than the manifest names.
    #[error("SQLite finds {found} of {}, the manifest says {expected}: do not rely on it", path.display())]
    Recovered {
        /// The copy.
        path: PathBuf,
        /// Last commit frame by the manifest.
        expected: u32,
        /// Last commit frame that SQLite found.
        found: u32,
    },
    /// SQLite's check failed.
    #[error("the copy {} is not sound ({fault}): do not rely on it", path.display())]
    Unsound {
        /// The copy.
        path: PathBuf,
        /// What SQLite found first.
        fault: String,
    },
    /// A file.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The attempt, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("SQLite cannot open the copy of the kept data {}: {source}", path.display())]
    Sqlite {
        /// The copy.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Io { what, path, source }
}

/// Writes `kept.db` and, if it can be had, `fork.db` into `directory`.
///
/// # Errors
/// [`UnpackError`]: damaged kept files, no room, no sound database.
pub fn unpack(kept: &Kept, directory: &Path) -> Result<Unpacked, UnpackError> {
    let whole = directory.join("kept.db");
    copy_checked(&kept.directory.join(DATABASE), &whole, kept.database_bytes, kept.database_xxh3)?;
    let wal = beside(&whole, "-wal");
    copy_checked(&kept.directory.join(WAL), &wal, kept.wal_bytes, kept.wal_xxh3)?;
    let fork = match kept.fork {
        None => Err(NoFork::Unknown),
        Some(point) => fork_state(&whole, &point, &directory.join("fork.db"))?,
    };
    let sqlite = |source| UnpackError::Sqlite { path: whole.clone(), source };
    let found = settle(&whole).map_err(sqlite)?;
    let expected = kept.last.frame.0;
    if found != expected {
        return Err(UnpackError::Recovered { path: whole, expected, found });
    }
    Ok(Unpacked { kept: whole, fork })
}

/// Writes the database at `database`, which nobody writes now, and its WAL as an ordinary sound database
/// to `target`. The files themselves are only read.
///
/// # Errors
/// [`UnpackError`]: no such file, no room, no sound database.
pub fn copy_at_rest(database: &Path, target: &Path) -> Result<(), UnpackError> {
    std::fs::copy(database, target).map_err(failed("copy", database))?;
    let wal = beside(database, "-wal");
    match std::fs::copy(&wal, beside(target, "-wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        copied => drop(copied.map_err(failed("copy", &wal))?),
    }
    settle(target).map_err(|source| UnpackError::Sqlite { path: target.to_owned(), source })?;
    check(target)
}

/// Runs SQLite's own check over a whole database.
///
/// # Errors
/// [`UnpackError::Unsound`] with the first thing that is wrong.
pub fn check(database: &Path) -> Result<(), UnpackError> {
    let path = database.to_owned();
    match integrity(database) {
        Ok(word) if word == "ok" => Ok(()),
        Ok(fault) => Err(UnpackError::Unsound { path, fault }),
        Err(source) => Err(UnpackError::Sqlite { path, source }),
    }
}

fn copy_checked(from: &Path, to: &Path, bytes: u64, xxh3: u64) -> Result<(), UnpackError> {
    let changed = |what| UnpackError::Changed { path: from.to_owned(), what };
    // The system's own copy shares blocks where the file system can.
    if std::fs::copy(from, to).map_err(failed("copy", from))? != bytes {
        return Err(changed("size"));
    }
    let mut file = File::open(to).map_err(failed("read", to))?;
    let (mut hash, mut buffer) = (Xxh3::new(), vec![0; super::HASH_READ_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(failed("read", to))? {
            0 if hash.digest() == xxh3 => return Ok(()),
            0 => return Err(changed("checksum")),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// Lets SQLite recover a copy and makes it a database without a WAL; answers the last commit frame it found.
fn settle(database: &Path) -> rusqlite::Result<u32> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
    let frames: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", (), |row| row.get(1))?;
    connection.query_row("PRAGMA journal_mode=DELETE", (), |_| Ok(()))?;
    // A database that is not in WAL mode has no frames: -1.
    Ok(u32::try_from(frames).unwrap_or(0))
}

/// The state at the fork, from the copies of database and WAL at `whole`.
fn fork_state(whole: &Path, fork: &WalPoint, target: &Path) -> Result<Result<PathBuf, NoFork>, UnpackError> {
    let wal_path = beside(whole, "-wal");
    let database = File::open(whole).map_err(failed("read", whole))?;
    let wal = File::open(&wal_path).map_err(failed("read", &wal_path))?;
    let page_size = match was_checkpointed(&database, &wal, fork).map_err(failed("read", &wal_path))? {
        Ok(page_size) => page_size,
        Err(why) => return Ok(Err(why)),
    };
    std::fs::copy(whole, target).map_err(failed("copy", whole))?;
    let cut_path = beside(target, "-wal");
    std::fs::copy(&wal_path, &cut_path).map_err(failed("copy", &wal_path))?;
    let cut = OpenOptions::new().write(true).open(&cut_path).map_err(failed("write", &cut_path))?;
    let end = frame_offset(FrameNo(fork.position.frame.0 + 1), page_size);
    cut.set_len(end).map_err(failed("cut", &cut_path))?;
    let sound = settle(target).is_ok_and(|found| found == fork.position.frame.0) && check(target).is_ok();
    Ok(if sound { Ok(target.to_owned()) } else { Err(NoFork::Unsound) })
}

/// The first line of `PRAGMA integrity_check`: `ok`, or what is wrong.
fn integrity(database: &Path) -> rusqlite::Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))
}

/// Was a frame after the fork moved into the database file? Answers the page size if none was. A page
/// that only later frames have must still be in the file as it was: so it must equal none of them.
fn was_checkpointed(database: &File, wal: &File, fork: &WalPoint) -> io::Result<Result<u32, NoFork>> {
    let mut header = [0; WAL_HEADER_BYTES];
    wal.read_exact_at(&mut header, 0)?;
    let Ok(header) = WalHeader::parse(&header) else { return Ok(Err(NoFork::Unknown)) };
    let page_bytes = header.page_size as usize;
    let mut frame = vec![0; frame_bytes(header.page_size) as usize];
    let mut page = vec![0; page_bytes];
    let (mut before, mut pages_at_fork) = (HashSet::new(), 0);
    for number in 1.. {
        let offset = frame_offset(FrameNo(number), header.page_size);
        if wal.read_exact_at(&mut frame, offset).is_err() {
            break;
        }
        let head = frame.first_chunk::<FRAME_HEADER_BYTES>().expect("a frame begins with its header");
        let head = FrameHeader::parse(head);
        if head.salts != header.salts {
            break;
        }
        if number <= fork.position.frame.0 {
            before.insert(head.page);
            pages_at_fork = head.commit_pages;
            continue;
        }
        // A page that was added after the fork, or is masked by a frame before it, tells nothing.
        if before.contains(&head.page) || head.page > pages_at_fork {
            continue;
        }
        let at = u64::from(head.page.saturating_sub(1)) * page_bytes as u64;
        let in_file = database.read_exact_at(&mut page, at).is_ok();
        if !in_file || page == frame[FRAME_HEADER_BYTES..] {
            return Ok(Err(NoFork::Checkpointed));
        }
    }
    Ok(Ok(header.page_size))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

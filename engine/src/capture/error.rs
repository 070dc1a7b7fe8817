//! Why a database cannot be followed, each with its remedy in one line.

use crate::wal::WalError;
use std::path::PathBuf;

/// Why capture does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No such file.
    #[error("database {path} does not exist: let the application create it first, or correct the path")]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// Not an SQLite file (or encrypted, or empty).
    #[error(
        "{path} is not an SQLite database ({found}): correct the path; encrypted databases are not supported"
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What stands there instead.
        found: String,
    },
    /// `journal_mode` is DELETE, TRUNCATE, PERSIST, MEMORY or OFF.
    #[error(
        "database {path} is in rollback-journal mode: run `PRAGMA journal_mode=WAL` on it once, while the application is stopped"
    )]
    RollbackMode {
        /// The database.
        path: PathBuf,
    },
    /// The branch with two WAL files.
    #[error(
        "database {path} uses wal2 (file format {format}), which only an SQLite branch knows: run `PRAGMA journal_mode=WAL` on it with that SQLite"
    )]
    Wal2 {
        /// The database.
        path: PathBuf,
        /// File format version in its header.
        format: u8,
    },
    /// Several names: each name has a WAL of its own, which corrupts the database.
    #[error(
        "database {path} has {links} hard links, and SQLite keeps a separate WAL for each name: remove all names but one"
    )]
    HardLinks {
        /// The database.
        path: PathBuf,
        /// Number of names.
        links: u64,
    },
    /// Shared memory does not work between programs there.
    #[error(
        "database {path} lies on {kind}, where SQLite's locks and shared memory cannot be relied on: move it to a local file system"
    )]
    NetworkFileSystem {
        /// The database.
        path: PathBuf,
        /// Name of the file system.
        kind: &'static str,
    },
    /// Somebody holds the file lock for good.
    #[error(
        "database {path} is locked exclusively: remove `locking_mode=EXCLUSIVE` or `vfs=unix-excl` from the application, or end the program that holds it"
    )]
    Exclusive {
        /// The database.
        path: PathBuf,
    },
    /// A program has the WAL open without the shared wal-index: its commits could not be seen.
    #[error(
        "process {pid} has {path} open without SQLite's shared memory: remove `nolock`, `immutable`, `vfs=unix-none`, `vfs=unix-excl` or `locking_mode=EXCLUSIVE` from it"
    )]
    NoSharedIndex {
        /// The database.
        path: PathBuf,
        /// The program.
        pid: u32,
    },
    /// The name leads to another file now.
    #[error(
        "{path} is no longer the file that was opened ({what}): restart the agent once the file is in its final place"
    )]
    Replaced {
        /// The file.
        path: PathBuf,
        /// What happened.
        what: &'static str,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The attempt, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("cannot {what} database {path}: {source}")]
    Sqlite {
        /// The attempt, as a verb.
        what: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Committed frames do not verify: the disk or a program that writes without locks.
    #[error("the WAL of {path} is damaged: {source}: check the disk, then let the standby take over")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What does not fit.
        source: WalError,
    },
    /// The capture thread has ended.
    #[error("capture has stopped")]
    Stopped,
    /// More commands are waiting than [`super::COMMANDS_MAX`].
    #[error("capture has {0} commands waiting: wait for their answers first")]
    Busy(usize),
}

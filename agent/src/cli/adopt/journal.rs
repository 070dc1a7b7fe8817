//! Changing the journal mode of a database that nobody has open.

use super::facts::open_by;
use crate::control::{Failure, FailureCode};
use lockstep_engine::capture::{self, DatabaseHeader};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Somebody who opens the database just now may be gone again after this.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Wal,
    Delete,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Delete => "delete",
        }
    }
}

fn refused(sentence: String) -> Failure {
    Failure::new(FailureCode::Refused, sentence)
}

/// What may be switched at all.
pub(super) fn examine(database: &Path) -> Result<(PathBuf, DatabaseHeader), Failure> {
    capture::examine(database).map_err(|error| refused(error.to_string()))
}

/// Switches it; refuses while anybody has it open.
pub(super) fn switch(path: &Path, mode: Mode) -> Result<(), Failure> {
    let (holders, unseen) = open_by(path);
    if !holders.is_empty() {
        let names: Vec<String> =
            holders.iter().map(|holder| format!("process {} ({})", holder.pid, holder.command)).collect();
        let names = names.join(", ");
        return Err(refused(format!("{} is open in {names}: stop it first", path.display())));
    }
    if unseen > 0 {
        let sentence = format!(
            "the files of {unseen} processes cannot be seen, and one of them may have {} open: run this as root",
            path.display()
        );
        return Err(refused(sentence));
    }
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            refused(format!("{} is locked by another program: stop it first", path.display()))
        }
        _ => Failure::new(FailureCode::Failed, format!("cannot switch {}: {error}", path.display())),
    };
    let found = set(path, mode).map_err(failed)?;
    if found != mode.word() {
        let sentence = format!("{} stays in journal mode {found}, expected {}", path.display(), mode.word());
        return Err(Failure::new(FailureCode::Failed, sentence));
    }
    Ok(())
}

fn set(path: &Path, mode: Mode) -> rusqlite::Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.query_row(&format!("PRAGMA journal_mode={}", mode.word()), (), |row| row.get(0))
}

//! First copy, page-difference resync (standby's half) and quarantine.
//!
//! The pages themselves are written by [`crate::mirror::Mirror`]; here is what must happen before
//! any of them is touched on a node that was active: its own data is kept.

pub mod differences;
pub mod quarantine;

use std::path::Path;

/// Writes what a live database holds now to the new file `destination`, beside readers and writers.
///
/// # Errors
/// As SQLite says, also when `destination` exists.
pub fn snapshot_live(database: &Path, destination: &Path) -> rusqlite::Result<()> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(database, flags)?;
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let destination = destination.to_str().ok_or_else(|| {
        rusqlite::Error::ToSqlConversionFailure("the name of the new file is not UTF-8".into())
    })?;
    connection.execute("VACUUM INTO ?1", [destination]).map(|_| ())
}

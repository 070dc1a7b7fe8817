//! The last word of the demonstration: is a node's database sound, and is everything in it?
//!
//! Runs on each node, on a copy of the files as they lie on its disk, with stock SQLite: neither
//! agent is asked.

use anyhow::Context;
use aws_lc_rs::digest;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// One node's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verified {
    /// `ok`, or the first complaint of `PRAGMA integrity_check`.
    pub(super) integrity: String,
    /// SHA-256 over all pages after a checkpoint, in hexadecimal.
    pub(super) pages_sha256: String,
    /// Orders in it.
    pub(super) orders: u64,
    /// Acknowledged orders that are not.
    pub(super) missing: u64,
}

/// A folder beside the database, removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// Looks at a copy of `database` and its WAL.
///
/// # Errors
/// The files cannot be read, or SQLite finds no database in them.
pub(super) fn verify(database: &Path, acknowledged: &Path) -> anyhow::Result<Verified> {
    let folder = database.with_extension(format!("verify-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let copy = Scratch(folder);
    let file = copy.0.join("copy.db");
    fs::copy(database, &file).with_context(|| format!("{} cannot be copied", database.display()))?;
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    match fs::copy(&wal, copy.0.join("copy.db-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context("the WAL"),
        _ => {}
    }
    let connection = Connection::open(&file)?;
    let integrity: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    let orders: i64 = connection.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?;
    let missing = missing(&connection, acknowledged)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    drop(connection);
    Ok(Verified { integrity, pages_sha256: sha256(&file)?, orders: orders.unsigned_abs(), missing })
}

fn missing(connection: &Connection, acknowledged: &Path) -> anyhow::Result<u64> {
    let ids =
        File::open(acknowledged).with_context(|| format!("{} cannot be read", acknowledged.display()))?;
    let mut select = connection.prepare("SELECT 1 FROM orders WHERE id = ?1")?;
    let mut missing = 0;
    for id in BufReader::new(ids).lines() {
        let id = id?;
        if !select.exists([&id])? {
            eprintln!("acknowledged order {id} is missing");
            missing += 1;
        }
    }
    Ok(missing)
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let mut file = File::open(file)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => context.update(&chunk[..count]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

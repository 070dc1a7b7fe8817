//! The two connections whose read transactions hold the WAL in place.
//!
//! One of them always reads; rolling begins the other one before the first ends. The order, and
//! what must be read in between, is the follower's. Nothing here waits: a lock that is taken is an
//! answer. The connections neither checkpoint by themselves nor remove the WAL when they close.

use super::CaptureError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long opening may meet a locked database before it counts as locked for good: longer than any
/// recovery of a WAL of sane size, shorter than an operator's patience.
const OPEN_LOCKED_MS: u64 = 2_000;

/// Two connections, one of which holds a read transaction.
#[derive(Debug)]
pub(super) struct Marks {
    path: PathBuf,
    connections: [Connection; 2],
    held: usize,
}

impl Marks {
    /// Opens both connections and begins to read with one. The third that comes with them is for
    /// checkpoints from another thread; it holds nothing.
    pub(super) fn open(path: &Path) -> Result<(Self, Connection), CaptureError> {
        let deadline = Instant::now() + Duration::from_millis(OPEN_LOCKED_MS);
        loop {
            match Self::try_open(path) {
                Ok(Some(marks)) => return Ok(marks),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(CaptureError::Exclusive { path: path.to_owned() }),
                Err(source) => {
                    return Err(CaptureError::Sqlite { what: "open", path: path.to_owned(), source });
                }
            }
        }
    }

    fn try_open(path: &Path) -> rusqlite::Result<Option<(Self, Connection)>> {
        let open = || -> rusqlite::Result<Option<(Self, Connection)>> {
            let (connections, third) = ([connect(path)?, connect(path)?], connect(path)?);
            let marks = Self { path: path.to_owned(), connections, held: 0 };
            // A connection that has read nothing does not know of the WAL and checkpoints nothing.
            if !begin_read(&marks.connections[0])? || !begin_read(&third)? {
                return Ok(None);
            }
            execute(&third, "ROLLBACK")?;
            Ok(Some((marks, third)))
        };
        match open() {
            Err(e) if is_busy(&e) => Ok(None),
            other => other,
        }
    }

    /// Begins to read with the free connection. False: a lock was in the way, try later.
    pub(super) fn begin_next(&self) -> Result<bool, CaptureError> {
        begin_read(self.free()).map_err(|e| self.error("read", e))
    }

    /// Takes the write lock with the free connection if nobody has it. False: somebody has.
    pub(super) fn begin_next_writing(&self) -> Result<bool, CaptureError> {
        match execute(self.free(), "BEGIN IMMEDIATE") {
            Ok(()) => Ok(true),
            Err(e) if is_busy(&e) => Ok(false),
            Err(e) => Err(self.error("lock", e)),
        }
    }

    /// Ends the transaction that was held; the other one is held now.
    pub(super) fn keep_next(&mut self) -> Result<(), CaptureError> {
        self.end(self.held)?;
        self.held = 1 - self.held;
        Ok(())
    }

    /// Ends the transaction that was begun last; the held one stays.
    pub(super) fn drop_next(&self) -> Result<(), CaptureError> {
        self.end(1 - self.held)
    }

    /// A passive checkpoint with the free connection. False: somebody else is checkpointing.
    pub(super) fn checkpoint(&self) -> Result<bool, CaptureError> {
        checkpoint(self.free(), &self.path)
    }

    fn free(&self) -> &Connection {
        &self.connections[1 - self.held]
    }

    fn end(&self, which: usize) -> Result<(), CaptureError> {
        execute(&self.connections[which], "ROLLBACK").map_err(|e| self.error("end a transaction on", e))
    }

    fn error(&self, what: &'static str, source: rusqlite::Error) -> CaptureError {
        CaptureError::Sqlite { what, path: self.path.clone(), source }
    }
}

/// A passive checkpoint: copies what no reader needs any more. How far it came the wal-index says.
/// False: somebody else is checkpointing.
pub(super) fn checkpoint(connection: &Connection, path: &Path) -> Result<bool, CaptureError> {
    let run = || -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
        // The first column is 1 when the checkpoint lock was taken.
        statement.query_row([], |row| row.get::<_, i64>(0)).map(|busy| busy == 0)
    };
    match run() {
        Err(e) if is_busy(&e) => Ok(false),
        other => {
            other.map_err(|source| CaptureError::Sqlite { what: "checkpoint", path: path.to_owned(), source })
        }
    }
}

/// A connection that neither waits, checkpoints by itself, nor removes the WAL.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // A mapping of the database would be SIGBUS when it shrinks.
    connection
        .execute_batch("PRAGMA mmap_size=0; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;")?;
    keep_wal_on_close(&connection)?;
    Ok(connection)
}

fn keep_wal_on_close(connection: &Connection) -> rusqlite::Result<()> {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle is open for the whole call, "main" is a terminated string, and this opcode
    // reads and writes one int through the pointer, which outlives the call.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            (&raw mut on).cast(),
        )
    };
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }
}

/// Begins a read transaction. The pragma reads one number of page 1, which takes the mark, and does
/// not parse the schema. False: a lock was in the way.
pub(super) fn begin_read(connection: &Connection) -> rusqlite::Result<bool> {
    execute(connection, "BEGIN")?;
    let read = connection
        .prepare_cached("PRAGMA schema_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)));
    match read {
        Ok(_) => Ok(true),
        Err(e) => {
            execute(connection, "ROLLBACK")?;
            if is_busy(&e) { Ok(false) } else { Err(e) }
        }
    }
}

/// Ends a transaction.
pub(super) fn rollback(connection: &Connection) -> rusqlite::Result<()> {
    execute(connection, "ROLLBACK")
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

//! From mirror to database: every durable commit counts, the lock goes, stock SQLite opens.
//!
//! SQLite's recovery checks every checksum again, on a thread of its own as it reads the whole WAL, and what it finds must be what we hold. Between the
//! end of our lock and SQLite's own lock lies a moment in which a foreign opener could come in; it
//! would find the same sound database, and the checks afterwards notice if it changed the WAL.

use super::{Mirror, MirrorConfig, MirrorError, state_file::StateFile};
use crate::{
    equality::PageHashCache,
    storage::{Storage, StorageFile},
    wal::WalPoint,
};
use rusqlite::{Connection, OpenFlags, config::DbConfig};

/// A database that was a mirror and is open now.
#[derive(Debug)]
pub struct TakenOver {
    /// Where its WAL ends; capture continues the numbering from here.
    pub point: WalPoint,
    /// Keeps the WAL from being checkpointed and removed by an application's last close: drop it only
    /// when capture has attached. Itself it neither checkpoints nor removes the WAL when closed.
    pub connection: Connection,
    /// What is remembered of its pages; the node that serves goes on with it.
    pub page_hashes: Option<PageHashCache>,
}

impl Mirror {
    pub(super) fn can_be_opened(&self) -> bool {
        self.page_count > 0 && (self.state.complete || self.is_diverged())
    }

    /// May [`Self::take_over`] begin?
    ///
    /// # Errors
    /// [`MirrorError::Incomplete`].
    pub fn may_be_opened(&self) -> Result<(), MirrorError> {
        let incomplete = || MirrorError::Incomplete(self.config.database.clone());
        self.can_be_opened().then_some(()).ok_or_else(incomplete)
    }

    /// No active ever sent this database here, and this node never wrote it. A copy that has only begun is
    /// something else: its active has the database.
    pub fn never_held_anything(&self) -> bool {
        self.page_count == 0 && !self.state.mirrors && self.header.is_none()
    }

    /// Ends the mirror. Everything received through the last commit is durable and in the database.
    ///
    /// # Errors
    /// [`MirrorError::Incomplete`] when there is no complete copy, [`MirrorError::Replaced`],
    /// [`MirrorError::Recovery`] when SQLite finds something else than we hold, `disk`. The files are
    /// then as they were; open the mirror anew.
    pub async fn take_over(mut self) -> Result<TakenOver, MirrorError> {
        self.flush().await?;
        self.may_be_opened()?;
        self.check_names().await?;
        let lock = std::sync::Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        let point = self.point();
        let took_over = Some(point);
        self.write_state(StateFile { mirrors: false, complete: false, took_over, ..self.state }).await?;
        self.disk.remove(&self.config.shm()).await?;
        let page_hashes = self.hashes.take();
        let Self { disk, config, database, wal, wal_identity, page_count, .. } = self;
        // Closing a descriptor after SQLite has opened would drop SQLite's POSIX locks.
        wal.close().await?;
        database.close().await?;
        let found = Expected { frame: point.position.frame.0, page_count };
        let opened = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || open_with_sqlite(&config, found))
        };
        let connection = opened.await.expect("opening with SQLite does not panic")?;
        super::check_name(&disk, config.wal(), wal_identity).await?;
        Ok(TakenOver { point, connection, page_hashes })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    frame: u32,
    page_count: u32,
}

fn open_with_sqlite(config: &MirrorConfig, expected: Expected) -> Result<Connection, MirrorError> {
    let recovered = || -> rusqlite::Result<(Connection, Expected)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&config.database, flags)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(std::time::Duration::from_secs(1))?;
        let page_count = connection.query_row("PRAGMA page_count", (), |row| row.get(0))?;
        // Reports the WAL's frames after recovery and moves nothing.
        let frame = connection.query_row("PRAGMA wal_checkpoint(NOOP)", (), |row| row.get(1));
        let frame: i64 = frame?;
        Ok((connection, Expected { frame: u32::try_from(frame).unwrap_or(u32::MAX), page_count }))
    };
    let database = config.database.clone();
    let (connection, found) = match recovered() {
        Ok(recovered) => recovered,
        Err(source) => return Err(MirrorError::Sqlite { database, source }),
    };
    if found != expected {
        let (held, found) = (format!("{expected:?}"), format!("{found:?}"));
        return Err(MirrorError::Recovery { database, held, found });
    }
    Ok(connection)
}

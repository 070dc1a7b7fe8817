//! The thread that checkpoints while writers go on, so that the capture thread never waits for it.
//!
//! It has a connection of its own and one job at a time. What it does needs no lock that stops a
//! writer; the rest, under the write lock, is [`super::hand_over`]'s.

use super::CaptureError;
use super::files::Files;
use super::marks;
use super::wakeup::Signal;
use super::worker::Worker;
use rusqlite::Connection;
use std::sync::Arc;

/// How a checkpoint went.
pub(super) type Done = Result<(), CaptureError>;

/// The thread; it has only one kind of job.
pub(super) type Checkpointer = Worker<(), Done>;

/// Starts the thread.
pub(super) fn start(
    connection: Connection,
    files: &Arc<Files>,
    signal: Arc<Signal>,
) -> Result<Checkpointer, CaptureError> {
    let own = Arc::clone(files);
    Worker::start("lockstep-ckpt", files, signal, move |()| checkpoint(&connection, &own))
}

/// Copies what no reader needs any more into the database file and makes that durable. SQLite
/// itself syncs the database only at the end of the WAL, so the last step would have all of it to
/// write; and the WAL it syncs only before, so what came meanwhile is written here.
fn checkpoint(connection: &Connection, files: &Files) -> Done {
    let _anothers_is_as_good = marks::checkpoint(connection, &files.path)?;
    files.sync_database()?;
    files.sync_wal()
}

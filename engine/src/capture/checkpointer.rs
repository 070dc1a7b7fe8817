//! The thread that checkpoints while writers go on, so that the capture thread never waits for it.
//!
//! It has a connection of its own and one job at a time. What it does needs no lock that stops a
//! writer; the rest, under the write lock, is [`super::hand_over`]'s.

use super::CaptureError;
use super::files::Files;
use super::marks;
use super::wakeup::Signal;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// How a checkpoint went.
type Done = Result<(), CaptureError>;

/// The thread and its only job.
#[derive(Debug)]
pub(super) struct Checkpointer {
    jobs: Option<SyncSender<()>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread; `signal` wakes the capture thread after each job.
    pub(super) fn start(
        connection: Connection,
        files: Arc<Files>,
        signal: Arc<Signal>,
    ) -> Result<Self, CaptureError> {
        let path = files.path.clone();
        let (jobs, waiting) = sync_channel(1);
        let (tell, done) = sync_channel(1);
        let work = move || {
            while waiting.recv().is_ok() {
                let result = checkpoint(&connection, &files);
                if tell.send(result).is_err() {
                    return;
                }
                signal.raise();
            }
        };
        let thread = std::thread::Builder::new()
            .name("lockstep-ckpt".to_owned())
            .spawn(work)
            .map_err(|source| CaptureError::Io { what: "start a thread for", path, source })?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Begins a checkpoint; the one before must be done.
    pub(super) fn begin(&self) -> Result<(), CaptureError> {
        let jobs = self.jobs.as_ref().expect("open until dropped");
        jobs.try_send(()).map_err(|_| CaptureError::Stopped)
    }

    /// How the checkpoint that was begun went; None while it runs.
    pub(super) fn done(&self) -> Result<Option<Done>, CaptureError> {
        match self.done.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(CaptureError::Stopped),
        }
    }
}

impl Drop for Checkpointer {
    /// Waits for the job under way: the connection must be gone before a descriptor is closed.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread panicked");
        }
    }
}

/// Copies what no reader needs any more into the database file and makes that durable. SQLite
/// itself syncs the database only at the end of the WAL, so the last step would have all of it to
/// write; and the WAL it syncs only before, so what came meanwhile is written here.
fn checkpoint(connection: &Connection, files: &Files) -> Done {
    let _anothers_is_as_good = marks::checkpoint(connection, &files.path)?;
    files.sync_database()?;
    files.sync_wal()
}

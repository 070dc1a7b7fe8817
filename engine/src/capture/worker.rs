//! A thread beside the capture thread for what may wait for a disk or a lock: one job at a time.
//!
//! Owns whatever its work owns, a connection above all. It decides nothing: the capture thread
//! begins jobs and takes what came of them.

use super::CaptureError;
use super::files::Files;
use super::wakeup::Signal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// The thread, from `Job` to `Done`.
#[derive(Debug)]
pub(super) struct Worker<Job, Done> {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl<Job: Send + 'static, Done: Send + 'static> Worker<Job, Done> {
    /// Starts the thread; `signal` wakes the capture thread after each job.
    pub(super) fn start(
        name: &str,
        files: &Files,
        signal: Arc<Signal>,
        work: impl Fn(Job) -> Done + Send + 'static,
    ) -> Result<Self, CaptureError> {
        let (jobs, waiting) = sync_channel(1);
        let (tell, done) = sync_channel(1);
        let run = move || {
            while let Ok(job) = waiting.recv() {
                if tell.send(work(job)).is_err() {
                    return;
                }
                signal.raise();
            }
        };
        let failed =
            |source| CaptureError::Io { what: "start a thread for", path: files.path.clone(), source };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Begins a job; the one before must be done.
    pub(super) fn begin(&self, job: Job) -> Result<(), CaptureError> {
        let jobs = self.jobs.as_ref().expect("open until dropped");
        jobs.try_send(job).map_err(|_| CaptureError::Stopped)
    }

    /// What came of the job that was begun; None while it runs.
    pub(super) fn done(&self) -> Result<Option<Done>, CaptureError> {
        match self.done.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(CaptureError::Stopped),
        }
    }
}

impl<Job, Done> Drop for Worker<Job, Done> {
    /// Waits for the job under way: the connection must be gone before a descriptor is closed.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread of capture panicked");
            }
        }
    }
}

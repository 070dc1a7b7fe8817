//! Active: a capture on its way, from the wish to the running thread or the reason why not.
//!
//! Starting blocks, so it happens beside the data thread. Two captures of one database in one process
//! would drop each other's locks: an attempt must have ended before another begins or the role ends.

use super::DatabaseConfig;
use super::thread::{Input, Inputs};
use crate::capture::{Capture, CaptureConfig, CaptureError, CaptureEvent};
use crate::wal::WalPoint;
use lockstep_barrier::PokeReceiver;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Events capture may be ahead of the link, seldom above 256 KiB each: bounds memory per database.
const CAPTURE_QUEUE: usize = 8;

/// The timer beneath the inotify hint, milliseconds: bounds how late a missed hint is noticed.
const CAPTURE_POLL_MS: u32 = 5;

/// A running capture with its events, or why there is none.
type Started = Result<(Capture, mpsc::Receiver<CaptureEvent>), CaptureError>;

/// An attempt under way.
pub(super) struct Starting {
    result: Rc<RefCell<Option<Started>>>,
    /// Dropped: do not begin any more.
    wanted: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Starting {
    /// Begins after a pause; [`Input::CaptureStarted`] says that there is a result.
    pub(super) fn begin(
        database: &DatabaseConfig,
        (continues, pokes): (Option<WalPoint>, Option<Arc<PokeReceiver>>),
        after: Duration,
        index: usize,
        inputs: &Inputs,
    ) -> Self {
        let config = CaptureConfig {
            path: database.path.clone(),
            checkpoint_frames: database.checkpoint_frames,
            wal_retain_max_bytes: database.wal_retain_max_bytes,
            poll_ms: CAPTURE_POLL_MS,
            continues,
            pokes,
        };
        let result = Rc::default();
        let (wanted, given_up) = oneshot::channel();
        let task = tokio::task::spawn_local(start(
            config,
            after,
            given_up,
            Rc::clone(&result),
            index,
            inputs.clone(),
        ));
        Self { result, wanted, task }
    }

    /// What came of it; `None` while it is under way.
    pub(super) fn result(&self) -> Option<Started> {
        self.result.take()
    }

    /// Ends the attempt; a capture that runs already is stopped.
    pub(super) async fn give_up(self) {
        drop(self.wanted);
        // Nothing aborts it, and it does not panic.
        let _ = self.task.await;
    }
}

async fn start(
    config: CaptureConfig,
    after: Duration,
    mut given_up: oneshot::Receiver<()>,
    result: Rc<RefCell<Option<Started>>>,
    index: usize,
    inputs: Inputs,
) {
    tokio::select! {
        () = tokio::time::sleep(after) => {}
        _ = &mut given_up => return,
    }
    let (events, receiver) = mpsc::channel(CAPTURE_QUEUE);
    let started = tokio::task::spawn_blocking(move || Capture::start(config, events)).await;
    let started = started.expect("starting a capture does not panic");
    *result.borrow_mut() = Some(started.map(|capture| (capture, receiver)));
    inputs.send(Input::CaptureStarted { index });
}

//! Stands for the pair session: attaches, consumes events on a thread, waits for positions.

use crate::rebuild::Rebuilt;
use lockstep_engine::capture::{
    Attached, Capture, CaptureCommand, CaptureConfig, CaptureEvent, CaptureStatus,
};
use lockstep_engine::wal::WalPoint;
use lockstep_wire::Position;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Longest wait for anything: a test that comes here has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn config(path: &Path) -> CaptureConfig {
    CaptureConfig {
        path: path.to_owned(),
        checkpoint_frames: 1000,
        wal_retain_max_bytes: 1 << 30,
        poll_ms: 5,
        continues: None,
        pokes: None,
    }
}

pub(crate) fn attach(capture: &Capture, from: Option<WalPoint>) -> Attached {
    attach_behind(capture, from, None)
}

/// Attaches a standby that knows what of it is published.
pub(crate) fn attach_behind(
    capture: &Capture,
    from: Option<WalPoint>,
    published: Option<WalPoint>,
) -> Attached {
    let (reply, answer) = oneshot::channel();
    capture.command(CaptureCommand::Attach { from, published, reply }).expect("capture runs");
    answer.blocking_recv().expect("capture answers")
}

pub(crate) fn sync(capture: &Capture) -> Position {
    let (reply, answer) = oneshot::channel();
    capture.command(CaptureCommand::Sync(reply)).expect("capture runs");
    answer.blocking_recv().expect("capture answers")
}

/// The status after everything up to now was looked at: a command is answered only after the pass
/// before it has shown its findings.
pub(crate) fn status(capture: &Capture) -> CaptureStatus {
    sync(capture);
    sync(capture);
    capture.status()
}

/// Asks for every page and the end of the copy.
pub(crate) fn copy_all(capture: &Capture, page_count: u32) {
    capture.command(CaptureCommand::ReadPages { first_page: 1, page_count }).expect("capture runs");
    capture.command(CaptureCommand::EndOfCopy).expect("capture runs");
}

/// A thread that applies events as they come.
pub(crate) struct Consumer {
    state: Arc<(Mutex<Rebuilt>, Condvar)>,
    thread: std::thread::JoinHandle<()>,
}

impl Consumer {
    pub(crate) fn start(mut events: mpsc::Receiver<CaptureEvent>, rebuilt: Rebuilt) -> Self {
        let state = Arc::new((Mutex::new(rebuilt), Condvar::new()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            while let Some(event) = events.blocking_recv() {
                shared.0.lock().expect("no panic before").apply(event);
                shared.1.notify_all();
            }
        });
        Self { state, thread }
    }

    pub(crate) fn wait(&self, what: &str, reached: impl Fn(&Rebuilt) -> bool) {
        let guard = self.state.0.lock().expect("the consumer did not fail");
        let (state, timeout) = self
            .state
            .1
            .wait_timeout_while(guard, PATIENCE, |state| !reached(state))
            .expect("the consumer did not fail");
        assert!(!timeout.timed_out(), "{what} did not come; stands at {:?}", state.point);
    }

    /// Waits until the copy is complete and holds everything through `position`.
    pub(crate) fn wait_for(&self, position: Position) {
        self.wait("the position", |state| {
            state.copied_to.is_some() && (state.published >= position || position.frame.0 == 0)
        });
    }

    /// The state after the channel was closed.
    pub(crate) fn finish(self) -> Rebuilt {
        self.thread.join().expect("the consumer did not fail");
        let (state, _) = Arc::into_inner(self.state).expect("the thread is gone");
        state.into_inner().expect("the consumer did not fail")
    }
}

/// Starts capture, attaches from nothing and asks for a whole copy.
pub(crate) fn start_copy(config: CaptureConfig, channel: usize) -> (Capture, Consumer) {
    let (sender, receiver) = mpsc::channel(channel);
    let capture = Capture::start(config, sender).expect("the database can be followed");
    let Attached::FromStart { page_size, page_count, .. } = attach(&capture, None) else {
        panic!("nothing cannot be resumed");
    };
    let consumer = Consumer::start(receiver, Rebuilt::new(page_size));
    copy_all(&capture, page_count);
    (capture, consumer)
}

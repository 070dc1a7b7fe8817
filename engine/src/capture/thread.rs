//! The loop of the capture thread, and its answers to commands.

use super::follow::{Follower, Pace};
use super::outbox::Outbox;
use super::pages::{PAGE_JOBS_MAX, PageJob};
use super::wakeup::{Signal, Wakeup};
use super::{CaptureCommand, CaptureConfig, CaptureError, CaptureEvent, Shared};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// How often the names are checked to lead to the open files.
const NAMES_CHECK_MS: u64 = 1_000;

/// What the thread is started with.
pub(super) struct Start {
    pub(super) config: CaptureConfig,
    pub(super) events: Sender<CaptureEvent>,
    pub(super) commands: Receiver<CaptureCommand>,
    pub(super) signal: Arc<Signal>,
    pub(super) shared: Arc<Shared>,
    /// Answered once the database is open, or cannot be.
    pub(super) opened: SyncSender<Result<(), CaptureError>>,
}

/// Runs until stopped or failed.
pub(super) fn run(start: Start) {
    let outbox = Outbox::new(start.events, Arc::clone(&start.signal));
    let mut follower =
        match Follower::open(start.config, outbox, Arc::clone(&start.shared), Arc::clone(&start.signal)) {
            Ok(follower) => follower,
            Err(error) => {
                let _ = start.opened.send(Err(error));
                return;
            }
        };
    let names = [follower.files.path.clone(), super::files::beside(&follower.files.path, "-wal")];
    let mut wakeup = Wakeup::new(start.signal, &names, follower.config.pokes.clone());
    follower.status.hints = wakeup.has_hints();
    follower.publish_status();
    let _ = start.opened.send(Ok(()));
    let Err(error) = follow(&mut follower, &mut wakeup, &start.commands, &start.shared) else { return };
    tracing::error!(%error, "capture ends");
    follower.status.failed = Some(error.to_string());
    follower.publish_status();
    // Lets go of locks and descriptors before anything can block.
    let path = follower.files.path.clone();
    let outbox = follower.into_outbox();
    tell_failure(outbox, &error, &mut wakeup, &path, &start.commands, &start.shared);
}

fn follow(
    follower: &mut Follower,
    wakeup: &mut Wakeup,
    commands: &Receiver<CaptureCommand>,
    shared: &Shared,
) -> Result<(), CaptureError> {
    let mut names_checked = Instant::now();
    loop {
        while let Ok(command) = commands.try_recv() {
            follower.execute(command)?;
        }
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        while let Some(mark) = wakeup.next_poke() {
            follower.poked(mark);
        }
        let (before, prepared) = (follower.status.position, follower.status.prepared);
        let pace = follower.pass()?;
        if follower.status.position != before {
            wakeup.found();
        }
        if follower.status.prepared != prepared {
            wakeup.prepared();
        }
        if names_checked.elapsed() >= Duration::from_millis(NAMES_CHECK_MS) {
            follower.files.check_names()?;
            names_checked = Instant::now();
        }
        if pace == Pace::Soon {
            wakeup.look_soon();
        }
        if pace != Pace::Again && wakeup.sleep(follower.config.poll_ms, &follower.files.path)? {
            follower.quiet()?;
        }
    }
}

/// Puts the failure into the stream, behind what the session has not taken yet.
fn tell_failure(
    mut outbox: Outbox,
    error: &CaptureError,
    wakeup: &mut Wakeup,
    path: &Path,
    commands: &Receiver<CaptureCommand>,
    shared: &Shared,
) {
    outbox.clear();
    outbox.push(CaptureEvent::Failed(error.to_string()));
    while !outbox.is_empty() && !shared.stop.load(Ordering::Acquire) {
        // A command without an answer is one whose reply is dropped.
        while commands.try_recv().is_ok() {}
        if wakeup.sleep(NAMES_CHECK_MS as u32, path).is_err() {
            return;
        }
        outbox.flush();
    }
}

impl Follower {
    /// Ends the connections and keeps the way to the session.
    fn into_outbox(self) -> Outbox {
        let Self { checkpointer, scrubber, marks, files, outbox, .. } = self;
        drop(checkpointer);
        drop(scrubber);
        drop(marks);
        drop(files);
        outbox
    }

    fn execute(&mut self, command: CaptureCommand) -> Result<(), CaptureError> {
        match command {
            CaptureCommand::Attach { from, published, reply } => {
                let attached = self.attach(from, published)?;
                // Nobody shall read positions of the numbering before.
                self.publish_status();
                let _ = reply.send(attached);
            }
            CaptureCommand::Fork { of, reply } => {
                let _ = reply.send(self.fork(of)?);
            }
            CaptureCommand::Detach => self.detach(),
            CaptureCommand::Sync(reply) => {
                let index = self.index()?;
                let _ = reply.send(self.cursor.position_at(&index));
            }
            CaptureCommand::ReadPages { first_page, page_count } => {
                self.enqueue(PageJob::read(first_page, page_count));
            }
            CaptureCommand::DifferingPages { first_page, page_count, hashes } => {
                self.enqueue(PageJob::differing(first_page, page_count, hashes));
            }
            CaptureCommand::ReadAt(job) => {
                if self.mode == super::follow::Mode::Publish {
                    self.scrubber.wish(job);
                }
            }
            CaptureCommand::EndOfCopy => self.enqueue(PageJob::End { target: None }),
        }
        Ok(())
    }

    fn enqueue(&mut self, job: PageJob) {
        let publishing = self.mode == super::follow::Mode::Publish;
        if publishing && self.jobs.len() < PAGE_JOBS_MAX {
            self.jobs.push_back(job);
        } else if publishing {
            // Dropping one in silence would leave a hole in the copy.
            tracing::warn!("more page requests than {PAGE_JOBS_MAX} are waiting: the copy begins again");
            self.let_go();
        }
    }
}

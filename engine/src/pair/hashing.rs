//! Standby: pages read beside whatever else a database's task does, for the active and for the sums.
//!
//! Two readers: answers to what the active asks of a position, and the building of remembered hashes at a
//! bounded speed. Neither holds up frames or acknowledgements; a generation switch waits for a read under
//! way. [`Hashing::finish`] waits for them before the mirror leaves the task.

use super::connection::StreamSender;
use super::thread::Inputs;
use crate::equality::{BUILD_BYTES_PER_S, BUILD_RETRY};
use crate::mirror::{Build, HashTicket, Mirror, MirrorError};
use lockstep_wire::{DatabaseName, Message, PageHashes};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How often the sum is told while nothing is committed, and something to build is looked for.
const LOOK: Duration = Duration::from_millis(1000);

/// A range that was read for the hashes.
pub(super) struct Read {
    at: lockstep_wire::Position,
    first_page: u32,
    page_count: u32,
    hashes: Result<Vec<u64>, MirrorError>,
}

/// What happened.
pub(super) enum Turn {
    /// Time to begin.
    Due,
    /// A range is there.
    Read(Read),
}

/// The reads of one task.
pub(super) struct Hashing {
    /// A task of its own: what it holds keeps a generation switch waiting, in which this one may be.
    running: Option<JoinHandle<Read>>,
    due: Instant,
    /// Closed when an answer has been read.
    answers: Vec<oneshot::Receiver<()>>,
}

impl Hashing {
    pub(super) fn new() -> Self {
        Self { running: None, due: Instant::now(), answers: Vec::new() }
    }

    /// Waits for the next thing to do; may be dropped and called again.
    pub(super) async fn turn(&mut self) -> Turn {
        match &mut self.running {
            Some(running) => {
                let read = running.await.expect("nobody aborts a reading, and it does not panic");
                self.running = None;
                Turn::Read(read)
            }
            None => {
                tokio::time::sleep_until(self.due.into()).await;
                Turn::Due
            }
        }
    }

    /// Does it. True: tell the active the sum of all pages.
    ///
    /// # Errors
    /// `disk`.
    pub(super) async fn go_on(&mut self, mirror: &mut Mirror, turn: Turn) -> Result<bool, MirrorError> {
        let now = Instant::now();
        match turn {
            Turn::Due => match mirror.begin_build().await? {
                Some(build) => self.running = Some(tokio::task::spawn_local(read(build))),
                None => {
                    self.due = now + LOOK;
                    return Ok(mirror.content().is_some());
                }
            },
            Turn::Read(Read { at, first_page, page_count, hashes: Ok(hashes) }) => {
                let bytes = hashes.len() as f64 * f64::from(mirror.page_size());
                self.due = now + Duration::from_secs_f64(bytes / BUILD_BYTES_PER_S as f64);
                mirror.end_build(at, first_page, page_count, hashes);
                return Ok(mirror.content().is_some());
            }
            // The scrub meets the same page and says so.
            Turn::Read(_) => {
                mirror.abandon_build();
                self.due = now + LOOK.max(BUILD_RETRY);
            }
        }
        Ok(false)
    }

    /// Reads and answers.
    pub(super) fn answer(
        &mut self,
        ticket: HashTicket,
        mut answer: PageHashes,
        sender: StreamSender,
        (inputs, name): (Inputs, DatabaseName),
    ) {
        let (reading, read) = oneshot::channel::<()>();
        self.answers.retain_mut(|answer| answer.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        self.answers.push(read);
        tokio::task::spawn_local(async move {
            // What cannot be read counts as different: written anew, a disk may put it elsewhere.
            let hashes = ticket.run().await.unwrap_or_else(|error| {
                inputs.notice(true, format!("database {name}: {error}"));
                Vec::new()
            });
            drop(reading);
            answer.hashes = hashes.into_iter().flat_map(u64::to_le_bytes).collect();
            // A closed connection needs no answer.
            let _ = sender.send(Message::from(answer)).await;
        });
    }

    /// Waits for what is being read.
    pub(super) async fn finish(self, mirror: &mut Mirror) {
        if let Some(running) = self.running {
            // An error is what a reading that has ended looks like.
            let _ = running.await;
            mirror.abandon_build();
        }
        for answer in self.answers {
            let _ = answer.await;
        }
    }
}

async fn read(build: Build) -> Read {
    let Build { ticket, at, first_page, page_count } = build;
    Read { at, first_page, page_count, hashes: ticket.run().await }
}

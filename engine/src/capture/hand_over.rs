//! Checkpoint hand-over: the moment in which a busy WAL can come to rest in the database file.
//!
//! On a busy database no checkpoint ever completes by itself, because the held mark is always one
//! commit behind. So now and then the write lock is tried for; while it is held nothing moves, the
//! rest is checkpointed, and the next writer begins the WAL anew. Most of the copying and all long
//! disk waits are done before, while writers and the capture thread go on ([`Checkpointer`]).
//!
//! [`Checkpointer`]: super::checkpointer::Checkpointer

use super::CaptureError;
use super::cursor::{Next, Seen};
use super::follow::{Follower, Hold, Mode, Pace};
use crate::wal::WalIndex;
use std::time::{Duration, Instant};

/// Pause after the write lock was not to be had: about the length of a short transaction with its sync.
const HAND_OVER_PAUSE_US: u64 = 250;

/// Tries to begin the transaction that ends a hand-over; SQLite itself tries for seconds in each.
const HAND_OVER_BEGINS: u32 = 3;

/// How long writers are held for the end of somebody else's checkpoint: a few syncs of a disk at rest.
const OTHERS_CHECKPOINT_MS: u64 = 5;

/// Pause after holding writers in vain, as a multiple of that time: somebody else's checkpoint may
/// itself be waiting for the write lock.
const OTHERS_CHECKPOINT_PAUSE: u32 = 20;

/// How often its end is looked for: half of what the sync of a quick disk takes.
const OTHERS_CHECKPOINT_LOOK_US: u64 = 50;

/// What may be left for the locked part: this share of the growth that makes a hand-over due.
const REST_SHARE: u32 = 8;

/// Checkpoints ahead of one hand-over: the first has most of it, the second what was written during
/// the first. More would shorten the locked part little, and the WAL grows during each.
const AHEAD_MAX: u32 = 2;

/// What was checkpointed ahead of the next hand-over.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// A checkpoint is under way.
    running: bool,
    /// What stood in the WAL when the last one began.
    begun_at: Seen,
    /// How many there were since the last hand-over.
    rounds: u32,
}

impl Follower {
    pub(super) fn hand_over_if_due(&mut self) -> Result<Pace, CaptureError> {
        if self.ahead.running && !self.ahead_is_done()? {
            return Ok(Pace::Idle);
        }
        let index = &self.index()?;
        let limit = self.config.checkpoint_frames.max(1);
        let wanted = !index.is_backfilled() && grown(index, self.handed_over) >= limit;
        let able = self.mode != Mode::Retain
            && self.outbox.has_room()
            && self.cursor.next(index) == Next::Nothing
            && Instant::now() >= self.hand_over_from;
        if !wanted || !able {
            return Ok(Pace::Idle);
        }
        if grown(index, self.ahead.begun_at) > limit / REST_SHARE && self.ahead.rounds < AHEAD_MAX {
            self.checkpointer.begin(())?;
            let rounds = self.ahead.rounds + 1;
            self.ahead = Ahead { running: true, begun_at: Seen::of(index), rounds };
            return Ok(Pace::Idle);
        }
        self.hand_over()
    }

    /// Asks for the end of the checkpoint under way.
    fn ahead_is_done(&mut self) -> Result<bool, CaptureError> {
        let Some(checkpoint) = self.checkpointer.done()? else { return Ok(false) };
        self.ahead.running = false;
        self.warn_of(checkpoint);
        if self.index()?.is_backfilled() {
            // Nobody wrote meanwhile, so nobody needs to be stopped.
            self.ahead.rounds = 0;
            self.status.handovers += 1;
        }
        Ok(true)
    }

    /// Stops writers for a moment, so that everything can go into the database file and the next
    /// writer begins the WAL anew.
    fn hand_over(&mut self) -> Result<Pace, CaptureError> {
        self.hand_over_from = Instant::now() + Duration::from_micros(HAND_OVER_PAUSE_US);
        let began = Instant::now();
        if !self.marks.begin_next_writing()? {
            self.status.handovers_busy += 1;
            // A writer that is never caught between two commits must not leave the WAL to the locked part.
            self.ahead.rounds = self.ahead.rounds.saturating_sub(1);
            return Ok(Pace::Soon);
        }
        let Some(index) = self.files.wal_index()? else {
            self.marks.drop_next()?;
            return Ok(Pace::Soon);
        };
        self.cursor.observe(&index, self.hold.seen);
        self.catch_up(&index)?;
        if self.mode == Mode::Retain || self.cursor.next(&index) != Next::Nothing {
            self.marks.drop_next()?;
            return Ok(Pace::Soon);
        }
        self.marks.keep_next()?;
        self.hold = Hold { seen: Seen::of(&index), read0: false, confirmed: false, exact: true };
        let checkpoint = self.checkpoint_rest();
        // The mark that holds the write lock ends now, whatever the checkpoint did.
        let after = self.begin_after_checkpoint()?;
        self.marks.keep_next()?;
        self.hold =
            Hold { seen: Seen::of(&after), read0: after.is_backfilled(), confirmed: false, exact: true };
        if matches!(checkpoint, Ok(false)) {
            self.hand_over_from = Instant::now() + began.elapsed() * OTHERS_CHECKPOINT_PAUSE;
        } else {
            self.handed_over = Seen::of(&index);
            self.ahead.rounds = 0;
        }
        self.status.handovers += 1;
        self.status.handovers_incomplete += u64::from(!after.is_backfilled());
        let held_us = began.elapsed().as_micros() as u64;
        self.status.held_max_us = self.status.held_max_us.max(held_us);
        self.status.held_total_us += held_us;
        self.warn_of(checkpoint.map(|_| ()));
        Ok(Pace::Again)
    }

    /// Checkpoints what is left while writers are held. The write lock is often had just because the
    /// writer is at a checkpoint of its own, as SQLite makes after each commit to a large WAL; with
    /// the lock kept for as long as that takes, this one makes the WAL small again. False: it took too long.
    fn checkpoint_rest(&self) -> Result<bool, CaptureError> {
        let until = Instant::now() + Duration::from_millis(OTHERS_CHECKPOINT_MS);
        loop {
            if self.marks.checkpoint()? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(OTHERS_CHECKPOINT_LOOK_US));
        }
    }

    /// A failed checkpoint (a full disk) loses nothing: frames stay in the WAL.
    fn warn_of(&self, checkpoint: Result<(), CaptureError>) {
        if let Err(error) = checkpoint {
            tracing::warn!(path = %self.files.path.display(), %error, "the WAL grows until a checkpoint succeeds");
        }
    }

    /// Nobody else can write now, so a lock in the way is another reader's or checkpointer's and short.
    fn begin_after_checkpoint(&self) -> Result<WalIndex, CaptureError> {
        for _ in 0..HAND_OVER_BEGINS {
            if !self.marks.begin_next()? {
                continue;
            }
            if let Some(index) = self.files.wal_index()? {
                return Ok(index);
            }
            self.marks.drop_next()?;
        }
        Err(CaptureError::Exclusive { path: self.files.path.clone() })
    }
}

/// Frames the WAL has grown by since `then`.
fn grown(index: &WalIndex, then: Seen) -> u32 {
    let before = if then.salts == index.salts { then.frame.0 } else { 0 };
    index.last_frame.0.saturating_sub(before)
}

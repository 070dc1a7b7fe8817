//! Checkpoint hand-over: the moment in which a busy WAL can come to rest in the database file.
//!
//! On a busy database no checkpoint ever completes by itself, because the held mark is always one
//! commit behind. So now and then the write lock is tried for; while it is held nothing moves, the
//! rest is checkpointed, and the next writer begins the WAL anew. Most of the copying and all long
//! disk waits are done before, while writers go on.

use super::CaptureError;
use super::cursor::{Next, Seen};
use super::follow::{Follower, Hold, Mode, Pace};
use crate::wal::WalIndex;
use std::time::{Duration, Instant};

/// Pause after the write lock was not to be had: a writer's transaction is seldom shorter.
const HAND_OVER_PAUSE_MS: u64 = 1;

/// Tries to begin the transaction that ends a hand-over; SQLite itself tries for seconds in each.
const HAND_OVER_BEGINS: u32 = 3;

impl Follower {
    pub(super) fn hand_over_if_due(&mut self) -> Result<Pace, CaptureError> {
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
        if grown(index, self.prepared) > limit / 2 && self.prepare(index)? {
            return Ok(Pace::Again);
        }
        self.hand_over()
    }

    /// Does most of the work before writers are stopped. True: all of it, nobody wrote meanwhile.
    fn prepare(&mut self, index: &WalIndex) -> Result<bool, CaptureError> {
        self.files.sync_wal()?;
        self.warn_of(self.marks.checkpoint());
        self.files.sync_database()?;
        self.prepared = Seen::of(index);
        let complete = self.index()?.is_backfilled();
        self.status.handovers += u64::from(complete);
        Ok(complete)
    }

    /// Stops writers for a moment, so that everything can go into the database file and the next
    /// writer begins the WAL anew.
    fn hand_over(&mut self) -> Result<Pace, CaptureError> {
        self.hand_over_from = Instant::now() + Duration::from_millis(HAND_OVER_PAUSE_MS);
        let began = Instant::now();
        if !self.marks.begin_next_writing()? {
            self.status.handovers_busy += 1;
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
        self.hold = Hold { seen: Seen::of(&index), read0: false, confirmed: false };
        self.handed_over = Seen::of(&index);
        let complete = self.marks.checkpoint();
        // The mark that holds the write lock ends now, whatever the checkpoint did.
        let after = self.begin_after_checkpoint()?;
        self.marks.keep_next()?;
        self.hold = Hold { seen: Seen::of(&after), read0: after.is_backfilled(), confirmed: false };
        self.status.handovers += 1;
        self.status.handovers_incomplete += u64::from(!after.is_backfilled());
        let held_us = began.elapsed().as_micros() as u64;
        self.status.held_max_us = self.status.held_max_us.max(held_us);
        self.status.held_total_us += held_us;
        self.warn_of(complete);
        Ok(Pace::Again)
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

//! One pass of the capture thread: look, take, roll, hand over.
//!
//! The rules that make it safe, each on one line:
//! - committed is what the wal-index says, never what the WAL alone says;
//! - a read transaction is held at all times; the next one begins, frames are taken, then the old one ends;
//! - a transaction with a mark above 0 keeps the WAL from being reset, so all of it stays readable;
//! - one without a mark (READ0: everything was in the database file) allows one reset, but the new
//!   frames cannot reach the database file before it ends, so they stay until they are taken;
//! - the write lock is only tried for, never waited for, while a mark is held.

use super::cursor::{Cursor, Next, Seen};
use super::files::Files;
use super::marks::Marks;
use super::outbox::Outbox;
use super::pages::PageJob;
use super::{CaptureConfig, CaptureError, CaptureEvent, CaptureStatus, Shared};
use crate::wal::{WalHeader, WalIndex, frame_offset};
use lockstep_wire::{FrameNo, WalGeneration};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A session that has accepted nothing for this long takes no frames: longer than a reconnect of
/// the link needs, short beside the time in which a WAL fills a disk.
const STUCK_MS: u64 = 1_000;

/// A session that takes frames, but too slowly, is let go when the WAL is this many times larger
/// than the limit for one that takes none: a VACUUM somewhat larger than the limit may still stream.
const SLOW_FACTOR: u64 = 4;

/// Pause after the write lock was not to be had: a writer's transaction is seldom shorter.
const HAND_OVER_PAUSE_MS: u64 = 1;

/// Tries to begin the transaction that ends a hand-over; SQLite itself tries for seconds in each.
const HAND_OVER_BEGINS: u32 = 3;

/// Tries to read a wal-index that a killed writer left half-written; each one lets SQLite repair it.
const INDEX_REPAIRS: u32 = 50;

/// What is done with committed frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nobody counts on them: the position follows, the WAL may be reset.
    Free,
    /// A session will come back for them.
    Retain,
    /// They go to the session.
    Publish,
}

/// How soon to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    /// At the next hint or timer.
    Idle,
    /// After a short moment: a lock was in the way.
    Soon,
    /// At once: there is more to do.
    Again,
}

/// The transaction that is held.
#[derive(Debug, Clone, Copy)]
struct Hold {
    /// Upper bound of its mark.
    seen: Seen,
    /// It needs nothing of the WAL (as far as can be known: SQLite does not tell).
    read0: bool,
    /// It was begun again later in the same state, to be sure of `read0`.
    confirmed: bool,
}

/// The state of the capture thread.
pub(super) struct Follower {
    // Before `files`: connections must be gone before a descriptor of their files is closed.
    pub(super) marks: Marks,
    pub(super) files: Files,
    pub(super) config: CaptureConfig,
    pub(super) cursor: Cursor,
    pub(super) header: Option<WalHeader>,
    pub(super) mode: Mode,
    pub(super) outbox: Outbox,
    pub(super) jobs: VecDeque<PageJob>,
    pub(super) fresh: Option<WalGeneration>,
    pub(super) status: CaptureStatus,
    pub(super) shared: Arc<Shared>,
    hold: Hold,
    handed_over: Seen,
    hand_over_from: Instant,
}

impl Follower {
    /// Opens the database and holds a read transaction; nothing is published yet.
    pub(super) fn open(
        config: CaptureConfig,
        outbox: Outbox,
        shared: Arc<Shared>,
    ) -> Result<Self, CaptureError> {
        let (path, database, header) = super::admission::admit(&config.path)?;
        let marks = Marks::open(&path)?;
        let files = Files::open(path, database, header.page_size)?;
        let mut follower = Self {
            marks,
            files,
            config,
            cursor: Cursor::default(),
            header: None,
            mode: Mode::Free,
            outbox,
            jobs: VecDeque::new(),
            fresh: None,
            status: CaptureStatus { sqlite_version: header.sqlite_version, ..CaptureStatus::default() },
            shared,
            hold: Hold { seen: Seen::default(), read0: false, confirmed: false },
            handed_over: Seen::default(),
            hand_over_from: Instant::now(),
        };
        let index = follower.index()?;
        follower.hold.seen = Seen::of(&index);
        follower.cursor = follower.first_cursor(&index)?;
        follower.cursor.follow(&index);
        follower.report(&index);
        Ok(follower)
    }

    /// Everything there is to do now, in bounded steps.
    pub(super) fn pass(&mut self) -> Result<Pace, CaptureError> {
        self.outbox.flush();
        if self.outbox.is_closed() {
            self.detach();
        }
        let index = self.index()?;
        self.report(&index);
        self.enforce_retention(&index);
        let mut pace = self.catch_up(&index)?;
        // A hand-over may wait for the disk; what is known is shown before.
        self.publish_status();
        pace = pace.max(self.roll_if_needed(&index)?);
        pace = pace.max(self.hand_over_if_due()?);
        pace = pace.max(self.page_step()?);
        self.publish_status();
        Ok(pace)
    }

    /// Shows the status to other threads.
    pub(super) fn publish_status(&mut self) {
        self.status.taken = self.cursor.point.position;
        self.status.position = self.status.position.max(self.status.taken);
        self.status.attached = self.mode == Mode::Publish;
        let mut shown = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != self.status {
            shown.clone_from(&self.status);
        }
    }

    /// Called when nothing happened for a whole timer period.
    pub(super) fn quiet(&mut self) -> Result<(), CaptureError> {
        if self.hold.read0 && !self.hold.confirmed && self.mode != Mode::Retain {
            let index = self.index()?;
            self.roll(&index)?;
            self.hold.confirmed = self.hold.read0;
        }
        Ok(())
    }

    /// The wal-index as it is now.
    pub(super) fn index(&mut self) -> Result<WalIndex, CaptureError> {
        for _ in 0..INDEX_REPAIRS {
            if let Some(index) = self.files.wal_index()? {
                self.cursor.observe(&index, self.hold.seen);
                return Ok(index);
            }
            // A reader that meets a half-written header repairs it, once the writer is gone.
            if self.marks.begin_next()? {
                self.marks.drop_next()?;
            }
        }
        Err(CaptureError::Exclusive { path: self.files.path.clone() })
    }

    /// Takes what `index` shows, according to the mode.
    fn catch_up(&mut self, index: &WalIndex) -> Result<Pace, CaptureError> {
        let generation = self.cursor.point.position.generation;
        let begun = self.cursor.begun;
        let pace = match self.mode {
            Mode::Free => {
                self.cursor.follow(index);
                Pace::Idle
            }
            Mode::Retain => Pace::Idle,
            Mode::Publish => self.take(index)?,
        };
        self.status.resets += u64::from(begun && self.cursor.point.position.generation > generation);
        Ok(pace)
    }

    fn roll_if_needed(&mut self, index: &WalIndex) -> Result<Pace, CaptureError> {
        let moved = Seen::of(index) != self.hold.seen;
        let to_read0 = index.is_backfilled() && !self.hold.read0;
        if moved || to_read0 { self.roll(index) } else { Ok(Pace::Idle) }
    }

    /// Begins the next transaction, takes what is there, ends the old one.
    fn roll(&mut self, before: &WalIndex) -> Result<Pace, CaptureError> {
        // The held mark is below the last frame, so the next one is above 0 and keeps the whole WAL.
        let keeps_all = before.last_frame.0 > 0
            && (before.salts != self.hold.seen.salts || before.last_frame > self.hold.seen.frame);
        let behind = self.mode == Mode::Retain || self.cursor.next(before) != Next::Nothing;
        if behind && !keeps_all {
            return Ok(Pace::Idle);
        }
        if !self.marks.begin_next()? {
            return Ok(Pace::Soon);
        }
        let Some(after) = self.files.wal_index()? else {
            self.marks.drop_next()?;
            return Ok(Pace::Soon);
        };
        self.cursor.observe(&after, self.hold.seen);
        self.catch_up(&after)?;
        let caught_up = self.mode != Mode::Retain && self.cursor.next(&after) == Next::Nothing;
        if !keeps_all && !caught_up {
            self.marks.drop_next()?;
            return Ok(Pace::Idle);
        }
        self.marks.keep_next()?;
        let read0 = *before == after && after.is_backfilled();
        self.hold = Hold { seen: Seen::of(&after), read0, confirmed: false };
        // Frames may have been published meanwhile.
        Ok(Pace::Again)
    }

    fn hand_over_if_due(&mut self) -> Result<Pace, CaptureError> {
        let index = &self.index()?;
        let grown = match self.handed_over {
            Seen { salts, frame } if salts == index.salts => index.last_frame.0.saturating_sub(frame.0),
            _ => index.last_frame.0,
        };
        let wanted = !index.is_backfilled() && grown >= self.config.checkpoint_frames.max(1);
        let able = self.mode != Mode::Retain
            && self.outbox.has_room()
            && self.cursor.next(index) == Next::Nothing
            && Instant::now() >= self.hand_over_from;
        if wanted && able { self.hand_over() } else { Ok(Pace::Idle) }
    }

    /// Stops writers for a moment, so that everything can go into the database file and the next
    /// writer begins the WAL anew.
    fn hand_over(&mut self) -> Result<Pace, CaptureError> {
        self.hand_over_from = Instant::now() + Duration::from_millis(HAND_OVER_PAUSE_MS);
        // Most of the work is done before writers are stopped.
        self.files.sync_wal()?;
        self.warn_of(self.marks.checkpoint());
        self.files.sync_database()?;
        if self.index()?.is_backfilled() {
            self.status.handovers += 1;
            return Ok(Pace::Again);
        }
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
            if self.marks.begin_next()?
                && let Some(index) = self.files.wal_index()?
            {
                return Ok(index);
            }
        }
        Err(CaptureError::Exclusive { path: self.files.path.clone() })
    }

    /// Lets the mark go when the WAL is too large and nobody takes frames.
    fn enforce_retention(&mut self, index: &WalIndex) {
        let wal_bytes = self.wal_bytes(index);
        let limit = self.config.wal_retain_max_bytes;
        if wal_bytes <= limit {
            return;
        }
        let behind = self.cursor.next(index) != Next::Nothing;
        let too_slow = behind && !self.outbox.has_room() && wal_bytes / SLOW_FACTOR > limit;
        let go = match self.mode {
            Mode::Free => false,
            Mode::Retain => behind,
            Mode::Publish => self.outbox.stuck_for() >= Duration::from_millis(STUCK_MS) || too_slow,
        };
        if go {
            self.let_go();
        }
    }

    /// Gives up what was not taken: the session must resync by pages.
    pub(super) fn let_go(&mut self) {
        self.outbox.clear();
        self.jobs.clear();
        if self.mode == Mode::Publish {
            self.outbox.push(CaptureEvent::LetGo);
        }
        self.mode = Mode::Free;
        self.status.let_go = true;
        tracing::warn!(path = %self.files.path.display(), "read mark let go: the standby needs a resync");
    }

    /// Stops publishing; frames after the cursor are kept.
    pub(super) fn detach(&mut self) {
        if self.mode == Mode::Publish {
            self.mode = Mode::Retain;
            self.outbox.clear();
            self.jobs.clear();
        }
    }

    fn wal_bytes(&self, index: &WalIndex) -> u64 {
        match index.last_frame {
            FrameNo(0) => 0,
            FrameNo(last) => frame_offset(FrameNo(last.saturating_add(1)), self.files.page_size()),
        }
    }

    fn report(&mut self, index: &WalIndex) {
        self.status.position = self.cursor.position_at(index);
        self.status.wal_bytes = self.wal_bytes(index);
    }
}

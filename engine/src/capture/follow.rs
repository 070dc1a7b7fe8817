//! One pass of the capture thread: look, take, roll, hand over.
//!
//! The rules that make it safe, each on one line:
//! - committed is what the wal-index says, never what the WAL alone says; what is shipped before
//!   that is in doubt, is never counted as position, and is taken back if it does not come true;
//! - a read transaction is held at all times; the next one begins, frames are taken, then the old one ends;
//! - a transaction with a mark above 0 keeps the WAL from being reset, so all of it stays readable;
//! - one without a mark (READ0: everything was in the database file) allows one reset, but the new
//!   frames cannot reach the database file before it ends, so they stay until they are taken;
//! - the write lock is only tried for, never waited for, while a mark is held.

use super::checkpointer::Checkpointer;
use super::cursor::{Cursor, Next, Seen};
use super::files::Files;
use super::hand_over::Ahead;
use super::marks::Marks;
use super::outbox::Outbox;
use super::pages::PageJob;
use super::prepared::Prepared;
use super::scrub::Scrubber;
use super::wakeup::Signal;
use super::{CaptureConfig, CaptureError, CaptureEvent, CaptureStatus, Shared};
use crate::wal::{WalHeader, WalIndex, frame_offset};
use lockstep_barrier::Mark;
use lockstep_wire::{FrameNo, Position, WalGeneration};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A session that has accepted nothing for this long takes no frames: longer than a reconnect of
/// the link needs, short beside the time in which a WAL fills a disk.
const STUCK_MS: u64 = 1_000;

/// A session that takes frames, but too slowly, is let go when the WAL is this many times larger
/// than the limit for one that takes none: a VACUUM somewhat larger than the limit may still stream.
const SLOW_FACTOR: u64 = 4;

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
pub(super) struct Hold {
    /// Upper bound of its mark.
    pub(super) seen: Seen,
    /// It needs nothing of the WAL (as far as can be known: SQLite does not tell).
    pub(super) read0: bool,
    /// It was begun again later in the same state, to be sure of `read0`.
    pub(super) confirmed: bool,
    /// Nothing was published while it began, so that its mark is what was seen and not less.
    pub(super) exact: bool,
}

/// The state of the capture thread.
pub(super) struct Follower {
    // Before `files`: connections must be gone before a descriptor of their files is closed.
    pub(super) checkpointer: Checkpointer,
    pub(super) scrubber: Scrubber,
    pub(super) marks: Marks,
    pub(super) files: Arc<Files>,
    pub(super) config: CaptureConfig,
    pub(super) cursor: Cursor,
    pub(super) header: Option<WalHeader>,
    pub(super) mode: Mode,
    pub(super) outbox: Outbox,
    pub(super) jobs: VecDeque<PageJob>,
    pub(super) fresh: Option<WalGeneration>,
    pub(super) status: CaptureStatus,
    pub(super) shared: Arc<Shared>,
    pub(super) hold: Hold,
    pub(super) handed_over: Seen,
    pub(super) ahead: Ahead,
    pub(super) hand_over_from: Instant,
    /// The newest commit frame that a program has told of.
    pub(super) poke: Option<Mark>,
    /// The same, until it was looked for beyond what is published.
    pub(super) to_prepare: Option<Mark>,
    /// Commits beyond the cursor that were shipped before they are published.
    pub(super) prepared: Prepared,
}

impl Follower {
    /// Opens the database and holds a read transaction; nothing is published yet.
    pub(super) fn open(
        config: CaptureConfig,
        outbox: Outbox,
        shared: Arc<Shared>,
        signal: Arc<Signal>,
    ) -> Result<Self, CaptureError> {
        let (path, database, header) = super::admission::admit(&config.path)?;
        let (marks, third) = Marks::open(&path)?;
        let files = Arc::new(Files::open(path, database, header.page_size)?);
        let fourth = super::marks::connect(&files.path)
            .and_then(|connection| super::scrub::prepare(&connection).map(|()| connection))
            .map_err(|source| CaptureError::Sqlite { what: "open", path: files.path.clone(), source })?;
        let scrubber = Scrubber::start(fourth, &files, Arc::clone(&signal))?;
        let checkpointer = super::checkpointer::start(third, &files, signal)?;
        let mut follower = Self {
            checkpointer,
            scrubber,
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
            hold: Hold { seen: Seen::default(), read0: false, confirmed: false, exact: false },
            handed_over: Seen::default(),
            ahead: Ahead::default(),
            hand_over_from: Instant::now(),
            poke: None,
            to_prepare: None,
            prepared: Prepared::default(),
        };
        let index = follower.index()?;
        follower.hold.seen = Seen::of(&index);
        follower.cursor = follower.first_cursor(&index)?;
        if follower.cursor.begun && follower.cursor.point.position.frame.0 > 0 {
            // The node that was left behind at the takeover may come back and go on from there.
            follower.mode = Mode::Retain;
        } else {
            follower.cursor.follow(&index);
        }
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
        self.prepare(&index)?;
        // A hand-over may wait for the disk; what is known is shown before.
        self.publish_status();
        pace = pace.max(self.roll_if_needed(&index)?);
        pace = pace.max(self.hand_over_if_due()?);
        pace = pace.max(self.page_step()?);
        pace = pace.max(self.scrub_step()?);
        self.publish_status();
        Ok(pace)
    }

    /// A program has written this commit frame and syncs it now: it stands in the WAL beyond what the
    /// wal-index shows (or is published already), and somebody will wait for it.
    pub(super) fn poked(&mut self, mark: Mark) {
        self.poke = Some(mark);
        self.to_prepare = Some(mark);
    }

    /// Counts the poked commit as waited for once its WAL is the cursor's.
    fn report_poke(&mut self) {
        let point = self.cursor.point;
        if let Some(mark) = self.poke.filter(|mark| self.cursor.begun && mark.salts == point.salts.packed()) {
            let at = Position { generation: point.position.generation, frame: FrameNo(mark.frame) };
            self.status.poked = self.status.poked.max(at);
            self.poke = None;
        }
    }

    /// Shows the status to other threads.
    pub(super) fn publish_status(&mut self) {
        self.report_poke();
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
                self.check_opening(&index)?;
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
    pub(super) fn catch_up(&mut self, index: &WalIndex) -> Result<Pace, CaptureError> {
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
        // One that began just before a commit would hold up an application's checkpoint until the next commit.
        if moved || to_read0 || !self.hold.exact { self.roll(index) } else { Ok(Pace::Idle) }
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
        let exact = before.shows_same_commit(&after);
        self.hold = Hold { seen: Seen::of(&after), read0, confirmed: false, exact };
        // Frames may have been published meanwhile.
        Ok(Pace::Again)
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
        self.scrubber.forget();
        self.prepared.clear();
        if self.mode == Mode::Publish {
            self.outbox.push(CaptureEvent::LetGo);
        }
        self.mode = Mode::Free;
        self.status.let_go = true;
        tracing::warn!(path = %self.files.path.display(), "read mark let go: the standby needs a resync");
    }

    /// Stops publishing; frames after the cursor are kept, and prepared commits stay in doubt.
    pub(super) fn detach(&mut self) {
        if self.mode == Mode::Publish {
            self.mode = Mode::Retain;
            self.outbox.clear();
            self.jobs.clear();
            self.scrubber.forget();
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

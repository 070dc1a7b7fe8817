//! Reading commits that are written and not yet published, from the WAL into the stream.
//!
//! A program's poke names a commit frame beyond the wal-index's last; it is a hint. What is shipped is
//! a run of the WAL's own bytes that continues what was shipped before, checksum by checksum, through
//! a commit mark. Frames of a transaction that is still open are rewritten in place, and its chain is
//! repaired last, so no half-written run passes for a commit. A large commit goes in parts; the poke came
//! behind its end. What becomes of a run is [`super::prepared`]'s.
//!
//! The first commit after a WAL was reset begins the next generation: the wal-index is empty then, and the
//! header in the WAL is the new one. That generation is entered ahead of its publication ("opening").

use super::follow::{Follower, Mode};
use super::prepared::Settled;
use super::take::commits;
use super::{Attached, CaptureError, CaptureEvent};
use crate::wal::{Frames, WalError, WalHeader, WalIndex, WalPoint, frame_bytes};
use bytes::Bytes;
use lockstep_barrier::Mark;
use lockstep_wire::{Chain, FrameNo, Position};

/// After a reconnect this much beyond the last published frame is looked at for what the standby holds; more comes anew.
const RESUMED_MAX_BYTES: u64 = 1 << 20;

/// Sound frames of the WAL that were not shipped yet.
struct Run {
    first: FrameNo,
    before: Chain,
    end: (FrameNo, Chain),
    data: Bytes,
    commits: Vec<(FrameNo, Chain)>,
}

impl Follower {
    /// Ships the commit that a program has told of while its sync runs. Called with the wal-index that
    /// the cursor was brought up to.
    pub(super) fn prepare(&mut self, index: &WalIndex) -> Result<(), CaptureError> {
        let Some(mark) = self.to_prepare else { return Ok(()) };
        while self.mode == Mode::Publish && self.to_prepare.is_some() {
            if !self.outbox.has_room() {
                return Ok(()); // The rest follows when there is.
            }
            if !self.prepare_part(&mark, index)? {
                self.to_prepare = None;
            }
        }
        Ok(())
    }

    /// Ships one batch of the poked commit. False: there is no more of it to ship.
    fn prepare_part(&mut self, mark: &Mark, index: &WalIndex) -> Result<bool, CaptureError> {
        let Some(run) = self.run_through(mark, index)? else { return Ok(false) };
        if !self.prepared.push(&run.commits, run.end) {
            return Ok(false);
        }
        self.note_version(&Frames::new(&run.data, self.files.page_size()));
        let point = self.cursor.point;
        let ends = run.end.0.0 == mark.frame;
        self.status.prepared += u64::from(ends);
        self.outbox.push(CaptureEvent::Frames {
            generation: point.position.generation,
            first: run.first,
            last: run.end.0,
            chain_before: run.before,
            chain_after: run.end.1,
            published: point.position.frame,
            data: run.data,
            salts: point.salts,
            commits: run.commits,
        });
        Ok(!ends)
    }

    /// The next frames of the poked commit, if they stand in the WAL behind what was shipped.
    fn run_through(&mut self, mark: &Mark, index: &WalIndex) -> Result<Option<Run>, CaptureError> {
        let point = self.cursor.point;
        if self
            .prepared
            .last()
            .is_some_and(|(frame, chain)| (frame.0, chain.packed()) == (mark.frame, mark.chain))
        {
            return Ok(None); // Who waits for it tells of it again and again.
        }
        if self.cursor.begun && mark.salts == point.salts.packed() && self.is_level(index) {
            let Some(header) = self.header_of(&point)? else { return Ok(None) };
            let run = self.read_run(&header, self.prepared.end(&self.cursor), mark)?;
            if run.is_some() {
                return Ok(run);
            }
            if self.take_back_overwritten(&header, index)? {
                let run = self.read_run(&header, (point.position.frame, point.chain), mark)?;
                if run.is_some() {
                    return Ok(run);
                }
            }
        }
        if !self.cursor.may_open(index) {
            return Ok(None);
        }
        let Ok(header) = self.files.wal_header()? else { return Ok(None) };
        if header.salts.packed() != mark.salts || !self.cursor.is_next(&header, index) {
            return Ok(None);
        }
        let run = self.read_run(&header, (FrameNo(0), header.chain), mark)?;
        if run.is_some() {
            if !self.index()?.shows_same_commit(index) {
                return Ok(None); // It is published by now, or something else is.
            }
            self.take_back_prepared();
            self.status.resets += u64::from(self.cursor.begun);
            self.begin_generation(&header, true);
        }
        Ok(run)
    }

    /// The header of the cursor's generation.
    fn header_of(&mut self, point: &WalPoint) -> Result<Option<WalHeader>, CaptureError> {
        if self.header.is_none_or(|header| header.salts != point.salts) {
            self.header = self.files.wal_header()?.ok().filter(|header| header.salts == point.salts);
        }
        Ok(self.header)
    }

    /// Nothing is published beyond the cursor.
    fn is_level(&self, index: &WalIndex) -> bool {
        let point = &self.cursor.point;
        let shown = (index.salts, index.last_frame, index.chain);
        shown == (point.salts, point.position.frame, point.chain)
            || (self.cursor.is_opening() && index.last_frame.0 == 0)
    }

    /// Reads at most one batch from behind `after` on, if it is sound and, at its end, through a commit mark.
    fn read_run(
        &self,
        header: &WalHeader,
        (after, before): (FrameNo, Chain),
        mark: &Mark,
    ) -> Result<Option<Run>, CaptureError> {
        let most = self.batch_max_frames();
        let (first, count) = (FrameNo(after.0 + 1), mark.frame.saturating_sub(after.0).min(most));
        if count == 0 {
            return Ok(None);
        }
        let data = self.files.frames(first, count)?;
        let frames = Frames::new(&data, self.files.page_size());
        // Anything else than whole, chained frames is not there yet, or not any more.
        let Ok(verified) = frames.verify(header, first, before) else { return Ok(None) };
        let end = FrameNo(after.0 + count);
        if verified.frames != count || (end.0 == mark.frame && verified.last_commit != count) {
            return Ok(None);
        }
        let commits = commits(&frames, first, verified.commits);
        Ok(Some(Run { first, before, end: (end, verified.chain), data, commits }))
    }

    /// A commit in doubt that another writer has overwritten, in part or wholly, will never be published: takes it back.
    fn take_back_overwritten(&mut self, header: &WalHeader, index: &WalIndex) -> Result<bool, CaptureError> {
        if self.prepared.is_empty() || self.prepared_stands(header)? {
            return Ok(false);
        }
        // Read after the frames: had it been published before it went, the wal-index would have moved on.
        if !self.index()?.shows_same_commit(index) {
            return Ok(false);
        }
        self.take_back_prepared();
        Ok(true)
    }

    /// Every frame that was shipped ahead of its publication stands in the WAL as it was.
    fn prepared_stands(&self, header: &WalHeader) -> Result<bool, CaptureError> {
        let most = self.batch_max_frames();
        let (end, expected) = self.prepared.end(&self.cursor);
        let (mut at, mut chain) = (self.cursor.point.position.frame, self.cursor.point.chain);
        while at < end {
            let count = (end.0 - at.0).min(most);
            let data = self.files.frames(FrameNo(at.0 + 1), count)?;
            let frames = Frames::new(&data, self.files.page_size());
            match frames.verify(header, FrameNo(at.0 + 1), chain) {
                Ok(verified) if verified.frames == count => {
                    (at, chain) = (FrameNo(at.0 + count), verified.chain);
                }
                _ => return Ok(false),
            }
        }
        Ok(chain == expected)
    }

    fn take_back_prepared(&mut self) {
        if !self.prepared.is_empty() {
            self.prepared.clear();
            self.status.rewinds += 1;
            self.outbox.push(CaptureEvent::Rewind(self.cursor.point));
        }
    }

    /// Of a generation that was entered before its publication: another header may have taken its place.
    pub(super) fn check_opening(&mut self, index: &WalIndex) -> Result<(), CaptureError> {
        if !self.cursor.is_opening() || index.last_frame.0 == 0 || index.salts != self.cursor.point.salts {
            return Ok(());
        }
        // Its frames are published, so the header does not change any more.
        if self.files.wal_header()?.is_ok_and(|header| header.chain != self.cursor.point.chain) {
            self.cursor.replace();
        }
        Ok(())
    }

    /// Tells the stream what became of prepared commits. False: look again.
    pub(super) fn settle(&mut self, index: &WalIndex) -> Result<bool, CaptureError> {
        self.check_opening(index)?;
        if self.prepared.is_empty() {
            return Ok(true);
        }
        let (files, before) = (&self.files, self.cursor.point.position.frame);
        let mut found = index.salts;
        let chain_at = |frame| {
            let Some(header) = files.frame_header(frame)? else { return Ok(None) };
            found = header.salts;
            Ok::<_, CaptureError>((found == index.salts).then_some(header.chain))
        };
        match self.prepared.settle(&mut self.cursor, index, chain_at)? {
            Settled::Open => {}
            Settled::Published(commits) => {
                self.status.frames += u64::from(self.cursor.point.position.frame.0 - before.0);
                self.status.commits += u64::from(commits);
                self.outbox.push(CaptureEvent::Published(self.cursor.point.position));
            }
            Settled::Phantom(to) => {
                self.status.rewinds += 1;
                self.outbox.push(CaptureEvent::Rewind(to));
            }
            Settled::LookAgain => {
                let (expected, frame) = (index.salts, index.last_frame.0);
                return self.ended_meanwhile(index, WalError::Salts { frame, expected, found });
            }
        }
        Ok(true)
    }

    /// Goes on behind a standby that holds prepared commits through `from`: they are in doubt as before.
    pub(super) fn resume_prepared(
        &mut self,
        from: WalPoint,
        index: &WalIndex,
    ) -> Result<Option<Attached>, CaptureError> {
        let generation = from.position.generation;
        if from.salts == self.cursor.point.salts && self.prepared.end_at(&from) {
            self.cursor.point.position.generation = generation;
        } else if !self.reads_prepared(from, index)? {
            return Ok(None);
        }
        Ok(Some(Attached::Resumed { held: from.position, published: self.cursor.point.position }))
    }

    /// The frames between the wal-index's last and `from` stand in the WAL, in doubt: remembers them.
    fn reads_prepared(&mut self, from: WalPoint, index: &WalIndex) -> Result<bool, CaptureError> {
        let last = index.last_frame;
        let count = from.position.frame.0.saturating_sub(last.0);
        let most = (RESUMED_MAX_BYTES / frame_bytes(self.files.page_size())) as u32;
        if index.salts != from.salts || count == 0 || count > most {
            return Ok(false);
        }
        let Some(header) = self.files.wal_header()?.ok().filter(|header| header.salts == from.salts) else {
            return Ok(false);
        };
        let before = if last.0 == 0 { header.chain } else { index.chain };
        let first = FrameNo(last.0 + 1);
        let data = self.files.frames(first, count)?;
        let frames = Frames::new(&data, self.files.page_size());
        let Ok(verified) = frames.verify(&header, first, before) else { return Ok(false) };
        if (verified.frames, verified.chain) != (count, from.chain) {
            return Ok(false);
        }
        let mut prepared = super::prepared::Prepared::default();
        if !prepared.push(&commits(&frames, first, verified.commits), (from.position.frame, from.chain)) {
            return Ok(false);
        }
        self.prepared = prepared;
        let position = Position { generation: from.position.generation, frame: last };
        let point = WalPoint { position, chain: before, salts: from.salts };
        let previous = self.previous_of(from.salts);
        self.cursor = super::cursor::Cursor::after(point, previous);
        if last.0 == 0 {
            self.cursor.reopen();
        }
        self.header = Some(header);
        Ok(true)
    }
}

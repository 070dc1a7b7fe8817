//! Reading commits that are written and not yet published, from the WAL into the stream.
//!
//! A program's poke names a commit frame beyond the wal-index's last; it is a hint. What is shipped is
//! a run of the WAL's own bytes that continues what was shipped before, checksum by checksum, through
//! a commit mark. Frames of a transaction that is still open are rewritten in place, and its chain is
//! repaired last, so no half-written run passes. What becomes of a run is [`super::prepared`]'s.

use super::follow::{Follower, Mode};
use super::prepared::Settled;
use super::take::commits;
use super::{Attached, CaptureError, CaptureEvent};
use crate::wal::{Frames, WalError, WalIndex, WalPoint, frame_bytes};
use lockstep_barrier::Mark;
use lockstep_wire::{FrameNo, Position};

/// A commit larger than this is shipped when it is published: looking at it before costs what sending it does.
const PREPARED_MAX_BYTES: u64 = 1 << 20;

impl Follower {
    /// Ships the commit that a program has told of while its sync runs. Called with the wal-index that
    /// the cursor was brought up to.
    pub(super) fn prepare(&mut self, index: &WalIndex) -> Result<(), CaptureError> {
        let Some(mark) = self.to_prepare.take() else { return Ok(()) };
        if self.mode != Mode::Publish || !self.outbox.has_room() || !self.may_follow(&mark, index) {
            return Ok(());
        }
        let point = self.cursor.point;
        let Some(header) = self.header.filter(|header| header.salts == point.salts) else { return Ok(()) };
        let (end, before) = self.prepared.end(&self.cursor);
        let (first, count) = (FrameNo(end.0 + 1), mark.frame - end.0);
        let data = self.files.frames(first, count)?;
        let frames = Frames::new(&data, self.files.page_size());
        // Anything else than whole, chained frames through a commit mark is not there yet, or not any more.
        let Ok(verified) = frames.verify(&header, first, before) else { return Ok(()) };
        if verified.frames != count || verified.last_commit != count {
            return Ok(());
        }
        let commits = commits(&frames, first, verified.commits);
        if !self.prepared.push(&commits) {
            return Ok(());
        }
        self.note_version(&frames);
        self.status.prepared += 1;
        self.outbox.push(CaptureEvent::Frames {
            generation: point.position.generation,
            first,
            last: FrameNo(mark.frame),
            chain_before: before,
            chain_after: verified.chain,
            published: point.position.frame,
            data,
            salts: point.salts,
            commits,
        });
        Ok(())
    }

    /// The poked frame can come next, and few enough frames lie before it.
    fn may_follow(&self, mark: &Mark, index: &WalIndex) -> bool {
        let point = &self.cursor.point;
        let level = self.cursor.begun
            && index.salts == point.salts
            && (index.last_frame, index.chain) == (point.position.frame, point.chain);
        let next = mark.salts == point.salts.packed() && mark.frame > self.prepared.end(&self.cursor).0.0;
        level && next && mark.frame - point.position.frame.0 <= self.prepared_max_frames()
    }

    /// How far beyond the last published frame is looked.
    fn prepared_max_frames(&self) -> u32 {
        (PREPARED_MAX_BYTES / frame_bytes(self.files.page_size())) as u32
    }

    /// Tells the stream what became of prepared commits. False: look again.
    pub(super) fn settle(&mut self, index: &WalIndex) -> Result<bool, CaptureError> {
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
        let last = index.last_frame.0;
        let count = from.position.frame.0.saturating_sub(last);
        if last == 0 || index.salts != from.salts || count == 0 || count > self.prepared_max_frames() {
            return Ok(false);
        }
        let Some(header) = self.files.wal_header()?.ok().filter(|header| header.salts == from.salts) else {
            return Ok(false);
        };
        let first = FrameNo(last + 1);
        let data = self.files.frames(first, count)?;
        let frames = Frames::new(&data, self.files.page_size());
        let Ok(verified) = frames.verify(&header, first, index.chain) else { return Ok(false) };
        if (verified.frames, verified.chain) != (count, from.chain) {
            return Ok(false);
        }
        self.prepared.clear();
        if !self.prepared.push(&commits(&frames, first, verified.commits)) {
            return Ok(false);
        }
        let position = Position { generation: from.position.generation, frame: index.last_frame };
        let previous = self.previous_of(from.salts);
        self.cursor = super::cursor::Cursor::after(
            WalPoint { position, chain: index.chain, salts: from.salts },
            previous,
        );
        Ok(true)
    }
}

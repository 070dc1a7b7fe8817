//! Where a session goes on: what of the standby's WAL is provably in this one.

use super::cursor::{Cursor, Next, Seen};
use super::follow::{Follower, Mode};
use super::{Attached, CaptureError, CaptureEvent, Fork};
use crate::wal::{WalIndex, WalPoint};
use lockstep_wire::{FrameNo, Salts, WalGeneration};

impl Follower {
    /// Where to begin at start-up: at the point that was left, if it is in this WAL.
    pub(super) fn first_cursor(&self, index: &WalIndex) -> Result<Cursor, CaptureError> {
        let Some(point) = self.config.continues else {
            return Ok(Cursor::before(WalGeneration(1), Seen::default()));
        };
        if self.contains(&point, index)? {
            return Ok(Cursor::after(point, None));
        }
        Ok(Cursor::before(WalGeneration(point.position.generation.0 + 1), Seen::default()))
    }

    /// Begins to publish after `from` if that is proven, after `published` if only that is, else with the
    /// whole present WAL.
    pub(super) fn attach(
        &mut self,
        from: Option<WalPoint>,
        published: Option<WalPoint>,
    ) -> Result<Attached, CaptureError> {
        self.outbox.clear();
        self.jobs.clear();
        self.scrubber.forget();
        let index = self.index()?;
        if self.mode == Mode::Free {
            self.cursor.follow(&index);
        }
        self.mode = Mode::Publish;
        self.status.let_go = false;
        // Positions count anew.
        self.status.poked = lockstep_wire::Position::default();
        self.poke = None;
        self.to_prepare = None;
        if let Some(from) = from
            && let Some(resumed) = self.resume_behind(from, published, &index)?
        {
            return Ok(resumed);
        }
        self.prepared.clear();
        let theirs = from.map_or(0, |from| from.position.generation.0);
        let generation = WalGeneration(self.cursor.point.position.generation.0.max(theirs) + 1);
        // Nothing of a WAL that is wholly in the database file needs to be sent, and nothing keeps
        // it from being reset. Any other one the held transaction keeps whole.
        let settled = if index.is_backfilled() { Seen::of(&index) } else { Seen::default() };
        self.cursor = Cursor::before(generation, settled);
        self.fresh = Some(generation);
        let ahead = match from {
            Some(from) => from.position.frame.0 > 0 && self.is_of_this_wal(&from)?,
            None => false,
        };
        Ok(Attached::FromStart {
            page_size: self.files.page_size(),
            page_count: self.files.page_count()?,
            ahead,
        })
    }

    /// Where the WAL that ends with `of` parted from this one: where this node took over from its mirror.
    pub(super) fn fork(&mut self, of: WalPoint) -> Result<Option<Fork>, CaptureError> {
        let index = self.index()?;
        let Some(point) = self.config.continues else { return Ok(None) };
        let parted = point.position.frame.0 > 0
            && point.salts == of.salts
            && point.position.frame < of.position.frame
            && !self.contains(&of, &index)?;
        Ok(if parted { Some(Fork { point, in_wal: self.contains(&point, &index)? }) } else { None })
    }

    /// Finds what the standby and this WAL have in common without comparing pages.
    fn resume_behind(
        &mut self,
        from: WalPoint,
        published: Option<WalPoint>,
        index: &WalIndex,
    ) -> Result<Option<Attached>, CaptureError> {
        if let Some(cursor) = self.resume(from, index)? {
            self.resume_at(cursor);
            return Ok(Some(Attached::Resumed { held: from.position, published: from.position }));
        }
        if let Some(resumed) = self.resume_prepared(from, index)? {
            return Ok(Some(resumed));
        }
        // What the standby holds beyond the last commit it knows of was never published: a writer died, and
        // the next one wrote something else.
        let Some(to) = published else { return Ok(None) };
        let cursor = self.resume(to, index)?;
        let Some(cursor) = cursor.filter(|cursor| cursor.next(index) != Next::Broken) else {
            return Ok(None);
        };
        self.resume_at(cursor);
        self.status.rewinds += 1;
        self.outbox.push(CaptureEvent::Rewind(to));
        Ok(Some(Attached::Resumed { held: to.position, published: to.position }))
    }

    fn resume_at(&mut self, cursor: Cursor) {
        self.cursor = cursor;
        self.prepared.clear();
    }

    /// The proven end of the generation before the one with these salts.
    pub(super) fn previous_of(&self, salts: Salts) -> Option<WalPoint> {
        self.cursor.previous.filter(|_| self.cursor.begun && self.cursor.point.salts == salts)
    }

    fn resume(&self, from: WalPoint, index: &WalIndex) -> Result<Option<Cursor>, CaptureError> {
        let cursor = &self.cursor;
        // The point is in the WAL as it stands.
        if self.contains(&from, index)? {
            return Ok(Some(Cursor::after(from, self.previous_of(from.salts))));
        }
        // The point is where this thread stands.
        if cursor.begun && same_place(&from, &cursor.point) {
            let mut resumed = *cursor;
            resumed.point.position.generation = from.position.generation;
            return Ok(Some(resumed));
        }
        // The point is where a generation ended of which only an unpublished commit has followed.
        if let Some(before) = cursor.before_opening()
            && same_place(&from, &before.point)
        {
            return Ok(Some(Cursor::at_end(from, None)));
        }
        let begins_here = index.last_frame.0 > 0 && cursor.begun && index.salts == cursor.point.salts;
        // The point is the proven end of the generation before the present one.
        if begins_here && cursor.previous.is_some_and(|end| same_place(&from, &end)) {
            return Ok(Some(Cursor::at_end(from, Some(index.salts))));
        }
        // A copy made by this thread, to which no frame had to be added yet.
        let copied = from.position.frame == FrameNo(0)
            && from.salts == Salts::default()
            && self.fresh == Some(from.position.generation)
            && cursor.point.position.generation == from.position.generation;
        if copied && !cursor.begun {
            return Ok(Some(*cursor));
        }
        if copied && begins_here {
            let before = Cursor::before(from.position.generation, Seen::default());
            return Ok(Some(before.followed_by(index.salts)));
        }
        Ok(None)
    }

    fn is_of_this_wal(&self, point: &WalPoint) -> Result<bool, CaptureError> {
        Ok(self.files.wal_header()?.is_ok_and(|header| header.salts == point.salts))
    }

    /// The WAL's committed part contains `point`, so both WALs are equal through it.
    fn contains(&self, point: &WalPoint, index: &WalIndex) -> Result<bool, CaptureError> {
        let frame = point.position.frame;
        if index.last_frame.0 == 0 || index.salts != point.salts || index.last_frame < frame {
            return Ok(false);
        }
        if frame.0 > 0 {
            let found = self.files.frame_header(frame)?;
            return Ok(found.is_some_and(|found| (found.salts, found.chain) == (point.salts, point.chain)));
        }
        let header = self.files.wal_header()?;
        Ok(header.is_ok_and(|header| (header.salts, header.chain) == (point.salts, point.chain)))
    }
}

/// Equal but for the number of the generation, which each node may have counted differently.
fn same_place(one: &WalPoint, other: &WalPoint) -> bool {
    (one.position.frame, one.chain, one.salts) == (other.position.frame, other.chain, other.salts)
}

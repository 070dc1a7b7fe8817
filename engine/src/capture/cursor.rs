//! How far the WAL has been taken, and how that continues at a new wal-index. Pure.
//!
//! Generations are counted here: SQLite's salts name one but do not order them. A generation begins
//! with its first published frame. Its predecessor's end is *proven* if the transaction that was
//! held meanwhile began where the cursor stands: from there no frame can be lost, see the rolling
//! rules in `marks`.

use crate::wal::{WalHeader, WalIndex, WalPoint};
use lockstep_wire::{Chain, FrameNo, Position, Salts, WalGeneration};

/// What the wal-index showed right after the held transaction began: an upper bound of its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// Salts; all zero while the WAL is empty, when they mean nothing.
    pub(super) salts: Salts,
    /// Last frame.
    pub(super) frame: FrameNo,
}

impl Seen {
    pub(super) fn of(index: &WalIndex) -> Self {
        let empty = index.last_frame.0 == 0;
        Self { salts: if empty { Salts::default() } else { index.salts }, frame: index.last_frame }
    }
}

/// What comes after the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing new.
    Nothing,
    /// More frames of the same generation.
    Continue,
    /// A generation from its first frame.
    Switch,
    /// Frames in between may be lost.
    Broken,
}

/// A place in the history of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// The last frame taken. Salts and chain mean nothing while the generation has not begun.
    pub(super) point: WalPoint,
    /// The generation of `point` has begun; otherwise its first frame is still to come.
    pub(super) begun: bool,
    /// Proven end of the generation before.
    pub(super) previous: Option<WalPoint>,
    /// `point` is known to be the last frame of its generation.
    ended: bool,
    /// Frames were lost between `point` and now.
    lost: bool,
    /// Not begun: this much of the WAL lies in the database file and need not be taken while nothing follows it.
    settled: Seen,
    /// Only the generation with these salts may come next.
    successor: Option<Salts>,
    /// The generation was entered before the wal-index showed a frame of it: its first commit is prepared.
    opening: bool,
    /// `opening`, and another header with the same salts has taken the place of this one.
    replaced: bool,
}

impl Cursor {
    /// Before the first frame of `generation`. What `settled` names is in the database file already.
    pub(super) fn before(generation: WalGeneration, settled: Seen) -> Self {
        let position = Position { generation, frame: FrameNo(0) };
        Self { point: WalPoint { position, ..WalPoint::default() }, settled, ..Self::default() }
    }

    /// After `point`, within its generation.
    pub(super) fn after(point: WalPoint, previous: Option<WalPoint>) -> Self {
        Self { point, begun: true, previous, ..Self::default() }
    }

    /// After `point`, the proven end of its generation; `successor` follows.
    pub(super) fn at_end(point: WalPoint, successor: Option<Salts>) -> Self {
        Self { point, begun: true, ended: true, successor, ..Self::default() }
    }

    /// The same cursor, but only the generation with these salts may come next.
    pub(super) fn followed_by(self, salts: Salts) -> Self {
        Self { successor: Some(salts), ..self }
    }

    /// To be called with every wal-index, while the transaction that showed `seen` is still held.
    pub(super) fn observe(&mut self, index: &WalIndex, seen: Seen) {
        let left = index.last_frame.0 == 0 || index.salts != self.point.salts;
        // Before the first frame of a generation is published nothing can be lost behind it.
        if self.begun && !self.ended && !self.opening && left {
            // Had frames followed `seen`, they would not be backfilled and the WAL not reset.
            self.ended = seen == Seen { salts: self.point.salts, frame: self.point.position.frame };
            self.lost |= !self.ended;
        }
    }

    /// What `index` shows beyond the cursor.
    pub(super) fn next(&self, index: &WalIndex) -> Next {
        if self.lost {
            return Next::Broken;
        }
        if index.last_frame.0 == 0 {
            return Next::Nothing;
        }
        if self.begun && index.salts == self.point.salts && !self.replaced {
            let frame = self.point.position.frame;
            return match index.last_frame.cmp(&frame) {
                std::cmp::Ordering::Greater => Next::Continue,
                std::cmp::Ordering::Equal if index.chain == self.point.chain => Next::Nothing,
                _ => Next::Broken,
            };
        }
        if !self.begun && index.salts == self.settled.salts && index.last_frame <= self.settled.frame {
            return Next::Nothing;
        }
        match self.successor {
            Some(salts) if salts != index.salts => Next::Broken,
            _ => Next::Switch,
        }
    }

    /// Number of the generation that a [`Next::Switch`] leads to.
    pub(super) fn next_generation(&self) -> WalGeneration {
        WalGeneration(self.point.position.generation.0 + u64::from(self.begun))
    }

    /// The position that covers everything `index` shows as committed.
    pub(super) fn position_at(&self, index: &WalIndex) -> Position {
        match self.next(index) {
            Next::Nothing => self.point.position,
            Next::Continue => {
                Position { generation: self.point.position.generation, frame: index.last_frame }
            }
            Next::Switch | Next::Broken => {
                Position { generation: self.next_generation(), frame: index.last_frame }
            }
        }
    }

    /// Enters the generation of `header`, before its first frame; returns the proven end of the one before.
    pub(super) fn enter(&mut self, header: &WalHeader) -> Option<WalPoint> {
        let generation = self.next_generation();
        let previous = self.begun.then_some(self.point);
        let position = Position { generation, frame: FrameNo(0) };
        *self = Self::after(WalPoint { position, chain: header.chain, salts: header.salts }, previous);
        previous
    }

    /// A generation may be entered before it is published: the one before has provably ended, or there is none.
    pub(super) fn may_open(&self, index: &WalIndex) -> bool {
        index.last_frame.0 == 0 && !self.lost && (!self.begun || self.ended || self.opening)
    }

    /// This header, found while the wal-index shows no frame, is of a generation after the cursor's place. A
    /// writer that resets the WAL shows that first and writes the header then: in between it is the old one.
    pub(super) fn is_next(&self, header: &WalHeader, index: &WalIndex) -> bool {
        let is_known = self.begun
            && header.salts == self.point.salts
            && (!self.opening || header.chain == self.point.chain);
        let is_before_reset = index.salts.0[0] == header.salts.0[0].wrapping_add(1);
        !is_known && (header.salts == index.salts || !is_before_reset)
    }

    /// As [`Self::enter`], for a generation that no wal-index shows yet.
    pub(super) fn open(&mut self, header: &WalHeader) -> Option<WalPoint> {
        let previous = self.enter(header);
        self.opening = true;
        previous
    }

    /// A cursor before the first frame of a generation that no wal-index shows yet.
    pub(super) fn reopen(&mut self) {
        self.opening = true;
    }

    /// The generation was entered, and none of its frames is published.
    pub(super) fn is_opening(&self) -> bool {
        self.opening
    }

    /// While opening: another header has the same salts, as of a writer that followed one that died.
    pub(super) fn replace(&mut self) {
        self.replaced = true;
    }

    /// While opening: the end of the generation before, as if this one had not been entered.
    pub(super) fn before_opening(&self) -> Option<Self> {
        let previous = self.previous.filter(|_| self.opening)?;
        Some(Self::at_end(previous, None))
    }

    /// Moves on by verified frames.
    pub(super) fn advance(&mut self, frames: u32, chain: Chain) {
        self.point.position.frame.0 += frames;
        self.point.chain = chain;
        self.ended = false;
        self.opening = false;
    }

    /// Moves to what `index` shows without taking frames.
    pub(super) fn follow(&mut self, index: &WalIndex) {
        let next = self.next(index);
        let previous = match next {
            Next::Nothing => return,
            Next::Continue => self.previous,
            Next::Switch => self.begun.then_some(self.point),
            Next::Broken => None,
        };
        let position = match next {
            // An emptied WAL after a loss: what comes is a new generation.
            Next::Broken if index.last_frame.0 == 0 => {
                *self = Self::before(self.next_generation(), Seen::default());
                return;
            }
            _ => self.position_at(index),
        };
        *self = Self::after(WalPoint { position, chain: index.chain, salts: index.salts }, previous);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(salt: u32, frame: u32) -> WalIndex {
        WalIndex {
            change: 1,
            page_size: 4096,
            last_frame: FrameNo(frame),
            page_count: 5,
            chain: Chain([frame, salt]),
            salts: Salts([salt, salt]),
            backfilled: FrameNo(0),
        }
    }

    fn at(salt: u32, frame: u32) -> Cursor {
        let mut cursor = Cursor::before(WalGeneration(7), Seen::default());
        cursor.follow(&index(salt, frame));
        cursor
    }

    #[test]
    fn a_new_generation_continues_where_the_held_transaction_began() {
        let mut cursor = at(1, 10);
        let end = cursor.point;
        cursor.observe(&index(2, 0), Seen::of(&index(1, 10)));
        assert_eq!(cursor.next(&index(2, 0)), Next::Nothing, "no frame, no generation");
        cursor.observe(&index(3, 4), Seen::default());
        assert_eq!(cursor.next(&index(3, 4)), Next::Switch);
        let expected = Position { generation: WalGeneration(8), frame: FrameNo(4) };
        assert_eq!(cursor.position_at(&index(3, 4)), expected);
        cursor.follow(&index(3, 4));
        assert_eq!(cursor.previous, Some(end));
    }

    #[test]
    fn a_reset_before_everything_was_taken_is_broken() {
        let mut cursor = at(1, 10);
        cursor.observe(&index(2, 4), Seen::of(&index(1, 12)));
        assert_eq!(cursor.next(&index(2, 4)), Next::Broken);
    }

    #[test]
    fn a_wal_that_went_back_is_broken() {
        assert_eq!(at(1, 10).next(&index(1, 9)), Next::Broken);
    }

    #[test]
    fn another_generation_than_the_expected_successor_is_broken() {
        let cursor = Cursor::at_end(at(1, 10).point, Some(Salts([2, 2])));
        assert_eq!(cursor.next(&index(2, 1)), Next::Switch);
        assert_eq!(cursor.next(&index(3, 1)), Next::Broken);
    }

    #[test]
    fn a_generation_entered_before_its_publication_loses_nothing_and_gives_way_to_another() {
        let mut cursor = at(1, 10);
        let empty = index(2, 0);
        assert!(!cursor.may_open(&empty), "the end of the one before is not proven");
        cursor.observe(&empty, Seen::of(&index(1, 10)));
        assert!(cursor.may_open(&empty) && !cursor.may_open(&index(2, 1)));
        let header =
            |sequence| WalHeader::new(crate::wal::ChecksumOrder::NATIVE, 4096, sequence, Salts([2, 2]));
        assert_eq!(cursor.open(&header(1)), Some(at(1, 10).point));
        cursor.observe(&empty, Seen::default());
        assert_eq!(cursor.next(&empty), Next::Nothing);
        assert_eq!(cursor.before_opening().map(|before| before.next(&index(3, 1))), Some(Next::Switch));
        let opened = cursor;
        cursor.observe(&index(2, 4), Seen::default());
        assert_eq!(cursor.next(&index(2, 4)), Next::Continue);
        cursor.advance(4, Chain([4, 2]));
        cursor.observe(&index(3, 1), Seen::default());
        assert_eq!(cursor.next(&index(3, 1)), Next::Broken, "published frames may be lost again");
        let mut cursor = opened;
        cursor.observe(&index(3, 1), Seen::default());
        assert_eq!(cursor.next(&index(3, 1)), Next::Switch, "other salts");
        cursor.replace();
        assert_eq!(cursor.next(&index(2, 4)), Next::Switch, "another header");
        let expected = Position { generation: WalGeneration(9), frame: FrameNo(4) };
        assert_eq!(cursor.position_at(&index(2, 4)), expected);
    }

    #[test]
    fn the_header_that_a_reset_has_left_in_the_file_opens_nothing() {
        let header = |salt, sequence| {
            WalHeader::new(crate::wal::ChecksumOrder::NATIVE, 4096, sequence, Salts([salt, salt]))
        };
        let empty = index(2, 0);
        let nowhere = Cursor::before(WalGeneration(1), Seen::default());
        assert!(!nowhere.is_next(&header(1, 1), &empty), "the writer has not written its own yet");
        assert!(nowhere.is_next(&header(2, 1), &empty));
        assert!(nowhere.is_next(&header(77, 1), &empty), "a fresh writer's are random");
        let mut cursor = at(1, 10);
        cursor.observe(&index(9, 0), Seen::of(&index(1, 10)));
        assert!(!cursor.is_next(&header(1, 1), &index(9, 0)), "that one is taken");
        cursor.open(&header(2, 1));
        assert!(!cursor.is_next(&header(2, 1), &empty), "that one is open");
        assert!(cursor.is_next(&header(2, 2), &empty), "the next writer's has another sequence");
    }

    #[test]
    fn what_is_settled_is_not_taken_until_something_follows() {
        let cursor = Cursor::before(WalGeneration(3), Seen::of(&index(1, 10)));
        assert_eq!(cursor.next(&index(1, 10)), Next::Nothing);
        assert_eq!(cursor.next(&index(1, 11)), Next::Switch);
        assert_eq!(cursor.next_generation(), WalGeneration(3));
    }
}

//! Commits shipped before they are published, and what becomes of them when the wal-index moves. Pure.
//!
//! Between the write of a commit frame and its publication a writer syncs the WAL, and may die: then
//! the next writer overwrites the frame. So prepared commits are remembered by their checksum, which
//! chains over everything before them, until the wal-index says whether they came true. The cursor
//! stays at what is published; which bytes make a prepared run is [`super::prepare`]'s.

use super::cursor::{Cursor, Next};
use crate::wal::{WalIndex, WalPoint};
use lockstep_wire::{Chain, FrameNo};

/// Commit marks remembered. One transaction can follow what is published, with some marks more where
/// SQLite pads a sector.
const COMMITS_MAX: usize = 256;

/// The prepared commits beyond the cursor, oldest first, and behind them how far a larger one is shipped; all in
/// the cursor's generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prepared {
    marks: Vec<(FrameNo, Chain)>,
    /// The last of `marks` is no commit: more of its transaction follows.
    is_part: bool,
}

/// What the wal-index says of prepared commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Nothing yet.
    Open,
    /// So many commits came true; the cursor is behind the last of them.
    Published(u32),
    /// They will never be published: the standby has to forget what follows this point.
    Phantom(WalPoint),
    /// The WAL was begun anew meanwhile: read the wal-index again.
    LookAgain,
}

impl Prepared {
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The newest of them: a frame shipped, and the running checksum after it.
    pub(super) fn last(&self) -> Option<(FrameNo, Chain)> {
        self.marks.last().copied()
    }

    /// The last frame shipped, published or not, and the running checksum after it.
    pub(super) fn end(&self, cursor: &Cursor) -> (FrameNo, Chain) {
        self.last().unwrap_or((cursor.point.position.frame, cursor.point.chain))
    }

    /// Remembers commits that are being shipped in a run through `end`. False: there are too many already, ship
    /// none of them.
    pub(super) fn push(&mut self, commits: &[(FrameNo, Chain)], end: (FrameNo, Chain)) -> bool {
        let is_part = commits.last() != Some(&end);
        let kept = self.marks.len() - usize::from(self.is_part);
        if kept + commits.len() + usize::from(is_part) > COMMITS_MAX {
            return false;
        }
        self.marks.truncate(kept);
        self.marks.extend_from_slice(commits);
        self.marks.extend(is_part.then_some(end));
        self.is_part = is_part;
        true
    }

    /// The standby holds them through `point` only. False: `point` is none of them.
    pub(super) fn end_at(&mut self, point: &WalPoint) -> bool {
        let commit = (point.position.frame, point.chain);
        let found = self.marks.iter().position(|&known| known == commit);
        if let Some(at) = found {
            self.is_part &= at + 1 == self.marks.len();
            self.marks.truncate(at + 1);
        }
        found.is_some()
    }

    /// Compares with the wal-index. `chain_at` reads the checksum that stands in the WAL at a frame
    /// that is published by now; `None` when the frame is of another WAL.
    pub(super) fn settle<E>(
        &mut self,
        cursor: &mut Cursor,
        index: &WalIndex,
        chain_at: impl FnOnce(FrameNo) -> Result<Option<Chain>, E>,
    ) -> Result<Settled, E> {
        let Some((last, chain)) = self.last() else { return Ok(Settled::Open) };
        let published = match cursor.next(index) {
            // After a break everything is let go.
            Next::Nothing | Next::Broken => return Ok(Settled::Open),
            // The WAL was reset from the cursor's point on: nothing that followed it was published.
            Next::Switch => None,
            Next::Continue if index.last_frame > last => match chain_at(last)? {
                None => return Ok(Settled::LookAgain),
                Some(found) => (found == chain).then_some(self.marks.len()),
            },
            Next::Continue => {
                let shown = (index.last_frame, index.chain);
                self.marks.iter().position(|&commit| commit == shown).map(|at| at + 1)
            }
        };
        let Some(count) = published else {
            self.clear();
            return Ok(Settled::Phantom(cursor.point));
        };
        let (frame, chain) = self.marks[count - 1];
        cursor.advance(frame.0 - cursor.point.position.frame.0, chain);
        let part = usize::from(self.is_part && count == self.marks.len());
        self.is_part &= part == 0;
        self.marks.drain(..count);
        Ok(Settled::Published(u32::try_from(count - part).expect("the marks are few")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::Seen;
    use super::*;
    use lockstep_wire::{Salts, WalGeneration};
    use proptest::prelude::*;
    use std::convert::Infallible;

    #[derive(Debug, Clone, Copy, Default)]
    struct Frame {
        before: Chain,
        after: Chain,
        commits: bool,
    }

    /// A WAL as writers leave it: frames, of which some are published.
    #[derive(Debug, Default)]
    struct Wal {
        salt: u32,
        frames: Vec<Frame>,
        published: usize,
    }

    impl Wal {
        fn chain(&self, count: usize) -> Chain {
            count.checked_sub(1).map_or(Chain([self.salt, 0]), |at| self.frames[at].after)
        }

        /// A transaction after what is published; `fills` are its pages' contents.
        fn write(&mut self, fills: &[u8]) {
            let mut chain = self.chain(self.published);
            for (at, fill) in fills.iter().enumerate() {
                let before = chain;
                chain.0[1] = chain.0[1].wrapping_mul(257).wrapping_add(u32::from(*fill) + 1);
                let frame = self.published + at;
                // What an earlier writer left behind stays.
                self.frames.resize(self.frames.len().max(frame + 1), Frame::default());
                self.frames[frame] = Frame { before, after: chain, commits: at + 1 == fills.len() };
            }
        }

        /// The end of the chain-valid run through a commit mark beyond what is published.
        fn run(&self, fills: usize) -> Option<usize> {
            let end = self.published + fills;
            let run = self.frames.get(self.published..end)?;
            let mut chain = self.chain(self.published);
            let sound = run.iter().all(|frame| std::mem::replace(&mut chain, frame.after) == frame.before);
            (sound && run.last()?.commits).then_some(end)
        }

        fn index(&self) -> WalIndex {
            WalIndex {
                change: 1,
                page_size: 4096,
                last_frame: FrameNo(self.published as u32),
                page_count: 5,
                chain: self.chain(self.published),
                salts: Salts([self.salt, self.salt]),
                backfilled: FrameNo(0),
            }
        }
    }

    /// What the standby has of the present generation.
    #[derive(Debug, Default)]
    struct Standby {
        generation: u64,
        chains: Vec<Chain>,
    }

    struct Capture {
        cursor: Cursor,
        prepared: Prepared,
        standby: Standby,
        phantoms: u32,
    }

    impl Capture {
        fn look(&mut self, wal: &Wal) {
            let index = wal.index();
            let seen = Seen { salts: self.cursor.point.salts, frame: self.cursor.point.position.frame };
            self.cursor.observe(&index, seen);
            let at = |frame: FrameNo| Ok::<_, Infallible>(Some(wal.chain(frame.0 as usize)));
            match self.prepared.settle(&mut self.cursor, &index, at).unwrap() {
                Settled::Phantom(to) => {
                    assert_eq!(
                        to.position.generation.0, self.standby.generation,
                        "taken back before a switch"
                    );
                    self.standby.chains.truncate(to.position.frame.0 as usize);
                    assert_eq!(self.standby.chains.last().copied().unwrap_or(to.chain), to.chain);
                    self.phantoms += 1;
                }
                Settled::Published(_) | Settled::Open => {}
                Settled::LookAgain => unreachable!("the WAL stands still"),
            }
            if self.cursor.next(&index) == Next::Switch {
                assert_eq!(
                    self.standby.chains.len() as u32,
                    self.cursor.point.position.frame.0,
                    "no switch with a tail"
                );
                self.cursor.follow(&WalIndex { last_frame: FrameNo(0), chain: wal.chain(0), ..index });
                self.enter(wal);
            }
            if self.cursor.next(&index) == Next::Continue {
                assert!(self.prepared.is_empty());
                for frame in self.cursor.point.position.frame.0 as usize..wal.published {
                    self.standby.chains.push(wal.chain(frame + 1));
                }
                let count = wal.published as u32 - self.cursor.point.position.frame.0;
                self.cursor.advance(count, index.chain);
            }
            assert_eq!(self.cursor.next(&index), Next::Nothing);
            assert_eq!(self.cursor.point.position.frame.0 as usize, wal.published, "only published counts");
            for (at, chain) in self.standby.chains.iter().enumerate().take(wal.published) {
                assert_eq!(*chain, wal.chain(at + 1), "frame {}", at + 1);
            }
            assert!(self.standby.chains.len() >= wal.published);
        }

        fn enter(&mut self, wal: &Wal) {
            let generation = self.standby.generation + 1;
            let position =
                lockstep_wire::Position { generation: WalGeneration(generation), frame: FrameNo(0) };
            let salts = Salts([wal.salt, wal.salt]);
            self.cursor = Cursor::after(WalPoint { position, chain: wal.chain(0), salts }, None);
            self.standby = Standby { generation, chains: Vec::new() };
        }

        /// A poke names the end of a run.
        fn prepare(&mut self, wal: &Wal, fills: usize) {
            let (end, chain) = self.prepared.end(&self.cursor);
            let Some(run) = wal.run(fills).filter(|run| *run > end.0 as usize) else { return };
            // The run must continue what was shipped, byte for byte.
            if self.cursor.next(&wal.index()) != Next::Nothing || wal.chain(end.0 as usize) != chain {
                return;
            }
            if self
                .prepared
                .push(&[(FrameNo(run as u32), wal.chain(run))], (FrameNo(run as u32), wal.chain(run)))
            {
                self.standby.chains.extend((end.0 as usize..run).map(|frame| wal.chain(frame + 1)));
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A writer writes a transaction; with `true` it is told of.
        Write(Vec<u8>, bool),
        Publish(usize),
        /// Everything published goes into the database file and the WAL begins anew.
        Reset,
        Look,
        /// The connection breaks; the standby has only the first of the frames in doubt.
        Attach(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (prop::collection::vec(0_u8..2, 1..4), any::<bool>()).prop_map(|(f, t)| Step::Write(f, t)),
            3 => (1_usize..4).prop_map(Step::Publish),
            1 => Just(Step::Reset),
            3 => Just(Step::Look),
            1 => (0_usize..4).prop_map(Step::Attach),
        ]
    }

    fn play(steps: Vec<Step>) -> u32 {
        let mut wal = Wal { salt: 1, ..Wal::default() };
        wal.write(&[7]);
        wal.published = 1;
        let mut capture = Capture {
            cursor: Cursor::before(WalGeneration(1), Seen::default()),
            prepared: Prepared::default(),
            standby: Standby::default(),
            phantoms: 0,
        };
        capture.enter(&wal);
        capture.look(&wal);
        for step in steps {
            match step {
                Step::Write(fills, told) => {
                    wal.write(&fills);
                    if told {
                        capture.prepare(&wal, fills.len());
                    }
                }
                Step::Publish(fills) => wal.published = wal.run(fills).unwrap_or(wal.published),
                Step::Reset => {
                    capture.look(&wal);
                    wal = Wal { salt: wal.salt + 1, ..Wal::default() };
                    wal.write(&[wal.salt as u8]);
                    wal.published = 1;
                }
                Step::Look => capture.look(&wal),
                Step::Attach(kept) => {
                    let published = capture.cursor.point.position.frame.0 as usize;
                    let kept: Vec<_> = capture.prepared.marks.iter().take(kept).copied().collect();
                    let held = kept.last().copied().unwrap_or(capture.prepared.end(&Cursor::default()));
                    let position = lockstep_wire::Position { frame: held.0, ..capture.cursor.point.position };
                    let point = WalPoint { position, chain: held.1, salts: capture.cursor.point.salts };
                    if !capture.prepared.end_at(&point) {
                        capture.prepared.clear();
                    }
                    let end = capture.prepared.end(&capture.cursor).0.0 as usize;
                    capture.standby.chains.truncate(end.max(published));
                }
            }
        }
        capture.look(&wal);
        capture.phantoms
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn the_standby_holds_what_is_published_whatever_writers_leave_behind(steps in prop::collection::vec(step(), 1..40)) {
            play(steps);
        }
    }

    #[test]
    fn a_phantom_is_taken_back_once_and_a_commit_that_came_true_never() {
        let write = |fill, told| Step::Write(vec![fill, fill], told);
        assert_eq!(play(vec![write(1, true), Step::Publish(2), Step::Look]), 0);
        assert_eq!(play(vec![write(1, true), Step::Look, write(2, false), Step::Publish(2), Step::Look]), 1);
        assert_eq!(
            play(vec![write(1, true), write(1, false), Step::Publish(2), Step::Look]),
            0,
            "the same bytes"
        );
        assert_eq!(play(vec![write(1, true), Step::Reset, Step::Look]), 1, "before the next generation");
    }

    #[test]
    fn more_commit_marks_than_are_remembered_are_not_prepared() {
        let mut prepared = Prepared::default();
        let marks = |count: usize| vec![(FrameNo(1), Chain([1, 1])); count];
        let end = (FrameNo(1), Chain([1, 1]));
        assert!(prepared.push(&marks(COMMITS_MAX - 1), end));
        assert!(!prepared.push(&marks(2), end));
        assert!(prepared.push(&marks(1), end));
    }

    #[test]
    fn parts_of_a_large_commit_take_one_place_until_it_ends() {
        let at = |frame| (FrameNo(frame), Chain([frame, 0]));
        let mut prepared = Prepared::default();
        for part in 1..1000 {
            assert!(prepared.push(&[], at(part)));
        }
        assert_eq!((prepared.marks.len(), prepared.last()), (1, Some(at(999))));
        assert!(prepared.push(&[at(1000)], at(1000)));
        assert_eq!(prepared.marks, [at(1000)]);
        let position = lockstep_wire::Position { generation: WalGeneration(1), frame: FrameNo(0) };
        let salts = Salts([1, 1]);
        let mut cursor = Cursor::after(WalPoint { position, chain: Chain([0, 0]), salts }, None);
        let index = WalIndex {
            change: 1,
            page_size: 4096,
            last_frame: FrameNo(1001),
            page_count: 5,
            chain: Chain([1001, 0]),
            salts,
            backfilled: FrameNo(0),
        };
        // Published while its end was still to be shipped: what is shipped came true, and is no commit yet.
        prepared.clear();
        assert!(prepared.push(&[], at(999)));
        let found = prepared.settle(&mut cursor, &index, |frame| Ok::<_, Infallible>(Some(at(frame.0).1)));
        assert_eq!((found, cursor.point.position.frame), (Ok(Settled::Published(0)), FrameNo(999)));
        assert_eq!(prepared, Prepared::default());
    }
}

//! Page hashes and their sum, following commits. Pure.
//!
//! The sum is the XOR over all pages of their hash mixed with their number, so that two pages that
//! changed places do not cancel out. The lock page is left out. Only published commits count, so a
//! frame that is taken back never did. While the hashes are built, pages up to `known` are in the sum;
//! a range being read is merged when the stream has come to where it was read, and what frames said
//! of it after that place wins.

use super::{file::Stamp, same_place};
use crate::wal::{Frames, WalHeader, WalPoint, lock_page};
use lockstep_wire::{Chain, FrameNo, Position, WalGeneration};
use std::collections::{BTreeMap, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Frames of transactions that are not committed yet: 12 MiB. A larger transaction has the hashes built anew.
const PENDING_MAX: usize = 1 << 20;

/// Room for pending frames that is kept when they are committed: of a transaction of 256 MiB.
const PENDING_KEPT: usize = 1 << 16;

/// Where hashes are kept, one per page.
pub trait Slots {
    /// The hash of a page; 0 where none was put.
    fn get(&self, page: u32) -> u64;

    /// Keeps the hash of a page. False: there is no room for it.
    fn set(&mut self, page: u32, hash: u64) -> bool;
}

#[cfg(test)]
impl Slots for Vec<u64> {
    fn get(&self, page: u32) -> u64 {
        <[u64]>::get(self, page as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, page: u32, hash: u64) -> bool {
        if self.len() <= page as usize {
            self.resize(page as usize + 1, 0);
        }
        self[page as usize] = hash;
        true
    }
}

/// A commit whose frames are at hand.
#[derive(Debug, Clone, Copy)]
struct Commit {
    /// Its frames end here in `pending`, counted from the first frame ever put there.
    end: u64,
    frame: FrameNo,
    chain: Chain,
    pages: u32,
}

/// A range being read.
#[derive(Debug)]
struct Reading {
    first: u32,
    end: u32,
    /// The newest hash of each page that a commit has changed meanwhile, and where.
    touched: BTreeMap<u32, (Position, u64)>,
    /// What was read, its place, and the size of the database there.
    read: Option<(Position, Vec<u64>, u32)>,
}

/// The hashes of one database.
#[derive(Debug)]
pub struct Sums<S> {
    slots: S,
    page_size: u32,
    /// Everything through here is in.
    at: WalPoint,
    /// Size in pages at `at`; 0: not known yet.
    pages: u32,
    /// Pages from 1 that are in the sum.
    known: u32,
    sum: u64,
    /// Page and hash of each frame; the hash as bytes, which need no padding.
    pending: VecDeque<(u32, [u8; 8])>,
    /// Frames ever taken out of `pending`.
    taken: u64,
    commits: VecDeque<Commit>,
    /// The last frame put into `pending`, or `at`.
    last: WalPoint,
    reading: Option<Reading>,
    /// No room, or nothing to go on from.
    off: bool,
    full: bool,
    /// There was no room: not again before the file is opened anew.
    disabled: bool,
}

impl<S: Slots> Sums<S> {
    /// Hashes at a stamp, or none.
    pub fn new(slots: S, page_size: u32, stamp: Option<Stamp>) -> Self {
        let mut sums = Self {
            slots,
            page_size,
            at: WalPoint::default(),
            pages: 0,
            known: 0,
            sum: 0,
            pending: VecDeque::new(),
            taken: 0,
            commits: VecDeque::new(),
            last: WalPoint::default(),
            reading: None,
            off: true,
            full: false,
            disabled: false,
        };
        if let Some(stamp) = stamp {
            (sums.at, sums.last) = (stamp.at, stamp.at);
            (sums.pages, sums.known, sums.sum, sums.off) = (stamp.pages, stamp.pages, stamp.sum, false);
        }
        sums
    }

    /// Page size in bytes.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// The stamp to close with, if the hashes are complete.
    pub fn into_parts(mut self) -> (S, Option<Stamp>) {
        // What is durable and not published counts at the next start as well as for a takeover.
        self.apply(FrameNo(u32::MAX));
        let stamp = self.content().map(|(at, sum)| Stamp { at, pages: self.pages, sum });
        (self.slots, stamp)
    }

    /// Place and sum, when every page is in it.
    pub fn content(&self) -> Option<(WalPoint, u64)> {
        self.is_complete().then_some((self.at, self.sum))
    }

    fn is_complete(&self) -> bool {
        !self.off && self.pages > 0 && self.known >= self.pages
    }

    /// There was no room for a hash; told once.
    pub fn take_full(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    /// The hash of a page, when every page has one.
    pub fn hash(&self, page: u32) -> Option<u64> {
        (self.is_complete() && page <= self.pages).then(|| self.slots.get(page))
    }

    /// The last published commit that is in.
    pub fn place(&self) -> Position {
        self.at.position
    }

    /// Size in pages at [`Self::content`].
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Follows nothing: begin anew at the end of a commit.
    pub fn is_off(&self) -> bool {
        self.off && !self.disabled
    }

    /// The hashes are in doubt: nothing is known but the place and the size.
    pub fn rebuild(&mut self) {
        (self.known, self.sum, self.reading) = (0, 0, None);
    }

    /// Every durable commit counts from now on, and no other frame: the node takes over.
    pub fn settle(&mut self) {
        self.apply(FrameNo(u32::MAX));
        self.pending.clear();
        self.last = self.at;
    }

    /// The hashes of a closed file are of this place, or else nothing is known but the place.
    pub fn reopen(&mut self, at: WalPoint, pages: u32) {
        if self.off || self.pages != pages || !same_place(&self.at, &at) {
            return self.restart(at, pages);
        }
        self.number(at.position.generation);
    }

    /// Begins anew: nothing is known but the place and, unless 0, the size.
    pub fn restart(&mut self, at: WalPoint, pages: u32) {
        (self.at, self.last, self.pages) = (at, at, pages);
        (self.known, self.sum, self.off) = (0, 0, self.disabled);
        self.pending.clear();
        self.commits.clear();
        self.reading = None;
    }

    /// Forgets everything until a [`Self::restart`].
    pub fn stop(&mut self) {
        self.restart(WalPoint::default(), 0);
        self.off = true;
    }

    /// The stream goes on after `from`: what is known is kept if it is of there, or further on in the same WAL.
    pub fn resume(&mut self, from: WalPoint, pages: u32) {
        let further = self.last.salts == from.salts && self.last.position.frame >= from.position.frame;
        if self.off || !(same_place(&self.last, &from) || (further && from.position.frame.0 > 0)) {
            return self.restart(from, pages);
        }
        self.number(from.position.generation);
        self.reading = None;
    }

    fn number(&mut self, generation: WalGeneration) {
        self.at.position.generation = generation;
        self.last.position.generation = generation;
    }

    /// A generation begins. `previous`: its proven predecessor's end.
    pub fn generation(
        &mut self,
        number: WalGeneration,
        header: &WalHeader,
        previous: Option<(FrameNo, Chain)>,
    ) {
        if self.off {
            return;
        }
        let begin = WalPoint {
            position: Position { generation: number, frame: FrameNo(0) },
            chain: header.chain,
            salts: header.salts,
        };
        // A header may have replaced one with the same salts of which no frame was ever published.
        let is_other = self.last.position.frame.0 == 0 && self.last.chain != header.chain;
        if self.last.salts == header.salts && !is_other {
            return self.number(number); // Frames that were here before come again.
        }
        let follows = match previous {
            Some(end) => end == (self.last.position.frame, self.last.chain),
            // Nothing of the WAL before had to be sent.
            None => self.last.position == begin.position && self.last.salts == Default::default(),
        };
        if !follows {
            return self.stop();
        }
        self.apply(FrameNo(u32::MAX));
        self.pending.clear();
        (self.at, self.last) = (begin, begin);
    }

    /// Frames, verified by whoever calls; those that were here before are skipped.
    pub fn frames(&mut self, first: FrameNo, before: Chain, frames: &Frames<'_>) {
        let last = self.last;
        let gap = first.0 > last.position.frame.0 + 1;
        let differs = first.0 == last.position.frame.0 + 1 && before != last.chain;
        if self.off || gap || differs || self.pending.len() + frames.count() as usize > PENDING_MAX {
            return self.stop();
        }
        let lock_page = lock_page(self.page_size);
        for (number, (head, page)) in (first.0..).zip(frames.iter()) {
            if number <= last.position.frame.0 {
                continue;
            }
            (self.last.position.frame, self.last.chain) = (FrameNo(number), head.chain);
            let hash = if head.page == lock_page { 0 } else { xxh3_64(page) };
            self.pending.push_back((head.page, hash.to_ne_bytes()));
            if head.commit_pages > 0 {
                let end = self.taken + self.pending.len() as u64;
                let (frame, chain, pages) = (FrameNo(number), head.chain, head.commit_pages);
                self.commits.push_back(Commit { end, frame, chain, pages });
            }
        }
    }

    /// Commits through `through` are published.
    pub fn publish(&mut self, through: FrameNo) {
        self.apply(through);
    }

    /// Frames after `frame` were taken back.
    pub fn rewind(&mut self, frame: FrameNo, chain: Chain) {
        if self.off || frame >= self.last.position.frame {
            return;
        }
        if frame < self.at.position.frame {
            return self.stop();
        }
        let back = (self.last.position.frame.0 - frame.0) as usize;
        self.pending.truncate(self.pending.len().saturating_sub(back));
        let end = self.taken + self.pending.len() as u64;
        self.commits.retain(|commit| commit.end <= end);
        (self.last.position.frame, self.last.chain) = (frame, chain);
    }

    fn apply(&mut self, through: FrameNo) {
        while let Some(commit) = self.commits.front().copied().filter(|commit| commit.frame <= through) {
            self.commits.pop_front();
            let count = (commit.end - self.taken) as usize;
            let mut pending = std::mem::take(&mut self.pending);
            self.taken = commit.end;
            (self.at.position.frame, self.at.chain) = (commit.frame, commit.chain);
            let frames = pending.drain(..count).map(|(page, hash)| (page, u64::from_ne_bytes(hash)));
            self.commit(frames, commit.pages);
            if !self.off {
                pending.shrink_to(PENDING_KEPT);
                self.pending = pending;
            }
        }
        self.merge();
    }

    /// Takes a commit's frames in their order: of the same page the last one stays.
    fn commit(&mut self, frames: impl Iterator<Item = (u32, u64)>, pages: u32) {
        let complete = self.is_complete();
        self.cut(pages);
        let (old, position) = (std::mem::replace(&mut self.pages, pages), self.at.position);
        let mut added = BTreeMap::new();
        for (page, hash) in frames.filter(|&(page, _)| page <= pages) {
            if page <= self.known {
                self.put(page, hash);
            } else if complete {
                added.insert(page, hash);
            }
            if let Some(reading) = self.reading.as_mut().filter(|r| (r.first..r.end).contains(&page)) {
                reading.touched.insert(page, (position, hash));
            }
        }
        if complete && pages > old {
            // SQLite writes every page that it adds but the lock page; one that it left out would read as zeros.
            for page in old + 1..=pages {
                let hash = added.get(&page).copied().unwrap_or_else(|| self.zeros(page));
                self.known = page;
                self.put_new(page, hash);
            }
        }
    }

    /// Drops pages beyond a new size out of the sum.
    fn cut(&mut self, pages: u32) {
        while self.known > pages {
            self.sum ^= self.mixed(self.known, self.slots.get(self.known));
            self.known -= 1;
        }
        if let Some(reading) = &mut self.reading {
            let at = self.at.position;
            // Should they come back, frames bring them.
            for page in pages.saturating_add(1).max(reading.first)..reading.end {
                reading.touched.insert(page, (at, 0));
            }
        }
    }

    fn zeros(&self, page: u32) -> u64 {
        if page == lock_page(self.page_size) { 0 } else { xxh3_64(&vec![0; self.page_size as usize]) }
    }

    fn put(&mut self, page: u32, hash: u64) {
        self.sum ^= self.mixed(page, self.slots.get(page));
        self.put_new(page, hash);
    }

    fn put_new(&mut self, page: u32, hash: u64) {
        if !self.slots.set(page, hash) {
            (self.full, self.disabled) = (true, true);
            return self.stop();
        }
        self.sum ^= self.mixed(page, hash);
    }

    /// What a page adds to the sum (the finalizer of splitmix64, which is no linear function).
    fn mixed(&self, page: u32, hash: u64) -> u64 {
        if page == lock_page(self.page_size) {
            return 0;
        }
        let mut mixed = hash.wrapping_add(u64::from(page).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next range to read: first page, count. None: all are known, or one is being read.
    pub fn begin_reading(&mut self, count: u32) -> Option<(u32, u32)> {
        let done = self.off || self.reading.is_some() || (self.pages > 0 && self.known >= self.pages);
        if done {
            return None;
        }
        let (first, end) = (self.known + 1, self.known.saturating_add(1 + count));
        self.reading = Some(Reading { first, end, touched: BTreeMap::new(), read: None });
        Some((first, count))
    }

    /// The range that was begun could not be read.
    pub fn abandon_reading(&mut self) {
        self.reading = None;
    }

    /// What the range that was begun holds at a position, fewer at the end of the database, which has `pages` there.
    pub fn end_reading(&mut self, at: Position, first_page: u32, hashes: Vec<u64>, pages: u32) {
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.first == first_page) {
            reading.read = Some((at, hashes, pages));
            self.merge();
        }
    }

    /// Takes over what was read once the stream has come to where it was read.
    fn merge(&mut self) {
        let now = self.at.position;
        let ready = |r: &Reading| r.read.as_ref().is_some_and(|(at, ..)| *at <= now);
        let Some(reading) = self.reading.take_if(|reading| ready(reading)) else { return };
        let Some((at, hashes, pages)) = reading.read else { return };
        if reading.first != self.known + 1 {
            return; // The database became smaller than where the reading began.
        }
        if self.pages == 0 {
            // No commit since the beginning, so this is the size here too.
            self.pages = pages;
        }
        let mut page = reading.first;
        while page < reading.end && page <= self.pages {
            let touched = reading.touched.get(&page).filter(|(when, _)| *when > at).map(|(_, hash)| *hash);
            let read = hashes[..].get((page - reading.first) as usize).copied();
            // A page beyond what was read came with a later commit.
            let Some(hash) = touched.or(read) else { break };
            self.known = page;
            self.put_new(page, hash);
            page += 1;
        }
    }
}

#[cfg(test)]
#[path = "sums_tests.rs"]
mod tests;

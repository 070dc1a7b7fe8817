//! Active: which pages of a copy are still to be sent or compared. Pure; [`super::ship`] does it.
//!
//! A copy sends every page, a resync compares every page, and after a rewind only the pages that
//! the other node's fork touched are compared. Those are looked at again until a look finds both
//! database files equal: sent once is not proven equal.

use super::status::CopyProgress;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Instant;

/// Pages asked for at a time: 256 KiB of 4 KiB pages, small enough that frames slip in between.
const PAGES_PER_READ: u32 = 64;

/// Pages hashed at a time: 128 KiB of hashes on the wire, 64 MiB of 4 KiB pages read on each side.
const PAGES_PER_HASH: u32 = 16_384;

/// Looks at the pages of a fork. While checkpoints move pages on the active, each look may find some that
/// differ for a moment; the frames put them right all the same.
const LOOKS_MAX: u32 = 4;

/// A copy under way.
pub(super) struct Copying {
    pub(super) progress: CopyProgress,
    /// Runs of pages (first, number) still to be asked for in this look.
    left: VecDeque<(u32, u32)>,
    /// All runs of a fork, for the next look; empty for any other copy.
    fork: Vec<(u32, u32)>,
    /// This look, from 1.
    look: u32,
    /// Pages were sent in this look.
    sent: bool,
    /// Hashes of this run are awaited.
    awaited: Option<(u32, u32)>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Let capture send these pages.
    Read(u32, u32),
    /// Ask the standby for the hashes of these.
    Hash(u32, u32),
    /// All is sent.
    End,
}

impl Copying {
    /// Of a whole database.
    pub(super) fn whole(resync: bool, page_size: u32, page_count: u32) -> Self {
        Self::of(resync, page_size, vec![(1, page_count)], Vec::new())
    }

    /// Of the pages that a fork touched.
    pub(super) fn of_fork(page_size: u32, runs: Vec<(u32, u32)>) -> Self {
        Self::of(true, page_size, runs.clone(), runs)
    }

    fn of(resync: bool, page_size: u32, left: Vec<(u32, u32)>, fork: Vec<(u32, u32)>) -> Self {
        let pages_total = left.iter().map(|(_, count)| count).sum();
        let started = Instant::now();
        let progress = CopyProgress {
            resync,
            rewind: !fork.is_empty(),
            page_size,
            pages_done: 0,
            pages_total,
            bytes_sent: 0,
            hash_bytes: 0,
            started,
        };
        Self { progress, left: left.into(), fork, look: 1, sent: false, awaited: None }
    }

    /// The next step, when the one before is done.
    pub(super) fn next(&mut self) -> Next {
        self.awaited = None;
        if self.left.is_empty() && self.look < LOOKS_MAX && (self.look == 1 || self.sent) {
            self.left.extend(&self.fork);
            self.look += 1;
            self.sent = false;
        }
        let most = if self.progress.resync { PAGES_PER_HASH } else { PAGES_PER_READ };
        let Some((first, count)) = self.left.pop_front() else {
            self.progress.pages_done = self.progress.pages_total;
            return Next::End;
        };
        if count > most {
            self.left.push_front((first + most, count - most));
        }
        let count = count.min(most);
        let left: u32 = self.left.iter().map(|(_, count)| count).sum();
        let done = self.progress.pages_total.saturating_sub(left + count);
        self.progress.pages_done = self.progress.pages_done.max(done);
        if self.progress.resync {
            self.awaited = Some((first, count));
            Next::Hash(first, count)
        } else {
            Next::Read(first, count)
        }
    }

    /// Hashes from `first_page` on have come: the run they answer; `None` when nobody asked for them.
    pub(super) fn answered(&mut self, first_page: u32) -> Option<(u32, u32)> {
        let answered = self.awaited.take_if(|(first, _)| *first == first_page)?;
        self.progress.hash_bytes += u64::from(answered.1) * 8;
        Some(answered)
    }

    /// Pages were handed to the link.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.progress.bytes_sent += bytes as u64;
        self.sent = true;
    }
}

/// Runs of pages in the form of [`lockstep_wire::ForkPages`].
pub(super) fn encode_runs(runs: &[(u32, u32)]) -> Bytes {
    runs.iter().flat_map(|(first, count)| [first.to_le_bytes(), count.to_le_bytes()]).flatten().collect()
}

/// The runs in a message; `None` when they are not ascending runs of at most `pages_max` pages.
pub(super) fn decode_runs(bytes: &[u8], pages_max: usize) -> Option<Vec<(u32, u32)>> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || words.len() > pages_max {
        return None;
    }
    let (mut runs, mut end, mut pages) = (Vec::new(), 1_u32, 0_usize);
    for [a, b, c, d, e, f, g, h] in words {
        let (first, count) = (u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h]));
        pages = pages.checked_add(count as usize).filter(|pages| *pages <= pages_max)?;
        if first < end || count == 0 {
            return None;
        }
        end = first.checked_add(count)?;
        runs.push((first, count));
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_reads_every_page_and_a_resync_compares_every_page_once() {
        let mut copy = Copying::whole(false, 4096, 100);
        assert_eq!(
            [copy.next(), copy.next(), copy.next()],
            [Next::Read(1, 64), Next::Read(65, 36), Next::End]
        );
        let mut resync = Copying::whole(true, 4096, 20_000);
        assert_eq!([resync.next(), resync.next()], [Next::Hash(1, 16_384), Next::Hash(16_385, 3616)]);
        assert_eq!(resync.answered(1), None, "that answer was awaited before");
        assert_eq!(resync.answered(16_385), Some((16_385, 3616)));
        resync.sent(4096);
        assert_eq!(resync.next(), Next::End);
    }

    #[test]
    fn pages_of_a_fork_are_compared_until_nothing_differs() {
        let mut copy = Copying::of_fork(4096, vec![(2, 1), (7, 3)]);
        let look = |copy: &mut Copying| [copy.next(), copy.next()];
        let both = [Next::Hash(2, 1), Next::Hash(7, 3)];
        assert_eq!(look(&mut copy), both);
        copy.sent(4096);
        assert_eq!(look(&mut copy), both);
        copy.sent(4096);
        assert_eq!(look(&mut copy), both, "a page was sent: it is looked at once more");
        assert_eq!(copy.next(), Next::End);
        let mut restless = Copying::of_fork(4096, vec![(2, 1)]);
        let asked = std::iter::from_fn(|| {
            restless.sent(4096);
            (restless.next() != Next::End).then_some(())
        });
        assert_eq!(asked.count() as u32, LOOKS_MAX);
    }

    #[test]
    fn runs_survive_their_bytes_and_hostile_ones_are_refused() {
        let runs = vec![(2, 1), (7, 3), (10, 1)];
        assert_eq!(decode_runs(&encode_runs(&runs), 5), Some(runs.clone()));
        assert_eq!(decode_runs(&encode_runs(&runs), 4), None, "too many pages");
        for hostile in [&[(0, 1)][..], &[(2, 0)], &[(5, 2), (6, 1)], &[(u32::MAX, 2)], &[(3, u32::MAX)]] {
            assert_eq!(decode_runs(&encode_runs(hostile), 100), None, "{hostile:?}");
        }
        assert_eq!(decode_runs(&[1, 2, 3], 100), None);
    }
}

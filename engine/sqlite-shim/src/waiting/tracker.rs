//! Finds the commit frame in what is written to a write-ahead log. Pure: offsets and bytes in, marks out.
//!
//! It does not check checksums: the standby does, and nobody is released but by the exact content.

use lockstep_barrier::Mark;

/// Bytes before the first frame.
pub const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Where the header of a WAL says how large its pages are.
const PAGE_SIZE_AT: usize = 8;

/// Page size in bytes from the first 12 bytes of a WAL; `None` when they are no WAL's.
pub fn page_bytes_of(header: &[u8]) -> Option<u32> {
    let magic = word(header, 0)?;
    let page_bytes = word(header, PAGE_SIZE_AT)?;
    let is_size = page_bytes.is_power_of_two() && (512..=65536).contains(&page_bytes);
    (magic & !1 == 0x377f_0682 && is_size).then_some(page_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What one transaction has written so far.
///
/// A transaction's last word is what counts: a frame may be written in pieces, repeated to fill a
/// sector, and its header may be written again when pages that were spilled before have changed.
#[derive(Debug, Clone, Default)]
pub struct Tracker {
    header: [u8; FRAME_HEADER_BYTES],
    /// Whose header that is, from 1; 0 for none.
    frame: u32,
    /// How much of the header is there.
    filled: usize,
    /// The frame whose page was written to its end last.
    page_of: u32,
    mark: Option<Mark>,
}

impl Tracker {
    /// The newest whole commit frame.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Takes what was written at `offset` of a WAL with pages of `page_bytes`. True: the mark is another now.
    pub fn wrote(&mut self, offset: u64, bytes: &[u8], page_bytes: u32) -> bool {
        let before = self.mark;
        let in_header = WAL_HEADER_BYTES.saturating_sub(offset).min(bytes.len() as u64);
        let mut left = &bytes[in_header as usize..];
        let mut at = (offset + in_header).saturating_sub(WAL_HEADER_BYTES);
        let frame_bytes = u64::from(page_bytes) + FRAME_HEADER_BYTES as u64;
        while !left.is_empty() {
            let Ok(frame) = u32::try_from(at / frame_bytes + 1) else { break };
            let within = (at % frame_bytes) as usize;
            let taken = if within < FRAME_HEADER_BYTES {
                self.take_header(frame, within, left)
            } else {
                let taken = left.len().min(frame_bytes as usize - within);
                if within + taken == frame_bytes as usize {
                    self.page_of = frame;
                }
                taken
            };
            self.settle();
            left = &left[taken..];
            at += taken as u64;
        }
        self.mark != before && self.mark.is_some()
    }

    fn take_header(&mut self, frame: u32, within: usize, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(FRAME_HEADER_BYTES - within);
        if within == 0 {
            (self.frame, self.filled) = (frame, 0);
        }
        if self.frame == frame && self.filled == within {
            self.header[within..within + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
        } else {
            // A piece without its beginning: nothing is known of this header.
            self.frame = 0;
        }
        taken
    }

    fn settle(&mut self) {
        if self.filled < FRAME_HEADER_BYTES || self.frame == 0 {
            return;
        }
        let commit_pages = word(&self.header, 4).expect("a header is 24 bytes long");
        if commit_pages == 0 {
            // The transaction goes on, or its chain is being repaired up to the commit frame.
            self.mark = None;
        } else if self.page_of == self.frame {
            let long = |at: usize| {
                u64::from_be_bytes(self.header[at..at + 8].try_into().expect("a header is 24 bytes long"))
            };
            self.mark = Some(Mark { salts: long(8), chain: long(16), frame: self.frame });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u32 = 512;
    const FRAME: u64 = PAGE as u64 + 24;

    fn header(commit_pages: u32, chain: u64) -> Vec<u8> {
        let mut header = vec![0, 0, 0, 1];
        header.extend(commit_pages.to_be_bytes());
        header.extend(7_u64.to_be_bytes());
        header.extend(chain.to_be_bytes());
        header
    }

    fn at(frame: u32) -> u64 {
        WAL_HEADER_BYTES + u64::from(frame - 1) * FRAME
    }

    fn frame(tracker: &mut Tracker, number: u32, commit_pages: u32, chain: u64) -> bool {
        tracker.wrote(at(number), &header(commit_pages, chain), PAGE)
            | tracker.wrote(at(number) + 24, &[9; PAGE as usize], PAGE)
    }

    fn mark(frame: u32, chain: u64) -> Option<Mark> {
        Some(Mark { salts: 7, chain, frame })
    }

    #[test]
    fn only_a_whole_frame_with_a_commit_size_is_a_commit() {
        let mut tracker = Tracker::default();
        assert!(!frame(&mut tracker, 1, 0, 11));
        assert!(!tracker.wrote(at(2), &header(5, 12), PAGE), "its page is missing");
        assert_eq!(tracker.mark(), None);
        assert!(tracker.wrote(at(2) + 24, &[9; PAGE as usize], PAGE));
        assert_eq!(tracker.mark(), mark(2, 12));
    }

    #[test]
    fn a_chain_repaired_after_the_commit_frame_names_the_final_content() {
        let mut tracker = Tracker::default();
        frame(&mut tracker, 1, 0, 11);
        frame(&mut tracker, 2, 0, 12);
        // At commit the page of frame 1 is written again in place, then the last frame, then all headers.
        tracker.wrote(at(1) + 24, &[8; PAGE as usize], PAGE);
        assert!(frame(&mut tracker, 3, 3, 13));
        tracker.wrote(at(1), &header(0, 21), PAGE);
        tracker.wrote(at(2), &header(0, 22), PAGE);
        assert_eq!(tracker.mark(), None, "the commit frame's own header is still the old one");
        assert!(tracker.wrote(at(3), &header(3, 23), PAGE));
        assert_eq!(tracker.mark(), mark(3, 23));
    }

    #[test]
    fn a_commit_frame_repeated_to_fill_a_sector_names_the_last_one() {
        let mut tracker = Tracker::default();
        assert!(frame(&mut tracker, 1, 1, 11));
        assert!(frame(&mut tracker, 2, 1, 12));
        tracker.wrote(at(3), &header(1, 13), PAGE);
        tracker.wrote(at(3) + 24, &[9; 100], PAGE);
        assert_eq!(tracker.mark(), mark(2, 12), "what the sync in the middle of the third covers");
        assert!(tracker.wrote(at(3) + 124, &[9; PAGE as usize - 100], PAGE));
        assert_eq!(tracker.mark(), mark(3, 13));
    }

    #[test]
    fn the_header_of_a_wal_tells_the_page_size_and_nothing_else_does() {
        let mut header = [0; 12];
        header[..4].copy_from_slice(&0x377f_0683_u32.to_be_bytes());
        header[8..].copy_from_slice(&4096_u32.to_be_bytes());
        assert_eq!(page_bytes_of(&header), Some(4096));
        header[8..].copy_from_slice(&4095_u32.to_be_bytes());
        assert_eq!(page_bytes_of(&header), None);
        assert_eq!(page_bytes_of(&[0; 12]), None);
        assert_eq!(page_bytes_of(&header[..11]), None);
    }

    proptest! {
        /// SQLite writes header and page by themselves, some split at a sector; others may gather them.
        #[test]
        fn pieces_of_any_size_give_the_same_mark(
            commits in prop::collection::vec(0_u32..2, 1..6),
            cuts in prop::collection::vec(1_usize..700, 1..40),
        ) {
            let mut all = vec![0; WAL_HEADER_BYTES as usize];
            for (chain, commit) in commits.iter().enumerate() {
                all.extend(header(*commit, chain as u64));
                all.extend([9; PAGE as usize]);
            }
            let mut whole = Tracker::default();
            whole.wrote(0, &all, PAGE);
            let last = commits.len() as u32;
            let expected = (commits[last as usize - 1] == 1).then(|| mark(last, u64::from(last - 1)).unwrap());
            prop_assert_eq!(whole.mark(), expected);

            let mut pieces = Tracker::default();
            let mut done = 0;
            for cut in cuts.iter().cycle() {
                let end = (done + cut).min(all.len());
                pieces.wrote(done as u64, &all[done..end], PAGE);
                done = end;
                if done == all.len() { break }
            }
            prop_assert_eq!(pieces.mark(), expected);
        }

        #[test]
        fn no_write_makes_it_panic(writes: Vec<(u64, Vec<u8>)>, power in 9_u32..17) {
            let mut tracker = Tracker::default();
            for (offset, bytes) in writes {
                tracker.wrote(offset, &bytes, 1 << power);
            }
        }
    }
}

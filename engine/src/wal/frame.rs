//! WAL frames: header, iteration and verification over a slice of consecutive frames.
//!
//! A frame is 24 bytes of header and one page. Its checksum continues the one before over
//! `header[0..8] + page`. A frame that verifies is *valid*; whether it is *committed* only the
//! wal-index says, see [`super::WalIndex`].

use super::{ChecksumOrder, WAL_HEADER_BYTES, WalError, WalHeader, be32};
use lockstep_wire::{Chain, FrameNo, Salts};

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 24;

/// Bytes of one frame: header and page.
pub fn frame_bytes(page_size: u32) -> u64 {
    FRAME_HEADER_BYTES as u64 + u64::from(page_size)
}

/// Where a frame (from 1) begins in a WAL file.
pub fn frame_offset(frame: FrameNo, page_size: u32) -> u64 {
    WAL_HEADER_BYTES as u64 + u64::from(frame.0.saturating_sub(1)) * frame_bytes(page_size)
}

/// A frame header, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page the frame is a version of, from 1.
    pub page: u32,
    /// Size of the database in pages if a transaction ends here, else 0.
    pub commit_pages: u32,
    /// Salts of the generation it was written in.
    pub salts: Salts,
    /// Running checksum after it.
    pub chain: Chain,
}

impl FrameHeader {
    /// Reads 24 bytes.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Self {
        Self {
            page: be32(bytes, 0),
            commit_pages: be32(bytes, 4),
            salts: Salts([be32(bytes, 8), be32(bytes, 12)]),
            chain: Chain([be32(bytes, 16), be32(bytes, 20)]),
        }
    }

    /// The bytes as they stand on disk.
    pub fn to_bytes(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let [salt1, salt2] = self.salts.0;
        let [sum1, sum2] = self.chain.0;
        let words = [self.page, self.commit_pages, salt1, salt2, sum1, sum2];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The frame of `page` that follows one with `before`; its checksum is computed.
    pub fn sealed(header: &WalHeader, before: Chain, page: u32, commit_pages: u32, data: &[u8]) -> Self {
        let mut frame = Self { page, commit_pages, salts: header.salts, chain: before };
        frame.chain = chain_over(header.order, before, &frame.to_bytes(), data);
        frame
    }
}

fn chain_over(order: ChecksumOrder, before: Chain, head: &[u8], page: &[u8]) -> Chain {
    order.extend(order.extend(before, &head[..8]), page)
}

/// What a verified run of frames amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Running checksum after the last frame.
    pub chain: Chain,
    /// Number of frames.
    pub frames: u32,
    /// Commit frames among them.
    pub commits: u32,
    /// The last commit frame among them, counted from 1 within the run; 0: none.
    pub last_commit: u32,
    /// Checksum after that commit frame (the one before the run if there is none).
    pub last_commit_chain: Chain,
}

/// Consecutive whole frames of one generation, in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    data: &'a [u8],
    page_size: u32,
}

impl<'a> Frames<'a> {
    /// Takes the whole frames at the beginning of `data`; a cut one at the end is left out.
    pub fn new(data: &'a [u8], page_size: u32) -> Self {
        let size = frame_bytes(page_size) as usize;
        Self { data: &data[..data.len() / size * size], page_size }
    }

    /// How many frames there are.
    pub fn count(&self) -> u32 {
        (self.data.len() as u64 / frame_bytes(self.page_size)) as u32
    }

    /// Each frame's header and page, unchecked.
    pub fn iter(&self) -> impl Iterator<Item = (FrameHeader, &'a [u8])> + use<'a> {
        self.data.chunks_exact(frame_bytes(self.page_size) as usize).map(|frame| {
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
            (FrameHeader::parse(head.try_into().expect("split at its length")), page)
        })
    }

    /// Checks salts, page numbers and the chain of every frame.
    ///
    /// `first` is the number of the first frame (for the error), `before` the checksum before it.
    ///
    /// # Errors
    /// The first frame that does not verify; the ones before it are good.
    pub fn verify(&self, header: &WalHeader, first: FrameNo, before: Chain) -> Result<Verified, WalError> {
        let (good, error) = self.verified_prefix(header, first, before);
        error.map_or(Ok(good), Err)
    }

    /// The frames at the beginning that verify, and why the next one does not.
    pub fn verified_prefix(
        &self,
        header: &WalHeader,
        first: FrameNo,
        before: Chain,
    ) -> (Verified, Option<WalError>) {
        let mut good =
            Verified { chain: before, frames: 0, commits: 0, last_commit: 0, last_commit_chain: before };
        let size = frame_bytes(self.page_size) as usize;
        for bytes in self.data.chunks_exact(size) {
            let (head, page) = bytes.split_at(FRAME_HEADER_BYTES);
            let frame = FrameHeader::parse(head.try_into().expect("split at its length"));
            let number = first.0.wrapping_add(good.frames);
            if frame.salts != header.salts {
                let (expected, found) = (header.salts, frame.salts);
                return (good, Some(WalError::Salts { frame: number, expected, found }));
            }
            if frame.page == 0 {
                return (good, Some(WalError::PageZero(number)));
            }
            let expected = chain_over(header.order, good.chain, head, page);
            if frame.chain != expected {
                return (good, Some(WalError::Chain { frame: number, expected, found: frame.chain }));
            }
            good.chain = expected;
            good.frames += 1;
            if frame.commit_pages != 0 {
                good.commits += 1;
                good.last_commit = good.frames;
                good.last_commit_chain = expected;
            }
        }
        (good, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(header: &WalHeader, pages: &[(u32, u32, u8)]) -> Vec<u8> {
        let mut chain = header.chain;
        let mut bytes = Vec::new();
        for &(page, commit_pages, fill) in pages {
            let data = vec![fill; header.page_size as usize];
            let frame = FrameHeader::sealed(header, chain, page, commit_pages, &data);
            chain = frame.chain;
            bytes.extend_from_slice(&frame.to_bytes());
            bytes.extend_from_slice(&data);
        }
        bytes
    }

    fn pages() -> impl Strategy<Value = Vec<(u32, u32, u8)>> {
        prop::collection::vec((1_u32..1000, 0_u32..3, any::<u8>()), 1..12)
    }

    proptest! {
        #[test]
        fn built_frames_verify_in_both_byte_orders(pages in pages(), salts: [u32; 2], big: bool) {
            let order = if big { ChecksumOrder::Big } else { ChecksumOrder::Little };
            let header = WalHeader::new(order, 512, 0, Salts(salts));
            let bytes = build(&header, &pages);
            let run = Frames::new(&bytes, 512).verify(&header, FrameNo(1), header.chain).unwrap();
            prop_assert_eq!(run.frames as usize, pages.len());
            prop_assert_eq!(run.commits as usize, pages.iter().filter(|p| p.1 != 0).count());
        }

        #[test]
        fn a_changed_byte_ends_the_verified_prefix_there(pages in pages(), at: prop::sample::Index, flip in 1_u8..=255) {
            let header = WalHeader::new(ChecksumOrder::NATIVE, 512, 0, Salts([1, 2]));
            let mut bytes = build(&header, &pages);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let (good, error) = Frames::new(&bytes, 512).verified_prefix(&header, FrameNo(1), header.chain);
            prop_assert_eq!(u64::from(good.frames), at as u64 / frame_bytes(512));
            prop_assert!(error.is_some());
        }

        #[test]
        fn a_frame_cut_short_is_left_out(pages in pages(), cut in 1_usize..536) {
            let header = WalHeader::new(ChecksumOrder::NATIVE, 512, 0, Salts([1, 2]));
            let bytes = build(&header, &pages);
            let frames = Frames::new(&bytes[..bytes.len() - cut], 512);
            prop_assert_eq!(frames.count() as usize, pages.len() - 1);
        }
    }
}

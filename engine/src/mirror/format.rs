//! The few facts of SQLite's WAL format that the mirror checks: header, frame header, running checksum.
//!
//! Pure. Offsets as in sqlite.org/fileformat2.html, section 4. Nothing here knows what a mirror is.

use lockstep_wire::{Chain, Salts};

/// Bytes of a WAL header.
pub(crate) const WAL_HEADER_BYTES: usize = 32;
/// Bytes of a frame header.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;

/// A WAL header whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalHeader {
    pub(crate) bytes: [u8; WAL_HEADER_BYTES],
    pub(crate) page_size: u32,
    pub(crate) salts: Salts,
    /// Running checksum before frame 1.
    pub(crate) chain: Chain,
    big_endian: bool,
}

/// The fields of a frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) page: u32,
    /// Size of the database after this frame when it commits, else 0.
    pub(crate) commit_pages: u32,
    pub(crate) salts: Salts,
    pub(crate) chain: Chain,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

impl WalHeader {
    /// `None` when this is not a sound header: SQLite then treats the WAL as empty.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; WAL_HEADER_BYTES] = bytes.try_into().ok()?;
        let big_endian = match word(&bytes, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page_size = word(&bytes, 8);
        if word(&bytes, 4) != 3_007_000 || !page_size.is_power_of_two() || !(512..=65536).contains(&page_size)
        {
            return None;
        }
        let chain = Chain([word(&bytes, 24), word(&bytes, 28)]);
        let salts = Salts([word(&bytes, 16), word(&bytes, 20)]);
        let header = Self { bytes, page_size, salts, chain, big_endian };
        (header.extend(Chain([0, 0]), &bytes[..24]) == chain).then_some(header)
    }

    /// Bytes of a frame with its page.
    pub(crate) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.page_size as usize
    }

    /// The running checksum after a frame, from the one before it.
    pub(crate) fn after_frame(&self, before: Chain, frame: &[u8]) -> Chain {
        let header = self.extend(before, &frame[..8]);
        self.extend(header, &frame[FRAME_HEADER_BYTES..])
    }

    fn extend(&self, chain: Chain, data: &[u8]) -> Chain {
        if self.big_endian {
            sum(chain, data, u32::from_be_bytes)
        } else {
            sum(chain, data, u32::from_le_bytes)
        }
    }
}

fn sum(Chain([mut first, mut second]): Chain, data: &[u8], read: impl Fn([u8; 4]) -> u32) -> Chain {
    let (pairs, rest) = data.as_chunks::<8>();
    debug_assert!(rest.is_empty(), "the checksum runs over whole pairs of words");
    for &[a, b, c, d, e, f, g, h] in pairs {
        first = first.wrapping_add(read([a, b, c, d])).wrapping_add(second);
        second = second.wrapping_add(read([e, f, g, h])).wrapping_add(first);
    }
    Chain([first, second])
}

impl FrameHeader {
    /// From at least 24 bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            page: word(bytes, 0),
            commit_pages: word(bytes, 4),
            salts: Salts([word(bytes, 8), word(bytes, 12)]),
            chain: Chain([word(bytes, 16), word(bytes, 20)]),
        }
    }
}

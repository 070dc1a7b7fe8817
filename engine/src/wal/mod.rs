//! SQLite's on-disk formats, pure: WAL header, frame, chain checksum, wal-index header.
//!
//! The data path reads and checks bytes with these types and never trusts a byte that they did not
//! check. No I/O, clock or lock in here; who reads which file when is `capture`'s and `mirror`'s.
//! Source of the layouts: SQLite's `wal.c` and <https://www.sqlite.org/walformat.html>.

mod checksum;
mod frame;
mod header;
mod index;

pub use checksum::ChecksumOrder;
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, Frames, Verified, frame_bytes, frame_offset};
pub use header::{WAL_HEADER_BYTES, WAL_VERSION, WalHeader};
pub use index::{WAL_INDEX_BYTES, WalIndex};

use lockstep_wire::{Chain, FrameNo, Position, Salts};

/// A point in a WAL that can be proven: position, the running checksum after its frame, and the salts.
/// Two WALs with an equal point are byte-for-byte equal through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalPoint {
    /// Generation and last frame; frame 0: the WAL is empty.
    pub position: Position,
    /// Running checksum after that frame; of the header when the frame is 0.
    pub chain: Chain,
    /// Salts of the WAL header.
    pub salts: Salts,
}

/// What is wrong with bytes that should be a WAL or a wal-index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Fewer bytes than the structure has.
    #[error("expected {expected} bytes of {what}, found {found}")]
    Short {
        /// The structure.
        what: &'static str,
        /// Bytes it has.
        expected: u64,
        /// Bytes that were there.
        found: u64,
    },
    /// Neither of the two magic numbers.
    #[error("expected the WAL magic 377f0682 or 377f0683, found {0:08x}")]
    Magic(u32),
    /// A format version this code does not know.
    #[error("expected {what} version {WAL_VERSION}, found {found}")]
    Version {
        /// The structure.
        what: &'static str,
        /// The number that was there.
        found: u32,
    },
    /// Not a power of two from 512 to 65536.
    #[error("expected a page size that is a power of two from 512 to 65536, found {0}")]
    PageSize(u32),
    /// The checksum of a header does not fit its bytes: torn or damaged.
    #[error("the checksum of the {0} does not fit its bytes (being written, or damaged)")]
    Checksum(&'static str),
    /// The two copies of the wal-index header differ: being written, or left so by a killed writer.
    #[error("the two copies of the wal-index header differ (being written)")]
    Copies,
    /// The wal-index has not been filled yet.
    #[error("the wal-index is not initialised")]
    NotInitialised,
    /// A frame of another generation.
    #[error("frame {frame}: expected salts {expected:08x?}, found {found:08x?}", expected = expected.0, found = found.0)]
    Salts {
        /// The frame, from 1.
        frame: u32,
        /// Salts of the WAL header.
        expected: Salts,
        /// Salts in the frame header.
        found: Salts,
    },
    /// The running checksum does not continue.
    #[error("frame {frame}: expected checksum {expected:08x?}, found {found:08x?}", expected = expected.0, found = found.0)]
    Chain {
        /// The frame, from 1.
        frame: u32,
        /// The checksum computed from the bytes.
        expected: Chain,
        /// The checksum that was stored.
        found: Chain,
    },
    /// Page number 0 is never written.
    #[error("frame {0}: page number 0")]
    PageZero(u32),
}

/// Whether `size_bytes` is a page size SQLite can have.
pub fn page_size_is_valid(size_bytes: u32) -> bool {
    size_bytes.is_power_of_two() && (512..=65536).contains(&size_bytes)
}

/// The page that is never written because SQLite's lock bytes lie in it.
pub fn lock_page(page_size: u32) -> u32 {
    0x4000_0000 / page_size + 1
}

impl WalPoint {
    /// The frame of the point.
    pub fn frame(&self) -> FrameNo {
        self.position.frame
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes is an array of four"))
}

fn ne32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes is an array of four"))
}

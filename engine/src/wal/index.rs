//! The header of the wal-index (`-shm`): what is committed.
//!
//! Two copies of 48 bytes in the machine's own byte order, then the checkpoint information. A
//! header counts only if both copies are equal and its checksum is right. At `last_frame == 0` the
//! salts and the frames' checksum mean nothing: a generation begins with its first frame.

use super::{ChecksumOrder, WAL_VERSION, WalError, ne32, page_size_is_valid};
use lockstep_wire::{Chain, FrameNo, Salts};

/// Bytes to read from the beginning of a `-shm` file: two headers and the checkpoint information.
pub const WAL_INDEX_BYTES: usize = 136;

const COPY_BYTES: usize = 48;

/// A checked wal-index header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalIndex {
    /// Grows with every transaction.
    pub change: u32,
    /// Page size in bytes.
    pub page_size: u32,
    /// The last committed frame (`mxFrame`).
    pub last_frame: FrameNo,
    /// Size of the database in pages (`nPage`).
    pub page_count: u32,
    /// Running checksum after the last committed frame.
    pub chain: Chain,
    /// Salts of the WAL.
    pub salts: Salts,
    /// Frames copied back into the database file (`nBackfill`).
    pub backfilled: FrameNo,
}

impl WalIndex {
    /// Checks and reads the first [`WAL_INDEX_BYTES`] of a `-shm` file.
    ///
    /// # Errors
    /// [`WalError::Copies`] and [`WalError::Checksum`] may pass: somebody is writing; read again.
    pub fn parse(bytes: &[u8]) -> Result<Self, WalError> {
        if bytes.len() < WAL_INDEX_BYTES {
            let found = bytes.len() as u64;
            return Err(WalError::Short { what: "wal-index", expected: WAL_INDEX_BYTES as u64, found });
        }
        let (first, second) = (&bytes[..COPY_BYTES], &bytes[COPY_BYTES..2 * COPY_BYTES]);
        if first != second {
            return Err(WalError::Copies);
        }
        if first[12] == 0 {
            return Err(WalError::NotInitialised);
        }
        if Chain([ne32(first, 40), ne32(first, 44)]) != checksum(first) {
            return Err(WalError::Checksum("wal-index header"));
        }
        let version = ne32(first, 0);
        if version != WAL_VERSION {
            return Err(WalError::Version { what: "wal-index", found: version });
        }
        let packed = u32::from(u16::from_ne_bytes([first[14], first[15]]));
        // A page size of 65536 does not fit 16 bits and is stored as 1.
        let page_size = (packed & 0xfe00) | ((packed & 1) << 16);
        let last_frame = FrameNo(ne32(first, 16));
        if last_frame.0 > 0 && !page_size_is_valid(page_size) {
            return Err(WalError::PageSize(page_size));
        }
        Ok(Self {
            change: ne32(first, 8),
            page_size,
            last_frame,
            page_count: ne32(first, 20),
            chain: Chain([ne32(first, 24), ne32(first, 28)]),
            salts: Salts([super::be32(first, 32), super::be32(first, 36)]),
            backfilled: FrameNo(ne32(bytes, 96)),
        })
    }

    /// No commit came between the two, whatever was moved into the database file.
    pub fn shows_same_commit(&self, other: &Self) -> bool {
        Self { backfilled: other.backfilled, ..*self } == *other
    }

    /// Every committed frame is in the database file too (also true of an empty WAL).
    pub fn is_backfilled(&self) -> bool {
        self.last_frame.0 == 0 || self.backfilled >= self.last_frame
    }

    /// Builds the bytes a `-shm` file would begin with; for tests and tools, never written to a live file.
    pub fn to_bytes(&self) -> [u8; WAL_INDEX_BYTES] {
        let mut copy = [0; COPY_BYTES];
        let mut put = |at: usize, word: [u8; 4]| copy[at..at + 4].copy_from_slice(&word);
        put(0, WAL_VERSION.to_ne_bytes());
        put(8, self.change.to_ne_bytes());
        put(16, self.last_frame.0.to_ne_bytes());
        put(20, self.page_count.to_ne_bytes());
        put(24, self.chain.0[0].to_ne_bytes());
        put(28, self.chain.0[1].to_ne_bytes());
        put(32, self.salts.0[0].to_be_bytes());
        put(36, self.salts.0[1].to_be_bytes());
        copy[12] = 1;
        copy[13] = u8::from(cfg!(target_endian = "big"));
        let packed = ((self.page_size & 0xfe00) | (self.page_size >> 16)) as u16;
        copy[14..16].copy_from_slice(&packed.to_ne_bytes());
        let sum = checksum(&copy);
        copy[40..44].copy_from_slice(&sum.0[0].to_ne_bytes());
        copy[44..48].copy_from_slice(&sum.0[1].to_ne_bytes());
        let mut bytes = [0; WAL_INDEX_BYTES];
        bytes[..COPY_BYTES].copy_from_slice(&copy);
        bytes[COPY_BYTES..2 * COPY_BYTES].copy_from_slice(&copy);
        bytes[96..100].copy_from_slice(&self.backfilled.0.to_ne_bytes());
        bytes
    }
}

fn checksum(copy: &[u8]) -> Chain {
    ChecksumOrder::NATIVE.extend(Chain::default(), &copy[..40])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(power: u32, frames: u32, salts: [u32; 2], chain: [u32; 2], backfilled: u32) -> WalIndex {
        WalIndex {
            change: frames.wrapping_mul(3),
            page_size: 1 << power,
            last_frame: FrameNo(frames),
            page_count: 9,
            chain: Chain(chain),
            salts: Salts(salts),
            backfilled: FrameNo(backfilled),
        }
    }

    proptest! {
        #[test]
        fn a_wal_index_comes_back_from_its_bytes(power in 9_u32..=16, frames: u32, salts: [u32; 2], chain: [u32; 2], backfilled: u32) {
            let index = index(power, frames, salts, chain, backfilled);
            prop_assert_eq!(WalIndex::parse(&index.to_bytes()), Ok(index));
        }

        #[test]
        fn a_header_half_written_is_never_accepted(cut in 1_usize..48, one in 1_u32..1000, other in 1_u32..1000) {
            prop_assume!(one != other);
            let old = index(12, one, [1, 2], [3, 4], 0).to_bytes();
            let new = index(12, other, [1, 2], [5, 6], 0).to_bytes();
            // SQLite writes the second copy first.
            let mut torn = old;
            torn[48..48 + cut].copy_from_slice(&new[48..48 + cut]);
            if torn[48..96] != old[48..96] {
                prop_assert_eq!(WalIndex::parse(&torn), Err(WalError::Copies));
            }
        }
    }

    #[test]
    fn zeroed_bytes_are_not_initialised() {
        assert_eq!(WalIndex::parse(&[0; WAL_INDEX_BYTES]), Err(WalError::NotInitialised));
    }
}

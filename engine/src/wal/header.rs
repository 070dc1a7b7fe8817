//! The 32-byte header of a WAL file: parse and build.
//!
//! A header may be read while it is being written; then its checksum fails and the reader tries
//! again. The sequence number is local to a connection and orders nothing.

use super::{ChecksumOrder, WalError, be32, page_size_is_valid};
use lockstep_wire::{Chain, Salts};

/// Bytes of a WAL header.
pub const WAL_HEADER_BYTES: usize = 32;

/// The only WAL and wal-index format version there has ever been.
pub const WAL_VERSION: u32 = 3_007_000;

const MAGIC: u32 = 0x377f_0682;

/// A checked WAL header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Byte order of the checksums.
    pub order: ChecksumOrder,
    /// Page size in bytes.
    pub page_size: u32,
    /// Checkpoint sequence; local to the connection that wrote it.
    pub sequence: u32,
    /// The salts every frame of this generation repeats.
    pub salts: Salts,
    /// Checksum of the header, which seeds the frames' chain.
    pub chain: Chain,
}

impl WalHeader {
    /// Builds the header of a new WAL; its checksum is computed.
    pub fn new(order: ChecksumOrder, page_size: u32, sequence: u32, salts: Salts) -> Self {
        let mut header = Self { order, page_size, sequence, salts, chain: Chain::default() };
        header.chain = order.extend(Chain::default(), &header.to_bytes()[..24]);
        header
    }

    /// Checks and reads the first 32 bytes of a WAL file.
    ///
    /// # Errors
    /// Too short, foreign magic, version or page size, or a checksum that does not fit.
    pub fn parse(bytes: &[u8]) -> Result<Self, WalError> {
        if bytes.len() < WAL_HEADER_BYTES {
            let found = bytes.len() as u64;
            return Err(WalError::Short { what: "WAL header", expected: WAL_HEADER_BYTES as u64, found });
        }
        let order = match be32(bytes, 0) {
            MAGIC => ChecksumOrder::Little,
            magic if magic == MAGIC + 1 => ChecksumOrder::Big,
            magic => return Err(WalError::Magic(magic)),
        };
        let version = be32(bytes, 4);
        if version != WAL_VERSION {
            return Err(WalError::Version { what: "WAL", found: version });
        }
        let page_size = be32(bytes, 8);
        if !page_size_is_valid(page_size) {
            return Err(WalError::PageSize(page_size));
        }
        let chain = Chain([be32(bytes, 24), be32(bytes, 28)]);
        if order.extend(Chain::default(), &bytes[..24]) != chain {
            return Err(WalError::Checksum("WAL header"));
        }
        let salts = Salts([be32(bytes, 16), be32(bytes, 20)]);
        Ok(Self { order, page_size, sequence: be32(bytes, 12), salts, chain })
    }

    /// The bytes as they stand on disk.
    pub fn to_bytes(&self) -> [u8; WAL_HEADER_BYTES] {
        let magic = MAGIC + u32::from(self.order == ChecksumOrder::Big);
        let words = [
            magic,
            WAL_VERSION,
            self.page_size,
            self.sequence,
            self.salts.0[0],
            self.salts.0[1],
            self.chain.0[0],
            self.chain.0[1],
        ];
        let mut bytes = [0; WAL_HEADER_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_comes_back_from_its_bytes(big in any::<bool>(), power in 9_u32..=16, sequence: u32, salts: [u32; 2]) {
            let order = if big { ChecksumOrder::Big } else { ChecksumOrder::Little };
            let header = WalHeader::new(order, 1 << power, sequence, Salts(salts));
            prop_assert_eq!(WalHeader::parse(&header.to_bytes()), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_noticed(bit in 0_usize..256, salts: [u32; 2]) {
            let mut bytes = WalHeader::new(ChecksumOrder::NATIVE, 4096, 7, Salts(salts)).to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(WalHeader::parse(&bytes).is_err());
        }
    }

    #[test]
    fn a_short_or_empty_file_is_no_header() {
        assert!(matches!(WalHeader::parse(&[]), Err(WalError::Short { found: 0, .. })));
        assert!(matches!(WalHeader::parse(&[0; 31]), Err(WalError::Short { found: 31, .. })));
    }
}

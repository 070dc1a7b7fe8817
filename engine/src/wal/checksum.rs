//! SQLite's WAL checksum: two 32-bit sums over pairs of words, in either byte order.
//!
//! The innermost loop of capture and mirror: every replicated byte passes through it on both
//! nodes. Two dependent additions per eight bytes are the floor, so nothing else is in the loop.

use lockstep_wire::Chain;

/// The order in which 32-bit words are read for the checksum; the WAL magic's lowest bit says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumOrder {
    /// Magic `377f0682`: written by a little-endian machine.
    Little,
    /// Magic `377f0683`: written by a big-endian machine.
    Big,
}

impl ChecksumOrder {
    /// The order a WAL or wal-index written by this machine has.
    pub const NATIVE: Self = if cfg!(target_endian = "big") { Self::Big } else { Self::Little };

    /// The checksum after `bytes`, a multiple of eight, continuing from `chain`.
    pub fn extend(self, chain: Chain, bytes: &[u8]) -> Chain {
        debug_assert!(bytes.len().is_multiple_of(8), "checksummed parts are whole pairs of words");
        match self {
            Self::Little => sum(chain, bytes, u32::from_le_bytes),
            Self::Big => sum(chain, bytes, u32::from_be_bytes),
        }
    }
}

#[inline(always)]
fn sum(chain: Chain, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Chain {
    let [mut s1, mut s2] = chain.0;
    for pair in bytes.chunks_exact(8) {
        let first = word([pair[0], pair[1], pair[2], pair[3]]);
        let second = word([pair[4], pair[5], pair[6], pair[7]]);
        s1 = s1.wrapping_add(first).wrapping_add(s2);
        s2 = s2.wrapping_add(second).wrapping_add(s1);
    }
    Chain([s1, s2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_sum_of_a_known_pair_is_known() {
        let bytes = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0];
        // s1 = 1, s2 = 2 + 1 = 3; s1 = 1 + 3 + 3 = 7, s2 = 3 + 4 + 7 = 14.
        assert_eq!(ChecksumOrder::Little.extend(Chain::default(), &bytes), Chain([7, 14]));
    }

    proptest! {
        #[test]
        fn a_sum_may_be_cut_anywhere_at_eight_bytes(words in prop::collection::vec(any::<u64>(), 0..200), cut in 0_usize..200) {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let cut = (cut * 8).min(bytes.len());
            for order in [ChecksumOrder::Little, ChecksumOrder::Big] {
                let whole = order.extend(Chain([5, 6]), &bytes);
                let parts = order.extend(order.extend(Chain([5, 6]), &bytes[..cut]), &bytes[cut..]);
                prop_assert_eq!(whole, parts);
            }
        }

        #[test]
        fn the_orders_agree_on_swapped_words(words in prop::collection::vec(any::<[u32; 2]>(), 0..100)) {
            let little: Vec<u8> = words.iter().flatten().flat_map(|w| w.to_le_bytes()).collect();
            let big: Vec<u8> = words.iter().flatten().flat_map(|w| w.to_be_bytes()).collect();
            prop_assert_eq!(
                ChecksumOrder::Little.extend(Chain::default(), &little),
                ChecksumOrder::Big.extend(Chain::default(), &big)
            );
        }
    }
}

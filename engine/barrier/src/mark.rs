//! What names a commit: the frame that commits it and the checksum over everything up to it.

/// Bytes of a mark in a datagram.
pub(crate) const MARK_BYTES: usize = 24;

/// One commit frame of a WAL, named so that no other content can be meant: its checksum chains over
/// all frames before it. A frame number alone would not do, because a writer that dies before it
/// publishes leaves a frame that the next writer overwrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Bytes 8 to 15 of the frame header, big-endian: which WAL.
    pub salts: u64,
    /// Bytes 16 to 23 of the frame header, big-endian: the running checksum after the frame.
    pub chain: u64,
    /// Which frame, from 1.
    pub frame: u32,
}

impl Mark {
    /// For a datagram.
    pub fn to_bytes(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&self.salts.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.chain.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.frame.to_le_bytes());
        bytes
    }

    /// From a datagram; `None` when it is none of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let frame = word(16);
        Some(Self { salts: word(0), chain: word(8), frame: u32::try_from(frame).ok().filter(|f| *f > 0)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mark_comes_back_from_its_bytes(salts: u64, chain: u64, frame in 1_u32..) {
            let mark = Mark { salts, chain, frame };
            prop_assert_eq!(Mark::from_bytes(&mark.to_bytes()), Some(mark));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Mark::from_bytes(&bytes);
        }
    }
}

//! Where a replica stands in a database's history.
//!
//! A [`Position`] is (generation, frame): which life of the WAL, and the last frame in it. SQLite's
//! salts name a generation on disk but do not order it (a TRUNCATE makes both random), so
//! generations are counted by ourselves.

use crate::ids::{IdError, parse_digits};
use std::{fmt, str::FromStr};

/// Which life of a WAL: grows by one each time the WAL begins anew with published frames. 0: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WalGeneration(pub u64);

/// A frame in a WAL, counted from 1 as SQLite does; 0 means "no frame yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FrameNo(pub u32);

/// A point in a database's history: everything through `frame` of `generation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Which life of the WAL.
    pub generation: WalGeneration,
    /// The last frame included.
    pub frame: FrameNo,
}

/// SQLite's running WAL checksum after some frame: two 32-bit words as stored in the frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Chain(pub [u32; 2]);

/// The two salts of a WAL header, as stored (big-endian words read as numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salts(pub [u32; 2]);

macro_rules! packed_pair {
    ($name:ident) => {
        impl $name {
            /// One number for a message field: first word high.
            pub fn packed(self) -> u64 {
                (u64::from(self.0[0]) << 32) | u64::from(self.0[1])
            }

            /// The reverse of [`Self::packed`].
            pub fn from_packed(packed: u64) -> Self {
                Self([(packed >> 32) as u32, packed as u32])
            }
        }
    };
}

packed_pair!(Chain);
packed_pair!(Salts);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 20 digits hold any generation and 10 any frame, so the text sorts like the value.
        write!(f, "{:020}.{:010}", self.generation.0, self.frame.0)
    }
}

impl FromStr for Position {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::form("a position like 00000000000000000003.0000000042", text);
        let (generation, frame) = text.split_once('.').ok_or_else(wrong)?;
        let generation = parse_digits(generation, 20).ok_or_else(wrong)?;
        let frame = parse_digits(frame, 10).and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong)?;
        Ok(Self { generation: WalGeneration(generation), frame: FrameNo(frame) })
    }
}

//! The right to write, as a number that only grows.
//!
//! An epoch is durable on its holder before it is used and rides in every frame header and
//! heartbeat; whoever sees a higher one demotes at once. How a new one is claimed is decided in
//! `lockstep-failover`.

use crate::ids::{IdError, NodeId, parse_digits, parse_hex16};
use std::{fmt, str::FromStr};

/// The right to write: a counter and the node that claimed it, ordered by counter first.
/// Counter 0 means "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Grows by one with every claim.
    pub counter: u64,
    /// Who claimed it; breaks the tie between two nodes that claimed at once.
    pub node: NodeId,
}

impl Epoch {
    /// No claim was ever made.
    pub const NONE: Self = Self { counter: 0, node: NodeId(0) };

    /// The epoch that `node` claims after this one.
    ///
    /// Counting never reaches 2^64. A peer could say so, though, and then this stays there instead
    /// of starting anew at 0: the order of the nodes decides, and nobody's epoch ever falls.
    #[must_use]
    pub fn next(self, node: NodeId) -> Self {
        Self { counter: self.counter.saturating_add(1), node }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 20 digits hold any counter, so the text sorts like the value.
        write!(f, "{:020}-{}", self.counter, self.node)
    }
}

impl FromStr for Epoch {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::form("an epoch like 00000000000000000003-00112233aabbccdd", text);
        let (counter, node) = text.split_once('-').ok_or_else(wrong)?;
        let counter = parse_digits(counter, 20).ok_or_else(wrong)?;
        let node = parse_hex16(node).ok_or_else(wrong)?;
        Ok(Self { counter, node: NodeId(node) })
    }
}

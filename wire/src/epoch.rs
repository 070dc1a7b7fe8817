//! The right to write, as a number that only grows.
//!
//! An epoch is durable on its holder before it is used and rides in every frame header and
//! heartbeat; whoever sees a higher one demotes at once. How a new one is claimed is decided in
//! `lockstep-failover`.

use crate::ids::{IdError, NodeId, parse_hex16};
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
    #[must_use]
    pub fn next(self, node: NodeId) -> Self {
        Self { counter: self.counter + 1, node }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{}", self.counter, self.node)
    }
}

impl FromStr for Epoch {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Form {
            expected: "an epoch like 0000000003-00112233aabbccdd",
            found: text.to_owned(),
        };
        let (counter, node) = text.split_once('-').ok_or_else(wrong)?;
        let digits = counter.len() >= 10 && counter.bytes().all(|b| b.is_ascii_digit());
        let node = parse_hex16(node).ok_or_else(wrong)?;
        let counter: u64 = digits.then(|| counter.parse().ok()).flatten().ok_or_else(wrong)?;
        let epoch = Self { counter, node: NodeId(node) };
        if epoch.to_string() == text { Ok(epoch) } else { Err(wrong()) }
    }
}

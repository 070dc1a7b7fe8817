//! Active: sends what a plan asks for, and keeps the index to what the standby acknowledged.
//!
//! `watch -> (marks) -> gather -> plan -> read -> (link)`. Each tree has one thread that does all of it, because all of
//! it blocks on the disk; the data thread hands it the standby's answers and takes its messages. Of what is under
//! way to the standby nothing is in the index on disk until the standby says that it is durable.

mod answers;
mod asked;
mod barrier;
mod batch;
mod brake;
mod carry_out;
mod gather;
mod outcome;
mod read;
mod reconcile;
mod shared;
mod stuck;
mod thread;
mod verify;

pub use shared::{Notices, Shipper, TreeState, TreeStatus};
pub use stuck::StuckPath;
pub use verify::{Difference, TreeVerified, VerifyHow};

use lockstep_wire::TreeName;
use std::path::PathBuf;

/// How much of a tree may vanish at one look before that is taken for a fault, percent.
pub const DELETE_MAX_PERCENT: u8 = 80;

/// One tree on this node.
#[derive(Debug, Clone)]
pub struct TreeConfig {
    /// Its name, the same on both nodes.
    pub name: TreeName,
    /// Its root on this node.
    pub root: PathBuf,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// File changes that happened before a commit are on the standby's disk before that commit's frames are sent.
    pub before_commits: bool,
    /// How much may vanish at one look before sending stops, percent; 100: all of it.
    pub delete_max_percent: u8,
    /// At most so fast, bytes per second; None: as fast as it goes.
    pub bytes_per_s_max: Option<u64>,
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

//! Active: from what is on disk and what the standby has to the operations that make both equal. Pure.
//!
//! [`Facts`] are looks at the disk, of every path that may have changed and of every path from which something may
//! have been renamed. The plan works on [`Known`](super::index::Known) as it goes, which afterwards is what the standby will have.
//! Renames come first (an entry that must give way goes first; two that wait for each other change places), then
//! what is new with parents first, then removals, then the metadata of directories, whose times the rest changed.

mod facts;
mod planner;

pub use facts::{Fact, Facts};
pub(crate) use planner::change_of;
pub use planner::{Op, Plan, Step, plan};

/// A file up to this size is sent whole in one operation; a larger one by the blocks that differ.
pub const WHOLE_MAX_BYTES: u64 = 128 << 10;

/// A file up to this size is read again when only its time of change tells that something happened to it; of a
/// larger one the time of modification and events are believed.
const DOUBTED_MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests;

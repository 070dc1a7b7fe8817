//! Active: what the standby holds of a tree, as far as it acknowledged.
//!
//! [`Known`] is the picture in memory that plans are made against: it includes what was sent and not yet answered.
//! [`Store`] is the same on disk, without that: a batch is written to it when the standby has answered, so that
//! after any crash it is never ahead of the standby's disk.

mod doubts;
mod known;
mod store;

pub use doubts::Doubts;
pub use known::{Known, NO_MODE, NodeId, ROOT, Seen};
pub use store::{Change, Identity, Store, StoreError, Touched};

#[cfg(test)]
mod tests;

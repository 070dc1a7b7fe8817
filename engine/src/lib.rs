//! Lockstep's data path: from a change on the active node to the same change on the standby.
//!
//! `capture -> link -> (wire) -> link -> mirror`. The engine knows epoch and role and never why
//! they changed; that is the agent's (`lockstep`).

pub mod capture;
pub mod copy;
pub mod durable;
pub mod equality;
pub mod files;
pub mod link;
pub mod mirror;
pub mod pair;
pub mod storage;
pub mod wal;

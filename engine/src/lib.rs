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
mod sealed_text;
pub mod storage;
pub mod wal;

// A test with a fault that only this crate's own tests can make drives whole pairs as `tests/pair` does.
#[cfg(test)]
extern crate self as lockstep_engine;
#[cfg(test)]
#[allow(dead_code, reason = "the tests of pairs use more of it")]
#[path = "../tests/pair/node.rs"]
mod node;
#[cfg(test)]
#[allow(dead_code, reason = "the tests of pairs use more of it")]
#[path = "../tests/pair/writer.rs"]
mod writer;

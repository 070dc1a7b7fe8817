//! Lockstep's agent: from a missed heartbeat to the address on the other node.
//!
//! `heartbeat, probes -> failover (detector -> table -> machine) -> effects`. Only the binary,
//! tests and benches use this library.

pub mod arbiter;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod driver;
pub mod effects;
pub mod events;
pub mod heartbeat;
pub mod lab;
pub mod probes;
pub mod status;

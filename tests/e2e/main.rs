//! End-to-end tests: the real binary on real nodes, each test in a lab of its own.
//!
//! They need root or a user namespace; a test that needs more says so in its failure.

mod data;
mod demo;
mod failover;
#[allow(dead_code, unused_imports, reason = "shared with the crash suite, which uses another part of it")]
#[path = "../harness/mod.rs"]
mod harness;
mod lab;
mod lab_end;
mod modes;
mod operate;
mod service;
mod shim;
mod strict;
mod trees;
mod unmodified;
mod waiting;
mod witness;

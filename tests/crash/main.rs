//! Crash consistency: a simulated disk crashed at every moment, real power loss, kills at random moments.
//!
//! What must hold afterwards is in `harness/invariants.rs`, the same for all three. What the suite proves
//! and how to run the long one is in docs/testing.md.

#[allow(dead_code, unused_imports, reason = "shared with the end-to-end tests, which use another part of it")]
#[path = "../harness/mod.rs"]
mod harness;
mod history;
mod kills;
mod lives;
mod pair_state;
mod power;
mod recover;
mod simulated;
mod source;

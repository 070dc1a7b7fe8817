//! The `lockstep` binary: parse, load, run.
fn main() {}

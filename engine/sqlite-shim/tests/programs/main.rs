//! Stock programs under the shim, against an agent that is nothing but boards and pokes.
//!
//! The boundary is the board: what the pair behind it does has its own tests. Programs are exec'ed, never
//! forked: a forked child inherits SQLite's locks and proves nothing.

mod agent;
mod program;
mod python;
mod shell;
mod ways_in;

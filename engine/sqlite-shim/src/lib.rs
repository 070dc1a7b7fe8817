//! Lets a program that knows nothing of Lockstep wait until its commits are safe on both nodes.
//!
//! Stands inside the program, between SQLite and its files: it sees a commit frame go into the write-ahead log,
//! tells the agent, and returns from COMMIT only when the standby has it. [`waiting`] knows which commit that is
//! and how to wait; what is around it is the ways in: SQLite's own file interface, or libc for programs that bundle SQLite. It links no
//! SQLite, decides nothing about safety, and never fails a commit that is on this node's disk.
//!
//! This is a library to be loaded, not to be linked: see `docs/shim.md`.

#[cfg(not(test))]
mod guard;
mod interpose;
// Its names are SQLite's own: no test program may carry them.
#[cfg(not(test))]
mod sqlite;
pub mod waiting;

//! Waits until a commit is safe on both Lockstep nodes: for programs that link this crate.
//!
//! Commit in SQLite, then [`Client::wait`]; answer your own client only when it returned `Ok`.
//! Blocking, without an async runtime and with one dependency, so that any program can carry it.
//! It never speaks for the agent: an agent that does not answer is a [`WaitError`], never a success.

mod answer;
mod client;

pub use answer::{Acknowledged, AnswerError, Mode, parse_answer};
pub use client::{Client, DEFAULT_SOCKET, WaitError};

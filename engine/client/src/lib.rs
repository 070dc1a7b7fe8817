//! Waits until a commit is safe on both Lockstep nodes: for programs that link this crate.
//!
//! Commit in SQLite, then [`Client::wait`]; answer your own client only when it returned `Ok`.
//! Blocking, without an async runtime and with one dependency, so that any program can carry it.
//! It never speaks for the agent: an agent that does not answer is a [`WaitError`], never a success.
//!
//! ```no_run
//! use lockstep_client::{Client, DEFAULT_SOCKET, Mode};
//! use std::time::Duration;
//!
//! // ... COMMIT returned ...
//! let mut agent = Client::connect(DEFAULT_SOCKET)?;
//! agent.wait("shop", "orders", Mode::Durable, Duration::from_secs(5))?;
//! // Now the client may be told that its order is safe.
//! # Ok::<(), lockstep_client::WaitError>(())
//! ```

mod answer;
mod client;

pub use answer::{Acknowledged, AnswerError, Mode, parse_answer};
pub use client::{Client, DEFAULT_SOCKET, STARTING, WaitError};

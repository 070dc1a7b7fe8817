//! The slow way to learn that commits are safe: `WAIT` on the agent's socket, asked without blocking.
//!
//! For when the board cannot tell: a standby came or went, or nothing was heard for a while. The answer
//! covers every commit that was published before the question.

use lockstep_barrier::through_directory;
use lockstep_client::{Acknowledged, Mode, parse_answer};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// How long the agent may take; then it is asked again. It answers a time-out itself.
const AGENT_TIMEOUT_MS: u64 = 10_000;
/// An answer is a word, a position and a sentence.
const MAX_ANSWER_BYTES: usize = 4096;

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// `OK` or `SOLO`.
    Acknowledged,
    /// Nothing yet.
    None,
    /// Anything else, and a broken connection: ask again.
    Again,
}

/// One question under way.
#[derive(Debug)]
pub(super) struct Question {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Question {
    /// Asks; `None` when no agent listens.
    pub(super) fn ask(socket: &Path, pair: &str, database: &str) -> Option<Self> {
        let mut stream = through_directory(socket, |short| UnixStream::connect(short)).ok()?;
        stream.set_nonblocking(true).ok()?;
        let request = format!("WAIT {pair} {database} {} {AGENT_TIMEOUT_MS}\n", Mode::Durable);
        stream.write_all(request.as_bytes()).ok()?;
        Some(Self { stream, line: Vec::new() })
    }

    /// Looks for the answer without waiting.
    pub(super) fn answer(&mut self) -> Answer {
        let mut bytes = [0; 256];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Answer::Again,
                Ok(length) => self.line.extend(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Answer::None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Answer::Again,
            }
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.line[..end]);
                return match parse_answer(&line) {
                    Ok(Acknowledged::Replicated { mode, .. }) if mode < Mode::Durable => Answer::Again,
                    Ok(_) => Answer::Acknowledged,
                    Err(_) => Answer::Again,
                };
            }
            if self.line.len() > MAX_ANSWER_BYTES {
                return Answer::Again;
            }
        }
    }
}

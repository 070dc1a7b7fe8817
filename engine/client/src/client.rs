//! One connection to the agent: asks, waits, and survives the agent's restart.
//!
//! A `WAIT` covers every commit that returned before it was sent, so sending it again to a
//! restarted agent asks for at least as much; that is why going on waiting is safe.

use crate::answer::{Acknowledged, AnswerError, Mode, parse_answer};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/lockstep/agent.sock";

/// The code of an agent that has just started and does not know yet what it may acknowledge.
pub const STARTING: &str = "starting";

/// How often a client looks for an agent that is not there: a restart takes about 100 ms.
const RECONNECT_PERIOD: Duration = Duration::from_millis(20);

/// The agent answers a time-out itself; only after this much more is its silence one.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// An answer is a word, a position and a sentence.
const MAX_ANSWER_BYTES: u64 = 4096;

/// Why the commits are not known to be safe. They may still be, or become so.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The time is over.
    #[error("not acknowledged within {timeout_ms} ms: {last}; ask again, or look at `lockstep status`")]
    Timeout {
        /// The time that was given.
        timeout_ms: u128,
        /// What was in the way last.
        last: String,
    },
    /// The agent said no, with a stable word and a sentence.
    #[error("the agent refused ({code}): {sentence}")]
    Refused {
        /// The word, for example `standby` or `pair`.
        code: String,
        /// The sentence.
        sentence: String,
    },
    /// What answered is no agent.
    #[error("{0}")]
    Protocol(AnswerError),
    /// The socket cannot be used.
    #[error("{path}: {source}: is the agent running and this user in the group lockstep?")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A connection to the agent of this node. One request at a time; use one per thread.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Client {
    /// Connects to the agent's socket, normally [`DEFAULT_SOCKET`].
    ///
    /// # Errors
    /// [`WaitError::Socket`] when nobody listens there.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, WaitError> {
        let path = path.as_ref().to_owned();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { path, stream: Some(BufReader::new(stream)) }),
            Err(source) => Err(WaitError::Socket { path, source }),
        }
    }

    /// Returns when every commit that `database` saw before this call is acknowledged in `mode`.
    /// When the agent restarts meanwhile, it reconnects and goes on waiting within `timeout`.
    ///
    /// # Errors
    /// [`WaitError`]: nothing is acknowledged.
    pub fn wait(
        &mut self,
        pair: &str,
        database: &str,
        mode: Mode,
        timeout: Duration,
    ) -> Result<Acknowledged, WaitError> {
        let deadline = Instant::now() + timeout;
        let mut last = String::from("no answer");
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WaitError::Timeout { timeout_ms: timeout.as_millis(), last });
            }
            let request = format!("WAIT {pair} {database} {mode} {}\n", left.as_millis().max(1));
            match self.ask(&request, left + ANSWER_GRACE) {
                Ok(line) => match verdict(&line, timeout) {
                    Err(WaitError::Refused { code, sentence }) if code == STARTING => last = sentence,
                    verdict => return verdict,
                },
                Err(error) => {
                    self.stream = None;
                    last = format!("{}: {error}", self.path.display());
                }
            }
            thread::sleep(RECONNECT_PERIOD.min(left));
        }
    }

    fn ask(&mut self, request: &str, patience: Duration) -> io::Result<String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(BufReader::new(UnixStream::connect(&self.path)?)),
        };
        stream.get_ref().set_read_timeout(Some(patience))?;
        stream.get_ref().set_write_timeout(Some(patience))?;
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.take(MAX_ANSWER_BYTES).read_line(&mut line)?;
        if line.ends_with('\n') {
            line.pop();
            Ok(line)
        } else {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent closed the connection"))
        }
    }
}

fn verdict(line: &str, timeout: Duration) -> Result<Acknowledged, WaitError> {
    parse_answer(line).map_err(|error| match error {
        AnswerError::Refused { code, sentence } if code == "timeout" => {
            WaitError::Timeout { timeout_ms: timeout.as_millis(), last: sentence }
        }
        AnswerError::Refused { code, sentence } => WaitError::Refused { code, sentence },
        other => WaitError::Protocol(other),
    })
}

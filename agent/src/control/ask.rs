//! The command line's side of the socket: one request, one answer.

use super::{Answer, Request};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// A status of many databases and events is some 10 KiB; more than this is no answer.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "no agent answers at {path} ({source}): start it with `systemctl start lockstep` or `lockstep agent`"
    )]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This user may not connect.
    #[error("{path}: permission denied: become root or a member of the group lockstep")]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// No answer in time.
    #[error(
        "the agent at {path} did not answer within {timeout_s} s: what was asked may still happen, see `lockstep status`"
    )]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long it had.
        timeout_s: u64,
    },
    /// The connection ended.
    #[error("the agent at {path} broke off ({source}): see its journal")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not an answer.
    #[error("the agent at {path} answered something else ({source}): is it of another version?")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Asks the agent and waits for its answer.
///
/// # Errors
/// [`AskError`]; a refusal is not one but [`Answer::Error`].
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> Result<Answer, AskError> {
    let path = || socket.to_owned();
    let mut stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Permission { path: path() },
        _ => AskError::Absent { path: path(), source },
    })?;
    let broken = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            AskError::Timeout { path: path(), timeout_s: timeout.as_secs() }
        }
        _ => AskError::Broken { path: path(), source },
    };
    stream.set_read_timeout(Some(timeout)).map_err(broken)?;
    stream.set_write_timeout(Some(timeout)).map_err(broken)?;
    let mut line = serde_json::to_string(request).expect("a request is plain data");
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream).take(MAX_ANSWER_BYTES).read_line(&mut answer).map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(|source| AskError::Answer { path: path(), source })
}

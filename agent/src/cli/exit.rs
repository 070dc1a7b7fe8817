//! Exit codes, fixed: scripts rely on them.

use crate::control::{AskError, Failure, FailureCode};
use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done,
    /// It was tried and went wrong.
    Failed,
    /// The command line is wrong.
    Usage,
    /// By rule.
    Refused,
    /// It was done, but the pair is not in sync.
    NotInSync,
    /// Not within the time.
    TimedOut,
    /// With the code of the program it ran.
    Program(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::NotInSync => 4,
            Exit::TimedOut => 5,
            Exit::Program(code) => code,
        })
    }
}

impl From<FailureCode> for Exit {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::Syntax | FailureCode::Pair | FailureCode::Database => Self::Usage,
            FailureCode::Standby | FailureCode::Refused | FailureCode::Permission => Self::Refused,
            FailureCode::Timeout => Self::TimedOut,
            FailureCode::Starting | FailureCode::Busy | FailureCode::Failed => Self::Failed,
        }
    }
}

/// The exit code of an error, by what lies at its root.
pub(super) fn of(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.code.into();
    }
    match error.downcast_ref::<AskError>() {
        Some(AskError::Timeout { .. }) => Exit::TimedOut,
        Some(AskError::Permission { .. }) => Exit::Refused,
        _ => Exit::Failed,
    }
}

//! Exit codes, fixed: scripts rely on them.

use crate::control::{AskError, Failure, FailureCode};
use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done = 0,
    /// It was tried and went wrong.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// By rule.
    Refused = 3,
    /// It was done, but the pair is not in sync.
    NotInSync = 4,
    /// Not within the time.
    TimedOut = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<FailureCode> for Exit {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::Syntax | FailureCode::Pair | FailureCode::Database => Self::Usage,
            FailureCode::Standby | FailureCode::Refused | FailureCode::Permission => Self::Refused,
            FailureCode::Timeout => Self::TimedOut,
            FailureCode::Busy | FailureCode::Failed => Self::Failed,
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

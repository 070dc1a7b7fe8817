//! What went wrong on a disk: the action, the path, the cause and the remedy.
//!
//! Every error of the storage twins is this one type, so that the operator reads the same sentence
//! whichever twin is in use. It decides nothing.

use std::{io, path::PathBuf};

/// A failed disk operation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
pub struct StorageError {
    /// What was tried, as a verb phrase.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl StorageError {
    /// Names action and path of an operating system error; made for `map_err`.
    pub(crate) fn of(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { action, path, source }
    }

    /// The disk (or the quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free space on its file system or enlarge it; nothing acknowledged is lost"
        }
        io::ErrorKind::PermissionDenied => ": let the user that runs Lockstep write there",
        io::ErrorKind::ReadOnlyFilesystem => ": mount its file system read-write",
        io::ErrorKind::NotFound => ": create its directory or correct the path in the configuration",
        _ => "",
    }
}

//! What leaves no sound way to go on with a tree, as sentences for the operator.

use super::OpError;
use crate::storage::StorageError;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why a tree cannot be followed. The databases are not concerned.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The root is not there.
    #[error("the root {path} cannot be opened ({source}): mount or create it")]
    Root {
        /// Where it should be.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The root is another directory than the one that was followed.
    #[error(
        "the root {path} is not the tree that was followed: it lacks Lockstep's directory .lockstep. Mount the right file system there, or remove {state} to have everything sent anew"
    )]
    Lost {
        /// The root.
        path: String,
        /// The state file.
        state: String,
    },
    /// The root was moved or unmounted under a running agent.
    #[error("the root {0} was moved away or mounted over: put it back")]
    Moved(String),
    /// The state file is damaged.
    #[error("the state file {path} is damaged ({what}): remove it to have the tree compared anew", path = path.display())]
    State {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A disk error outside of any one path.
    #[error("{what} failed: {source}")]
    Disk {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A disk error in the agent's own directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The active sent what no active sends.
    #[error(transparent)]
    Op(#[from] OpError),
}

impl ApplyError {
    pub(super) fn disk(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Disk { what, source: errno.into() }
    }
}

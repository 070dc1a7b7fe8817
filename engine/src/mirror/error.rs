//! Why a mirror does not do what it was asked, each with a stable code for the peer and a sentence
//! with the remedy for the operator. A refusal changes nothing on disk.

use crate::{storage::StorageError, wal::WalError};
use lockstep_wire::{Chain, Position, Refusal, Salts};
use std::path::PathBuf;

/// Why a mirror refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The message does not follow on what the mirror has.
    #[error("the mirror of {} holds {held} and got {what} for {got}: connect again, so that it resumes from its position", database.display())]
    Gap {
        /// The database file.
        database: PathBuf,
        /// Last frame received.
        held: Position,
        /// Kind of the message.
        what: &'static str,
        /// The position it needs or names.
        got: Position,
    },
    /// Same position, other content.
    #[error("the mirror of {} has checksum {:016x} after {at}, {what} says {:016x}: the histories differ, resync", database.display(), expected.packed(), got.packed())]
    Chain {
        /// The database file.
        database: PathBuf,
        /// Where the two differ.
        at: Position,
        /// Kind of the message.
        what: &'static str,
        /// Our running checksum, or the one computed from the bytes.
        expected: Chain,
        /// The one that came.
        got: Chain,
    },
    /// Frames that do not verify.
    #[error("the mirror of {} got damaged or foreign frames ({source}): connect again, so that they are sent anew", database.display())]
    Frames {
        /// The database file.
        database: PathBuf,
        /// What is wrong with them.
        source: WalError,
    },
    /// The WAL of another generation.
    #[error("the WAL of {} has salts {:016x}, the active's {:016x}: resync", database.display(), expected.packed(), got.packed())]
    Salts {
        /// The database file.
        database: PathBuf,
        /// Of our header.
        expected: Salts,
        /// Of the active's.
        got: Salts,
    },
    /// A message that does not fit the state of the mirror, or is malformed.
    #[error("the mirror of {} cannot take {what}: expected {expected}, got {got}", database.display())]
    Protocol {
        /// The database file.
        database: PathBuf,
        /// Kind of the message.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// What came.
        got: String,
    },
    /// This node wrote the database itself and its data is not in quarantine yet.
    #[error("{} was written by this node: keep it in quarantine before it is changed", .0.display())]
    NotKept(PathBuf),
    /// The copy is not finished.
    #[error("the mirror of {} is not a complete copy: wait for the copy to end, or start the node that has the data", .0.display())]
    Incomplete(PathBuf),
    /// A snapshot would replace a file.
    #[error("{} exists already: name a file that is to be made", .0.display())]
    Exists(PathBuf),
    /// A snapshot gave way.
    #[error("{0}: take the snapshot again")]
    Stopped(&'static str),
    /// Somebody else has the database open.
    #[error("{} is open in another process: stop the application on this standby, its database belongs to the mirror", .0.display())]
    InUse(PathBuf),
    /// The file was replaced or removed beneath us.
    #[error("{} was replaced or removed while it was mirrored: do not touch a standby's files; restart Lockstep here to resync it", .0.display())]
    Replaced(PathBuf),
    /// The state file is not readable.
    #[error("{} is damaged ({reason}): remove it, the database is then compared page by page with the active node", path.display())]
    StateFile {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// SQLite found something else than we have.
    #[error("SQLite recovered {found} of {}, the mirror holds {held}: do not start the application; keep the files and report this", database.display())]
    Recovery {
        /// The database file.
        database: PathBuf,
        /// What the mirror holds.
        held: String,
        /// What SQLite found.
        found: String,
    },
    /// SQLite cannot open it.
    #[error("SQLite cannot open {}: {source}", database.display())]
    Sqlite {
        /// The database file.
        database: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl MirrorError {
    /// The stable word for [`Refusal::code`]: `gap`, `chain`, `protocol` or `disk`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "gap",
            Self::Chain { .. } | Self::Frames { .. } | Self::Salts { .. } => "chain",
            Self::Protocol { .. } | Self::NotKept(_) | Self::Incomplete(_) => "protocol",
            Self::Exists(_)
            | Self::Stopped(_)
            | Self::InUse(_)
            | Self::Replaced(_)
            | Self::StateFile { .. }
            | Self::Recovery { .. }
            | Self::Sqlite { .. }
            | Self::Storage(_) => "disk",
        }
    }

    /// The refusal to send to the peer.
    pub fn refusal(&self) -> Refusal {
        Refusal { code: self.code().to_owned(), sentence: self.to_string() }
    }
}

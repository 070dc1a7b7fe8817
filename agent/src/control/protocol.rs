//! The language of the agent's socket: requests, answers, failures.
//!
//! One line per request and per answer. `WAIT` is plain text, for programs in any language; what
//! the command line asks is JSON, an object per line.

use super::report::{Drilled, Why};
use crate::{events::Event, status::Status};
use lockstep_client::{Acknowledged, Mode};
use lockstep_wire::{DatabaseName, PairId};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, time::Duration};

/// Nobody keeps a client of its own waiting for longer than an hour.
pub const MAX_WAIT_MS: u64 = 3_600_000;

/// `WAIT <pair> <database> <mode> <timeout_ms>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitRequest {
    /// The pair.
    pub pair: PairId,
    /// The database.
    pub database: DatabaseName,
    /// What to wait for.
    pub mode: Mode,
    /// How long at most; the server ends the wait then.
    pub timeout: Duration,
}

impl WaitRequest {
    /// Reads a line, without its newline.
    ///
    /// # Errors
    /// [`Failure`] of kind `syntax` with what was expected.
    pub fn parse(line: &str) -> Result<Self, Failure> {
        let wrong = |sentence: String| Failure::new(FailureCode::Syntax, sentence);
        let words: Vec<&str> = line.split(' ').collect();
        let ["WAIT", pair, database, mode, timeout_ms] = words[..] else {
            return Err(wrong("expected WAIT <pair> <database> <mode> <timeout_ms>".into()));
        };
        let digits = !timeout_ms.is_empty() && timeout_ms.bytes().all(|b| b.is_ascii_digit());
        let timeout_ms = digits.then(|| timeout_ms.parse().ok()).flatten().filter(|ms| *ms <= MAX_WAIT_MS);
        let timeout_ms =
            timeout_ms.ok_or_else(|| wrong(format!("expected a timeout of 0 to {MAX_WAIT_MS} ms")))?;
        Ok(Self {
            pair: pair.parse().map_err(|e| wrong(format!("{e}")))?,
            database: database.parse().map_err(|e| wrong(format!("{e}")))?,
            mode: mode.parse().map_err(|e| wrong(format!("{e}")))?,
            timeout: Duration::from_millis(timeout_ms),
        })
    }
}

/// What the command line asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// All facts.
    Status {},
    /// The last events, oldest first.
    Events {
        /// Of this pair; null: of all.
        pair: Option<String>,
        /// How many.
        last: u32,
    },
    /// Planned and lossless.
    Switchover {
        /// Null: the only one.
        pair: Option<String>,
    },
    /// Unplanned.
    Failover {
        /// Null: the only one.
        pair: Option<String>,
        /// The operator accepts that acknowledged commits may be lost.
        accept_loss: bool,
    },
    /// Back to the primary.
    Failback {
        /// Null: the only one.
        pair: Option<String>,
    },
    /// Evidence, forecast, last decisions.
    Why {
        /// Null: the only one.
        pair: Option<String>,
    },
    /// Decide and log, and move nothing.
    Observe {
        /// Null: the only one.
        pair: Option<String>,
        /// On or off.
        on: bool,
    },
    /// No automatic moves on either node.
    Maintenance {
        /// Null: the only one.
        pair: Option<String>,
        /// On or off.
        on: bool,
    },
    /// A switchover and back, measured.
    Drill {
        /// Null: the only one.
        pair: Option<String>,
    },
    /// A sound copy of a database.
    Snapshot {
        /// Null: the only one.
        pair: Option<String>,
        /// Its name.
        database: String,
        /// Where to; must not exist.
        file: PathBuf,
    },
    /// The operator removed kept data: count it anew, and record it.
    Discarded {
        /// The pair.
        pair: String,
        /// What it was.
        entry: String,
    },
    /// Every page compared with the standby's disk.
    Verify {
        /// Null: the only one.
        pair: Option<String>,
        /// Name of a database or tree; null: all of the pair.
        database: Option<String>,
        /// Trees: read the content of every file on both nodes.
        #[serde(default)]
        deep: bool,
        /// Trees: send again what differs.
        #[serde(default)]
        repair: bool,
    },
}

/// What an operator asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// None: the only one; with several, refuse and name them.
    pub pair: Option<PairId>,
    /// What to do.
    pub kind: OperationKind,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationKind {
    /// Hand over to the peer, without loss.
    Switchover,
    /// Take over although the peer does not hand over.
    Failover {
        /// Even if acknowledged commits may be lost.
        accept_loss: bool,
    },
    /// Give the pair back to its primary.
    Failback,
    /// Decide and log, and move nothing.
    Observe(bool),
    /// No automatic moves on either node.
    Maintenance(bool),
}

/// A snapshot, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// None: the only one that has the database.
    pub pair: Option<PairId>,
    /// The database.
    pub database: DatabaseName,
    /// An absolute path that must not exist.
    pub file: PathBuf,
}

/// A comparison, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyRequest {
    /// None: the only one.
    pub pair: Option<PairId>,
    /// A database or a tree; None: all of the pair.
    pub name: Option<DatabaseName>,
    /// Trees: read the content of every file on both nodes.
    pub deep: bool,
    /// Trees: send again what differs.
    pub repair: bool,
}

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verified {
    /// A database.
    Database(VerifiedDatabase),
    /// A file tree.
    Tree(VerifiedTree),
}

/// A file tree that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedTree {
    /// Its name.
    pub tree: String,
    /// Entries that the standby has by the active's index.
    pub entries: u64,
    /// Every file was read on both nodes.
    pub deep: bool,
    /// Paths that somebody changed, made or removed on the standby.
    pub drifted_paths: u64,
    /// Files of which the standby's disk holds other bytes, with nothing else changed.
    pub rotten_standby_paths: u64,
    /// Files of which the active's own disk holds other bytes than were sent, with nothing else changed.
    pub rotten_active_paths: u64,
    /// Of all these, paths that are equal now.
    pub repaired_paths: u64,
    /// The first of them, sorted.
    pub differing: Vec<DifferingPath>,
}

impl VerifiedTree {
    /// Nothing differed.
    pub fn is_equal(&self) -> bool {
        self.drifted_paths + self.rotten_standby_paths + self.rotten_active_paths == 0
    }

    /// What came of it, for people.
    pub fn sentence(&self) -> String {
        let Self { tree, entries, drifted_paths, rotten_standby_paths, rotten_active_paths, .. } = self;
        if self.is_equal() {
            let how = if self.deep { ", every file read on both" } else { "" };
            return format!("tree {tree}: {entries} entries are equal on both nodes{how}");
        }
        let first: Vec<String> =
            self.differing.iter().take(3).map(|one| format!("{} ({})", one.path, one.what)).collect();
        let mut sentence = format!(
            "tree {tree}: {drifted_paths} paths were changed on the standby, {rotten_standby_paths} files are rotten on its disk, {rotten_active_paths} on this node's; first {}",
            first.join(", ")
        );
        let there = drifted_paths + rotten_standby_paths;
        match self.repaired_paths {
            0 if there > 0 => sentence.push_str(": `lockstep verify --repair` sends them again"),
            0 => {}
            repaired => {
                sentence.push_str(&format!("; {repaired} of {there} were sent again and are equal now"));
            }
        }
        if *rotten_active_paths > 0 {
            sentence.push_str(
                "; restore the files of this node from the standby or a backup, and check its disk",
            );
        }
        sentence
    }
}

/// A path that differed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferingPath {
    /// Below the root; bytes that are no plain text are escaped.
    pub path: String,
    /// `missing`, `extra` or `changed` on the standby; `rotten-standby`, `rotten-active`.
    pub what: String,
}

/// A database whose pages were all compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedDatabase {
    /// Its name.
    pub database: String,
    /// Pages compared.
    pub pages: u64,
    /// Of them, pages that differed and are equal now.
    pub repaired_pages: u64,
}

/// Something was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What, in one sentence.
    pub sentence: String,
    /// False: done, but the pair is not in sync (exit code 4).
    pub in_sync: bool,
}

/// Why not, as a stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The request is not of this language.
    Syntax,
    /// No such pair, or which one is not said.
    Pair,
    /// No such database.
    Database,
    /// This node is not the active one.
    Standby,
    /// The agent has just started and does not know yet; `lockstep-client` asks again by itself.
    Starting,
    /// By rule; the sentence names it.
    Refused,
    /// This user may not.
    Permission,
    /// Not within the time.
    Timeout,
    /// Too many at once.
    Busy,
    /// It was tried and went wrong.
    Failed,
}

impl FailureCode {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Pair => "pair",
            Self::Database => "database",
            Self::Standby => "standby",
            Self::Starting => lockstep_client::STARTING,
            Self::Refused => "refused",
            Self::Permission => "permission",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{sentence}")]
pub struct Failure {
    /// For programs.
    pub code: FailureCode,
    /// For people, with the remedy.
    pub sentence: String,
}

impl Failure {
    /// A failure with its sentence, made one line.
    pub fn new(code: FailureCode, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into().replace(|c: char| c.is_control(), " ") }
    }
}

/// The answer to a [`Request`], one JSON line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Events`.
    Events(Vec<Event>),
    /// To `Verify`.
    Verified(Vec<Verified>),
    /// To `Why`.
    Why(Box<Why>),
    /// To `Drill`.
    Drilled(Drilled),
    /// To everything else that does something.
    Done(Done),
    /// To anything.
    Error(Failure),
}

/// The answer to a `WAIT`, one text line without its newline.
pub(super) struct WaitLine(pub(super) Result<Acknowledged, Failure>);

impl fmt::Display for WaitLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(acknowledged) => write!(f, "{acknowledged}"),
            Err(failure) => write!(f, "ERR {} {}", failure.code.word(), failure.sentence),
        }
    }
}

//! What a node says of itself, for `status --json`, pages and tests. Read only.

use lockstep_wire::{Epoch, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What a node is for one pair, also in `status --json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The peer was never met.
    Unpaired,
    /// Standby, receiving a first copy or resync.
    Copying,
    /// Serves.
    Active,
    /// Follows.
    Standby,
    /// On the way to serving.
    Promoting,
    /// On the way to standby.
    Releasing,
    /// Neither serves nor follows, and says why.
    Holding,
}

impl State {
    /// The word in `status --json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unpaired => "unpaired",
            Self::Copying => "copying",
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Promoting => "promoting",
            Self::Releasing => "releasing",
            Self::Holding => "holding",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The machine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// See [`State`].
    pub state: State,
    /// Newest epoch this node claimed or accepted.
    pub epoch: Epoch,
    /// Active: the standby holds every acknowledged commit. Standby: so do we, by the active's word.
    pub in_sync: bool,
    /// Active: acknowledges alone. Standby: the active says it does.
    pub solo: bool,
    /// Active: the standby does not follow, and commits wait until it does or solo begins.
    pub waits_for_standby: bool,
    /// Standby: may lack acknowledged commits.
    pub outdated: bool,
    /// Standby: what is left of the grant.
    pub grant_left: Option<Duration>,
    /// The open question to the operator.
    pub question: Option<String>,
    /// The row of the table that holds now, and its sentence with evidence.
    pub row: &'static str,
    /// See `row`.
    pub evidence: String,
    /// How long ago the peer was heard on (direct, LAN).
    pub heard: [Option<Duration>; 2],
    /// The lease is open, as last reported.
    pub lease_open: bool,
    /// Automatic moves are off.
    pub observe: bool,
    /// Automatic moves are off for maintenance.
    pub maintenance: bool,
    /// Last known position of each database.
    pub positions: BTreeMap<String, Position>,
}

//! What `why` and `drill` answer.

use crate::events::Event;
use lockstep_failover::{Fact, Forecast, status::State};
use serde::{Deserialize, Serialize};

/// What a node knows of its pair, what it would do, and what it decided last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The pair.
    pub pair: String,
    /// What this node is for it.
    pub state: State,
    /// The epoch it knows, in text form.
    pub epoch: String,
    /// The row of the table, or the step, that holds now.
    pub row: String,
    /// What is said of it.
    pub sentence: String,
    /// The evidence with its ages.
    pub facts: Vec<Fact>,
    /// How long this node may still answer for the address unless renewed; null: it may not.
    pub lease_ms_left: Option<u64>,
    /// What would happen if the peer fell silent now.
    pub if_peer_fell_silent: Forecast,
    /// What the operator has to decide, with the command for it.
    pub question: Option<String>,
    /// The last decisions and non-decisions, oldest first.
    pub decisions: Vec<Event>,
}

/// One move of a drill, as measured on the node it was asked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillMove {
    /// This node handed over (true) or took over.
    pub away: bool,
    /// The epoch of whoever served afterwards.
    pub epoch: String,
    /// The longest time in which nobody answered for the first virtual address, milliseconds.
    pub vip_outage_ms: u64,
    /// From the request until both nodes were in sync again, milliseconds.
    pub in_sync_after_ms: u64,
}

/// A switchover and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// The pair.
    pub pair: String,
    /// There and back.
    pub moves: Vec<DrillMove>,
    /// Databases of which one node had commits that the other lacked after a move; they are in quarantine.
    pub diverged_databases: u32,
    /// In sync at the end.
    pub in_sync: bool,
}

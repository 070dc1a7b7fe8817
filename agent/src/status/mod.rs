//! What `lockstep status` prints: the facts of a node, as types, as JSON and for people.
//!
//! The agent fills [`Status`]; the command line renders it. Field names are fixed: outside tests
//! and monitoring rely on them. New ones may be added; readers skip what they do not know.

mod render;
#[cfg(test)]
pub(crate) mod tests;
mod tree;

pub use lockstep_failover::status::State as PairState;
pub use render::{Paint, bytes, events, human};
pub use tree::{StuckStatus, TreeState, TreeStatus};

use crate::{
    config::Role,
    events::{Alarm, Event},
    heartbeat::Silences,
};
use serde::{Deserialize, Serialize};

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// How many events a status carries.
pub const STATUS_EVENTS: u32 = 20;

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the node.
    pub node: String,
    /// Its configured role.
    pub role: Role,
    /// Software version.
    pub version: String,
    /// Its pairs, in the configuration's order.
    pub pairs: Vec<PairStatus>,
}

/// One pair, seen from this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairStatus {
    /// Its id.
    pub id: String,
    /// What this node is for it.
    pub state: PairState,
    /// The epoch this node knows, in text form.
    pub epoch: String,
    /// The standby holds every acknowledged commit.
    pub in_sync: bool,
    /// The active acknowledges alone.
    pub solo: bool,
    /// Maintenance was switched on on this node: neither moves the service by itself.
    #[serde(default)]
    pub maintenance: bool,
    /// This node decides and logs, and moves nothing.
    #[serde(default)]
    pub observe: bool,
    /// Last committed position (active) or last durable one (standby) of the first database.
    pub position: String,
    /// Frames the standby lacks, over all databases; null: unknown.
    pub lag_frames: Option<u64>,
    /// Age of the oldest commit the standby lacks, milliseconds; null: unknown.
    pub lag_ms: Option<u64>,
    /// Commits that nobody waited for, since the agent's start.
    pub unwaited_commits: u64,
    /// Commits that wait for the standby now, over all databases.
    #[serde(default)]
    pub waiting: u32,
    /// Why they wait longer than an answer takes; null: they do not.
    #[serde(default)]
    pub waiting_why: Option<String>,
    /// The virtual addresses, with mask.
    pub vip: Vec<String>,
    /// How long this node may still answer for them unless renewed, milliseconds; null: it may not.
    pub lease_ms_left: Option<u64>,
    /// Both heartbeat paths.
    pub heartbeat: Heartbeats,
    /// The databases, in stream order.
    pub databases: Vec<DatabaseStatus>,
    /// The replicated file trees, in the configuration's order.
    #[serde(default)]
    pub trees: Vec<TreeStatus>,
    /// `io_uring` or `blocking`.
    pub io_backend: String,
    /// The last [`STATUS_EVENTS`] events, oldest first.
    pub events: Vec<Event>,
    /// The data connection.
    #[serde(default)]
    pub link: LinkStatus,
    /// The applications, in start order.
    #[serde(default)]
    pub apps: Vec<AppStatus>,
    /// What is wrong now.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// What the operator has to decide, with the command for it.
    #[serde(default)]
    pub question: Option<String>,
    /// Databases whose diverged data is kept in quarantine.
    #[serde(default)]
    pub quarantined: u32,
}

/// The heartbeat paths.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeats {
    /// Over the cable; null: there is none.
    pub direct: Option<HeartbeatStatus>,
    /// Over the clients' network.
    pub lan: HeartbeatStatus,
    /// How long the peer was silent between two words since the agent's start.
    #[serde(default)]
    pub silences: Silences,
}

/// One heartbeat path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatStatus {
    /// The peer was heard within the detection time.
    pub up: bool,
    /// Since the last one, milliseconds; null: none since the agent's start.
    pub age_ms: Option<u64>,
    /// Mean round trip, milliseconds; null: no echo yet.
    pub mean_rtt_ms: Option<f64>,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// Its name.
    pub name: String,
    /// Its path on this node.
    pub path: String,
    /// As the pair's `position`.
    pub position: String,
    /// The standby holds every acknowledged commit of it.
    pub in_sync: bool,
    /// Frames the standby lacks; null: unknown.
    pub lag_frames: Option<u64>,
    /// Commits of it that wait for the standby now.
    #[serde(default)]
    pub waiting: u32,
    /// Size of its WAL.
    #[serde(default)]
    pub wal_bytes: u64,
    /// The copy or resync under way.
    #[serde(default)]
    pub copy: Option<CopyStatus>,
    /// Why it is not followed or mirrored, with the remedy.
    #[serde(default)]
    pub fault: Option<String>,
    /// Since all its pages were last proven equal to what the standby's disk holds; null: not since this node serves.
    #[serde(default)]
    pub verified_age_s: Option<u64>,
    /// Since the sums over all pages of both nodes were last compared and equal; null: not since this node serves.
    #[serde(default)]
    pub sums_equal_age_s: Option<u64>,
    /// Active: how far the comparison with the standby's disk is.
    #[serde(default)]
    pub scrub: Option<ScrubStatus>,
}

/// The comparison with the standby's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Pages of the present pass that were compared.
    pub done_pages: u32,
    /// Pages in all; 0: not known yet.
    pub total_pages: u32,
    /// Pages that differed since this node serves.
    pub mismatched_pages: u64,
    /// Of them, those that are equal again.
    pub repaired_pages: u64,
}

/// A copy or resync under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// True: only differing pages travel.
    pub resync: bool,
    /// True: only pages written since the two histories parted are looked at.
    #[serde(default)]
    pub rewind: bool,
    /// Done so far.
    pub done_bytes: u64,
    /// In all.
    pub total_bytes: u64,
    /// Speed now.
    pub rate_bytes_per_s: u64,
    /// At that speed; null: unknown.
    pub remaining_s: Option<u64>,
}

/// The data connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// `direct`, `lan`, or null while there is none.
    pub path: Option<String>,
    /// Whether compression is on.
    pub compressing: bool,
    /// Why it is on or off.
    pub compression_reason: String,
    /// Bytes sent since it was made.
    pub sent_bytes: u64,
    /// Bytes received since it was made.
    pub received_bytes: u64,
    /// Why it is down, with the remedy.
    pub fault: Option<String>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its name.
    pub name: String,
    /// It was started by this node.
    pub running: bool,
    /// What its health check said last; null: none yet.
    pub healthy: Option<bool>,
    /// How often it was started again within its window.
    #[serde(default)]
    pub restarts: u32,
    /// It is not started again until its window is over.
    #[serde(default)]
    pub failed: bool,
}

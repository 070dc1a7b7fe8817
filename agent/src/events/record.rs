//! One event, as stored, sent over the socket and printed.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How much an event matters to an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What happened.
    Info,
    /// Something is not as it should be; the service goes on.
    Warning,
    /// Somebody has to act.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// One thing that happened, or was decided, or was decided against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of a pair; 0 before it is stored.
    pub id: u64,
    /// Wall-clock time (RFC 3339), for people only: no decision uses it.
    pub at: String,
    /// CLOCK_BOOTTIME, milliseconds.
    pub boot_ms: u64,
    /// How much it matters.
    pub severity: Severity,
    /// A stable word, for example `promoted` or `alarm.raised`.
    pub kind: String,
    /// One sentence for people, with the evidence.
    pub sentence: String,
    /// The evidence for programs.
    #[serde(default)]
    pub detail: serde_json::Value,
}

impl Event {
    /// An event of now.
    pub fn now(
        severity: Severity,
        kind: &str,
        sentence: impl Into<String>,
        detail: serde_json::Value,
    ) -> Self {
        Self {
            id: 0,
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            boot_ms: crate::clock::boottime_us() / 1000,
            severity,
            kind: kind.to_owned(),
            sentence: sentence.into(),
            detail,
        }
    }
}

/// A condition that lasts until it is cleared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// A stable word, one alarm each, for example `direct-link-down`.
    pub key: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence for people, with the remedy.
    pub sentence: String,
    /// Since when (wall clock, RFC 3339), for people.
    pub since: String,
}

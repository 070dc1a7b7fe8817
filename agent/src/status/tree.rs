//! What a status says of a file tree: as types and JSON, and as lines for people.

use super::Paint;
use super::render::{bytes, duration, line, printable};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What happens with a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeState {
    /// Nothing yet.
    Starting,
    /// Active, no standby attached.
    Alone,
    /// Active: the standby is asked what it holds.
    Comparing,
    /// Active: something is on its way.
    Sending,
    /// Active: the standby has everything.
    Level,
    /// Standby: takes what the active sends.
    Following,
    /// Nothing moves; `fault` says why.
    Stopped,
}

/// One file tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeStatus {
    /// Its name.
    pub name: String,
    /// Its root on this node.
    pub path: String,
    /// What happens with it.
    pub state: TreeState,
    /// Active: the standby once had all of it; what is behind are changes since. Not told by a standby.
    pub in_sync: bool,
    /// Paths that may have changed, or whose change is under way; null: not known on a standby.
    pub behind_files: Option<u64>,
    /// Bytes on their way to the standby's disk.
    pub behind_bytes: u64,
    /// Age of the oldest change that is not on the standby, milliseconds; null: there is none.
    pub behind_ms: Option<u64>,
    /// Bytes of content sent per second, of late.
    pub rate_bytes_per_s: u64,
    /// Until everything known to be behind is sent, at that rate; null: unknown.
    pub remaining_s: Option<u64>,
    /// Entries that the standby has; null: not known on a standby.
    pub entries: Option<u64>,
    /// Files sent since this node serves.
    pub sent_files: u64,
    /// Bytes of their content.
    pub sent_bytes: u64,
    /// Where changes are learnt from; null: nowhere yet.
    pub source: Option<String>,
    /// Why nothing moves, or what cannot be watched, with the remedy.
    pub fault: Option<String>,
    /// Paths that are not on the standby as they should be.
    pub stuck_files: u64,
    /// The oldest of them.
    pub stuck: Vec<StuckStatus>,
}

/// A path that is not on the standby as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckStatus {
    /// Below the root; bytes that are no plain text are escaped.
    pub path: String,
    /// Why, with the remedy.
    pub reason: String,
    /// Since when, seconds.
    pub age_s: u64,
}

/// More stuck paths than this are counted, not printed.
const STUCK_PRINTED: usize = 5;

pub(super) fn render(out: &mut String, tree: &TreeStatus, paint: Paint) {
    let state = match tree.state {
        TreeState::Starting => paint.warn("starting"),
        TreeState::Alone => paint.warn("no standby"),
        TreeState::Comparing => paint.warn("comparing with what the standby has"),
        TreeState::Sending if tree.in_sync => paint.good("in sync, sending"),
        TreeState::Sending => paint.warn("first copy"),
        TreeState::Level => paint.good("in sync"),
        TreeState::Following => paint.good("following"),
        TreeState::Stopped => paint.bad("STOPPED"),
    };
    let entries = tree.entries.map_or_else(String::new, |count| format!("  {count} entries"));
    line(out, "tree", &format!("{}  {state}{}{entries}  {}", tree.name, behind(tree), tree.path));
    if let Some(fault) = &tree.fault {
        line(out, "", &format!("  {}", paint.bad(&printable(fault))));
    }
    for stuck in tree.stuck.iter().take(STUCK_PRINTED) {
        let text = format!("{}: {} (for {})", stuck.path, stuck.reason, duration(stuck.age_s));
        line(out, "", &format!("  {}", paint.bad(&printable(&text))));
    }
    let printed = tree.stuck.len().min(STUCK_PRINTED) as u64;
    if tree.stuck_files > printed {
        let text = format!("and {} more paths are not on the standby", tree.stuck_files - printed);
        line(out, "", &format!("  {}", paint.bad(&text)));
    }
}

fn behind(tree: &TreeStatus) -> String {
    let mut text = String::new();
    let files = tree.behind_files.unwrap_or(0);
    if files > 0 || tree.behind_bytes > 0 {
        let _ = write!(text, "  behind {files} paths, {}", bytes(tree.behind_bytes));
        if let Some(age) = tree.behind_ms {
            let _ = write!(text, ", oldest {age} ms");
        }
        let _ = write!(text, ", {}/s", bytes(tree.rate_bytes_per_s));
        let remaining = tree.remaining_s.map_or_else(|| "unknown".into(), duration);
        let _ = write!(text, ", remaining {remaining}");
    }
    text
}

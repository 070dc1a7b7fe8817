//! The file trees of a pair as the operator sees them: for the status, and as alarms.

use super::pair::Pair;
use crate::control::{DifferingPath, Failure, FailureCode, VerifiedTree};
use crate::events::Severity;
use crate::status::{StuckStatus, TreeState, TreeStatus};
use lockstep_engine::files::ship::{self, Difference, StuckPath, VerifyHow};
use lockstep_engine::pair::{Command, EngineStatus, STUCK_PATIENCE};
use tokio::sync::oneshot;

/// All trees of the configuration, whatever the data path does.
pub(super) fn statuses(pair: &Pair, data: &EngineStatus) -> Vec<TreeStatus> {
    let of = |config: &crate::config::Tree| {
        let found = data.trees.iter().find(|tree| tree.name == config.name).cloned();
        let found = found.unwrap_or_else(|| ship::TreeStatus::new(config.name.clone()));
        status(&config.path(pair.role).display().to_string(), found, data.active)
    };
    pair.config.trees.iter().map(of).collect()
}

fn status(path: &str, tree: ship::TreeStatus, active: bool) -> TreeStatus {
    let (state, stopped) = match tree.state {
        ship::TreeState::Starting => (TreeState::Starting, None),
        ship::TreeState::Alone => (TreeState::Alone, None),
        ship::TreeState::Comparing => (TreeState::Comparing, None),
        ship::TreeState::Sending => (TreeState::Sending, None),
        ship::TreeState::Level => (TreeState::Level, None),
        ship::TreeState::Following => (TreeState::Following, None),
        ship::TreeState::Stopped(why) => (TreeState::Stopped, Some(why)),
    };
    let connected = matches!(state, TreeState::Comparing | TreeState::Sending | TreeState::Level);
    TreeStatus {
        name: tree.name.to_string(),
        path: path.to_owned(),
        state,
        in_sync: active && tree.whole && connected,
        behind_files: active.then_some(tree.pending_paths),
        behind_bytes: tree.pending_bytes,
        behind_ms: tree.oldest.map(|since| since.elapsed().as_millis() as u64),
        rate_bytes_per_s: tree.bytes_per_s,
        remaining_s: tree.remaining_s,
        entries: active.then_some(tree.entries),
        sent_files: tree.files_sent,
        sent_bytes: tree.bytes_sent,
        source: tree.source.map(str::to_owned),
        fault: stopped.or(tree.watch_fault),
        stuck_files: tree.stuck_paths,
        stuck: tree.stuck.iter().map(stuck).collect(),
    }
}

fn stuck(stuck: &StuckPath) -> StuckStatus {
    let (path, reason) = (stuck.path.to_string(), stuck.reason.clone());
    StuckStatus { path, reason, age_s: stuck.since.elapsed().as_secs() }
}

/// Compares a tree with what the standby's disk holds.
pub(super) async fn verify(
    pair: &Pair,
    tree: &crate::config::Tree,
    how: VerifyHow,
) -> Result<VerifiedTree, Failure> {
    let (reply, answer) = oneshot::channel();
    pair.engine.command(Command::VerifyTree { tree: tree.name.clone(), how, reply }).await;
    let verified = match answer.await {
        Ok(Ok(verified)) => verified,
        Ok(Err(sentence)) => return Err(Failure::new(FailureCode::Standby, sentence)),
        Err(_) => return Err(super::handle::stopping()),
    };
    let differing = verified
        .differing
        .iter()
        .map(|(path, what)| DifferingPath { path: path.to_string(), what: word(*what).to_owned() });
    let verified = VerifiedTree {
        tree: tree.name.to_string(),
        entries: verified.entries,
        deep: how.deep,
        drifted_paths: verified.drifted,
        rotten_standby_paths: verified.rotten_there,
        rotten_active_paths: verified.rotten_here,
        repaired_paths: verified.repaired,
        differing: differing.collect(),
    };
    if !verified.is_equal() {
        pair.queue.note(true, "tree.differs", verified.sentence());
    }
    Ok(verified)
}

fn word(what: Difference) -> &'static str {
    match what {
        Difference::Missing => "missing",
        Difference::Extra => "extra",
        Difference::Changed => "changed",
        Difference::RottenThere => "rotten-standby",
        Difference::RottenHere => "rotten-active",
    }
}

/// An alarm that a tree has, or has not, now.
pub(super) struct TreeAlarm {
    pub(super) key: String,
    /// `None`: its cause is gone.
    pub(super) standing: Option<(Severity, String)>,
    /// What is said when it goes.
    pub(super) cleared: String,
}

/// What of a tree needs somebody.
pub(super) fn alarms(tree: &ship::TreeStatus) -> [TreeAlarm; 3] {
    let name = &tree.name;
    let stopped = match &tree.state {
        ship::TreeState::Stopped(why) => Some((Severity::Critical, format!("tree {name}: {why}"))),
        _ => None,
    };
    let stuck = tree.stuck.first().filter(|oldest| oldest.since.elapsed() >= STUCK_PATIENCE);
    let stuck = stuck.map(|StuckPath { path, reason, .. }| {
        let more = match tree.stuck_paths {
            0 | 1 => String::new(),
            count => format!(" (and {} more paths, see `lockstep status`)", count - 1),
        };
        (
            Severity::Critical,
            format!("tree {name}: {path} is not on the standby as it is here: {reason}{more}"),
        )
    });
    let unwatched = tree.watch_fault.clone();
    let unwatched = unwatched.map(|why| (Severity::Warning, format!("tree {name}: {why}")));
    [
        ("stopped", stopped, "goes on"),
        ("stuck", stuck, "has no stuck path any more"),
        ("watch", unwatched, "is watched"),
    ]
    .map(|(word, standing, cleared)| TreeAlarm {
        key: format!("tree-{name}-{word}"),
        standing,
        cleared: format!("tree {name} {cleared}"),
    })
}

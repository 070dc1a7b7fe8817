//! Paths that cannot be sent or kept: nothing is skipped in silence. Pure.

use crate::files::TreePath;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First look after a failure; it doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// A disk that was full is noticed to have room after this at the latest.
const RETRY_LAST: Duration = Duration::from_secs(60);

/// More paths than this are counted, not named.
const NAMED_MAX: usize = 20;

/// A path that is not on the standby as it should be, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckPath {
    /// The path.
    pub path: TreePath,
    /// One sentence.
    pub reason: String,
    /// Since when.
    pub since: Instant,
}

#[derive(Debug)]
struct Held {
    reason: String,
    since: Instant,
    wait: Duration,
}

/// All of a tree.
#[derive(Debug, Default)]
pub(super) struct Stuck(BTreeMap<TreePath, Held>);

impl Stuck {
    /// `path` failed; answers when to look again, and whether that is news.
    pub(super) fn add(&mut self, path: &TreePath, reason: String, now: Instant) -> (Instant, bool) {
        let held = self.0.entry(path.clone());
        let mut new = false;
        let held = held.or_insert_with(|| {
            new = true;
            Held { reason: String::new(), since: now, wait: RETRY_FIRST / 2 }
        });
        held.reason = reason;
        held.wait = (held.wait * 2).min(RETRY_LAST);
        (now + held.wait, new)
    }

    /// `path` is as it should be.
    pub(super) fn clear(&mut self, path: &TreePath) {
        self.0.remove(path);
    }

    /// `path` and all below it are gone.
    pub(super) fn clear_below(&mut self, path: &TreePath) {
        self.0.retain(|held, _| !held.is_in(path));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.values().map(|held| held.since).min()
    }

    /// The oldest of them.
    pub(super) fn named(&self) -> Vec<StuckPath> {
        let one = |(path, held): (&TreePath, &Held)| StuckPath {
            path: path.clone(),
            reason: held.reason.clone(),
            since: held.since,
        };
        let mut all: Vec<_> = self.0.iter().map(one).collect();
        all.sort_by_key(|stuck| stuck.since);
        all.truncate(NAMED_MAX);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_age_and_is_looked_at_less_and_less_often() {
        let (mut stuck, start) = (Stuck::default(), Instant::now());
        let path = TreePath::parse(b"a/b").unwrap();
        assert_eq!(stuck.add(&path, "full".into(), start), (start + RETRY_FIRST, true));
        assert_eq!(stuck.add(&path, "still full".into(), start), (start + RETRY_FIRST * 2, false));
        for _ in 0..20 {
            stuck.add(&path, "still full".into(), start + RETRY_LAST);
        }
        assert_eq!(stuck.add(&path, "x".into(), start).0, start + RETRY_LAST);
        assert_eq!((stuck.oldest(), stuck.named()[0].reason.as_str()), (Some(start), "x"));
        stuck.clear_below(&TreePath::parse(b"a").unwrap());
        assert_eq!(stuck.len(), 0);
    }
}

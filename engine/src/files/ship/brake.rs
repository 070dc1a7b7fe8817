//! When what a look finds is taken for a fault rather than for the application's will. Pure.

use crate::files::TreePath;
use crate::files::index::{Known, ROOT};
use crate::files::plan::Facts;
use std::time::{Duration, Instant};

/// Fewer entries than this are never too many.
const FEW: usize = 1000;

/// The share is of the most entries there were within this time: whoever removes a large tree bit by bit means it.
const WITHIN: Duration = Duration::from_secs(60);

/// How many entries of what is known the facts say are gone.
pub(super) fn vanishing(known: &Known, facts: &Facts) -> usize {
    let mut gone = 0;
    let absent = |path: &TreePath| facts.get(path).is_some_and(|look| look.found.is_none());
    for path in facts.paths().filter(|path| absent(path)) {
        if std::iter::successors(path.parent(), TreePath::parent).any(|above| absent(&above)) {
            continue; // counted with its directory
        }
        let Some(id) = known.find(path).filter(|id| *id != ROOT) else { continue };
        let moved = known.seen(id).is_some_and(|seen| !facts.places(seen.id).is_empty());
        if !moved {
            gone += known.below(id).len();
        }
    }
    gone
}

/// Stops a mass deletion.
#[derive(Debug)]
pub(super) struct Brake {
    percent: u8,
    most: (usize, Instant),
}

impl Brake {
    pub(super) fn new(percent: u8) -> Self {
        Self { percent, most: (0, Instant::now()) }
    }

    /// A sentence when `gone` of `all` entries are too many.
    pub(super) fn refuse(&mut self, gone: usize, all: usize, now: Instant) -> Option<String> {
        if all >= self.most.0 || now.duration_since(self.most.1) > WITHIN {
            self.most = (all, now);
        }
        let limit = self.most.0.saturating_mul(self.percent.into()) / 100;
        let refused = self.percent < 100 && gone > FEW && gone > limit;
        refused.then(|| {
            format!(
                "{gone} of {all} entries vanished at once, more than delete_max_percent = {} allows: nothing is sent. Put them back, or if they are meant to be gone set delete_max_percent = 100 and restart the agent",
                self.percent
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_tree_at_once_is_refused_and_bit_by_bit_it_is_not() {
        let start = Instant::now();
        let mut brake = Brake::new(80);
        assert!(brake.refuse(8_100, 10_000, start).is_some());
        assert!(brake.refuse(7_900, 10_000, start).is_none());
        let mut left = 10_000;
        while left > 0 {
            assert!(brake.refuse(2_000, left, start).is_none(), "{left}");
            left -= 2_000;
        }
        assert!(Brake::new(80).refuse(900, 900, start).is_none(), "a small tree may be emptied");
        assert!(Brake::new(100).refuse(10_000, 10_000, start).is_none());
    }
}

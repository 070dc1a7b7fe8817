//! When nobody answered: gaps between answered probes.
//!
//! Pure: probes of many tasks add the time of each answer; what is reported is the whole time
//! between two answers, so it is never shorter than the outage.

use serde::{Deserialize, Serialize};

/// Two processors with three nodes on them are late by this much without any fault.
const MIN_GAP_NS: u64 = 15_000_000;

/// A client that sees more gaps than this has no service to measure.
const MAX_GAPS: usize = 10_000;

/// No answer between these two, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last answer before.
    pub start_ns: u64,
    /// The first answer after.
    pub end_ns: u64,
}

impl Gap {
    fn ms(self) -> u64 {
        (self.end_ns - self.start_ns).div_ceil(1_000_000)
    }
}

/// Answers of one kind of probe.
#[derive(Debug, Default)]
pub(super) struct Answers {
    last_ns: Option<u64>,
    gaps: Vec<Gap>,
}

impl Answers {
    /// An answer came. Answers may come out of order by a little.
    pub(super) fn add(&mut self, at_ns: u64) {
        let last_ns = *self.last_ns.get_or_insert(at_ns);
        if at_ns <= last_ns {
            return;
        }
        if at_ns - last_ns >= MIN_GAP_NS && self.gaps.len() < MAX_GAPS {
            self.gaps.push(Gap { start_ns: last_ns, end_ns: at_ns });
        }
        self.last_ns = Some(at_ns);
    }

    /// The last answer.
    pub(super) fn last_ns(&self) -> Option<u64> {
        self.last_ns
    }

    /// All gaps; one that lasts until now counts until now.
    pub(super) fn finish(mut self, now_ns: u64) -> Vec<Gap> {
        self.add(now_ns);
        self.gaps
    }
}

/// The longest gap that touches a period, milliseconds rounded up; 0: none above the noise.
pub(super) fn longest_ms(gaps: &[Gap], start_ns: u64, end_ns: u64) -> u64 {
    let touching = gaps.iter().filter(|gap| gap.end_ns > start_ns && gap.start_ns < end_ns);
    touching.map(|gap| gap.ms()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn answers(at_ms: &[u64]) -> Answers {
        let mut answers = Answers::default();
        at_ms.iter().for_each(|at| answers.add(at * MS));
        answers
    }

    #[test]
    fn a_gap_is_the_whole_time_between_two_answers_and_late_answers_do_not_hide_it() {
        let gaps = answers(&[1, 3, 5, 4, 5, 255, 254, 256]).finish(257 * MS);
        assert_eq!(gaps, [Gap { start_ns: 5 * MS, end_ns: 255 * MS }]);
        assert_eq!(longest_ms(&gaps, 100 * MS, 300 * MS), 250);
        assert_eq!(longest_ms(&gaps, 5 * MS, 6 * MS), 250);
        assert_eq!(longest_ms(&gaps, 255 * MS, 300 * MS), 0);
    }

    #[test]
    fn an_outage_that_never_ends_counts_until_the_end() {
        assert_eq!(longest_ms(&answers(&[1, 2]).finish(1002 * MS), 0, u64::MAX), 1000);
    }
}

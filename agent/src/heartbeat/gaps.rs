//! How long the peer was silent between two words, on whatever path: what a quicker profile would have made of it.
//!
//! Counted by the heartbeat thread by kernel receive times, so that a stall of this node counts for nothing. A gap
//! in which the peer's agent began anew says nothing of the network and is left out.

use lockstep_failover::{Profile, Time};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the counts, milliseconds; the last count is of everything longer. Each profile's detection
/// time is one of them.
const BOUNDS_MS: [u64; 15] =
    [25, 50, 75, 100, 150, 200, 300, 400, 600, 1_000, 2_000, 3_000, 6_000, 10_000, 30_000];

/// The counts, since the agent's start.
#[derive(Debug, Default)]
pub struct Gaps {
    session: AtomicU64,
    last_us: AtomicU64,
    began_us: AtomicU64,
    longest_us: AtomicU64,
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
}

/// What was counted, for status and advice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silences {
    /// How long it was counted, seconds.
    pub observed_s: u64,
    /// The longest gap, milliseconds.
    pub longest_ms: u64,
    /// How many gaps were at least as long as a bound and shorter than the next one, from 0 on.
    pub counts: Vec<Count>,
}

/// One count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// At least so long, milliseconds.
    pub from_ms: u64,
    /// So often.
    pub count: u64,
}

impl Gaps {
    /// The peer, in this session of its agent, was heard at `at`.
    pub(super) fn heard(&self, session: u64, at: Time) {
        let last = self.last_us.swap(at.as_us(), Ordering::Relaxed);
        if self.session.swap(session, Ordering::Relaxed) != session {
            let _ = self.began_us.compare_exchange(0, at.as_us(), Ordering::Relaxed, Ordering::Relaxed);
            return;
        }
        let gap_us = at.as_us().saturating_sub(last);
        self.longest_us.fetch_max(gap_us, Ordering::Relaxed);
        let index = BOUNDS_MS.iter().position(|bound| gap_us < bound * 1_000).unwrap_or(BOUNDS_MS.len());
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted until `now`.
    pub fn silences(&self, now: Time) -> Silences {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let began = load(&self.began_us);
        let since = if began == 0 { Duration::ZERO } else { now.since(Time::from_us(began)) };
        let from = std::iter::once(0).chain(BOUNDS_MS);
        let counts = from.zip(&self.counts).map(|(from_ms, count)| Count { from_ms, count: load(count) });
        Silences {
            observed_s: since.as_secs(),
            longest_ms: load(&self.longest_us) / 1_000,
            counts: counts.filter(|count| count.count > 0).collect(),
        }
    }
}

impl Silences {
    /// How often the peer would have been taken for dead after `limit`, one of the bounds.
    fn at_least(&self, limit: Duration) -> u64 {
        let ms = limit.as_millis() as u64;
        self.counts.iter().filter(|count| count.from_ms >= ms).map(|count| count.count).sum()
    }

    /// In one sentence: the longest, and what each profile would have made of it.
    pub fn advice(&self) -> String {
        if self.counts.is_empty() {
            return "none counted yet".to_owned();
        }
        let profiles = Profile::ALL.map(|profile| {
            let limit = profile.timing().dead_after;
            format!("{} ({} ms) {}", profile.name(), limit.as_millis(), self.at_least(limit))
        });
        format!(
            "longest {} ms in {}; silent enough for a takeover at {} times",
            self.longest_ms,
            span(self.observed_s),
            profiles.join(", ")
        )
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_us(ms * 1_000)
    }

    #[test]
    fn each_profile_has_a_bound_at_its_detection_time() {
        for profile in Profile::ALL {
            let ms = profile.timing().dead_after.as_millis() as u64;
            assert!(BOUNDS_MS.contains(&ms), "{}", profile.name());
        }
    }

    #[test]
    fn gaps_are_counted_within_a_session_of_the_peer_and_say_what_a_profile_would_have_done() {
        let gaps = Gaps::default();
        assert_eq!(gaps.silences(at(5)).advice(), "none counted yet");
        for ms in [1_000, 1_030, 1_060, 1_210, 1_240] {
            gaps.heard(7, at(ms));
        }
        gaps.heard(8, at(60_000));
        gaps.heard(8, at(60_620));
        let silences = gaps.silences(at(601_000));
        assert_eq!((silences.observed_s, silences.longest_ms), (600, 620));
        let counted: Vec<(u64, u64)> =
            silences.counts.iter().map(|count| (count.from_ms, count.count)).collect();
        assert_eq!(counted, [(25, 3), (150, 1), (600, 1)]);
        assert_eq!(
            silences.advice(),
            "longest 620 ms in 10 min; silent enough for a takeover at metal (150 ms) 2, default (600 ms) 1, vm (3000 ms) 0, mse (10000 ms) 0 times"
        );
    }
}

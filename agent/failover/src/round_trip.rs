//! The round trip on each path, as far as it endangers the lease: row 18 of the decision table.
//!
//! The lease counts from the send time of what the standby echoes, so a slow path shortens it, and one
//! slower than the lease never renews it. Judged by all answers of two leases together: a single late
//! datagram is no slow path, nor is what waited for a cable that was mended. Nothing is decided by it;
//! an operator is told.

use crate::event::Path;
use crate::profile::Timing;
use crate::time::Time;
use std::time::Duration;

/// What the round trip leaves of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Enough.
    Quick,
    /// Less than the 2.5 periods that two lost heartbeats or the way to the targets need.
    Slow,
    /// Nothing: every echo comes when the lease it would renew has ended.
    BeyondLease,
}

impl Pace {
    fn of(trip: Duration, timing: &Timing) -> Self {
        if trip >= timing.lease {
            Self::BeyondLease
        } else if trip >= timing.round_trip_limit() {
            Self::Slow
        } else {
            Self::Quick
        }
    }
}

/// Whether the answers on one path reach a pace; changes when all of them say otherwise for two leases.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    so: bool,
    otherwise_since: Option<Time>,
}

impl Reached {
    fn on_answer(&mut self, so: bool, at: Time, timing: &Timing) {
        if so == self.so {
            self.otherwise_since = None;
        } else if at >= *self.otherwise_since.get_or_insert(at) + timing.lease * 2 {
            *self = Self { so, otherwise_since: None };
        }
    }
}

/// One path.
#[derive(Debug, Clone, Copy, Default)]
struct Trips {
    slow: Reached,
    beyond: Reached,
    last: Duration,
    heard: Time,
}

impl Trips {
    /// A path that carries nothing is another row's.
    fn is_heard(&self, timing: &Timing, now: Time) -> bool {
        now < self.heard + timing.lease * 2 + timing.dead_after
    }
}

/// The round trips of both paths.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundTrips([Trips; 2]);

impl RoundTrips {
    /// An answer came in at `at`, `trip` after what it echoes was sent.
    pub fn on_answer(&mut self, path: Path, trip: Duration, at: Time, timing: &Timing) {
        let trips = &mut self.0[path as usize];
        if !trips.is_heard(timing, at) {
            *trips = Trips::default();
        }
        let pace = Pace::of(trip, timing);
        trips.slow.on_answer(pace >= Pace::Slow, at, timing);
        trips.beyond.on_answer(pace >= Pace::BeyondLease, at, timing);
        (trips.last, trips.heard) = (trip, trips.heard.max(at));
    }

    /// The slowest path at `now` that is not quick, how slow, and its newest round trip.
    pub fn slowest(&self, timing: &Timing, now: Time) -> Option<(Path, Pace, Duration)> {
        let of = |path: Path| {
            let trips = &self.0[path as usize];
            let pace = if trips.beyond.so { Pace::BeyondLease } else { Pace::Slow };
            let is_slow = trips.is_heard(timing, now) && (trips.slow.so || trips.beyond.so);
            is_slow.then_some((path, pace, trips.last))
        };
        // Of two alike the direct link, which is preferred: the last of the highest is taken.
        Path::ALL.into_iter().rev().filter_map(of).max_by_key(|(_, pace, _)| *pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn after(trips: impl IntoIterator<Item = u64>) -> Option<Pace> {
        let timing = Profile::Default.timing();
        let mut round_trips = RoundTrips::default();
        let mut now = Time::from_us(1_000_000);
        for trip in trips {
            now = now + ms(100);
            round_trips.on_answer(Path::Lan, ms(trip), now, &timing);
        }
        assert_eq!(round_trips.slowest(&timing, now + ms(60_000)), None, "a silent path is not judged");
        round_trips.slowest(&timing, now).map(|(_, pace, _)| pace)
    }

    #[test]
    fn a_path_is_slow_when_every_answer_of_two_leases_was_and_quick_again_when_none_was() {
        assert_eq!(after([1; 30]), None);
        assert_eq!(after([99; 30]), None, "600 ms - 2.5 x 200 ms are left for it");
        assert_eq!(after([100; 13]), Some(Pace::Slow));
        assert_eq!(after([100; 12]), None, "not yet");
        assert_eq!(after([599; 30]), Some(Pace::Slow));
        assert_eq!(after([600; 13]), Some(Pace::BeyondLease));
        assert_eq!(after([&[700; 12][..], &[1], &[700; 12]].concat()), None, "one echo renews the lease");
        assert_eq!(after([&[700; 13][..], &[1; 12]].concat()), Some(Pace::BeyondLease));
        assert_eq!(after([&[700; 13][..], &[1; 13]].concat()), None);
        assert_eq!(after([&[700; 13][..], &[300; 13]].concat()), Some(Pace::Slow));
    }

    #[test]
    fn what_waited_for_a_mended_cable_and_comes_at_once_is_no_slow_path() {
        let timing = Profile::Default.timing();
        let mut round_trips = RoundTrips::default();
        let mended = Time::from_us(9_000_000);
        for trip in 0..30 {
            round_trips.on_answer(Path::Lan, ms(3_000 - trip * 100), mended, &timing);
            assert_eq!(round_trips.slowest(&timing, mended), None);
        }
    }
}

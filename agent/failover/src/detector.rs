//! Is the peer silent? The standby's clock-side of a takeover.
//!
//! Counts by kernel receive times, after the socket was drained (the heartbeat thread reports in
//! order), and extends its deadline by its own stalls: a late watcher must not convict. A peer
//! whose keys do not exist yet is unknown, never dead.

use crate::event::Path;
use crate::profile::{Timing, stretched};
use crate::time::Time;
use std::time::Duration;

/// What was heard of the peer, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Detector {
    heard: [Option<Time>; 2],
    announced: Option<Time>,
    since: Time,
    keys: bool,
    lease: Duration,
    period: Duration,
    stall: Duration,
}

impl Detector {
    /// Begins to listen at `now`.
    pub fn new(timing: &Timing, now: Time) -> Self {
        Self {
            heard: [None; 2],
            announced: None,
            since: now,
            keys: false,
            lease: timing.lease,
            period: timing.period,
            stall: Duration::ZERO,
        }
    }

    /// A heartbeat or echo of the peer, with what it announces.
    pub fn on_heard(&mut self, path: Path, at: Time, lease: Duration, period: Duration) {
        let slot = &mut self.heard[path as usize];
        *slot = (*slot).max(Some(at));
        self.lease = self.lease.max(lease);
        self.period = self.period.max(period);
        self.stall = Duration::ZERO;
    }

    /// The peer announced an R2 renewal by ARP: counts like a heartbeat in the wait.
    pub fn on_announced(&mut self, at: Time) {
        self.announced = self.announced.max(Some(at));
    }

    /// The heartbeat thread itself did not run for `lasted`.
    pub fn on_stalled(&mut self, lasted: Duration) {
        self.stall += lasted;
    }

    /// Heartbeat keys exist now, or do not yet. Begins to listen anew when they first do.
    pub fn on_keys(&mut self, known: bool, now: Time) {
        if known && !self.keys {
            self.since = self.since.max(now);
        }
        // The last key stays when the connection drops: once known, the peer is judged.
        self.keys |= known;
    }

    /// Can the peer be judged at all?
    pub fn knows_peer(&self) -> bool {
        self.keys
    }

    /// When the peer was last heard on `path`.
    pub fn heard_on(&self, path: Path) -> Option<Time> {
        self.heard[path as usize]
    }

    /// When the peer was last heard on any path.
    pub fn last_heard(&self) -> Option<Time> {
        self.heard[0].max(self.heard[1])
    }

    /// Is the peer heard on `path` at `now`?
    pub fn is_alive_on(&self, path: Path, timing: &Timing, now: Time) -> bool {
        self.heard_on(path).is_some_and(|at| now < at + timing.dead_after.max(self.period * 3) + self.stall)
    }

    /// Is the peer heard on any path at `now`?
    pub fn is_alive(&self, timing: &Timing, now: Time) -> bool {
        Path::ALL.into_iter().any(|path| self.is_alive_on(path, timing, now))
    }

    /// When the wait is over: r + longest announced lease x (1 + 2 rho) + margin + hold-off, and
    /// not before the detection time. r is the newest sign of life of any kind.
    pub fn wait_over_at(&self, timing: &Timing) -> Time {
        let heard = self.last_heard().unwrap_or(self.since).max(self.since);
        let newest = heard.max(self.announced.unwrap_or(heard));
        let wait = (stretched(self.lease) + timing.margin).max(timing.dead_after);
        newest + wait + timing.hold_off + self.stall
    }

    /// The longest lease the peer announced (at least our own).
    pub fn longest_lease(&self) -> Duration {
        self.lease
    }
}

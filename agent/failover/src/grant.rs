//! The grant: the active's word "you are in sync; you may promote within V".
//!
//! It is dated by the send time of the standby's own heartbeat that the message echoes, in its
//! present session, never by receipt: a delayed message would outlive the margin. The standby's
//! half is [`ReceivedGrant`]; the active's half, [`SentGrant`], is when it may acknowledge alone.

use crate::profile::Timing;
use crate::time::Time;
use lockstep_wire::{Epoch, Heartbeat, SessionId};
use std::time::Duration;

/// What the standby holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ReceivedGrant {
    until: Option<Time>,
}

impl ReceivedGrant {
    /// Takes what a heartbeat of the active grants. Returns true when it carried a grant for us:
    /// of our epoch, for our present session.
    pub fn on_heartbeat(&mut self, heartbeat: &Heartbeat, session: SessionId, epoch: Epoch) -> bool {
        let same_epoch = heartbeat.epoch() == epoch;
        if same_epoch && heartbeat.solo {
            self.until = None;
        }
        let for_us = heartbeat.echo_session == session.0 && session.0 != 0 && heartbeat.echo_sent_us != 0;
        if !(same_epoch && for_us && !heartbeat.solo && heartbeat.grant_us > 0) {
            return false;
        }
        let sent = Time::from_us(heartbeat.echo_sent_us);
        let until = sent + Duration::from_micros(u64::from(heartbeat.grant_us));
        self.until = self.until.max(Some(until));
        true
    }

    /// The grant is void: another epoch, or we told the peer that we are outdated.
    pub fn void(&mut self) {
        self.until = None;
    }

    /// May we promote by ourselves at `now`?
    pub fn is_valid(&self, now: Time) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What is left of it.
    pub fn remaining(&self, now: Time) -> Option<Duration> {
        self.until.filter(|until| now < *until).map(|until| until.since(now))
    }
}

/// The active's view: the last grant it may have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SentGrant {
    last_sent: Time,
}

impl SentGrant {
    /// After a restart nothing is known: as if one had been sent just now.
    pub fn after_restart(now: Time) -> Self {
        Self { last_sent: now }
    }

    /// The heartbeat thread last sent a grant at `at`.
    pub fn sent(&mut self, at: Time) {
        self.last_sent = self.last_sent.max(at);
    }

    /// When that was.
    pub fn last_sent(&self) -> Time {
        self.last_sent
    }

    /// From when on no promotion can rest on it: last sent + V (1 + 2 rho) + margin.
    pub fn over_at(&self, timing: &Timing) -> Time {
        self.last_sent + timing.grant_wait()
    }
}

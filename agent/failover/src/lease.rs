//! The VIP lease: the right to answer for the VIP until an absolute moment, renewed only by evidence.
//!
//! R1: the peer echoed a heartbeat of ours at our epoch: its send time + lease.
//! R2: alone, a majority of the targets answered a probe sent after the peer's last message, and
//! nothing forbids it: the probe's send time + lease. R2 only extends an open lease.
//! Lives in the heartbeat thread; the machine only permits. A withdrawn permit ends the renewals and
//! nothing else: the release ends the VIP's connections while the element still lives.

use crate::profile::{PERMIT_AGE, Timing};
use crate::time::Time;
use lockstep_wire::{Epoch, Heartbeat, Intent, SessionId};
use std::time::Duration;

/// The machine's permission to hold the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permit {
    /// Only under this epoch.
    pub epoch: Epoch,
    /// Names one opening: a lease that lapsed does not open again under the same number.
    pub opening: u64,
    /// It may open by R2's evidence too (cold-start row "serve", or promoted); in sync only by R1.
    pub alone: bool,
    /// R2 may extend it at all: without a witness always, with one only after it was won.
    pub targets: bool,
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lapse {
    /// Neither rule had new evidence.
    NoEvidence,
    /// The permit was older than 5 s: the state machine was stuck.
    PermitOld,
    /// The guard refused to renew (somebody flushed the ruleset).
    GuardGone,
}

/// The lease of one node.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Lease {
    length: Duration,
    silence: Duration,
    permit: Option<(Permit, Time)>,
    open: bool,
    lapsed_opening: u64,
    end: Time,
    echoed: Option<Time>,
    probe: Option<Time>,
    renewed_by_probe: bool,
    heard: Option<Time>,
    /// Counter of the newest epoch the peer is known to intend; 0: none.
    intent_seen: u64,
    higher_seen: bool,
    foreign_until: Time,
    peer_outdated: bool,
    solo: bool,
    last_grant_sent: Option<Time>,
}

impl Lease {
    /// No lease, no permit.
    pub fn new(timing: &Timing) -> Self {
        Self {
            length: timing.lease,
            silence: timing.silence(),
            permit: None,
            open: false,
            lapsed_opening: 0,
            end: Time::default(),
            echoed: None,
            probe: None,
            renewed_by_probe: false,
            heard: None,
            intent_seen: 0,
            higher_seen: false,
            foreign_until: Time::default(),
            peer_outdated: false,
            solo: false,
            last_grant_sent: None,
        }
    }

    /// The machine permits, refreshes (`at`) or withdraws. Another epoch or opening starts from no evidence.
    pub fn on_permit(&mut self, permit: Option<Permit>, solo: bool, at: Time) {
        let before = self.permit.map(|(permit, _)| permit);
        if permit.map(|p| (p.epoch, p.opening)) != before.map(|p| (p.epoch, p.opening)) {
            self.echoed = None;
            self.probe = None;
            self.higher_seen = false;
            self.foreign_until = Time::default();
            self.end = Time::default();
            self.open = false;
        }
        self.solo = solo;
        self.permit = permit.map(|permit| (permit, at));
    }

    /// A heartbeat of ours was sent, with or without a grant.
    pub fn on_sent(&mut self, at: Time, with_grant: bool) {
        if with_grant {
            self.last_grant_sent = Some(at);
            // The word "outdated" must be newer than the last grant.
            self.peer_outdated = false;
        }
    }

    /// A heartbeat of the peer. `is_newest`: no newer one of its session came before, so that
    /// what it *says* counts; that it was heard counts always.
    pub fn on_received(&mut self, heartbeat: &Heartbeat, session: SessionId, at: Time, is_newest: bool) {
        self.heard = self.heard.max(Some(at));
        let peer_epoch = heartbeat.epoch();
        let Some((permit, _)) = self.permit else {
            self.note_words(heartbeat, session, Epoch::NONE, is_newest);
            return;
        };
        self.note_words(heartbeat, session, permit.epoch, is_newest);
        if peer_epoch > permit.epoch {
            self.higher_seen = true;
        }
        let echoes_us = heartbeat.echo_session == session.0 && session.0 != 0 && heartbeat.echo_sent_us != 0;
        if echoes_us && peer_epoch == permit.epoch && heartbeat.intent != Intent::Promote as i32 {
            self.echoed = self.echoed.max(Some(Time::from_us(heartbeat.echo_sent_us)));
        }
    }

    fn note_words(&mut self, heartbeat: &Heartbeat, session: SessionId, epoch: Epoch, is_newest: bool) {
        if heartbeat.intent == Intent::Promote as i32 && heartbeat.intent_counter > epoch.counter {
            // A late intent bars as well: only a newer word takes it back.
            self.intent_seen = self.intent_seen.max(heartbeat.intent_counter);
        } else if is_newest {
            self.intent_seen = 0;
        }
        if !is_newest {
            return;
        }
        let after_grant = heartbeat.echo_session == session.0
            && self.last_grant_sent.is_none_or(|sent| heartbeat.echo_sent_us > sent.as_us());
        if heartbeat.outdated && after_grant {
            self.peer_outdated = true;
        } else if !heartbeat.outdated {
            self.peer_outdated = false;
        }
    }

    /// A foreign MAC spoke for the VIP at `at`. It bars R2 for two leases: one that rests on R2 alone
    /// is over before that, so what opens the bar again is the peer's echo meanwhile.
    pub fn on_foreign_arp(&mut self, at: Time) {
        self.foreign_until = self.foreign_until.max(at + self.length * 2);
    }

    /// A majority of the targets answered the probe sent at `sent_at`.
    pub fn on_majority_probe(&mut self, sent_at: Time) {
        self.probe = self.probe.max(Some(sent_at));
    }

    /// R1's end, if there is evidence.
    fn pair_end(&self) -> Option<Time> {
        self.echoed.filter(|_| !self.higher_seen).map(|sent| sent + self.length)
    }

    /// R2's end at `now`, if there is evidence and nothing forbids it.
    fn alone_end(&self, now: Time) -> Option<Time> {
        let (permit, _) = self.permit?;
        // An epoch of our own that is as high was claimed afterwards, on the operator's word that the peer is off.
        let intended = self.intent_seen > permit.epoch.counter;
        let barred = !permit.targets || intended || self.higher_seen || now < self.foreign_until;
        let quiet = self.heard.is_none_or(|heard| now >= heard + self.silence);
        let outdated = self.solo && self.peer_outdated;
        let after = |probe: &Time| self.heard.is_none_or(|heard| *probe > heard);
        self.probe.filter(|_| !barred && (quiet || outdated)).filter(after).map(|probe| probe + self.length)
    }

    /// When it must next be judged although nothing happens: at its end, and at the moment from which
    /// R2 may renew it. Without the second, a probe answered in time would be looked at too late.
    pub fn judge_at(&self, now: Time) -> Option<Time> {
        let quiet_at = self.heard.map(|heard| heard + self.silence).filter(|at| now < *at);
        self.lease_end().map(|end| quiet_at.map_or(end, |at| at.min(end)))
    }

    /// Judges at `now`, after everything received was handed in: opens, extends or lapses.
    pub fn judge(&mut self, now: Time) -> Judgement {
        let Some((permit, at)) = self.permit else {
            return Judgement::Shut;
        };
        if now >= at + PERMIT_AGE {
            return self.close(Lapse::PermitOld);
        }
        // Past its end it has lapsed, whatever came since.
        if self.open && now >= self.end {
            return self.close(Lapse::NoEvidence);
        }
        if !self.open && self.lapsed_opening >= permit.opening {
            return Judgement::Shut;
        }
        let pair = self.pair_end();
        let alone = if self.open || permit.alone { self.alone_end(now) } else { None };
        let end = pair.max(alone).filter(|end| now < *end);
        match (self.open, end) {
            (true, end) => {
                self.renewed_by_probe = alone > pair && alone > Some(self.end);
                self.end = self.end.max(end.unwrap_or_default());
                Judgement::Open
            }
            (false, Some(end)) => {
                self.open = true;
                self.end = end;
                Judgement::Opened
            }
            (false, None) => Judgement::Shut,
        }
    }

    /// Ends at once, for `why`.
    pub fn close(&mut self, why: Lapse) -> Judgement {
        if !self.open {
            return Judgement::Shut;
        }
        self.open = false;
        if let Some((permit, _)) = self.permit {
            self.lapsed_opening = permit.opening;
        }
        Judgement::Lapsed(why)
    }

    /// When it ends; `None` when it is not open.
    pub fn lease_end(&self) -> Option<Time> {
        self.open.then_some(self.end)
    }

    /// What is left of it at `now`.
    pub fn remaining(&self, now: Time) -> Option<Duration> {
        self.lease_end().filter(|end| now < *end).map(|end| end.since(now))
    }

    /// The last time anything of the peer was heard.
    pub fn heard(&self) -> Option<Time> {
        self.heard
    }

    /// When a grant was last sent.
    pub fn last_grant_sent(&self) -> Option<Time> {
        self.last_grant_sent
    }

    /// The present lease rests on R2 (its renewals are announced by ARP).
    pub fn is_alone(&self) -> bool {
        self.renewed_by_probe
    }
}

/// What [`Lease::judge`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Not open.
    Shut,
    /// It opened now: install the element.
    Opened,
    /// It is open: renew the element to [`Lease::lease_end`].
    Open,
    /// It ended now: delete the element.
    Lapsed(Lapse),
}

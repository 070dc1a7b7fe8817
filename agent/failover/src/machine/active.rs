//! Serving: granting while in sync, going solo by rule, back in sync by rule, giving way.
//!
//! Solo is durable before the first commit is acknowledged alone, and cleared durably before the
//! first grant. Between the two stands the end of the last grant, or the standby's durable word
//! that it is outdated; and the operator's delay, `solo_after`, during which commits wait.

use super::release::Releasing;
use super::{Machine, Phase};
use crate::action::{Action, Engine, Severity};
use crate::event::Event;
use crate::profile::SOLO_PATIENCE;
use crate::solo::Question;
use crate::state::PairState;
use crate::table::{Peer, Who};
use crate::time::Time;
use lockstep_wire::Intent;

/// A foreign MAC answers for the VIP.
const FOREIGN_ROW: &str = "13a";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(super) struct Active {
    standing: Standing,
    /// What the durable claim to commits alone means for the standby.
    app_restart: bool,
    /// Since when both paths carry heartbeats without a gap.
    both_since: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Hash)]
enum Standing {
    /// Started in sync, the standby has not connected yet; nothing granted in this life.
    Waiting { since: Time },
    /// The standby holds every acknowledged commit: granting.
    InSync { since: Time },
    /// No more grants; commits wait until the last grant and the operator's delay are over.
    Leaving { since: Time },
    /// The mark of solo is durable; commits wait until the operator's delay is over.
    Held { since: Time },
    /// Acknowledging alone.
    Solo,
    /// Alone no more; waiting until the standby holds everything.
    Catching { durable: bool },
}

impl Active {
    pub(super) fn new(state: &PairState, now: Time) -> Self {
        let standing =
            if state.solo { Standing::Held { since: now } } else { Standing::Waiting { since: now } };
        Self { standing, app_restart: false, both_since: None }
    }

    pub(super) fn is_in_sync(&self) -> bool {
        matches!(self.standing, Standing::InSync { .. })
    }

    /// Since when the standby has been in sync and heard on both paths.
    pub(super) fn stable_since(&self) -> Option<Time> {
        match self.standing {
            Standing::InSync { since } => self.both_since.map(|both| both.max(since)),
            _ => None,
        }
    }

    pub(super) fn is_solo(&self) -> bool {
        self.standing == Standing::Solo
    }

    pub(super) fn waits_for_standby(&self) -> bool {
        !matches!(self.standing, Standing::InSync { .. } | Standing::Solo)
    }

    /// Since when it has been on the way to solo without the mark.
    pub(super) fn leaving_since(&self) -> Option<Time> {
        match self.standing {
            Standing::Leaving { since } => Some(since),
            _ => None,
        }
    }

    pub(super) fn note(&mut self, event: &Event) {
        match (&mut self.standing, event) {
            (Standing::Catching { durable }, Event::StandbyDurable) => *durable = true,
            (_, Event::AppStopped) => self.app_restart = true,
            _ => {}
        }
    }
}

impl From<Active> for Phase {
    fn from(active: Active) -> Self {
        Self::Active(active)
    }
}

impl Machine {
    pub(super) fn advance_active(&mut self, mut active: Active) -> bool {
        if let Some(epoch) = self.higher_epoch() {
            self.log("demote", Severity::Critical, format!("the peer has epoch {epoch}: giving way at once"));
            return self.clear();
        }
        if !self.evidence.lease_open {
            self.log(
                "lapsed",
                Severity::Critical,
                "without a lease nothing is served: the application and the address go",
            );
            return self.clear();
        }
        if active.app_restart {
            active.app_restart = false;
            self.act(Action::StartApp);
            return self.go(active);
        }
        let both = self.evidence.peer(&self.config.timing, self.now) == Peer::Both;
        active.both_since = active.both_since.filter(|_| both).or(both.then_some(self.now));
        self.phase = active.into();
        let row = self.row(Who::Active);
        let was_foreign = self.row == FOREIGN_ROW;
        self.log_row(row);
        if was_foreign != (self.row == FOREIGN_ROW) {
            // Who had asked meanwhile may have believed the other: also after it is healed.
            self.act(Action::Announce);
        }
        if self.hands_over(row) {
            return self.go(Releasing::new(self.now));
        }
        if self.is_switchover_wanted(&active) {
            self.log("switchover", Severity::Info, "the operator asks for a switchover on the standby");
            return self.go(Releasing::new(self.now));
        }
        self.advance_standing(active)
    }

    fn advance_standing(&mut self, active: Active) -> bool {
        let with = |standing| Active { standing, ..active };
        let connected = self.evidence.engine_in_sync;
        match active.standing {
            Standing::Waiting { .. } | Standing::Leaving { .. } if connected && !self.peer_is_gone() => {
                self.log("in-sync", Severity::Info, "the standby holds every acknowledged commit: granting");
                self.go(with(Standing::InSync { since: self.now }))
            }
            Standing::Waiting { since } if self.must_leave(since) => self.leave(active),
            Standing::InSync { .. } if !connected && self.must_leave(self.evidence.in_sync_changed) => {
                self.leave(active)
            }
            Standing::InSync { .. } if self.peer_is_gone() => self.leave(active),
            Standing::Leaving { since } => self.leave_when_over(since),
            Standing::Solo | Standing::Held { .. } if !self.state.solo => {
                unreachable!("solo standing rests on the durable mark")
            }
            Standing::Solo | Standing::Held { .. } if connected && !self.peer_is_gone() => {
                self.log(
                    "catching",
                    Severity::Info,
                    "the standby has caught up: no commit is acknowledged alone any more",
                );
                self.act(Action::Engine(Engine::HoldCommits));
                self.go(with(Standing::Catching { durable: false }))
            }
            Standing::Catching { durable: true } => {
                self.clear_solo(with(Standing::InSync { since: self.now }))
            }
            Standing::Catching { .. } if !connected => self.go(with(Standing::Held { since: self.now })),
            Standing::Held { since } if self.config.solo_after.is_over(since, self.now) => {
                self.act(Action::Engine(Engine::AllowSolo { epoch: self.state.epoch }));
                self.go(with(Standing::Solo))
            }
            _ => false,
        }
    }

    fn peer_is_gone(&self) -> bool {
        self.evidence.peer(&self.config.timing, self.now) == Peer::Nothing
    }

    fn must_leave(&self, since: Time) -> bool {
        self.peer_is_gone() || self.now >= since + SOLO_PATIENCE.max(self.config.timing.dead_after)
    }

    fn leave(&mut self, active: Active) -> bool {
        let sentence = format!(
            "the standby does not follow: no more grants, commits wait until the last one and `solo_after` are over ({})",
            self.evidence.sentence(&self.config.timing, self.now)
        );
        self.log("leaving", Severity::Warning, sentence);
        self.go(Active { standing: Standing::Leaving { since: self.now }, ..active })
    }

    /// Solo once no promotion can rest on a grant: its end has passed, or the standby durably
    /// says, in answer to a heartbeat sent after the last grant, that it is outdated.
    fn leave_when_over(&mut self, since: Time) -> bool {
        let is_said = self.voice.is_some_and(|voice| voice.grant.is_none() && voice.solo);
        let question = Question {
            is_said: self.voice_is_set() && is_said,
            grant_over: self.no_takeover_rests_on_a_grant(),
            outdated: self.is_outdated_confirmed(),
            waited: self.config.solo_after.is_over(since, self.now),
        };
        if !question.may_go_solo() {
            return false;
        }
        let why = if question.outdated {
            "the standby durably marked itself outdated"
        } else {
            "the last grant is over"
        };
        self.log("solo", Severity::Warning, format!("{why}: commits are acknowledged alone from now on"));
        let mut state = self.state.clone();
        state.solo = true;
        self.act(Action::Engine(Engine::AllowSolo { epoch: state.epoch }));
        if let Phase::Active(active) = &mut self.phase {
            active.standing = Standing::Solo;
        }
        self.persist(state)
    }

    /// With a witness the end of the grant alone is not enough: the standby may have won under it.
    fn no_takeover_rests_on_a_grant(&self) -> bool {
        let over = self.now >= self.sent_grant.over_at(&self.config.timing);
        if self.config.witness { self.has_won(self.state.epoch) || (over && self.state.forced) } else { over }
    }

    fn is_outdated_confirmed(&self) -> bool {
        let Some(word) = self.evidence.word.map(|word| word.heartbeat) else { return false };
        word.outdated
            && word.epoch() == self.state.epoch
            && word.echo_session == self.config.session.0
            && word.echo_sent_us > self.sent_grant.last_sent().as_us()
    }

    fn clear_solo(&mut self, active: Active) -> bool {
        self.log(
            "in-sync",
            Severity::Info,
            "everything acknowledged is durable on the standby: solo ends, granting begins",
        );
        let mut state = self.state.clone();
        state.solo = false;
        state.forced = false;
        self.phase = Phase::Active(active);
        self.persist(state)
    }

    fn is_switchover_wanted(&self, active: &Active) -> bool {
        active.is_in_sync()
            && self.evidence.engine_in_sync
            && !self.observe
            && self.newest_intent() == Intent::SwitchoverWanted
            && self.evidence.word.is_some_and(|word| word.heartbeat.epoch() == self.state.epoch)
            && self.evidence.peer_hears_us(&self.config.timing, self.now)
    }

    /// Alone, or solo beside an outdated standby: each answered majority extends the lease (R2).
    pub(super) fn renew_alone(&mut self, probe_sent_at: Time) {
        let may = match &self.phase {
            Phase::Active(_) => true,
            Phase::Opening(opening) => opening.wants_lease(),
            Phase::Releasing(releasing) => releasing.keeps_lease(),
            _ => false,
        };
        let heard = self.evidence.detector.last_heard();
        let quiet = heard.is_none_or(|heard| self.now >= heard + self.config.timing.period * 3 / 2);
        let outdated = self.state.solo && self.evidence.word.is_some_and(|word| word.heartbeat.outdated);
        if may && self.may_lean() && (quiet || outdated) {
            self.act(Action::RenewAlone { probe_sent_at });
        }
    }
}

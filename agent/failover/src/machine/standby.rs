//! Following: judging the active's silence, marking ourselves outdated when told, and claiming
//! after a release.

use super::promote::Promoting;
use super::{Machine, Phase};
use crate::action::{Action, Engine, Severity, Voice};
use crate::state::PairState;
use crate::table::{Verdict, Who};
use crate::time::Time;
use lockstep_wire::Intent;
use std::time::Duration;

/// A wish to switch over is repeated in heartbeats this long.
const WISH: Duration = Duration::from_secs(10);
/// A VIP probe's answer counts this long outside an attempt; then it is asked again.
const PROBE_AGE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(super) struct Standby {
    /// The operator asked here for a switchover.
    wish_until: Option<Time>,
}

impl Standby {
    pub(super) fn new() -> Self {
        Self { wish_until: None }
    }

    pub(super) fn wishing(now: Time) -> Self {
        Self { wish_until: Some(now + WISH) }
    }

    pub(super) fn speak(&self, state: &PairState, voice: &mut Voice) {
        if state.refused == Some(state.epoch) {
            voice.intent = Intent::Refused;
            voice.intent_counter = state.epoch.counter;
        } else if self.wish_until.is_some() {
            voice.intent = Intent::SwitchoverWanted;
            voice.intent_counter = state.epoch.counter;
        }
    }
}

impl From<Standby> for Phase {
    fn from(standby: Standby) -> Self {
        Self::Standby(standby)
    }
}

impl Machine {
    pub(super) fn advance_standby(&mut self, standby: Standby) -> bool {
        if let Some(epoch) = self.higher_epoch() {
            self.log("follow", Severity::Info, format!("the peer has epoch {epoch}: accepting it"));
            self.evidence.vip = None;
            self.act(Action::Engine(Engine::BecomeStandby { epoch }));
            let state = self.followed(epoch);
            return self.persist(state);
        }
        if let Some(state) = self.told() {
            return self.persist(state);
        }
        if standby.wish_until.is_some_and(|until| self.now >= until) {
            return self.go(Standby::new());
        }
        if self.is_released_to_us() {
            return self.answer_release();
        }
        if self.evidence.vip.is_some_and(|(at, _)| self.now >= at + PROBE_AGE) {
            self.evidence.vip = None;
        }
        self.judge_silence()
    }

    /// What the active's newest word makes us remember.
    fn told(&mut self) -> Option<PairState> {
        let word = self.evidence.word?.heartbeat;
        let mut state = self.state.clone();
        if word.epoch() == state.epoch {
            let ours = word.echo_session == self.config.session.0 && word.echo_sent_us != 0;
            if word.solo {
                state.outdated = true;
            } else if word.grant_us > 0 && ours {
                state.outdated = false;
            }
            if state.refused == Some(state.epoch) && self.newest_intent() != Intent::Released && word.active {
                state.refused = None;
            }
        }
        if state == self.state {
            return None;
        }
        if state.outdated != self.state.outdated {
            let sentence = if state.outdated {
                "the active acknowledges alone: this node is outdated until it is in sync again"
            } else {
                "the active says that this node is in sync: no longer outdated"
            };
            self.log("outdated", Severity::Info, sentence);
        }
        Some(state)
    }

    /// A release counts only if it echoes a heartbeat of our present session.
    fn is_released_to_us(&self) -> bool {
        let Some(word) = self.evidence.word.map(|word| word.heartbeat) else { return false };
        self.newest_intent() == Intent::Released
            && word.epoch() == self.state.epoch
            && word.echo_session == self.config.session.0
            && word.echo_sent_us != 0
            && self.state.refused != Some(self.state.epoch)
            && self.evidence.detector.is_alive(&self.config.timing, self.now)
    }

    fn answer_release(&mut self) -> bool {
        if self.state.outdated || self.observe {
            self.log(
                "refuse",
                Severity::Warning,
                "the active released the VIP to a node that may not claim it: refusing durably",
            );
            let mut state = self.state.clone();
            state.refused = Some(state.epoch);
            return self.persist(state);
        }
        self.log("claim", Severity::Info, "the active released the VIP: claiming it");
        self.go(Promoting::claiming())
    }

    fn judge_silence(&mut self) -> bool {
        let row = self.row(Who::Standby);
        self.log_row(row);
        match row.verdict {
            Verdict::Probe if !self.hands_off() => self.go(Promoting::by_itself()),
            Verdict::Probe => {
                self.ask(self.hands_off_question());
                false
            }
            _ => {
                self.ask_or_withdraw(row);
                false
            }
        }
    }
}

//! Giving the VIP away on purpose (switchover): stop, drain, withdraw, end, delete, tell.
//!
//! Until the permit is withdrawn everything can be called off. Afterwards the peer claims without
//! probes, and the VIP is taken back only after its durable refusal sent after the release;
//! silence is a question to the operator.

use super::cold_start::Cold;
use super::opening::Opening;
use super::{Machine, Phase, RETRY};
use crate::action::{Action, Engine, Severity, Voice};
use crate::event::Event;
use crate::state::PairState;
use crate::table::Peer;
use crate::time::Time;
use lockstep_wire::Intent;

/// See the module.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct Releasing {
    stage: Stage,
    since: Time,
    asked_at: Option<Time>,
    stopped: bool,
    drained: bool,
    sockets: bool,
    element: bool,
    gone: bool,
    failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// The application stops.
    Stopping,
    /// The standby receives the rest.
    Draining,
    /// The heartbeat thread gives up the lease.
    Withdrawing,
    /// The VIP's connections end while it is still leased.
    Sockets,
    /// The guard shuts.
    Element,
    /// The address goes.
    Address,
    /// The release goes to disk.
    Recording,
    /// The peer is told, and claims.
    Told { at: Time },
}

impl Releasing {
    pub(super) fn new(now: Time) -> Self {
        Self {
            stage: Stage::Stopping,
            since: now,
            asked_at: None,
            stopped: false,
            drained: false,
            sockets: false,
            element: false,
            gone: false,
            failed: false,
        }
    }

    pub(super) fn keeps_lease(&self) -> bool {
        matches!(self.stage, Stage::Stopping | Stage::Draining)
    }

    /// The peer was told; only it or the operator moves on.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.stage, Stage::Told { .. })
    }

    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::AppStopped => self.stopped = true,
            Event::Drained => self.drained = true,
            Event::VipSocketsEnded => self.sockets = true,
            Event::LeaseElementDeleted => self.element = true,
            Event::VipGone => self.gone = true,
            Event::EngineFailed(_) => self.failed = true,
            _ => {}
        }
    }

    pub(super) fn speak(&self, state: &PairState, voice: &mut Voice) {
        voice.active = self.keeps_lease();
        if matches!(self.stage, Stage::Told { .. }) {
            voice.intent = Intent::Released;
            voice.intent_counter = state.epoch.counter;
        }
    }
}

impl From<Releasing> for Phase {
    fn from(releasing: Releasing) -> Self {
        Self::Releasing(releasing)
    }
}

impl Machine {
    pub(super) fn advance_releasing(&mut self, releasing: Releasing) -> bool {
        if let Some(epoch) = self.higher_epoch() {
            return self.released_or_demoted(&releasing, epoch);
        }
        if releasing.keeps_lease() {
            if !self.evidence.lease_open {
                return self.clear();
            }
            if let Some(why) = self.calls_off(&releasing) {
                self.log("switchover", Severity::Warning, format!("the switchover is called off: {why}"));
                return self.go(Opening::resumed());
            }
        }
        let done = match releasing.stage {
            Stage::Stopping => releasing.stopped || !self.config.application,
            Stage::Draining => releasing.drained,
            Stage::Withdrawing => {
                self.voice_is_set() && self.voice.is_some_and(|voice| voice.permit.is_none())
            }
            Stage::Sockets => releasing.sockets,
            Stage::Element => releasing.element,
            Stage::Address => releasing.gone,
            Stage::Recording => self.state.released,
            Stage::Told { at } => return self.when_told(at),
        };
        if done { self.next_release(releasing) } else { self.ask_release(releasing) }
    }

    fn released_or_demoted(&mut self, releasing: &Releasing, epoch: lockstep_wire::Epoch) -> bool {
        if matches!(releasing.stage, Stage::Told { .. }) {
            self.log("switchover", Severity::Info, format!("the peer claimed epoch {epoch}: following it"));
            self.withdraw_question();
            return self.go(Cold::idle());
        }
        self.log("demote", Severity::Critical, format!("the peer has epoch {epoch}: giving way at once"));
        self.clear()
    }

    fn calls_off(&self, releasing: &Releasing) -> Option<&'static str> {
        if releasing.failed {
            return Some("the data path could not drain");
        }
        if self.now >= releasing.since + self.config.release_timeout {
            return Some("stopping and draining took too long");
        }
        if self.evidence.peer(&self.config.timing, self.now) == Peer::Nothing {
            return Some("the standby fell silent");
        }
        None
    }

    fn next_release(&mut self, mut releasing: Releasing) -> bool {
        releasing.asked_at = None;
        releasing.stage = match releasing.stage {
            Stage::Stopping => Stage::Draining,
            Stage::Draining => Stage::Withdrawing,
            Stage::Withdrawing => Stage::Sockets,
            Stage::Sockets => Stage::Element,
            Stage::Element => Stage::Address,
            Stage::Address => Stage::Recording,
            Stage::Recording | Stage::Told { .. } => {
                self.log("switchover", Severity::Info, "the VIP is released: telling the standby");
                Stage::Told { at: self.now }
            }
        };
        if releasing.stage == Stage::Recording {
            self.evidence.lease_open = false;
            let mut state = self.state.clone();
            state.released = true;
            self.phase = Phase::Releasing(releasing);
            return self.persist(state);
        }
        self.go(releasing)
    }

    fn ask_release(&mut self, mut releasing: Releasing) -> bool {
        if releasing.asked_at.is_some_and(|at| self.now < at + RETRY) {
            return false;
        }
        let first = releasing.asked_at.is_none();
        match releasing.stage {
            Stage::Stopping if first => self.act(Action::StopApp),
            Stage::Draining if first => self.act(Action::Engine(Engine::Drain)),
            Stage::Sockets => self.act(Action::EndVipSockets),
            Stage::Element => self.act(Action::DeleteLeaseElement),
            Stage::Address => self.act(Action::DeleteVip),
            _ => {}
        }
        releasing.asked_at = Some(self.now);
        self.phase = Phase::Releasing(releasing);
        false
    }

    fn when_told(&mut self, at: Time) -> bool {
        let word = self.evidence.word.map(|word| word.heartbeat);
        let refused = self.newest_intent() == Intent::Refused
            && word.is_some_and(|word| {
                word.epoch() == self.state.epoch
                    && word.echo_session == self.config.session.0
                    && word.echo_sent_us > at.as_us()
            });
        if refused && self.state.released {
            self.log("switchover", Severity::Warning, "the standby durably refused the VIP: taking it back");
            let mut state = self.state.clone();
            state.released = false;
            return self.persist(state);
        }
        if !self.state.released {
            self.withdraw_question();
            return self.go(Opening::started(false));
        }
        if self.now >= at + self.config.timing.dead_after * 4 {
            self.ask("the VIP was released and the peer neither claimed nor refused it: see whether it serves; if it is off, `lockstep failover --accept-loss` here");
        }
        false
    }
}

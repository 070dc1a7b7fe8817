//! A node that neither serves nor follows: after a start, after its lease lapsed, after it gave way.
//!
//! First what an earlier life left behind: within a live lease nothing is removed and nothing
//! renewed until R1 holds at the stored epoch; otherwise the leftovers go. Then it listens, and
//! the cold-start rows decide.

use super::opening::Opening;
use super::standby::Standby;
use super::{LISTEN_MIN, Machine, Phase, RETRY};
use crate::action::{Action, Engine, Severity};
use crate::event::Event;
use crate::state::Was;
use crate::table::{Relation, Verdict, WasKind, Who};
use crate::time::Time;
use crate::witness::Claim;
use lockstep_wire::Epoch;

/// See the module.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct Cold {
    stage: Stage,
    /// No judgement that we are alone before.
    listen_until: Option<Time>,
    probing: bool,
}

#[derive(Debug, Clone, PartialEq, Hash)]
enum Stage {
    /// For `Leftovers`.
    Starting,
    /// An earlier life's lease lives on: ours if R1 holds before this.
    Resuming { until: Time },
    /// Address, element and application are going.
    Clearing { asked_at: Option<Time>, sockets: bool, element: bool, vip: bool, app: bool },
    /// Nothing of ours is left.
    Idle,
}

impl Cold {
    pub(super) fn new() -> Self {
        Self { stage: Stage::Starting, listen_until: None, probing: false }
    }

    /// Everything of ours goes; then the table decides.
    pub(super) fn clearing() -> Self {
        let stage =
            Stage::Clearing { asked_at: None, sockets: false, element: false, vip: false, app: false };
        Self { stage, listen_until: None, probing: false }
    }

    /// Nothing of ours is left; the table decides at once.
    pub(super) fn idle() -> Self {
        Self { stage: Stage::Idle, listen_until: None, probing: false }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    pub(super) fn is_clearing(&self) -> bool {
        matches!(self.stage, Stage::Clearing { .. })
    }

    pub(super) fn is_resuming(&self) -> bool {
        matches!(self.stage, Stage::Resuming { .. })
    }

    pub(super) fn note(&mut self, event: &Event, now: Time) {
        match (&mut self.stage, event) {
            (stage @ Stage::Starting, Event::Leftovers { vip, lease_left }) => {
                *stage = match lease_left.filter(|left| !left.is_zero() && *vip) {
                    Some(left) => Stage::Resuming { until: now + left },
                    None => Self::clearing().stage,
                };
            }
            (Stage::Clearing { sockets, .. }, Event::VipSocketsEnded) => *sockets = true,
            (Stage::Clearing { element, .. }, Event::LeaseElementDeleted) => *element = true,
            (Stage::Clearing { vip, .. }, Event::VipGone) => *vip = true,
            (Stage::Clearing { app, .. }, Event::AppStopped) => *app = true,
            _ => {}
        }
    }
}

impl From<Cold> for Phase {
    fn from(cold: Cold) -> Self {
        Self::Cold(cold)
    }
}

impl Machine {
    /// The lease is gone or must go: nothing is served, everything of ours is removed.
    pub(super) fn clear(&mut self) -> bool {
        self.evidence.vip = None;
        self.forget_win();
        self.act(Action::Engine(Engine::Stop));
        self.go(Cold::clearing())
    }

    pub(super) fn advance_cold(&mut self, cold: Cold) -> bool {
        if self.state.intent.is_some() {
            return self.cancel_unfinished();
        }
        match cold.stage {
            Stage::Starting => false,
            Stage::Resuming { until } => self.resume(until),
            Stage::Clearing { .. } => self.finish_clearing(cold),
            Stage::Idle => self.decide_cold(cold),
        }
    }

    /// An intent is never an epoch, and neither is a claim whose last check of the grant nobody made:
    /// cancelled durably before the first word.
    fn cancel_unfinished(&mut self) -> bool {
        let mut state = self.state.clone();
        if state.was == Was::Active && state.intent == Some(state.epoch) {
            self.log(
                "cancel",
                Severity::Critical,
                "this node stopped between a claim and its last check: the claim is taken back",
            );
            state.lineage.pop();
            state.epoch = state.lineage.last().map_or(Epoch::NONE, |fork| fork.epoch);
            state.was = Was::Standby;
            state.solo = false;
            // Nobody granted anything to this life of the agent.
            state.outdated = true;
        }
        state.intent = None;
        self.persist(state)
    }

    fn resume(&mut self, until: Time) -> bool {
        if self.state.was != Was::Active || self.state.released || self.higher_epoch().is_some() {
            return self.clear();
        }
        if self.opening == 0 {
            self.opening = 1;
        }
        if self.evidence.lease_open {
            self.log(
                "resume",
                Severity::Info,
                "the standby echoes us at our epoch within the lease: serving goes on",
            );
            return self.go(Opening::resumed());
        }
        if self.now >= until {
            self.log(
                "resume",
                Severity::Warning,
                "the lease of the earlier life ran out before the standby's echo: its leftovers are removed",
            );
            return self.clear();
        }
        false
    }

    fn finish_clearing(&mut self, mut cold: Cold) -> bool {
        let now = self.now;
        let Stage::Clearing { asked_at, sockets, element, vip, app } = &mut cold.stage else { return false };
        if *sockets && *element && *vip && *app {
            cold.stage = Stage::Idle;
            let listen = now + self.config.timing.dead_after * 2;
            cold.listen_until = Some(listen.max(self.started + LISTEN_MIN));
            self.evidence.lease_open = false;
            return self.go(cold);
        }
        if asked_at.is_none_or(|at| now >= at + RETRY) {
            *asked_at = Some(now);
            let missing = [
                (!*sockets, Action::EndVipSockets),
                (!*element, Action::DeleteLeaseElement),
                (!*vip, Action::DeleteVip),
                (!*app, Action::KillApp),
            ];
            for (is_missing, action) in missing {
                if is_missing {
                    self.act(action);
                }
            }
            self.phase = Phase::Cold(cold);
        }
        false
    }

    fn decide_cold(&mut self, mut cold: Cold) -> bool {
        let row = self.row(Who::Cold);
        let listening = cold.listen_until.is_some_and(|until| self.now < until);
        if listening && self.relation() == Relation::Unheard {
            return false;
        }
        self.log_row(row);
        if row.verdict != Verdict::Ask {
            self.withdraw_question();
        }
        match row.verdict {
            Verdict::Follow => self.follow(),
            Verdict::Serve => self.serve_cold(),
            Verdict::Probe if !cold.probing => {
                cold.probing = true;
                self.act(Action::ProbeVip);
                self.phase = Phase::Cold(cold);
                false
            }
            Verdict::Ask => {
                self.ask(row.sentence);
                false
            }
            Verdict::Arbitrate if !self.vip_probe_is_old() => {
                self.ask_witness(Claim::Alone { epoch: self.state.epoch });
                false
            }
            Verdict::Arbitrate | Verdict::Hold if self.vip_probe_is_old() => {
                // Somebody answered, or it is long ago that nobody did: ask again.
                self.evidence.vip = None;
                cold.probing = false;
                self.phase = Phase::Cold(cold);
                false
            }
            _ => false,
        }
    }

    fn follow(&mut self) -> bool {
        let epoch = self.higher_epoch().unwrap_or(self.state.epoch);
        let state = self.followed(epoch);
        if self.state != state {
            return self.persist(state);
        }
        self.evidence.vip = None;
        self.act(Action::Engine(Engine::BecomeStandby { epoch }));
        self.go(Standby::new())
    }

    fn serve_cold(&mut self) -> bool {
        if self.state.epoch == Epoch::NONE {
            let state = self.claimed(false);
            return self.persist(state);
        }
        if self.state.was != Was::Active || self.state.released {
            // Same history and the last active: it holds everything it ever acknowledged.
            let mut state = self.state.clone();
            state.was = Was::Active;
            state.released = false;
            state.solo = false;
            return self.persist(state);
        }
        let alone = self.relation() == Relation::Unheard;
        let echoed = self.evidence.echo_at(self.state.epoch, &self.config.timing, self.now);
        if alone || echoed {
            let promoted = super::view::was_kind(&self.state) == WasKind::Alone;
            let by_targets = promoted || self.has_won(self.state.epoch);
            return self.go(Opening::started(alone && by_targets));
        }
        false
    }

    fn vip_probe_is_old(&self) -> bool {
        self.evidence.vip.is_some_and(|(at, _)| self.now >= at + RETRY)
    }
}

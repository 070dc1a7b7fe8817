//! From the right to write to a served address: data path, address (silent), application, lease.

use super::active::Active;
use super::{LISTEN_MIN, Machine, Phase, RETRY};
use crate::action::{Action, Engine, Severity};
use crate::event::Event;
use crate::time::Time;

/// See the module.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct Opening {
    /// The lease may open by the targets alone.
    pub(super) alone: bool,
    /// The mirror is opened as sole opener, refusing older frames first.
    promote: bool,
    /// The lease of an earlier life, or of a release that was called off, is kept.
    keep_lease: bool,
    stage: Stage,
    asked_at: Option<Time>,
    ready: bool,
    added: bool,
    started_at: Option<Time>,
    healthy: bool,
    failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Data,
    Address,
    Application,
    Lease,
}

impl Opening {
    fn new(alone: bool, promote: bool, keep_lease: bool) -> Self {
        Self {
            alone,
            promote,
            keep_lease,
            stage: Stage::Data,
            asked_at: None,
            ready: false,
            added: false,
            started_at: None,
            healthy: false,
            failed: false,
        }
    }

    /// After a start, by the cold-start table.
    pub(super) fn started(alone: bool) -> Self {
        Self::new(alone, false, false)
    }

    /// After a claim: the mirror becomes the database.
    pub(super) fn promoted() -> Self {
        Self::new(true, true, false)
    }

    /// The earlier life's lease holds, or a release was called off.
    pub(super) fn resumed() -> Self {
        Self::new(false, false, true)
    }

    pub(super) fn wants_lease(&self) -> bool {
        self.keep_lease || self.stage == Stage::Lease
    }

    pub(super) fn note(&mut self, event: &Event, now: Time) {
        match event {
            Event::EngineReady if self.stage == Stage::Data => self.ready = true,
            Event::EngineFailed(_) => self.failed = true,
            Event::VipAdded => self.added = true,
            Event::AppStarted => self.started_at = self.started_at.or(Some(now)),
            Event::AppHealthy => self.healthy = true,
            _ => {}
        }
    }
}

impl From<Opening> for Phase {
    fn from(opening: Opening) -> Self {
        Self::Opening(opening)
    }
}

impl Machine {
    pub(super) fn advance_opening(&mut self, mut opening: Opening) -> bool {
        if let Some(epoch) = self.higher_epoch() {
            self.log("demote", Severity::Critical, format!("the peer has epoch {epoch}: giving way"));
            return self.clear();
        }
        if opening.keep_lease && !self.evidence.lease_open {
            return self.clear();
        }
        if opening.failed {
            self.log("open", Severity::Critical, "the database could not be opened: nothing is served here; `lockstep status` names the database and the remedy");
            return self.clear();
        }
        if opening.stage == Stage::Application && !self.config.application {
            opening.healthy = true;
        }
        let done = match opening.stage {
            Stage::Data => opening.ready,
            Stage::Address => opening.added,
            // One that failed for good is the table's to judge, with the address where clients ask.
            Stage::Application => opening.healthy || self.evidence.app_failed || self.opens_early(&opening),
            Stage::Lease => self.evidence.lease_open,
        };
        if done {
            return self.next_stage(opening);
        }
        self.ask_stage(opening)
    }

    fn opens_early(&self, opening: &Opening) -> bool {
        let early = opening.started_at.zip(self.config.open_early);
        early.is_some_and(|(at, early)| self.now >= at + early)
    }

    fn next_stage(&mut self, mut opening: Opening) -> bool {
        opening.asked_at = None;
        opening.stage = match opening.stage {
            Stage::Data => Stage::Address,
            Stage::Address => {
                // What failed before is started anew.
                self.evidence.app_failed = false;
                Stage::Application
            }
            Stage::Application => {
                if !opening.keep_lease {
                    self.opening += 1;
                }
                Stage::Lease
            }
            Stage::Lease => {
                self.act(Action::Announce);
                self.withdraw_question();
                let epoch = self.state.epoch;
                self.log("open", Severity::Info, format!("the lease is open: serving under epoch {epoch}"));
                return self.go(Active::new(&self.state, self.now));
            }
        };
        self.go(opening)
    }

    fn ask_stage(&mut self, mut opening: Opening) -> bool {
        let epoch = self.state.epoch;
        let first = opening.asked_at.is_none();
        let patience = (self.config.timing.dead_after * 2).max(LISTEN_MIN);
        match opening.stage {
            // The first request only: opening a mirror twice helps nobody, a failure is reported.
            Stage::Data if first && opening.promote => self.act(Action::Engine(Engine::Promote { epoch })),
            Stage::Data if first => self.act(Action::Engine(Engine::BecomeActive { epoch })),
            Stage::Address if opening.asked_at.is_none_or(|at| self.now >= at + RETRY) => {
                self.act(Action::AddVipSilent);
                opening.asked_at = None;
            }
            Stage::Application if first => self.act(Action::StartApp),
            Stage::Lease
                if !opening.alone && opening.asked_at.is_some_and(|at| self.now >= at + patience) =>
            {
                self.log(
                    "open",
                    Severity::Critical,
                    "the peer does not echo at our epoch: the lease does not open",
                );
                return self.clear();
            }
            _ => {}
        }
        if opening.asked_at.is_none() {
            opening.asked_at = Some(self.now);
            self.phase = Phase::Opening(opening);
        }
        false
    }
}

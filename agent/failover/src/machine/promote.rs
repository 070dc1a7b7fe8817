//! Taking over: quiet, probe, durable intent, check again, witness, fence, durable claim, check again.
//!
//! From the first ping until the durable cancellation nothing is echoed. An intent is never an
//! epoch. Any answer before the claim cancels; a failed check cancels durably. A claim after a
//! release takes the same way without probes.

use super::cold_start::Cold;
use super::opening::Opening;
use super::standby::Standby;
use super::{FailoverType, Machine, Phase};
use crate::action::{Action, Severity, Voice};
use crate::event::Event;
use crate::state::PairState;
use crate::table::{Peer, Vip};
use crate::witness::Claim;
use lockstep_wire::Intent;

/// See the module.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) struct Promoting {
    cause: Cause,
    /// A cancelled attempt goes back to following, or to the cold-start table.
    followed: bool,
    stage: Stage,
    /// A heartbeat came since we began (and none was awaited).
    pub(super) answered: bool,
    vip_probed: bool,
    pinged: bool,
    /// The peer is confirmed off (true), or is not.
    fenced: Option<bool>,
    /// What to go back to when the last check fails.
    before: Option<Box<PairState>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cause {
    /// Silence, by ourselves under a grant.
    Silence,
    /// Silence, under a grant, and the operator says so.
    Confirmed,
    /// Silence, and the operator accepts loss.
    Forced,
    /// The active released.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// The heartbeat thread stops echoing.
    Quiet,
    /// VIP probes and intent pings.
    Probing,
    /// The intent goes to disk.
    Intended,
    /// VIP probes again.
    Reprobing,
    /// The witness decides.
    Deciding,
    /// The peer is powered off.
    Fencing,
    /// The claim goes to disk.
    Claimed,
    /// The cancellation goes to disk.
    Cancelled,
}

impl Promoting {
    fn new(cause: Cause, followed: bool) -> Self {
        Self {
            cause,
            followed,
            stage: Stage::Quiet,
            answered: false,
            vip_probed: false,
            pinged: false,
            fenced: None,
            before: None,
        }
    }

    pub(super) fn by_itself() -> Self {
        Self::new(Cause::Silence, true)
    }

    pub(super) fn by_operator(forced: bool, followed: bool) -> Self {
        Self::new(if forced { Cause::Forced } else { Cause::Confirmed }, followed)
    }

    pub(super) fn claiming() -> Self {
        Self::new(Cause::Release, true)
    }

    /// It rests on a grant that has to hold until the claim is on disk.
    fn needs_grant(&self) -> bool {
        matches!(self.cause, Cause::Silence | Cause::Confirmed)
    }

    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::VipProbed { .. } => self.vip_probed = true,
            Event::IntentPingsDone => self.pinged = true,
            Event::PeerFenced(result) => self.fenced = Some(result.is_ok()),
            _ => {}
        }
    }

    pub(super) fn speak(&self, state: &PairState, voice: &mut Voice) {
        voice.echo = false;
        if self.cause != Cause::Release {
            voice.intent = Intent::Promote;
            voice.intent_counter = state.epoch.counter + 1;
        }
    }
}

impl From<Promoting> for Phase {
    fn from(promoting: Promoting) -> Self {
        Self::Promoting(promoting)
    }
}

impl Machine {
    pub(super) fn advance_promoting(&mut self, promoting: Promoting) -> bool {
        match promoting.stage {
            Stage::Quiet => self.when_quiet(promoting),
            Stage::Probing => self.when_probed(promoting),
            Stage::Intended => {
                // The intent is on disk: probe again before it becomes a claim.
                self.evidence.vip = None;
                self.act(Action::ProbeVip);
                self.go(Promoting { stage: Stage::Reprobing, vip_probed: false, ..promoting })
            }
            Stage::Reprobing => self.when_reprobed(promoting),
            Stage::Deciding => self.when_decided(promoting),
            Stage::Fencing => self.when_fenced(&promoting),
            Stage::Claimed => self.when_claimed(&promoting),
            Stage::Cancelled => {
                if self.evidence.vip() == Vip::Silent {
                    self.evidence.vip = None;
                }
                // Who answers for the VIP stays known for a while: the table holds, and asks again later.
                if promoting.followed { self.go(Standby::new()) } else { self.go(Cold::idle()) }
            }
        }
    }

    fn when_quiet(&mut self, promoting: Promoting) -> bool {
        if promoting.cause == Cause::Release {
            // Nothing is echoed any more, and all that was received before is known: if the
            // newest word still releases, the peer cannot have opened its lease again.
            if !self.voice_is_quiet() {
                return false;
            }
            if !self.release_stands() {
                return self.cancel(&promoting, "the release was taken back");
            }
            return self.claim(&promoting);
        }
        if self.is_contradicted(&promoting) {
            return self.cancel(&promoting, "the peer was heard again");
        }
        if !self.voice_is_quiet() {
            return false;
        }
        self.evidence.vip = None;
        self.act(Action::ProbeVip);
        self.act(Action::SendIntentPings);
        self.go(Promoting { stage: Stage::Probing, ..promoting })
    }

    /// The heartbeat thread has taken the voice of this phase.
    fn voice_is_quiet(&self) -> bool {
        self.voice_is_set() && self.voice.is_some_and(|voice| !voice.echo)
    }

    fn release_stands(&self) -> bool {
        let word = self.evidence.word.map(|word| word.heartbeat);
        self.newest_intent() == Intent::Released
            && word.is_some_and(|word| word.epoch() == self.state.epoch)
            && !self.state.outdated
    }

    fn when_probed(&mut self, promoting: Promoting) -> bool {
        if let Some(why) = self.objection(&promoting) {
            return self.cancel(&promoting, why);
        }
        if !(promoting.vip_probed && promoting.pinged) {
            return false;
        }
        if promoting.cause == Cause::Silence && self.config.failover == FailoverType::Manual {
            // What the probes brought stays: the table asks the operator now.
            return self.go(Standby::new());
        }
        let mut state = self.state.clone();
        state.intent = Some(state.epoch.next(self.config.node));
        let sentence = format!(
            "nobody answers for the VIP and no intent was answered: intending epoch {} ({})",
            state.epoch.next(self.config.node),
            self.evidence.sentence(&self.config.timing, self.now)
        );
        self.log("intent", Severity::Warning, sentence);
        self.phase = Phase::Promoting(Promoting { stage: Stage::Intended, ..promoting });
        self.persist(state)
    }

    fn when_reprobed(&mut self, promoting: Promoting) -> bool {
        if let Some(why) = self.objection(&promoting) {
            return self.cancel(&promoting, why);
        }
        if !promoting.vip_probed {
            return false;
        }
        if !self.config.witness {
            return self.fence(promoting);
        }
        self.forget_answer();
        self.go(Promoting { stage: Stage::Deciding, ..promoting })
    }

    /// The witness is asked before the claim, never after: a claim that lost would be an epoch nobody gave.
    fn when_decided(&mut self, promoting: Promoting) -> bool {
        if let Some(why) = self.objection(&promoting) {
            return self.cancel(&promoting, why);
        }
        let (from, to) = (self.state.epoch, self.state.epoch.next(self.config.node));
        let forced = promoting.cause == Cause::Forced;
        let claim = if forced { Claim::Force { epoch: to } } else { Claim::Take { from, to } };
        match self.answer_to(claim) {
            None => {
                self.ask_witness(claim);
                false
            }
            Some(won) if won || forced => self.fence(promoting),
            Some(_) => {
                self.cancel(&promoting, "the witness did not give this node the right, or was not reached")
            }
        }
    }

    fn fence(&mut self, promoting: Promoting) -> bool {
        if !self.config.fence {
            return self.claim(&promoting);
        }
        self.log("fence", Severity::Warning, "powering the peer off before this node takes over");
        self.act(Action::FencePeer);
        self.go(Promoting { stage: Stage::Fencing, fenced: None, ..promoting })
    }

    fn when_fenced(&mut self, promoting: &Promoting) -> bool {
        let forced = promoting.cause == Cause::Forced;
        match promoting.fenced {
            None => false,
            Some(true) => match self.objection(promoting) {
                Some(why) => self.cancel(promoting, why),
                None => self.claim(promoting),
            },
            // The operator has confirmed that it is off.
            Some(false) if forced => self.claim(promoting),
            Some(false) => {
                self.on_fence_failed();
                self.cancel(promoting, "the peer is not confirmed off")
            }
        }
    }

    /// What speaks against going on, at this moment.
    fn objection(&self, promoting: &Promoting) -> Option<&'static str> {
        let forced = promoting.cause == Cause::Forced;
        if self.is_contradicted(promoting) {
            return Some("the peer was heard again");
        }
        let wait_over = if forced {
            self.evidence.majority_since(&self.config.timing, self.now).is_some()
        } else {
            self.wait_over()
        };
        if !wait_over {
            return Some("the majority of the targets was lost, or the other lease was announced anew");
        }
        if promoting.vip_probed && self.evidence.vip() != Vip::Silent {
            return Some("somebody answers for the VIP");
        }
        if promoting.cause == Cause::Silence && self.hands_off() {
            return Some("automatic moves were switched off");
        }
        if !forced && !self.evidence.grant.is_valid(self.now) {
            return Some("the grant ended");
        }
        None
    }

    /// The peer was heard. The operator's word outweighs a peer that lives and does not serve.
    fn is_contradicted(&self, promoting: &Promoting) -> bool {
        let peer = self.evidence.peer(&self.config.timing, self.now);
        if promoting.cause == Cause::Forced {
            let serves = self.evidence.word.is_some_and(|word| word.heartbeat.active);
            return serves && !matches!(peer, Peer::Nothing | Peer::Unknown);
        }
        promoting.answered || peer != Peer::Nothing
    }

    fn claim(&mut self, promoting: &Promoting) -> bool {
        let before = Some(Box::new(self.state.clone()));
        let mut state = self.claimed(promoting.cause == Cause::Forced);
        let epoch = state.epoch;
        // Until the grant is checked once more a crash must find an intent, not an epoch.
        state.intent = promoting.needs_grant().then_some(epoch);
        self.log("claim", Severity::Warning, format!("claiming epoch {epoch}"));
        self.phase = Phase::Promoting(Promoting { stage: Stage::Claimed, before, ..promoting.clone() });
        self.persist(state)
    }

    fn when_claimed(&mut self, promoting: &Promoting) -> bool {
        if self.state.intent.is_none() {
            return self.go(Opening::promoted());
        }
        // The claim is on disk and nobody has heard of it: the last moment to take it back.
        let mut state = self.state.clone();
        state.intent = None;
        if !self.evidence.grant.is_valid(self.now) {
            state = promoting.before.as_deref().expect("a claim keeps what was before it").clone();
            state.intent = None;
            self.log(
                "cancel",
                Severity::Critical,
                "the grant ended while the claim was written: it is taken back",
            );
            self.phase = Phase::Promoting(Promoting { stage: Stage::Cancelled, ..promoting.clone() });
        }
        self.persist(state)
    }

    fn cancel(&mut self, promoting: &Promoting, why: &'static str) -> bool {
        let evidence = self.evidence.sentence(&self.config.timing, self.now);
        self.log("cancel", Severity::Warning, format!("no takeover: {why} ({evidence})"));
        self.row = "cancel";
        let mut state = self.state.clone();
        state.intent = None;
        self.phase = Promoting { stage: Stage::Cancelled, ..promoting.clone() }.into();
        self.persist(state)
    }
}

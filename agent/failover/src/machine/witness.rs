//! When the witness is asked, and what its answers allow.
//!
//! One question at a time, numbered: the late answer to an earlier one decides nothing.

use super::{Machine, Phase};
use crate::action::Action;
use crate::profile::stretched;
use crate::table::Tie;
use crate::time::Time;
use crate::witness::{Answer, Claim, Register};
use lockstep_wire::Epoch;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// The register is looked at this often: for the alarm, and for what is left to take back.
const LOOK: Duration = Duration::from_secs(10);
/// A wish that was not granted is repeated after this time.
const REPEAT: Duration = Duration::from_secs(1);
/// A refusal counts this long.
const REFUSED: Duration = Duration::from_secs(5);

/// What this node knows of the witness.
#[derive(Debug, Clone, Default)]
pub(super) struct Witness {
    number: u64,
    /// The question under way.
    asked: Option<Claim>,
    /// When the last answer came.
    answered_at: Option<Time>,
    /// What was answered to the question before, and to which.
    answer: Option<(Claim, bool)>,
    /// The epoch this node has the right alone under.
    won: Option<Epoch>,
    /// Since when the heartbeat thread has not leaned on a win.
    unleaning_since: Option<Time>,
    holds: Option<Register>,
    /// Why it was not reached, the last times.
    failed: u32,
    alarm: bool,
    /// The standby's fence did not confirm that the peer is off.
    unfenced_at: Option<Time>,
}

/// The number only tells one question from the next, and failures count as far as they alarm.
impl Hash for Witness {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.asked, self.answered_at, self.answer, self.won, self.unleaning_since).hash(state);
        (self.holds, self.failed.min(2), self.alarm, self.unfenced_at).hash(state);
    }
}

impl Machine {
    /// This node may lean on its targets alone: nothing has to be won, or it is.
    pub(super) fn may_lean(&self) -> bool {
        // The operator's word stands above an unreachable witness.
        !self.config.witness || self.state.forced || self.has_won(self.state.epoch)
    }

    pub(super) fn has_won(&self, epoch: Epoch) -> bool {
        self.witness.won == Some(epoch)
    }

    /// The witness as the table sees it, for the wish that this node has now.
    pub(super) fn tie(&self) -> Tie {
        let recent = |at: Option<Time>| at.is_some_and(|at| self.now < at + REFUSED);
        let next = self.state.epoch.next(self.config.node);
        if recent(self.witness.unfenced_at) {
            return Tie::Lost;
        }
        if !self.config.witness {
            return Tie::Free;
        }
        if self.has_won(self.state.epoch) {
            return Tie::Won;
        }
        match self.witness.answer {
            Some((Claim::Alone { epoch }, false))
                if epoch == self.state.epoch && recent(self.witness.answered_at) =>
            {
                Tie::Lost
            }
            Some((Claim::Take { to, .. }, false)) if to == next && recent(self.witness.answered_at) => {
                Tie::Lost
            }
            _ => Tie::Unasked,
        }
    }

    /// Asks; the answer comes as an event. Not while another question is under way.
    pub(super) fn ask_witness(&mut self, claim: Claim) {
        if self.witness.asked.is_some() {
            return;
        }
        self.witness.number += 1;
        self.witness.asked = Some(claim);
        self.act(Action::AskWitness { number: self.witness.number, claim });
    }

    /// What came of `claim`, if that was the last question and is answered.
    pub(super) fn answer_to(&self, claim: Claim) -> Option<bool> {
        self.witness
            .answer
            .filter(|(asked, _)| *asked == claim && self.witness.asked.is_none())
            .map(|(_, won)| won)
    }

    /// Nothing that was answered before decides a new attempt.
    pub(super) fn forget_answer(&mut self) {
        self.witness.answer = None;
    }

    /// A node that serves no more must win anew: the operator may have decided for the other one meanwhile.
    pub(super) fn forget_win(&mut self) {
        self.witness.won = None;
        self.witness.answer = None;
    }

    pub(super) fn on_fence_failed(&mut self) {
        self.witness.unfenced_at = Some(self.now);
    }

    pub(super) fn on_answer(&mut self, number: u64, answer: Answer) {
        let witness = &mut self.witness;
        if number != witness.number {
            return;
        }
        let Some(claim) = witness.asked.take() else { return };
        witness.answered_at = Some(self.now);
        let won = match answer {
            Answer::Reached { won, holds } => {
                witness.holds = holds;
                witness.won = witness.won.filter(|&epoch| holds == Some(Register { epoch, alone: true }));
                witness.failed = 0;
                won
            }
            Answer::Unreachable(why) => {
                witness.failed += 1;
                self.alarm_of_witness(&why);
                false
            }
        };
        self.witness.answer = Some((claim, won));
        match claim {
            Claim::Alone { epoch } | Claim::Take { to: epoch, .. } | Claim::Force { epoch } if won => {
                self.witness.won = Some(epoch);
            }
            _ => {}
        }
        if self.witness.failed == 0 && std::mem::take(&mut self.witness.alarm) {
            self.act(Action::WitnessAlarm(None));
        }
    }

    fn alarm_of_witness(&mut self, why: &str) {
        if self.witness.failed >= 2 && !std::mem::replace(&mut self.witness.alarm, true) {
            let sentence = format!(
                "the witness is not reached ({why}): as long as both nodes hear each other nothing changes; a node left alone serves no more and does not take over"
            );
            self.act(Action::WitnessAlarm(Some(sentence)));
        }
    }

    /// What it last said, and when; for people.
    pub(super) fn witness_fact(&self) -> (String, Option<Time>) {
        let held = match self.witness.holds {
            _ if self.witness.answered_at.is_none() => "not asked yet".to_owned(),
            None if self.witness.failed == 0 => "knows nothing of this pair".to_owned(),
            None => "not reached yet".to_owned(),
            Some(held) if held.alone => format!("epoch {} alone", held.epoch),
            Some(held) => format!("epoch {} shared", held.epoch),
        };
        let lost = if self.witness.failed > 0 { ", not reached" } else { "" };
        (format!("{held}{lost}"), self.witness.answered_at)
    }

    /// What the witness would answer if nothing changed since it was last reached.
    pub(super) fn foreseen_answer(&self, claim: Claim) -> Answer {
        if self.witness.failed > 0 {
            return Answer::Unreachable("it was not reached the last time".to_owned());
        }
        let after = claim.judge(self.witness.holds);
        Answer::Reached { won: after.is_some(), holds: after.or(self.witness.holds) }
    }

    /// What to ask of the witness as things are. Called while no state is on its way to disk.
    pub(super) fn mind_witness(&mut self) {
        if !self.config.witness || self.voice.is_none() {
            return;
        }
        self.note_leaning();
        if self.witness.asked.is_some() {
            return;
        }
        let rested = self.witness.answered_at.is_none_or(|at| self.now >= at + REPEAT);
        if let Some(claim) = self.wish() {
            // The first time at once: a lease is running out.
            if rested || self.witness.answer.is_none_or(|(asked, _)| asked != claim) {
                self.ask_witness(claim);
            }
        } else if self.witness.answered_at.is_none_or(|at| self.now >= at + LOOK) {
            self.ask_witness(Claim::Look);
        }
    }

    fn note_leaning(&mut self) {
        let leans = self.voice.is_some_and(|voice| voice.permit.is_some_and(|permit| permit.targets));
        if leans || !self.voice_is_set() {
            self.witness.unleaning_since = None;
        } else if self.witness.unleaning_since.is_none() {
            self.witness.unleaning_since = Some(self.now);
        }
    }

    fn wish(&mut self) -> Option<Claim> {
        let epoch = self.state.epoch;
        match &self.phase {
            Phase::Active(active) if active.is_in_sync() && !self.is_quiet() => self.wish_to_share(),
            Phase::Active(active) => {
                let leaving = active.leaving_since().is_some()
                    && self.now >= self.sent_grant.over_at(&self.config.timing);
                self.wish_for_alone(self.is_quiet() || self.state.solo || leaving)
            }
            Phase::Opening(opening) => self.wish_for_alone(opening.wants_lease() && self.is_quiet()),
            Phase::Releasing(releasing) => self.wish_for_alone(releasing.keeps_lease() && self.is_quiet()),
            Phase::Standby(_) => {
                let won = epoch.next(self.config.node);
                self.witness.won = None;
                let unused = self.witness.holds == Some(Register { epoch: won, alone: true });
                unused.then_some(Claim::Yield { won, epoch })
            }
            _ => None,
        }
    }

    fn wish_for_alone(&self, wanted: bool) -> Option<Claim> {
        let epoch = self.state.epoch;
        (wanted && !self.has_won(epoch)).then_some(Claim::Alone { epoch })
    }

    /// First the heartbeat thread must not lean on the win any more, and every lease that did must be over.
    fn wish_to_share(&mut self) -> Option<Claim> {
        let epoch = self.state.epoch;
        if self.witness.holds == Some(Register { epoch, alone: false }) && self.witness.won.is_none() {
            return None;
        }
        self.witness.won = None;
        let over = stretched(self.config.timing.lease) + self.config.timing.margin;
        let since = self.witness.unleaning_since?;
        (self.now >= since + over).then_some(Claim::Share { epoch })
    }

    /// Nothing was heard of the peer for so long that the lease needs the targets.
    fn is_quiet(&self) -> bool {
        let heard = self.evidence.detector.last_heard();
        heard.is_none_or(|heard| self.now >= heard + self.config.timing.silence())
    }
}

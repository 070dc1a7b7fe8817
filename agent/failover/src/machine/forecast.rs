//! What would happen if the peer fell silent now: the machine itself, run ahead on a copy.
//!
//! The copy lives through the coming seconds without a heartbeat. It is assumed that the targets go on
//! answering as they do now, that nobody answers for the VIP, that the witness holds what it held last, and that
//! disk, address, application and fence do what they are told at once. Nothing here is sent, written or started.

use super::{Machine, Phase};
use crate::action::{Action, Engine, Severity};
use crate::event::{Event, VipProbe};
use crate::lease::Lapse;
use crate::step::Step;
use crate::table::TABLE;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Looked ahead beyond waits that are known by their length.
const BEYOND: Duration = Duration::from_secs(5);
/// More happens only to a machine that goes in circles, which is worth seeing.
const STEPS_MAX: usize = 40;

/// What would happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// In one sentence.
    pub outcome: String,
    /// What would be decided on the way.
    pub steps: Vec<Foreseen>,
}

/// One decision that would be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreseen {
    /// After so many milliseconds of silence from now on.
    pub after_ms: u64,
    /// Row of the table, or a step's name.
    pub row: String,
    /// The sentence, without evidence.
    pub sentence: String,
}

struct Ahead {
    machine: Machine,
    began: Time,
    now: Time,
    targets: Option<(u32, u32)>,
    lease_end: Time,
    due: VecDeque<Event>,
    steps: Vec<Foreseen>,
}

impl Machine {
    /// What would happen if the peer fell silent at `now`.
    pub fn forecast(&self, now: Time) -> Forecast {
        let began = self.now.max(now);
        let timing = &self.config.timing;
        let targets = self.evidence.majority.filter(|last| began < last.sent_at + timing.dead_after * 2);
        let lease_end = self.evidence.echoed.map_or(began, |(sent, _)| sent + timing.lease);
        let mut ahead = Ahead {
            machine: self.clone(),
            began,
            now: began,
            targets: targets.map(|round| (round.answered, round.of)),
            lease_end,
            due: VecDeque::new(),
            steps: Vec::new(),
        };
        let outcome = ahead.run();
        Forecast { outcome, steps: ahead.steps }
    }

    fn foreseen_horizon(&self) -> Duration {
        let timing = &self.config.timing;
        let delay = match self.config.solo_after {
            crate::SoloAfter::Delay(delay) => delay,
            crate::SoloAfter::Never => Duration::ZERO,
        };
        timing.dead_after * 10 + timing.hold_off + timing.grant_wait() + delay + BEYOND
    }
}

impl Ahead {
    fn run(&mut self) -> String {
        let asked_before = self.machine.question.is_some();
        let served_before = matches!(self.machine.phase, Phase::Active(_));
        let end = self.began + self.machine.foreseen_horizon();
        if self.machine.next.is_some() {
            self.tell(Event::Persisted);
        }
        while self.now < end && self.steps.len() < STEPS_MAX {
            let due = self.machine.poll_timeout().unwrap_or(end);
            self.now = due.max(self.now + Duration::from_millis(1));
            self.world_goes_on();
            let after = self.now.since(self.began).as_millis();
            match &self.machine.phase {
                Phase::Active(_) if !served_before => {
                    return format!("this node would serve after {after} ms");
                }
                Phase::Active(active) if active.is_solo() => {
                    return format!(
                        "this node would go on serving and acknowledge commits alone after {after} ms"
                    );
                }
                Phase::Cold(cold) if served_before && cold.is_idle() => {
                    return format!("this node would stop serving after {after} ms");
                }
                _ => {}
            }
            if let (false, Some(question)) = (asked_before, &self.machine.question) {
                return format!("the operator would be asked after {after} ms: {question}");
            }
        }
        match (&self.machine.phase, &self.machine.question) {
            (Phase::Active(_), _) => {
                "this node would go on serving; commits would wait for the standby".to_owned()
            }
            (_, Some(question)) => format!("the operator stays asked: {question}"),
            _ => format!("nothing would be moved: {}", sentence_of(self.machine.row, &self.machine.sentence)),
        }
    }

    fn world_goes_on(&mut self) {
        if let Some((answered, of)) = self.targets {
            self.tell(Event::TargetsMajority { sent_at: self.now, answered, of });
        }
        let majority = self.targets.is_some_and(|(answered, of)| answered * 2 > of);
        let leans = majority && self.machine.may_lean();
        if self.machine.evidence.lease_open && !leans && self.now >= self.lease_end {
            self.tell(Event::LeaseLapsed(Lapse::NoEvidence));
        }
        self.tell(Event::Tick);
    }

    fn tell(&mut self, event: Event) {
        self.due.push_back(event);
        while let Some(event) = self.due.pop_front() {
            match self.machine.handle(self.now, event) {
                Step::Ready(actions) => self.obey(actions),
                Step::Persist(pending) => {
                    self.obey(pending.then);
                    self.due.push_front(Event::Persisted);
                }
            }
        }
    }

    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Log { row, severity, sentence } => self.note(row, severity, &sentence),
                Action::SetHeartbeat(voice) => {
                    let last_grant_sent = voice.grant.map(|_| self.began);
                    self.due.push_back(Event::HeartbeatSet { revision: voice.revision, last_grant_sent });
                    if voice.permit.is_some_and(|permit| permit.alone) {
                        self.due.push_back(Event::LeaseOpened);
                    }
                }
                Action::ProbeVip => {
                    self.due.push_back(Event::VipProbed { sent_at: self.now, result: VipProbe::Silent });
                }
                Action::SendIntentPings => self.due.push_back(Event::IntentPingsDone),
                Action::Engine(
                    Engine::BecomeActive { .. } | Engine::Promote { .. } | Engine::BecomeStandby { .. },
                ) => self.due.push_back(Event::EngineReady),
                Action::AddVipSilent => self.due.push_back(Event::VipAdded),
                Action::EndVipSockets => self.due.push_back(Event::VipSocketsEnded),
                Action::DeleteLeaseElement => self.due.push_back(Event::LeaseElementDeleted),
                Action::DeleteVip => self.due.push_back(Event::VipGone),
                Action::StartApp => self.due.extend([Event::AppStarted, Event::AppHealthy]),
                Action::StopApp | Action::KillApp => self.due.push_back(Event::AppStopped),
                Action::AskWitness { number, claim } => {
                    let answer = self.machine.foreseen_answer(claim);
                    self.due.push_back(Event::WitnessAnswered { number, answer });
                }
                Action::FencePeer => self.due.push_back(Event::PeerFenced(Ok(()))),
                Action::Engine(_)
                | Action::RoundTripAlarm(_)
                | Action::WitnessAlarm(_)
                | Action::Question(_)
                | Action::RenewAlone { .. }
                | Action::ProbeTargets(_)
                | Action::Announce
                | Action::ConflictWatch(_) => {}
            }
        }
    }

    fn note(&mut self, row: &str, severity: Severity, sentence: &str) {
        // A row of both paths alive is a moment of the way into silence, not a decision.
        if severity == Severity::Info && row.starts_with('1') {
            return;
        }
        let after_ms = self.now.since(self.began).as_millis() as u64;
        self.steps.push(Foreseen { after_ms, row: row.to_owned(), sentence: sentence_of(row, sentence) });
    }
}

/// A row's own words: its evidence would be the copy's.
fn sentence_of(row: &str, sentence: &str) -> String {
    let known = TABLE.iter().find(|known| known.id == row);
    known.map_or_else(|| sentence.to_owned(), |known| known.sentence.to_owned())
}

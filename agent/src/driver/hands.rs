//! From action to the one who can do it: nothing is decided and nothing is waited for here.

use super::address::Task;
use super::application;
use super::probing::Probes;
use crate::events::{Event as LogEvent, EventLog, Severity};
use crate::heartbeat::{Heart, HeartError};
use lockstep_failover::table::{TABLE, Verdict};
use lockstep_failover::{Action, Engine as EngineAction, action};
use std::sync::{Arc, mpsc};

/// The alarm that says what is wrong with the pair; it stands until both paths carry heartbeats again.
const SITUATION: &str = "situation";

/// Everything an action may touch.
pub(super) struct Hands {
    pub(super) heart: Arc<Heart>,
    pub(super) address: mpsc::Sender<Task>,
    pub(super) probes: Probes,
    pub(super) engine: tokio::sync::mpsc::UnboundedSender<(u64, EngineAction)>,
    /// Orders given to the data path so far.
    pub(super) engine_orders: u64,
    pub(super) application: mpsc::Sender<application::Task>,
    pub(super) log: Arc<EventLog>,
}

impl Hands {
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Log { row, severity, sentence } => self.record(severity, row, &sentence),
            // Its event was recorded as the decision it is about.
            Action::Alarm(sentence) => {
                self.log.stand(SITUATION, Severity::Critical, &sentence);
            }
            Action::Question(question) => self.question(question.as_deref()),
            Action::SetHeartbeat(voice) => self.heart(self.heart.speak(voice)),
            Action::RenewAlone { probe_sent_at } => {
                self.address(Task::AnnounceOnce);
                self.heart(self.heart.majority_probe(probe_sent_at));
            }
            Action::ProbeTargets(on) => self.probes.targets(on),
            Action::ProbeVip => self.probes.ask_vip(),
            Action::SendIntentPings => self.heart(self.heart.send_intent_pings()),
            Action::Engine(action) => {
                self.engine_orders += 1;
                let _ = self.engine.send((self.engine_orders, action));
            }
            Action::AddVipSilent => self.address(Task::Add),
            Action::Announce => self.address(Task::Announce),
            Action::EndVipSockets => self.address(Task::EndSockets),
            Action::DeleteLeaseElement => self.address(Task::DeleteLease),
            Action::DeleteVip => self.address(Task::Delete),
            Action::StartApp => self.application(application::Task::Start),
            Action::StopApp => self.application(application::Task::Stop),
            Action::KillApp => self.application(application::Task::Kill),
            Action::ConflictWatch(on) => self.probes.conflicts(on),
        }
    }

    // The threads end only with the agent; an action for one that is gone has nothing left to act on.
    fn address(&self, task: Task) {
        let _ = self.address.send(task);
    }

    /// A heartbeat thread that takes no commands has a permit that grows old: the lease ends by itself.
    fn heart(&self, told: Result<(), HeartError>) {
        if let Err(error) = told {
            self.log.raise("heartbeat", Severity::Critical, &error.to_string());
        }
    }

    fn application(&self, task: application::Task) {
        let _ = self.application.send(task);
    }

    fn question(&self, question: Option<&str>) {
        match question {
            Some(sentence) => self.log.raise("question", Severity::Critical, sentence),
            None => self.log.clear("question", "the question to the operator is settled"),
        }
    }

    fn record(&self, severity: action::Severity, row: &str, sentence: &str) {
        let severity = match severity {
            action::Severity::Info => Severity::Info,
            action::Severity::Warning => Severity::Warning,
            action::Severity::Critical => Severity::Critical,
        };
        self.log.record(LogEvent::now(severity, row, sentence, serde_json::Value::Null));
        match TABLE.iter().find(|known| known.id == row).map(|known| known.verdict) {
            Some(Verdict::Stay) if severity == Severity::Info => {
                self.log.lift(SITUATION);
            }
            Some(_) if severity == Severity::Warning => {
                self.log.stand(SITUATION, severity, sentence);
            }
            _ => {}
        }
    }
}

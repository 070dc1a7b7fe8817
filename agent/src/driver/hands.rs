//! From action to the one who can do it: nothing is decided and nothing is waited for here.

use super::address::Task;
use super::alarms::Alarms;
use super::application;
use super::arbiter::Arbiter;
use super::probing::Probes;
use crate::heartbeat::{Heart, HeartError};
use lockstep_failover::{Action, Engine as EngineAction};
use std::sync::{Arc, mpsc};

/// Everything an action may touch.
pub(super) struct Hands {
    pub(super) heart: Arc<Heart>,
    pub(super) address: mpsc::Sender<Task>,
    pub(super) probes: Probes,
    pub(super) engine: tokio::sync::mpsc::UnboundedSender<(u64, EngineAction)>,
    /// Orders given to the data path so far.
    pub(super) engine_orders: u64,
    pub(super) application: mpsc::Sender<application::Task>,
    pub(super) arbiter: Arbiter,
    pub(super) alarms: Alarms,
}

impl Hands {
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Log { row, severity, sentence } => self.alarms.record(row, severity, &sentence),
            Action::RoundTripAlarm(alarm) => self.alarms.round_trip(alarm),
            Action::WitnessAlarm(alarm) => self.alarms.witness(alarm.as_deref()),
            Action::AskWitness { number, claim } => self.arbiter.ask(number, claim),
            Action::FencePeer => self.arbiter.fence(),
            Action::Question(question) => self.alarms.question(question.as_deref()),
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
            self.alarms.heartbeat(&error.to_string());
        }
    }

    fn application(&self, task: application::Task) {
        let _ = self.application.send(task);
    }
}

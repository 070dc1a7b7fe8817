//! The deciding thread of one pair: facts into the machine, states to disk, actions to the hands.
//!
//! Persist, then speak: the actions of a step that changes the durable state are unreachable until
//! that state is on disk. A disk that does not take it stops this thread here, the permit grows old,
//! and the heartbeat thread lets the lease end: that is the rule for a stuck node.

use super::hands::Hands;
use super::operator::Switches;
use super::queue::Input;
use crate::clock::boottime_us;
use crate::events::{Event as LogEvent, EventLog, Severity};
use lockstep_engine::durable::write_file_durably_blocking;
use lockstep_failover::{Event, Machine, Pending, Proof, Status, Step, Time};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long to wait before a state that could not be written is written again.
const WRITE_RETRY: Duration = Duration::from_millis(200);

/// What the deciding thread owns.
pub(super) struct Decider {
    pub(super) machine: Machine,
    pub(super) inputs: Receiver<Input>,
    pub(super) hands: Hands,
    pub(super) state_file: PathBuf,
    pub(super) log: Arc<EventLog>,
    pub(super) shown: Arc<Mutex<Status>>,
    pub(super) switches: Switches,
}

impl Decider {
    /// Runs until told to stop; the lease is then left to end by itself or to be resumed.
    pub(super) fn run(mut self) {
        for request in self.switches.requests() {
            // Nothing is on its way to disk yet, so nothing refuses it.
            if let Ok(step) = self.machine.request(now(), request) {
                self.follow(step);
            }
        }
        loop {
            let wait = self.machine.poll_timeout().map_or(Duration::from_millis(200), |due| due.since(now()));
            match self.inputs.recv_timeout(wait) {
                Ok(Input::Event(event)) => self.handle(event),
                // The outcome of an order that a newer one has replaced would be taken for the newer one's.
                Ok(Input::Done { order, event }) if order == self.hands.engine_orders => self.handle(event),
                Ok(Input::Done { .. }) => {}
                Ok(Input::Request(request, reply)) => match self.machine.request(now(), request) {
                    Ok(step) => {
                        if let Err(sentence) = self.switches.keep(request) {
                            self.record(Severity::Critical, "state.unwritable", &sentence);
                        }
                        let _ = reply.send(Ok(()));
                        self.follow(step);
                    }
                    Err(refusal) => {
                        let sentence = format!("refused: {refusal}");
                        self.record(Severity::Info, "request.refused", &sentence);
                        let _ = reply.send(Err(refusal));
                    }
                },
                Ok(Input::Copy(reply)) => drop(reply.send(Box::new(self.machine.clone()))),
                Ok(Input::Note { alarm, kind, sentence }) => {
                    let severity = if alarm { Severity::Warning } else { Severity::Info };
                    self.record(severity, kind, &sentence);
                }
                Err(RecvTimeoutError::Timeout) => self.handle(Event::Tick),
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.machine.status();
        }
    }

    fn handle(&mut self, event: Event) {
        let step = self.machine.handle(now(), event);
        self.follow(step);
    }

    fn follow(&mut self, mut step: Step) {
        loop {
            match step {
                Step::Ready(actions) => {
                    return actions.into_iter().for_each(|action| self.hands.carry_out(action));
                }
                Step::Persist(pending) => {
                    let proof = self.persist(&pending);
                    for action in pending.persisted(proof) {
                        self.hands.carry_out(action);
                    }
                    step = self.machine.handle(now(), Event::Persisted);
                }
            }
        }
    }

    fn persist(&self, pending: &Pending) -> Proof {
        loop {
            let write = |text: &str| write_file_durably_blocking(&self.state_file, text.to_owned());
            match Proof::by_writing(pending.state(), write) {
                Ok(proof) => return proof,
                Err(error) => {
                    let sentence = format!("the pair's state cannot be written, nothing is decided: {error}");
                    self.record(Severity::Critical, "state.unwritable", &sentence);
                    std::thread::sleep(WRITE_RETRY);
                }
            }
        }
    }

    fn record(&self, severity: Severity, kind: &str, sentence: &str) {
        self.log.record(LogEvent::now(severity, kind, sentence, serde_json::Value::Null));
    }
}

/// CLOCK_BOOTTIME, the only clock decisions know.
pub(super) fn now() -> Time {
    Time::from_us(boottime_us())
}

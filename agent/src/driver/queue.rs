//! Where everything that happens to a pair meets: one queue into the deciding thread.
//!
//! Effects, probes, heartbeat and data path put facts here; the socket puts requests. Bounded: when
//! the deciding thread is stuck on its disk, everybody waits but the heartbeat thread, which drops
//! what it hears unechoed.

use lockstep_failover::{Event, Machine, Refusal, Request};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Inputs that may wait: some seconds of everything at the quickest profile.
const INPUTS: usize = 4096;

/// What the deciding thread takes.
pub(super) enum Input {
    /// A fact.
    Event(Event),
    /// The data path has done what order number `order` asked for, or could not.
    Done {
        /// Counted by the hands.
        order: u64,
        /// What came of it.
        event: Event,
    },
    /// An operator's wish, and where its first answer goes.
    Request(Request, oneshot::Sender<Result<(), Refusal>>),
    /// A copy of the machine, to look into.
    Copy(oneshot::Sender<Box<Machine>>),
    /// Something for the event log that decides nothing.
    Note {
        /// It needs somebody's attention.
        alarm: bool,
        /// A stable word.
        kind: &'static str,
        /// One sentence.
        sentence: String,
    },
    /// End.
    Stop,
}

/// The sending end. Cheap to clone.
#[derive(Clone)]
pub(super) struct EventQueue(mpsc::SyncSender<Input>);

impl EventQueue {
    /// A queue and its end.
    pub(super) fn new() -> (Self, mpsc::Receiver<Input>) {
        let (sender, receiver) = mpsc::sync_channel(INPUTS);
        (Self(sender), receiver)
    }

    /// Puts a fact in; false when nobody decides any more.
    pub(super) fn event(&self, event: Event) -> bool {
        self.0.send(Input::Event(event)).is_ok()
    }

    /// Puts the outcome of an order in.
    pub(super) fn done(&self, order: u64, event: Event) {
        let _ = self.0.send(Input::Done { order, event });
    }

    /// Puts a fact in without waiting; false when there is no room.
    pub(super) fn try_event(&self, event: Event) -> bool {
        self.0.try_send(Input::Event(event)).is_ok()
    }

    /// Puts a note for the log in.
    pub(super) fn note(&self, alarm: bool, kind: &'static str, sentence: String) {
        let _ = self.0.send(Input::Note { alarm, kind, sentence });
    }

    /// Puts a wish in; the receiver is dropped when nobody decides any more.
    pub(super) fn request(&self, request: Request) -> oneshot::Receiver<Result<(), Refusal>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(Input::Request(request, reply));
        answer
    }

    /// Asks for a copy of the machine; the receiver is dropped when nobody decides any more.
    pub(super) fn machine(&self) -> oneshot::Receiver<Box<Machine>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(Input::Copy(reply));
        answer
    }

    /// Ends the deciding thread.
    pub(super) fn stop(&self) {
        let _ = self.0.send(Input::Stop);
    }
}

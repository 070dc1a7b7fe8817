//! Asks witness and fence beside everything else: they may take their time, the deciding thread may not.

use super::dry;
use super::queue::EventQueue;
use crate::arbiter::etcd::Witness;
use crate::arbiter::fence;
use crate::config;
use lockstep_failover::Event;
use lockstep_failover::witness::{Answer, Claim};
use std::sync::mpsc;

/// Where questions go. Without a witness or a fence nothing is ever asked.
pub(super) struct Arbiter {
    witness: Option<mpsc::Sender<(u64, Claim)>>,
    fence: Option<mpsc::Sender<()>>,
}

impl Arbiter {
    /// A thread for each that is configured; they end with the pair.
    ///
    /// # Errors
    /// A file of the witness's settings cannot be used, or no thread can be started.
    pub(super) fn start(pair: &config::Pair, queue: &EventQueue) -> anyhow::Result<Self> {
        let (mut witness, mut fence) = (None, None);
        if let Some(settings) = &pair.witness {
            let (sender, questions) = mpsc::channel();
            let (register, queue) = (Witness::new(settings.clone())?, queue.clone());
            let name = format!("witness-{}", pair.id);
            std::thread::Builder::new().name(name).spawn(move || ask(register, &questions, &queue))?;
            witness = Some(sender);
        }
        if let Some(settings) = pair.fence.clone() {
            let (sender, orders) = mpsc::channel();
            let queue = queue.clone();
            let name = format!("fence-{}", pair.id);
            let observe = pair.observe;
            let run = move || power_off(&settings, observe, &orders, &queue);
            std::thread::Builder::new().name(name).spawn(run)?;
            fence = Some(sender);
        }
        Ok(Self { witness, fence })
    }

    // A thread ends only with the agent: then there is nobody left who waits for an answer.
    pub(super) fn ask(&self, number: u64, claim: Claim) {
        let _ = self.witness.as_ref().map(|questions| questions.send((number, claim)));
    }

    pub(super) fn fence(&self) {
        let _ = self.fence.as_ref().map(|orders| orders.send(()));
    }
}

fn ask(mut witness: Witness, questions: &mpsc::Receiver<(u64, Claim)>, queue: &EventQueue) {
    while let Ok((number, claim)) = questions.recv() {
        let answer = witness.ask(claim);
        match &answer {
            Answer::Reached { won, holds } => tracing::debug!("witness: {claim:?}: {won}, holds {holds:?}"),
            Answer::Unreachable(why) => tracing::warn!("witness: {claim:?}: {why}"),
        }
        if !queue.event(Event::WitnessAnswered { number, answer }) {
            return;
        }
    }
}

fn power_off(settings: &config::Fence, observe: bool, orders: &mpsc::Receiver<()>, queue: &EventQueue) {
    while orders.recv().is_ok() {
        if observe {
            queue.note(false, dry::KIND, "would power the peer off".to_owned());
            queue.event(Event::PeerFenced(Ok(())));
            continue;
        }
        let result = fence::power_off(settings).map_err(|error| error.to_string());
        if !queue.event(Event::PeerFenced(result)) {
            return;
        }
    }
}

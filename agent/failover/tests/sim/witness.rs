//! The witness of the world: a register, and requests that are slow, lost, or carried out late.

use super::{Node, World};
use lockstep_failover::Event;
use lockstep_failover::witness::{Answer, Claim, Register};

/// A node gives up on the witness after this time.
const TIMEOUT_TICKS: u64 = 30;

/// What the witness holds, and how often it was written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    pub register: Option<Register>,
    revision: u64,
}

/// A question of a node on its way.
#[derive(Debug, Clone)]
pub struct Question {
    pub number: u64,
    pub claim: Claim,
    pub due: u64,
    /// What was read; then the swap follows.
    read: Option<Held>,
}

impl Question {
    /// What asking may take, with a look under way before it.
    pub const LIMIT: std::time::Duration = std::time::Duration::from_millis(700);

    pub fn new(number: u64, claim: Claim, due: u64) -> Self {
        Self { number, claim, due, read: None }
    }
}

/// A swap that hangs somewhere and whose sender has given up on it.
#[derive(Debug, Clone)]
pub struct Stray {
    due: u64,
    claim: Claim,
    read: Held,
}

impl World {
    pub(super) fn witness(&mut self) {
        let tick = self.tick;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.strays).into_iter().partition(|stray| stray.due <= tick);
        self.strays = later;
        for stray in due {
            self.swap(stray.claim, stray.read);
        }
        for n in 0..2 {
            if let Some(Question { claim, read: Some(read), .. }) = self.nodes[n].orphan.take() {
                self.stray(claim, read);
            }
            if let Some(question) = self.nodes[n].question.take_if(|question| question.due <= tick) {
                self.ask(n, question);
            }
        }
    }

    fn ask(&mut self, n: usize, mut question: Question) {
        let Some(read) = question.read else {
            if self.witness_cut[n] {
                return self.answer(n, &question, Answer::Unreachable("timeout".into()), TIMEOUT_TICKS);
            }
            question.read = Some(self.held);
            question.due = self.tick + self.chance.below(4);
            self.nodes[n].question = Some(question);
            return;
        };
        let unreachable = Answer::Unreachable("timeout".into());
        if self.witness_cut[n] || self.chance.one_in(20) {
            // It hangs, and may be carried out when its sender believes that it is not.
            self.stray(question.claim, read);
            return self.answer(n, &question, unreachable, TIMEOUT_TICKS);
        }
        if question.claim.judge(read.register).is_some() && read.revision != self.held.revision {
            question.read = None;
            self.nodes[n].question = Some(question);
            return;
        }
        let won = self.swap(question.claim, read);
        let holds = self.held.register;
        if self.chance.one_in(20) {
            return self.answer(n, &question, unreachable, TIMEOUT_TICKS);
        }
        let delay = self.chance.below(3);
        self.answer(n, &question, Answer::Reached { won, holds }, delay);
    }

    fn stray(&mut self, claim: Claim, read: Held) {
        let due = self.tick + self.chance.below(300);
        self.strays.push(Stray { due, claim, read });
    }

    fn swap(&mut self, claim: Claim, read: Held) -> bool {
        let Some(register) = claim.judge(read.register).filter(|_| read.revision == self.held.revision)
        else {
            return false;
        };
        self.held = Held { register: Some(register), revision: self.held.revision + 1 };
        self.trace.push(format!("{:>7} ms witness: {claim:?} -> {register:?}", self.true_us() / 1_000));
        true
    }

    fn answer(&mut self, n: usize, question: &Question, answer: Answer, delay: u64) {
        let event = Event::WitnessAnswered { number: question.number, answer };
        let due = self.tick + delay;
        let node: &mut Node = &mut self.nodes[n];
        node.later(due, event);
    }
}

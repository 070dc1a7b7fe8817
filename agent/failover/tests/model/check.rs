//! The pair as a model for the checker: states, transitions, and what must hold.

use crate::choice::{Choice, Fault};
use crate::setting::Setting;
use crate::world::{Broken, World};
use stateright::{Model, Property};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Within so many ticks without any fault a mended pair is well, or asks.
const MENDED_TICKS: u32 = 120;

pub(crate) const ONE_HOLDER: &str = "never two holders";
pub(crate) const NO_LOSS: &str = "no acknowledged commit is lost";
pub(crate) const WAY_OUT: &str = "every mended state leads to service, or to a question whose answer does";

/// What the checker explores.
pub(crate) struct Pair {
    pub(crate) set: &'static Setting,
    /// From a pair that never served, or from one that is well.
    pub(crate) fresh: bool,
    /// Keys of states from which a way leads on.
    good: Mutex<HashSet<u64>>,
}

impl Pair {
    pub(crate) fn new(set: Setting, fresh: bool) -> Self {
        Self { set: Box::leak(Box::new(set)), fresh, good: Mutex::default() }
    }

    pub(crate) fn root(&self) -> World {
        if self.fresh { World::fresh(self.set) } else { World::well(self.set) }
    }

    /// Does time alone, or the operator's answer to what is asked, lead from here to service? Of a pair
    /// that is mended: to one that is well. Of a node that is left alone: to one that goes on serving,
    /// on either node.
    pub(crate) fn has_way_out(&self, from: &World) -> bool {
        let alone = from.left_alone();
        if alone.is_none() && !from.is_mended() {
            return true;
        }
        let mut world = from.clone();
        let mut walked = Vec::new();
        let mut seen = HashSet::new();
        for _ in 0..MENDED_TICKS {
            let key = world.key();
            let is_at_rest = !seen.insert(key);
            let is_there = match alone {
                Some(_) => is_at_rest && world.holders().count() == 1,
                None => world.is_well(),
            };
            if is_there || world.broken.is_some() || self.lock().contains(&key) {
                self.lock().extend(walked);
                return true;
            }
            if is_at_rest && !answer(&mut world, alone) {
                return false;
            }
            walked.push(key);
            world.pass();
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operator answers the question on one of the nodes, after taking care that the other is off when
/// it is away; false when none is asked, or no answer is taken.
fn answer(world: &mut World, alone: Option<usize>) -> bool {
    for n in 0..2 {
        for fault in [Fault::Failover, Fault::AcceptLoss] {
            let mut answered = world.clone();
            answered.budget = 1;
            if alone.is_some_and(|alone| alone == n) {
                answered.nodes[1 - n].power_off(false);
            }
            if world.nodes[n].question && answered.make(Choice::Fault(fault, n)) {
                *world = answered;
                return true;
            }
        }
    }
    false
}

impl Model for Pair {
    type State = World;
    type Action = Choice;

    fn init_states(&self) -> Vec<World> {
        vec![self.root()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Choice>) {
        if state.broken.is_none() {
            state.choices(actions);
        }
    }

    fn next_state(&self, state: &World, choice: Choice) -> Option<World> {
        let mut next = state.clone();
        next.make(choice).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDER, |_, world: &World| world.broken != Some(Broken::TwoHolders)),
            Property::always(NO_LOSS, |_, world: &World| {
                !matches!(world.broken, Some(Broken::Loss(_) | Broken::SoloUnsaid(_)))
            }),
            Property::always(WAY_OUT, |pair: &Self, world: &World| pair.has_way_out(world)),
        ]
    }
}

/// The choices as a story of what both nodes did.
pub(crate) fn story(pair: &Pair, choices: &[Choice]) -> String {
    let mut world = pair.root();
    world.story = Some(Vec::new());
    for &choice in choices {
        if choice != Choice::Tick
            && let Some(story) = &mut world.story
        {
            story.push(format!("{:>4} s  -- {choice}", world.tick));
        }
        world.make(choice);
    }
    if world.broken.is_none() {
        // Of a dead end the story is that nothing more comes.
        world.story.iter_mut().for_each(|story| story.push("... and time passes".to_owned()));
        for _ in 0..MENDED_TICKS / 3 {
            world.pass();
        }
    }
    let holders: Vec<&str> = world.holders().map(|n| ["a", "b"][n]).collect();
    let lines = world.story.take().unwrap_or_default();
    let script = Choice::write_script(choices);
    format!("{}\nholders: {holders:?}, broken: {:?}\nscript: {script}", lines.join("\n"), world.broken)
}

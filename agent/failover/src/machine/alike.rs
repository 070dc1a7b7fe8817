//! Which machines are alike: a hash of all that decides what a machine will do, for a model checker.
//!
//! Left out: what is only told (sentences, rows, positions, round trips) and numbers that only grow
//! (revisions go in as what is still to be confirmed). Moments stay moments, see [`crate::Time`].

use super::Machine;
use std::hash::{Hash, Hasher};

impl Hash for Machine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.state.hash(state);
        self.next.hash(state);
        self.handed_out.hash(state);
        self.phase.hash(state);
        self.evidence.hash(state);
        self.sent_grant.hash(state);
        self.voice.hash(state);
        self.voice.map(|voice| voice.revision - self.confirmed.min(voice.revision)).hash(state);
        self.opening.hash(state);
        (self.observe, self.maintenance, self.question.is_some()).hash(state);
        (&self.witness, &self.moves).hash(state);
        self.started.hash(state);
        self.now.hash(state);
    }
}

//! Persist, then speak: what the machine wants done can be reached only with the proof that
//! what it decided is on disk.

use crate::{Action, PairState};

/// What follows from one event.
#[derive(Debug)]
#[must_use = "a step that is not carried out leaves the machine waiting"]
pub enum Step {
    /// Nothing to write: carry these out, in order.
    Ready(Vec<Action>),
    /// Write the state first.
    Persist(Pending),
}

/// Actions that wait for a state to be on disk.
#[derive(Debug, Clone)]
#[must_use = "the machine decides nothing before Event::Persisted"]
pub struct Pending {
    pub(crate) state: PairState,
    pub(crate) then: Vec<Action>,
}

impl Pending {
    /// What must be on disk first; [`PairState::to_text`] is its form.
    pub fn state(&self) -> &PairState {
        &self.state
    }

    /// The actions, in order. After them (or before, the order does not matter) the machine gets
    /// [`crate::Event::Persisted`].
    ///
    /// # Panics
    /// When `proof` is of another state: that is a bug of the caller.
    #[must_use]
    pub fn persisted(self, proof: Proof) -> Vec<Action> {
        let Proof { state } = proof;
        assert_eq!(state, self.state, "the proof is of the state this step asked to persist");
        self.then
    }
}

/// Proof that a state is on disk. Made only by who wrote and synced it.
#[derive(Debug)]
pub struct Proof {
    state: PairState,
}

impl Proof {
    /// Runs `write` with the text to store and gives the proof when it succeeds. `write` returns
    /// only after the text is durable (written, synced, renamed, directory synced).
    ///
    /// # Errors
    /// What `write` returned; nothing is proven then.
    pub fn by_writing<E>(state: &PairState, write: impl FnOnce(&str) -> Result<(), E>) -> Result<Self, E> {
        write(&state.to_text())?;
        Ok(Self { state: state.clone() })
    }
}

//! Lockstep's failover decisions: pure functions of time and events.
//!
//! `heartbeat, probes -> detector -> table -> machine -> effects`: this crate is the middle. It
//! takes time as an argument and returns what to do; it has no clock, socket, file or randomness.
//! [`Machine`] decides for a node, [`Pulse`] (with [`Lease`]) is the part that lives in the
//! heartbeat thread.

pub mod action;
pub mod detector;
pub mod diagram;
pub mod event;
pub mod evidence;
pub mod grant;
mod lease;
mod machine;
pub mod profile;
mod pulse;
mod refusal;
pub mod round_trip;
pub mod solo;
pub mod state;
pub mod status;
mod step;
pub mod table;
mod time;
pub mod witness;

pub use self::{
    action::{Action, Engine, Voice},
    event::{Event, Path, Request},
    lease::{Judgement, Lapse, Lease, Permit},
    machine::{Config, Fact, FailoverType, Forecast, Foreseen, Machine, Role},
    profile::{Profile, Timing},
    pulse::{Pulse, Report},
    refusal::Refusal,
    solo::SoloAfter,
    state::{PairState, StateError},
    status::Status,
    step::{Pending, Proof, Step},
    time::Time,
};

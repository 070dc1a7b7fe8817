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
pub mod state;
pub mod status;
mod step;
pub mod table;
mod time;

pub use action::{Action, Engine, Voice};
pub use event::{Event, Path, Request};
pub use lease::{Judgement, Lapse, Lease, Permit};
pub use machine::{Config, FailoverType, Machine, Role};
pub use profile::{Profile, Timing};
pub use pulse::{Pulse, Report};
pub use refusal::Refusal;
pub use state::{PairState, StateError};
pub use status::Status;
pub use step::{Pending, Proof, Step};
pub use time::Time;

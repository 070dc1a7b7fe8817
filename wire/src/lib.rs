//! What two Lockstep nodes say to each other: ids, epochs, positions, frames and messages.
//!
//! Pure: no socket, clock, file or async. Everything here is decided by bytes alone, so that
//! the same code can be fuzzed, replayed and model checked. Who sends what, and when, is
//! `lockstep-engine`'s (data connection) and `lockstep`'s (heartbeats).

mod deframer;
mod epoch;
mod frame;
mod heartbeat;
mod ids;
mod messages;
mod position;
mod tree;
mod version;

pub use deframer::Deframer;
pub use epoch::Epoch;
pub use frame::{Frame, FrameError, FrameHeader, HEADER_BYTES, MAX_BODY_BYTES};
pub use heartbeat::{Heartbeat, Intent};
pub use ids::{DatabaseName, IdError, NodeId, PairId, SessionId, TreeName};
pub use messages::*;
pub use position::{Chain, FrameNo, Position, Salts, WalGeneration};
pub use tree::*;
pub use version::{ProtocolVersion, VERSIONS};

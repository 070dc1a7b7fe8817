//! The data connection: pinned TLS, framing, priorities and pacing, compression, reconnects.
//!
//! `capture -> link -> (wire) -> link -> mirror`. [`Link`] makes one connection after the other,
//! each with a [`Sender`] and a [`Receiver`] of wire messages; the pair session speaks on it. The
//! link knows the epoch and never why it changed, and looks into no message it does not answer itself.

mod backoff;
mod compression;
mod connection;
mod connector;
mod error;
mod hello;
mod identity;
mod pacing;
mod queue;
mod reader;
mod socket;
mod stats;
mod tls;
mod writer;

pub use compression::{CompressionSetting, Reason, Samples, decide};
pub use connection::{EpochCell, LinkTiming, Received, Receiver, Sender};
pub use connector::{Established, Link, LinkConfig};
pub use error::LinkError;
pub use hello::Greeting;
pub use identity::{CERTIFICATE_FILE, Fingerprint, Identity, IdentityError, KEY_FILE};
pub use pacing::{Pacer, RateMeter};
pub use socket::{Path, PathConfig};
pub use stats::{LinkSnapshot, LinkStats, RoundTrip};
pub use tls::{HeartbeatKeys, Side};

#[cfg(test)]
mod connection_tests;

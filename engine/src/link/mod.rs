//! The data connection: pinned TLS, framing, priorities and pacing, compression, reconnects.

mod identity;

pub use identity::{CERTIFICATE_FILE, Fingerprint, Identity, IdentityError, KEY_FILE};

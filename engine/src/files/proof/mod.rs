//! Proof that two trees are equal: hashes over names, metadata and content, directory by directory.
//!
//! `merkle` is pure and the same on both nodes; the active feeds it from its index, the standby from its disk
//! ([`Prover`]). Content that was proven when a file was put in place is remembered ([`Remembered`]), so that a
//! proof costs a look at every file and not a reading; a deep one reads, past the page cache, what the disk holds.

mod merkle;
mod prover;
mod remembered;

pub use merkle::{BelowHash, DirectoryHasher, entry_hash};
pub use prover::{Placed, Prover};
pub use remembered::Remembered;

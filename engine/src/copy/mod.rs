//! First copy, page-difference resync (standby's half) and quarantine.
//!
//! The pages themselves are written by [`crate::mirror::Mirror`]; here is what must happen before
//! any of them is touched on a node that was active: its own data is kept.

pub mod quarantine;

//! The commit barrier between processes: the agent tells every program on its node which commits are safe.
//!
//! Stands between the data path (which knows what the standby holds) and the shim inside an
//! application (which knows what it has just committed). The agent publishes on a [`Board`], one
//! file of shared memory per database, that programs map read-only: nothing an application does can
//! damage it, and a restarted agent goes on with the same file, so waiters need not reconnect. The
//! other way goes a [`Poke`]: one datagram when a commit frame has been written.
//!
//! It decides nothing: when commits may be released is the engine's, when to wait is the shim's.

mod board;
mod layout;
mod mark;
mod poke;
mod reader;

pub use board::Board;
pub use layout::{BOARD_SUFFIX, MARKS_KEPT, POKE_SUFFIX, Rule};
pub use mark::Mark;
pub use poke::{Poke, PokeReceiver, through_directory};
pub use reader::{BoardReader, Verdict};

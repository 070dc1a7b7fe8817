//! The bytes of a board: what both sides agree on.
//!
//! Every word is an atomic, because the other side is another process. The file has a fixed size and
//! never shrinks, so that no reader gets SIGBUS.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// A board's file is `<runtime dir>/<pair>/<database>` with this behind it.
pub const BOARD_SUFFIX: &str = ".board";

/// The socket beside it for pokes.
pub const POKE_SUFFIX: &str = ".poke";

/// First word of a finished board. The last digit is the layout's version.
pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"LSBOARD1");

/// Marks kept: the commits of one acknowledgement that a waiter must still find when it looks, far
/// more than programs that wait at the same time. One pushed out costs a request on the agent's socket.
pub const MARKS_KEPT: usize = 1024;

pub(crate) const SLOTS: usize = MARKS_KEPT;

/// Longest name of a pair or database, and longest path, in bytes.
pub(crate) const NAME_BYTES: usize = 128;
pub(crate) const PATH_BYTES: usize = 1024;

/// What a program does with a commit that is on this node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Rule {
    /// Wait until the board shows it.
    Hold = 0,
    /// Return: the agent has durably recorded that this node runs alone.
    Solo = 1,
    /// Return: the pair's commit mode asks for nothing more.
    Local = 2,
    /// Wait, and begin no other write transaction: this node may not acknowledge commits now.
    Refuse = 3,
}

impl Rule {
    pub(crate) fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Solo,
            2 => Self::Local,
            3 => Self::Refuse,
            // An unknown word of a later agent: waiting is always safe.
            _ => Self::Hold,
        }
    }
}

/// One mark. `turn` is odd while the agent writes it, so that a reader never takes half of it.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) turn: AtomicU32,
    pub(crate) frame: AtomicU32,
    pub(crate) salts: AtomicU64,
    pub(crate) chain: AtomicU64,
    pub(crate) session: AtomicU64,
}

/// The whole board. A mark's slot is its frame number modulo [`SLOTS`].
#[repr(C)]
pub(crate) struct Layout {
    /// [`MAGIC`], written last.
    pub(crate) magic: AtomicU64,
    /// Device and inode of the database file; 0 while there is none.
    pub(crate) device: AtomicU64,
    pub(crate) inode: AtomicU64,
    pub(crate) pair_bytes: AtomicU32,
    pub(crate) database_bytes: AtomicU32,
    pub(crate) path_bytes: AtomicU32,
    /// 1: wait before anybody can read the commit, not after.
    pub(crate) strict: AtomicU32,
    pub(crate) pair: [AtomicU8Cell; NAME_BYTES],
    pub(crate) database: [AtomicU8Cell; NAME_BYTES],
    pub(crate) path: [AtomicU8Cell; PATH_BYTES],
    /// Everything above changes hardly ever; what follows has its own cache line.
    pub(crate) hot: Hot,
    pub(crate) slots: [Slot; SLOTS],
}

/// One byte of a name.
pub(crate) type AtomicU8Cell = std::sync::atomic::AtomicU8;

/// What changes with every acknowledgement.
#[repr(C, align(64))]
pub(crate) struct Hot {
    /// The futex: grows with every change of anything below.
    pub(crate) change: AtomicU32,
    /// A [`Rule`].
    pub(crate) rule: AtomicU32,
    /// Grows when a standby comes or goes: marks of an earlier session count no more.
    pub(crate) session: AtomicU64,
}

/// Size of a board's file, bytes.
pub(crate) const BOARD_BYTES: usize = size_of::<Layout>();

/// Which of the futex's 32 wake-up bits belongs to a frame.
pub(crate) fn wake_bit(frame: u32) -> u32 {
    1 << (frame % 32)
}

pub(crate) fn slot_of(frame: u32) -> usize {
    frame as usize % SLOTS
}

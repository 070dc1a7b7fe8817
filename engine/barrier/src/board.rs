//! The agent's side: publish what is safe.

use crate::layout::{BOARD_BYTES, Layout, MAGIC, NAME_BYTES, PATH_BYTES, Rule, slot_of, wake_bit};
use crate::mark::Mark;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The board of one database on the active node. Only one process may hold it: the agent.
#[derive(Debug)]
pub struct Board {
    map: MmapRaw,
    path: PathBuf,
}

impl Board {
    /// Makes the board or goes on with one that an earlier agent left; every mark on it is void and the
    /// rule is [`Rule::Hold`]. Waiters of an earlier agent go on waiting on the same file.
    ///
    /// # Errors
    /// What the file system says; `InvalidInput` for names longer than a board can hold.
    pub fn create(file: &Path, pair: &str, database: &str, path: &Path, strict: bool) -> io::Result<Self> {
        let path_bytes = path.as_os_str().as_bytes();
        if pair.len() > NAME_BYTES || database.len() > NAME_BYTES || path_bytes.len() > PATH_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name is too long for a commit board"));
        }
        if !is_ours(file) {
            make(file)?;
        }
        let fd = std::fs::OpenOptions::new().read(true).write(true).open(file)?;
        let board = Self { map: MmapOptions::new().len(BOARD_BYTES).map_raw(&fd)?, path: file.to_owned() };
        board.name(pair, database, path_bytes, strict);
        board.void(Rule::Hold);
        Ok(board)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, pair: &str, database: &str, path: &[u8], strict: bool) {
        let layout = self.layout();
        put(&layout.pair, &layout.pair_bytes, pair.as_bytes());
        put(&layout.database, &layout.database_bytes, database.as_bytes());
        put(&layout.path, &layout.path_bytes, path);
        layout.strict.store(u32::from(strict), Ordering::Relaxed);
        layout.magic.store(MAGIC, Ordering::Release);
    }

    /// Says which file the database is, so that programs that see it under another path (in a container) find
    /// the board; zeros while there is none.
    pub fn set_file(&self, device: u64, inode: u64) {
        self.layout().device.store(device, Ordering::Relaxed);
        self.layout().inode.store(inode, Ordering::Release);
    }

    /// Changes the rule and wakes everybody.
    pub fn set_rule(&self, rule: Rule) {
        if self.layout().hot.rule.swap(rule as u32, Ordering::AcqRel) != rule as u32 {
            self.wake(u32::MAX);
        }
    }

    /// A standby came or went: earlier marks count no more, every waiter looks again.
    pub fn void(&self, rule: Rule) {
        let hot = &self.layout().hot;
        hot.session.fetch_add(1, Ordering::AcqRel);
        hot.rule.store(rule as u32, Ordering::Release);
        self.wake(u32::MAX);
    }

    /// These commits are as safe as the pair's commit mode asks. The caller has made sure that this node may
    /// acknowledge now.
    pub fn publish(&self, marks: impl IntoIterator<Item = Mark>) {
        let session = self.layout().hot.session.load(Ordering::Acquire);
        let mut bits = 0;
        for mark in marks {
            let slot = &self.layout().slots[slot_of(mark.frame)];
            let turn = slot.turn.load(Ordering::Relaxed) | 1;
            slot.turn.store(turn, Ordering::Relaxed);
            std::sync::atomic::fence(Ordering::Release);
            slot.frame.store(mark.frame, Ordering::Relaxed);
            slot.salts.store(mark.salts, Ordering::Relaxed);
            slot.chain.store(mark.chain, Ordering::Relaxed);
            slot.session.store(session, Ordering::Relaxed);
            slot.turn.store(turn.wrapping_add(1), Ordering::Release);
            bits |= wake_bit(mark.frame);
        }
        if bits != 0 {
            self.wake(bits);
        }
    }

    fn wake(&self, bits: u32) {
        let change = &self.layout().hot.change;
        change.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the futex word lives as long as the mapping; FUTEX_WAKE_BITSET reads no other memory.
        unsafe {
            let none = std::ptr::null::<u32>();
            let all = libc::c_int::MAX;
            libc::syscall(libc::SYS_futex, change.as_ptr(), libc::FUTEX_WAKE_BITSET, all, none, none, bits);
        }
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping is BOARD_BYTES long and page-aligned, any bytes are a valid Layout of
        // atomics, and every access through it is atomic.
        unsafe { &*self.map.as_ptr().cast::<Layout>() }
    }
}

fn put(to: &[AtomicU8], length: &AtomicU32, bytes: &[u8]) {
    for (cell, byte) in to.iter().zip(bytes) {
        cell.store(*byte, Ordering::Relaxed);
    }
    length.store(bytes.len() as u32, Ordering::Release);
}

/// A board of this layout is there already.
fn is_ours(file: &Path) -> bool {
    let Ok(bytes) = std::fs::read(file) else { return false };
    bytes.len() == BOARD_BYTES && bytes[..8] == MAGIC.to_ne_bytes()
}

/// A new file takes the name at once, whole: a reader never maps a short one.
fn make(file: &Path) -> io::Result<()> {
    let new = file.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    // Readable for the group that may ask on the socket too, writable for the agent alone.
    let fd = rustix::fs::open(&new, flags, Mode::from_raw_mode(0o640))?;
    // Whatever the umask says.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o640))?;
    rustix::fs::ftruncate(&fd, BOARD_BYTES as u64)?;
    std::fs::rename(&new, file)
}

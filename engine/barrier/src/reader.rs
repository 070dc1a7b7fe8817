//! A program's side: find the board of a database, look, wait.

use crate::layout::{BOARD_BYTES, Layout, MAGIC, Rule, slot_of, wake_bit};
use crate::mark::Mark;
use memmap2::{Mmap, MmapOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

/// What a look or a wait has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The commit is as safe as the pair's commit mode asks.
    Safe,
    /// Nothing need be waited for: [`Rule::Solo`] or [`Rule::Local`].
    Alone,
    /// A standby came or went since the wait began: only the agent's socket can tell now.
    Void,
    /// Nothing new within the time.
    Waiting,
}

/// A board mapped read-only.
#[derive(Debug)]
pub struct BoardReader {
    map: Mmap,
    path: PathBuf,
    identity: (u64, u64),
}

impl BoardReader {
    /// Maps a board.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` when it is no board of this version.
    pub fn open(file: &Path) -> io::Result<Self> {
        let fd = std::fs::File::open(file)?;
        let metadata = fd.metadata()?;
        if metadata.len() != BOARD_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a commit board of this version"));
        }
        // SAFETY: the file never shrinks (its size is fixed by the layout) and is only read as atomics.
        let map = unsafe { MmapOptions::new().len(BOARD_BYTES).map(&fd)? };
        let identity = (metadata.dev(), metadata.ino());
        let reader = Self { map, path: file.to_owned(), identity };
        if reader.layout().magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a commit board of this version"));
        }
        Ok(reader)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// False: the agent has made another file of this name, which must be opened instead.
    pub fn is_current(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity)
    }

    /// Pair and database, as the agent's socket calls them.
    pub fn names(&self) -> (String, String) {
        let layout = self.layout();
        let text = |cells, length| String::from_utf8_lossy(&bytes(cells, length)).into_owned();
        (text(&layout.pair, &layout.pair_bytes), text(&layout.database, &layout.database_bytes))
    }

    /// The database file as the agent sees it.
    pub fn database_path(&self) -> PathBuf {
        let layout = self.layout();
        std::ffi::OsString::from_vec(bytes(&layout.path, &layout.path_bytes)).into()
    }

    /// Device and inode of the database file; `None` while there is none.
    pub fn database_file(&self) -> Option<(u64, u64)> {
        let inode = self.layout().inode.load(Ordering::Acquire);
        (inode != 0).then(|| (self.layout().device.load(Ordering::Relaxed), inode))
    }

    /// Wait before anybody can read the commit, not after.
    pub fn is_strict(&self) -> bool {
        self.layout().strict.load(Ordering::Relaxed) != 0
    }

    /// The rule now.
    pub fn rule(&self) -> Rule {
        Rule::from_word(self.layout().hot.rule.load(Ordering::Acquire))
    }

    /// Which standby's marks count now; to be read before the commit and given to [`Self::wait`].
    pub fn session(&self) -> u64 {
        self.layout().hot.session.load(Ordering::Acquire)
    }

    /// Looks once.
    pub fn look(&self, mark: &Mark, session: u64) -> Verdict {
        match self.rule() {
            Rule::Solo | Rule::Local => return Verdict::Alone,
            Rule::Hold | Rule::Refuse => {}
        }
        if self.shows(mark) {
            Verdict::Safe
        } else if self.session() != session {
            Verdict::Void
        } else {
            Verdict::Waiting
        }
    }

    /// Waits until [`Self::look`] has an answer, at most `timeout`.
    pub fn wait(&self, mark: &Mark, session: u64, timeout: Duration) -> Verdict {
        let until = std::time::Instant::now() + timeout;
        loop {
            let change = self.layout().hot.change.load(Ordering::Acquire);
            let verdict = self.look(mark, session);
            let left = until.saturating_duration_since(std::time::Instant::now());
            if verdict != Verdict::Waiting || left.is_zero() {
                return verdict;
            }
            self.sleep(change, wake_bit(mark.frame), left);
        }
    }

    fn shows(&self, mark: &Mark) -> bool {
        let slot = &self.layout().slots[slot_of(mark.frame)];
        let turn = slot.turn.load(Ordering::Acquire);
        let found = Mark {
            frame: slot.frame.load(Ordering::Relaxed),
            salts: slot.salts.load(Ordering::Relaxed),
            chain: slot.chain.load(Ordering::Relaxed),
        };
        let session = slot.session.load(Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Acquire);
        let whole = turn.is_multiple_of(2) && slot.turn.load(Ordering::Relaxed) == turn;
        whole && found == *mark && session == self.session()
    }

    fn sleep(&self, change: u32, bit: u32, left: Duration) {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: libc writes one timespec; it is there under every tool that a program may run in.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let nanos = now.tv_nsec as u64 + u64::from(left.subsec_nanos());
        let until = libc::timespec {
            tv_sec: now.tv_sec + left.as_secs() as i64 + (nanos / 1_000_000_000) as i64,
            tv_nsec: (nanos % 1_000_000_000) as i64,
        };
        let word = self.layout().hot.change.as_ptr();
        // SAFETY: the futex word lives as long as the mapping, `until` as long as the call. Whatever ends
        // the sleep (also a signal), the caller looks again.
        unsafe {
            let none = std::ptr::null::<u32>();
            libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT_BITSET, change, &until, none, bit);
        }
    }

    fn layout(&self) -> &Layout {
        // SAFETY: as in the agent's side: the mapping is long enough, aligned, and read as atomics only.
        unsafe { &*self.map.as_ptr().cast::<Layout>() }
    }
}

fn bytes(cells: &[AtomicU8], length: &AtomicU32) -> Vec<u8> {
    let length = (length.load(Ordering::Acquire) as usize).min(cells.len());
    cells[..length].iter().map(|cell| cell.load(Ordering::Relaxed)).collect()
}

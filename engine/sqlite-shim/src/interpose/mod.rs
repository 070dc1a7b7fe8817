//! The way in for programs that bundle SQLite: preloaded, this library stands between them and libc.
//!
//! Only what SQLite's unix file layer does with `-wal` and `-shm` files is looked at ([`files`] says
//! which descriptors those are); every other call goes straight on. A transaction is seen by its
//! lock: byte 120 of the `-shm` file is SQLite's write lock, taken before the first frame is written
//! and released after the commit is published. The wait follows the release, so that other writers
//! go on meanwhile and nothing is waited for that was not committed. This holds for every setting of
//! `synchronous`, also where no sync comes with a commit.
//!
//! Source of the order of calls: SQLite's wal.c (`walWriteOneFrame`, `walIndexWriteHdr`,
//! `sqlite3WalEndWriteTransaction`) and os_unix.c (`unixShmLock`). docs/decisions tells why it is not
//! the sync that waits.

// Its own tests must go on with libc's.
#[cfg(not(test))]
mod calls;
mod files;
#[cfg(not(test))]
mod real;

use std::cell::Cell;

thread_local! {
    static UNSEEN: Cell<u32> = const { Cell::new(0) };
}

/// Files that `open` opens are seen otherwise already (by SQLite's own file interface).
pub(crate) fn unseen<T>(open: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = UNSEEN.try_with(|depth| depth.set(depth.get() - 1));
        }
    }
    // A thread that is ending opens no database.
    let _back = UNSEEN.try_with(|depth| depth.set(depth.get() + 1)).ok().map(|()| Back);
    open()
}

fn is_unseen() -> bool {
    UNSEEN.try_with(|depth| depth.get() > 0).unwrap_or(true)
}

//! Which syncs the data thread makes itself, and which it leaves to the ring. Pure.
//!
//! The ring hands every sync, and on most file systems every buffered write, to a kernel thread: two
//! changes of thread that cost a small commit about as much as its disk. A quick disk is
//! therefore waited for in the thread itself. One sync that takes long sends the following ones to the
//! ring again, so that a slow disk delays the thread's other work once, not always.

use std::cell::Cell;
use std::time::Duration;

/// More than this is left to the ring: copying it would take longer than the change of threads.
pub(super) const SMALL_BYTES: u64 = 128 << 10;

/// A sync as short as this may hold the thread: short beside every deadline it has.
const BRISK: Duration = Duration::from_millis(1);

/// After a longer one, so many brisk ones in a row bring the next into the thread again.
const BRISK_SYNCS: u32 = 64;

/// How long the syncs of one file take.
#[derive(Debug, Default)]
pub(super) struct Pace {
    unsynced_bytes: Cell<u64>,
    brisk_wanted: Cell<u32>,
}

impl Pace {
    /// So much was written. True: little enough for the thread itself.
    pub(super) fn write(&self, bytes: u64) -> bool {
        self.unsynced_bytes.set(self.unsynced_bytes.get().saturating_add(bytes));
        bytes <= SMALL_BYTES
    }

    /// A sync begins. True: the thread may make it itself.
    pub(super) fn sync(&self) -> bool {
        self.unsynced_bytes.replace(0) <= SMALL_BYTES && self.brisk_wanted.get() == 0
    }

    /// A sync has ended, wherever it was made.
    pub(super) fn took(&self, time: Duration) {
        let wanted = if time > BRISK { BRISK_SYNCS } else { self.brisk_wanted.get().saturating_sub(1) };
        self.brisk_wanted.set(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sync_sends_the_next_ones_to_the_ring_until_the_disk_is_quick_again() {
        let pace = Pace::default();
        assert!(pace.sync());
        pace.took(BRISK * 2);
        for _ in 0..BRISK_SYNCS {
            assert!(!pace.sync());
            pace.took(BRISK);
        }
        assert!(pace.sync());
    }

    #[test]
    fn the_sync_of_much_data_is_left_to_the_ring() {
        let pace = Pace::default();
        assert!(pace.write(SMALL_BYTES) && pace.sync());
        assert!(pace.write(SMALL_BYTES) && pace.write(1));
        assert!(!pace.sync());
        assert!(!pace.write(SMALL_BYTES + 1) && !pace.sync());
        assert!(pace.sync(), "what was synced counts no more");
    }
}

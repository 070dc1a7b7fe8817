//! Which run of this machine it is: a standby's word on what was published counts only within one.
//!
//! A commit that was published before the power failed may be gone after it (without
//! `synchronous=FULL`); while the machine runs, what SQLite has published stays.

use xxhash_rust::xxh3::xxh3_64;

/// Where Linux names its run.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Names this run of the machine; 0 when it cannot be read.
pub(super) fn boot() -> u64 {
    std::fs::read(BOOT_ID).map_or(0, |id| xxh3_64(&id))
}

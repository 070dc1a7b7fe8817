//! The agent's only clock: CLOCK_BOOTTIME, which goes on counting while the machine sleeps.
//!
//! Leases, grants and heartbeats are dated with it. Wall-clock time is for people and is read
//! where a log line is written, never for a decision.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since boot, suspended time included.
pub fn boottime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("time since boot is not negative");
    let nanoseconds = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    seconds * 1_000_000 + nanoseconds / 1_000
}

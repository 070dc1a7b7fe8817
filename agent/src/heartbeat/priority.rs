//! What keeps the heartbeat thread from waiting: SCHED_FIFO and locked memory, where allowed.
//!
//! Both are asked for and neither is required; what was refused is said in one sentence.

use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;

/// Above ordinary real-time work, below the kernel's own threads (50 and up for interrupts).
const FIFO_PRIORITY: i32 = 40;

/// Nothing asked for.
pub(super) fn ordinary() -> String {
    "heartbeats run at ordinary priority".to_owned()
}

/// Raises the calling thread; says what was granted.
pub(super) fn raise() -> String {
    let fifo = fifo().map_or_else(
        |error| format!("SCHED_FIFO refused ({error}; needs CAP_SYS_NICE)"),
        |()| format!("SCHED_FIFO {FIFO_PRIORITY}"),
    );
    let locked = lock_memory().map_or_else(
        |error| format!("memory not locked ({error}; needs CAP_IPC_LOCK and CAP_SYS_RESOURCE)"),
        |()| "memory locked".to_owned(),
    );
    format!("heartbeats: {fifo}, {locked}")
}

fn fifo() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: FIFO_PRIORITY };
    // RESET_ON_FORK: whatever this thread might start must not inherit it.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter lives through the call; 0 names the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn lock_memory() -> io::Result<()> {
    // Locking future pages under a limit would make some later allocation fail, so the limit
    // goes first; without the right to lift it nothing is locked.
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    // ONFAULT: what was touched stays, what was only mapped is not read in.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: mlockall takes flags only.
    match unsafe { libc::mlockall(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

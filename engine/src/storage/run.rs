//! Runs the data thread's future on the best runtime there is and says which one that was.
//!
//! `tokio::net`, timers and `spawn_local` work inside both runtimes. io_uring may be forbidden by the
//! kernel's configuration, a container's seccomp filter or its age; then blocking calls take over.

use super::{Backend, BlockingDisk, UringDisk};
use std::{fmt, io};

/// Which disk access to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where it works, else blocking calls.
    #[default]
    Best,
    /// Blocking calls.
    Blocking,
}

/// Which backend a data thread got and why; its text is for log and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendReport {
    /// io_uring works.
    Uring,
    /// The configuration asks for blocking calls.
    BlockingByChoice,
    /// io_uring is not available.
    BlockingWithoutUring {
        /// What the kernel said.
        cause: String,
    },
}

impl fmt::Display for BackendReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring => write!(f, "io_uring"),
            Self::BlockingByChoice => write!(f, "blocking calls (configured)"),
            Self::BlockingWithoutUring { cause } => {
                write!(f, "blocking calls (io_uring is not available: {cause})")
            }
        }
    }
}

/// Entries of the ring. The data thread has at most one batch, one flush and one fold of
/// 64 reads per database in flight; a full ring only delays.
const RING_ENTRIES: u32 = 256;

/// Runs `work` on this thread to its end. The future must finish every disk operation it began before
/// it returns: the ring is torn down after it.
///
/// # Errors
/// When not even an ordinary runtime can be made.
pub fn run<T, F>(choice: BackendChoice, work: impl FnOnce(Backend, BackendReport) -> F) -> io::Result<T>
where
    F: Future<Output = T>,
{
    let report = match choice {
        BackendChoice::Blocking => BackendReport::BlockingByChoice,
        // `tokio_uring::start` would panic where io_uring is missing.
        BackendChoice::Best => {
            match tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES)) {
                Ok(runtime) => {
                    return Ok(runtime.block_on(work(Backend::Uring(UringDisk), BackendReport::Uring)));
                }
                Err(error) => BackendReport::BlockingWithoutUring { cause: error.to_string() },
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let disk = Backend::Blocking(BlockingDisk::default());
    Ok(local.block_on(&runtime, work(disk, report)))
}

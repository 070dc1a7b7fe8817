//! Active: notices what happens to a tree and marks it. Correctness never depends on it having seen everything.
//!
//! A source (inotify, or a fanotify mark of the whole file system) runs on a thread of its own and fills one set of
//! marks ([`Dirty`]); what it cannot tell (queue overflow, errors, its beginning) it marks as "everything". Stores
//! through memory maps raise no event until the map is gone: whoever looks at the marks sweeps now and then.
//! A cookie in the hidden directory, awaited, proves that every earlier event was marked.

mod dirty;
mod inotify;

pub use dirty::{Cause, Dirty, Mark};

use super::disk::Disk;
use super::rules::Rules;
use super::{HIDDEN_DIR, TreePath};
use rustix::event::EventfdFlags;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Names of cookies begin with this.
const COOKIE: &str = "cookie.";

/// What sources tell.
pub trait Listener: Send + Sync + 'static {
    /// Gives access to the marks, and wakes whoever looks at them when that ends.
    fn mark(&self, change: &mut dyn FnMut(&mut Dirty));
    /// The cookie `number` was seen: all that happened before it is marked.
    fn cookie(&self, number: u64);
    /// The root is gone or is another directory now.
    fn root_lost(&self);
}

/// Where events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One watch per directory.
    Inotify,
    /// One mark for the whole file system.
    Fanotify,
}

impl Source {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Fanotify => "fanotify",
        }
    }
}

/// What a source works with.
struct Job {
    disk: Disk,
    rules: Arc<Rules>,
    listener: Arc<dyn Listener>,
    stop: Arc<Stop>,
}

/// Ends a source's thread.
struct Stop {
    raised: OwnedFd,
    set: AtomicBool,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }
}

/// A running source. Dropping it ends its thread.
pub struct Watch {
    source: Source,
    hidden: PathBuf,
    cookies: AtomicU64,
    stop: Arc<Stop>,
    thread: Option<std::thread::JoinHandle<()>>,
    fault: Arc<Mutex<Option<String>>>,
}

impl Watch {
    /// Begins to watch the tree at `root` with the best source there is, or with `only`. Everything is marked once
    /// the watches stand.
    ///
    /// # Errors
    /// The root cannot be opened, or no source can be had.
    pub fn start(
        root: &Path,
        rules: Arc<Rules>,
        listener: Arc<dyn Listener>,
        only: Option<Source>,
    ) -> std::io::Result<Self> {
        let hidden = root.join(std::ffi::OsStr::new(".lockstep"));
        debug_assert_eq!(HIDDEN_DIR, b".lockstep");
        make_hidden(&hidden)?;
        let raised = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(Stop { raised, set: AtomicBool::new(false) });
        let job = Job { disk: Disk::open(root)?, rules, listener, stop: stop.clone() };
        let fault = Arc::new(Mutex::new(None));
        let told = fault.clone();
        if only == Some(Source::Fanotify) {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let source = inotify::Watcher::new(job)?;
        let thread =
            std::thread::Builder::new().name("files-watch".into()).spawn(move || source.run(&told))?;
        let thread = Some(thread);
        Ok(Self { source: Source::Inotify, hidden, cookies: AtomicU64::new(0), stop, thread, fault })
    }

    /// Where its events come from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Writes a cookie; [`Listener::cookie`] is told its number once everything before is marked.
    ///
    /// # Errors
    /// The hidden directory cannot be written to.
    pub fn send_cookie(&self) -> std::io::Result<u64> {
        let number = self.cookies.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.hidden.join(format!("{COOKIE}{number}"));
        std::fs::File::create(&path)?;
        std::fs::remove_file(&path)?;
        Ok(number)
    }

    /// What it cannot watch now, in a sentence with the remedy.
    pub fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.set.store(true, Ordering::Release);
        // Full means that it was raised before.
        let _ = rustix::io::write(&self.stop.raised, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hidden directory, for this process alone.
fn make_hidden(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            for left in std::fs::read_dir(path)?.flatten() {
                // A cookie that a killed process left.
                if left.file_name().as_encoded_bytes().starts_with(COOKIE.as_bytes()) {
                    let _ = std::fs::remove_file(left.path());
                }
            }
            Ok(())
        }
        made => made,
    }
}

/// The number of a cookie by its name.
fn cookie_number(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name).ok()?.strip_prefix(COOKIE)?.parse().ok()
}

impl Job {
    /// An event of the entry `name` in `directory`.
    fn note(&self, dirty: &mut Dirty, directory: &TreePath, name: &[u8], cause: Cause, now: Instant) {
        let Ok(path) = directory.join(name) else { return };
        if !self.rules.includes(&path) {
            return;
        }
        dirty.note(path, cause, now);
        if cause == Cause::Named {
            // Its modification time changed with that.
            dirty.note(directory.clone(), cause, now);
        }
    }
}

#[cfg(test)]
mod tests;

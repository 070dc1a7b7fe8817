//! What ends the capture thread's sleep: a command, a free permit, a poke, a write to WAL or database, a timer.
//!
//! inotify is polled in the thread itself: another thread in between would cost each commit a
//! hand-over. A hint says only that *something* was written: the wal-index changes through shared
//! memory a moment later, and without a hint. So a hint is followed by looks at growing intervals.
//! A poke says more: a whole commit frame stands in the WAL, and somebody will wait for it. Once that is
//! shipped nobody waits for the wal-index: it is looked at seldom, and hints, of which each commit makes
//! several, are not listened to until no poke has come for a while.

use super::CaptureError;
use lockstep_barrier::{Mark, PokeReceiver};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

/// First look after a hint, which comes before its commit: about when a quick disk has synced it and it is published.
/// Earlier looks find it sooner only without a sync, and take the processor from the very commit they wait for.
const FIRST_LOOK_US: u64 = 100;

/// First look after a commit that was shipped before its publication: a local commit on a quick disk is
/// published by then, and a program that goes on committing pokes again sooner.
const FIRST_LAZY_LOOK_US: u64 = 400;

/// Timer slack of the thread; the default of 50 us is longer than the first look.
const TIMER_SLACK_NS: u64 = 1_000;

/// Wakes the capture thread from elsewhere.
#[derive(Debug)]
pub(super) struct Signal(OwnedFd);

impl Signal {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn raise(&self) {
        // Full means that a wake-up is waiting already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}

/// The sleep of the capture thread.
#[derive(Debug)]
pub(super) struct Wakeup {
    signal: Arc<Signal>,
    hints: Option<OwnedFd>,
    pokes: Option<Arc<PokeReceiver>>,
    /// A poke waits to be read.
    poked: bool,
    looks: u32,
    first_look_us: u64,
}

impl Wakeup {
    /// Watches the files where inotify can be had; the timer works without.
    pub(super) fn new(signal: Arc<Signal>, paths: &[PathBuf], pokes: Option<Arc<PokeReceiver>>) -> Self {
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS)) {
            tracing::debug!(%error, "timer slack stays at its default");
        }
        let hints = watch(paths).inspect_err(|error| {
            tracing::warn!(%error, "no inotify: commits are noticed by the timer (raise fs.inotify.max_user_instances)");
        });
        Self { signal, hints: hints.ok(), pokes, poked: true, looks: 0, first_look_us: FIRST_LOOK_US }
    }

    /// inotify works.
    pub(super) fn has_hints(&self) -> bool {
        self.hints.is_some()
    }

    /// A commit frame that a program has told of since the last call.
    pub(super) fn next_poke(&mut self) -> Option<Mark> {
        if !self.poked {
            return None;
        }
        let poke = self.pokes.as_ref().and_then(|pokes| pokes.next());
        self.poked = poke.is_some();
        poke
    }

    /// Something was found: the next sleep waits for a hint again, unless programs poke.
    pub(super) fn found(&mut self) {
        self.looks = u32::from(self.first_look_us == FIRST_LAZY_LOOK_US);
    }

    /// The commit that a program has told of is shipped.
    pub(super) fn prepared(&mut self) {
        (self.looks, self.first_look_us) = (1, FIRST_LAZY_LOOK_US);
    }

    /// Something was in the way: the next sleep is short.
    pub(super) fn look_soon(&mut self) {
        self.looks = self.looks.max(1);
    }

    /// Sleeps until there is something to look at, at most `poll_ms`. True: nothing but the timer
    /// ended a full sleep.
    pub(super) fn sleep(&mut self, poll_ms: u32, path: &Path) -> Result<bool, CaptureError> {
        let longest = Duration::from_millis(u64::from(poll_ms.max(1)));
        let look = self.next_look();
        let listening = look.is_none() && self.hints.is_some();
        let timeout = look.map_or(longest, |look| look.min(longest));
        if timeout == longest {
            (self.looks, self.first_look_us) = (0, FIRST_LOOK_US);
        }
        let woken = self.poll(timeout, listening).map_err(|source| CaptureError::Io {
            what: "wait for changes of",
            path: path.to_owned(),
            source,
        })?;
        if woken.hint || woken.poke {
            (self.looks, self.first_look_us) = (1, FIRST_LOOK_US);
            self.poked |= woken.poke;
        }
        Ok(!woken.hint && !woken.poke && !woken.signal && timeout == longest)
    }

    /// 100, 125, 156, 195 us and so on (or from 400 us on): a quarter of the time since the hint, so that a commit that
    /// waits for its disk is noticed with little delay and few looks.
    fn next_look(&mut self) -> Option<Duration> {
        if self.looks == 0 {
            return None;
        }
        let us = (0..self.looks).fold(self.first_look_us, |us, _| us + us / 4);
        self.looks = self.looks.saturating_add(1).min(64);
        Some(Duration::from_micros(us))
    }

    fn poll(&self, timeout: Duration, listening: bool) -> std::io::Result<Woken> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        // A descriptor that is not listened to is asked for nothing, so that each keeps its place.
        let interest = |listening: bool| if listening { PollFlags::IN } else { PollFlags::empty() };
        let hints = self.hints.as_ref().map_or(self.signal.0.as_fd(), AsFd::as_fd);
        let pokes = self.pokes.as_ref().map_or(self.signal.0.as_fd(), |pokes| pokes.as_fd());
        let mut fds = [
            PollFd::from_borrowed_fd(self.signal.0.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(hints, interest(listening)),
            PollFd::from_borrowed_fd(pokes, interest(self.pokes.is_some())),
        ];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [signal, hint, poke] = fds.map(|fd| !fd.revents().is_empty());
        let woken = Woken { signal, hint, poke };
        if woken.signal {
            let _ = rustix::io::read(&self.signal.0, &mut [0_u8; 8]);
        }
        if woken.hint {
            self.drain();
        }
        Ok(woken)
    }

    /// Reads and forgets the hints; what they were about the wal-index says better.
    fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        let Some(hints) = &self.hints else { return };
        while matches!(rustix::io::read(hints, &mut buffer), Ok(n) if n == buffer.len()) {}
    }
}

#[derive(Debug, Clone, Copy)]
struct Woken {
    signal: bool,
    hint: bool,
    poke: bool,
}

fn watch(paths: &[PathBuf]) -> std::io::Result<OwnedFd> {
    let hints = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    for path in paths {
        inotify::add_watch(&hints, path, inotify::WatchFlags::MODIFY)?;
    }
    Ok(hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_programs_poke_looks_are_seldom_and_hints_are_not_listened_to() {
        let signal = Arc::new(Signal::new().unwrap());
        let mut wakeup = Wakeup::new(signal, &[], None);
        assert_eq!(wakeup.next_look(), None, "nothing was prepared: a hint is waited for");
        wakeup.prepared();
        let first = wakeup.next_look().expect("a look is due");
        assert!(first >= Duration::from_micros(FIRST_LAZY_LOOK_US));
        wakeup.found();
        assert!(wakeup.next_look().is_some(), "hints are not listened to");
        // No poke comes any more: looks become as seldom as the timer, and hints count again.
        while wakeup.looks > 0 {
            wakeup.sleep(1, Path::new("app.db")).unwrap();
        }
        wakeup.found();
        assert_eq!(wakeup.next_look(), None);
    }
}

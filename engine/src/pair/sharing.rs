//! Which commits may share a flush of the standby's disk. Pure.
//!
//! A flush takes the standby, and its disk, about as long whether it makes one commit durable or ten. A commit that
//! a program waits for is flushed at once, with everything before it. While nobody waits for commits of a database
//! the standby gathers them for a moment: they are in its memory meanwhile, so the death of the active loses none.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long commits nobody waits for are gathered, milliseconds: some ten commits of a busy writer, and little beside
/// what a client on the network notices.
const GATHER_MS: u32 = 2;

/// The standby gathers no longer than this, whatever the active asks for, milliseconds.
const GATHER_MAX_MS: u32 = 10;

/// Who has waited goes on waiting: for so long every commit of the database is flushed at once.
const WAITERS_STAY: Duration = Duration::from_millis(100);

/// Active: when somebody last waited for a commit of a database. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiters(Rc<Cell<Option<Instant>>>);

impl Waiters {
    /// Somebody waits, or has.
    pub(super) fn seen(&self, now: Instant) {
        self.0.set(Some(now));
    }

    /// How long the standby may gather published commits before it flushes them, milliseconds.
    pub(super) fn gather_ms(&self, now: Instant) -> u32 {
        let stay = |seen| now.saturating_duration_since(seen) < WAITERS_STAY;
        if self.0.get().is_some_and(stay) { 0 } else { GATHER_MS }
    }
}

/// Standby: when what was received since the last flush began goes to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Due {
    /// Nothing was received.
    #[default]
    Never,
    /// At this moment, with all that comes until then.
    At(Instant),
    /// At once.
    Now,
}

impl Due {
    /// Frames came which may be gathered for so many milliseconds; 0: somebody waits.
    pub(super) fn received(&mut self, gather_ms: u32, now: Instant) {
        let wait = Duration::from_millis(gather_ms.min(GATHER_MAX_MS).into());
        *self = match *self {
            _ if gather_ms == 0 => Self::Now,
            Self::Never => Self::At(now + wait),
            // The first of them counts.
            before => before,
        };
    }

    /// Until when a flush is put off; None: it may begin.
    pub(super) fn put_off(self, now: Instant) -> Option<Instant> {
        match self {
            Self::At(due) if due > now => Some(due),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_gathered_while_nobody_waits() {
        let (waiters, start) = (Waiters::default(), Instant::now());
        assert_eq!(waiters.gather_ms(start), GATHER_MS);
        waiters.clone().seen(start);
        assert_eq!(waiters.gather_ms(start), 0);
        assert_eq!(waiters.gather_ms(start + WAITERS_STAY - Duration::from_millis(1)), 0);
        assert_eq!(waiters.gather_ms(start + WAITERS_STAY), GATHER_MS);
    }

    #[test]
    fn the_oldest_commit_decides_and_a_waiter_decides_at_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut due = Due::default();
        assert_eq!(due.put_off(start), None);
        due.received(2, start);
        due.received(2, at(1));
        assert_eq!(due.put_off(at(1)), Some(at(2)));
        assert_eq!(due.put_off(at(2)), None);
        due.received(0, at(1));
        due.received(2, at(1));
        assert_eq!(due.put_off(at(1)), None, "who waits is not put off by who does not");
    }

    #[test]
    fn an_active_that_asks_for_too_long_is_not_believed() {
        let start = Instant::now();
        let mut due = Due::default();
        due.received(u32::MAX, start);
        assert_eq!(due.put_off(start), Some(start + Duration::from_millis(GATHER_MAX_MS.into())));
    }
}

//! How long to wait before the next attempt, and which failures are worth a line in the log.
//!
//! Used by the connector. A peer that is away for a night is tried every second and logged once.

use super::{error::LinkError, socket::Path};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The first wait: a peer that restarted is back within a few of these.
const FIRST: Duration = Duration::from_millis(20);

/// The longest wait: how late a returning peer may be found.
const LONGEST: Duration = Duration::from_secs(1);

/// Doubling waits.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        wait
    }
}

/// A failure that lasts is logged again after this.
const REPEAT: Duration = Duration::from_secs(600);

/// Failures that keep changing (a stranger who tries one certificate after the other) get one line in this time.
const CHANGED: Duration = Duration::from_secs(1);

/// Logs a failure when it is new.
#[derive(Debug, Default)]
pub(crate) struct QuietLog(Mutex<HashMap<Path, (String, Instant)>>);

impl QuietLog {
    pub(crate) fn say(&self, path: Path, error: &LinkError) {
        if self.is_news(path, &error.to_string(), Instant::now()) {
            tracing::warn!(%path, "{error}");
        }
    }

    /// After a success every failure is news again.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_news(&self, path: Path, text: &str, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = last
            .get(&path)
            .is_none_or(|(said, at)| now.duration_since(*at) >= if said == text { REPEAT } else { CHANGED });
        if news {
            last.insert(path, (text.to_owned(), now));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_20_ms_to_a_second() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn a_lasting_failure_is_said_once_and_a_storm_of_new_ones_once_a_second() {
        let log = QuietLog::default();
        let start = Instant::now();
        let lasting =
            (0..600).filter(|s| log.is_news(Path::Lan, "down", start + Duration::from_secs(*s))).count();
        assert_eq!(lasting, 1);
        assert!(log.is_news(Path::Lan, "down", start + REPEAT));
        let storm = (0..1_000)
            .filter(|ms| log.is_news(Path::Direct, &ms.to_string(), start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(storm, 1);
        log.clear();
        assert!(log.is_news(Path::Direct, "again", start));
    }
}

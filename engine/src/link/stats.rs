//! What the link did and how it is: counters shared with whoever shows the status.
//!
//! Written by the connection's tasks and the connector, read by the agent. Shows; decides nothing.

use super::{compression::Reason, socket::Path};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Round trips kept for the percentile: at the idle rate the last two minutes.
const ROUND_TRIPS: usize = 512;

/// Counters of one link over all its connections. Cheap to share; every method takes `&self`.
#[derive(Debug, Default)]
pub struct LinkStats {
    bytes_sent: AtomicU64,
    plain_bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
    connections: AtomicU64,
    window_bytes: AtomicU64,
    link_bytes_per_s: AtomicU64,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    path: Option<Path>,
    since: Option<Instant>,
    round_trips_us: Vec<u32>,
    next: usize,
    compression: Option<Reason>,
    trouble: Option<String>,
}

/// The state of a link at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSnapshot {
    /// The path in use; `None`: no connection.
    pub path: Option<Path>,
    /// Age of the connection, milliseconds.
    pub connected_ms: u64,
    /// Connections made since the start.
    pub connections: u64,
    /// Bytes of frames sent, over all connections.
    pub bytes_sent: u64,
    /// The same before compression.
    pub plain_bytes_sent: u64,
    /// Bytes of frames received.
    pub bytes_received: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Round trips of pings on this connection, microseconds; `None`: none yet.
    pub round_trip: Option<RoundTrip>,
    /// Compression, as one sentence.
    pub compression: String,
    /// Bodies are packed now.
    pub compressing: bool,
    /// Bytes bulk may have in the kernel.
    pub window_bytes: u64,
    /// What the link carried when it was busy, bytes per second; 0: never busy.
    pub link_bytes_per_s: u64,
    /// Why the last attempt or connection failed, as one sentence; `None` while connected.
    pub trouble: Option<String>,
}

/// Round trips in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// The least.
    pub min_us: u32,
    /// The mean.
    pub mean_us: u32,
    /// Half are at most this.
    pub p50_us: u32,
    /// Ninety-nine of a hundred are at most this.
    pub p99_us: u32,
}

impl LinkStats {
    /// The present state.
    pub fn snapshot(&self) -> LinkSnapshot {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        LinkSnapshot {
            path: now.path,
            connected_ms: now.since.map_or(0, |since| since.elapsed().as_millis() as u64),
            connections: self.connections.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            plain_bytes_sent: self.plain_bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            frames_sent: self.frames_sent.load(Relaxed),
            frames_received: self.frames_received.load(Relaxed),
            round_trip: round_trip(&now.round_trips_us),
            compression: now.compression.unwrap_or(Reason::NotMeasured).to_string(),
            compressing: now.compression.is_some_and(|reason| reason.is_on()),
            window_bytes: self.window_bytes.load(Relaxed),
            link_bytes_per_s: self.link_bytes_per_s.load(Relaxed),
            trouble: now.trouble.clone(),
        }
    }

    pub(crate) fn connected(&self, path: Path) {
        self.connections.fetch_add(1, Relaxed);
        self.with_now(|now| {
            let compression = now.compression;
            *now = Now { path: Some(path), since: Some(Instant::now()), compression, ..Now::default() };
        });
    }

    pub(crate) fn disconnected(&self, why: String) {
        self.with_now(|now| {
            (now.path, now.since) = (None, None);
            now.trouble = Some(why);
        });
    }

    pub(crate) fn trouble(&self, why: String) {
        self.with_now(|now| now.trouble = Some(why));
    }

    pub(crate) fn sent(&self, bytes: usize, plain_bytes: usize) {
        self.frames_sent.fetch_add(1, Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
        self.plain_bytes_sent.fetch_add(plain_bytes as u64, Relaxed);
    }

    pub(crate) fn received_frame(&self) {
        self.frames_received.fetch_add(1, Relaxed);
    }

    pub(crate) fn received_bytes(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn round_trip(&self, round_trip_us: u32) {
        self.with_now(|now| {
            if now.round_trips_us.len() < ROUND_TRIPS {
                now.round_trips_us.push(round_trip_us);
            } else {
                now.round_trips_us[now.next] = round_trip_us;
                now.next = (now.next + 1) % ROUND_TRIPS;
            }
        });
    }

    pub(crate) fn flow(&self, compression: Reason, window_bytes: u64, link_bytes_per_s: Option<u64>) {
        self.window_bytes.store(window_bytes, Relaxed);
        self.link_bytes_per_s.store(link_bytes_per_s.unwrap_or(0), Relaxed);
        self.with_now(|now| now.compression = Some(compression));
    }

    fn with_now(&self, change: impl FnOnce(&mut Now)) {
        change(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn round_trip(samples: &[u32]) -> Option<RoundTrip> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let sum: u64 = sorted.iter().map(|us| u64::from(*us)).sum();
    Some(RoundTrip {
        min_us: *sorted.first()?,
        mean_us: (sum / sorted.len() as u64) as u32,
        p50_us: sorted[(sorted.len() - 1) / 2],
        p99_us: sorted[(sorted.len() * 99).div_ceil(100) - 1],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_summed_up_per_connection() {
        let stats = LinkStats::default();
        stats.connected(Path::Direct);
        (1..=100).for_each(|us| stats.round_trip(us));
        assert_eq!(
            stats.snapshot().round_trip,
            Some(RoundTrip { min_us: 1, mean_us: 50, p50_us: 50, p99_us: 99 })
        );
        stats.connected(Path::Lan);
        assert_eq!(stats.snapshot().round_trip, None);
        assert_eq!(stats.snapshot().connections, 2);
    }

    #[test]
    fn only_the_latest_round_trips_are_kept() {
        let stats = LinkStats::default();
        (0..10_000).for_each(|us| stats.round_trip(us));
        assert_eq!(stats.snapshot().round_trip.unwrap().min_us, 10_000 - ROUND_TRIPS as u32);
    }

    #[test]
    fn trouble_is_shown_until_the_next_connection() {
        let stats = LinkStats::default();
        stats.disconnected("the cable".to_owned());
        assert_eq!(stats.snapshot().trouble.as_deref(), Some("the cable"));
        stats.connected(Path::Direct);
        assert_eq!(stats.snapshot().trouble, None);
    }
}

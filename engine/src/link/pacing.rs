//! How fast bulk may go, so that commits and pings on the same connection stay quick.
//!
//! Everything travels in one TCP stream, so a ping or a WAL frame waits behind every byte that was
//! written before it, wherever that byte is: in our kernel, in a switch, in the peer's kernel. The
//! writer therefore sends a ping behind each bulk frame; its answer says that the *peer's reader* has
//! come so far. The pacer bounds the bytes not yet confirmed in this way before the next bulk frame may
//! follow, and adapts that bound to the delay those pings see: delay-based, because a deep queue in
//! a switch or a shaper never loses a packet. Bulk is slowed, never reordered: within a stream, page
//! chunks and WAL frames keep their order (see `queue.rs`). Pure: time and measurements are arguments.

/// The delay to stay at. At 1 Gbit/s it is 500 KB in flight: enough to keep the link full, small beside
/// the lease and the commit deadline.
const TARGET_DELAY_US: u32 = 4_000;

/// The least window: one bulk frame of 64 KiB, 5 ms at 100 Mbit/s. Below it bulk would stop on a LAN that is
/// busy with others.
const WINDOW_MIN_BYTES: u64 = 64 << 10;

/// The largest window: 10 Gbit/s times 6 ms.
const WINDOW_MAX_BYTES: u64 = 8 << 20;

/// The window of a new connection, before the first round trip is known.
const WINDOW_START_BYTES: u64 = 256 << 10;

/// Round trips of which the least counts: a single late one is the scheduler, not a queue.
const RECENT: usize = 4;

/// The longest burst a cap allows, in time.
const CAP_BURST_US: u64 = 10_000;

/// Decides when the next bulk frame may go.
#[derive(Debug)]
pub struct Pacer {
    window_bytes: u64,
    /// The least round trip of this connection. It never ages: on one path it only drops, and letting it
    /// rise under permanent bulk would take our own queue for the length of the cable.
    floor_us: u32,
    recent_us: [u32; RECENT],
    samples: usize,
    /// Pings sent before this saw the window before the last change.
    changed_us: u64,
    /// Bulk was held back by the window since the last round trip; without that the window says nothing.
    was_limited: bool,
    cap: Option<Cap>,
}

#[derive(Debug)]
struct Cap {
    bytes_per_s: u64,
    /// Until when the bytes sent so far use up the cap.
    busy_until_us: u64,
}

impl Pacer {
    /// For a new connection; `cap_bytes_per_s` is the operator's limit, if any.
    pub fn new(cap_bytes_per_s: Option<u64>) -> Self {
        let cap = cap_bytes_per_s.map(|rate| Cap { bytes_per_s: rate.max(1), busy_until_us: 0 });
        Self {
            window_bytes: WINDOW_START_BYTES,
            floor_us: u32::MAX,
            recent_us: [u32::MAX; RECENT],
            samples: 0,
            changed_us: 0,
            was_limited: false,
            cap,
        }
    }

    /// A ping came back at `now_us`, after `round_trip_us`.
    pub fn on_round_trip(&mut self, now_us: u64, round_trip_us: u32) {
        self.floor_us = self.floor_us.min(round_trip_us);
        if now_us.saturating_sub(round_trip_us.into()) < self.changed_us {
            return;
        }
        self.recent_us[self.samples % RECENT] = round_trip_us;
        self.samples += 1;
        if self.samples < RECENT {
            return;
        }
        let least = self.recent_us.iter().copied().min().expect("the window of samples is not empty");
        let delay_us = least - self.floor_us;
        let window = self.window_bytes;
        if delay_us > TARGET_DELAY_US {
            // Straight to the window that would have met the target, but at most halved.
            let fitting = window * u64::from(TARGET_DELAY_US) / u64::from(delay_us);
            self.window_bytes = fitting.max(window / 2).max(WINDOW_MIN_BYTES);
        } else if self.was_limited {
            let step = if delay_us < TARGET_DELAY_US / 2 { window / 2 } else { 16 << 10 };
            self.window_bytes = (window + step).min(WINDOW_MAX_BYTES);
        }
        if self.window_bytes != window {
            (self.samples, self.changed_us, self.was_limited) = (0, now_us, false);
        }
    }

    /// 0: a bulk frame may go now. Otherwise look again after so many microseconds.
    /// `unconfirmed_bytes` were written and are not yet confirmed.
    pub fn bulk_wait_us(&mut self, now_us: u64, unconfirmed_bytes: u64) -> u64 {
        // Without a round trip of the empty link our own queue would be taken for the length of the cable.
        if self.floor_us == u32::MAX || unconfirmed_bytes >= self.window_bytes {
            self.was_limited = true;
            return 1_000;
        }
        match &self.cap {
            Some(cap) => cap.busy_until_us.saturating_sub(now_us + CAP_BURST_US),
            None => 0,
        }
    }

    /// A bulk frame of `bytes` was sent.
    pub fn on_bulk(&mut self, now_us: u64, bytes: u64) {
        if let Some(cap) = &mut self.cap {
            let start = cap.busy_until_us.max(now_us);
            cap.busy_until_us = start + bytes.saturating_mul(1_000_000) / cap.bytes_per_s;
        }
    }

    /// The present bound on unconfirmed bytes, for the status.
    pub fn window_bytes(&self) -> u64 {
        self.window_bytes
    }
}

/// Measures what the link carries, from the bytes the peer has confirmed. Counts only while
/// something is on its way all the time: an idle link shows the writer's rate, not the link's.
#[derive(Debug, Default)]
pub struct RateMeter {
    since: Option<(u64, u64)>,
    bytes_per_s: Option<u64>,
}

/// The shortest interval measured: below it the granularity of confirmations shows.
const MEASURE_US: u64 = 5_000;

/// With less than this on its way the link is not taken as busy.
const BUSY_BYTES: u64 = 32 << 10;

impl RateMeter {
    /// So many bytes were written in all, of which the peer has not confirmed `unconfirmed_bytes`.
    pub fn observe(&mut self, now_us: u64, written_bytes: u64, unconfirmed_bytes: u64) {
        let delivered = written_bytes.saturating_sub(unconfirmed_bytes);
        if unconfirmed_bytes < BUSY_BYTES {
            self.since = None;
            return;
        }
        let Some((since_us, since_bytes)) = self.since else {
            self.since = Some((now_us, delivered));
            return;
        };
        let passed_us = now_us.saturating_sub(since_us);
        if passed_us >= MEASURE_US {
            let rate = delivered.saturating_sub(since_bytes) * 1_000_000 / passed_us;
            // One eighth of the newest: a stall of the peer's disk is not the link.
            self.bytes_per_s = Some(self.bytes_per_s.map_or(rate, |old| old - old / 8 + rate / 8));
            self.since = Some((now_us, delivered));
        }
    }

    /// What the link carries, bytes per second; `None` while it was never busy.
    pub fn bytes_per_s(&self) -> Option<u64> {
        self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of fixed rate with an endless queue: the round trip is what is in it plus the cable.
    fn run(pacer: &mut Pacer, bytes_per_s: u64, cable_us: u32, rounds: u32) -> (u32, u64) {
        let (mut queue, mut worst_us, mut carried) = (0u64, 0u32, 0u64);
        for round in 0..rounds {
            // 20 ms between pings, in steps of 1 ms.
            for step in 0..20u64 {
                let now_us = (u64::from(round) * 20 + step) * 1_000;
                while pacer.bulk_wait_us(now_us, queue) == 0 {
                    queue += 64 << 10;
                    pacer.on_bulk(now_us, 64 << 10);
                }
                let sent = queue.min(bytes_per_s / 1_000);
                (queue, carried) = (queue - sent, carried + sent);
            }
            let round_trip_us = cable_us + (queue * 1_000_000 / bytes_per_s) as u32;
            pacer.on_round_trip((u64::from(round) + 1) * 20_000 + u64::from(round_trip_us), round_trip_us);
            if round > rounds / 2 {
                worst_us = worst_us.max(round_trip_us);
            }
        }
        (worst_us, carried * 1_000 / (u64::from(rounds) * 20))
    }

    #[test]
    fn bulk_fills_links_from_100_mbit_to_10_gbit_without_a_long_queue() {
        for bytes_per_s in [12_500_000, 125_000_000, 1_250_000_000] {
            let mut pacer = Pacer::new(None);
            pacer.on_round_trip(200, 200);
            let (worst_us, carried_per_s) = run(&mut pacer, bytes_per_s, 200, 400);
            assert!(worst_us < 20_000, "{bytes_per_s} B/s: {worst_us} us, window {}", pacer.window_bytes());
            assert!(carried_per_s > bytes_per_s * 8 / 10, "{bytes_per_s} B/s: only {carried_per_s}");
        }
    }

    #[test]
    fn bulk_waits_for_the_first_round_trip() {
        let mut pacer = Pacer::new(None);
        assert!(pacer.bulk_wait_us(0, 0) > 0);
        pacer.on_round_trip(100, 100);
        assert_eq!(pacer.bulk_wait_us(0, 0), 0);
    }

    #[test]
    fn an_idle_connection_does_not_open_its_window() {
        let mut pacer = Pacer::new(None);
        (1..1_000).for_each(|ms| pacer.on_round_trip(ms * 1_000, 100));
        assert_eq!(pacer.window_bytes(), WINDOW_START_BYTES);
    }

    #[test]
    fn one_late_answer_does_not_close_the_window() {
        let mut pacer = Pacer::new(None);
        (1..8).for_each(|ms| pacer.on_round_trip(ms * 1_000, 100));
        pacer.on_round_trip(60_000, 50_000);
        assert_eq!(pacer.window_bytes(), WINDOW_START_BYTES);
    }

    #[test]
    fn the_window_never_closes_for_good_and_opens_again() {
        let mut pacer = Pacer::new(None);
        pacer.on_round_trip(100, 100);
        (1..1_000).for_each(|s| pacer.on_round_trip(s * 20_000_000, 10_000_000));
        assert_eq!(pacer.window_bytes(), WINDOW_MIN_BYTES);
        for ms in 1..200 {
            assert!(pacer.bulk_wait_us(0, WINDOW_MAX_BYTES) > 0);
            pacer.on_round_trip(20_000_000_000 + ms * 1_000, 100);
        }
        assert_eq!(pacer.window_bytes(), WINDOW_MAX_BYTES);
    }

    #[test]
    fn the_cap_of_the_operator_holds() {
        let mut pacer = Pacer::new(Some(1_000_000));
        pacer.on_round_trip(200, 200);
        let (_, carried_per_s) = run(&mut pacer, 125_000_000, 200, 200);
        assert!((900_000..1_100_000).contains(&carried_per_s), "{carried_per_s}");
    }

    #[test]
    fn the_rate_is_measured_only_while_the_link_is_busy() {
        let mut meter = RateMeter::default();
        for ms in 0..100 {
            meter.observe(ms * 1_000, ms * 1_000, 0);
        }
        assert_eq!(meter.bytes_per_s(), None);
        for ms in 100..300 {
            meter.observe(ms * 1_000, ms * 125_000, 100_000);
        }
        assert_eq!(meter.bytes_per_s(), Some(125_000_000));
    }
}

//! A drill: the service goes to the other node and comes back, and this node measures it.
//!
//! Who answers for the first virtual address is asked by ARP all the time; while this node has it, its own
//! lease is the answer. Everything is measured on one clock.

use super::pair::Pair;
use super::{facts, handle};
use crate::clock::boottime_us;
use crate::control::{DrillMove, Drilled, Failure, FailureCode};
use crate::events::Event;
use crate::heartbeat::Gauges;
use crate::probes::vip::VipProbe;
use lockstep_failover::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One question each: what an outage is measured by.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// How long the nodes may take to be in sync again after a move.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at whether they are.
const LOOK: Duration = Duration::from_millis(20);

/// More events than two moves make.
const EVENTS: u32 = 1_000;

/// There and back.
///
/// # Errors
/// What refuses a switchover, or what went wrong on the way and where the service is then.
pub(super) async fn run(pair: &Pair) -> Result<Drilled, Failure> {
    let watcher = Watcher::start(pair).map_err(|e| Failure::new(FailureCode::Failed, e.to_string()))?;
    let before = newest(pair).await?;
    let mut moves = Vec::new();
    for number in ["first", "second"] {
        let made = make_move(pair, &watcher).await.map_err(|failure| {
            let serves = if facts::serves(pair) { "this node serves" } else { "this node does not serve" };
            let sentence =
                format!("the {number} move of the drill: {failure}; {serves}, see `lockstep status`");
            Failure::new(failure.code, sentence)
        });
        moves.push(made?);
    }
    Ok(Drilled {
        pair: pair.config.id.to_string(),
        moves,
        diverged_databases: diverged(&since(pair, before).await?),
        in_sync: facts::in_sync(pair),
    })
}

async fn make_move(pair: &Pair, watcher: &Watcher) -> Result<DrillMove, Failure> {
    until(|| watcher.is_answered(), "nobody answers for the virtual address").await?;
    let _ = watcher.longest();
    let (began, away) = (Instant::now(), facts::serves(pair));
    handle::switch_over(pair).await?;
    until(|| facts::in_sync(pair), "the nodes are not in sync").await?;
    let in_sync_after_ms = began.elapsed().as_millis() as u64;
    until(|| watcher.is_answered(), "nobody answers for the virtual address").await?;
    let vip_outage_ms = watcher.longest().as_millis() as u64;
    Ok(DrillMove { away, epoch: pair.machine().epoch.to_string(), vip_outage_ms, in_sync_after_ms })
}

async fn until(so: impl Fn() -> bool, otherwise: &str) -> Result<(), Failure> {
    let began = Instant::now();
    while !so() {
        if began.elapsed() >= SYNC_LIMIT {
            let sentence = format!("{otherwise} after {} s", SYNC_LIMIT.as_secs());
            return Err(Failure::new(FailureCode::Timeout, sentence));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn newest(pair: &Pair) -> Result<u64, Failure> {
    Ok(since(pair, 0).await?.last().map_or(0, |event| event.id))
}

async fn since(pair: &Pair, id: u64) -> Result<Vec<Event>, Failure> {
    let log = pair.log.clone();
    let read = tokio::task::spawn_blocking(move || log.last(EVENTS)).await.map_err(|_| handle::stopping())?;
    let mut events = read.map_err(|error| Failure::new(FailureCode::Failed, error.to_string()))?;
    events.retain(|event| event.id > id);
    Ok(events)
}

/// Databases whose commits went to quarantine: here, or by this node's word on the other one.
fn diverged(events: &[Event]) -> u32 {
    let is_one = |event: &&Event| {
        event.kind == "quarantined" || event.sentence.contains(lockstep_engine::pair::IN_ITS_QUARANTINE)
    };
    events.iter().filter(is_one).count() as u32
}

/// What is measured while it lives.
pub(super) struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    /// When somebody last answered, CLOCK_BOOTTIME; 0: nobody yet.
    answered_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Watcher {
    /// Begins to ask.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing.
    pub(super) fn start(pair: &Pair) -> std::io::Result<Self> {
        let first = pair.config.vips.first().map(|vip| vip.address);
        let probe = VipProbe::open(&pair.config.lan.interface, first.as_slice())?;
        let shared = Arc::new(Shared::default());
        let (watched, gauges) = (shared.clone(), pair.gauges.clone());
        std::thread::Builder::new().name("drill".into()).spawn(move || watched.run(probe, &gauges))?;
        Ok(Self { shared })
    }

    /// Somebody has answered within the last moments.
    pub(super) fn is_answered(&self) -> bool {
        let age_us = boottime_us().saturating_sub(self.shared.answered_us.load(Ordering::Acquire));
        Duration::from_micros(age_us) < ASK_EVERY * 10
    }

    /// The longest time without an answer since the last call.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_micros(self.shared.longest_us.swap(0, Ordering::AcqRel))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Release);
    }
}

impl Shared {
    fn run(&self, mut probe: VipProbe, gauges: &Gauges) {
        while !self.end.load(Ordering::Acquire) {
            let ours = gauges.lease_end().is_some_and(|end| Time::from_us(boottime_us()) < end);
            if ours {
                self.answered(boottime_us());
                std::thread::sleep(ASK_EVERY);
                continue;
            }
            match probe.ask(ASK_EVERY) {
                Ok(Some(claim)) => {
                    self.answered(claim.seen_us);
                    std::thread::sleep(ASK_EVERY);
                }
                Ok(None) => {}
                Err(_) => std::thread::sleep(ASK_EVERY),
            }
        }
    }

    fn answered(&self, at_us: u64) {
        let before_us = self.answered_us.swap(at_us, Ordering::AcqRel);
        if before_us != 0 {
            self.longest_us.fetch_max(at_us.saturating_sub(before_us), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_an_answer_is_told_once_and_not_before_the_first() {
        let shared = Arc::new(Shared::default());
        let watcher = Watcher { shared: shared.clone() };
        assert!(!watcher.is_answered());
        for at_us in [1_000_000, 1_005_000, 1_300_000, 1_305_000] {
            shared.answered(at_us);
        }
        assert_eq!(watcher.longest(), Duration::from_millis(295));
        assert_eq!(watcher.longest(), Duration::ZERO);
        shared.answered(boottime_us());
        assert!(watcher.is_answered());
    }
}

//! What a model run is of: clocks, timing, which faults may happen, and how many.

use crate::choice::Fault;
use crate::sabotage::Sabotage;
use lockstep_failover::{FailoverType, SoloAfter, Timing};
use std::time::Duration;

/// A moment of the model: the heartbeat period. What happens within one takes no time.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// One configuration of the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// How long a tick is by each node's clock: one clock runs fast, the other slow, by rho each.
    pub(crate) tick: [Duration; 2],
    /// Who runs first within a tick.
    pub(crate) first: usize,
    /// Effects and probes are done this many ticks after they were asked for: 0 or 1.
    pub(crate) effects: u64,
    pub(crate) failover: FailoverType,
    pub(crate) open_early: Option<Duration>,
    pub(crate) solo_after: SoloAfter,
    /// How many faults and operator's requests a run may have. What ends a fault is free.
    pub(crate) budget: u8,
    pub(crate) faults: &'static [Fault],
    /// What is broken on purpose, to see that it is found.
    pub(crate) sabotage: Option<Sabotage>,
}

impl Setting {
    /// Even clocks, quick effects, every fault.
    pub(crate) const fn new(budget: u8) -> Self {
        Self {
            tick: [TICK; 2],
            first: 0,
            effects: 0,
            failover: FailoverType::Automatic,
            open_early: None,
            solo_after: SoloAfter::Delay(Duration::ZERO),
            budget,
            faults: Fault::ALL,
            sabotage: None,
        }
    }

    /// The clocks differ by as much as the profiles allow for: 0.1 % each, in opposite directions.
    pub(crate) const fn drifting(mut self, fast: usize) -> Self {
        self.tick = [Duration::from_micros(999_000); 2];
        self.tick[fast] = Duration::from_micros(1_001_000);
        self
    }

    /// The timing of a node: a profile whose figures are few ticks. It keeps what `profile.rs` asserts.
    pub(crate) fn timing(&self, n: usize) -> Timing {
        let timing = Timing {
            period: self.tick[n],
            dead_after: Duration::from_millis(2_500),
            lease: Duration::from_millis(4_000),
            margin: Duration::from_millis(50),
            hold_off: Duration::ZERO,
            round_trip: Duration::from_millis(400),
            persist: Duration::from_millis(500),
            arbitration: Duration::ZERO,
        };
        self.sabotage.map_or(timing, |sabotage| sabotage.timing(n, timing))
    }
}

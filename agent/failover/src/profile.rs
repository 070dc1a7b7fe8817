//! The timing of a pair, and the arithmetic that makes it safe.
//!
//! Each profile is a set of constants asserted against each other here, so that no combination
//! that could leave two holders or never complete a promotion compiles. What happens at these
//! moments is `lease.rs`, `grant.rs` and `detector.rs`.

use std::time::Duration;

/// How far two clocks may drift apart relative to true time: 0.1 %, ten times a bad quartz.
pub const RHO_PER_MILLE: u64 = 1;
/// How old the state machine's permit may be before the heartbeat thread lapses and falls silent.
/// Long enough for a slow fsync, short enough that a stuck agent does not block a takeover.
pub const PERMIT_AGE: Duration = Duration::from_secs(5);
/// What VIP probes, intent pings and waking up may take between the wait and the last check.
pub const PROBING: Duration = Duration::from_millis(400);
/// How long the active goes on holding commits for a standby that lost only its data connection.
pub const SOLO_PATIENCE: Duration = Duration::from_secs(2);
/// Longest hold-off an operator may set.
pub const HOLD_OFF_MAX: Duration = Duration::from_secs(120);

/// A named set of timings, see [`Timing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Real hardware with SCHED_FIFO and mlockall.
    Metal,
    /// Anything.
    Default,
    /// Guests that may be paused or moved.
    Vm,
    /// The appliance contract: ten seconds.
    Mse,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 4] = [Self::Metal, Self::Default, Self::Vm, Self::Mse];

    /// The name in configuration and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metal => "metal",
            Self::Default => "default",
            Self::Vm => "vm",
            Self::Mse => "mse",
        }
    }

    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Its timing, without hold-off.
    pub const fn timing(self) -> Timing {
        match self {
            Self::Metal => Timing::from_ms(30, 150, 150, 20, 20, 40),
            Self::Default => Timing::from_ms(200, 600, 600, 50, 80, 200),
            Self::Vm => Timing::from_ms(1_000, 3_000, 3_000, 200, 400, 500),
            Self::Mse => Timing::from_ms(2_000, 10_000, 9_400, 500, 1_000, 1_000),
        }
    }
}

/// When things happen. Both nodes may differ; the longest announced lease counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A heartbeat is sent this often on every path.
    pub period: Duration,
    /// Nothing heard for this long: the peer is silent.
    pub dead_after: Duration,
    /// The right to answer for the VIP lasts this long after its evidence.
    pub lease: Duration,
    /// Added by the standby to the lease of the other.
    pub margin: Duration,
    /// Extra wait before an automatic failover, set by the operator.
    pub hold_off: Duration,
    /// Largest round trip the grant allows for; from [`Timing::round_trip_limit`] on an alarm is due.
    pub round_trip: Duration,
    /// What one durable write of the pair's state may take under a grant.
    pub persist: Duration,
    /// What asking a witness and fencing the peer may take under a grant.
    pub arbitration: Duration,
}

impl Timing {
    const fn from_ms(period: u64, dead: u64, lease: u64, margin: u64, round_trip: u64, persist: u64) -> Self {
        Self {
            period: Duration::from_millis(period),
            dead_after: Duration::from_millis(dead),
            lease: Duration::from_millis(lease),
            margin: Duration::from_millis(margin),
            hold_off: Duration::ZERO,
            round_trip: Duration::from_millis(round_trip),
            persist: Duration::from_millis(persist),
            arbitration: Duration::ZERO,
        }
    }

    /// The same with a hold-off, capped at [`HOLD_OFF_MAX`].
    #[must_use]
    pub fn with_hold_off(mut self, hold_off: Duration) -> Self {
        self.hold_off = hold_off.min(HOLD_OFF_MAX);
        self
    }

    /// The same with a witness or a fence that answers within `limit`.
    #[must_use]
    pub fn with_arbitration(mut self, limit: Duration) -> Self {
        self.arbitration = limit;
        self
    }

    /// 2.5 periods: the silence after which the active may lean on its targets (R2).
    pub const fn silence(&self) -> Duration {
        Duration::from_micros(self.period.as_micros() as u64 * 5 / 2)
    }

    /// From this round trip on the lease is at risk: what 2.5 periods leave of it.
    pub const fn round_trip_limit(&self) -> Duration {
        Duration::from_micros((self.lease.as_micros() - self.silence().as_micros()) as u64)
    }

    /// V: how long a grant lasts after the standby sent what it echoes.
    /// With less, no promotion ever completes.
    pub const fn grant_validity(&self) -> Duration {
        let parts = [
            self.lease,
            self.margin,
            self.hold_off,
            PROBING,
            self.period,
            self.round_trip,
            self.persist,
            self.persist,
            self.arbitration,
        ];
        let mut sum_us = 0;
        let mut i = 0;
        while i < parts.len() {
            sum_us += parts[i].as_micros() as u64;
            i += 1;
        }
        Duration::from_micros(sum_us)
    }

    /// V (1 + 2 rho) + margin: after its last grant sent, the active waits this long for solo.
    pub const fn grant_wait(&self) -> Duration {
        let stretched = stretched(self.grant_validity());
        Duration::from_micros((stretched.as_micros() + self.margin.as_micros()) as u64)
    }
}

/// `span` times (1 + 2 rho): what a slow and a fast clock may make of it.
pub const fn stretched(span: Duration) -> Duration {
    Duration::from_micros((span.as_micros() as u64 * (1_000 + 2 * RHO_PER_MILLE)).div_ceil(1_000))
}

const fn check(timing: Timing) {
    let lease = timing.lease.as_micros();
    assert!(lease >= 3 * timing.period.as_micros(), "a lease survives two lost heartbeats");
    assert!(
        lease > timing.silence().as_micros() + timing.round_trip.as_micros(),
        "R2 can take over before R1 ends: round trip < lease - 2.5 periods"
    );
    assert!(
        stretched(timing.lease).as_micros() + timing.margin.as_micros() >= timing.dead_after.as_micros()
            || timing.dead_after.as_micros() <= 10_000_000,
        "the wait covers the detection time"
    );
    assert!(timing.margin.as_micros() * 1_000 > 2 * lease, "the margin is more than the drift");
}

const _: () = {
    check(Profile::Metal.timing());
    check(Profile::Default.timing());
    check(Profile::Vm.timing());
    check(Profile::Mse.timing());
};

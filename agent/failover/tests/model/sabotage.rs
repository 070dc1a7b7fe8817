//! One sentence of the design at a time is broken around the machine, to see that the model finds what
//! follows. A model that finds nothing proves nothing.

use crate::check::{NO_LOSS, ONE_HOLDER, Pair, WAY_OUT};
use crate::choice::Fault;
use crate::explore::explore;
use crate::setting::Setting;
use lockstep_failover::{Time, Timing, Voice};
use lockstep_wire::Heartbeat;
use std::time::Duration;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// An echo renews from its receipt instead of the send time of what it echoes.
    EchoDatedByReceipt,
    /// The standby waits for less than the lease.
    ShortWait,
    /// The clocks differ by more than the margins are made for.
    WildClocks,
    /// The active takes its grant for over while the standby may still rest on it.
    ShortGrant,
    /// What is decided is said before it is on disk.
    SpeakFirst,
    /// The permit of a stuck machine never grows old.
    EternalPermit,
}

impl Sabotage {
    /// What the machine says, on its way to the heartbeat thread.
    pub(crate) fn spoken(set: &Setting, mut voice: Voice) -> Voice {
        match set.sabotage {
            Some(Self::ShortGrant) => voice.grant = voice.grant.map(|grant| grant + Duration::from_secs(12)),
            Some(Self::EternalPermit) => voice.at = voice.at + Duration::from_secs(1_000_000),
            _ => {}
        }
        voice
    }

    /// What the lease hears at `now`.
    pub(crate) fn lease_hears(set: &Setting, mut heartbeat: Heartbeat, now: Time) -> Heartbeat {
        if set.sabotage == Some(Self::EchoDatedByReceipt) && heartbeat.echo_sent_us != 0 {
            heartbeat.echo_sent_us = now.as_us();
        }
        heartbeat
    }

    /// What the machine hears.
    pub(crate) fn machine_hears(set: &Setting, mut heartbeat: Heartbeat) -> Heartbeat {
        if set.sabotage == Some(Self::ShortWait) {
            heartbeat.lease_us = 0;
        }
        heartbeat
    }

    /// The timing of node `n`.
    pub(crate) fn timing(self, n: usize, mut timing: Timing) -> Timing {
        if self == Self::ShortWait && n == 1 {
            timing.lease = Duration::from_millis(2_600);
        }
        timing
    }
}

/// The checker breaks off at the expected violation, and finds nothing when nothing is broken.
fn is_found(sabotage: Sabotage, faults: &'static [Fault], budget: u8, expected: &str) {
    let innocent = Setting { faults, ..Setting::new(budget) };
    let mut setting = Setting { sabotage: Some(sabotage), ..innocent };
    if sabotage == Sabotage::WildClocks {
        setting.tick = [Duration::from_millis(950), Duration::from_millis(1_050)];
    }
    let found = explore(&format!("{sabotage:?}"), Pair::new(setting, false), None);
    let story = found.unwrap_or_else(|| panic!("{sabotage:?} does no harm here"));
    if std::env::var_os("LOCKSTEP_STORY").is_some() {
        println!("{story}");
    }
    assert!(story.starts_with(&format!("not so: {expected}")), "{story}");
    let without = explore("the same without it", Pair::new(innocent, false), Some(INNOCENT_DEPTH));
    assert!(without.is_none(), "{}", without.unwrap_or_default());
}

/// So deep a sound pair is explored beside a broken one, whose violation comes earlier.
const INNOCENT_DEPTH: usize = 18;

#[test]
fn a_lease_that_counts_from_the_receipt_of_an_echo_makes_two_holders() {
    is_found(Sabotage::EchoDatedByReceipt, &[Fault::Isolate, Fault::Delay], 2, ONE_HOLDER);
}

#[test]
fn a_standby_that_waits_too_short_makes_two_holders() {
    is_found(Sabotage::ShortWait, &[Fault::Isolate], 1, ONE_HOLDER);
}

#[test]
fn clocks_beyond_the_margin_make_two_holders() {
    is_found(Sabotage::WildClocks, &[Fault::Isolate], 1, ONE_HOLDER);
}

#[test]
fn a_grant_that_outlives_what_the_active_waits_for_loses_commits() {
    is_found(Sabotage::ShortGrant, &[Fault::Isolate, Fault::PowerOff], 2, NO_LOSS);
}

#[test]
fn what_is_said_before_it_is_on_disk_is_lost_with_its_commits() {
    is_found(Sabotage::SpeakFirst, &[Fault::Isolate, Fault::SlowDisk], 2, NO_LOSS);
}

#[test]
fn a_stuck_node_whose_permit_never_ends_is_a_dead_end() {
    is_found(Sabotage::EternalPermit, &[Fault::Isolate, Fault::Stick], 2, WAY_OUT);
}

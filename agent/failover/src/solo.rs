//! When the active acknowledges commits alone: by rule, and not before the operator's delay is over.
//!
//! Nothing here makes a waiting commit return because time ran out. The delay only adds to the wait;
//! what permits solo is the end of the last grant, or the standby's durable word that it is outdated.

use crate::time::Time;
use std::time::Duration;

/// `solo_after`: how long commits wait for the standby at the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SoloAfter {
    /// So long.
    Delay(Duration),
    /// For ever: nothing is acknowledged that only one node holds.
    Never,
}

impl Default for SoloAfter {
    fn default() -> Self {
        Self::Delay(Duration::ZERO)
    }
}

impl SoloAfter {
    /// Commits have waited since `since`: is that long enough?
    pub fn is_over(self, since: Time, now: Time) -> bool {
        match self {
            Self::Delay(delay) => now >= since + delay,
            Self::Never => false,
        }
    }
}

/// What is known when an active without a standby asks whether it may acknowledge alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The heartbeat thread has confirmed that it grants nothing and says solo.
    pub is_said: bool,
    /// No takeover can rest on the last grant any more: it is over, or the witness gave the right to this node.
    pub grant_over: bool,
    /// The standby durably marked itself outdated, in answer to a heartbeat sent after the last grant.
    pub outdated: bool,
    /// `solo_after` is over.
    pub waited: bool,
}

impl Question {
    /// May the solo mark be written, and commits be acknowledged alone once it is durable?
    pub const fn may_go_solo(self) -> bool {
        self.is_said && (self.grant_over || self.outdated) && self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solo_needs_silence_of_grants_their_end_or_an_outdated_standby_and_the_delay() {
        let mut allowed = 0;
        for n in 0..16 {
            let bit = |i: u32| n >> i & 1 == 1;
            let question = Question { is_said: bit(0), grant_over: bit(1), outdated: bit(2), waited: bit(3) };
            if question.may_go_solo() {
                allowed += 1;
                assert!(question.is_said && question.waited, "{question:?}");
                assert!(question.grant_over || question.outdated, "{question:?}");
            }
        }
        assert_eq!(allowed, 3);
    }

    #[test]
    fn a_delay_is_over_at_its_end_and_never_is_never() {
        let since = Time::from_us(5_000_000);
        let delay = SoloAfter::Delay(Duration::from_secs(2));
        assert!(!delay.is_over(since, Time::from_us(6_999_999)));
        assert!(delay.is_over(since, Time::from_us(7_000_000)));
        assert!(SoloAfter::default().is_over(since, since));
        assert!(!SoloAfter::Never.is_over(since, Time::from_us(u64::MAX)));
    }
}

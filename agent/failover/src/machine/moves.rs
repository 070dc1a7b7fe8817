//! Moves that nobody asked for: when the active hands over by itself, and how often it may.
//!
//! A node gives the service away when it cannot serve and the standby says that it can, or when the
//! configured primary is back for good. A node whose application just failed is not fit to be handed the
//! service, so that a fault both nodes have does not send it to and fro.

use super::{Machine, Phase, Role};
use crate::event::Path;
use crate::profile::Timing;
use crate::table::{Row, Verdict};
use lockstep_wire::Intent;
use std::time::Duration;

/// Handovers by itself within [`MOVES_WINDOW`]: one for the fault, one for its return after a failback.
/// What fails more often needs a person.
const MOVES_MAX: usize = 2;
/// See [`MOVES_MAX`].
const MOVES_WINDOW: Duration = Duration::from_hours(1);
/// A node whose application failed for good is not fit to serve for so long.
const FIT_AGAIN: Duration = Duration::from_mins(10);

/// A LAN that is dead for less is a switch that restarts or a cable being moved.
fn cut_off_for(timing: &Timing) -> Duration {
    (timing.dead_after * 5).max(Duration::from_secs(5))
}

impl Machine {
    /// Automatic moves are off here, by this node's operator.
    pub(super) fn own_hands_off(&self) -> bool {
        self.observe || self.maintenance
    }

    /// They are off here, or by the newest word of the peer: also after it fell silent, since that is what
    /// maintenance of the peer looks like.
    pub(super) fn hands_off(&self) -> bool {
        self.own_hands_off() || self.evidence.word.is_some_and(|word| word.heartbeat.hands_off)
    }

    /// What is asked instead of a takeover.
    pub(super) fn hands_off_question(&self) -> &'static str {
        if self.observe {
            "this node only observes; otherwise it would ask for the VIP and take over now: `lockstep observe off` lets it"
        } else if self.maintenance {
            "automatic moves are off for maintenance, otherwise this node would take over now: `lockstep failover`, or `lockstep maintenance off`"
        } else {
            "the other node said that automatic moves are off before it fell silent, otherwise this node would take over now: `lockstep failover`"
        }
    }

    /// This node cannot serve, whatever the network does.
    pub(super) fn is_unfit(&self) -> bool {
        self.evidence.app_failed || self.evidence.disk_fault.is_some()
    }

    /// Standby: a service that is handed over would be served.
    pub(super) fn is_fit(&self) -> bool {
        let evidence = &self.evidence;
        let failed_lately = evidence.app_failed_at.is_some_and(|at| self.now < at + FIT_AGAIN);
        evidence.majority_since(&self.config.timing, self.now).is_some()
            && evidence.lan_carrier
            && evidence.disk_fault.is_none()
            && !failed_lately
    }

    /// The standby could and would take what is handed over now.
    fn peer_can_take_over(&self) -> bool {
        let Phase::Active(active) = &self.phase else { return false };
        let evidence = &self.evidence;
        let fit = evidence.word.is_some_and(|word| {
            word.heartbeat.fit
                && word.heartbeat.epoch() == self.state.epoch
                && word.heartbeat.intent == Intent::None as i32
        });
        fit && active.is_in_sync()
            && evidence.engine_in_sync
            && evidence.peer_hears_us(&self.config.timing, self.now)
            && !self.hands_off()
            && self.moves_within_window() < MOVES_MAX
    }

    /// See [`crate::table::View::may_hand_over`].
    pub(super) fn may_hand_over(&self) -> bool {
        self.peer_can_take_over() && (self.is_unfit() || self.is_cut_off_for_long())
    }

    /// See [`crate::table::View::failback`].
    pub(super) fn failback_is_due(&self) -> bool {
        let (Some(after), Phase::Active(active)) = (self.config.failback_after, &self.phase) else {
            return false;
        };
        self.config.role == Role::Secondary
            && active.stable_since().is_some_and(|since| self.now >= since + after)
            && self.peer_can_take_over()
    }

    fn is_cut_off_for_long(&self) -> bool {
        let Some(lost) = self.evidence.majority_lost else { return false };
        let heard = self.evidence.detector.heard_on(Path::Lan).unwrap_or(lost);
        self.now >= lost.max(heard) + cut_off_for(&self.config.timing)
    }

    fn moves_within_window(&self) -> usize {
        self.moves.iter().filter(|at| self.now < **at + MOVES_WINDOW).count()
    }

    /// Does `row`, once it is logged, end this node's service? A question is asked or withdrawn on the way.
    pub(super) fn hands_over(&mut self, row: &'static Row) -> bool {
        match row.verdict {
            Verdict::HandOver if self.row == row.id => {
                let now = self.now;
                self.moves.retain(|at| now < *at + MOVES_WINDOW);
                self.moves.push(now);
                true
            }
            _ => {
                self.ask_or_withdraw(row);
                false
            }
        }
    }
}

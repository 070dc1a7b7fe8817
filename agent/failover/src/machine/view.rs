//! The evidence as the table sees it, for each of the three questions.

use super::{FailoverType, Machine, Role};
use crate::profile::stretched;
use crate::state::{PairState, Was};
use crate::table::{Peer, Relation, Row, View, WasKind, Who, row_for};
use crate::time::Time;
use lockstep_wire::Epoch;
use std::time::Duration;

/// A foreign ARP counts this long.
const FOREIGN: Duration = Duration::from_secs(10);

impl Machine {
    fn view(&self, who: Who) -> View {
        let timing = &self.config.timing;
        let now = self.now;
        let evidence = &self.evidence;
        let relation = self.relation();
        View {
            who,
            peer: evidence.peer(timing, now),
            majority: evidence.majority_since(timing, now).is_some(),
            wait_over: self.wait_over(),
            vip: evidence.vip(),
            grant: evidence.grant.is_valid(now) && !self.state.outdated,
            tie: self.tie(),
            automatic: self.config.failover == FailoverType::Automatic,
            lease: evidence.lease_open,
            foreign: evidence.foreign_at.is_some_and(|at| now < at + FOREIGN),
            permit_old: evidence.permit_old,
            unfit: self.is_unfit(),
            may_hand_over: self.may_hand_over(),
            failback: self.failback_is_due(),
            was: was_kind(&self.state),
            relation,
            peer_solo: relation != Relation::Unheard
                && evidence.word.is_some_and(|word| {
                    word.heartbeat.solo
                        && !word.heartbeat.active
                        && word.heartbeat.epoch() != self.state.epoch
                }),
            last_active: self.state.epoch.node == self.config.node && self.state.epoch != Epoch::NONE,
            primary: self.config.role == Role::Primary,
        }
    }

    /// The row that holds for this node as `who`.
    pub(super) fn row(&self, who: Who) -> &'static Row {
        row_for(&self.view(who))
    }

    /// The wait for the other's lease is over, and a majority answered throughout it.
    pub(super) fn wait_over(&self) -> bool {
        self.wait_over_at().is_some_and(|at| self.now >= at)
    }

    /// When it will be, if a majority answers now.
    pub(super) fn wait_over_at(&self) -> Option<Time> {
        let timing = &self.config.timing;
        let detector = &self.evidence.detector;
        let since = self.evidence.majority_since(timing, self.now)?;
        let lease = stretched(detector.longest_lease()) + timing.margin;
        Some(detector.wait_over_at(timing).max(since + lease))
    }

    /// How the peer's history relates to ours, by its newest word while it is heard.
    pub(super) fn relation(&self) -> Relation {
        let heard = self.evidence.peer(&self.config.timing, self.now);
        let Some(word) = self.evidence.word.filter(|_| !matches!(heard, Peer::Nothing | Peer::Unknown))
        else {
            return Relation::Unheard;
        };
        let theirs = word.heartbeat.epoch();
        match theirs.cmp(&self.state.epoch) {
            _ if word.heartbeat.active && theirs >= self.state.epoch && theirs.node != self.config.node => {
                Relation::Serves
            }
            std::cmp::Ordering::Greater => Relation::Higher,
            std::cmp::Ordering::Equal => Relation::Same,
            std::cmp::Ordering::Less => Relation::Lower,
        }
    }

    /// The newest epoch the peer was heard with, if it is higher than ours.
    pub(super) fn higher_epoch(&self) -> Option<Epoch> {
        let word = self.evidence.word?;
        Some(word.heartbeat.epoch()).filter(|epoch| *epoch > self.state.epoch)
    }
}

pub(super) fn was_kind(state: &PairState) -> WasKind {
    match state.was {
        Was::Never => WasKind::Never,
        _ if state.forced => WasKind::Forced,
        Was::Active if state.released => WasKind::Followed,
        Was::Active if state.solo => WasKind::Alone,
        Was::Active => WasKind::InSync,
        Was::Standby => WasKind::Followed,
    }
}

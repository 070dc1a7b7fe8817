//! What renews the lease, and what does not.

use crate::words::{EPOCH, OURS, PERMIT, from_peer, ms, open_lease, timing};
use lockstep_failover::{Judgement, Lapse, Lease, Permit};
use lockstep_wire::{Epoch, Heartbeat, Intent};

#[test]
fn the_lease_ends_with_the_newest_echoed_heartbeat_and_not_with_its_receipt() {
    let mut lease = open_lease(false);
    lease.on_received(&from_peer(2, 1_100), OURS, ms(1_500), true);
    assert_eq!(lease.judge(ms(1_500)), Judgement::Open);
    assert_eq!(lease.lease_end(), Some(ms(1_700)));
    assert_eq!(lease.judge(ms(1_700)), Judgement::Lapsed(Lapse::NoEvidence));
}

#[test]
fn an_echo_at_another_epoch_renews_nothing() {
    let mut lease = open_lease(false);
    let other = Heartbeat { epoch_counter: 0, epoch_node: 0, ..from_peer(2, 1_400) };
    lease.on_received(&other, OURS, ms(1_401), true);
    let _ = lease.judge(ms(1_401));
    assert_eq!(lease.lease_end(), Some(ms(1_600)));
}

#[test]
fn alone_a_majority_extends_the_lease_only_after_two_and_a_half_silent_periods() {
    let mut lease = open_lease(false);
    lease.on_majority_probe(ms(1_450));
    let _ = lease.judge(ms(1_480));
    assert_eq!(lease.lease_end(), Some(ms(1_600)), "the peer was heard 479 ms ago");
    let _ = lease.judge(ms(1_501));
    assert_eq!(lease.lease_end(), Some(ms(2_050)), "2.5 periods of silence: probe + lease");
}

#[test]
fn a_majority_only_extends_an_open_lease() {
    let mut lease = open_lease(false);
    assert_eq!(lease.judge(ms(1_600)), Judgement::Lapsed(Lapse::NoEvidence));
    lease.on_majority_probe(ms(1_610));
    assert_eq!(lease.judge(ms(1_620)), Judgement::Shut);
    let mut fresh = Lease::new(&timing());
    fresh.on_permit(Some(PERMIT), false, ms(1_000));
    fresh.on_majority_probe(ms(1_010));
    assert_eq!(fresh.judge(ms(1_020)), Judgement::Shut, "in sync it opens only by the peer's echo");
}

#[test]
fn an_intent_a_higher_epoch_or_foreign_arp_bars_the_majority() {
    let intent =
        Heartbeat { intent: Intent::Promote as i32, intent_counter: 2, echo_session: 0, ..from_peer(2, 0) };
    let higher = Heartbeat { epoch_counter: 2, epoch_node: 2, ..from_peer(2, 0) };
    for word in [Some(intent), Some(higher), None] {
        let mut lease = open_lease(false);
        match word {
            Some(word) => lease.on_received(&word, OURS, ms(1_002), true),
            None => lease.on_foreign_arp(ms(1_002)),
        }
        lease.on_majority_probe(ms(1_540));
        assert_eq!(lease.judge(ms(1_550)), Judgement::Open);
        assert_eq!(lease.lease_end(), Some(ms(1_600)));
    }
}

#[test]
fn a_solo_active_beside_an_outdated_standby_is_extended_by_the_majority() {
    let outdated = Heartbeat { outdated: true, ..from_peer(2, 1_000) };
    for (solo, end) in [(true, ms(2_010)), (false, ms(1_600))] {
        let mut lease = open_lease(solo);
        lease.on_received(&outdated, OURS, ms(1_400), true);
        lease.on_majority_probe(ms(1_410));
        let _ = lease.judge(ms(1_420));
        assert_eq!(lease.lease_end(), Some(end));
    }
}

#[test]
fn an_intent_bars_the_majority_only_until_this_node_has_claimed_as_high_an_epoch() {
    let intent =
        Heartbeat { intent: Intent::Promote as i32, intent_counter: 2, echo_session: 0, ..from_peer(2, 0) };
    for (counter, judged) in [(1, Judgement::Shut), (2, Judgement::Opened)] {
        let mut lease = Lease::new(&timing());
        lease.on_received(&intent, OURS, ms(1_000), true);
        // Promoted, or forced by the operator after the peer was switched off.
        let epoch = Epoch { counter, ..EPOCH };
        lease.on_permit(Some(Permit { epoch, alone: true, ..PERMIT }), true, ms(2_000));
        lease.on_majority_probe(ms(2_010));
        assert_eq!(lease.judge(ms(2_020)), judged);
    }
}

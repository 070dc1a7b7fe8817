//! When the standby may promote by itself, and from when on the active acknowledges alone.

use crate::rig::Rig;
use crate::words::{EPOCH, OURS, from_peer, ms, timing};
use lockstep_failover::grant::{ReceivedGrant, SentGrant};
use lockstep_failover::{Action, Engine, Event, PairState, Profile, Role};
use lockstep_wire::{Heartbeat, SessionId};
use std::time::Duration;

#[test]
fn a_grant_is_dated_by_the_send_time_of_our_own_heartbeat_however_late_it_arrives() {
    let mut grant = ReceivedGrant::default();
    let message = Heartbeat { grant_us: 1_000_000, active: true, ..from_peer(1, 1_000) };
    assert!(grant.on_heartbeat(&message, OURS, EPOCH));
    assert!(grant.is_valid(ms(1_999)));
    assert!(!grant.is_valid(ms(2_000)), "V after the send time, not after receipt");
}

#[test]
fn a_grant_is_void_when_the_standby_restarts() {
    let mut grant = ReceivedGrant::default();
    let message = Heartbeat { grant_us: 1_000_000, active: true, ..from_peer(1, 1_000) };
    assert!(!grant.on_heartbeat(&message, SessionId(12), EPOCH), "it echoes the former session");
    assert!(!grant.is_valid(ms(1_001)));
}

#[test]
fn a_grant_outlasts_lease_probes_and_both_writes_in_every_profile() {
    for profile in Profile::ALL {
        let timing = profile.timing();
        let least = timing.lease
            + timing.margin
            + timing.hold_off
            + Duration::from_millis(400)
            + timing.period
            + timing.round_trip
            + timing.persist * 2;
        assert!(timing.grant_validity() >= least, "{}", profile.name());
        let sent = SentGrant::after_restart(ms(0));
        assert!(sent.over_at(&timing) > ms(0) + timing.grant_validity() + timing.margin);
    }
}

#[test]
fn the_word_outdated_counts_only_if_it_answers_a_heartbeat_sent_after_the_last_grant() {
    let mut rig = Rig::active();
    let granted_ms = rig.now.as_us() / 1_000;
    rig.wait(100);
    rig.tell(Event::EngineInSync(false));
    for _ in 0..22 {
        rig.wait(100);
        // It says outdated, but in answer to a heartbeat that granted.
        rig.peer(|beat| beat.echo_sent_us = granted_ms * 1_000);
    }
    assert!(!rig.machine.state().solo, "it might still promote");
    rig.wait(10);
    rig.peer(|_| {});
    assert!(rig.machine.state().solo, "solo at once");
    let mark = rig.written.iter().rposition(|state| state.solo).expect("solo is durable");
    assert!(mark > 0);
    assert_eq!(rig.actions.last().map(|action| matches!(action, Action::SetHeartbeat(_))), Some(true));
}

#[test]
fn alone_solo_waits_until_the_last_grant_is_over() {
    let mut rig = Rig::active();
    let granted = rig.now;
    while !rig.machine.state().solo {
        rig.wait(10);
        assert!(rig.now < ms(20_000), "solo comes");
    }
    assert!(rig.now >= granted + timing().grant_wait());
}

#[test]
fn solo_is_cleared_on_disk_before_the_first_grant() {
    let mut rig = Rig::new(Role::Primary, PairState::new());
    rig.wait(100);
    rig.peer(|beat| (beat.epoch_counter, beat.epoch_node) = (0, 0));
    rig.wait(100);
    rig.peer(|_| {});
    assert!(rig.machine.state().solo, "a claim is solo");
    rig.tell(Event::EngineInSync(true));
    let cleared = rig.written.iter().position(|state| !state.solo).expect("cleared on disk");
    assert_eq!(cleared, rig.written.len() - 1);
    let hold =
        rig.position(|action| *action == Action::Engine(Engine::HoldCommits)).expect("commits are held");
    let granting =
        rig.position(|action| matches!(action, Action::SetHeartbeat(voice) if voice.grant.is_some()));
    assert!(granting.is_some_and(|granting| granting > hold));
}

#[test]
fn told_solo_the_standby_durably_marks_itself_outdated_and_its_grant_is_void() {
    let mut rig = Rig::standby();
    rig.peer(|beat| (beat.active, beat.solo, beat.outdated) = (true, true, false));
    assert!(rig.machine.state().outdated);
    assert_eq!(rig.machine.status().grant_left, None);
}

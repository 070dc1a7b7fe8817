//! What holds and alarms, and moves nothing.

use crate::rig::Rig;
use lockstep_failover::action::Severity;
use lockstep_failover::{Action, Event};
use std::time::Duration;

/// What was logged of a row, and whether anything was started, stopped or moved since.
fn told(rig: &Rig, wanted: &str) -> Option<Severity> {
    let moved = rig.position(|action| {
        !matches!(
            action,
            Action::Log { .. }
                | Action::SetHeartbeat(_)
                | Action::RenewAlone { .. }
                | Action::RoundTripAlarm(_)
        )
    });
    assert_eq!(moved.map(|at| &rig.actions[at]), None);
    rig.actions.iter().find_map(|action| match action {
        Action::Log { row, severity, .. } if *row == wanted => Some(*severity),
        _ => None,
    })
}

#[test]
fn an_active_that_lost_its_lan_beside_a_live_direct_link_holds_and_alarms() {
    let mut rig = Rig::active();
    rig.actions.clear();
    for _ in 0..20 {
        rig.now = rig.now + Duration::from_millis(100);
        rig.peer_on(&[lockstep_failover::Path::Direct], |_| {});
        rig.tell(Event::TargetsMajority { sent_at: rig.now, answered: 1, of: 3 });
    }
    assert_eq!(told(&rig, "3c"), Some(Severity::Critical));
    assert_eq!((rig.machine.status().row, rig.machine.status().state.name()), ("3c", "active"));
}

#[test]
fn an_application_that_failed_for_good_beside_an_unfit_standby_is_alarmed_until_it_is_healthy() {
    let mut rig = Rig::active();
    rig.actions.clear();
    rig.tell(Event::AppFailed("shop failed 3 times".to_owned()));
    rig.peer(|_| {});
    assert_eq!(told(&rig, "app"), Some(Severity::Critical));
    assert_eq!(told(&rig, "5c"), Some(Severity::Critical));
    assert_eq!((rig.machine.status().row, rig.machine.status().state.name()), ("5c", "active"));
    rig.tell(Event::AppHealthy);
    for _ in 0..5 {
        rig.wait(100);
        rig.peer(|_| {});
    }
    assert_eq!(told(&rig, "1a"), Some(Severity::Info));
}

/// The newest alarm of row 18 while the peer answers `trip_ms` after each heartbeat, for 4 s.
fn alarm_at(rig: &mut Rig, trip_ms: u64) -> Option<Option<Severity>> {
    rig.actions.clear();
    for _ in 0..40 {
        rig.wait(100);
        let echoed_us = rig.now.as_us() - trip_ms * 1_000;
        rig.peer(|beat| beat.echo_sent_us = echoed_us);
    }
    let alarm = |action: &Action| match action {
        Action::RoundTripAlarm(alarm) => Some(alarm.as_ref().map(|(severity, sentence)| {
            assert!(
                sentence.contains(&format!("is {trip_ms} ms")) && sentence.contains("profile"),
                "{sentence}"
            );
            *severity
        })),
        _ => None,
    };
    rig.actions.iter().filter_map(alarm).next_back()
}

#[test]
fn a_round_trip_that_endangers_the_lease_is_alarmed_on_both_nodes_while_it_lasts() {
    for mut rig in [Rig::active(), Rig::standby()] {
        assert_eq!(alarm_at(&mut rig, 90), None);
        assert_eq!(alarm_at(&mut rig, 150), Some(Some(Severity::Warning)));
        assert_eq!(alarm_at(&mut rig, 650), Some(Some(Severity::Critical)));
        assert_eq!(alarm_at(&mut rig, 5), Some(None));
        assert_eq!(told(&rig, "8a"), None, "what is slow is not deaf");
    }
}

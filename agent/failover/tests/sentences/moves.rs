//! Moves that nobody asked for, what holds them back, and what would happen.

use crate::rig::Rig;
use crate::words::EPOCH;
use lockstep_failover::state::Was;
use lockstep_failover::{Action, Event, FailoverType, PairState, Path, Refusal, Request, Role, Step};
use lockstep_wire::{Heartbeat, Intent};
use std::time::Duration;

const FIT: fn(&mut Heartbeat) = |beat| (beat.outdated, beat.fit) = (false, true);

/// A pair that lives on for `ms` with a peer that speaks so.
fn live(rig: &mut Rig, ms: u64, word: impl Fn(&mut Heartbeat)) {
    for _ in 0..ms / 100 {
        rig.wait(100);
        rig.peer(&word);
    }
}

fn ask(rig: &mut Rig, request: Request) -> Result<(), Refusal> {
    match rig.machine.request(rig.now, request)? {
        Step::Ready(actions) => rig.obey(actions),
        Step::Persist(_) => panic!("nothing to write"),
    }
    Ok(())
}

fn logged(rig: &Rig, wanted: &str) -> bool {
    rig.position(|action| matches!(action, Action::Log { row, .. } if *row == wanted)).is_some()
}

/// Whether the application was stopped for a release.
fn released(rig: &Rig) -> bool {
    rig.machine.state().released
}

fn fails(rig: &mut Rig) {
    rig.tell(Event::AppFailed("web failed 3 times".to_owned()));
}

#[test]
fn an_application_that_failed_for_good_hands_over_to_a_fit_standby_in_sync() {
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    assert!(!released(&rig));
    fails(&mut rig);
    live(&mut rig, 200, FIT);
    assert!(logged(&rig, "5a") && released(&rig), "{:?}", rig.machine.status());
}

#[test]
fn a_database_disk_that_fails_hands_over_and_one_that_works_again_does_not() {
    let mut rig = Rig::active();
    live(&mut rig, 500, |beat| beat.outdated = false);
    rig.tell(Event::DatabaseDisk(Some("/srv/shop: Input/output error".to_owned())));
    rig.tell(Event::DatabaseDisk(None));
    live(&mut rig, 1_000, FIT);
    assert!(logged(&rig, "disk") && !released(&rig));
    rig.tell(Event::DatabaseDisk(Some("/srv/shop: Input/output error".to_owned())));
    live(&mut rig, 200, FIT);
    assert!(logged(&rig, "5a") && released(&rig));
}

#[test]
fn a_failed_application_is_a_question_where_failover_is_manual() {
    let mut rig = Rig::active_with(|config| config.failover = FailoverType::Manual);
    live(&mut rig, 500, FIT);
    fails(&mut rig);
    live(&mut rig, 1_000, FIT);
    let question = rig.machine.status().question.expect("the operator is asked");
    assert!(question.contains("`lockstep switchover`"), "{question}");
    assert!(logged(&rig, "5b") && !released(&rig));
    rig.tell(Event::AppHealthy);
    live(&mut rig, 500, FIT);
    assert_eq!(rig.machine.status().question, None, "withdrawn with its cause");
}

#[test]
fn nothing_is_handed_to_a_standby_that_is_unfit_outdated_or_does_not_follow() {
    let unfit: fn(&mut Heartbeat) = |beat| beat.outdated = false;
    let intends: fn(&mut Heartbeat) =
        |beat| (beat.outdated, beat.fit, beat.intent) = (false, true, Intent::Refused as i32);
    for word in [unfit, intends] {
        let mut rig = Rig::active();
        live(&mut rig, 500, word);
        fails(&mut rig);
        live(&mut rig, 1_000, word);
        assert_eq!((rig.machine.status().row, released(&rig)), ("5c", false));
    }
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    rig.tell(Event::EngineInSync(false));
    fails(&mut rig);
    live(&mut rig, 1_000, FIT);
    assert_eq!((rig.machine.status().row, released(&rig)), ("5c", false));
}

/// After a release the standby serves under `counter`, and hands back at once.
fn there_and_back(rig: &mut Rig, counter: u64) {
    live(rig, 300, |beat| {
        (beat.epoch_counter, beat.epoch_node, beat.active, beat.outdated) = (counter, 2, true, false);
        beat.grant_us = 1_700_000;
    });
    assert_eq!(rig.machine.status().state.name(), "standby", "{:?}", rig.machine.status());
    for _ in 0..20 {
        rig.wait(100);
        rig.peer(|beat| {
            (beat.epoch_counter, beat.epoch_node, beat.outdated) = (counter, 2, false);
            beat.intent = Intent::Released as i32;
        });
        let serves = rig.machine.status().state.name() == "active";
        if serves {
            break;
        }
    }
    let epoch = rig.machine.state().epoch;
    assert_eq!(epoch.counter, counter + 1, "{:?}", rig.machine.status());
    let ours = move |beat: &mut Heartbeat| {
        (beat.epoch_counter, beat.epoch_node) = (epoch.counter, epoch.node.0);
        FIT(beat);
    };
    live(rig, 300, ours);
    rig.tell(Event::EngineInSync(true));
    live(rig, 300, ours);
    assert!(rig.machine.status().in_sync, "{:?}", rig.machine.status());
}

#[test]
fn after_two_handovers_within_the_hour_the_next_is_the_operators() {
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    for counter in [2, 4] {
        fails(&mut rig);
        let epoch = rig.machine.state().epoch;
        live(&mut rig, 300, |beat| {
            (beat.epoch_counter, beat.epoch_node) = (epoch.counter, epoch.node.0);
            FIT(beat);
        });
        assert!(released(&rig), "move {counter}: {:?}", rig.machine.status());
        there_and_back(&mut rig, counter);
    }
    fails(&mut rig);
    let epoch = rig.machine.state().epoch;
    let ours = move |beat: &mut Heartbeat| {
        (beat.epoch_counter, beat.epoch_node) = (epoch.counter, epoch.node.0);
        FIT(beat);
    };
    live(&mut rig, 1_000, ours);
    assert_eq!((rig.machine.status().row, released(&rig)), ("5c", false), "the third");
    rig.now = rig.now + Duration::from_hours(1);
    live(&mut rig, 1_000, ours);
    assert!(released(&rig), "an hour later: {:?}", rig.machine.status());
}

#[test]
fn a_node_is_not_fit_while_its_lan_targets_or_disk_fail_or_its_application_just_did() {
    let fit = |rig: &mut Rig| {
        rig.actions.clear();
        for _ in 0..12 {
            rig.now = rig.now + Duration::from_millis(100);
            let answered = if rig.auto { 3 } else { 1 };
            rig.tell(Event::TargetsMajority { sent_at: rig.now, answered, of: 3 });
            rig.peer(|beat| (beat.active, beat.outdated, beat.grant_us) = (true, false, 1_700_000));
        }
        let mut voices = rig.actions.iter().filter_map(|action| match action {
            Action::SetHeartbeat(voice) => Some(voice.fit),
            _ => None,
        });
        voices.next_back().expect("it speaks once a second")
    };
    let mut rig = Rig::standby();
    assert!(fit(&mut rig));
    rig.tell(Event::Carrier { path: Path::Lan, up: false });
    assert!(!fit(&mut rig), "without a carrier");
    rig.tell(Event::Carrier { path: Path::Lan, up: true });
    rig.tell(Event::DatabaseDisk(Some("EIO".to_owned())));
    assert!(!fit(&mut rig), "with a disk that fails");
    rig.tell(Event::DatabaseDisk(None));
    fails(&mut rig);
    assert!(!fit(&mut rig), "its application just failed");
    rig.now = rig.now + Duration::from_mins(10);
    assert!(fit(&mut rig), "that was long ago");
    rig.auto = false;
    assert!(!fit(&mut rig), "without a majority");
}

#[test]
fn the_address_is_announced_again_when_a_foreign_claim_is_seen_and_when_it_is_over() {
    let announced = |rig: &Rig| rig.actions.iter().filter(|action| **action == Action::Announce).count();
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    rig.actions.clear();
    rig.tell(Event::ForeignArp);
    live(&mut rig, 9_000, FIT);
    assert_eq!((rig.machine.status().row, announced(&rig)), ("13a", 1));
    live(&mut rig, 2_000, FIT);
    assert_eq!((rig.machine.status().row, announced(&rig)), ("1a", 2));
}

/// The LAN of this node is dead, and the standby's is not.
fn without_lan(rig: &mut Rig, ms: u64) {
    for _ in 0..ms / 100 {
        rig.now = rig.now + Duration::from_millis(100);
        rig.tell(Event::TargetsMajority { sent_at: rig.now, answered: 0, of: 3 });
        rig.peer_on(&[Path::Direct], FIT);
    }
}

#[test]
fn a_node_whose_lan_stays_dead_hands_over_to_one_that_sees_the_targets() {
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    without_lan(&mut rig, 4_500);
    assert_eq!((rig.machine.status().row, released(&rig)), ("3c", false), "a moment is no reason");
    without_lan(&mut rig, 1_500);
    assert!(logged(&rig, "3a") && released(&rig), "{:?}", rig.machine.status());

    let mut rig = Rig::active_with(|config| config.failover = FailoverType::Manual);
    live(&mut rig, 500, FIT);
    without_lan(&mut rig, 6_000);
    assert_eq!((rig.machine.status().row, released(&rig)), ("3b", false));
    assert!(rig.machine.status().question.is_some_and(|question| question.contains("switchover")));
}

/// The secondary serves, the primary follows in sync.
fn secondary_serves(after: Option<Duration>) -> Rig {
    let mut state = PairState::new();
    (state.epoch, state.was, state.outdated) = (EPOCH, Was::Active, false);
    state.epoch.node.0 = 2;
    let mut rig = Rig::configured(Role::Secondary, state, |config| config.failback_after = after);
    let ours = |beat: &mut Heartbeat| {
        beat.epoch_node = 2;
        FIT(beat);
    };
    for _ in 0..40 {
        rig.wait(100);
        rig.peer(ours);
    }
    rig.tell(Event::EngineInSync(true));
    live(&mut rig, 300, ours);
    assert!(rig.machine.status().in_sync, "{:?}", rig.machine.status());
    rig
}

#[test]
fn the_secondary_hands_back_after_the_configured_time_in_sync_on_both_paths() {
    let ours = |beat: &mut Heartbeat| {
        beat.epoch_node = 2;
        FIT(beat);
    };
    let mut rig = secondary_serves(Some(Duration::from_secs(30)));
    live(&mut rig, 20_000, ours);
    // One path goes for a moment: the time counts anew.
    for _ in 0..20 {
        rig.wait(100);
        rig.peer_on(&[Path::Lan], ours);
    }
    live(&mut rig, 29_000, ours);
    assert!(!logged(&rig, "1c") && !released(&rig));
    live(&mut rig, 3_000, ours);
    assert!(logged(&rig, "1c") && released(&rig), "{:?}", rig.machine.status());

    let mut rig = secondary_serves(None);
    live(&mut rig, 60_000, ours);
    assert!(!released(&rig), "manual: the operator's `lockstep failback`");
}

#[test]
fn maintenance_on_either_node_keeps_the_service_where_it_is_and_the_operators_word_counts() {
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    ask(&mut rig, Request::Maintenance(true)).expect("taken");
    fails(&mut rig);
    live(&mut rig, 1_000, FIT);
    assert_eq!((rig.machine.status().row, released(&rig)), ("5c", false), "its own");
    ask(&mut rig, Request::Switchover).expect("the operator may");
    assert!(released(&rig));

    let mut rig = Rig::active();
    let kept = |beat: &mut Heartbeat| {
        FIT(beat);
        beat.hands_off = true;
    };
    live(&mut rig, 500, kept);
    fails(&mut rig);
    live(&mut rig, 1_000, kept);
    assert_eq!((rig.machine.status().row, released(&rig)), ("5c", false), "the peer's");
}

#[test]
fn a_standby_whose_active_went_away_in_maintenance_asks_and_does_not_take_over() {
    let mut rig = Rig::standby();
    rig.peer(|beat| {
        (beat.active, beat.outdated, beat.grant_us, beat.hands_off) = (true, false, 1_700_000, true);
    });
    for _ in 0..10 {
        rig.wait(100);
    }
    assert_eq!(rig.position(|action| *action == Action::ProbeVip), None);
    let question = rig.machine.status().question.expect("it asks");
    assert!(question.contains("`lockstep failover`"), "{question}");
    ask(&mut rig, Request::Failover { accept_loss: false }).expect("the operator may");
    assert!(rig.position(|action| *action == Action::ProbeVip).is_some());
}

#[test]
fn a_node_that_observes_says_what_it_would_do_and_moves_nothing() {
    let mut rig = Rig::standby();
    ask(&mut rig, Request::Observe(true)).expect("taken");
    for _ in 0..10 {
        rig.wait(100);
    }
    assert_eq!(rig.position(|action| *action == Action::ProbeVip), None);
    let question = rig.machine.status().question.expect("it says so");
    assert!(question.contains("would") && question.contains("`lockstep observe off`"), "{question}");
    for request in [Request::Failover { accept_loss: true }, Request::Switchover, Request::Failback] {
        assert_eq!(ask(&mut rig, request), Err(Refusal::Observing));
    }
    ask(&mut rig, Request::Observe(false)).expect("taken");
    rig.wait(100);
    assert!(rig.position(|action| *action == Action::ProbeVip).is_some(), "and now it does");
}

#[test]
fn a_forecast_on_the_standby_says_that_it_would_serve_and_changes_nothing() {
    let mut rig = Rig::standby();
    live(&mut rig, 300, |beat| (beat.active, beat.outdated, beat.grant_us) = (true, false, 1_700_000));
    let before = rig.machine.status();
    let forecast = rig.machine.forecast(rig.now);
    assert!(forecast.outcome.starts_with("this node would serve after 6"), "{forecast:#?}");
    let rows: Vec<&str> = forecast.steps.iter().map(|step| step.row.as_str()).collect();
    for row in ["10b", "intent", "claim", "open"] {
        assert!(rows.contains(&row), "{row}: {forecast:#?}");
    }
    assert_eq!(rig.machine.status(), before);

    // The forecast is what then happens.
    rig.actions.clear();
    for _ in 0..7 {
        rig.wait(100);
    }
    assert!(logged(&rig, "10b"));
}

#[test]
fn a_forecast_names_the_question_the_wait_and_the_end_of_serving() {
    let mut manual =
        Rig::configured(Role::Secondary, PairState::new(), |c| c.failover = FailoverType::Manual);
    live(&mut manual, 500, |beat| (beat.active, beat.outdated, beat.grant_us) = (true, false, 1_700_000));
    let forecast = manual.machine.forecast(manual.now);
    assert!(forecast.outcome.contains("operator would be asked"), "{forecast:#?}");
    assert!(forecast.outcome.contains("`lockstep failover`"), "{forecast:#?}");

    let mut active = Rig::active();
    live(&mut active, 500, FIT);
    let forecast = active.machine.forecast(active.now);
    assert!(forecast.outcome.contains("acknowledge commits alone after"), "{forecast:#?}");

    without_lan(&mut active, 3_000);
    let forecast = active.machine.forecast(active.now);
    assert!(forecast.outcome.contains("would stop serving after"), "{forecast:#?}");

    let mut alone = Rig::standby();
    for _ in 0..5 {
        alone.now = alone.now + Duration::from_millis(100);
        alone.tell(Event::TargetsMajority { sent_at: alone.now, answered: 1, of: 3 });
        alone.peer_on(&[Path::Direct], |beat| {
            (beat.active, beat.outdated, beat.grant_us) = (true, false, 1_700_000);
        });
    }
    let forecast = alone.machine.forecast(alone.now);
    assert!(forecast.outcome.contains("nothing would be moved"), "{forecast:#?}");
    assert!(forecast.outcome.contains("cut off"), "{forecast:#?}");
}

#[test]
fn the_facts_tell_every_kind_of_evidence_with_its_age() {
    let mut rig = Rig::active();
    live(&mut rig, 500, FIT);
    rig.now = rig.now + Duration::from_millis(70);
    let facts = rig.machine.facts(rig.now);
    let fact = |name: &str| facts.iter().find(|fact| fact.name == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(
        (fact("heartbeat-direct").value.as_str(), fact("heartbeat-direct").age_ms),
        ("heard", Some(70))
    );
    assert_eq!((fact("targets").value.as_str(), fact("targets").age_ms), ("3 of 3 answer", Some(70)));
    assert!(fact("peer-says").value.contains("fit to serve"));
    for name in
        ["heartbeat-lan", "peer-hears-us", "vip-probe", "foreign-arp", "grant-received", "lan-carrier"]
    {
        fact(name);
    }
    for name in ["application", "database-disk", "standby", "lease", "automatic-moves"] {
        fact(name);
    }
    rig.now = rig.now + Duration::from_secs(2);
    let facts = rig.machine.facts(rig.now);
    assert_eq!(facts[0].value, "silent");
}

//! Claiming an epoch, giving one up, and what a crash between leaves.

use crate::rig::Rig;
use crate::words::{EPOCH, NEXT};
use lockstep_failover::state::Was;
use lockstep_failover::{Action, Engine, Event, PairState, Role};

/// Silence until the wait is over; then the probes are due.
fn silent_standby() -> Rig {
    let mut rig = Rig::standby();
    silent(&mut rig);
    rig
}

pub(crate) fn silent(rig: &mut Rig) {
    rig.actions.clear();
    rig.wait(300);
    rig.wait(300);
    assert_eq!(rig.position(|action| *action == Action::ProbeVip), None, "the wait is not over");
    rig.wait(52);
    assert!(rig.position(|action| *action == Action::SendIntentPings).is_some());
}

pub(crate) fn probed(rig: &mut Rig, result: lockstep_failover::event::VipProbe) {
    let sent_at = rig.now;
    rig.tell(Event::VipProbed { sent_at, result });
}

#[test]
fn a_promotion_writes_its_intent_probes_again_and_claims_before_the_mirror_opens() {
    use lockstep_failover::event::VipProbe;
    let mut rig = silent_standby();
    probed(&mut rig, VipProbe::Silent);
    rig.tell(Event::IntentPingsDone);
    assert_eq!(rig.machine.state().intent, Some(NEXT));
    assert_eq!(rig.machine.state().epoch, EPOCH, "an intent is never an epoch");
    assert_eq!(rig.position(|action| matches!(action, Action::Engine(Engine::Promote { .. }))), None);
    probed(&mut rig, VipProbe::Silent);
    assert_eq!((rig.machine.state().epoch, rig.machine.state().intent), (NEXT, None));
    let opened = rig.position(|action| *action == Action::Engine(Engine::Promote { epoch: NEXT }));
    let added = rig.position(|action| *action == Action::AddVipSilent);
    assert!(opened.is_some() && opened < added);
}

#[test]
fn a_claim_whose_last_check_nobody_made_is_taken_back_and_serves_nothing() {
    use lockstep_failover::event::VipProbe;
    let mut rig = silent_standby();
    probed(&mut rig, VipProbe::Silent);
    rig.tell(Event::IntentPingsDone);
    probed(&mut rig, VipProbe::Silent);
    let claim = rig.written.iter().find(|state| state.epoch == NEXT).expect("it claims").clone();
    assert_eq!(rig.written.last().map(|state| (state.epoch, state.intent)), Some((NEXT, None)), "checked");

    // It crashed right after the claim; the grant ended, and the active may have gone solo.
    let mut rig = Rig::new(Role::Secondary, claim);
    rig.wait(100);
    let state = rig.machine.state();
    assert_eq!((state.epoch, state.intent, state.was), (EPOCH, None, Was::Standby));
    assert!(state.outdated);
    for _ in 0..60 {
        rig.wait(100);
        probed(&mut rig, VipProbe::Silent);
    }
    assert_eq!(rig.machine.status().row, "c4a", "it asks");
    assert_eq!(rig.position(|action| matches!(action, Action::AddVipSilent)), None);
}

#[test]
fn any_answer_cancels_a_promotion_durably() {
    use lockstep_failover::event::VipProbe;
    let mut rig = silent_standby();
    probed(&mut rig, VipProbe::Silent);
    rig.tell(Event::IntentPingsDone);
    assert_eq!(rig.machine.state().intent, Some(NEXT));
    rig.peer(|beat| (beat.active, beat.outdated) = (true, false));
    assert_eq!((rig.machine.state().epoch, rig.machine.state().intent), (EPOCH, None));
    assert_eq!(rig.machine.status().state.name(), "standby");
}

#[test]
fn whoever_answers_for_the_vip_stops_a_takeover() {
    use lockstep_failover::event::VipProbe;
    for (result, row) in [(VipProbe::PeerMac, "12"), (VipProbe::ForeignMac, "13b")] {
        let mut rig = silent_standby();
        probed(&mut rig, result);
        rig.tell(Event::IntentPingsDone);
        assert_eq!((rig.machine.state().epoch, rig.machine.state().intent), (EPOCH, None));
        assert_eq!(rig.machine.status().row, row, "it holds and says why");
        rig.actions.clear();
        rig.wait(900);
        assert_eq!(rig.position(|action| *action == Action::ProbeVip), None, "it does not ask without end");
        rig.wait(100);
        assert!(rig.position(|action| *action == Action::ProbeVip).is_some(), "it asks again after a second");
    }
}

#[test]
fn an_intent_found_at_the_start_is_cancelled_on_disk_before_the_first_word() {
    let mut state = PairState::new();
    (state.epoch, state.was) = (EPOCH, Was::Standby);
    state.intent = Some(NEXT);
    let rig = Rig::new(Role::Secondary, state);
    assert_eq!(rig.written.first().map(|state| (state.intent, state.epoch)), Some((None, EPOCH)));
}

#[test]
fn a_higher_epoch_demotes_at_once() {
    let mut rig = Rig::active();
    rig.peer(|beat| {
        (beat.epoch_counter, beat.epoch_node, beat.active) = (NEXT.counter, NEXT.node.0, true);
    });
    assert_eq!(rig.machine.state().epoch, NEXT);
    assert!(rig.machine.state().outdated);
    assert_eq!(rig.machine.status().state.name(), "copying");
}

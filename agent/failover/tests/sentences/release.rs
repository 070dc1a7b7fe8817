//! Giving the address away on purpose, and taking it back.

use crate::rig::Rig;
use crate::words::{EPOCH, NEXT};
use lockstep_failover::{Action, Event, PairState, Role, Step};
use lockstep_wire::{Heartbeat, Intent};

#[test]
fn a_release_withdraws_the_permit_before_anything_is_deleted_and_ends_connections_while_leased() {
    let mut rig = Rig::active();
    rig.actions.clear();
    rig.auto = false;
    let step = rig.machine.request(rig.now, lockstep_failover::Request::Switchover).expect("in sync");
    let Step::Ready(actions) = step else { panic!("nothing to write yet") };
    rig.obey(actions);
    assert!(rig.position(|action| *action == Action::StopApp).is_some());
    rig.tell(Event::AppStopped);
    rig.tell(Event::Drained);
    let withdrawn =
        rig.position(|action| matches!(action, Action::SetHeartbeat(voice) if voice.permit.is_none()));
    let withdrawn = withdrawn.expect("the permit is withdrawn");
    assert_eq!(
        rig.position(|action| *action == Action::EndVipSockets),
        None,
        "not before the thread confirms"
    );
    let Action::SetHeartbeat(voice) = rig.actions[withdrawn] else { unreachable!("just found") };
    rig.tell(Event::HeartbeatSet { revision: voice.revision, last_grant_sent: None });
    assert!(rig.position(|action| *action == Action::EndVipSockets).is_some());
    assert_eq!(
        rig.position(|action| *action == Action::DeleteLeaseElement),
        None,
        "sockets end while leased"
    );
    rig.tell(Event::VipSocketsEnded);
    assert!(rig.position(|action| *action == Action::DeleteLeaseElement).is_some());
    assert_eq!(rig.position(|action| *action == Action::DeleteVip), None);
    rig.tell(Event::LeaseElementDeleted);
    assert!(rig.position(|action| *action == Action::DeleteVip).is_some());
    rig.tell(Event::VipGone);
    assert!(rig.machine.state().released);
    let told =
        rig.position(|action| matches!(action, Action::SetHeartbeat(v) if v.intent == Intent::Released));
    assert!(told.is_some());
}

#[test]
fn the_released_vip_is_taken_back_only_after_a_refusal_sent_after_the_release() {
    let mut rig = Rig::active();
    let before_ms = rig.now.as_us() / 1_000;
    rig.wait(100);
    let _ = rig.machine.request(rig.now, lockstep_failover::Request::Switchover).map(|step| match step {
        Step::Ready(actions) => rig.obey(actions),
        Step::Persist(_) => panic!("nothing to write yet"),
    });
    assert!(rig.machine.state().released);
    let refusal = |beat: &mut Heartbeat| beat.intent = Intent::Refused as i32;
    rig.peer(|beat| {
        refusal(beat);
        beat.echo_sent_us = before_ms * 1_000;
    });
    assert!(rig.machine.state().released, "that refusal is older than the release");
    for _ in 0..40 {
        rig.wait(100);
    }
    assert!(rig.machine.state().released && rig.machine.status().question.is_some(), "silence is a question");
    rig.peer(refusal);
    assert!(!rig.machine.state().released);
}

#[test]
fn a_release_that_does_not_echo_our_present_session_is_ignored() {
    let released = |beat: &mut Heartbeat| {
        beat.intent = Intent::Released as i32;
        beat.outdated = false;
    };
    let mut rig = Rig::standby();
    rig.peer(|beat| {
        released(beat);
        beat.echo_session = 10;
    });
    assert_eq!(rig.machine.state().epoch, EPOCH);
    rig.peer(released);
    assert_eq!(rig.machine.state().epoch, NEXT, "this one counts");
}

#[test]
fn an_outdated_standby_refuses_a_release_durably() {
    let mut rig = Rig::new(Role::Secondary, PairState::new());
    rig.wait(100);
    rig.peer(|beat| (beat.active, beat.solo, beat.outdated) = (true, true, false));
    rig.peer(|beat| (beat.intent, beat.outdated) = (Intent::Released as i32, false));
    assert_eq!(rig.machine.state().refused, Some(EPOCH));
    assert_eq!(rig.machine.state().epoch, EPOCH);
}

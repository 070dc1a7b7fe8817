//! What a witness and a fence allow, and what they do not.

use crate::promotion::{probed, silent};
use crate::rig::Rig;
use crate::words::{EPOCH, NEXT, OURS, PERMIT, from_peer, ms, open_lease, timing};
use lockstep_failover::event::VipProbe;
use lockstep_failover::witness::{Answer, Claim, Register};
use lockstep_failover::{Action, Config, Event, PairState, Permit, Role};

const SHARED: Register = Register { epoch: EPOCH, alone: false };
const OURS_ALONE: Register = Register { epoch: EPOCH, alone: true };

fn witnessed(config: &mut Config) {
    config.witness = true;
}

fn fenced(config: &mut Config) {
    config.fence = true;
}

impl Rig {
    /// The last question, if it is not answered yet.
    fn asked(&self) -> Option<(u64, Claim)> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::AskWitness { number, claim } => Some((*number, *claim)),
            _ => None,
        })
    }

    fn answer(&mut self, won: bool, holds: Register) {
        let (number, _) = self.asked().expect("a question");
        self.tell(Event::WitnessAnswered { number, answer: Answer::Reached { won, holds: Some(holds) } });
    }

    fn may_lean(&self) -> bool {
        let voice = self.actions.iter().rev().find_map(|action| match action {
            Action::SetHeartbeat(voice) => Some(voice),
            _ => None,
        });
        voice.and_then(|voice| voice.permit).is_some_and(|permit| permit.targets)
    }

    /// Asks only what it is known to ask: whatever was under way is answered.
    fn settle(&mut self, holds: Register) {
        self.answer(false, holds);
    }
}

fn standby(change: impl Fn(&mut Config)) -> Rig {
    let mut rig = Rig::standby_with(change);
    if rig.asked().is_some() {
        rig.settle(SHARED);
    }
    silent(&mut rig);
    probed(&mut rig, VipProbe::Silent);
    rig.tell(Event::IntentPingsDone);
    assert_eq!(rig.machine.state().intent, Some(NEXT));
    probed(&mut rig, VipProbe::Silent);
    rig
}

#[test]
fn without_a_permit_to_lean_on_them_the_targets_extend_nothing() {
    let mut lease = open_lease(false);
    lease.on_permit(Some(Permit { targets: false, ..PERMIT }), false, ms(1_100));
    lease.on_majority_probe(ms(1_540));
    let _ = lease.judge(ms(1_550));
    assert_eq!(lease.lease_end(), Some(ms(1_600)));
    lease.on_permit(Some(PERMIT), false, ms(1_560));
    let _ = lease.judge(ms(1_561));
    assert_eq!(lease.lease_end(), Some(ms(2_140)), "won in time");
    lease.on_received(&from_peer(2, 1_570), OURS, ms(1_571), true);
}

#[test]
fn an_active_left_alone_asks_before_its_lease_ends_and_leans_on_its_targets_only_after_it_won() {
    let mut rig = Rig::active_with(witnessed);
    rig.settle(SHARED);
    let heard = rig.now;
    while rig.asked().is_none_or(|(_, claim)| claim != (Claim::Alone { epoch: EPOCH })) {
        rig.wait(10);
        assert!(rig.now < heard + timing().lease, "in time");
    }
    assert!(!rig.may_lean());
    rig.answer(true, OURS_ALONE);
    assert!(rig.may_lean());
}

#[test]
fn a_late_answer_to_an_earlier_question_decides_nothing() {
    let mut rig = Rig::active_with(witnessed);
    let (earlier, _) = rig.asked().expect("it looks");
    rig.settle(SHARED);
    rig.wait(520);
    let (number, claim) = rig.asked().expect("quiet");
    assert_eq!(claim, Claim::Alone { epoch: EPOCH });
    assert_ne!(number, earlier);
    let won = Answer::Reached { won: true, holds: Some(OURS_ALONE) };
    rig.tell(Event::WitnessAnswered { number: earlier, answer: won });
    assert!(!rig.may_lean());
}

#[test]
fn a_win_is_shared_again_only_after_every_lease_that_leaned_on_it() {
    let mut rig = Rig::active_with(witnessed);
    rig.settle(SHARED);
    rig.wait(520);
    rig.answer(true, OURS_ALONE);
    rig.peer(|beat| beat.outdated = false);
    assert!(!rig.may_lean(), "the heartbeat thread first");
    let since = rig.now;
    while rig.asked().is_none_or(|(_, claim)| claim != (Claim::Share { epoch: EPOCH })) {
        rig.wait(10);
        rig.peer(|beat| beat.outdated = false);
        assert!(rig.now < since + timing().lease * 2, "it comes");
    }
    assert!(rig.now >= since + timing().lease + timing().margin);
}

#[test]
fn with_a_witness_solo_waits_for_the_win_and_not_for_the_end_of_the_grant() {
    let mut rig = Rig::active_with(witnessed);
    rig.settle(SHARED);
    for _ in 0..100 {
        rig.wait(100);
    }
    assert!(!rig.machine.state().solo, "the standby may have won");
    rig.answer(true, OURS_ALONE);
    assert!(rig.machine.state().solo);
}

#[test]
fn a_takeover_asks_the_witness_before_it_claims_and_a_refusal_cancels_it_durably() {
    let mut rig = standby(witnessed);
    let take = Claim::Take { from: EPOCH, to: NEXT };
    assert_eq!(rig.asked().map(|(_, claim)| claim), Some(take));
    assert_eq!(rig.machine.state().epoch, EPOCH, "nothing is claimed before the answer");
    rig.answer(false, OURS_ALONE);
    assert_eq!((rig.machine.state().epoch, rig.machine.state().intent), (EPOCH, None));
    rig.wait(100);
    assert_eq!(rig.machine.status().row, "10e");
    assert!(rig.machine.status().question.is_some());

    let mut rig = standby(witnessed);
    rig.answer(true, Register { epoch: NEXT, alone: true });
    assert_eq!((rig.machine.state().epoch, rig.machine.state().intent), (NEXT, None));
}

#[test]
fn a_win_that_was_not_used_is_given_back() {
    let mut rig = standby(witnessed);
    rig.peer(|beat| (beat.active, beat.outdated) = (true, false));
    assert_eq!(rig.machine.status().state.name(), "standby");
    rig.answer(true, Register { epoch: NEXT, alone: true });
    rig.wait(100);
    rig.peer(|beat| (beat.active, beat.outdated) = (true, false));
    assert_eq!(rig.asked().map(|(_, claim)| claim), Some(Claim::Yield { won: NEXT, epoch: EPOCH }));
}

#[test]
fn a_takeover_claims_only_after_the_fence_confirmed_that_the_active_is_off() {
    for off in [true, false] {
        let mut rig = standby(fenced);
        assert!(rig.position(|action| *action == Action::FencePeer).is_some());
        assert_eq!(rig.machine.state().epoch, EPOCH);
        rig.tell(Event::PeerFenced(if off { Ok(()) } else { Err("status says on".into()) }));
        let state = rig.machine.state();
        assert_eq!((state.epoch, state.intent), (if off { NEXT } else { EPOCH }, None));
        if !off {
            rig.wait(100);
            assert_eq!(rig.machine.status().row, "10e");
        }
    }
}

#[test]
fn an_in_sync_active_that_starts_alone_serves_if_the_witness_says_that_nobody_took_over() {
    for won in [true, false] {
        let mut state = PairState::new();
        (state.epoch, state.was) = (EPOCH, lockstep_failover::state::Was::Active);
        state.outdated = false;
        let mut rig = Rig::configured(Role::Primary, state, witnessed);
        for _ in 0..60 {
            rig.wait(100);
            if rig.asked().is_some_and(|(_, claim)| claim == Claim::Look) {
                rig.settle(SHARED);
            }
            if rig.machine.status().row == "c3f" {
                probed(&mut rig, VipProbe::Silent);
            }
        }
        assert_eq!(rig.machine.status().row, "c3g");
        rig.answer(won, if won { OURS_ALONE } else { Register { epoch: NEXT, alone: true } });
        rig.wait(100);
        assert_eq!(rig.machine.status().state.name(), if won { "active" } else { "holding" });
        assert_eq!(rig.machine.status().question.is_some(), !won);
    }
}

#[test]
fn an_unreachable_witness_is_an_alarm_that_ends() {
    let mut rig = Rig::active_with(witnessed);
    for _ in 0..2 {
        let (number, _) = rig.asked().expect("a question");
        rig.tell(Event::WitnessAnswered { number, answer: Answer::Unreachable("timed out".into()) });
        for _ in 0..110 {
            rig.wait(100);
            rig.peer(|beat| beat.outdated = false);
        }
    }
    assert!(rig.position(|action| matches!(action, Action::WitnessAlarm(Some(_)))).is_some());
    assert_eq!(rig.machine.status().state.name(), "active", "its loss alone moves nothing");
    rig.answer(true, SHARED);
    assert_eq!(
        rig.actions.iter().rev().find(|action| matches!(action, Action::WitnessAlarm(_))),
        Some(&Action::WitnessAlarm(None))
    );
}

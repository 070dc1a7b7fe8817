//! One test for each sentence of docs/failover.md without which two nodes could serve, commits
//! could be lost or nobody would serve.

use lockstep_failover::grant::{ReceivedGrant, SentGrant};
use lockstep_failover::state::Was;
use lockstep_failover::{
    Action, Config, Engine, Event, FailoverType, Judgement, Lapse, Lease, Machine, PairState, Path, Permit,
    Profile, Proof, Pulse, Role, Step, Time, Timing, Voice, detector::Detector,
};
use lockstep_wire::{Epoch, Heartbeat, Intent, NodeId, SessionId};
use std::time::Duration;

const OURS: SessionId = SessionId(11);
const THEIRS: u64 = 22;
const EPOCH: Epoch = Epoch { counter: 1, node: NodeId(1) };
const NEXT: Epoch = Epoch { counter: 2, node: NodeId(2) };

fn timing() -> Timing {
    Profile::Default.timing()
}

fn ms(ms: u64) -> Time {
    Time::from_us(ms * 1_000)
}

/// A heartbeat of the peer that echoes what we sent at `echo_ms`.
fn from_peer(sequence: u64, echo_ms: u64) -> Heartbeat {
    Heartbeat {
        session: THEIRS,
        sequence,
        sent_us: 5_000_000 + sequence,
        echo_session: OURS.0,
        echo_sent_us: echo_ms * 1_000,
        epoch_counter: EPOCH.counter,
        epoch_node: EPOCH.node.0,
        period_us: 200_000,
        lease_us: 600_000,
        ..Heartbeat::default()
    }
}

fn voice(at: Time) -> Voice {
    Voice {
        revision: 1,
        at,
        epoch: EPOCH,
        active: false,
        solo: false,
        outdated: false,
        grant: None,
        intent: Intent::None,
        intent_counter: 0,
        solo_commits: 0,
        echo: true,
        silent_when_deaf: false,
        permit: None,
    }
}

const PERMIT: Permit = Permit { epoch: EPOCH, opening: 1, alone: false };

fn open_lease(solo: bool) -> Lease {
    let mut lease = Lease::new(&timing());
    lease.on_permit(Some(PERMIT), solo, ms(1_000));
    lease.on_received(&from_peer(1, 1_000), OURS, ms(1_001), true);
    assert_eq!(lease.judge(ms(1_001)), Judgement::Opened);
    assert_eq!(lease.lease_end(), Some(ms(1_600)), "send time of the echoed heartbeat + lease");
    lease
}

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
fn every_heartbeat_is_echoed_at_once_and_echoes_are_not() {
    let mut pulse = Pulse::new(OURS, timing(), ms(1_000));
    let _ = pulse.set_voice(voice(ms(1_000)));
    let echo = pulse.on_received(&from_peer(1, 0), ms(1_050), ms(1_051)).expect("an echo");
    assert!(echo.is_echo);
    assert_eq!((echo.echo_session, echo.echo_sent_us), (THEIRS, 5_000_001));
    let answer = Heartbeat { is_echo: true, ..from_peer(2, 0) };
    assert_eq!(pulse.on_received(&answer, ms(1_060), ms(1_060)), None);
}

#[test]
fn from_its_intent_until_the_cancellation_the_standby_echoes_nothing() {
    let mut pulse = Pulse::new(OURS, timing(), ms(1_000));
    let _ = pulse.set_voice(Voice {
        echo: false,
        intent: Intent::Promote,
        intent_counter: 2,
        ..voice(ms(1_000))
    });
    let answer = pulse.on_received(&from_peer(1, 0), ms(1_050), ms(1_051)).expect("it answers");
    assert_eq!((answer.echo_session, answer.echo_sent_us), (0, 0), "and echoes nothing");
}

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
fn a_permit_older_than_five_seconds_ends_the_lease_and_silences_the_thread() {
    let mut pulse = Pulse::new(OURS, timing(), ms(1_000));
    let _ = pulse.set_voice(Voice { permit: Some(PERMIT), active: true, ..voice(ms(1_000)) });
    let late = ms(6_000);
    let _ = pulse.on_received(&from_peer(1, 5_900), ms(5_950), ms(5_950));
    assert_eq!(pulse.judge(ms(5_950)), Judgement::Opened);
    let intent = Heartbeat { intent: Intent::Promote as i32, intent_counter: 2, ..from_peer(2, 5_900) };
    assert_eq!(pulse.on_received(&intent, late, late), None, "no echo and no answer to intents");
    assert_eq!(pulse.beat(late), None, "no heartbeat");
    assert_eq!(pulse.judge(late), Judgement::Lapsed(Lapse::PermitOld));
}

#[test]
fn a_lapsed_node_in_sync_that_hears_nothing_is_silent_until_it_hears_the_peer() {
    let mut pulse = Pulse::new(OURS, timing(), ms(1_000));
    let _ = pulse.set_voice(Voice { silent_when_deaf: true, ..voice(ms(1_000)) });
    assert!(pulse.beat(ms(1_100)).is_some(), "it has not been deaf for long");
    assert_eq!(pulse.beat(ms(1_700)), None);
    assert!(pulse.on_received(&from_peer(1, 0), ms(1_750), ms(1_750)).is_some(), "it speaks again");
}

#[test]
fn the_wait_counts_from_the_newest_sign_of_life_with_the_longest_announced_lease() {
    let mut detector = Detector::new(&timing(), ms(0));
    detector.on_keys(true, ms(0));
    let (lease, period) = (Duration::from_millis(3_000), Duration::from_millis(1_000));
    detector.on_heard(Path::Lan, ms(1_000), lease, period);
    assert_eq!(detector.wait_over_at(&timing()), ms(1_000 + 3_006 + 50));
    detector.on_announced(ms(2_000));
    assert_eq!(
        detector.wait_over_at(&timing()),
        ms(2_000 + 3_006 + 50),
        "an R2 renewal counts like a heartbeat"
    );
    detector.on_stalled(Duration::from_millis(100));
    assert_eq!(detector.wait_over_at(&timing()), ms(2_100 + 3_006 + 50), "our own stall is not the peer's");
}

#[test]
fn a_peer_without_keys_is_unknown_and_the_last_key_stays() {
    let mut detector = Detector::new(&timing(), ms(0));
    assert!(!detector.knows_peer());
    detector.on_keys(true, ms(10));
    detector.on_keys(false, ms(20));
    assert!(detector.knows_peer());
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

/// One machine whose writes succeed at once and whose heartbeat thread obeys at once.
struct Rig {
    machine: Machine,
    now: Time,
    actions: Vec<Action>,
    written: Vec<PairState>,
    sequence: u64,
    auto: bool,
}

impl Rig {
    fn new(role: Role, state: PairState) -> Self {
        let config = Config {
            node: NodeId(if role == Role::Primary { 1 } else { 2 }),
            session: OURS,
            role,
            timing: timing(),
            failover: FailoverType::Automatic,
            application: true,
            open_early: None,
            release_timeout: Duration::from_secs(10),
        };
        let machine = Machine::new(config, state, ms(1_000));
        let mut rig = Self {
            machine,
            now: ms(1_000),
            actions: Vec::new(),
            written: Vec::new(),
            sequence: 0,
            auto: true,
        };
        rig.tell(Event::Leftovers { vip: false, lease_left: None });
        rig.tell(Event::LinkKeys(true));
        rig
    }

    fn tell(&mut self, event: Event) {
        let mut step = self.machine.handle(self.now, event);
        loop {
            match step {
                Step::Ready(actions) => return self.obey(actions),
                Step::Persist(pending) => {
                    let state = pending.state().clone();
                    let proof = Proof::by_writing(&state, |_| Ok::<(), ()>(())).expect("written");
                    self.written.push(state);
                    let actions = pending.persisted(proof);
                    self.obey(actions);
                    step = self.machine.handle(self.now, Event::Persisted);
                }
            }
        }
    }

    fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.actions.push(action.clone());
            if !self.auto {
                continue;
            }
            match action {
                Action::SetHeartbeat(voice) => {
                    let last_grant_sent = voice.grant.map(|_| self.now);
                    self.tell(Event::HeartbeatSet { revision: voice.revision, last_grant_sent });
                    if voice.permit.is_some() {
                        self.tell(Event::LeaseOpened);
                    }
                }
                Action::Engine(Engine::HoldCommits) => self.tell(Event::StandbyDurable),
                Action::Engine(Engine::Drain) => self.tell(Event::Drained),
                Action::Engine(_) => self.tell(Event::EngineReady),
                Action::AddVipSilent => self.tell(Event::VipAdded),
                Action::EndVipSockets => self.tell(Event::VipSocketsEnded),
                Action::DeleteLeaseElement => self.tell(Event::LeaseElementDeleted),
                Action::DeleteVip => self.tell(Event::VipGone),
                Action::StartApp => self.tell(Event::AppHealthy),
                Action::StopApp | Action::KillApp => self.tell(Event::AppStopped),
                _ => {}
            }
        }
    }

    /// The peer speaks on both paths, echoing what we send now.
    fn peer(&mut self, change: impl Fn(&mut Heartbeat)) {
        self.sequence += 1;
        let mut heartbeat = from_peer(self.sequence, self.now.as_us() / 1_000);
        heartbeat.outdated = true;
        change(&mut heartbeat);
        for path in Path::ALL {
            self.tell(Event::HeartbeatReceived { path, heartbeat, received_at: self.now });
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.tell(Event::TargetsMajority { sent_at: self.now, answered: 3, of: 3 });
    }

    /// An active node in sync with its standby.
    fn active() -> Self {
        let mut rig = Self::new(Role::Primary, PairState::new());
        rig.wait(100);
        rig.peer(|beat| (beat.epoch_counter, beat.epoch_node) = (0, 0));
        rig.wait(100);
        rig.peer(|_| {});
        rig.tell(Event::EngineInSync(true));
        assert!(rig.machine.status().in_sync, "{:?}", rig.machine.status());
        rig
    }

    /// A standby in sync under a grant.
    fn standby() -> Self {
        let mut rig = Self::new(Role::Secondary, PairState::new());
        rig.wait(100);
        for _ in 0..2 {
            rig.peer(|beat| {
                (beat.active, beat.outdated, beat.grant_us) = (true, false, 1_700_000);
            });
        }
        assert!(rig.machine.status().in_sync, "{:?}", rig.machine.status());
        rig
    }

    fn position(&self, wanted: impl Fn(&Action) -> bool) -> Option<usize> {
        self.actions.iter().position(wanted)
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

#[test]
fn told_solo_the_standby_durably_marks_itself_outdated_and_its_grant_is_void() {
    let mut rig = Rig::standby();
    rig.peer(|beat| (beat.active, beat.solo, beat.outdated) = (true, true, false));
    assert!(rig.machine.state().outdated);
    assert_eq!(rig.machine.status().grant_left, None);
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

#[test]
fn an_intent_found_at_the_start_is_cancelled_on_disk_before_the_first_word() {
    let mut state = PairState::new();
    (state.epoch, state.was) = (EPOCH, Was::Standby);
    state.intent = Some(NEXT);
    let rig = Rig::new(Role::Secondary, state);
    assert_eq!(rig.written.first().map(|state| (state.intent, state.epoch)), Some((None, EPOCH)));
}

/// Silence until the wait is over; then the probes are due.
fn silent_standby() -> Rig {
    let mut rig = Rig::standby();
    rig.actions.clear();
    rig.wait(300);
    rig.wait(300);
    assert_eq!(rig.position(|action| *action == Action::ProbeVip), None, "the wait is not over");
    rig.wait(52);
    assert!(rig.position(|action| *action == Action::SendIntentPings).is_some());
    rig
}

fn probed(rig: &mut Rig, result: lockstep_failover::event::VipProbe) {
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
    for result in [VipProbe::PeerMac, VipProbe::ForeignMac] {
        let mut rig = silent_standby();
        probed(&mut rig, result);
        rig.tell(Event::IntentPingsDone);
        assert_eq!((rig.machine.state().epoch, rig.machine.state().intent), (EPOCH, None));
    }
}

#[test]
fn without_a_majority_nothing_is_taken_over() {
    let mut rig = Rig::standby();
    rig.actions.clear();
    for _ in 0..20 {
        rig.now = rig.now + Duration::from_millis(100);
        rig.tell(Event::TargetsMajority { sent_at: rig.now, answered: 1, of: 3 });
    }
    assert_eq!(rig.position(|action| *action == Action::ProbeVip), None);
    assert_eq!(rig.machine.status().row, "9");
}

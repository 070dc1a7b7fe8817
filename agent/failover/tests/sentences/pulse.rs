//! What the heartbeat thread says, echoes and keeps silent about.

use crate::words::{OURS, PERMIT, THEIRS, from_peer, ms, timing, voice};
use lockstep_failover::{Judgement, Lapse, Pulse, Voice};
use lockstep_wire::{Heartbeat, Intent};

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

//! Two heartbeat threads over loopback, with a guard that records.

use super::*;
use crate::clock::boottime_us;
use lockstep_failover::{Lapse, Permit, Profile};
use lockstep_wire::{Epoch, Heartbeat, Intent, NodeId};
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Renewed(Time),
    Shut,
    Reinstalled,
}

/// Remembers what it was told; can be gone.
#[derive(Clone, Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    is_gone: Arc<std::sync::atomic::AtomicBool>,
}

impl LeaseGuard for Recorder {
    fn renew(&mut self, end: Time) -> Result<(), GuardError> {
        if self.is_gone.load(Ordering::Relaxed) {
            return Err(GuardError::Gone { table: "test".to_owned() });
        }
        self.seen.lock().expect("no panic").push(Seen::Renewed(end));
        Ok(())
    }

    fn shut(&mut self) -> Result<(), GuardError> {
        self.seen.lock().expect("no panic").push(Seen::Shut);
        Ok(())
    }

    fn reinstall(&mut self) -> Result<(), GuardError> {
        self.seen.lock().expect("no panic").push(Seen::Reinstalled);
        Ok(())
    }
}

struct Node {
    heart: Heart,
    events: Receiver<Event>,
    guard: Recorder,
}

fn ports(n: usize) -> Vec<SocketAddr> {
    let sockets: Vec<_> =
        (0..n).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect()
}

fn node(session: u64, local: [SocketAddr; 2], peer: [SocketAddr; 2], keys: Option<&HeartbeatKeys>) -> Node {
    let routes = Path::ALL
        .into_iter()
        .map(|path| Route { path, local: local[path as usize], peer: peer[path as usize], interface: None })
        .collect();
    let timing = Profile::Default.timing();
    let settings = Settings { session: SessionId(session), timing, routes, realtime: false };
    let guard = Recorder::default();
    let (sender, events) = sync_channel(1024);
    let heart = Heart::start(
        &settings,
        Box::new(guard.clone()),
        Box::new(move |event| sender.try_send(event).is_ok()),
    )
    .expect("loopback sockets");
    if let Some(keys) = keys {
        heart.set_keys(keys).expect("it runs");
    }
    Node { heart, events, guard }
}

fn keys() -> (HeartbeatKeys, HeartbeatKeys) {
    let (one, two) = ([1; 32], [2; 32]);
    (HeartbeatKeys { id: 7, send: one, receive: two }, HeartbeatKeys { id: 7, send: two, receive: one })
}

fn two_nodes() -> (Node, Node) {
    let at = ports(4);
    let (near, far) = keys();
    let a = node(11, [at[0], at[1]], [at[2], at[3]], Some(&near));
    let b = node(22, [at[2], at[3]], [at[0], at[1]], Some(&far));
    (a, b)
}

fn voice(revision: u64) -> Voice {
    Voice {
        revision,
        at: Time::from_us(boottime_us()),
        epoch: EPOCH,
        active: false,
        solo: false,
        outdated: false,
        grant: None,
        intent: Intent::None,
        intent_counter: 0,
        solo_commits: 0,
        fit: false,
        hands_off: false,
        echo: true,
        silent_when_deaf: false,
        permit: None,
    }
}

const EPOCH: Epoch = Epoch { counter: 3, node: NodeId(1) };

fn serving(revision: u64) -> Voice {
    Voice {
        active: true,
        permit: Some(Permit { epoch: EPOCH, opening: 1, alone: false, targets: true }),
        ..voice(revision)
    }
}

/// Waits for the first event that `wanted` takes.
fn await_event<T>(events: &Receiver<Event>, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let event = events.recv_timeout(left).expect("the awaited event comes");
        if let Some(found) = wanted(&event) {
            return found;
        }
    }
}

fn heartbeat(event: &Event) -> Option<(Path, Heartbeat)> {
    match event {
        Event::HeartbeatReceived { path, heartbeat, .. } => Some((*path, *heartbeat)),
        _ => None,
    }
}

#[test]
fn the_peers_echo_opens_and_renews_the_lease_and_its_silence_ends_it() {
    let (a, b) = two_nodes();
    b.heart.speak(voice(1)).expect("it runs");
    a.heart.speak(serving(1)).expect("it runs");
    await_event(&a.events, |event| (*event == Event::LeaseOpened).then_some(()));
    assert!(a.heart.gauges().lease_end().is_some_and(|end| end > Time::from_us(boottime_us() - 600_000)));
    await_event(&a.events, |event| heartbeat(event).filter(|_| renewals(&a) >= 3));
    assert!(a.heart.gauges().mean_round_trip(Path::Lan).is_some(), "round trips are measured");
    drop(b);
    let why = await_event(&a.events, |event| match event {
        Event::LeaseLapsed(why) => Some(*why),
        _ => None,
    });
    assert_eq!(why, Lapse::NoEvidence);
    assert_eq!(a.heart.gauges().lease_end(), None);
    assert_eq!(a.guard.seen.lock().expect("no panic").last(), Some(&Seen::Shut));
}

fn renewals(node: &Node) -> usize {
    let seen = node.guard.seen.lock().expect("no panic");
    seen.iter().filter(|seen| matches!(seen, Seen::Renewed(_))).count()
}

#[test]
fn every_heartbeat_is_echoed_at_once_on_the_path_it_came_by() {
    let (a, b) = two_nodes();
    a.heart.speak(serving(1)).expect("it runs");
    b.heart.speak(voice(1)).expect("it runs");
    for wanted in Path::ALL {
        let echo = await_event(&a.events, |event| {
            heartbeat(event).filter(|(path, beat)| *path == wanted && beat.is_echo && beat.echo_session == 11)
        });
        assert_ne!(echo.1.echo_sent_us, 0);
    }
}

#[test]
fn a_node_that_intends_echoes_nothing() {
    let (a, b) = two_nodes();
    let intending = Voice { echo: false, intent: Intent::Promote, intent_counter: 4, ..voice(1) };
    b.heart.speak(intending).expect("it runs");
    a.heart.speak(serving(1)).expect("it runs");
    let mut heard = 0;
    await_event(&a.events, |event| {
        let (_, beat) = heartbeat(event)?;
        assert_eq!((beat.echo_session, beat.echo_sent_us), (0, 0));
        heard += 1;
        (heard == 8).then_some(())
    });
    assert_eq!(a.heart.gauges().lease_end(), None, "no lease without an echo");
}

#[test]
fn without_keys_nothing_is_heard_and_nothing_is_taken() {
    let at = ports(4);
    let (near, _) = keys();
    let a = node(11, [at[0], at[1]], [at[2], at[3]], Some(&near));
    let foreign = HeartbeatKeys { id: 9, send: [9; 32], receive: [9; 32] };
    let b = node(22, [at[2], at[3]], [at[0], at[1]], Some(&foreign));
    a.heart.speak(voice(1)).expect("it runs");
    b.heart.speak(voice(1)).expect("it runs");
    let until = std::time::Instant::now() + PATIENCE;
    while a.heart.gauges().counts().2 < 3 && std::time::Instant::now() < until {
        // No event tells of a refused datagram: that is the point.
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(a.heart.gauges().counts().2 >= 3, "foreign datagrams are refused");
    assert_eq!(a.heart.gauges().heard(Path::Lan), None);
}

#[test]
fn a_confirmed_voice_names_the_last_grant_sent() {
    let (a, b) = two_nodes();
    b.heart.speak(voice(1)).expect("it runs");
    a.heart.speak(Voice { grant: Some(Duration::from_secs(1)), ..serving(1) }).expect("it runs");
    await_event(&b.events, |event| heartbeat(event).filter(|(_, beat)| beat.grant_us > 0));
    a.heart.speak(serving(2)).expect("it runs");
    let last = await_event(&a.events, |event| match event {
        Event::HeartbeatSet { revision: 2, last_grant_sent } => Some(*last_grant_sent),
        _ => None,
    });
    assert!(last.is_some());
}

#[test]
fn intent_pings_are_sent_and_reported() {
    let (a, b) = two_nodes();
    a.heart
        .speak(Voice { intent: Intent::Promote, intent_counter: 4, echo: false, ..voice(1) })
        .expect("it runs");
    a.heart.send_intent_pings().expect("it runs");
    await_event(&a.events, |event| (*event == Event::IntentPingsDone).then_some(()));
    let mut pings = 0;
    await_event(&b.events, |event| {
        pings += usize::from(heartbeat(event)?.1.intent == Intent::Promote as i32);
        (pings >= 20).then_some(())
    });
}

#[test]
fn a_flushed_guard_ends_the_lease_and_is_installed_anew_shut() {
    let (a, b) = two_nodes();
    b.heart.speak(voice(1)).expect("it runs");
    a.heart.speak(serving(1)).expect("it runs");
    await_event(&a.events, |event| (*event == Event::LeaseOpened).then_some(()));
    a.guard.is_gone.store(true, Ordering::Relaxed);
    await_event(&a.events, |event| (*event == Event::LeaseLapsed(Lapse::GuardGone)).then_some(()));
    assert_eq!(a.guard.seen.lock().expect("no panic").last(), Some(&Seen::Reinstalled));
}

//! The link between two nodes on real cables: which path it takes, how it comes back, how quick it stays.
//!
//! Needs root (network namespaces) and iproute2.

mod network;

use bytes::Bytes;
use lockstep_engine::link::{
    CompressionSetting, EpochCell, Established, Greeting, Identity, Link, LinkConfig, LinkTiming, Path,
    PathConfig, RoundTrip, Side,
};
use lockstep_wire::{PageChunk, SessionId, WalBatch};
use network::{Namespace, Network, address};
use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

/// How long an event may take before the test gives up; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn timing() -> LinkTiming {
    LinkTiming {
        ping: Duration::from_millis(20),
        silence: Duration::from_millis(300),
        connect: Duration::from_millis(500),
        greeting: Duration::from_millis(1_000),
        direct_head_start: Duration::from_millis(100),
        direct_retry: Duration::from_millis(50),
    }
}

/// The configuration of node `a` (primary, listens) or `b` (secondary, connects).
fn config(own: u8, peer: &Identity, v6: bool) -> LinkConfig {
    let path = |cable: &str| PathConfig {
        interface: Some(cable.to_owned()),
        address: address(cable, own, v6),
        peer: address(cable, 3 - own, v6),
        port: 7700,
    };
    LinkConfig {
        greeting: Greeting {
            pair: "mse".parse().unwrap(),
            node_name: if own == 1 { "a" } else { "b" }.to_owned(),
            software: "0.1.0".to_owned(),
            session: SessionId(u64::from(own)),
        },
        peer: peer.fingerprint(),
        side: if own == 1 { Side::Listen } else { Side::Connect },
        direct: Some(path("direct")),
        lan: Some(path("lan")),
        compression: CompressionSetting::Off,
        bulk_cap_bytes_per_s: None,
        timing: timing(),
    }
}

/// What a node reports of its link.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Made(Path),
    Lost,
}

/// Runs a node that keeps the newest connection until `stop` is closed, reporting what happens.
fn keep_connected(
    namespace: &Namespace,
    config: LinkConfig,
    identity: Arc<Identity>,
) -> (mpsc::Receiver<Event>, tokio::sync::oneshot::Sender<()>) {
    let (tell, events) = mpsc::channel();
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    namespace.start(move || {
        runtime().block_on(async {
            let mut link = Link::new(config, &identity, EpochCell::default()).unwrap();
            let mut current: Option<Established> = None;
            loop {
                let lost = async {
                    match &mut current {
                        Some(established) => while established.receiver.next().await.is_ok() {},
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = &mut stopped => return,
                    made = link.next() => {
                        tell.send(Event::Made(made.path)).unwrap();
                        current = Some(made);
                    }
                    () = lost => {
                        current = None;
                        // A test that has seen enough no longer listens.
                        let _ = tell.send(Event::Lost);
                    }
                }
            }
        });
    });
    (events, stop)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits until the node reports a connection over `path`; what comes before does not matter.
fn await_path(events: &mpsc::Receiver<Event>, path: Path) {
    while events.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no connection over {path}: {e}"))
        != Event::Made(path)
    {}
}

fn falls_back_and_returns(v6: bool) {
    let network = Network::new();
    let (a, b) = (Arc::new(Identity::generate("a").unwrap()), Arc::new(Identity::generate("b").unwrap()));
    let (events_a, stop_a) = keep_connected(&network.a, config(1, &b, v6), a.clone());
    let (events_b, stop_b) = keep_connected(&network.b, config(2, &a, v6), b);
    for _ in 0..2 {
        await_path(&events_b, Path::Direct);
        await_path(&events_a, Path::Direct);
        network.cut("direct");
        await_path(&events_b, Path::Lan);
        await_path(&events_a, Path::Lan);
        network.mend("direct");
    }
    await_path(&events_b, Path::Direct);
    network.cut("lan");
    network.cut("direct");
    while events_b.recv_timeout(PATIENCE).expect("both cables cut: lost") != Event::Lost {}
    network.mend("lan");
    await_path(&events_b, Path::Lan);
    drop((stop_a, stop_b));
}

#[test]
fn the_link_falls_back_to_the_lan_and_returns_to_the_direct_cable() {
    falls_back_and_returns(false);
}

#[test]
fn the_link_does_the_same_over_ipv6() {
    falls_back_and_returns(true);
}

#[test]
fn a_restarted_peer_gets_a_new_connection_at_once() {
    let network = Network::new();
    let (a, b) = (Arc::new(Identity::generate("a").unwrap()), Arc::new(Identity::generate("b").unwrap()));
    let (events_a, _stop_a) = keep_connected(&network.a, config(1, &b, false), a.clone());
    for _ in 0..3 {
        let (events_b, stop_b) = keep_connected(&network.b, config(2, &a, false), b.clone());
        await_path(&events_b, Path::Direct);
        await_path(&events_a, Path::Direct);
        drop(stop_b);
    }
}

/// What one load did to the pings.
struct Load {
    round_trip: RoundTrip,
    mb_per_s: u64,
}

/// Sends bulk from `a` to `b` for `seconds` over a shaped cable; unpaced, the same bytes go as WAL frames.
fn load(rate: &str, seconds: u64, paced: bool) -> Load {
    const CHUNK_BYTES: usize = 64 << 10;
    let network = Network::new();
    // Behind the node's own port, where its kernel does not see the queue; 100 ms deep, as in cheap switches.
    network.shape("direct", &format!("tbf rate {rate} burst 128kb latency 100ms"));
    let (a, b) = (Arc::new(Identity::generate("a").unwrap()), Arc::new(Identity::generate("b").unwrap()));
    let lively = |mut config: LinkConfig| {
        config.timing.silence = PATIENCE;
        config.lan = None;
        config
    };
    let (_events_b, stop_b) = keep_connected(&network.b, lively(config(2, &a, false)), b.clone());
    let config = lively(config(1, &b, false));
    let load = network.a.run(move || {
        runtime().block_on(async {
            let mut link = Link::new(config, &a, EpochCell::default()).unwrap();
            let made = link.next().await;
            let data = Bytes::from(vec![7; CHUNK_BYTES]);
            let (begin, mut bytes) = (std::time::Instant::now(), 0);
            while begin.elapsed() < Duration::from_secs(seconds) {
                let sent = if paced {
                    made.sender
                        .send(1, PageChunk { first_page: 1, data: data.clone(), ..PageChunk::default() })
                        .await
                } else {
                    made.sender.send(1, WalBatch { data: data.clone(), ..WalBatch::default() }).await
                };
                sent.expect("the connection holds under load");
                bytes += CHUNK_BYTES as u64;
            }
            let round_trip = link.stats().snapshot().round_trip.expect("pings went on");
            Load { round_trip, mb_per_s: bytes / seconds / 1_000_000 }
        })
    });
    drop(stop_b);
    load
}

fn pacing_keeps_pings_quick(rate: &str, seconds: u64) {
    let (paced, unpaced) = (load(rate, seconds, true), load(rate, seconds, false));
    for (name, load) in [("paced", &paced), ("unpaced", &unpaced)] {
        let RoundTrip { min_us, mean_us, p99_us, .. } = load.round_trip;
        println!(
            "{rate} {name}: ping min {min_us} us, mean {mean_us} us, p99 {p99_us} us; {} MB/s",
            load.mb_per_s
        );
    }
    assert!(paced.round_trip.mean_us < unpaced.round_trip.mean_us, "pacing does not shorten the queue");
    assert!(paced.mb_per_s > unpaced.mb_per_s / 4, "pacing takes most of the throughput");
}

#[test]
fn bulk_on_a_saturated_cable_leaves_pings_quick() {
    pacing_keeps_pings_quick("200mbit", 3);
}

#[test]
#[ignore = "half a minute of full load at 1 Gbit/s; wants a release build"]
fn long_bulk_on_a_saturated_gigabit_cable_leaves_pings_quick() {
    pacing_keeps_pings_quick("1gbit", 10);
}

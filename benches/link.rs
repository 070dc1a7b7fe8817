//! The link against plain TCP on the same veth in the same run, and pings idle and under bulk.
//!
//! Makes its own namespaces (root, iproute2). `LOCKSTEP_RATE=1gbit` shapes the cable; without it the
//! machine is the limit. `LOCKSTEP_SECONDS` is the length of each measurement, 3 by default.
//! Prints one JSON line each, to be kept under runs/.

#[path = "../engine/tests/link_paths/network.rs"]
#[allow(dead_code, reason = "the tests cut cables, this does not")]
mod network;

use bytes::Bytes;
use lockstep_engine::link::{
    CompressionSetting, EpochCell, Greeting, Identity, Link, LinkConfig, LinkTiming, PathConfig, RoundTrip,
    Side,
};
use lockstep_wire::{PageChunk, SessionId, WalBatch};
use network::{Namespace, Network, address};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes per message and per plain write.
const CHUNK_BYTES: usize = 256 << 10;

/// What the link carries while its pings are measured.
#[derive(Debug, Clone, Copy)]
enum Load {
    Idle,
    /// Page chunks, paced.
    Bulk,
    /// The same bytes as WAL frames, not paced.
    Frames,
}

fn main() {
    let seconds = std::env::var("LOCKSTEP_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let network = Network::new();
    let rate = std::env::var("LOCKSTEP_RATE").ok();
    if let Some(rate) = &rate {
        network.shape("direct", &format!("tbf rate {rate} burst 256kb latency 50ms"));
    }
    let rate = rate.as_deref().unwrap_or("unshaped");
    let plain = plain_tcp(&network, seconds);
    println!(r#"{{"bench":"link","rate":"{rate}","what":"plain tcp","mb_per_s":{plain}}}"#);
    for load in [Load::Idle, Load::Bulk, Load::Frames] {
        let (mb_per_s, RoundTrip { min_us, mean_us, p50_us, p99_us }) = link(&network, load, seconds);
        println!(
            r#"{{"bench":"link","rate":"{rate}","what":"link {load:?}","mb_per_s":{mb_per_s},"ping_min_us":{min_us},"ping_mean_us":{mean_us},"ping_p50_us":{p50_us},"ping_p99_us":{p99_us}}}"#
        );
    }
}

/// Megabytes per second of a plain TCP stream from `a` to `b`.
fn plain_tcp(network: &Network, seconds: u64) -> u64 {
    let (tell, ready) = std::sync::mpsc::channel();
    let received = network.b.start(move || {
        let listener = TcpListener::bind((address("direct", 2, false), 7600)).expect("listens");
        tell.send(()).expect("the bench waits for it");
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut bytes = vec![0; CHUNK_BYTES];
        let mut total = 0;
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            total += count as u64;
        }
        total
    });
    ready.recv().expect("the other end listens");
    network.a.run(move || {
        let mut stream = TcpStream::connect((address("direct", 2, false), 7600)).expect("connects");
        let (chunk, begin) = (vec![7; CHUNK_BYTES], Instant::now());
        while begin.elapsed() < Duration::from_secs(seconds) {
            stream.write_all(&chunk).expect("writes");
        }
    });
    received.recv().expect("the other end counts") / seconds / 1_000_000
}

fn config(own: u8, peer: &Identity) -> LinkConfig {
    LinkConfig {
        greeting: Greeting {
            pair: "bench".parse().expect("a name"),
            node_name: own.to_string(),
            software: "bench".to_owned(),
            session: SessionId(own.into()),
        },
        peer: peer.fingerprint(),
        side: if own == 1 { Side::Listen } else { Side::Connect },
        direct: Some(PathConfig {
            interface: Some("direct".to_owned()),
            address: address("direct", own, false),
            peer: address("direct", 3 - own, false),
            port: 7700,
        }),
        lan: None,
        compression: CompressionSetting::Off,
        bulk_cap_bytes_per_s: None,
        timing: LinkTiming {
            ping: Duration::from_millis(5),
            silence: Duration::from_secs(20),
            ..LinkTiming::default()
        },
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Megabytes per second received by `b`, and the pings `a` saw.
fn link(network: &Network, load: Load, seconds: u64) -> (u64, RoundTrip) {
    let (a, b) = (Identity::generate("a").expect("a key"), Identity::generate("b").expect("a key"));
    let (config_a, config_b) = (config(1, &b), config(2, &a));
    let received = take_all(&network.b, config_b, b);
    let round_trip = network.a.run(move || {
        runtime().block_on(async {
            let mut link = Link::new(config_a, &a, EpochCell::default()).expect("a link");
            let made = link.next().await;
            let data = Bytes::from(vec![7; CHUNK_BYTES]);
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(seconds) {
                let sent = match load {
                    Load::Idle => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Ok(())
                    }
                    Load::Bulk => {
                        made.sender
                            .send(1, PageChunk { first_page: 1, data: data.clone(), ..PageChunk::default() })
                            .await
                    }
                    Load::Frames => {
                        made.sender.send(1, WalBatch { data: data.clone(), ..WalBatch::default() }).await
                    }
                };
                sent.expect("the connection holds");
            }
            let round_trip = link.stats().snapshot().round_trip.expect("pings went on");
            made.sender.close("measured").await;
            round_trip
        })
    });
    (received.recv().expect("the other end counts") / seconds / 1_000_000, round_trip)
}

/// Counts the bytes of all frames until the other end says goodbye.
fn take_all(namespace: &Namespace, config: LinkConfig, identity: Identity) -> std::sync::mpsc::Receiver<u64> {
    let identity = Arc::new(identity);
    namespace.start(move || {
        runtime().block_on(async {
            let mut link = Link::new(config, &identity, EpochCell::default()).expect("a link");
            let mut made = link.next().await;
            while made.receiver.next().await.is_ok() {}
            link.stats().snapshot().bytes_received
        })
    })
}

//! First copy of a database and resync of one in which 1 % of the pages changed, beside a plain TCP
//! copy over the same cable and a plain copy on the same disk, in the same run.
//!
//! Makes its own namespaces (root, iproute2). `LOCKSTEP_MIB` is the size of the database, 512 by
//! default; `LOCKSTEP_DIR` is where both nodes' files lie; `LOCKSTEP_RUNS` repeats all of it. What is
//! measured ends when the bytes are on the receiver's disk.

#[path = "../engine/tests/link_paths/network.rs"]
#[allow(dead_code, reason = "the tests cut cables, this does not")]
mod network;

use lockstep_benches::node::{self, Node};
use lockstep_benches::{announce, load, median_of, setting, tell};
use lockstep_engine::pair::EngineConfig;
use network::{Network, address};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes per read and write of the plain copies.
const CHUNK_BYTES: usize = 256 << 10;

/// Longer is a failure.
const LIMIT: Duration = Duration::from_secs(600);

/// One page of so many changes before the resync.
const CHANGED_OF: u64 = 100;

fn main() {
    announce("copy");
    let bytes = setting("LOCKSTEP_MIB", 512) << 20;
    let mut seconds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..setting("LOCKSTEP_RUNS", 3) {
        let network = Network::new();
        let root = std::env::var_os("LOCKSTEP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = tempfile::tempdir_in(root).expect("a folder for both nodes");
        for (what, took) in run(&network, directory.path(), bytes) {
            let mb_per_s = (bytes as f64 / took.as_secs_f64() / 1e6).round();
            tell(
                &json!({ "bench": "copy", "what": what, "seconds": took.as_secs_f64(), "mb_per_s": mb_per_s }),
            );
            seconds.entry(what).or_default().push(took.as_secs_f64() * 1000.0);
        }
    }
    for (what, values) in seconds {
        tell(&json!({ "bench": "copy", "what": what, "ms": median_of(values) }));
    }
}

fn run(network: &Network, directory: &Path, bytes: u64) -> Vec<(&'static str, Duration)> {
    let configs = node::pair(directory, "direct", [1, 2].map(|host| address("direct", host, false)));
    let database = node::database(&configs[0]);
    load::create(&database);
    load::fill(&database, bytes);
    let mut took = vec![
        ("cp and fsync", local_copy(&database, &directory.join("cp"))),
        ("plain TCP, write and fsync", tcp_copy(network, &database, directory.join("tcp"))),
        ("first copy", sync(network, &configs)),
    ];
    // Both nodes are down: what changes now is in no WAL that either of them follows.
    load::touch(&database, CHANGED_OF);
    took.push(("resync of 1 % changed pages", sync(network, &configs)));
    took
}

/// From the standby's start until it holds everything, on disk.
fn sync(network: &Network, configs: &[EngineConfig; 2]) -> Duration {
    let [a, b] = configs.clone();
    let mut active = network.a.run(move || Node::start(a));
    let standby = network.b.run(move || Node::start(b));
    active.become_active();
    let began = Instant::now();
    standby.become_standby();
    active.until_in_sync(LIMIT);
    let took = began.elapsed();
    let link = active.status().link.expect("a connection stands");
    tell(
        &json!({ "bench": "copy", "what": "link", "bytes_sent": link.bytes_sent, "io_backend": standby.status().io_backend }),
    );
    standby.stop();
    active.stop();
    took
}

fn local_copy(from: &Path, to: &Path) -> Duration {
    let mut source = File::open(from).expect("the database is there");
    let began = Instant::now();
    let mut copy = File::create(to).expect("a file");
    pour(&mut source, |chunk| copy.write_all(chunk));
    copy.sync_data().expect("it is written to disk");
    let took = began.elapsed();
    std::fs::remove_file(to).expect("it is ours");
    took
}

fn tcp_copy(network: &Network, from: &Path, to: PathBuf) -> Duration {
    let (tell, ready) = std::sync::mpsc::channel();
    let received = network.b.start(move || {
        let listener = TcpListener::bind((address("direct", 2, false), 7600)).expect("listens");
        tell.send(()).expect("the bench waits for it");
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut copy = File::create(&to).expect("a file");
        pour(&mut stream, |chunk| copy.write_all(chunk));
        copy.sync_data().expect("it is written to disk");
        let end = Instant::now();
        std::fs::remove_file(to).expect("it is ours");
        end
    });
    ready.recv().expect("the other end listens");
    let from = from.to_owned();
    let began = network.a.run(move || {
        let mut source = File::open(from).expect("the database is there");
        let began = Instant::now();
        let mut stream = TcpStream::connect((address("direct", 2, false), 7600)).expect("connects");
        pour(&mut source, |chunk| stream.write_all(chunk));
        began
    });
    received.recv().expect("the other end writes it") - began
}

fn pour(from: &mut impl Read, mut to: impl FnMut(&[u8]) -> std::io::Result<()>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk).expect("it can be read") {
            0 => return,
            count => to(&chunk[..count]).expect("it can be written"),
        }
    }
}

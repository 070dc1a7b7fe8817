//! From a commit to the moment it is on the standby's disk, and what the standby costs the writer.
//!
//! Two engines on both ends of a cable in namespaces of their own (root, iproute2), the writer a
//! process of its own with synchronous=FULL. In the same run: SQLite alone, and the physical limit,
//! which is one page to the other end, onto its disk, and an answer back. A lag is counted from the
//! commit's return in the writer to the answer of a wait in durable mode, as an application sees it
//! (a pipe between the two included). `LOCKSTEP_SECONDS` is the length of each part, 10 by default;
//! `LOCKSTEP_RATE` the commits per second, 1,000 by default; `LOCKSTEP_DIR` where files lie.

#[path = "../engine/tests/link_paths/network.rs"]
#[allow(dead_code, reason = "the tests cut cables, this does not")]
mod network;

use lockstep_benches::load::{self, Work, Writer};
use lockstep_benches::node::{self, Node};
use lockstep_benches::{Times, announce, setting, tell};
use network::{Network, address};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A page with its frame header.
const FRAME_BYTES: usize = 4096 + 24;

/// Longer is a failure.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    load::serve();
    announce("durable");
    let seconds = setting("LOCKSTEP_SECONDS", 10);
    let rate_per_s = setting("LOCKSTEP_RATE", 1_000);
    let small = Work { seconds, rate_per_s, rows: 1, row_bytes: 1_000, say_commits: false };
    let full_speed = Work { rate_per_s: 0, ..small };
    let bulk = Work { rows: 1_000, ..full_speed };
    let root = std::env::var_os("LOCKSTEP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(root).expect("a folder for both nodes");
    let network = Network::new();
    say("physical limit: one page there, onto disk, answer", &limit(&network, directory.path(), seconds));
    for (what, work) in [("paced", small), ("full speed", full_speed), ("bulk", bulk)] {
        say(&format!("SQLite alone, {what}"), &alone(work));
        let (commits, lag) = with_standby(&network, work);
        say(&format!("with a standby, {what}"), &commits);
        say(&format!("lag, {what}"), &lag);
    }
}

fn say(what: &str, figures: &Value) {
    tell(&json!({ "bench": "durable", "what": what, "figures": figures }));
}

fn folder() -> tempfile::TempDir {
    let root = std::env::var_os("LOCKSTEP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(root).expect("a folder")
}

fn alone(work: Work) -> Value {
    let directory = folder();
    let database = directory.path().join("app.db");
    load::create(&database);
    Writer::start(&database, work).finish()
}

/// Figures of the writer's commits, and of their way to the standby's disk.
fn with_standby(network: &Network, work: Work) -> (Value, Value) {
    let directory = folder();
    let configs = node::pair(directory.path(), "direct", [1, 2].map(|host| address("direct", host, false)));
    let database = node::database(&configs[0]);
    load::create(&database);
    let [a, b] = configs;
    let mut active = network.a.run(move || Node::start(a));
    let standby = network.b.run(move || Node::start(b));
    active.become_active();
    standby.become_standby();
    active.until_in_sync(LIMIT);
    // At full speed each wait would be work for the writer's processor: there only the end is waited for.
    let paced = work.rate_per_s > 0;
    let writer = Writer::start(&database, Work { say_commits: paced, ..work });
    let (commits, lag) = if paced {
        let (moments, commits) = mpsc::unbounded_channel();
        let reader = std::thread::spawn(move || {
            writer.each_commit(|moment| moments.send(moment).expect("the lag is being measured"))
        });
        let mut times = Times::default();
        active.lag(commits, |lag| times.add(lag));
        (reader.join().expect("the reader does not panic"), times.figures())
    } else {
        let commits = writer.finish();
        let ended = Instant::now();
        active.wait_durable();
        (commits, json!({ "all_durable_after_the_end_us": ended.elapsed().as_micros() as u64 }))
    };
    standby.stop();
    active.stop();
    (commits, lag)
}

/// A frame to the other end of the cable, onto its disk over written zeros, and a byte back.
fn limit(network: &Network, directory: &Path, seconds: u64) -> Value {
    let (tell, ready) = std::sync::mpsc::channel();
    let path = directory.join("limit");
    let done = network.b.start(move || {
        let file = File::create(&path).expect("a file");
        file.write_all_at(&vec![0; FRAME_BYTES * 1_000], 0).and_then(|()| file.sync_all()).expect("zeros");
        let listener = TcpListener::bind((address("direct", 2, false), 7600)).expect("listens");
        tell.send(()).expect("the bench waits for it");
        let (mut stream, _) = listener.accept().expect("accepts");
        stream.set_nodelay(true).expect("an option");
        let mut frame = vec![0; FRAME_BYTES];
        for count in 0_u64.. {
            if stream.read_exact(&mut frame).is_err() {
                return;
            }
            file.write_all_at(&frame, count % 1_000 * FRAME_BYTES as u64).expect("written");
            file.sync_data().expect("on disk");
            stream.write_all(&[1]).expect("answered");
        }
    });
    ready.recv().expect("the other end listens");
    let figures = network.a.run(move || {
        let mut stream = TcpStream::connect((address("direct", 2, false), 7600)).expect("connects");
        stream.set_nodelay(true).expect("an option");
        let (frame, mut times, began) = (vec![7; FRAME_BYTES], Times::default(), Instant::now());
        while began.elapsed() < Duration::from_secs(seconds) {
            let sent = Instant::now();
            stream.write_all(&frame).expect("sent");
            stream.read_exact(&mut [0]).expect("answered");
            times.add(sent.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        times.figures()
    });
    done.recv().expect("the other end ends");
    figures
}

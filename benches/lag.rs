//! From a commit to the standby's disk: lag at a steady rate, and what a bulk load costs its writer.
//!
//! A writer in a process of its own, two engines over loopback, one disk below all three: what is
//! measured is the software, and the disk is shared, which two machines would not do. The lag runs from
//! the moment in which COMMIT returned to the answer of a WAIT begun then. Bulk loads run in turns on
//! SQLite alone, with an active node alone, and with its standby. `LOCKSTEP_SECONDS` is the length
//! of the steady part (5), `TMPDIR` chooses the disk. Prints one JSON line each, to be kept under runs/.

#[path = "../engine/tests/pair/node.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod node;
#[path = "../engine/tests/pair/writer.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod writer;

use hdrhistogram::Histogram;
use lockstep_engine::pair::{Acknowledged, CommitMode};
use lockstep_wire::{Epoch, NodeId};
use node::Node;
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "LOCKSTEP_BENCH_ROLE";

/// Commits of one bulk load.
const BULK_COMMITS: u32 = 3000;

/// Rounds of bulk loads in turns.
const ROUNDS: u32 = 3;

const EPOCH: Epoch = Epoch { counter: 1, node: NodeId(7) };

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("paced") => return paced(),
        Ok(_) => return bulk(),
        Err(_) => {}
    }
    let seconds = std::env::var("LOCKSTEP_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(run(seconds));
}

async fn run(seconds: u64) {
    let (mut active, mut standby) = node::pair();
    active.become_active(EPOCH).await.expect("the database can be followed");
    standby.become_standby(EPOCH).await.expect("the mirror opens");
    active.until_in_sync().await;
    lag(&active, seconds).await;
    let alone = tempfile::TempDir::new().expect("a temporary directory");
    let alone = alone.path().join("alone.db");
    writer::create(&alone);
    let (mut lonely, unused) = node::pair();
    lonely.become_active(EPOCH).await.expect("the database can be followed");
    for round in 1..=ROUNDS {
        let cases = [
            ("sqlite alone", alone.as_path()),
            ("active, no standby", lonely.database()),
            ("active and standby", active.database()),
        ];
        for (what, path) in cases {
            let load = load();
            let ms = bulk_load(path).as_millis();
            println!(
                r#"{{"bench":"lag","what":"bulk load, {what}","round":{round},"commits":{BULK_COMMITS},"ms":{ms},"load_average":{load}}}"#
            );
        }
        active.wait(CommitMode::Durable).await.expect("the standby is there");
    }
    for node in [active, standby, lonely, unused] {
        node.stop().await;
    }
}

/// Waits for each commit of a writer that makes a thousand a second.
async fn lag(active: &Node, seconds: u64) {
    let before = load();
    let mut child = child("paced", active.database()).stdout(Stdio::piped()).spawn().expect("it starts");
    let out = child.stdout.take().expect("piped");
    let (commits, mut committed) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let at_ns: u64 = line.parse().expect("a time");
            if commits.send(at_ns).is_err() {
                return;
            }
        }
    });
    let mut lags = Histogram::<u64>::new(3).expect("three digits");
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let at_ns = committed.recv().await.expect("the writer lives");
        let (engine, answers) = (active.waiter(), answers.clone());
        tokio::spawn(async move {
            let answer = engine.wait(CommitMode::Durable).await;
            assert!(matches!(answer, Ok(Acknowledged::Ok(..))), "{answer:?}");
            let _ = answers.send(now_ns() - at_ns);
        });
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    drop(answers);
    while let Some(lag_ns) = answered.recv().await {
        lags.record(lag_ns / 1000).expect("no lag is that long");
    }
    let at = |quantile| lags.value_at_quantile(quantile);
    println!(
        r#"{{"bench":"lag","what":"commit to durable on the standby","commits_per_s":{},"p50_us":{},"p99_us":{},"max_us":{},"load_average":{before}}}"#,
        lags.len() / seconds,
        at(0.5),
        at(0.99),
        lags.max()
    );
}

fn bulk_load(database: &Path) -> Duration {
    let begin = Instant::now();
    assert!(child("bulk", database).status().expect("it starts").success());
    begin.elapsed()
}

fn child(role: &str, database: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
    command.env(ROLE, role).arg(database);
    command
}

fn connection() -> rusqlite::Connection {
    let database = std::env::args_os().nth(1).expect("a database");
    let connection = rusqlite::Connection::open(database).expect("it opens");
    connection.busy_timeout(Duration::from_secs(5)).expect("a busy timeout");
    connection.pragma_update(None, "synchronous", "NORMAL").expect("synchronous");
    connection
}

fn commit(connection: &rusqlite::Connection) {
    let insert = "INSERT INTO t(v) VALUES (hex(randomblob(150)))";
    connection.prepare_cached(insert).and_then(|mut s| s.execute([])).expect("a commit");
}

fn bulk() {
    let connection = connection();
    (0..BULK_COMMITS).for_each(|_| commit(&connection));
}

fn paced() {
    let connection = connection();
    let mut due = Instant::now();
    loop {
        commit(&connection);
        println!("{}", now_ns());
        due += Duration::from_millis(1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// A clock that both processes share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The load average of the last minute: what else ran.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").expect("/proc is mounted");
    text.split(' ').next().expect("three averages").to_owned()
}

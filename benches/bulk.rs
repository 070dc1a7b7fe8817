//! What a bulk load costs its writer on the same two processors as active and standby, how far the standby is
//! behind at its end, and processor time and the most memory that the processes came to.
//!
//! The writer (a process of its own, synchronous=FULL) loads a sixteenth of the database in transactions of a
//! megabyte, packs all of it with VACUUM, which is one transaction as large as the database, and loads as much
//! again. SQLite alone, with an active node, and with its standby take turns; each node is a process of its own,
//! with a cable between them in namespaces (root, iproute2) and one disk below all. `LOCKSTEP_MIB` is the size of
//! the database (2,048), `LOCKSTEP_RUNS` the turns (3), `LOCKSTEP_DIR` where files lie: three databases and a
//! WAL. `LOCKSTEP_CASE` makes only that one of the three cases, from 0, for a profiler.

#[path = "../engine/tests/link_paths/network.rs"]
#[allow(dead_code, reason = "the tests cut cables, this does not")]
mod network;

use lockstep_benches::node::process::{self, Cost, Process};
use lockstep_benches::{announce, load, median_of, node, setting, tell};
use network::{Network, address};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DATABASE: &str = "BENCH_BULK_DATABASE";
const LOAD_BYTES: &str = "BENCH_BULK_BYTES";

const ROW_BYTES: u64 = 1_000;
const ROWS_PER_COMMIT: u64 = 1_000;

/// A first copy, or the end of a load, that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    Active,
    ActiveAndStandby,
}

/// What one load came to.
struct Run {
    seconds: f64,
    parts: Value,
    lag_ms: Option<f64>,
    /// Active, standby.
    nodes: Vec<Cost>,
}

fn main() {
    process::serve();
    if let Some(database) = std::env::var_os(DATABASE) {
        return write(Path::new(&database), setting(LOAD_BYTES, 0));
    }
    announce("bulk");
    let bytes = setting("LOCKSTEP_MIB", 2_048) << 20;
    let root = std::env::var_os("LOCKSTEP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let original = tempfile::tempdir_in(&root).expect("a folder");
    let filled = original.path().join("app.db");
    load::create(&filled);
    load::fill(&filled, bytes);
    let cases = [
        ("SQLite alone", Beside::Nothing),
        ("with an active node", Beside::Active),
        ("with active and standby", Beside::ActiveAndStandby),
    ];
    let mut seconds: [Vec<f64>; 3] = Default::default();
    let mut slower: [Vec<f64>; 3] = Default::default();
    for turn in 1..=setting("LOCKSTEP_RUNS", 3) {
        for (at, (what, beside)) in cases.into_iter().enumerate() {
            if setting("LOCKSTEP_CASE", at as u64) != at as u64 {
                continue;
            }
            let directory = tempfile::tempdir_in(&root).expect("a folder for both nodes");
            let run = run(directory.path(), &filled, bytes, beside);
            seconds[at].push(run.seconds);
            slower[at].extend(seconds[0].last().map(|alone| (run.seconds / alone - 1.0) * 100.0));
            tell(&json!({
                "bench": "bulk", "what": what, "turn": turn, "seconds": run.seconds, "parts": run.parts,
                "all_durable_after_the_end_ms": run.lag_ms, "peak_memory_kib": run.nodes.iter().map(|node| node.peak_kib).collect::<Vec<_>>(),
                "processor_s": run.nodes.iter().map(|node| node.processor_s).collect::<Vec<_>>(),
            }));
        }
    }
    for (at, (what, _)) in cases.into_iter().enumerate() {
        let (seconds, slower) = (median_of(seconds[at].clone()), median_of(slower[at].clone()));
        tell(&json!({ "bench": "bulk", "what": what, "seconds": seconds, "slower_percent": slower }));
    }
}

fn run(directory: &Path, filled: &Path, bytes: u64, beside: Beside) -> Run {
    let network = Network::new();
    let addresses = [1, 2].map(|host| address("direct", host, false));
    node::make_identities(directory);
    let [config, _] = node::pair_of_processes(directory, "direct", addresses);
    let database = node::database(&config);
    std::fs::copy(filled, &database).expect("room for a copy");
    std::fs::File::open(&database).and_then(|file| file.sync_all()).expect("it is written to disk");
    let start = |own: usize| {
        let directory = directory.to_owned();
        [&network.a, &network.b][own].run(move || Process::start(&directory, own, addresses))
    };
    let (mut active, mut standby) = (None, None);
    if beside != Beside::Nothing {
        active = Some(start(0));
    }
    if beside == Beside::ActiveAndStandby {
        standby = Some(start(1));
        active.as_mut().expect("it was started").until_in_sync(LIMIT);
    }
    let began = Instant::now();
    let parts = writer(&database, bytes / 16);
    let seconds = began.elapsed().as_secs_f64();
    let ended = Instant::now();
    let lag_ms = standby.is_some().then(|| {
        active.as_mut().expect("it was started").wait_durable();
        ended.elapsed().as_secs_f64() * 1_000.0
    });
    let nodes = [standby, active].into_iter().flatten().map(Process::stop).rev().collect();
    Run { seconds, parts, lag_ms, nodes }
}

fn writer(database: &Path, bytes: u64) -> Value {
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .env(DATABASE, database)
        .env(LOAD_BYTES, bytes.to_string())
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be started again");
    assert!(output.status.success(), "the writer failed");
    serde_json::from_slice(&output.stdout).expect("the writer ends with its figures")
}

/// The writer's process.
fn write(database: &Path, bytes: u64) {
    let connection = load::open(database);
    let load = || {
        let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                      INSERT INTO t(v) SELECT randomblob(?2) FROM n";
        let mut insert = connection.prepare(insert).expect("the table is there");
        let began = Instant::now();
        for _ in 0..bytes / (ROW_BYTES * ROWS_PER_COMMIT) {
            insert.execute([ROWS_PER_COMMIT as i64, ROW_BYTES as i64]).expect("rows are committed");
        }
        began.elapsed().as_secs_f64()
    };
    let before = load();
    let began = Instant::now();
    connection.execute_batch("VACUUM").expect("it is packed");
    let vacuum = began.elapsed().as_secs_f64();
    let after = load();
    tell(
        &json!({ "load_s": before, "vacuum_s": vacuum, "load_again_s": after, "processor_s": process::processor_s() }),
    );
}

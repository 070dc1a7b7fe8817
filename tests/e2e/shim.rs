//! Programs that know nothing of Lockstep, on real pairs: the stock `sqlite3` shell and Python with the shim.
//!
//! What such a program was told is committed is on the node that takes over. They need the packages
//! `sqlite3` and `python3` of the distribution.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::Lab;

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Who says nothing for so long waits: a commit takes a few milliseconds.
const SILENCE: Duration = Duration::from_millis(200);
/// Commits of each program before the fault.
const COMMITS: usize = 50;

/// Inserts the numbers it reads, one transaction each, and says them when they are committed.
const PYTHON: &str = "
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for line in sys.stdin:
    connection.execute('INSERT INTO python VALUES (?)', (int(line),))
    print(int(line), flush=True)
";

/// A program that is given one number after another, each when the last is committed.
struct Writer {
    child: Child,
    input: ChildStdin,
    said: Receiver<u64>,
    statement: fn(u64) -> String,
    next: u64,
    acknowledged: BTreeSet<u64>,
}

impl Writer {
    fn shell(lab: &Lab, database: &str) -> Self {
        let command = ["lockstep", "run", "--", "sqlite3", "-batch", "-cmd", ".timeout 30000", database];
        Self::start(lab, &command, |n| format!("INSERT INTO shell VALUES ({n}); SELECT {n};"))
    }

    fn python(lab: &Lab, database: &str) -> Self {
        let command = ["lockstep", "run", "--", "/usr/bin/python3", "-c", PYTHON, database];
        Self::start(lab, &command, |n| n.to_string())
    }

    fn start(lab: &Lab, command: &[&str], statement: fn(u64) -> String) -> Self {
        let mut child = lab
            .exec("a", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("lab exec starts");
        let out = child.stdout.take().expect("stdout is piped");
        let (send, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let number = line.parse().unwrap_or_else(|_| panic!("it said {line:?}"));
                let _ = send.send(number);
            }
        });
        let input = child.stdin.take().expect("stdin is piped");
        let mut writer = Self { child, input, said, statement, next: 1, acknowledged: BTreeSet::new() };
        writer.ask();
        writer
    }

    fn ask(&mut self) {
        // A program that is dead is given nothing.
        let _ = writeln!(self.input, "{}", (self.statement)(self.next));
    }

    /// Its next commit within `span`; false: it waits, or has ended.
    fn goes_on(&mut self, span: Duration) -> bool {
        let Ok(number) = self.said.recv_timeout(span) else { return false };
        assert_eq!(number, self.next);
        self.acknowledged.insert(number);
        self.next += 1;
        self.ask();
        true
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pair(lab: &Lab, node: &str) -> Value {
    let output = lab.exec(node, &["lockstep", "status", "--json"]).output().expect("exec starts");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["pairs"][0].clone()
}

fn until(lab: &Lab, what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(
            Instant::now() < deadline,
            "{what} did not happen: {:#}\n{:#}",
            pair(lab, "a"),
            pair(lab, "b")
        );
        std::thread::sleep(LOOK);
    }
}

/// Runs the `sqlite3` program without the shim.
fn sqlite(lab: &Lab, node: &str, database: &str, sql: &str) -> String {
    let command = ["sqlite3", "-cmd", ".timeout 5000", database, sql];
    let output = lab.exec(node, &command).output().expect("exec starts");
    assert!(output.status.success(), "sqlite3 (package sqlite3) on {node}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn database(lab: &Lab, node: &str) -> String {
    let status = lab.status();
    status["nodes"][node]["databases"]["main"].as_str().expect("a path").to_owned()
}

/// A pair in sync with a table for each program, made without the shim.
fn lab_with_tables() -> (Lab, String) {
    let lab = Lab::new().up(&[]);
    let path = database(&lab, "a");
    let tables = "PRAGMA journal_mode=WAL; CREATE TABLE shell(n INTEGER PRIMARY KEY); CREATE TABLE python(n INTEGER PRIMARY KEY);";
    sqlite(&lab, "a", &path, tables);
    until(&lab, "a pair in sync", || {
        let active = pair(&lab, "a");
        active["in_sync"] == true && active["lag_frames"] == 0 && active["databases"][0]["fault"].is_null()
    });
    (lab, path)
}

#[test]
fn nothing_that_an_unmodified_program_committed_is_missing_when_the_active_node_loses_power() {
    let (lab, path) = lab_with_tables();
    let mut writers = [Writer::shell(&lab, &path), Writer::python(&lab, &path)];
    for _ in 0..COMMITS {
        for writer in &mut writers {
            assert!(writer.goes_on(PATIENCE), "its commits return: {:#}", pair(&lab, "a"));
        }
    }
    assert_eq!(pair(&lab, "a")["unwaited_commits"], 0, "somebody did not wait");

    // While the standby hears nothing, commits happen and nobody is told.
    lab.ok(&["freeze", "b"]);
    for writer in &mut writers {
        let mut more = 0;
        while writer.goes_on(SILENCE) {
            more += 1;
            assert!(more < 1000, "it goes on without the standby");
        }
    }
    let rows = "SELECT (SELECT count(*) FROM shell) + (SELECT count(*) FROM python)";
    let committed: usize = sqlite(&lab, "a", &path, rows).parse().expect("a number");
    let told: usize = writers.iter().map(|writer| writer.acknowledged.len()).sum();
    assert!(committed > told, "{committed} are committed and {told} were answered");
    lab.ok(&["power-off", "a"]);
    lab.ok(&["thaw", "b"]);

    until(&lab, "the takeover by b", || pair(&lab, "b")["state"] == "active");
    let taken_over = database(&lab, "b");
    for (writer, table) in writers.iter_mut().zip(["shell", "python"]) {
        while writer.goes_on(SILENCE) {}
        let there = sqlite(&lab, "b", &taken_over, &format!("SELECT n FROM {table}"));
        let there: BTreeSet<u64> = there.lines().map(|n| n.parse().expect("a number")).collect();
        let missing: Vec<_> = writer.acknowledged.difference(&there).collect();
        assert!(missing.is_empty(), "{table}: {missing:?} of {:?}", writer.acknowledged);
        assert!(writer.acknowledged.len() >= COMMITS);
    }
    assert_eq!(sqlite(&lab, "b", &taken_over, "PRAGMA integrity_check"), "ok");
}

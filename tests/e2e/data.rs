//! The data path on real pairs: what an operator finds at a mirror, in a snapshot, in quarantine and in
//! the status. Needs the program `sqlite3`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use lockstep::control::{Answer, Request, ask};
use lockstep::status::PairStatus;

use crate::harness::{Lab, Pair};

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn database(lab: &Lab, node: &str) -> String {
    let status = lab.status();
    status["nodes"][node]["databases"]["main"].as_str().expect("a path").to_owned()
}

/// Runs the `sqlite3` program on a node; panics when it is missing.
fn sqlite(lab: &Lab, node: &str, database: &str, sql: &str) -> Output {
    let output =
        lab.exec(node, &["sqlite3", "-cmd", ".timeout 2000", database, sql]).output().expect("exec starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("No such file or directory"), "install sqlite3: {said}");
    output
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_mirror_under_load_is_locked_for_others_and_a_snapshot_of_either_node_is_sound() {
    let pair = Pair::up(&[]);
    let looked = sqlite(&pair.lab, "b", &database(&pair.lab, "b"), ".tables");
    let said = String::from_utf8_lossy(&looked.stderr);
    assert!(!looked.status.success() && said.contains("database is locked"), "{looked:?}");
    for node in ["a", "b"] {
        let file = pair.lab.home().join(format!("snapshot-{node}.db")).display().to_string();
        done(&pair.verb(node, &["snapshot", "main", &file]));
        assert_eq!(done(&sqlite(&pair.lab, node, &file, "PRAGMA integrity_check")), "ok");
        assert_ne!(done(&sqlite(&pair.lab, node, &file, "SELECT count(*) FROM sqlite_schema")), "0");
        let again = pair.verb(node, &["snapshot", "main", &file]);
        assert!(!again.status.success(), "it would replace a file: {again:?}");
        let itself = pair.verb(node, &["snapshot", "main", &database(&pair.lab, node)]);
        assert!(!itself.status.success(), "it would replace the database: {itself:?}");
    }
    pair.writes_go_on();
    pair.end("a");
}

#[test]
fn what_an_old_active_wrote_alone_is_in_quarantine_counted_and_listed_when_it_is_back() {
    let mut pair = Pair::up(&[]);
    let old = database(&pair.lab, "a");
    pair.moves(|pair| {
        pair.lab.ok(&["agent", "halt", "a"]);
        done(&sqlite(&pair.lab, "a", &old, "CREATE TABLE lonely(x); INSERT INTO lonely VALUES (1)"));
        pair.taken_over_by("b");
        pair.lab.ok(&["agent", "start", "a"]);
        pair.in_sync_under("b");
    });
    assert_eq!(pair.status("a").expect("it answers").quarantined, 1);
    let logged = pair.logs("a", 0, "quarantined");
    assert!(logged.sentence.contains("quarantine"), "{logged:?}");
    let listed = done(&pair.verb("a", &["quarantine", "list", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
    let shown = done(&pair.verb("a", &["quarantine", "show", "main"]));
    assert!(shown.contains("table lonely: 1 rows kept") && shown.contains("+ x=1"), "{shown}");
    let kept = PathBuf::from(listed[0]["path"].as_str().expect("a path")).join("main");
    let copy = pair.lab.home().join("kept.db");
    for suffix in ["", "-wal"] {
        let target = format!("{}{suffix}", copy.display());
        std::fs::copy(kept.join(format!("database{suffix}")), target).expect("it is kept");
    }
    let kept = done(&sqlite(&pair.lab, "a", &copy.display().to_string(), "SELECT x FROM lonely"));
    assert_eq!(kept, "1", "the lonely commit can be read in quarantine");
    pair.end("b");
}

fn status(lab: &Lab, node: &str) -> Option<PairStatus> {
    match ask(&lab.home().join(node).join("run/agent.sock"), &Request::Status {}, PATIENCE) {
        Ok(Answer::Status(status)) => status.pairs.into_iter().next(),
        _ => None,
    }
}

fn until(lab: &Lab, what: &str, is_so: impl Fn(&PairStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !status(lab, "a").is_some_and(|pair| is_so(&pair)) {
        assert!(Instant::now() < deadline, "{what} did not happen: {:#?}", status(lab, "a"));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One line to the agent's socket, as any program sends it.
fn wait(lab: &Lab, line: &str) -> String {
    let mut socket = UnixStream::connect(lab.home().join("a/run/agent.sock")).expect("the agent listens");
    socket.write_all(line.as_bytes()).expect("it reads");
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).expect("it answers");
    answer
}

#[test]
fn a_database_that_cannot_be_followed_is_a_fault_and_commits_nobody_waits_for_are_counted() {
    let lab = Lab::new().up(&[]);
    let path = database(&lab, "a");
    done(&sqlite(&lab, "a", &path, "CREATE TABLE t(x)"));
    let remedy = "PRAGMA journal_mode=WAL";
    until(&lab, "a fault with its remedy", |pair| {
        let fault = pair.databases[0].fault.as_ref();
        fault.is_some_and(|fault| fault.contains(remedy))
            && pair.events.iter().any(|event| event.sentence.contains(remedy))
            && pair.alarms.iter().any(|alarm| alarm.sentence.contains(remedy))
    });
    assert_eq!(done(&sqlite(&lab, "a", &path, remedy)), "wal");
    until(&lab, "being in sync", |pair| pair.in_sync && pair.databases[0].fault.is_none());
    until(&lab, "the end of the alarm", |pair| pair.alarms.is_empty());
    for _ in 0..5 {
        done(&sqlite(&lab, "a", &path, "INSERT INTO t VALUES (1)"));
    }
    until(&lab, "a count of five", |pair| pair.unwaited_commits >= 5);
    let answer = wait(&lab, "WAIT lab main durable 20000\n");
    assert!(answer.starts_with("OK durable "), "{answer}");
    until(&lab, "a count of none", |pair| pair.unwaited_commits == 0);
}

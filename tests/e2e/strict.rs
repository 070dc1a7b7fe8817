//! A strict pair: what anybody can read on the active node is on the standby already. Needs `python3` and the
//! `sqlite3` shell.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lockstep::control::{Answer, Request, ask};
use lockstep::status::{PairState, PairStatus};

use crate::harness::Lab;

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// Who says nothing for so long waits: a commit takes a few milliseconds.
const HIDDEN: Duration = Duration::from_secs(1);
/// Longer than a grant lasts, and than a program that gives up after some seconds.
const HIDDEN_LONG: Duration = Duration::from_secs(6);
/// Commits while the agent is killed.
const KILLS: usize = 3;

/// Each line is the size of a row to insert, or "reset": the WAL begins anew with the next commit.
const WRITER: &str = "
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute('PRAGMA synchronous=FULL')
for line in sys.stdin:
    if line.strip() == 'reset':
        while connection.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone()[0]:
            time.sleep(0.01)
    else:
        connection.execute('INSERT INTO t(v) VALUES (randomblob(?))', (int(line),))
    print('done', flush=True)
";

struct Writer {
    child: Child,
    input: ChildStdin,
    done: Receiver<()>,
}

impl Writer {
    fn start(lab: &Lab, path: &str) -> Self {
        let command = ["lockstep", "run", "--", "/usr/bin/python3", "-c", WRITER, path];
        let mut command = lab.exec("a", &command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("exec starts");
        let (input, out) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (send, done) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                assert_eq!(line, "done");
                let _ = send.send(());
            }
        });
        Self { child, input, done }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it lives");
    }

    fn does(&mut self, line: &str) {
        self.say(line);
        self.done.recv_timeout(PATIENCE).expect("it is done");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(lab: &Lab, node: &str) -> Option<PairStatus> {
    match ask(&lab.home().join(node).join("run/agent.sock"), &Request::Status {}, PATIENCE) {
        Ok(Answer::Status(status)) => status.pairs.into_iter().next(),
        _ => None,
    }
}

fn is_active(lab: &Lab, node: &str) -> bool {
    status(lab, node).is_some_and(|pair| pair.state == PairState::Active)
}

fn until(lab: &Lab, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: {:#?}\n{:#?}", status(lab, "a"), status(lab, "b"));
        std::thread::sleep(LOOK);
    }
}

/// Runs the `sqlite3` program without the shim, as any reader.
fn sqlite(lab: &Lab, node: &str, path: &str, sql: &str) -> String {
    let command = ["sqlite3", "-cmd", ".timeout 5000", path, sql];
    let output = lab.exec(node, &command).output().expect("exec starts");
    assert!(output.status.success(), "sqlite3 (package sqlite3) on {node}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn rows(lab: &Lab, node: &str, path: &str) -> u64 {
    sqlite(lab, node, path, "SELECT count(*) FROM t").parse().expect("a number")
}

fn path(lab: &Lab, node: &str) -> String {
    lab.status()["nodes"][node]["databases"]["main"].as_str().expect("a path").to_owned()
}

fn in_sync(lab: &Lab) {
    until(lab, "a in sync", || status(lab, "a").is_some_and(|a| a.state == PairState::Active && a.in_sync));
}

/// While the standby takes nothing, this commit is seen by nobody; then it is done.
fn stays_hidden(lab: &Lab, writer: &mut Writer, path: &str, bytes: &str, span: Duration) {
    let before = rows(lab, "a", path);
    lab.ok(&["freeze", "b"]);
    writer.say(bytes);
    assert!(writer.done.recv_timeout(span).is_err(), "the standby cannot have it");
    assert_eq!(rows(lab, "a", path), before, "a reader sees what the standby lacks");
    lab.ok(&["thaw", "b"]);
    writer.done.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it goes on: {:#?}", status(lab, "a")));
    assert_eq!(rows(lab, "a", path), before + 1);
    in_sync(lab);
}

#[test]
fn no_reader_of_a_strict_pair_sees_what_the_standby_lacks() {
    let lab = Lab::new().up(&["--strict", "--solo-after", "never"]);
    let file = path(&lab, "a");
    sqlite(&lab, "a", &file, "PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, v BLOB);");
    until(&lab, "a pair in sync", || {
        status(&lab, "a").is_some_and(|a| a.in_sync && a.databases[0].fault.is_none())
    });
    let mut writer = Writer::start(&lab, &file);
    writer.does("100");
    stays_hidden(&lab, &mut writer, &file, "100", HIDDEN);
    writer.does("reset");
    stays_hidden(&lab, &mut writer, &file, "100", HIDDEN);
    stays_hidden(&lab, &mut writer, &file, "4194304", HIDDEN);
    writer.does("reset");
    stays_hidden(&lab, &mut writer, &file, "4194304", HIDDEN_LONG);

    // Over restarts of the agent, until one is replaced by the standby, and at last without power.
    for bytes in ["100", "4194304", "100"].into_iter().take(KILLS) {
        let before = rows(&lab, "a", &file);
        lab.ok(&["agent", "kill", "a"]);
        writer.say(bytes);
        until(&lab, "the commit or a takeover", || rows(&lab, "a", &file) > before || is_active(&lab, "b"));
        if is_active(&lab, "b") {
            break;
        }
        writer.done.recv_timeout(PATIENCE).expect("its commit returns");
        in_sync(&lab);
        writer.does("reset");
    }
    let mut seen = rows(&lab, "a", &file);
    if !is_active(&lab, "b") {
        lab.ok(&["agent", "kill", "a"]);
        writer.say("100");
        until(&lab, "the commit or a takeover", || rows(&lab, "a", &file) > seen || is_active(&lab, "b"));
        seen = rows(&lab, "a", &file);
    }
    lab.ok(&["power-off", "a"]);
    until(&lab, "the takeover by b", || is_active(&lab, "b"));
    let there = rows(&lab, "b", &path(&lab, "b"));
    assert!(there >= seen, "{seen} were seen on the active, {there} are on the standby");
}

//! A pair in every way a lab can be set up: without privileges, with an IPv6 address, with programs
//! that Lockstep knows nothing about, by the words of the documentation.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Lab, arguments};

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Nobody, on every Linux.
const NOBODY: u32 = 65534;
/// Exit code of what Lockstep refuses.
const REFUSED: i32 = 3;
/// Exit code of what is done while the new standby still catches up.
const NOT_IN_SYNC: i32 = 4;

/// The demonstration's application, as a shell line.
fn shop(listen: &str) -> String {
    format!("exec '{}' demo-app --listen {listen}", env!("CARGO_BIN_EXE_lockstep"))
}

/// What `lockstep status --json` says about the pair of a node; null while its agent does not answer.
fn pair(lab: &Lab, node: &str) -> Value {
    let output = lab.exec(node, &["lockstep", "status", "--json"]).output().expect("exec starts");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["pairs"][0].clone()
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not happen within {} s", PATIENCE.as_secs());
        std::thread::sleep(LOOK);
    }
}

fn is_in_sync(lab: &Lab, active: &str, standby: &str) -> bool {
    let [active, standby] = [active, standby].map(|node| pair(lab, node));
    let synced = active["in_sync"] == true && standby["in_sync"] == true;
    synced && active["state"] == "active" && standby["state"] == "standby"
}

/// Runs `lockstep` on a node and waits, as its exit code asks for, until it is no longer refused.
fn operate(lab: &Lab, node: &str, verb: &str) {
    until(verb, || {
        let output = lab.exec(node, &["lockstep", verb]).output().expect("exec starts");
        let code = output.status.code().expect("no signal ends it");
        assert!([0, NOT_IN_SYNC, REFUSED].contains(&code), "{verb} on {node}: {output:?}");
        code != REFUSED
    });
}

#[test]
fn a_user_without_privileges_has_a_pair_that_takes_over_and_says_what_it_lacks() {
    let lab = Lab::of_user(NOBODY).up(&["--app", &shop("0.0.0.0:8080")]);
    let log = std::fs::read_to_string(lab.home().join("a/agent.log")).expect("the agent's log");
    let events = lab.exec("a", &["lockstep", "events"]).output().expect("exec starts").stdout;
    let said = log + &String::from_utf8_lossy(&events);
    assert!(said.contains("SCHED_FIFO refused"), "no word about the priority it has not got: {said}");
    let backend = pair(&lab, "a")["io_backend"].clone();
    assert!(backend == "io_uring" || backend == "blocking", "io_backend is {backend}");

    operate(&lab, "a", "switchover");
    until("the switchover to b", || is_in_sync(&lab, "b", "a"));
    operate(&lab, "b", "failback");
    until("the failback to a", || is_in_sync(&lab, "a", "b"));
    lab.ok(&["power-off", "a"]);
    until("the takeover by b", || pair(&lab, "b")["state"] == "active");
    lab.ok(&["power-on", "a"]);
    until("the return of a", || is_in_sync(&lab, "b", "a"));
}

#[test]
fn an_ipv4_and_an_ipv6_address_move_together() {
    use lockstep::lab::sniffer::{Observations, Takeover, dual_holder_ms, now_ns};
    let lab = Lab::new().up(&["--ipv6", "--app", &shop("[::]:8080"), "--health", "http://[::1]:8080/health"]);
    assert_eq!(lab.status()["vip"], serde_json::json!(["10.77.0.10", "fd77::10"]));
    let both = || ["10.77.0.10:8080", "[fd77::10]:8080"].iter().all(|address| connects(&lab, address));
    until("an answer from both addresses", both);
    lab.ok(&["sniff-start"]);
    let start_ns = now_ns();
    lab.ok(&["power-off", "a"]);
    until("the takeover by b", || pair(&lab, "b")["state"] == "active");
    until("an answer from both addresses on b", both);
    let moved = Takeover { start_ns, end_ns: now_ns() };
    let seen: Observations = serde_json::from_str(&lab.ok(&["sniff-stop"])).expect("observations");
    for vip in ["10.77.0.10", "fd77::10"] {
        let last = seen.runs.iter().rfind(|run| run.vip.to_string() == vip).expect("somebody sent from it");
        assert_eq!(last.mac.to_string(), "02:4c:53:00:00:02", "{vip} is b's: {seen:?}");
    }
    assert_eq!((dual_holder_ms(&seen, &[moved]), seen.unseen_frames), (0, 0), "{seen:?}");
}

fn connects(lab: &Lab, address: &str) -> bool {
    lab.inside("c", "modes::inside_connect", &[address]).output().expect("exec starts").status.success()
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_connect() {
    let Some(arguments) = arguments() else { return };
    let address = arguments[0].parse().expect("an address");
    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).expect("the application answers");
}

/// Answers as slowly as a health check may, which is longer than a lease.
const SLOW: &str = "import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(1.5)
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(('', 8080), Slow).serve_forever()
";

#[test]
fn an_application_whose_health_answers_later_than_the_lease_lasts_is_left_alone() {
    let program = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(program.path(), SLOW).expect("the program");
    let app = format!("exec python3 {}", program.path().display());
    let lab = Lab::new().up(&["--app", &app, "--health", "http://127.0.0.1:8080/"]);
    let healthy = || pair(&lab, "a")["apps"][0]["healthy"] == true;
    until("a first answer", healthy);
    // Some more checks; each outlasts the lease.
    std::thread::sleep(Duration::from_secs(4));
    let events = lab.exec("a", &["lockstep", "events"]).output().expect("exec starts").stdout;
    let events = String::from_utf8(events).expect("UTF-8");
    assert!(healthy() && !events.contains("restarted"), "{events}");
}

#[test]
fn an_application_that_fails_on_one_node_is_handed_over_and_one_that_fails_on_both_is_an_alarm() {
    let broken = tempfile::tempdir().expect("a temporary folder");
    let flag = |role: &str| broken.path().join(role);
    let app = format!("until [ -e {}/$LOCKSTEP_ROLE ]; do sleep 0.1; done", broken.path().display());
    let lab = Lab::new().up(&["--app", &app]);
    until("being in sync", || is_in_sync(&lab, "a", "b"));
    let alarms = |node| pair(&lab, node)["alarms"].to_string();
    assert_eq!(alarms("a"), "[]");
    std::fs::write(flag("primary"), "").expect("it is written");
    until("the handover to b", || is_in_sync(&lab, "b", "a"));
    let events = lab.exec("a", &["lockstep", "events", "--json"]).output().expect("exec starts").stdout;
    let events: Value = serde_json::from_slice(&events).expect("JSON");
    assert!(events.as_array().expect("a list").iter().any(|event| event["kind"] == "5a"), "{events}");

    // The node it came from failed just now: it is not sent back there.
    std::fs::write(flag("secondary"), "").expect("it is written");
    until("the alarm", || alarms("b").contains("may not take over by itself"));
    let held = pair(&lab, "b");
    assert!(held["state"] == "active" && held["alarms"][0]["severity"] == "critical", "{held}");
    assert!(alarms("b").contains("lockstep switchover"), "the remedy: {held}");
    std::fs::remove_dir_all(broken.path()).expect("it is removed");
    operate(&lab, "b", "switchover");
    until("the switchover to a", || is_in_sync(&lab, "a", "b"));
    until("the end of the alarm", || alarms("a") == "[]" && alarms("b") == "[]");
}

#[test]
fn every_fault_may_be_made_twice_and_one_that_cannot_be_made_says_why() {
    let lab = Lab::up_without_agents();
    let faults: [&[&str]; 10] = [
        &["cut", "direct", "a"],
        &["mend", "direct", "a"],
        &["cut", "lan", "b", "--one-way", "in"],
        &["mend", "lan", "b", "--one-way", "in"],
        &["freeze", "a"],
        &["thaw", "a"],
        &["power-off", "b"],
        &["cut", "lan", "b"],
        &["power-on", "b"],
        &["mend", "lan", "b"],
    ];
    for fault in faults {
        lab.ok(fault);
        lab.ok(fault);
    }
    lab.ok(&["power-off", "b"]);
    for fault in ["freeze", "thaw"] {
        let output = lab.run(&[fault, "b"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("node b is off") && said.contains("lab power-on b"), "{said}");
    }
    for nonsense in [&["freeze", "c"][..], &["cut", "wire", "a"], &["cut", "lan", "a", "--one-way", "up"]] {
        assert_eq!(lab.run(nonsense).status.code(), Some(2), "{nonsense:?}");
    }
    let status = lab.status();
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&status), ["nodes", "url", "vip"]);
    assert_eq!(keys(&status["nodes"]), ["a", "b"]);
    assert_eq!(keys(&status["nodes"]["b"]), ["addresses", "databases", "power", "state_dir", "trees"]);
    assert_eq!(
        (&status["nodes"]["a"]["power"], &status["nodes"]["b"]["power"]),
        (&"on".into(), &"off".into())
    );

    lab.ok(&["down"]);
    let output = lab.run(&["cut", "lan", "a"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("start one with `lockstep lab up`"), "{said}");
    lab.ok(&["down"]);
}

/// The command lines of a chapter of `docs/try-your-application.md`.
fn chapter(title: &str) -> Vec<String> {
    let page = include_str!("../../docs/try-your-application.md");
    let (_, rest) = page.split_once(title).expect("the chapter is there");
    let text = rest.split("\n## ").next().expect("a split has a first part");
    text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// Types a line as a reader would, and again while Lockstep refuses it; gives what it printed.
fn type_in(lab: &Lab, line: &str) -> String {
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_lockstep")).parent().expect("a folder");
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").expect("PATH"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .env("PATH", &path)
            .env("LOCKSTEP_LAB_DIR", lab.home().parent().expect("a folder"))
            .stdin(Stdio::null())
            .output()
            .expect("sh starts");
        if [Some(0), Some(NOT_IN_SYNC)].contains(&output.status.code()) {
            return String::from_utf8(output.stdout).expect("UTF-8");
        }
        assert!(
            output.status.code() == Some(REFUSED) && Instant::now() < deadline,
            "`{line}`: {output:?} (the page needs curl and python3)"
        );
        std::thread::sleep(LOOK);
    }
}

#[test]
fn the_page_about_trying_an_application_can_be_typed_in_line_by_line() {
    let lab = Lab::new();
    let lines = [chapter("## With a generated configuration"), chapter("## Pull the plug")].concat();
    let printed: Vec<String> = lines.iter().map(|line| type_in(&lab, line)).collect();
    let of = |wanted: &str| {
        let matching = lines.iter().zip(&printed).filter(|(line, _)| line.contains(wanted));
        matching.map(|(_, printed)| printed.trim()).collect::<Vec<_>>()
    };
    assert_eq!(of("curl -s -d"), ["ordered", "ordered"]);
    assert_eq!(of("curl -s http"), ["tea", "tea", "tea cake"], "{lines:#?}");
    assert!(of("lockstep events")[0].contains("lease is open"), "{printed:#?}");
}

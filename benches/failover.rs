//! Heartbeats, commits and a loss of power, with and without the direct link.
//!
//! Takes `lockstep lab` through whole takeovers: two nodes, the demonstration's application, its client
//! behind the virtual address. Before the power goes: mean round trip of heartbeats on each path, and
//! how long a wait in durable mode takes under the client's 200 writes per second. After: when the
//! standby heard its peer no more, and for how long address and application answered nobody.
//! `LOCKSTEP_RUNS` takeovers each, 5 by default; `LOCKSTEP_PROFILES`, "metal,default" by default (metal
//! needs root). Beside it stands the profile's own wait since the last heartbeat, which is up to a period
//! before the power goes: no takeover can be quicker by more than that.

use lockstep::control::{Answer, Request, ask};
use lockstep::lab::{APP_PORT, Home, Node, VIP};
use lockstep::status::{PairState, PairStatus};
use lockstep_benches::{Times, announce, median_of, setting, tell};
use lockstep_failover::profile::{Profile, stretched};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Every profile takes over within this; longer is a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// How long everything is well before the power goes, and how long it is looked at afterwards.
const CALM: Duration = Duration::from_secs(2);

fn main() {
    announce("failover");
    let program = build();
    let profiles = std::env::var("LOCKSTEP_PROFILES").unwrap_or_else(|_| "metal,default".to_owned());
    for profile in profiles.split(',') {
        // Without a cable `metal` is refused: a LAN shares its switch with others.
        let links: &[bool] = if profile == "metal" { &[true] } else { &[true, false] };
        for &direct in links {
            let lab = Lab { program: program.clone(), name: format!("bench-{}", std::process::id()) };
            measure(&lab, profile, direct);
        }
    }
}

fn measure(lab: &Lab, profile: &str, direct: bool) {
    let known = Profile::from_name(profile);
    let timing = known.unwrap_or_else(|| panic!("LOCKSTEP_PROFILES: no profile {profile:?}")).timing();
    let configs = lab.configs(profile, direct);
    let mut found: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut waits = Times::default();
    for _ in 0..setting("LOCKSTEP_RUNS", 5) {
        for (what, value) in lab.takeover(configs.path(), profile, &mut waits) {
            found.entry(what).or_default().push(value);
        }
    }
    let found: BTreeMap<&str, Value> =
        found.into_iter().map(|(what, values)| (what, median_of(values))).collect();
    tell(&json!({
        "bench": "failover",
        "profile": profile,
        "direct_link": direct,
        "least_possible_ms": {
            "detect": timing.dead_after.as_millis() as u64,
            "takeover": (stretched(timing.lease) + timing.margin + timing.hold_off).as_millis() as u64,
        },
        "found": found,
        "wait_durable": waits.figures(),
    }));
}

/// Builds the program in release mode and says where it is.
fn build() -> PathBuf {
    let built = Command::new(env!("CARGO")).args(["build", "--release", "-p", "lockstep"]).status();
    assert!(built.expect("cargo starts").success(), "lockstep does not build");
    let own = std::env::current_exe().expect("this program has a path");
    // target/release/deps/failover-<hash>
    own.ancestors().nth(2).expect("benches lie in target/release/deps").join("lockstep")
}

/// One lab at a time; what is up goes down with it.
struct Lab {
    program: PathBuf,
    name: String,
}

impl Lab {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["lab", "--name", &self.name]).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().expect("lockstep starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lockstep lab {arguments:?}: {said}");
    }

    fn home(&self) -> Home {
        Home::of(&self.name).expect("a lab has a folder")
    }

    /// The configurations that the lab makes by itself, with or without the cable.
    fn configs(&self, profile: &str, direct: bool) -> tempfile::TempDir {
        let app = format!("exec {} demo-app --listen 0.0.0.0:{APP_PORT}", self.program.display());
        self.run(&["up", "--no-agent", "--app", &app, "--profile", profile]);
        let directory = tempfile::tempdir().expect("a folder for two configurations");
        for node in Node::ALL {
            let text = std::fs::read_to_string(self.home().config(node)).expect("the lab wrote it");
            let text = if direct { text } else { without_direct(&text) };
            std::fs::write(directory.path().join(format!("{}.toml", node.name())), text).expect("written");
        }
        self.run(&["down"]);
        directory
    }

    fn takeover(&self, configs: &Path, profile: &str, waits: &mut Times) -> Vec<(&'static str, f64)> {
        let up = Up(self);
        let configs = configs.to_str().expect("the name of a temporary folder");
        self.run(&["up", "--config", configs, "--profile", profile]);
        let client = Client::start(self);
        let mut found = self.before(waits);
        let off = Instant::now();
        self.run(&["power-off", "a"]);
        let heard =
            |pair: &PairStatus| pair.heartbeat.lan.up || pair.heartbeat.direct.as_ref().is_some_and(|d| d.up);
        let acts = |pair: &PairStatus| matches!(pair.state, PairState::Promoting | PairState::Active);
        found.push(("detect_ms", self.until(Node::B, off, |pair| acts(pair) || !heard(pair))));
        found.push(("active_ms", self.until(Node::B, off, |pair| pair.state == PairState::Active)));
        std::thread::sleep(CALM);
        let (vip_ms, app_ms) = client.stop();
        found.extend([("vip_outage_ms", vip_ms), ("app_outage_ms", app_ms)]);
        drop(up);
        found
    }

    /// While all is well.
    fn before(&self, waits: &mut Times) -> Vec<(&'static str, f64)> {
        let (began, socket) = (Instant::now(), self.home().run(Node::A).join("agent.sock"));
        while began.elapsed() < CALM {
            let asked = Instant::now();
            wait(&socket);
            waits.add(asked.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        let heartbeat = self.pair(Node::B).expect("the standby's agent answers").heartbeat;
        let mut found = Vec::new();
        if let Some(ms) = heartbeat.direct.and_then(|direct| direct.mean_rtt_ms) {
            found.push(("direct_round_trip_us", ms * 1000.0));
        }
        found.extend(heartbeat.lan.mean_rtt_ms.map(|ms| ("lan_round_trip_us", ms * 1000.0)));
        found
    }

    fn pair(&self, node: Node) -> Option<PairStatus> {
        let socket = self.home().run(node).join("agent.sock");
        match ask(&socket, &Request::Status {}, Duration::from_secs(1)) {
            Ok(Answer::Status(status)) => status.pairs.into_iter().next(),
            _ => None,
        }
    }

    /// Milliseconds from `since` until a node's status is as it should be.
    fn until(&self, node: Node, since: Instant, is: impl Fn(&PairStatus) -> bool) -> f64 {
        while !self.pair(node).is_some_and(|pair| is(&pair)) {
            assert!(since.elapsed() < LIMIT, "node {} is {:#?}", node.name(), self.pair(node));
            std::thread::sleep(Duration::from_millis(2));
        }
        since.elapsed().as_secs_f64() * 1000.0
    }
}

/// A lab that is up, or on its way.
struct Up<'a>(&'a Lab);

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let ended = self.0.command(&["down"]).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("the lab stays: lockstep lab --name {} down", self.0.name);
        }
    }
}

/// The commit barrier's answer to an application.
fn wait(socket: &Path) {
    let mut stream = UnixStream::connect(socket).expect("the active's agent listens");
    stream.write_all(b"WAIT lab main durable 10000\n").expect("asked");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("answered");
    assert!(answer.starts_with("OK durable"), "{answer}");
}

fn without_direct(config: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in config.lines() {
        if line.starts_with('[') {
            inside = line == "[pair.direct]";
            kept.push_str(line);
            kept.push_str(if inside { "\ninterface = \"none\"\n" } else { "\n" });
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The demonstration's client on its machine.
struct Client {
    child: Child,
    /// What was acknowledged goes there.
    _directory: tempfile::TempDir,
}

impl Client {
    fn start(lab: &Lab) -> Self {
        let directory = tempfile::tempdir().expect("a folder for what was acknowledged");
        let acknowledged = format!("--acknowledged={}", directory.path().join("ids").display());
        let target = format!("--target={VIP}:{APP_PORT}");
        let program = lab.program.to_str().expect("the program's path is UTF-8");
        let child = lab
            .command(&["exec", "c", "--", program, "demo-client", &target, &acknowledged, "--seed=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client starts");
        Self { child, _directory: directory }
    }

    /// Ends it; for how long address and application answered nobody, milliseconds.
    fn stop(mut self) -> (f64, f64) {
        drop(self.child.stdin.take());
        let output = BufReader::new(self.child.stdout.take().expect("it is piped"));
        let last = output.lines().map_while(Result::ok).last().expect("it says how far it is");
        assert!(self.child.wait().expect("it is our child").success(), "the client failed: {last}");
        let progress: Value = serde_json::from_str(&last).expect("progress is JSON");
        let longest = |gaps: &Value| {
            let ns = |gap: &Value, end: &str| gap[end].as_u64().unwrap_or(0);
            let gaps = gaps.as_array().into_iter().flatten();
            gaps.map(|gap| (ns(gap, "end_ns") - ns(gap, "start_ns")) as f64 / 1e6).fold(0.0, f64::max)
        };
        (longest(&progress["finished"]["vip_gaps"]), longest(&progress["finished"]["app_gaps"]))
    }
}

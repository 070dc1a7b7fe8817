//! A pair under load: the demonstration's application, and a client that remembers what was acknowledged.
//!
//! A test makes faults between [`Pair::up`] and [`Pair::end`]; each time the address may move is a
//! [`Pair::moves`]. The end counts: nothing acknowledged is lost, never two holders, both databases
//! sound and equal. A test that fails prints what both agents logged.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockstep::control::{Answer, Request, ask};
use lockstep::demo::client::Progress;
use lockstep::lab::sniffer::{Observations, Takeover, dual_holder_ms, now_ns};
use lockstep::lab::{APP_PORT, VIP};
use lockstep::status::{PairState, PairStatus};

use super::Lab;
use super::invariants::{self, Commits};

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// After a move of the address: somebody who still holds it shows within this.
const AFTERMATH: Duration = Duration::from_millis(700);
/// An agent answers from memory.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// The client's rate: a debug build on a shared machine keeps up with it.
const ORDERS_PER_S: &str = "--rate=60";

/// The demonstration's application, for [`Pair::signal`].
pub(crate) const DEMO_APP: &str = "demo-app";
/// Name of a database that is looked at in a folder of its own.
const COPY: &str = "copy.db";

/// The demonstration's application; it waits on the agent's socket.
pub(crate) fn waiting_app() -> String {
    format!("exec '{}' demo-app --listen 0.0.0.0:{APP_PORT}", env!("CARGO_BIN_EXE_lockstep"))
}

/// The same, as a program that knows nothing of Lockstep: it answers when COMMIT returns, under the shim. It
/// has SQLite built in, so that `lockstep run` reaches it through libc.
pub(crate) fn unmodified_app() -> String {
    let lockstep = env!("CARGO_BIN_EXE_lockstep");
    format!("exec '{lockstep}' run -- '{lockstep}' demo-app --trust-commit --listen 0.0.0.0:{APP_PORT}")
}

/// One logged event.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) id: i64,
    pub(crate) severity: String,
    pub(crate) kind: String,
    pub(crate) sentence: String,
    at: String,
}

/// Two nodes, their load, and what moved.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    client: Option<Child>,
    reader: Option<std::thread::JoinHandle<()>>,
    progress: Arc<Mutex<Progress>>,
    takeovers: Vec<Takeover>,
    watched: bool,
}

impl Pair {
    /// In sync with `a` active and a client that has been acknowledged something.
    pub(crate) fn up(options: &[&str]) -> Self {
        Self::with_app(&waiting_app(), options)
    }

    /// The same with an application of one's own, a shell line; it answers the client as the demonstration's does.
    pub(crate) fn with_app(app: &str, options: &[&str]) -> Self {
        let lab = Lab::new().up(&[&["--app", app], options].concat());
        lab.ok(&["sniff-start"]);
        let mut pair = Self {
            lab,
            client: None,
            reader: None,
            progress: Arc::default(),
            takeovers: Vec::new(),
            watched: true,
        };
        pair.start_client();
        pair.writes_go_on();
        pair
    }

    /// The orders that the client knows to be safe, one a line; it lies outside of both nodes.
    pub(crate) fn acknowledged_file(&self) -> PathBuf {
        self.lab.home().join("acknowledged")
    }

    fn start_client(&mut self) {
        let (target, file) = (format!("--target={VIP}:{APP_PORT}"), self.acknowledged_file());
        let file = format!("--acknowledged={}", file.display());
        let command = ["lockstep", "demo-client", &target, &file, "--seed=7", ORDERS_PER_S, "--workers=4"];
        let mut command = self.lab.exec("c", &command);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client starts");
        let out = child.stdout.take().expect("stdout is piped");
        let progress = Arc::clone(&self.progress);
        self.reader = Some(std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(told) = serde_json::from_str(&line) {
                    *progress.lock().expect("nobody panics with it") = told;
                }
            }
        }));
        self.client = Some(child);
    }

    fn progress(&self) -> Progress {
        self.progress.lock().expect("nobody panics with it").clone()
    }

    /// Orders acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.progress().acknowledged
    }

    /// Waits until something more is acknowledged.
    pub(crate) fn writes_go_on(&self) {
        let before = self.acknowledged();
        self.until("an acknowledged write", || self.acknowledged() > before);
    }

    /// What a node says of its pair; None while its agent does not answer.
    pub(crate) fn status(&self, node: &str) -> Option<PairStatus> {
        let socket = self.lab.home().join(node).join("run/agent.sock");
        match ask(&socket, &Request::Status {}, STATUS_TIMEOUT) {
            Ok(Answer::Status(status)) => status.pairs.into_iter().next(),
            _ => None,
        }
    }

    /// Whether a node says that it is in this state.
    pub(crate) fn is(&self, node: &str, state: PairState) -> bool {
        self.status(node).is_some_and(|pair| pair.state == state)
    }

    /// `active` serves in sync with the other node as its standby.
    pub(crate) fn is_in_sync(&self, active: &str) -> bool {
        let standby = if active == "a" { "b" } else { "a" };
        let well = |node, state| {
            self.status(node).is_some_and(|pair| pair.state == state && pair.in_sync && !pair.solo)
        };
        well(active, PairState::Active) && well(standby, PairState::Standby)
    }

    /// Waits for it; panics with the state of both nodes when it does not happen.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not happen: {}", self.states());
            std::thread::sleep(LOOK);
        }
    }

    /// The same, and tells more when it does not happen.
    pub(crate) fn until_or(&self, what: &str, mut done: impl FnMut() -> bool, explain: impl FnOnce()) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            if Instant::now() >= deadline {
                explain();
                panic!("{what} did not happen: {}", self.states());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Nothing of this happens for so long.
    pub(crate) fn never(&self, what: &str, span: Duration, mut happens: impl FnMut() -> bool) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            assert!(!happens(), "{what}: {}", self.states());
            std::thread::sleep(LOOK);
        }
    }

    fn states(&self) -> String {
        let of = |node| match self.status(node) {
            Some(pair) => format!(
                "{node} is {}, {}{}, question {:?}",
                pair.state,
                if pair.in_sync { "in sync" } else { "not in sync" },
                if pair.solo { ", solo" } else { "" },
                pair.question
            ),
            None => format!("{node} does not answer"),
        };
        format!("{}; {}", of("a"), of("b"))
    }

    /// A time in which the address may move, once.
    pub(crate) fn moves(&mut self, act: impl FnOnce(&mut Self)) {
        let start_ns = now_ns();
        act(self);
        std::thread::sleep(AFTERMATH);
        self.takeovers.push(Takeover { start_ns, end_ns: now_ns() });
    }

    /// `to` takes the address over, and writes go on there.
    pub(crate) fn taken_over_by(&self, to: &str) {
        self.until(&format!("the takeover by {to}"), || self.is(to, PairState::Active));
        self.writes_go_on();
    }

    /// Waits until either node serves in sync, and names it.
    pub(crate) fn somebody_in_sync(&self) -> &'static str {
        let mut active = None;
        self.until("somebody serves in sync", || {
            active = ["a", "b"].into_iter().find(|node| self.is_in_sync(node));
            active.is_some()
        });
        active.expect("just found")
    }

    /// `active` serves in sync.
    pub(crate) fn in_sync_under(&self, active: &str) {
        self.until(&format!("{active} active and in sync"), || self.is_in_sync(active));
    }

    /// A verb on a node's agent.
    pub(crate) fn verb(&self, node: &str, verb: &[&str]) -> Output {
        self.lab.exec(node, &[&["lockstep"], verb].concat()).output().expect("exec starts")
    }

    /// What a node logged after event `after`.
    pub(crate) fn events(&self, node: &str, after: i64) -> Vec<Logged> {
        let path = self.lab.home().join(node).join("disk/state/lab/events.db");
        let read = || {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let connection = rusqlite::Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(Duration::from_secs(2))?;
            let mut select = connection
                .prepare("SELECT id, severity, kind, sentence, at FROM event WHERE id > ?1 ORDER BY id")?;
            let rows = select.query_map([after], |row| {
                Ok(Logged {
                    id: row.get(0)?,
                    severity: row.get(1)?,
                    kind: row.get(2)?,
                    sentence: row.get(3)?,
                    at: row.get(4)?,
                })
            })?;
            rows.collect::<Result<Vec<Logged>, rusqlite::Error>>()
        };
        read().unwrap_or_default()
    }

    /// The newest event's number, to look only at what comes after it.
    pub(crate) fn mark(&self, node: &str) -> i64 {
        self.events(node, 0).last().map_or(0, |event| event.id)
    }

    /// Waits until a node has logged an event of this kind after `after`.
    pub(crate) fn logs(&self, node: &str, after: i64, kind: &str) -> Logged {
        let mut found = None;
        self.until(&format!("the event {kind:?} on {node}"), || {
            found = self.events(node, after).into_iter().find(|event| event.kind == kind);
            found.is_some()
        });
        found.expect("just found")
    }

    /// How often either node began a full copy, and a resync by pages.
    pub(crate) fn copies(&self) -> (usize, usize) {
        let events = [self.events("a", 0), self.events("b", 0)].concat();
        let count = |what| events.iter().filter(|event| event.sentence.contains(what)).count();
        (count("a full copy begins"), count("a resync by pages begins"))
    }

    /// The agent's process on a node, if one runs.
    pub(crate) fn agent(&self, node: &str) -> Option<rustix::process::Pid> {
        self.process(node, "agent")
    }

    /// A node's process with this word in its command line, if one runs.
    fn process(&self, node: &str, word: &str) -> Option<rustix::process::Pid> {
        let state = format!("LOCKSTEP_STATE_DIR={}", self.lab.home().join(node).join("disk/state").display());
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let read = |file| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let command = read("cmdline");
            // The shell that starts an application has the whole line as one word.
            let is_it = command.split(|byte| *byte == 0).any(|part| part == word.as_bytes());
            if is_it && read("environ").split(|byte| *byte == 0).any(|name| name == state.as_bytes()) {
                return rustix::process::Pid::from_raw(pid);
            }
        }
        None
    }

    /// Sends a node's agent or application a signal, if it runs; see [`DEMO_APP`].
    pub(crate) fn signal(&self, node: &str, word: &str, signal: rustix::process::Signal) {
        if let Some(process) = self.process(node, word) {
            // It may have ended by itself since.
            let _ = rustix::process::kill_process(process, signal);
        }
    }

    /// Sends the agent of a node a signal.
    pub(crate) fn signal_agent(&self, node: &str, signal: rustix::process::Signal) {
        let agent = self.agent(node).expect("an agent runs");
        rustix::process::kill_process(agent, signal).expect("it is ours");
    }

    /// The client stops; then nothing acknowledged is lost, never two nodes held the address, and the
    /// databases are sound and equal. `active` serves in sync at this moment or soon.
    pub(crate) fn end(mut self, active: &str) {
        self.in_sync_under(active);
        self.writes_go_on();
        self.stop_client();
        self.until("the last write on the standby", || {
            self.status(active).is_some_and(|pair| pair.in_sync && pair.lag_frames == Some(0))
        });
        if self.watched {
            self.assert_one_holder();
        }
        let standby = if active == "a" { "b" } else { "a" };
        self.lab.ok(&["agent", "stop", standby]);
        self.lab.ok(&["agent", "stop", active]);
        let acknowledged = Commits::acknowledged(&self.acknowledged_file()).expect("the client's file");
        let [a, b] = ["a", "b"].map(|node| {
            let files = self.files_of(node);
            self.judge(&format!("{node} at the end"), &files, &acknowledged);
            invariants::pages(&files.path().join(COPY)).expect("SQLite opens it")
        });
        invariants::pages_are_equal(&a, &b).expect("both nodes hold the same");
    }

    /// A copy of a node's database and WAL as they lie on its disk, for [`Self::judge`]; nobody may write them.
    pub(crate) fn files_of(&self, node: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let target = dir.path().join(COPY).display().to_string();
        let database = self.database(node);
        let copy = "cp \"$0\" \"$1\" && if [ -e \"$0-wal\" ]; then cp \"$0-wal\" \"$1-wal\"; fi";
        self.lab.ok(&["exec", node, "--", "sh", "-c", copy, &database, &target]);
        dir
    }

    fn database(&self, node: &str) -> String {
        let status = self.lab.status();
        let databases = status["nodes"][node]["databases"].as_object().expect("databases");
        databases.values().next().and_then(|path| path.as_str()).expect("a path").to_owned()
    }

    /// G1 and G3 of a database that lies in a folder of its own.
    pub(crate) fn judge(&self, what: &str, files: &tempfile::TempDir, acknowledged: &Commits) {
        let judged = || -> Result<(), String> {
            let connection = rusqlite::Connection::open(files.path().join(COPY));
            let connection = connection.map_err(|error| error.to_string())?;
            invariants::is_sound(&connection)?;
            let found = Commits::found(&connection)?;
            invariants::is_a_committed_prefix(&found)?;
            invariants::nothing_acknowledged_is_lost(&found, acknowledged)
        };
        if let Err(why) = judged() {
            panic!("{what}: {why}; {}", self.states());
        }
    }

    /// G1 and G3 of the node that serves now, on a snapshot of its live database.
    pub(crate) fn judge_the_active(&self, what: &str, active: &str) {
        let acknowledged = Commits::acknowledged(&self.acknowledged_file()).expect("the client's file");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join(COPY).display().to_string();
        let done = self.verb(active, &["snapshot", "main", &file]);
        // 4: done, and the other node lags behind at this moment.
        assert!(matches!(done.status.code(), Some(0 | 4)), "{what}: {done:?}; {}", self.states());
        self.judge(what, &dir, &acknowledged);
    }

    fn stop_client(&mut self) {
        if let Some(mut client) = self.client.take() {
            drop(client.stdin.take());
            client.wait().expect("the client ends");
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
    }

    /// Ends the watch on the switch: nobody held the address beside another.
    pub(crate) fn assert_one_holder(&mut self) {
        self.watched = false;
        let seen: Observations =
            serde_json::from_str(&self.lab.ok(&["sniff-stop"])).expect("observations are JSON");
        assert_eq!(dual_holder_ms(&seen, &self.takeovers), 0, "two holders: {:#?}", seen.runs);
    }

    /// What an operator would look into: everything worse than information since `after`.
    fn print_logs(&self) {
        for node in ["a", "b"] {
            eprintln!("--- {node}:");
            for event in self.events(node, 0) {
                eprintln!("{} {:>8} {:>12} {}", event.at, event.severity, event.kind, event.sentence);
            }
            let printed = self.lab.home().join(node).join("agent.log");
            eprintln!("{}", std::fs::read_to_string(printed).unwrap_or_default());
            let printed = "tail -n 20 \"$LOCKSTEP_STATE_DIR\"/lab/app.log";
            let application = self.lab.run(&["exec", node, "--", "sh", "-c", printed]);
            eprintln!("--- its application:\n{}", String::from_utf8_lossy(&application.stdout));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("LOCKSTEP_SHOW_LOGS").is_some() {
            self.print_logs();
        }
        if let Some(client) = &mut self.client {
            drop(client.stdin.take());
            let _ = client.wait();
        }
    }
}

//! Applications under real supervisors, turn by turn; the supervisor is this test binary, run again.

use super::*;
use crate::config::{App, AppRun, DEFAULT_WATCH, Health, Watch};
use crate::driver::queue::Input;
use lockstep_failover as failover;
use lockstep_wire::{NodeId, SessionId};
use std::path::Path;

const PATIENCE: Duration = Duration::from_secs(60);
/// Shorter than what one application takes to stop.
const LEASE_US: u64 = 500_000;

struct Rig {
    dir: tempfile::TempDir,
    applications: Applications,
    events: mpsc::Receiver<Input>,
    seen: Vec<String>,
    /// The lease is open and renewed at each turn.
    leased: bool,
}

fn config() -> Config {
    Config::parse(config::EXAMPLE, Path::new("example.toml")).expect("the example is sound")
}

fn status() -> Status {
    let config = failover::Config {
        node: NodeId(1),
        session: SessionId(1),
        role: failover::Role::Primary,
        timing: failover::Profile::Default.timing(),
        failover: failover::FailoverType::Automatic,
        application: true,
        open_early: None,
        release_timeout: Duration::from_secs(10),
        solo_after: failover::SoloAfter::default(),
        failback_after: None,
        witness: false,
        fence: false,
    };
    failover::Machine::new(config, failover::PairState::new(), Time::default()).status()
}

impl Rig {
    /// Shell lines, each run in the temporary folder.
    fn new(lines: &[&str], health: Option<&str>, watch: Watch) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let shell = |line: &str| {
            let line = format!("cd {}; {line}", dir.path().display());
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
        };
        let test = "effects::app::tests::acts_as_supervisor";
        let binary = std::env::current_exe().expect("the test binary");
        let mut arguments = vec!["LOCKSTEP_TEST_SUPERVISE=1".into(), binary.into_os_string()];
        arguments.extend(["--exact", test, "--nocapture"].map(Into::into));
        let supervise =
            Supervise { program: "/usr/bin/env".into(), arguments, systemctl: "/nowhere/systemctl".into() };
        let watched = |(number, line): (usize, &&str)| {
            let (name, run) = (format!("app{number}"), AppRun::Command(shell(line)));
            let health = health.map(|line| Health::Command(shell(line)));
            let app = App { name, run, health: health.clone(), watch, stop_timeout_s: 20 };
            let pair = &"main".parse().expect("a name");
            Watched::new(
                Application::new(pair, &app, supervise.clone(), dir.path(), dir.path()),
                health,
                watch,
            )
        };
        let (queue, events) = EventQueue::new();
        let applications = Applications {
            apps: lines.iter().enumerate().map(watched).collect(),
            pair: config().pairs.remove(0),
            role: config::Role::Primary,
            socket: dir.path().join("agent.sock"),
            gauges: Arc::default(),
            machine: Arc::new(Mutex::new(status())),
            queue,
            commits_wait: Box::new(|| false),
            shown: Shown::default(),
            aim: Aim::Down,
            owes_health: false,
            leased: false,
            stuck_told: None,
        };
        Self { dir, applications, events, seen: Vec::new(), leased: false }
    }

    fn turn(&mut self) {
        if self.leased {
            self.applications.gauges.set_lease_end(Time::from_us(boottime_us() + LEASE_US));
        }
        self.applications.turn();
        self.applications.show();
        for input in self.events.try_iter() {
            self.seen.push(match input {
                Input::Event(event) => format!("{event:?}"),
                Input::Note { kind, sentence, .. } => format!("{kind}: {sentence}"),
                _ => continue,
            });
        }
    }

    /// Turns until something that contains `what` was said, and forgets what was said before.
    #[track_caller]
    fn until(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.iter().position(|said| said.contains(what)) {
                return self.seen.drain(..=at).next_back().expect("just found");
            }
            assert!(Instant::now() < deadline, "no {what:?} in {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
            self.turn();
        }
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).expect("it is written");
    }

    fn end(&mut self) {
        self.applications.stop_all(Aim::Killing);
        self.until("AppStopped");
    }
}

#[test]
fn one_that_ends_again_and_again_is_given_up_within_its_window_and_tried_anew_after_it() {
    let watch = Watch { restarts: 2, restart_window: Duration::from_secs(4), ..DEFAULT_WATCH };
    let mut rig = Rig::new(&["echo run >> runs; [ ! -e mended ] || exec sleep 1000; exit 1"], None, watch);
    rig.applications.start_all();
    rig.until("started again (1)");
    rig.until("started again (2)");
    let failed = rig.until("AppFailed");
    assert!(failed.contains("after 2 restarts within 4 s"), "{failed}");
    assert_eq!(rig.lines("runs").len(), 3);
    let shown = rig.applications.shown.status();
    assert!(shown[0].failed && shown[0].restarts == 2, "{shown:?}");
    rig.write("mended", "");
    rig.until("started again");
    rig.until("AppHealthy");
    assert_eq!(rig.lines("runs").len(), 4, "not before its window was over");
    assert!(!rig.applications.shown.status()[0].failed);
    rig.end();
}

#[test]
fn only_so_many_failed_answers_in_a_row_start_it_again() {
    let health = "echo >> asked; sed -n \"$(wc -l < asked)p\" answers | grep -q yes";
    let interval = Duration::from_millis(20);
    let watch = Watch { failures: 3, successes: 2, interval, ..DEFAULT_WATCH };
    let mut rig = Rig::new(&["exec sleep 1000"], Some(health), watch);
    //          healthy with the 2nd good one in a row: the 4th; the 3rd bad one in a row: the 10th
    let answers = "yes no yes yes no no yes no no no yes yes yes";
    rig.write("answers", &answers.replace(' ', "\n"));
    rig.applications.start_all();
    rig.until("AppHealthy");
    assert_eq!(rig.lines("asked").len(), 4);
    let again = rig.until("started again (1)");
    assert_eq!(rig.lines("asked").len(), 10, "{again}");
    rig.end();
}

#[test]
fn one_that_is_not_healthy_in_its_time_is_started_again() {
    let watch = Watch { start_timeout: Duration::from_secs(1), ..DEFAULT_WATCH };
    let mut rig = Rig::new(&["echo run >> runs; exec sleep 1000"], Some("[ -e well ]"), watch);
    rig.applications.start_all();
    let again = rig.until("started again (1)");
    assert!(again.contains("not healthy 1 s after its start"), "{again}");
    rig.write("well", "");
    rig.until("AppHealthy");
    assert_eq!(rig.lines("runs").len(), 2);
    rig.end();
}

#[test]
fn they_stop_in_reverse_order_and_the_first_keeps_its_lease_while_the_last_takes_its_time() {
    let stops = |name: &str, takes: &str| {
        format!("trap '{takes} echo {name} >> order; exit' TERM; echo up >> up; while :; do sleep 0.01; done")
    };
    let (first, last) = (stops("first", ""), stops("last", "sleep 2;"));
    let mut rig = Rig::new(&[&first, &last], None, DEFAULT_WATCH);
    rig.leased = true;
    rig.turn();
    rig.applications.start_all();
    rig.until("AppHealthy");
    while rig.lines("up").len() < 2 {
        rig.turn();
    }
    rig.applications.stop_all(Aim::Stopping);
    rig.until("AppStopped");
    assert_eq!(rig.lines("order"), ["last", "first"]);
}

#[test]
fn one_that_is_wanted_again_while_it_stops_is_started_when_it_is_gone_and_that_is_no_restart() {
    let line = "trap 'sleep 1; exit' TERM; echo run >> runs; while :; do sleep 0.01; done";
    let mut rig = Rig::new(&[line], None, DEFAULT_WATCH);
    rig.applications.start_all();
    rig.until("AppHealthy");
    while rig.lines("runs").is_empty() {
        rig.turn();
    }
    rig.applications.stop_all(Aim::Stopping);
    rig.turn();
    rig.applications.start_all();
    rig.until("AppHealthy");
    while rig.lines("runs").len() < 2 {
        rig.turn();
    }
    assert_eq!(rig.applications.shown.status()[0].restarts, 0, "{:?}", rig.seen);
    rig.end();
}

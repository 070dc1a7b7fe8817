//! Applications under real supervisor processes: this test binary, run again as one.

use super::*;
use crate::clock::boottime_us;
use crate::config::{Config, DEFAULT_WATCH};

const SUPERVISE: &str = "LOCKSTEP_TEST_SUPERVISE";
/// Longer than any test; a supervisor that a failing test leaves behind ends by itself.
const LONG_US: u64 = 60_000_000;

#[test]
fn acts_as_supervisor() {
    // Does nothing unless started by another test of this file.
    if std::env::var_os(SUPERVISE).is_some() {
        crate::effects::supervisor::main();
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    fn app(&self, run: AppRun, stop_timeout_s: u32) -> Application {
        let app = App { name: "web".to_owned(), run, health: None, watch: DEFAULT_WATCH, stop_timeout_s };
        let test = "effects::app::tests::acts_as_supervisor";
        let supervise = Supervise {
            program: std::env::current_exe().expect("the test binary"),
            arguments: ["--exact", test, "--nocapture"].map(Into::into).to_vec(),
            systemctl: self.dir.path().join("systemctl"),
        };
        Application::new(&"main".parse().expect("a name"), &app, supervise, self.dir.path(), self.dir.path())
    }

    /// A shell line, run in the temporary folder.
    fn shell(&self, line: &str, stop_timeout_s: u32) -> Application {
        let line = format!("cd {}; {line}", self.dir.path().display());
        self.app(AppRun::Command(vec!["/bin/sh".into(), "-c".into(), line]), stop_timeout_s)
    }

    /// Waits until the program has written `file` completely (with its last newline).
    fn read(&self, file: &str) -> String {
        let path = self.dir.path().join(file);
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => std::thread::yield_now(),
            }
        }
    }
}

fn environment() -> Environment {
    Environment(vec![(SUPERVISE.into(), "1".into()), ("LOCKSTEP_PAIR".into(), "main".into())])
}

fn later() -> u64 {
    boottime_us() + LONG_US
}

fn await_end(app: &mut Application) {
    while app.is_running().expect("asks") {
        std::thread::yield_now();
    }
}

/// Stops it politely.
fn end(app: &mut Application) {
    app.ask_to_stop().expect("takes the word");
    await_end(app);
}

fn lives(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[test]
fn a_program_finds_its_environment_and_its_output_is_kept() {
    let place = Place::new();
    let mut app = place.shell("echo pair $LOCKSTEP_PAIR; echo up > up; exec sleep 1000", 5);
    assert!(!app.is_running().expect("asks"));
    app.start(&environment(), later()).expect("starts");
    place.read("up");
    assert!(app.is_running().expect("asks"));
    app.start(&environment(), later()).expect("runs already");
    assert!(place.read("web.log").contains("pair main"));
    end(&mut app);
    assert!(!app.is_running().expect("asks"));
    app.ask_to_stop().expect("is stopped already");
}

#[test]
fn at_the_end_of_the_lease_the_program_and_what_it_has_detached_are_killed() {
    let place = Place::new();
    let detached = "setsid sh -c 'trap \"\" TERM HUP; echo $$ > detached; while :; do sleep 1000; done' & ";
    let mut app = place.shell(&format!("trap '' TERM; {detached} echo $$ > main; sleep 1000; sleep 1000"), 5);
    app.start(&environment(), later()).expect("starts");
    let (main, detached) = (place.read("main"), place.read("detached"));
    assert!(lives(&main) && lives(&detached));
    app.renew(boottime_us() + 50_000).expect("shortens the lease");
    await_end(&mut app);
    assert!(!lives(&main) && !lives(&detached), "no process is left");
    let error = app.renew(later()).expect_err("it is too late");
    assert!(matches!(error, AppError::NotRunning { .. }), "{error}");
    assert!(place.read("web.log").contains("the lease has ended"));
}

#[test]
fn a_restarted_agent_finds_the_program_alive() {
    let place = Place::new();
    let line = "echo $$ > main; exec sleep 1000";
    let mut first = place.shell(line, 5);
    first.start(&environment(), later()).expect("starts");
    let main = place.read("main");
    drop(first);
    let mut second = place.shell(line, 5);
    assert!(second.is_running().expect("asks"));
    second.start(&environment(), later()).expect("renews");
    assert!(second.supervisor.is_none(), "nothing was started");
    assert_eq!(place.read("main"), main, "the same process");
    end(&mut second);
    assert!(!lives(&main));
}

#[test]
fn a_program_is_asked_to_stop_before_it_is_killed() {
    let place = Place::new();
    let mut app =
        place.shell("trap 'echo bye > bye; exit' TERM; echo up > up; while :; do sleep 0.01; done", 30);
    app.start(&environment(), later()).expect("starts");
    place.read("up");
    end(&mut app);
    assert_eq!(place.read("bye"), "bye");
}

#[test]
fn a_program_that_does_not_stop_is_killed_when_its_time_is_over() {
    let place = Place::new();
    let mut app = place.shell("trap '' TERM; echo $$ > main; while :; do sleep 1000; done", 1);
    app.start(&environment(), later()).expect("starts");
    let main = place.read("main");
    end(&mut app);
    assert!(!lives(&main));
    assert!(place.read("web.log").contains("has not stopped in its time"));
}

#[test]
fn a_program_that_ends_by_itself_can_be_started_again() {
    let place = Place::new();
    let mut app = place.shell("exit 3", 5);
    for _ in 0..2 {
        app.start(&environment(), later()).expect("starts");
        await_end(&mut app);
    }
}

#[test]
fn a_killed_supervisor_takes_its_program_with_it() {
    let place = Place::new();
    let mut app = place.shell("echo $$ > main; exec sleep 1000", 5);
    app.start(&environment(), later()).expect("starts");
    let main = place.read("main");
    let mut supervisor = app.supervisor.take().expect("was just started");
    supervisor.kill().expect("kills");
    supervisor.wait().expect("waits");
    while lives(&main) {
        std::thread::yield_now();
    }
    assert!(!app.is_running().expect("asks"));
    app.start(&environment(), later()).expect("starts again over the old socket");
    end(&mut app);
}

#[test]
fn a_removed_socket_does_not_lead_to_a_second_program() {
    let place = Place::new();
    let mut app = place.shell("echo $$ > main; exec sleep 1000", 5);
    app.start(&environment(), boottime_us() + 500_000).expect("starts");
    let main = place.read("main");
    std::fs::remove_file(&app.socket).expect("removes");
    let error = app.start(&environment(), later()).expect_err("the first still runs");
    assert!(error.to_string().contains("another supervisor holds"), "{error}");
    while lives(&main) {
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let place = Place::new();
    let mut app = place.app(AppRun::Command(vec!["/nowhere/shop".into()]), 5);
    let error = app.start(&environment(), later()).expect_err("there is none");
    assert!(error.to_string().contains("cannot start \"/nowhere/shop\""), "{error}");
    assert!(!app.is_running().expect("asks"));
}

/// A systemctl that keeps the state of its only unit in a file.
fn install_systemctl(place: &Place) {
    use std::os::unix::fs::PermissionsExt;
    let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit 1\necho \"$@\" >> calls\n\
                  case $1 in start) echo active > state;; stop) echo inactive > state;; show) cat state;; esac\n";
    let path = place.dir.path().join("systemctl");
    std::fs::write(&path, script).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("sets the mode");
}

#[test]
fn a_unit_is_started_stopped_and_killed_at_the_end_of_its_lease() {
    let place = Place::new();
    install_systemctl(&place);
    let mut app = place.app(AppRun::Unit("shop.service".into()), 5);
    app.start(&environment(), later()).expect("starts");
    assert!(app.is_running().expect("asks"));
    end(&mut app);
    assert!(place.read("calls").contains("stop shop.service"));
    assert!(place.read("main-web.env").contains("LOCKSTEP_PAIR=main"));
    app.start(&environment(), later()).expect("starts");
    app.renew(0).expect("ends the lease");
    await_end(&mut app);
    assert!(place.read("calls").ends_with("kill --signal=KILL shop.service"));
}

#[test]
fn a_unit_that_ends_by_itself_is_noticed() {
    let place = Place::new();
    install_systemctl(&place);
    let mut app = place.app(AppRun::Unit("shop.service".into()), 5);
    app.start(&environment(), later()).expect("starts");
    std::fs::write(place.dir.path().join("state"), "failed\n").expect("writes");
    await_end(&mut app);
}

#[test]
fn the_file_for_a_unit_quotes_what_systemd_would_take_for_something_else() {
    let environment = Environment(vec![("LOCKSTEP_DATA_DIR".into(), "/srv/a \"b\" $c\\`".into())]);
    assert_eq!(environment.to_file_text(), "LOCKSTEP_DATA_DIR=\"/srv/a \\\"b\\\" \\$c\\\\\\`\"\n");
}

#[test]
fn the_environment_names_pair_epoch_addresses_databases_and_trees() {
    let example = include_str!("../config/example.toml");
    let config = Config::parse(example, Path::new("example.toml")).expect("the example is sound");
    let pair = &config.pairs[0];
    let environment = Environment::new(pair, Role::Primary, Epoch::default(), Path::new("/run/agent.sock"));
    let value = |name: &str| {
        let found = environment.0.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} is missing")).1.clone()
    };
    assert_eq!(value("LOCKSTEP_PAIR"), pair.id.to_string());
    assert_eq!(value("LOCKSTEP_ROLE"), "primary");
    assert_eq!(value("LOCKSTEP_SOCKET"), "/run/agent.sock");
    assert_eq!(value("LOCKSTEP_EPOCH"), Epoch::default().to_string());
    assert!(value("LOCKSTEP_VIP").starts_with(&pair.vips[0].address.to_string()));
    assert_eq!(value("LOCKSTEP_DATA_DIR"), "/srv/shop");
    let database = &pair.databases[0];
    let name = database.name.as_str().to_uppercase().replace('-', "_");
    assert_eq!(value(&format!("LOCKSTEP_DATABASE_{name}")), database.primary.display().to_string());
    assert_eq!(value("LOCKSTEP_TREE_UPLOADS"), pair.trees[0].primary.display().to_string());
}

//! The demonstration from beginning to end, as somebody who tries it runs it.
//!
//! Each run loses the power of a node under load, brings it back and fails back; what is asserted
//! is what its report says about safety, never a time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep::demo::Report;
use rustix::process::{Pid, Signal, kill_process_group};

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody, on every Linux.
const NOBODY: u32 = 65534;

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.arg("demo").args(arguments).env("LOCKSTEP_LAB_DIR", folder).stdin(Stdio::null());
    for name in ["LOCKSTEP_CONFIG", "LOCKSTEP_STATE_DIR", "LOCKSTEP_RUNTIME_DIR"] {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end and gives its report; panics with its story unless it passed and left nothing.
fn passes(arguments: &[&str], user: Option<u32>) -> Report {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.json");
    let mut command = demo(folder.path(), arguments);
    command.arg("--report").arg(&file);
    if let Some(user) = user {
        std::os::unix::fs::chown(folder.path(), Some(user), Some(user)).expect("root gives its folder away");
        std::os::unix::process::CommandExt::gid(&mut command, user);
        std::os::unix::process::CommandExt::uid(&mut command, user);
    }
    let output = command.output().expect("the lockstep binary starts");
    let story = format!(
        "lockstep demo {arguments:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{story}");
    assert!(story.contains("PASSED"), "{story}");
    let text = std::fs::read_to_string(&file).expect("a report");
    let report: Report = serde_json::from_str(&text).expect("a report with exactly the fixed names");
    assert_eq!((report.lost, report.dual_holder_ms, report.integrity.as_str()), (0, 0, "ok"), "{story}");
    assert!(report.acknowledged > 0 && report.vip_outage_ms > 0, "the address was away: {story}");
    assert!(!folder.path().join("demo").exists(), "the lab's folder stays: {story}");
    report
}

#[test]
fn no_acknowledged_order_is_lost_when_the_active_node_loses_power() {
    let report = passes(&["--seconds", "1", "--seed", "7"], None);
    assert_eq!(
        (report.seed, report.profile.as_str(), report.commit_mode.as_str()),
        (7, "default", "durable")
    );
}

#[test]
fn a_user_without_privileges_sees_the_same() {
    passes(&["--seconds", "1"], Some(NOBODY));
}

#[test]
fn a_pair_that_speaks_only_ipv6_loses_nothing_either() {
    passes(&["--seconds", "1", "--ipv6"], None);
}

/// Processes whose command line names the folder.
fn processes(folder: &Path) -> usize {
    let wanted = folder.display().to_string();
    let names_it = |entry: &std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&wanted))
    };
    std::fs::read_dir("/proc").expect("/proc").flatten().filter(names_it).count()
}

/// Starts it in a process group of its own, as a shell does, and waits for a word of its story.
fn until_it_says(folder: &Path, word: &str) -> Child {
    let mut command = demo(folder, &[]);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the lockstep binary starts");
    let out = child.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(out).lines();
    assert!(lines.any(|line| line.expect("it speaks").contains(word)), "it never said {word:?}");
    // What it goes on to say must not end it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

#[test]
fn ctrl_c_takes_the_lab_down_whatever_is_going_on() {
    for word in ["the first copy", "acknowledged", "POWER OFF"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = until_it_says(folder.path(), word);
        let deadline = Instant::now() + PATIENCE;
        while !folder.path().join("demo").exists() {
            assert!(Instant::now() < deadline, "there is no lab");
            std::thread::yield_now();
        }
        let group = Pid::from_child(&child);
        kill_process_group(group, Signal::INT).expect("the group is ours");
        let ended = child.wait().expect("it ends");
        assert_eq!(ended.code(), Some(130), "interrupted after {word:?}");
        assert!(!folder.path().join("demo").exists(), "the lab's folder stays after {word:?}");
        assert_eq!(processes(folder.path()), 0, "processes stay after {word:?}");
    }
}

#[test]
fn a_killed_demonstration_takes_its_lab_with_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = until_it_says(folder.path(), "orders a second");
    assert!(processes(folder.path()) > 3, "a supervisor and three machines");
    child.kill().expect("the demonstration is ours");
    child.wait().expect("it ends");
    let deadline = Instant::now() + PATIENCE;
    while processes(folder.path()) > 0 || folder.path().join("demo").exists() {
        assert!(Instant::now() < deadline, "something stays behind in {}", folder.path().display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn runs(otherwise: u32) -> u32 {
    std::env::var("LOCKSTEP_RUNS").map_or(otherwise, |runs| runs.parse().expect("LOCKSTEP_RUNS is a number"))
}

fn repeatedly(arguments: &[&str], times: u32) {
    for run in 0..times {
        let report = passes(arguments, None);
        println!("{run}: {}", serde_json::to_string(&report).expect("a report"));
    }
}

#[test]
#[ignore = "ten minutes: each profile twenty times (LOCKSTEP_RUNS)"]
fn long_demo_twenty_times() {
    for profile in ["metal", "default"] {
        repeatedly(&["--profile", profile], runs(20));
    }
}

#[test]
#[ignore = "minutes: the slow profiles (LOCKSTEP_RUNS)"]
fn long_demo_with_the_slow_profiles() {
    for profile in ["vm", "mse"] {
        repeatedly(&["--profile", profile], runs(2));
    }
}

#[test]
#[ignore = "minutes: twenty times (LOCKSTEP_RUNS); needs root and mkfs.xfs (package xfsprogs)"]
fn long_demo_on_disks_that_forget_what_was_not_synced() {
    repeatedly(&["--disk", "loop"], runs(20));
}

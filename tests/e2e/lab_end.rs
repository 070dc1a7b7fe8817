//! A lab's end: whatever ends it, nothing stays behind. And labs of users without privileges.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::Lab;

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody, on every Linux.
const NOBODY: u32 = 65534;

/// Processes whose command line names the lab's folder, with it.
fn processes(lab: &Lab) -> Vec<(u32, String)> {
    let home = lab.home().display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&home) {
            found.push((pid, line));
        }
    }
    found
}

/// A process, told from a later one of the same number by when it began (clock ticks since boot).
type Process = (u32, u64);

/// When a process began; none if it is gone.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The lab's network namespaces (a supervisor and three machines) and every process in one of them, whatever its name.
/// Processes are counted and not namespaces: the kernel gives a freed namespace's number to the next one, for
/// example of a lab beside this.
fn inhabitants(lab: &Lab) -> Vec<Process> {
    let network = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let mut networks: Vec<_> = processes(lab).iter().filter_map(|(pid, _)| network(*pid)).collect();
    networks.sort();
    networks.dedup();
    assert!(networks.len() >= 4, "a supervisor and three machines: {networks:?}");
    let own = network(std::process::id());
    networks.retain(|network| Some(network) != own.as_ref());
    let everybody = std::fs::read_dir("/proc").expect("/proc").flatten();
    everybody
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| network(*pid).is_some_and(|network| networks.contains(&network)))
        .filter_map(|pid| Some((pid, began(pid)?)))
        .collect()
}

/// Panics unless every trace is gone soon.
fn assert_gone(lab: &Lab, inhabitants: &[Process]) {
    let deadline = Instant::now() + PATIENCE;
    let lives = |(pid, start): &&Process| began(*pid) == Some(*start);
    while !processes(lab).is_empty() || inhabitants.iter().any(|process| lives(&process)) {
        let left: Vec<_> = inhabitants.iter().filter(lives).collect();
        assert!(Instant::now() < deadline, "processes stay behind: {:?} {left:?}", processes(lab));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let home = lab.home().display().to_string();
    assert!(!mounts.contains(&home), "a mount stays behind: {mounts}");
    assert!(!mounts.contains("nsfs"), "a namespace is mounted: {mounts}");
}

#[test]
fn down_leaves_nothing_behind() {
    let lab = Lab::up_without_agents();
    let inhabitants = inhabitants(&lab);
    lab.ok(&["down"]);
    assert_gone(&lab, &inhabitants);
    assert!(!lab.home().exists());
}

#[test]
fn a_killed_supervisor_takes_everything_with_it_and_the_next_lab_starts() {
    let lab = Lab::up_without_agents();
    let mut command = lab.exec("a", &["sh", "-c", "echo ready; sleep 60"]);
    let mut command = command.stdout(Stdio::piped()).spawn().expect("exec starts");
    let mut line = String::new();
    let out = command.stdout.take().expect("stdout is piped");
    BufReader::new(out).read_line(&mut line).expect("it speaks");
    assert_eq!(line, "ready\n");
    let running = processes(&lab);
    let inhabitants = inhabitants(&lab);
    let (supervisor, _) =
        running.iter().find(|(_, line)| line.contains("lab-supervisor")).expect("a supervisor");
    let pid = rustix::process::Pid::from_raw(supervisor.cast_signed()).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the supervisor is ours");
    assert!(!command.wait().expect("the command ends").success());
    assert_gone(&lab, &inhabitants);
    lab.ok(&["up", "--no-agent"]);
    lab.ok(&["status"]);
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_one_of_another_name_is_not() {
    let lab = Lab::up_without_agents();
    let again = lab.run(&["up", "--no-agent"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("already runs"));
    lab.ok(&["--name", "other", "up", "--no-agent"]);
    lab.ok(&["--name", "other", "status"]);
    lab.ok(&["--name", "other", "down"]);
    lab.ok(&["status"]);
}

#[test]
fn a_lab_that_cannot_start_says_why_and_leaves_nothing() {
    let lab = Lab::new();
    let nowhere = lab.run(&["up", "--no-agent", "--config", "/nowhere"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nowhere/a.toml"));
    let no_tools =
        lab.command(&["up", "--no-agent", "--disk", "loop"]).env("PATH", "").output().expect("it starts");
    assert_eq!(no_tools.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no_tools.stderr).contains("xfsprogs"));
    assert!(!lab.home().exists());
    assert!(processes(&lab).is_empty());
}

#[test]
fn a_lab_uses_the_configuration_it_is_given_and_pins_its_own_identities() {
    let made = Lab::up_without_agents();
    let dir = tempfile::tempdir().expect("a temporary folder");
    for file in ["a.toml", "b.toml"] {
        let text = std::fs::read_to_string(made.home().join(file)).expect("a generated configuration");
        let text = text.replace("10.77.0.10/24", "10.77.0.77/24").replace("\"main\"", "\"orders\"");
        std::fs::write(dir.path().join(file), text).expect("a copy");
    }
    drop(made);
    let lab = Lab::new().up(&["--no-agent", "--config", dir.path().to_str().expect("a plain path")]);
    let status = lab.status();
    assert_eq!(status["vip"], serde_json::json!(["10.77.0.77"]));
    assert_eq!(status["url"], "http://10.77.0.77:8080/");
    assert!(status["nodes"]["b"]["databases"]["orders"].is_string());
    let printed = lab.exec("b", &["lockstep", "identity"]).output().expect("exec starts").stdout;
    let fingerprint = String::from_utf8(printed).expect("a fingerprint");
    let config = std::fs::read_to_string(lab.home().join("a.toml")).expect("a's configuration");
    assert!(config.contains(fingerprint.trim()), "a pins b's certificate: {fingerprint} {config}");
}

#[test]
fn a_user_without_privileges_has_labs_too() {
    let lab = Lab::of_user(NOBODY).up(&["--no-agent"]);
    let output = lab.exec("a", &["cat", "/sys/class/net/eth1/carrier"]).output().expect("exec starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    lab.ok(&["cut", "direct", "b", "--one-way", "out"]);
    lab.ok(&["power-off", "a"]);
    lab.ok(&["power-on", "a"]);
    lab.ok(&["freeze", "b"]);
    lab.ok(&["thaw", "b"]);
    lab.ok(&["sniff-start"]);
    lab.ok(&["sniff-stop"]);
    let inhabitants = inhabitants(&lab);
    lab.ok(&["down"]);
    assert_gone(&lab, &inhabitants);
    let refused = lab.run(&["up", "--no-agent", "--disk", "loop"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs root"));
}

#[test]
#[ignore = "needs root and mkfs.xfs (package xfsprogs)"]
fn long_a_power_loss_of_a_loop_disk_forgets_what_was_not_synced_and_only_that() {
    let lab = Lab::new().up(&["--no-agent", "--disk", "loop"]);
    let data = lab.home().join("a/disk/data");
    let shell = |script: &str| {
        let output = lab.exec("a", &["sh", "-c", script]).current_dir("/").output().expect("exec starts");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let dir = data.display();
    for round in 0..3 {
        shell(&format!(
            "cd {dir} && echo kept > kept{round} && sync kept{round} && sync . && echo lost > lost{round}"
        ));
        lab.ok(&["power-off", "a"]);
        lab.ok(&["power-on", "a"]);
    }
    assert_eq!(shell(&format!("ls {dir}")), "kept0\nkept1\nkept2\n");
    assert_eq!(shell(&format!("cat {dir}/kept2")), "kept\n");
}

//! `lockstep lab up` and `lockstep lab down`: a lab's beginning and end.
//!
//! `up` makes the folder, the identities and the configurations, starts the supervisor, then asks
//! both agents for their status until both say that they are in sync. A failed `up` shows the
//! agents' last words and leaves nothing.

use std::fs::DirBuilder;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use serde_json::Value;

use super::control::{self, Request};
use super::generate::{self, Wishes};
use super::layout::{Home, Node};
use super::{disk, exec};

/// Two fresh nodes are in sync within a few seconds; a slow disk gets more, and a copy that goes on
/// as long as it takes.
const IN_SYNC_DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(100);
/// The supervisor's end closes everything at once; only a dying disk takes longer.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// Lines of each agent's log shown when `up` fails.
const LOG_LINES: usize = 20;

/// Both nodes are up but not in sync in time.
#[derive(Debug, thiserror::Error)]
#[error("the nodes were not in sync within {seconds} s: a: {a}; b: {b}", seconds = IN_SYNC_DEADLINE.as_secs())]
pub(super) struct NotInSync {
    a: String,
    b: String,
}

/// Starts a lab.
pub(super) fn up(home: &Home, wishes: &Wishes<'_>) -> Result<()> {
    if control::connect(home).is_ok() {
        bail!(
            "a lab already runs at {}: end it with `lockstep lab down`, or use --name",
            home.root().display()
        );
    }
    remove(home)?;
    let started = prepare(home, wishes)
        .and_then(|()| start(home, wishes.end_with_caller))
        .and_then(|()| if wishes.agents { wait_in_sync(home) } else { Ok(()) });
    if let Err(e) = started {
        show_logs(home);
        if let Err(also) = down(home) {
            eprintln!("while cleaning up: {also:#}");
        }
        return Err(e);
    }
    Ok(())
}

/// Ends a lab and removes its folder, also one whose supervisor was killed.
pub(super) fn down(home: &Home) -> Result<()> {
    if let Ok(mut stream) = control::connect(home) {
        // The supervisor's own number, translated by the kernel into this PID namespace.
        let peer = rustix::net::sockopt::socket_peercred(&stream).context("the supervisor's number")?;
        let supervisor =
            pidfd_open(peer.pid, PidfdFlags::empty()).context("the supervisor's process descriptor")?;
        control::ask_on(&mut stream, &Request::Down)?;
        let mut fds = [PollFd::new(&supervisor, PollFlags::IN)];
        let timeout = Timespec { tv_sec: END_DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut fds, Some(&timeout)).context("waiting for the supervisor's end")?;
        if fds[0].revents().is_empty() {
            bail!("the supervisor did not end within {} s", END_DEADLINE.as_secs());
        }
    }
    remove(home)
}

/// Removes the folder of a lab that has ended.
pub(super) fn remove(home: &Home) -> Result<()> {
    match std::fs::remove_dir_all(home.root()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("removing {}", home.root().display()));
        }
        _ => {}
    }
    // The folder around it too, if it is the lab's own and the last lab is gone.
    if std::env::var_os("LOCKSTEP_LAB_DIR").is_none()
        && let Some(base) = home.root().parent()
    {
        let _ = std::fs::remove_dir(base);
    }
    Ok(())
}

fn prepare(home: &Home, wishes: &Wishes<'_>) -> Result<()> {
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    let make = |path: &Path| private.create(path).with_context(|| path.display().to_string());
    make(home.root())?;
    // A folder in a place for all could be somebody else's.
    let owner = std::fs::metadata(home.root()).context("the lab's folder")?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        bail!(
            "{} belongs to user {owner}: set LOCKSTEP_LAB_DIR to a folder of your own",
            home.root().display()
        );
    }
    make(&home.bin())?;
    symlink(std::env::current_exe().context("own program")?, home.bin().join("lockstep"))
        .context("bin/lockstep")?;
    for node in Node::ALL {
        make(&home.seed(node))?;
        make(&home.run(node))?;
        make(&home.disk(node))?;
        disk::make(home, node, wishes.disk)?;
    }
    generate::write(home, wishes)?.save(home)
}

fn start(home: &Home, end_with_caller: bool) -> Result<()> {
    let path = home.supervisor_log();
    let log = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    let mut launcher = Command::new("/proc/self/exe");
    launcher.arg("lab-supervisor").arg(home.root());
    if end_with_caller {
        let caller = rustix::process::getppid().context("the program that started this one has ended")?;
        launcher.arg(format!("--end-with={}", caller.as_raw_nonzero()));
    }
    let mut launcher = launcher
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting the supervisor")?;
    let mut line = String::new();
    let out = launcher.stdout.take().expect("stdout is piped");
    BufReader::new(out).read_line(&mut line).context("waiting for the supervisor")?;
    launcher.wait().context("waiting for the supervisor's launcher")?;
    if line != "ready\n" {
        let reason = std::fs::read_to_string(&path).unwrap_or_default();
        bail!("the lab could not start: {}", reason.trim());
    }
    Ok(())
}

fn wait_in_sync(home: &Home) -> Result<()> {
    let mut deadline = Instant::now() + IN_SYNC_DEADLINE;
    let (mut shown, mut copied) = (String::new(), 0);
    loop {
        let looks = Node::ALL.map(|node| look(home, node));
        let [a, b] = looks.each_ref().map(|look| look.sentence.clone());
        let line = format!("a: {a}; b: {b}");
        if line != shown {
            eprintln!("{line}");
            shown = line;
        }
        if looks.iter().all(|look| look.in_sync) {
            return Ok(());
        }
        // A large database takes its time, as long as it goes on.
        let done: u64 = looks.iter().map(|look| look.copied_bytes).sum();
        if done > copied {
            copied = done;
            deadline = Instant::now() + IN_SYNC_DEADLINE;
        }
        if Instant::now() > deadline {
            return Err(NotInSync { a, b }.into());
        }
        std::thread::sleep(LOOK);
    }
}

struct Look {
    in_sync: bool,
    copied_bytes: u64,
    sentence: String,
}

/// What a node says about itself; its agent's socket can be reached without entering its machine.
fn look(home: &Home, node: Node) -> Look {
    let mut command = Command::new("/proc/self/exe");
    command.args(["status", "--json"]).stdin(Stdio::null());
    exec::environment(&mut command, home, node.into());
    let status =
        command.output().ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    status.map_or_else(
        || Look { in_sync: false, copied_bytes: 0, sentence: "the agent does not answer".into() },
        |status| judge(node, &status),
    )
}

/// After `up` the primary serves, the secondary stands by, and both are in sync.
fn judge(node: Node, status: &Value) -> Look {
    let wanted = if node == Node::A { "active" } else { "standby" };
    let none = Vec::new();
    let pairs = status["pairs"].as_array().unwrap_or(&none);
    let in_sync =
        !pairs.is_empty() && pairs.iter().all(|pair| pair["in_sync"] == true && pair["state"] == wanted);
    let mut words: Vec<String> = Vec::new();
    let mut copied_bytes = 0;
    for pair in pairs {
        words.push(pair["state"].as_str().unwrap_or("unknown").to_owned());
        words.extend(pair["link"]["fault"].as_str().map(str::to_owned));
        words.extend(pair["question"].as_str().map(str::to_owned));
        for database in pair["databases"].as_array().unwrap_or(&none) {
            let copy = &database["copy"];
            if let (Some(done), Some(total)) = (copy["done_bytes"].as_u64(), copy["total_bytes"].as_u64()) {
                copied_bytes += done;
                words.push(format!("{done} of {total} bytes copied"));
            }
            words.extend(database["fault"].as_str().map(str::to_owned));
        }
    }
    if in_sync {
        words.push("in sync".into());
    }
    Look { in_sync, copied_bytes, sentence: words.join(", ") }
}

fn show_logs(home: &Home) {
    for node in Node::ALL {
        let Ok(log) = std::fs::read_to_string(home.agent_log(node)) else { continue };
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- the agent of {}, last lines:", node.name());
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            eprintln!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_an_active_primary_and_a_secondary_standing_by_in_sync_are_up() {
        let status = |state: &str, in_sync: bool| json!({"pairs": [{"state": state, "in_sync": in_sync}]});
        assert!(judge(Node::A, &status("active", true)).in_sync);
        assert!(judge(Node::B, &status("standby", true)).in_sync);
        assert!(!judge(Node::A, &status("active", false)).in_sync);
        assert!(!judge(Node::A, &status("standby", true)).in_sync);
        assert!(!judge(Node::B, &status("copying", true)).in_sync);
        assert!(!judge(Node::A, &json!({"pairs": []})).in_sync);
        assert!(!judge(Node::A, &json!("not a status")).in_sync);
    }

    #[test]
    fn a_copy_under_way_and_every_fault_are_said() {
        let database = json!({"copy": {"done_bytes": 10, "total_bytes": 40}, "fault": "not in WAL mode"});
        let pair = json!({"state": "copying", "databases": [database], "link": {"fault": "no route"}});
        let look = judge(Node::B, &json!({"pairs": [pair]}));
        assert_eq!(look.copied_bytes, 10);
        assert_eq!(look.sentence, "copying, no route, 10 of 40 bytes copied, not in WAL mode");
    }
}

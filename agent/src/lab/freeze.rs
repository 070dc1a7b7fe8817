//! A hung machine: every process stands still while its kernel goes on answering ARP and TCP.
//!
//! By SIGSTOP to each process of the machine's PID namespace. A cgroup freezer would stop them in
//! one step, but its folder would stay behind when the supervisor is killed. Processes that are
//! born meanwhile are caught by going over all again until nothing new turns up. PID namespaces
//! made inside the machine are not followed.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

/// A stop takes effect when its process is scheduled or its disk has answered, which on a loaded
/// machine may be a while; one that makes new processes for longer than this is a fork bomb.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two rounds, so that those who are to stop get the processor.
const PAUSE: Duration = Duration::from_millis(1);

/// Stops every process of the machine whose first process this is.
pub(super) fn freeze(machine: Pid) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let moving: Vec<Pid> = processes(machine)?.into_iter().filter(|pid| !stands_still(*pid)).collect();
        if moving.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "after {} s of SIGSTOP these processes of the machine do not stand still: {moving:?}",
                LIMIT.as_secs()
            );
        }
        signal(&moving, Signal::STOP)?;
        std::thread::sleep(PAUSE);
    }
}

/// Lets them go on.
pub(super) fn thaw(machine: Pid) -> Result<()> {
    signal(&processes(machine)?, Signal::CONT)
}

fn signal(processes: &[Pid], signal: Signal) -> Result<()> {
    for pid in processes {
        match kill_process(*pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e).with_context(|| format!("{signal:?} to process {pid:?}")),
        }
    }
    Ok(())
}

/// All processes in the PID namespace of `machine`.
fn processes(machine: Pid) -> Result<Vec<Pid>> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = namespace(machine.as_raw_nonzero().get()).context("the machine's PID namespace")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("/proc")? {
        let name = entry.context("/proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if namespace(pid).is_ok_and(|found| found == wanted) {
            found.extend(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Stopped, or dead: a process that ended meanwhile does not move either.
fn stands_still(pid: Pid) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let Ok(stat) = std::fs::read_to_string(path) else { return true };
    // The name before the state is in parentheses and may itself hold some.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't' | 'Z' | 'X') | None)
}

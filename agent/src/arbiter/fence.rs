//! Powers the other node off by one of the distribution's fence agents, and makes sure that it is.
//!
//! The agents' protocol: `key=value` lines on standard input, then an exit code
//! (<https://github.com/ClusterLabs/fence-agents/blob/main/doc/FenceAgentAPI.md>). `off` counts only once
//! `status` says so: exit code 2. Options may hold a password, so they are never shown.

use crate::config::Fence as Settings;
use crate::probes::health::ends_within;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// `status`: the node is off.
const OFF: i32 = 2;
/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(500);
/// Longest part of what an agent says that is shown.
const SAID_MAX: usize = 300;

/// Why the peer is not confirmed off, in one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The agent could not be run.
    #[error("fence agent {agent} cannot be run: {problem}; is the package fence-agents installed?")]
    Start {
        /// Which.
        agent: String,
        /// Why.
        problem: std::io::Error,
    },
    /// It did not do what it was asked.
    #[error("fence agent {agent} could not do \"{action}\": {said}")]
    Failed {
        /// Which.
        agent: String,
        /// What was asked.
        action: &'static str,
        /// What it said, or how it ended.
        said: String,
    },
    /// `off` succeeded and `status` does not say so.
    #[error("fence agent {agent} did not confirm within {seconds} s that the peer is off: status {status}")]
    NotOff {
        /// Which.
        agent: String,
        /// The time allowed.
        seconds: u64,
        /// What it answered last.
        status: String,
    },
}

/// Powers the peer off and waits until its status says so, at most the configured time.
///
/// # Errors
/// It is not confirmed; it may be off all the same.
pub fn power_off(settings: &Settings) -> Result<(), FenceError> {
    let end = Instant::now() + settings.timeout;
    let (status, said) = run(settings, "off", end)?;
    if !status.success() {
        return Err(failed(settings, "off", &status, &said));
    }
    loop {
        let (status, said) = run(settings, "status", end)?;
        if status.code() == Some(OFF) {
            return Ok(());
        }
        if Instant::now() + LOOK >= end {
            let status = if status.success() { "on".to_owned() } else { format!("{status}, {said}") };
            let seconds = settings.timeout.as_secs();
            return Err(FenceError::NotOff { agent: settings.agent.clone(), seconds, status });
        }
        std::thread::sleep(LOOK);
    }
}

fn run(settings: &Settings, action: &'static str, end: Instant) -> Result<(ExitStatus, String), FenceError> {
    let start = |problem| FenceError::Start { agent: settings.agent.clone(), problem };
    let mut command = Command::new(&settings.agent);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(start)?;
    let mut input = format!("action={action}\n");
    for (key, value) in &settings.options {
        input.push_str(&format!("{key}={value}\n"));
    }
    if let Some(mut stdin) = child.stdin.take() {
        // An agent that reads nothing says so by its exit code.
        let _ = stdin.write_all(input.as_bytes());
    }
    let said = hear(&mut child);
    let ended = ends_within(&child, end.saturating_duration_since(Instant::now()));
    // Also what it left behind: it could keep its standard error open for ever.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let status = child.wait().map_err(start)?;
    if !matches!(ended, Ok(true)) {
        let said = format!("took longer than {} s", settings.timeout.as_secs());
        return Err(FenceError::Failed { agent: settings.agent.clone(), action, said });
    }
    Ok((status, said.and_then(|thread| thread.join().ok()).unwrap_or_default()))
}

/// Reads what the agent complains of, beside it: a full pipe must not hold it up.
fn hear(child: &mut Child) -> Option<std::thread::JoinHandle<String>> {
    let mut stderr = child.stderr.take()?;
    let read = move || {
        let mut said = Vec::new();
        let _ = stderr.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_MAX).collect()
    };
    std::thread::Builder::new().name("fence-said".into()).spawn(read).ok()
}

fn failed(settings: &Settings, action: &'static str, status: &ExitStatus, said: &str) -> FenceError {
    let said = if said.is_empty() { status.to_string() } else { format!("{said} ({status})") };
    FenceError::Failed { agent: settings.agent.clone(), action, said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A fence agent that keeps the state of its node in a file.
    fn agent(dir: &Path, on_off: &str) -> Settings {
        let path = dir.join("fence_test");
        let script = format!(
            "#!/bin/sh\ncd {}\ncat > asked\naction=$(sed -n s/^action=//p asked)\ncat asked >> log\ncase $action in\n off) {on_off};;\n status) test -e off && exit 2; exit 0;;\nesac\n",
            dir.display()
        );
        std::fs::write(&path, script).expect("a script");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it can be run");
        Settings {
            agent: path.display().to_string(),
            options: [
                ("ip".to_owned(), "192.0.2.7".to_owned()),
                ("password".to_owned(), "secret".to_owned()),
            ]
            .into(),
            timeout: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_node_whose_status_says_off_is_off() {
        let dir = tempfile::tempdir().expect("a folder");
        power_off(&agent(dir.path(), "touch off")).expect("confirmed");
        let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
        assert_eq!(
            log,
            "action=off\nip=192.0.2.7\npassword=secret\naction=status\nip=192.0.2.7\npassword=secret\n"
        );
    }

    #[test]
    fn an_off_that_status_does_not_confirm_does_not_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = power_off(&agent(dir.path(), "true")).expect_err("status says on");
        assert!(matches!(&error, FenceError::NotOff { status, .. } if status == "on"), "{error}");
    }

    #[test]
    fn what_an_agent_complains_of_is_shown_and_its_options_are_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let error =
            power_off(&agent(dir.path(), "echo Unable to connect >&2; exit 1")).expect_err("it fails");
        let sentence = error.to_string();
        assert!(sentence.contains("Unable to connect") && !sentence.contains("secret"), "{sentence}");
    }

    #[test]
    fn an_agent_that_hangs_is_killed_with_its_children_and_one_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = power_off(&agent(dir.path(), "sleep 60 & sleep 60")).expect_err("it hangs");
        assert!(error.to_string().contains("longer than 2 s"), "{error}");
        let gone = Settings { agent: "/nowhere/fence_none".into(), ..agent(dir.path(), "true") };
        let error = power_off(&gone).expect_err("no agent");
        assert!(error.to_string().contains("/nowhere/fence_none"), "{error}");
    }
}

//! The running program beneath a supervisor: a command with all its descendants, or a unit.
//!
//! Start, ask to stop, kill, notice the end. When to do which is the supervisor's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, wait,
};

use super::supervisor::{Order, Run};

/// The log is renamed to `.1` at this size: two files, 8 MiB at most, whatever a program prints.
const LOG_MAX_BYTES: u64 = 4 << 20;

/// A program that has been started.
pub(super) struct Program {
    kind: Kind,
    log: PathBuf,
}

enum Kind {
    Command {
        main: Pid,
        pidfd: OwnedFd,
        ended: bool,
    },
    Unit {
        name: String,
        systemctl: PathBuf,
        /// The systemctl that was started last and has not been waited for.
        asking: Option<Child>,
        stopping: bool,
    },
}

impl Program {
    pub(super) fn start(order: &Order) -> io::Result<Self> {
        let kind = match &order.run {
            Run::Command(command) => start_command(command, &order.log)?,
            Run::Unit(name) => start_unit(name, &order.systemctl)?,
        };
        Ok(Self { kind, log: order.log.clone() })
    }

    /// Becomes readable when a command's main process ends.
    pub(super) fn end_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Command { pidfd, .. } => Some(pidfd.as_fd()),
            Kind::Unit { .. } => None,
        }
    }

    /// Whether it has ended by itself. Never waits: a systemctl that hangs must not delay a kill.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.kind {
            Kind::Command { main, ended, .. } => {
                while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
                    *ended |= pid == *main;
                }
                *ended
            }
            Kind::Unit { name, systemctl, asking, stopping } => {
                let Some(child) = asking else {
                    let mut ask =
                        unit_command(systemctl, &["show", "--property=ActiveState", "--value", name]);
                    *asking = ask.stdout(Stdio::piped()).spawn().ok();
                    return false;
                };
                if !matches!(child.try_wait(), Ok(Some(_))) {
                    return false;
                }
                let mut state = String::new();
                if let Some(mut output) = child.stdout.take() {
                    // What cannot be read says nothing; it is asked again.
                    let _ = output.read_to_string(&mut state);
                }
                *asking = None;
                // "systemctl stop" returns when the unit has stopped.
                *stopping || matches!(state.trim(), "inactive" | "failed")
            }
        }
    }

    /// SIGTERM to the command's process group, or `systemctl stop`.
    pub(super) fn ask_to_stop(&mut self) {
        match &mut self.kind {
            Kind::Command { main, .. } => {
                // It may have ended already.
                let _ = kill_process_group(*main, Signal::TERM);
            }
            Kind::Unit { name, systemctl, asking, stopping } => {
                *stopping = true;
                *asking = unit_command(systemctl, &["stop", name]).spawn().ok();
            }
        }
    }

    /// Kills it with all its descendants, and returns when they are gone.
    pub(super) fn kill(&mut self) {
        match &mut self.kind {
            Kind::Command { main, .. } => {
                let _ = kill_process_group(*main, Signal::KILL);
                kill_descendants();
            }
            Kind::Unit { name, systemctl, .. } => {
                // Stop first, or Restart= would bring it back.
                let _ = unit_command(systemctl, &["stop", "--no-block", name]).status();
                let _ = unit_command(systemctl, &["kill", "--signal=KILL", name]).status();
            }
        }
    }

    /// Writes a line of the supervisor's own into the program's log.
    pub(super) fn note(&self, line: &str) {
        // A full disk must not end the supervision.
        if let Ok(mut log) = open_log(&self.log) {
            let _ = writeln!(log, "lockstep: {line}");
        }
    }
}

fn start_command(command: &[String], log: &Path) -> io::Result<Kind> {
    let [program, arguments @ ..] = command else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty command"));
    };
    open_log(log)?;
    let (reader, writer) = io::pipe()?;
    let mut start = Command::new(program);
    start.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    // A supervisor that is killed itself takes at least the main process with it.
    let die_with_us = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: one system call, nothing shared with other threads.
    unsafe { start.pre_exec(die_with_us) };
    let child =
        start.spawn().map_err(|e| io::Error::new(e.kind(), format!("cannot start \"{program}\": {e}")))?;
    // The command holds the writing end; the log must end with the program.
    drop(start);
    let log = log.to_owned();
    std::thread::spawn(move || copy_bounded(reader, &log));
    let main = Pid::from_child(&child);
    Ok(Kind::Command { main, pidfd: pidfd_open(main, PidfdFlags::empty())?, ended: false })
}

fn start_unit(name: &str, systemctl: &Path) -> io::Result<Kind> {
    let output = unit_command(systemctl, &["start", name]).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("cannot start unit \"{name}\": {reason}")));
    }
    Ok(Kind::Unit { name: name.to_owned(), systemctl: systemctl.to_owned(), asking: None, stopping: false })
}

fn unit_command(systemctl: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(systemctl);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Kills until no child is left: one that forks while being looked for is found by the next look.
fn kill_descendants() {
    loop {
        for pid in descendants(rustix::process::getpid()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// All processes whose ancestor is `root`, from /proc.
fn descendants(root: Pid) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(i32, i32)> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything; state and parent follow it.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display())))
}

/// Copies a program's output into its log; a disk that is full loses output, not the program.
fn copy_bounded(mut output: io::PipeReader, path: &Path) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = output.read(&mut buffer) {
        if std::fs::metadata(path).is_ok_and(|log| log.len() > LOG_MAX_BYTES) {
            let mut rotated = path.as_os_str().to_owned();
            rotated.push(".1");
            let _ = std::fs::rename(path, rotated);
        }
        if let Ok(mut log) = open_log(path) {
            let _ = log.write_all(&buffer[..length]);
        }
    }
}

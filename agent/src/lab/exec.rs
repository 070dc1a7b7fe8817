//! `lockstep lab exec`: a command on one of the lab's machines.
//!
//! The calling process enters the machine's namespaces itself, so terminal, files, working
//! directory and environment are the caller's; the command is a child in the machine's PID
//! namespace and dies with the machine's power. Only a single-threaded process can enter.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::control::{self, Reply, Request};
use super::layout::{Home, Host};

/// Runs `arguments` on `host` and gives its exit code on; 128 and the signal's number when a
/// signal ended it, as a shell does.
pub(super) fn run(home: &Home, host: Host, arguments: &[OsString]) -> Result<u8> {
    let Some((program, rest)) = arguments.split_first() else { bail!("expected a command after `--`") };
    let mut command = Command::new(program);
    command.args(rest);
    environment(&mut command, home, host);
    let here = std::env::current_dir().context("working directory")?;
    command.current_dir(&here);
    enter(home, host)?;
    // SAFETY: the closure makes one system call and touches no memory of the parent.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
    let status = match command.status() {
        Ok(status) => status,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "{} (or the working directory {}): not found on machine {}",
                program.display(),
                here.display(),
                host.name()
            )
        }
        Err(e) => return Err(e).with_context(|| program.display().to_string()),
    };
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Moves the calling process into a machine's namespaces; its children are processes there.
pub(super) fn enter(home: &Home, host: Host) -> Result<()> {
    let (reply, descriptor) = control::ask(home, &Request::Enter { host })?;
    let (Reply::Entered { user_namespace }, Some(descriptor)) = (reply, descriptor) else {
        bail!("the lab's supervisor sent no process descriptor");
    };
    let mut kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID;
    if user_namespace {
        kinds |= ThreadNameSpaceType::USER;
    }
    move_into_thread_name_spaces(descriptor.as_fd(), kinds)
        .with_context(|| format!("entering machine {}", host.name()))
}

/// What a command on a machine finds: `lockstep` on PATH, and that node's configuration and folders.
pub(super) fn environment(command: &mut Command, home: &Home, host: Host) {
    let mut path = home.bin().into_os_string();
    if let Some(old) = std::env::var_os("PATH") {
        path.push(":");
        path.push(old);
    }
    command.env("PATH", path);
    // Inside a user namespace the user's number, and with it the default folder, is another.
    if let Some(base) = home.root().parent() {
        command.env("LOCKSTEP_LAB_DIR", base);
    }
    if let Some(node) = host.node() {
        command.env("LOCKSTEP_CONFIG", home.config(node));
        command.env("LOCKSTEP_STATE_DIR", home.state(node));
        command.env("LOCKSTEP_RUNTIME_DIR", home.run(node));
    }
}

//! The command line: verbs, help, exit codes.
//!
//! One file per group of verbs. Verbs ask the running agent over its socket (`control`) or work
//! on this machine's files; none decides anything that is the agent's to decide.

mod adopt;
mod agent;
mod config;
mod drill;
mod exit;
mod identity;
mod manual;
mod mode;
mod operate;
#[cfg(test)]
mod pages;
mod program;
mod quarantine;
mod shim;
mod show;
#[cfg(test)]
mod tests;
mod verify;
mod why;

pub use exit::Exit;

use crate::{config::Paths, demo, lab};
use clap::{Parser, Subcommand};
use std::{ffi::OsString, io::IsTerminal, process::ExitCode};

/// High availability for a SQLite application on two boxes and a cable.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Try it on this machine: `lockstep demo`.\n\
    Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 done but not in sync, 5 timed out.")]
pub struct Cli {
    #[command(flatten)]
    paths: Paths,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run this node: the daemon that mirrors, watches and takes over.
    Agent(agent::AgentArgs),
    /// Show what this node is, how far the standby is, and the last events.
    Status(show::StatusArgs),
    /// Show what happened and why.
    Events(show::EventsArgs),
    /// Show what is known, what would happen if the peer fell silent now, and the last decisions.
    Why(why::WhyArgs),
    /// Explain or check the configuration.
    Config(config::ConfigArgs),
    /// Make this node's certificate, once, and print its fingerprint for the peer's configuration.
    Identity(identity::IdentityArgs),
    /// Move the service to the other node, planned and without loss.
    Switchover(operate::SwitchoverArgs),
    /// Take the service over although the other node does not hand it over.
    Failover(operate::FailoverArgs),
    /// Give the service back to the primary.
    Failback(operate::FailbackArgs),
    /// Move the service over and back, and report what that cost.
    Drill(drill::DrillArgs),
    /// Switch automatic moves of both nodes off, or on again.
    Maintenance(mode::MaintenanceArgs),
    /// Let this node decide and log, and move nothing.
    Observe(mode::ObserveArgs),
    /// Write a sound copy of a database, also of a mirror.
    Snapshot(operate::SnapshotArgs),
    /// Compare every page of the databases with what the standby's disk holds, and repair.
    Verify(verify::VerifyArgs),
    /// Say whether an existing database may join a pair, and switch it to WAL mode.
    Adopt(adopt::AdoptArgs),
    /// Show data that diverged and was kept before a resync.
    Quarantine(quarantine::QuarantineArgs),
    /// Start a program with the SQLite shim: its commits return when the standby holds them.
    Run(shim::RunArgs),
    /// Tell how to start a program with the SQLite shim.
    Shim(shim::ShimArgs),
    /// The keeper of one application.
    #[command(hide = true)]
    Supervise,
    /// Pull the plug of a pair on this one machine and see what happens.
    Demo(demo::DemoArgs),
    /// The demonstration's application.
    #[command(hide = true)]
    DemoApp(demo::AppArgs),
    /// The demonstration's client.
    #[command(hide = true)]
    DemoClient(demo::ClientArgs),
    /// The demonstration's last look at a database.
    #[command(hide = true)]
    DemoVerify(demo::VerifyArgs),
    /// Try it on this machine: two nodes, a client and their cables.
    Lab(lab::LabCommand),
    #[command(flatten)]
    LabProcess(lab::LabProcess),
    /// Print the completion script of a shell.
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one page per verb.
    Man(manual::ManArgs),
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    run(std::env::args_os()).into()
}

/// Runs one command line, printing to standard output and error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is usage; clap knows the stream.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return if error.print().is_ok() { exit } else { Exit::Failed };
        }
    };
    let paths = cli.paths;
    let result = match cli.verb {
        Verb::Agent(args) => agent::run(&args, &paths),
        Verb::Supervise => Ok(if crate::effects::supervisor::main() { Exit::Done } else { Exit::Failed }),
        Verb::Status(args) => show::status(&args, &paths),
        Verb::Events(args) => show::events(&args, &paths),
        Verb::Why(args) => why::why(&args, &paths),
        Verb::Config(args) => config::run(&args, &paths),
        Verb::Identity(args) => identity::run(&args, &paths),
        Verb::Switchover(args) => operate::switchover(args, &paths),
        Verb::Failover(args) => operate::failover(args, &paths),
        Verb::Failback(args) => operate::failback(args, &paths),
        Verb::Drill(args) => drill::drill(args, &paths),
        Verb::Maintenance(args) => mode::maintenance(args, &paths),
        Verb::Observe(args) => mode::observe(args, &paths),
        Verb::Snapshot(args) => operate::snapshot(args, &paths),
        Verb::Verify(args) => verify::run(args, &paths),
        Verb::Adopt(args) => adopt::run(&args, &paths),
        Verb::Quarantine(args) => quarantine::run(&args, &paths),
        Verb::Run(args) => shim::run(&args, &paths),
        Verb::Shim(args) => shim::shim(&args, &paths),
        Verb::Demo(args) => demo::run(&args),
        Verb::DemoApp(args) => demo::run_app(&args, &paths),
        Verb::DemoClient(args) => demo::run_client(&args),
        Verb::DemoVerify(args) => demo::run_verify(&args),
        Verb::Lab(command) => lab::run(command).map(Exit::Program),
        Verb::LabProcess(process) => lab::run_process(process).map(|()| Exit::Done),
        Verb::Completions(args) => manual::completions(&args),
        Verb::Man(args) => manual::man(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("lockstep: {error:#}");
        exit::of(&error)
    })
}

/// Colours only where somebody sees them.
fn paint() -> crate::status::Paint {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    crate::status::Paint { colour: std::io::stdout().is_terminal() && !plain }
}

/// Prints one JSON document for programs.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    put(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints; a reader that went away (`| head`) is no failure.
fn put(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

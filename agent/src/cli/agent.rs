//! `lockstep agent`: the daemon.

use super::Exit;
use crate::config::{Config, Paths};
use clap::Args;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Run this node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lockstep agent
  lockstep --config ./a.toml --state-dir ./a --runtime-dir ./a/run agent --log debug
  systemctl enable --now lockstep")]
pub(super) struct AgentArgs {
    /// What to log, as a level or a filter (`info`, `lockstep_engine=debug`).
    #[arg(long, env = "LOCKSTEP_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

pub(super) fn run(args: &AgentArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let filter: Targets = args.log.parse()?;
    // To standard error: the service manager keeps it, and a person at a terminal reads it.
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    let config = Config::load(&paths.config)?;
    crate::driver::run(config, paths)?;
    Ok(Exit::Done)
}

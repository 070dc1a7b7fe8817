//! `lockstep agent`: the daemon.

use super::Exit;
use crate::config::{Config, Paths};
use clap::Args;
use tracing_subscriber::EnvFilter;

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
    let filter = EnvFilter::try_new(&args.log)?;
    // To standard error: the service manager keeps it, and a person at a terminal reads it.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let config = Config::load(&paths.config)?;
    crate::driver::run(config, paths)?;
    Ok(Exit::Done)
}

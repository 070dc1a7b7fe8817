//! `config`: explain or check the configuration file. Works without an agent.

use super::{Exit, print_json, put};
use crate::config::{Config, EXAMPLE, Paths};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "Examples:\n  lockstep config --example > /etc/lockstep/lockstep.toml\n  \
    lockstep config --check\n  lockstep --config new.toml config --check")]
pub(super) struct ConfigArgs {
    /// Print a complete configuration in which every key is explained.
    #[arg(long, conflicts_with = "check")]
    example: bool,
    /// Check the configuration file: one line per fault, exit code 1 if there is one.
    #[arg(long)]
    check: bool,
    /// Print JSON for programs.
    #[arg(long, requires = "check")]
    json: bool,
}

pub(super) fn run(args: &ConfigArgs, paths: &Paths) -> anyhow::Result<Exit> {
    if args.example {
        put(EXAMPLE)?;
        return Ok(Exit::Done);
    }
    let loaded = Config::load(&paths.config).and_then(|mut config| {
        let found = config.check_places(paths)?;
        config.warnings.extend(found);
        Ok(config)
    });
    if args.json {
        let (errors, warnings) = match &loaded {
            Ok(config) => (Vec::new(), config.warnings.clone()),
            Err(errors) => (errors.0.iter().map(ToString::to_string).collect(), Vec::new()),
        };
        print_json(&json!({ "ok": loaded.is_ok(), "errors": errors, "warnings": warnings }))?;
        return Ok(if loaded.is_ok() { Exit::Done } else { Exit::Failed });
    }
    match loaded {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            put(&format!("{} is sound\n", paths.config.display()))?;
            Ok(Exit::Done)
        }
        Err(errors) => {
            eprintln!("{errors}");
            Ok(Exit::Failed)
        }
    }
}

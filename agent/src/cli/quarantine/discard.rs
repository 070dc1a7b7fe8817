//! `quarantine discard`: the operator has carried over what matters, or does not need it.

use super::entry::{self, Entry};
use super::{Exit, answer, print_json, put};
use crate::{
    config::Paths,
    control::{AskError, Failure, FailureCode, Request},
    events::{Event, EventLog, Severity},
};
use anyhow::Context;
use clap::Args;
use std::time::Duration;

/// The agent only counts.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep quarantine discard orders --yes\n  \
    lockstep quarantine discard shop/00000000000000000003-00112233aabbccdd/orders --yes\n\
    Refused (3) without --yes. What was removed cannot be brought back.")]
pub(super) struct DiscardArgs {
    /// Which: as `list` prints it, or the end of that.
    name: String,
    /// Remove it.
    #[arg(long)]
    yes: bool,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DiscardArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let entry = entry::find(paths, &args.name)?;
    if !args.yes {
        let sentence =
            format!("this removes {} for good: export it first if in doubt, then say --yes", entry.name());
        return Err(Failure::new(FailureCode::Refused, sentence).into());
    }
    lockstep_engine::copy::quarantine::discard(&entry.directory)
        .with_context(|| format!("cannot remove {}", entry.directory.display()))?;
    if let Some(epoch) = entry.directory.parent() {
        // The last one of its epoch: an empty folder says nothing. Any other is not empty and stays.
        let _ = std::fs::remove_dir(epoch);
    }
    record(&entry, paths)?;
    if args.json {
        print_json(&serde_json::json!({ "discarded": entry.name() }))?;
    } else {
        put(&format!("{} is removed\n", entry.name()))?;
    }
    Ok(Exit::Done)
}

/// Tells the agent, which counts and logs; without one the log is written here.
fn record(entry: &Entry, paths: &Paths) -> anyhow::Result<()> {
    let request = Request::Discarded { pair: entry.pair.to_string(), entry: entry.name() };
    let Err(error) = answer(paths, &request, TIMEOUT) else { return Ok(()) };
    if !matches!(error.downcast_ref::<AskError>(), Some(AskError::Absent { .. })) {
        return Err(error.context(format!("{} is removed, but the agent did not take note", entry.name())));
    }
    let sentence = format!("kept data {} was removed by the operator", entry.name());
    let log = EventLog::open(&paths.events(&entry.pair))?;
    log.record(Event::now(Severity::Info, "quarantine.discarded", sentence, serde_json::Value::Null));
    Ok(())
}

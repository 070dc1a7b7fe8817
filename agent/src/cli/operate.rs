//! Verbs that make the running agent do something: switchover, failover, failback, snapshot.

use super::{Exit, print_json, put, show::answer};
use crate::{
    config::Paths,
    control::{Answer, Request},
};
use anyhow::{Context, bail};
use clap::Args;
use std::{path::PathBuf, time::Duration};

/// What all of them take.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The pair; needed only where this node has several.
    #[arg(long)]
    pair: Option<String>,
    /// How long to wait for the end of it; then it may still go on (exit code 5).
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep switchover\n  lockstep switchover --pair shop --timeout-s 30\n\
    Runs on either node. Refused (3) while the pair is not in sync."
)]
pub(super) struct SwitchoverArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep failover\n  lockstep failover --accept-loss\n\
    Runs on the standby, when the active node is gone. Make sure that it is off.\n\
    Refused (3) when acknowledged commits would or could be lost, unless --accept-loss is given.")]
pub(super) struct FailoverArgs {
    /// Take over even if acknowledged commits may be lost.
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep failback\n  lockstep failback --pair shop\n\
    Brings the data back first, then switches over. Refused (3) until the primary is in sync.")]
pub(super) struct FailbackArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep snapshot orders /tmp/orders.db\n\
    A mirror cannot be opened by others while it follows; look at a snapshot instead.")]
pub(super) struct SnapshotArgs {
    /// Name of the database, as in the configuration.
    database: String,
    /// The file to write; must not exist.
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) fn switchover(args: SwitchoverArgs, paths: &Paths) -> anyhow::Result<Exit> {
    perform(args.common, paths, |pair| Request::Switchover { pair })
}

pub(super) fn failover(args: FailoverArgs, paths: &Paths) -> anyhow::Result<Exit> {
    perform(args.common, paths, |pair| Request::Failover { pair, accept_loss: args.accept_loss })
}

pub(super) fn failback(args: FailbackArgs, paths: &Paths) -> anyhow::Result<Exit> {
    perform(args.common, paths, |pair| Request::Failback { pair })
}

pub(super) fn snapshot(args: SnapshotArgs, paths: &Paths) -> anyhow::Result<Exit> {
    // The agent runs elsewhere: what is relative here would be another file there.
    let file = std::path::absolute(&args.file)
        .with_context(|| format!("{} cannot be made an absolute path", args.file.display()))?;
    perform(args.common, paths, |pair| Request::Snapshot { pair, database: args.database, file })
}

pub(super) fn perform(
    common: Common,
    paths: &Paths,
    request: impl FnOnce(Option<String>) -> Request,
) -> anyhow::Result<Exit> {
    let request = request(common.pair);
    match answer(paths, &request, Duration::from_secs(common.timeout_s))? {
        Answer::Done(done) => {
            if common.json {
                print_json(&done)?;
            } else {
                put(&format!("{}\n", done.sentence))?;
            }
            Ok(if done.in_sync { Exit::Done } else { Exit::NotInSync })
        }
        other => bail!("expected the end of it, found {other:?}: is the agent of another version?"),
    }
}

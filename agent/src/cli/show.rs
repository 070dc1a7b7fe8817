//! `status` and `events`: facts of the running agent.

use super::{Exit, paint, print_json, put};
use crate::{
    config::Paths,
    control::{Answer, AskError, Request, ask},
    status::{self, Status},
};
use anyhow::bail;
use clap::Args;
use std::{thread, time::Duration};

/// The agent answers from memory; longer than this it hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often `--watch` looks.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep status\n  lockstep status --watch\n  \
    lockstep status --json | jq '.pairs[0].in_sync'\n\
    Exits with 4 when a pair is not in sync and --check is given.")]
pub(super) struct StatusArgs {
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
    /// Go on, every second.
    #[arg(long)]
    watch: bool,
    /// Exit with 4 unless every pair is in sync.
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep events\n  lockstep events --last 100 --pair shop\n  \
    lockstep events --json | jq -r '.[].sentence'")]
pub(super) struct EventsArgs {
    /// Only of this pair.
    #[arg(long)]
    pair: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 20)]
    last: u32,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

/// Asks the agent; a failure it reports becomes the error.
pub(super) fn answer(paths: &Paths, request: &Request, timeout: Duration) -> anyhow::Result<Answer> {
    match ask(&paths.socket(), request, timeout)? {
        Answer::Error(failure) => Err(failure.into()),
        answer => Ok(answer),
    }
}

pub(super) fn read(paths: &Paths) -> anyhow::Result<Status> {
    match answer(paths, &Request::Status {}, TIMEOUT)? {
        Answer::Status(status) => Ok(*status),
        other => bail!("expected a status, found {other:?}: is the agent of another version?"),
    }
}

pub(super) fn status(args: &StatusArgs, paths: &Paths) -> anyhow::Result<Exit> {
    if args.watch {
        return watch(args, paths);
    }
    let status = read(paths)?;
    print(&status, args.json)?;
    let behind = args.check && !status.pairs.iter().all(|pair| pair.in_sync);
    Ok(if behind { Exit::NotInSync } else { Exit::Done })
}

fn print(status: &Status, json: bool) -> anyhow::Result<()> {
    if json { print_json(status) } else { put(&status::human(status, paint())) }
}

fn watch(args: &StatusArgs, paths: &Paths) -> anyhow::Result<Exit> {
    loop {
        match read(paths) {
            Ok(status) if args.json => put(&format!("{}\n", serde_json::to_string(&status)?))?,
            Ok(status) => screen(&status::human(&status, paint()))?,
            // A restart of the agent is something one watches for.
            Err(error) if error.downcast_ref::<AskError>().is_some() && !args.json => {
                screen(&format!("{}\n", paint().bad(&error.to_string())))?;
            }
            Err(error) => return Err(error),
        }
        thread::sleep(WATCH_PERIOD);
    }
}

/// Overwrites the terminal from its top; elsewhere, appends.
fn screen(text: &str) -> anyhow::Result<()> {
    if paint().colour { put(&format!("\x1b[H\x1b[2J{text}")) } else { put(&format!("{text}\n")) }
}

pub(super) fn events(args: &EventsArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let request = Request::Events { pair: args.pair.clone(), last: args.last };
    match answer(paths, &request, TIMEOUT)? {
        Answer::Events(events) if args.json => print_json(&events)?,
        Answer::Events(events) => put(&status::events(&events, paint()))?,
        other => bail!("expected events, found {other:?}: is the agent of another version?"),
    }
    Ok(Exit::Done)
}

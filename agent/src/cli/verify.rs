//! `verify`: every page compared with what the standby's disk holds, now and at full speed.

use super::{Exit, print_json, put, show};
use crate::{
    config::Paths,
    control::{Answer, Request, VerifiedDatabase},
};
use anyhow::bail;
use clap::Args;
use std::{
    io::IsTerminal,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// How often progress is shown.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep verify\n  lockstep verify orders --timeout-s 600\n\
    Runs on the active node, beside everything else. What differs is sent to the standby again.\n\
    Exits with 0 when all pages were equal, with 1 when some had to be repaired or it failed.")]
pub(super) struct VerifyArgs {
    /// Name of a database; all of the pair, if left out.
    database: Option<String>,
    /// The pair; needed only where this node has several.
    #[arg(long)]
    pair: Option<String>,
    /// How long to wait for the end of it; then it may still go on (exit code 5).
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: VerifyArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let timeout = Duration::from_secs(args.timeout_s);
    let progress = (!args.json && std::io::stderr().is_terminal()).then(|| show_progress(paths));
    let request = Request::Verify { pair: args.pair, database: args.database };
    let answer = show::answer(paths, &request, timeout);
    drop(progress);
    match answer? {
        Answer::Verified(verified) => {
            if args.json {
                print_json(&verified)?;
            } else {
                verified.iter().try_for_each(|database| put(&line(database)))?;
            }
            let equal = verified.iter().all(|database| database.repaired_pages == 0);
            Ok(if equal { Exit::Done } else { Exit::Failed })
        }
        other => bail!("expected the end of it, found {other:?}: is the agent of another version?"),
    }
}

fn line(verified: &VerifiedDatabase) -> String {
    let VerifiedDatabase { database, pages, repaired_pages } = verified;
    match repaired_pages {
        0 => format!("{database}: {pages} pages are equal on both nodes\n"),
        _ => format!(
            "{database}: {repaired_pages} of {pages} pages differed on the standby and were put right: `lockstep events` names them\n"
        ),
    }
}

/// Shows how far it is until the answer is dropped.
fn show_progress(paths: &Paths) -> Sender<()> {
    let (running, ended) = channel();
    let paths = paths.clone();
    thread::spawn(move || {
        while ended.recv_timeout(PROGRESS_PERIOD) == Err(RecvTimeoutError::Timeout) {
            let Ok(status) = show::read(&paths) else { return };
            for database in status.pairs.iter().flat_map(|pair| &pair.databases) {
                if let Some(scrub) = &database.scrub {
                    eprintln!("{}: page {} of {}", database.name, scrub.done_pages, scrub.total_pages);
                }
            }
        }
    });
    running
}

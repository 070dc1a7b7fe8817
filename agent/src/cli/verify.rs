//! `verify`: every page, and every entry of the trees, compared with what the standby's disk holds.

use super::{Exit, print_json, put, show};
use crate::{
    config::Paths,
    control::{Answer, Request, Verified, VerifiedDatabase},
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
#[command(after_help = "Examples:\n  lockstep verify\n  lockstep verify orders --timeout-s 600\n  \
    lockstep verify uploads --deep --repair\n\
    Runs on the active node, beside everything else. Pages of a database that differ are sent to the standby\n\
    again; of a tree only with --repair. Exits with 0 when all was equal, with 1 when something differed or it\n\
    failed.")]
pub(super) struct VerifyArgs {
    /// Name of a database or tree; all of the pair, if left out.
    #[arg(value_name = "NAME")]
    database: Option<String>,
    /// Trees: read the content of every file on both nodes, past the page cache.
    #[arg(long)]
    deep: bool,
    /// Trees: send again what differs on the standby.
    #[arg(long)]
    repair: bool,
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
    let request =
        Request::Verify { pair: args.pair, database: args.database, deep: args.deep, repair: args.repair };
    let answer = show::answer(paths, &request, timeout);
    drop(progress);
    match answer? {
        Answer::Verified(verified) => {
            if args.json {
                print_json(&verified)?;
            } else {
                verified.iter().try_for_each(|one| put(&line(one)))?;
            }
            let equal = verified.iter().all(is_equal);
            Ok(if equal { Exit::Done } else { Exit::Failed })
        }
        other => bail!("expected the end of it, found {other:?}: is the agent of another version?"),
    }
}

fn is_equal(verified: &Verified) -> bool {
    match verified {
        Verified::Database(database) => database.repaired_pages == 0,
        Verified::Tree(tree) => tree.is_equal(),
    }
}

fn line(verified: &Verified) -> String {
    let VerifiedDatabase { database, pages, repaired_pages } = match verified {
        Verified::Database(database) => database,
        Verified::Tree(tree) => return tree.sentence() + "\n",
    };
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

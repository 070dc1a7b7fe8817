//! `drill`: a switchover and back, with what it cost.

use super::{Exit, print_json, put, show::answer};
use crate::{
    config::Paths,
    control::{Answer, DrillMove, Drilled, Request},
};
use anyhow::bail;
use clap::Args;
use std::{fmt::Write, time::Duration};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep drill\n  lockstep drill --json | jq '.moves[].vip_outage_ms'\n\
    Clients are interrupted twice, as by two switchovers. Runs on either node, and measures there who answers for\n\
    the first virtual address. Refused (3) while the pair is not in sync."
)]
pub(super) struct DrillArgs {
    /// The pair; needed only where this node has several.
    #[arg(long)]
    pair: Option<String>,
    /// How long to wait for the end of it; then it may still go on (exit code 5).
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn drill(args: DrillArgs, paths: &Paths) -> anyhow::Result<Exit> {
    match answer(paths, &Request::Drill { pair: args.pair }, Duration::from_secs(args.timeout_s))? {
        Answer::Drilled(drilled) => {
            if args.json {
                print_json(&drilled)?;
            } else {
                put(&human(&drilled))?;
            }
            Ok(if drilled.in_sync { Exit::Done } else { Exit::NotInSync })
        }
        other => bail!("expected the end of it, found {other:?}: is the agent of another version?"),
    }
}

fn human(drilled: &Drilled) -> String {
    let mut text = String::new();
    for DrillMove { away, epoch, vip_outage_ms, in_sync_after_ms } in &drilled.moves {
        let to = if *away { "to the other node" } else { "to this node" };
        let _ = writeln!(
            text,
            "{to:<18} nobody answered for {vip_outage_ms} ms, in sync after {in_sync_after_ms} ms, epoch {epoch}"
        );
    }
    let lost = match drilled.diverged_databases {
        0 => "no commit was lost: neither node had one that the other lacked".to_owned(),
        count => format!(
            "{count} databases had commits that the other node lacked: `lockstep quarantine list` on both nodes"
        ),
    };
    let _ = writeln!(text, "{lost}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_each_move_cost_and_whether_commits_were_lost() {
        let one = |away, vip_outage_ms| DrillMove {
            away,
            epoch: "0000000002-00112233aabbccdd".into(),
            vip_outage_ms,
            in_sync_after_ms: 900,
        };
        let mut drilled = Drilled {
            pair: "shop".into(),
            moves: vec![one(true, 312), one(false, 287)],
            diverged_databases: 0,
            in_sync: true,
        };
        let text = human(&drilled);
        assert!(text.contains("to the other node  nobody answered for 312 ms"), "{text}");
        assert!(text.contains("to this node       nobody answered for 287 ms"), "{text}");
        assert!(text.contains("no commit was lost"), "{text}");
        drilled.diverged_databases = 1;
        assert!(human(&drilled).contains("lockstep quarantine list"));
    }
}

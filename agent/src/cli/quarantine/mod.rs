//! `quarantine list|show|export|discard`: what diverged and was kept. Works without an agent.
//!
//! Reads the quarantine on disk; what is compared are copies in a temporary directory. Nothing here
//! decides what to keep, and only `discard` removes anything.

mod discard;
mod entry;
mod export;
mod list;
mod show;
#[cfg(test)]
mod tests;

use super::{Exit, print_json, put, show::answer};
use crate::config::Paths;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    verb: QuarantineVerb,
}

#[derive(Debug, Subcommand)]
enum QuarantineVerb {
    /// List what is kept, one line per database.
    #[command(after_help = "Examples:\n  lockstep quarantine list\n  lockstep quarantine list --json")]
    List {
        /// Print JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Show the rows by which kept data differs.
    Show(show::ShowArgs),
    /// Write kept data as an ordinary database file.
    Export(export::ExportArgs),
    /// Remove kept data for good.
    Discard(discard::DiscardArgs),
}

pub(super) fn run(args: &QuarantineArgs, paths: &Paths) -> anyhow::Result<Exit> {
    match &args.verb {
        QuarantineVerb::List { json } => list::run(*json, paths),
        QuarantineVerb::Show(args) => show::run(args, paths),
        QuarantineVerb::Export(args) => export::run(args, paths),
        QuarantineVerb::Discard(args) => discard::run(args, paths),
    }
}

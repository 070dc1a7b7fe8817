//! `quarantine show`: the rows by which kept data differs from what both nodes had, or from now.
//!
//! The kept files are copied to a temporary directory first and opened there. Gathers a
//! [`Report`]; how it reads is `render`'s.

mod render;
mod report;

use super::entry;
use super::{Exit, answer, print_json, put};
use crate::{
    config::{Config, Paths},
    control::{AskError, Request},
};
use anyhow::Context;
use clap::Args;
use lockstep_engine::copy::differences::Differences;
use lockstep_engine::copy::quarantine::{self, Kept, NoFork};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Rows shown per table and kind unless asked otherwise.
const ROWS: u64 = 20;

/// A snapshot of a large database takes its time.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep quarantine show orders\n  \
    lockstep quarantine show orders --limit 1000\n  \
    lockstep quarantine show orders --against /backup/orders.db --json\n\
    + only the kept data has the row, ~ it differs, - only the other has it. Compares with what both\n\
    nodes had when they parted, if the kept data still holds that, else with this node's database as\n\
    it is now. Works on copies, in $TMPDIR or /var/tmp.")]
pub(super) struct ShowArgs {
    /// Which: as `list` prints it, or the end of that.
    name: String,
    /// Rows shown per table and kind.
    #[arg(long, default_value_t = ROWS)]
    limit: u64,
    /// Compare with this database file, which nobody writes now.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

/// What kept data is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Base {
    /// The state both nodes had.
    Fork { position: String },
    /// This node's database as it is now.
    Present { why_not_fork: String },
    /// A file of the operator's.
    File { path: PathBuf },
}

impl Base {
    /// Rows that only it has were deleted in the kept data; elsewhere they may have come later.
    pub(super) fn is_fork(&self) -> bool {
        matches!(self, Self::Fork { .. })
    }
}

/// Kept data and what it is compared with, as ordinary databases in a directory that goes with it.
pub(super) struct Opened {
    pub(super) kept: PathBuf,
    pub(super) base: Base,
    pub(super) base_file: PathBuf,
}

pub(super) fn run(args: &ShowArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let entry = entry::find(paths, &args.name)?;
    let kept = entry.kept()?;
    let directory = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let work = work_in(&directory)?;
    let opened = open(kept, args.against.as_deref(), paths, work.path())?;
    let report = report(&entry.name(), kept, &opened, args.limit)?;
    if args.json {
        print_json(&report)?;
    } else {
        put(&render::human(&report))?;
    }
    Ok(Exit::Done)
}

/// A directory that nobody else may look into.
pub(super) fn work_in(directory: &Path) -> anyhow::Result<TempDir> {
    let made = tempfile::Builder::new().prefix(".lockstep-quarantine-").tempdir_in(directory);
    made.with_context(|| format!("cannot make a temporary directory in {}", directory.display()))
}

/// All that differs, as facts.
pub(super) fn report(name: &str, kept: &Kept, opened: &Opened, limit: u64) -> anyhow::Result<report::Report> {
    report::gather(name, kept, opened.base.clone(), &differences(opened)?, limit)
}

pub(super) fn differences(opened: &Opened) -> anyhow::Result<Differences> {
    Differences::open(&opened.kept, &opened.base_file).with_context(|| {
        format!("{} and {} cannot be compared", opened.kept.display(), opened.base_file.display())
    })
}

/// Makes ordinary databases of the kept data and of what it is compared with.
pub(super) fn open(
    kept: &Kept,
    against: Option<&Path>,
    paths: &Paths,
    work: &Path,
) -> anyhow::Result<Opened> {
    let unpacked = quarantine::unpack(kept, work)?;
    let (base, base_file) = match (against, unpacked.fork) {
        (Some(file), _) => {
            let copy = work.join("against.db");
            quarantine::copy_at_rest(file, &copy)?;
            (Base::File { path: file.to_owned() }, copy)
        }
        (None, Ok(file)) => {
            let position = kept.fork.map(|fork| fork.position).unwrap_or_default().to_string();
            (Base::Fork { position }, file)
        }
        (None, Err(why)) => {
            let file = present(kept, paths, work)?;
            (Base::Present { why_not_fork: NoFork::to_string(&why) }, file)
        }
    };
    Ok(Opened { kept: unpacked.kept, base, base_file })
}

/// This node's database as it is now: by the agent that has it open, else by its files.
fn present(kept: &Kept, paths: &Paths, work: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(work.join("present.db"))?;
    let (pair, database) = (Some(kept.pair.to_string()), kept.database.to_string());
    let request = Request::Snapshot { pair, database, file: file.clone() };
    let Err(error) = answer(paths, &request, SNAPSHOT_TIMEOUT) else { return Ok(file) };
    if !matches!(error.downcast_ref::<AskError>(), Some(AskError::Absent { .. })) {
        return Err(
            error.context("this node's database cannot be had for comparison: name one with --against")
        );
    }
    let config = Config::load(&paths.config)
        .context("no agent runs, and the configuration is not readable: name a database with --against")?;
    let pair = config.pairs.iter().find(|pair| pair.id == kept.pair);
    let database =
        pair.and_then(|pair| pair.databases.iter().find(|database| database.name == kept.database));
    let database = database.with_context(|| {
        format!("database {} of pair {} is not configured: name one with --against", kept.database, kept.pair)
    })?;
    quarantine::copy_at_rest(database.path(config.node.role), &file)?;
    Ok(file)
}

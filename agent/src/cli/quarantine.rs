//! `quarantine list`: what diverged and was kept, read from the disk. Works without an agent.

use super::{Exit, print_json, put};
use crate::{config::Paths, status::bytes};
use anyhow::Context;
use clap::{Args, Subcommand};
use lockstep_wire::PairId;
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A quarantine is `<epoch>/<files>`; deeper than this nothing of ours lies.
const MAX_DEPTH: u32 = 8;

#[derive(Debug, Args)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    verb: QuarantineVerb,
}

#[derive(Debug, Subcommand)]
enum QuarantineVerb {
    /// Show what is kept, one line per pair and epoch.
    #[command(after_help = "Examples:\n  lockstep quarantine list\n  lockstep quarantine list --json")]
    List {
        /// Print JSON for programs.
        #[arg(long)]
        json: bool,
    },
}

/// One folder of the quarantine.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Kept {
    pub(super) pair: String,
    pub(super) epoch: String,
    pub(super) path: PathBuf,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

pub(super) fn run(args: &QuarantineArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let QuarantineVerb::List { json } = args.verb;
    let kept = list(paths)?;
    if json {
        print_json(&kept)?;
    } else if kept.is_empty() {
        put("nothing is in quarantine\n")?;
    }
    if !json {
        for entry in &kept {
            let Kept { pair, epoch, path, files, .. } = entry;
            put(&format!("{pair}  {epoch}  {files} files  {}  {}\n", bytes(entry.bytes), path.display()))?;
        }
    }
    Ok(Exit::Done)
}

/// Everything kept under the state directory, in order of pair and epoch.
pub(super) fn list(paths: &Paths) -> anyhow::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for pair in names(&paths.state_dir)? {
        let Ok(id) = pair.parse::<PairId>() else { continue };
        let root = paths.quarantine(&id);
        for epoch in names(&root)? {
            let path = root.join(&epoch);
            let (files, bytes) = measure(&path, MAX_DEPTH)
                .with_context(|| format!("{} cannot be read: become root", path.display()))?;
            kept.push(Kept { pair: pair.clone(), epoch, path, files, bytes });
        }
    }
    Ok(kept)
}

/// Sorted names of the folders in `dir`; none if it does not exist.
fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("{} cannot be read: become root", dir.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn measure(dir: &Path, depth: u32) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() && depth > 0 {
            let (more_files, more_bytes) = measure(&entry.path(), depth - 1)?;
            (files, bytes) = (files + more_files, bytes + more_bytes);
        } else if metadata.is_file() {
            (files, bytes) = (files + 1, bytes + metadata.len());
        }
    }
    Ok((files, bytes))
}

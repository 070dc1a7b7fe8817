//! `quarantine list`: one line per database for people, one object per pair and epoch for programs.

use super::entry::{self, Contents, Entry};
use super::{Exit, print_json, put};
use crate::{config::Paths, status::bytes};
use anyhow::Context;
use lockstep_engine::copy::quarantine::Why;
use serde::Serialize;
use std::{fs, io, path::Path, path::PathBuf};

/// A quarantine is `<epoch>/<files>`; deeper than this nothing of ours lies.
const MAX_DEPTH: u32 = 8;

/// One folder of the quarantine.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Epoch {
    pub(super) pair: String,
    pub(super) epoch: String,
    pub(super) path: PathBuf,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) databases: Vec<Database>,
}

/// One database in it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Database {
    /// For `show`, `export` and `discard`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// False: it has no readable manifest; then the rest is null.
    pub(super) complete: bool,
    pub(super) database: Option<String>,
    pub(super) why: Option<Why>,
    pub(super) kept_at: Option<String>,
    /// The last position both nodes have, if it is in the WAL that is kept.
    pub(super) fork: Option<String>,
    pub(super) last: Option<String>,
    pub(super) database_bytes: Option<u64>,
    pub(super) wal_bytes: Option<u64>,
}

impl From<&Entry> for Database {
    fn from(entry: &Entry) -> Self {
        let kept = entry.kept().ok();
        Self {
            name: entry.name(),
            path: entry.directory.clone(),
            complete: kept.is_some(),
            database: kept.map(|kept| kept.database.to_string()),
            why: kept.map(|kept| kept.why),
            kept_at: kept.map(|kept| kept_at(kept.kept_at_unix_s)),
            fork: kept.and_then(|kept| kept.fork).map(|fork| fork.position.to_string()),
            last: kept.map(|kept| kept.last.to_string()),
            database_bytes: kept.map(|kept| kept.database_bytes),
            wal_bytes: kept.map(|kept| kept.wal_bytes),
        }
    }
}

pub(super) fn run(json: bool, paths: &Paths) -> anyhow::Result<Exit> {
    if json {
        print_json(&epochs(paths)?)?;
        return Ok(Exit::Done);
    }
    let entries = entry::all(paths)?;
    if entries.is_empty() {
        put("nothing is in quarantine\n")?;
    }
    for entry in &entries {
        put(&format!("{}\n", line(entry)))?;
    }
    Ok(Exit::Done)
}

fn line(entry: &Entry) -> String {
    let what = match &entry.contents {
        Contents::Whole(kept) => format!(
            "{}  {}  {}  {}",
            kept_at(kept.kept_at_unix_s),
            bytes(kept.database_bytes + kept.wal_bytes),
            because(kept.why),
            kept.fork.map_or_else(
                || "fork unknown".to_owned(),
                |fork| format!(
                    "{} frames after the fork",
                    kept.last.frame.0.saturating_sub(fork.position.frame.0)
                ),
            ),
        ),
        Contents::Torn => "incomplete: no manifest, keeping it was cut short".to_owned(),
        Contents::Damaged => "incomplete: its manifest is damaged".to_owned(),
    };
    format!("{}  {what}  {}", entry.name(), entry.directory.display())
}

/// Everything kept under the state directory, in order of pair and epoch.
pub(super) fn epochs(paths: &Paths) -> anyhow::Result<Vec<Epoch>> {
    let entries = entry::all(paths)?;
    let mut kept = Vec::new();
    for pair in entry::names(&paths.state_dir)? {
        let Ok(id) = pair.parse() else { continue };
        let root = paths.quarantine(&id);
        for epoch in entry::names(&root)? {
            let path = root.join(&epoch);
            let (files, bytes) = measure(&path, MAX_DEPTH)
                .with_context(|| format!("{} cannot be read: become root", path.display()))?;
            let of_it = entries.iter().filter(|entry| entry.pair == id && entry.epoch == epoch);
            let databases = of_it.map(Database::from).collect();
            kept.push(Epoch { pair: pair.clone(), epoch, path, files, bytes, databases });
        }
    }
    Ok(kept)
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

/// Wall-clock time for people.
pub(super) fn kept_at(unix_s: u64) -> String {
    let second = i64::try_from(unix_s).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    second.map_or_else(|| "unknown".to_owned(), |second| second.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Why it was kept, in words.
pub(super) fn because(why: Why) -> &'static str {
    match why {
        Why::Diverged => "this node had commits that the new active lacked",
        Why::ActiveLostCommits => "the active had lost commits that this node held",
    }
}

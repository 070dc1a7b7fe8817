//! What lies in the quarantines of this node, and how a user names one of them.
//!
//! The full name is `<pair>/<epoch>/<database>`, as `list` prints it; the end of it will do where
//! that is clear. Directories are read; nothing is changed.

use crate::config::Paths;
use crate::control::{Failure, FailureCode};
use anyhow::Context;
use lockstep_engine::copy::quarantine::{self, Kept};
use lockstep_wire::PairId;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One database in quarantine.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) pair: PairId,
    pub(super) epoch: String,
    pub(super) directory: PathBuf,
    pub(super) contents: Contents,
}

/// What its directory holds.
#[derive(Debug)]
pub(super) enum Contents {
    Whole(Box<Kept>),
    /// No manifest: keeping it was cut short, and is done anew.
    Torn,
    /// A manifest that cannot be read.
    Damaged,
}

impl Entry {
    fn new(pair: &PairId, directory: PathBuf, contents: Contents) -> Self {
        let epoch = directory.parent().and_then(Path::file_name).unwrap_or_default();
        let epoch = epoch.to_string_lossy().into_owned();
        Self { pair: pair.clone(), epoch, directory, contents }
    }

    /// The name of its directory: the database, with a number if it forked more than once.
    pub(super) fn label(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The full name.
    pub(super) fn name(&self) -> String {
        format!("{}/{}/{}", self.pair, self.epoch, self.label())
    }

    /// What is kept, if it is whole.
    pub(super) fn kept(&self) -> Result<&Kept, Failure> {
        let why = match &self.contents {
            Contents::Whole(kept) => return Ok(kept),
            Contents::Torn => "it has no manifest: keeping it was cut short",
            Contents::Damaged => "its manifest.json is damaged",
        };
        let sentence = format!("{} is not whole ({why}): look at {}", self.name(), self.directory.display());
        Err(Failure::new(FailureCode::Failed, sentence))
    }
}

/// Everything kept under the state directory, in order of pair, epoch and database.
pub(super) fn all(paths: &Paths) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for pair in names(&paths.state_dir)? {
        let Ok(pair) = pair.parse::<PairId>() else { continue };
        let found = quarantine::list_blocking(&paths.pair_dir(&pair))
            .with_context(|| format!("the quarantine of pair {pair} cannot be read: become root"))?;
        for kept in found.kept {
            let directory = kept.directory.clone();
            entries.push(Entry::new(&pair, directory, Contents::Whole(Box::new(kept))));
        }
        for incomplete in found.incomplete {
            let contents = if incomplete.damaged { Contents::Damaged } else { Contents::Torn };
            entries.push(Entry::new(&pair, incomplete.directory, contents));
        }
    }
    entries.sort_by_key(Entry::name);
    Ok(entries)
}

/// The one that a user names: by its directory, its full name, or the end of it.
pub(super) fn find(paths: &Paths, name: &str) -> anyhow::Result<Entry> {
    let wrong = |sentence: String| Failure::new(FailureCode::Syntax, sentence);
    let mut entries = all(paths)?;
    let end = format!("/{name}");
    let is_it =
        |entry: &Entry| entry.directory == Path::new(name) || format!("/{}", entry.name()).ends_with(&end);
    let found: Vec<usize> = (0..entries.len()).filter(|&at| is_it(&entries[at])).collect();
    match found[..] {
        [at] => Ok(entries.swap_remove(at)),
        [] => {
            Err(wrong(format!("nothing in quarantine is named \"{name}\": see `lockstep quarantine list`"))
                .into())
        }
        _ => {
            let names: Vec<String> = found.iter().map(|&at| entries[at].name()).collect();
            Err(wrong(format!("\"{name}\" may be any of {}: name one of them", names.join(", "))).into())
        }
    }
}

/// Sorted names of the folders in `dir`; none if it does not exist.
pub(super) fn names(dir: &Path) -> anyhow::Result<Vec<String>> {
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

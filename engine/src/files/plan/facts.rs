//! What was found on disk.

use crate::files::TreePath;
use crate::files::disk::{FileId, Found};
use std::collections::{BTreeMap, HashMap};

/// One look.
#[derive(Debug, Clone)]
pub struct Fact {
    /// What is there; None: nothing that is replicated.
    pub found: Option<Found>,
    /// Content may have changed although no time of the file tells.
    pub content: bool,
}

/// All looks of one round.
#[derive(Debug, Default)]
pub struct Facts {
    looks: BTreeMap<TreePath, Fact>,
    places: HashMap<FileId, Vec<TreePath>>,
}

impl Facts {
    /// Adds a look; one that was there before stays, but for its doubt about the content.
    pub fn add(&mut self, path: TreePath, found: Option<Found>, content: bool) {
        if let Some(known) = self.looks.get_mut(&path) {
            known.content |= content;
            return;
        }
        if let Some(found) = &found {
            self.places.entry(found.id).or_default().push(path.clone());
        }
        self.looks.insert(path, Fact { found, content });
    }

    /// Was it looked at?
    pub fn get(&self, path: &TreePath) -> Option<&Fact> {
        self.looks.get(path)
    }

    /// What is there, as far as it was looked at.
    pub fn found(&self, path: &TreePath) -> Option<&Found> {
        self.looks.get(path)?.found.as_ref()
    }

    /// Where a file is now.
    pub fn places(&self, id: FileId) -> &[TreePath] {
        if id.inode == 0 { &[] } else { self.places.get(&id).map_or(&[], Vec::as_slice) }
    }

    /// All paths, parents first.
    pub fn paths(&self) -> impl Iterator<Item = &TreePath> {
        self.looks.keys()
    }

    /// How many looks there are.
    pub fn len(&self) -> usize {
        self.looks.len()
    }

    /// True: nothing was looked at.
    pub fn is_empty(&self) -> bool {
        self.looks.is_empty()
    }
}

//! From marks to looks: what of a tree must be looked at so that a plan can be made.

use super::stuck::Stuck;
use crate::files::TreePath;
use crate::files::disk::{Disk, Found};
use crate::files::index::{Known, NodeId};
use crate::files::plan::Facts;
use crate::files::rules::Rules;
use lockstep_wire::TreeKind;
use std::collections::HashSet;
use std::time::Instant;

/// Looks of one round.
pub(super) struct Gather<'a> {
    pub(super) disk: &'a Disk,
    pub(super) rules: &'a Rules,
    pub(super) known: &'a Known,
    pub(super) stuck: &'a mut Stuck,
    pub(super) facts: Facts,
    /// Look again at these then: they cannot be looked at now.
    pub(super) retry: Vec<(TreePath, Instant)>,
    /// Failed for the first time.
    pub(super) news: Vec<(TreePath, String)>,
    /// Directories that were compared with what is known and are the same.
    verified: HashSet<TreePath>,
    device: Option<(u32, u32)>,
}

/// What the listing of one directory gave.
#[derive(Default)]
pub(super) struct Listed {
    /// Directories in it.
    pub(super) directories: Vec<TreePath>,
    /// Known there, and there no more.
    pub(super) vanished: Vec<TreePath>,
}

impl<'a> Gather<'a> {
    pub(super) fn new(disk: &'a Disk, rules: &'a Rules, known: &'a Known, stuck: &'a mut Stuck) -> Self {
        let device = disk.look(&TreePath::root()).ok().flatten().map(|root| root.device);
        let (facts, retry, news) = (Facts::default(), Vec::new(), Vec::new());
        Self { disk, rules, known, stuck, facts, retry, news, verified: HashSet::new(), device }
    }

    /// Looks at a path that was marked.
    pub(super) fn marked(&mut self, path: &TreePath, content: bool) {
        if !self.rules.includes_all(path) {
            return;
        }
        match self.look(path, content) {
            Some(true) => self.ensure_parent(path),
            Some(false) => self.add_highest_absent(path, content),
            None => {}
        }
    }

    /// Looks at a directory and at all that is in it.
    pub(super) fn list(&mut self, path: &TreePath) -> Listed {
        let mut listed = Listed::default();
        self.marked(path, false);
        if self.facts.found(path).is_none_or(|found| found.kind != TreeKind::Directory) {
            return listed;
        }
        let entries = match self.disk.list(path) {
            Ok(Some(entries)) => entries,
            Ok(None) => return listed,
            Err(error) => {
                self.fail(path, format!("the directory cannot be read: {error}"));
                return listed;
            }
        };
        let mut names = HashSet::new();
        for (name, _) in entries {
            match path.join(&name) {
                Ok(child) if self.rules.includes(&child) => {
                    // What cannot be looked at is not gone.
                    if self.look(&child, false) != Some(false) {
                        names.insert(name);
                    }
                    if self.facts.found(&child).is_some_and(|found| found.kind == TreeKind::Directory) {
                        listed.directories.push(child);
                    }
                }
                Ok(_) => {}
                Err(_) if path.is_root() && name == crate::files::HIDDEN_DIR => {}
                Err(error) => self.fail(path, format!("\"{}\" in it: {error}", name.escape_ascii())),
            }
        }
        if let Some(id) = self.known.find(path) {
            let gone = self.known.children(id).filter(|(name, _)| !names.contains(*name));
            let gone = gone.filter_map(|(name, _)| path.join(name).ok());
            listed.vanished.extend(gone.filter(|path| self.rules.includes(path)));
        }
        listed
    }

    /// Looks at every path that something found here may have come from, until there is none left. `doubted`: a mark of
    /// that path says that its content may have changed, which goes along with the file.
    pub(super) fn sources(&mut self, doubted: &dyn Fn(&TreePath) -> bool) {
        let mut paths: Vec<TreePath> = self.facts.paths().cloned().collect();
        while let Some(path) = paths.pop() {
            let names: Vec<_> =
                self.other_places(&path).iter().filter_map(|id| self.known.path(*id)).collect();
            for name in names {
                if self.facts.get(&name).is_none() && self.rules.includes_all(&name) {
                    let content = doubted(&name);
                    match self.look(&name, content) {
                        Some(true) => {
                            self.ensure_parent(&name);
                            paths.push(name);
                        }
                        Some(false) => self.facts.add(name, None, content),
                        None => {}
                    }
                }
            }
        }
    }

    /// Where what is at `path`, or was there, may be or have been too.
    fn other_places(&self, path: &TreePath) -> Vec<NodeId> {
        let was = self.known.at(path).map(|seen| seen.id);
        let is = self.facts.found(path).map(|found| (found.id, found.links));
        let mut places = Vec::new();
        if let Some((id, links)) = is
            && (was != Some(id) || links > 1)
        {
            places.extend(self.known.names(id));
        }
        if let Some(was) = was.filter(|was| is.is_none_or(|(id, _)| id != *was)) {
            // The last that was heard of it may have come by this name.
            places.extend(self.known.names(was));
        }
        places
    }

    /// Some(true): something is there and was added. Some(false): nothing that is replicated is there; not added.
    fn look(&mut self, path: &TreePath, content: bool) -> Option<bool> {
        if self.facts.get(path).is_some() {
            self.facts.add(path.clone(), None, content);
            return Some(self.facts.found(path).is_some());
        }
        match self.disk.look(path) {
            Ok(Some(found)) => match self.refusal(&found) {
                None => {
                    self.facts.add(path.clone(), Some(found), content);
                    Some(true)
                }
                Some(reason) => {
                    self.fail(path, reason.to_owned());
                    self.facts.add(path.clone(), None, false);
                    Some(false)
                }
            },
            Ok(None) => {
                self.stuck.clear_below(path);
                Some(false)
            }
            Err(error) => {
                self.fail(path, format!("it cannot be looked at: {error}"));
                None
            }
        }
    }

    fn refusal(&self, found: &Found) -> Option<&'static str> {
        if found.kind == TreeKind::Other {
            return Some("sockets and devices are not replicated: exclude it");
        }
        if self.device.is_some_and(|device| device != found.device) {
            return Some("it is on another file system: make that a tree of its own, or exclude it");
        }
        None
    }

    fn fail(&mut self, path: &TreePath, reason: String) {
        let (again, new) = self.stuck.add(path, reason.clone(), Instant::now());
        self.retry.push((path.clone(), again));
        if new {
            self.news.push((path.clone(), reason));
        }
    }

    /// What stands for an absent path: the highest directory above it that is absent too.
    fn add_highest_absent(&mut self, path: &TreePath, content: bool) {
        let mut highest = path.clone();
        while let Some(parent) = highest.parent().filter(|parent| !parent.is_root()) {
            match self.look(&parent, false) {
                Some(false) => highest = parent,
                Some(true) => {
                    self.ensure_parent(&parent);
                    break;
                }
                None => return,
            }
        }
        if self.facts.get(&highest).is_none() {
            self.facts.add(highest, None, false);
        }
        // Its file may have other names, and what happened to it may have happened by this one.
        if self.known.find(path).is_some_and(|id| content || self.known.is_shared(id)) {
            self.facts.add(path.clone(), None, content);
        }
    }

    /// The directories above must be those that the standby has, or be looked at too.
    fn ensure_parent(&mut self, path: &TreePath) {
        let mut at = path.clone();
        while let Some(parent) = at.parent() {
            if self.verified.contains(&parent) || self.facts.get(&parent).is_some() {
                return;
            }
            let Ok(Some(found)) = self.disk.look(&parent) else { return };
            if self.known.at(&parent).is_some_and(|seen| seen.id == found.id && seen.kind == found.kind) {
                self.verified.insert(parent);
                return;
            }
            self.facts.add(parent.clone(), Some(found), false);
            at = parent;
        }
    }
}

//! The plan of one round.

use super::{DOUBTED_MAX_BYTES, Facts, WHOLE_MAX_BYTES};
use crate::files::TreePath;
use crate::files::disk::{FileId, Found};
use crate::files::index::{Change, Doubts, Known, NodeId, ROOT, Seen};
use lockstep_wire::{TreeExpected, TreeKind};
use std::collections::{HashMap, HashSet};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make a directory.
    Directory,
    /// Make a symlink.
    Symlink,
    /// Make a FIFO.
    Fifo,
    /// Read the file and send what differs; `always`: also when nothing does, for it must be a file of its own.
    Content {
        /// Even if the standby has that content.
        always: bool,
    },
    /// Another name of this file.
    Link(TreePath),
    /// This becomes `path`.
    Rename(TreePath),
    /// This and `path` change places.
    Exchange(TreePath),
    /// It is gone, with all below it.
    Remove,
    /// It has other metadata.
    Meta,
    /// Nothing to send, only to remember.
    Note,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// What to do.
    pub op: Op,
    /// With what.
    pub path: TreePath,
    /// What is known of it; later steps may give it another place.
    pub node: Option<NodeId>,
    /// The node that a link is another name of.
    pub from_node: Option<NodeId>,
    /// What the standby has at the path it takes from.
    pub expected: Option<TreeExpected>,
    /// What is known once it is done; of `Content` whoever reads the file knows it.
    pub changes: Vec<Change>,
}

/// The result.
#[derive(Debug, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// Directories that are new or have another name: look at all below them.
    pub below: Vec<TreePath>,
    /// Look at these once more when this is sent.
    pub again: Vec<TreePath>,
    /// How many entries the removals take.
    pub removed: usize,
}

/// Makes the plan; afterwards `known` is what the standby has once it is carried out, files that must be read excepted.
/// At `doubts` the standby may have anything.
pub fn plan(known: &mut Known, facts: &Facts, doubts: &Doubts) -> Plan {
    let doubted = doubted_files(known, facts);
    let mut planner = Planner {
        known,
        facts,
        doubts: doubts.clone(),
        doubted,
        state: HashMap::new(),
        moved: HashSet::new(),
        read: HashMap::new(),
        linked: HashSet::new(),
        changed: HashSet::new(),
        late: Vec::new(),
        out: Plan::default(),
    };
    for path in facts.paths() {
        planner.place(path);
    }
    for path in facts.paths().filter(|path| facts.found(path).is_none()) {
        planner.remove(path);
    }
    let late = std::mem::take(&mut planner.late);
    for path in late.iter().rev() {
        planner.directory_meta(path);
    }
    planner.out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Doing,
    Done,
}

struct Planner<'a> {
    known: &'a mut Known,
    facts: &'a Facts,
    /// As they are after the steps so far.
    doubts: Doubts,
    /// Files whose content may have changed although no time of them tells, by whatever name that was noticed.
    doubted: HashSet<FileId>,
    state: HashMap<TreePath, State>,
    /// Renamed in this round.
    moved: HashSet<NodeId>,
    /// Files that are read in this round: what the standby has of them changes.
    read: HashMap<FileId, NodeId>,
    /// Nodes that are made names of such a file.
    linked: HashSet<NodeId>,
    /// Files whose metadata is set in this round.
    changed: HashSet<FileId>,
    /// Directories whose metadata comes last.
    late: Vec<TreePath>,
    out: Plan,
}

impl Planner<'_> {
    fn step(&mut self, op: Op, path: &TreePath, expected: Option<TreeExpected>, changes: Vec<Change>) {
        match &op {
            Op::Rename(from) => self.doubts.rename(from, path),
            Op::Exchange(from) => self.doubts.exchange(from, path),
            Op::Meta | Op::Note => {}
            _ => self.doubts.forget(path),
        }
        let node = self.known.find(path);
        if matches!(op, Op::Content { .. }) {
            self.read.extend(node.and_then(|id| Some((self.known.seen(id)?.id, id))));
        }
        let from_node = match &op {
            Op::Link(from) => self.known.find(from),
            _ => None,
        };
        if from_node.is_some() {
            self.linked.extend(node);
        }
        self.out.steps.push(Step { op, path: path.clone(), node, from_node, expected, changes });
    }

    /// What the standby has of it, unless a step before changes that.
    fn expected(&self, seen: &Seen) -> Option<TreeExpected> {
        (!self.read.contains_key(&seen.id)).then(|| seen.expected())
    }

    /// Sees to it that the right entry is at `path`.
    fn place(&mut self, path: &TreePath) {
        if self.state.contains_key(path) {
            return;
        }
        let Some(found) = self.facts.found(path) else { return };
        self.state.insert(path.clone(), State::Doing);
        if let Some(parent) = path.parent() {
            self.place(&parent);
            if self.known.at(&parent).is_none_or(|seen| seen.kind != TreeKind::Directory) {
                self.out.again.push(path.clone());
                return;
            }
        }
        self.put(path, found);
        self.state.insert(path.clone(), State::Done);
    }

    fn put(&mut self, path: &TreePath, found: &Found) {
        if self.is_there(path, found) {
            return self.update(path, found);
        }
        if self.link_to_other(path, found) {
            return;
        }
        self.vacate(path);
        // What came here meanwhile, in a circle, waits for us.
        let waits = self.vacate(path);
        if self.is_there(path, found) {
            return self.update(path, found);
        }
        // Whatever had to go first may have been another name of this.
        if self.link_to_other(path, found) {
            return;
        }
        match self.source(path, found) {
            Some(from) if waits && self.known.find(path).is_some() => self.exchange(path, &from, found),
            Some(from) => self.rename(path, &from, found),
            None => self.create(path, found),
        }
    }

    fn is_there(&self, path: &TreePath, found: &Found) -> bool {
        let there = self.known.at(path);
        there.is_some_and(|seen| seen.kind == found.kind && seen.id == found.id && found.id.inode != 0)
    }

    /// Links it to another name of the same file, if that is in its place.
    fn link_to_other(&mut self, path: &TreePath, found: &Found) -> bool {
        let Some(from) = self.other_name(path, found) else { return false };
        self.place(&from);
        let there = self.is_there(&from, found);
        if there {
            self.link(path, &from, found);
        }
        there
    }

    /// A path where the same file is too.
    fn other_name(&self, path: &TreePath, found: &Found) -> Option<TreePath> {
        if found.kind == TreeKind::Directory || found.links < 2 {
            return None;
        }
        let names = self.known.names(found.id).iter().filter_map(|id| self.known.path(*id));
        names.filter(|name| name != path).find(|name| {
            self.facts.found(name).is_some_and(|there| there.id == found.id && there.kind == found.kind)
        })
    }

    /// The path that this entry was renamed from.
    fn source(&self, path: &TreePath, found: &Found) -> Option<TreePath> {
        let gone = |from: &TreePath| {
            let look = self.facts.get(from);
            look.is_some_and(|look| look.found.as_ref().is_none_or(|there| there.id != found.id))
        };
        let same = |id: &&NodeId| self.known.seen(**id).is_some_and(|seen| seen.kind == found.kind);
        let names = self.known.names(found.id).iter().filter(same).filter_map(|id| self.known.path(*id));
        // Into itself, or into the place of what it lies in: no rename can do that.
        names.filter(gone).find(|from| !path.is_in(from) && !from.is_in(path))
    }

    /// Lets whatever is at `path` and lives on elsewhere go there. True: it waits for something that waits for this.
    fn vacate(&mut self, path: &TreePath) -> bool {
        let Some(id) = self.known.find(path) else { return false };
        let mut waits = false;
        let all = if self.known.seen(id).is_some_and(|seen| seen.kind == TreeKind::Directory) {
            self.known.below(id)
        } else {
            vec![id]
        };
        for node in all {
            let Some(file) = self.known.seen(node).map(|seen| seen.id) else { continue };
            for place in self.facts.places(file) {
                if place == path || self.known.path(node).as_ref() == Some(place) {
                    continue;
                }
                match self.state.get(place) {
                    None => self.place(place),
                    Some(State::Doing) => waits |= node == id,
                    Some(State::Done) => {}
                }
            }
        }
        waits
    }

    fn rename(&mut self, path: &TreePath, from: &TreePath, found: &Found) {
        let Some(id) = self.known.find(from) else { return self.create(path, found) };
        let mut changes = self.replace(path);
        let expected = self.known.seen(id).and_then(|seen| self.expected(seen));
        if !self.known.rename(id, path) {
            return self.create(path, found);
        }
        changes.extend(self.moved_to(id));
        self.step(Op::Rename(from.clone()), path, expected, changes);
        self.has_moved(id, path, found);
    }

    fn exchange(&mut self, path: &TreePath, from: &TreePath, found: &Found) {
        let (Some(id), Some(other)) = (self.known.find(from), self.known.find(path)) else {
            return self.create(path, found);
        };
        let expected = self.known.seen(id).and_then(|seen| self.expected(seen));
        self.known.exchange(id, other);
        self.moved.insert(other);
        let changes = self.moved_to(id).into_iter().chain(self.moved_to(other)).collect();
        self.step(Op::Exchange(from.clone()), path, expected, changes);
        if self.known.seen(other).is_some_and(|seen| seen.kind == TreeKind::Directory) {
            self.out.below.push(from.clone());
        }
        self.has_moved(id, path, found);
    }

    fn moved_to(&self, id: NodeId) -> Option<Change> {
        self.known.place(id).map(|(parent, name)| Change::Moved(id, parent, name.into()))
    }

    fn has_moved(&mut self, id: NodeId, path: &TreePath, found: &Found) {
        self.moved.insert(id);
        if found.kind == TreeKind::Directory {
            self.out.below.push(path.clone());
        }
        self.update(path, found);
    }

    /// What is known of `path` is replaced by the next operation.
    fn replace(&mut self, path: &TreePath) -> Vec<Change> {
        let Some(id) = self.known.find(path) else { return Vec::new() };
        self.known.remove(id);
        vec![Change::Gone(id)]
    }

    fn link(&mut self, path: &TreePath, from: &TreePath, found: &Found) {
        self.vacate(path);
        let mut changes = self.replace(path);
        let Some(seen) = self.known.at(from).cloned() else { return self.create(path, found) };
        // A file whose content is on its way has no time yet that could be expected.
        let expected = self.expected(&seen);
        changes.extend(self.set(path, seen));
        self.step(Op::Link(from.clone()), path, expected, changes);
    }

    /// Remembers what is at `path`.
    fn set(&mut self, path: &TreePath, seen: Seen) -> Option<Change> {
        let id = self.known.set(path, seen)?;
        change_of(self.known, id)
    }

    fn create(&mut self, path: &TreePath, found: &Found) {
        let old = self.known.at(path).cloned();
        let same = old.filter(|old| old.kind == found.kind && !self.doubts.contains(path));
        let mut changes = if same.is_some() { Vec::new() } else { self.replace(path) };
        match (found.kind, same) {
            (TreeKind::File, Some(old)) => {
                let adopted = old.id.inode == 0 && old.size == found.size && old.mtime == found.meta.mtime;
                let id = self.known.find(path);
                if adopted && old.links == 1 && found.links == 1 {
                    // Found on the standby with the same size and time.
                    self.only(found.id, &[]);
                    self.known.set(path, Seen { id: found.id, ..old });
                    return self.meta_of_file(path, found);
                }
                if id.is_some_and(|id| self.has_come_along(id)) && found.size > WHOLE_MAX_BYTES {
                    // Its blocks can be taken from where it is now only by the next batch.
                    return self.out.again.push(path.clone());
                }
                let always = id.is_some_and(|id| self.known.is_shared(id));
                self.only(found.id, &[]);
                self.known.set(path, Seen { id: found.id, links: found.links, ..old });
                self.step(Op::Content { always }, path, None, Vec::new());
            }
            (TreeKind::File, None) => {
                self.only(found.id, &[]);
                let nothing = Seen { size: 0, mtime: Default::default(), ..Seen::of(found, None) };
                changes.extend(self.set(path, nothing));
                self.step(Op::Content { always: true }, path, None, changes);
            }
            (TreeKind::Directory, Some(old)) => {
                self.known.set(path, Seen { id: found.id, ..old });
                self.late.push(path.clone());
                self.out.below.push(path.clone());
            }
            (kind, _) => {
                if self.doubts.contains(path) && kind == TreeKind::Directory && !path.is_root() {
                    self.step(Op::Remove, path, None, Vec::new());
                }
                self.only(found.id, &[]);
                changes.extend(self.set(path, Seen::of(found, None)));
                let op = match kind {
                    TreeKind::Directory if path.is_root() => Op::Meta,
                    TreeKind::Directory => Op::Directory,
                    TreeKind::Symlink => Op::Symlink,
                    _ => Op::Fifo,
                };
                self.step(op, path, None, changes);
                if kind == TreeKind::Directory {
                    self.out.below.push(path.clone());
                }
            }
        }
    }

    /// The right entry is at `path`; is it as it should be?
    fn update(&mut self, path: &TreePath, found: &Found) {
        let Some(id) = self.known.find(path) else { return };
        let Some(seen) = self.known.seen(id) else { return };
        match found.kind {
            TreeKind::File => {
                if let Some(reader) = self.read.get(&found.id).copied() {
                    // It is read by another name, and this one must become a name of what is made of that.
                    if let Some(from) = self.known.path(reader)
                        && reader != id
                        && !self.linked.contains(&id)
                    {
                        self.step(Op::Link(from), path, None, Vec::new());
                    }
                    return;
                }
                let moved = self.moved.contains(&id);
                let doubt = self.doubted.contains(&found.id);
                if !content_may_differ(seen, found, doubt, moved) {
                    return self.meta_of_file(path, found);
                }
                let changes = self.changed.contains(&found.id);
                if found.size > WHOLE_MAX_BYTES && (changes || self.has_come_along(id)) {
                    // Its blocks can be taken from where and what it is now only by the next batch.
                    self.out.again.push(path.clone());
                    return;
                }
                let names = self.names_still_there(path, found.id);
                self.only(found.id, &names);
                self.step(Op::Content { always: false }, path, None, Vec::new());
                for name in names.iter().filter(|name| *name != path) {
                    self.step(Op::Link(path.clone()), name, None, Vec::new());
                }
            }
            TreeKind::Directory => self.late.push(path.clone()),
            _ if seen.same_meta(found) => self.note(path, found),
            _ => {
                let change = self.set(path, Seen::of(found, None));
                self.step(Op::Meta, path, None, change.into_iter().collect());
            }
        }
    }

    /// Was it renamed in this round, or a directory above it?
    fn has_come_along(&self, id: NodeId) -> bool {
        let above = |id: &NodeId| self.known.place(*id).map(|(parent, _)| parent).filter(|_| *id != ROOT);
        std::iter::successors(Some(id), above).any(|id| self.moved.contains(&id))
    }

    /// The standby will have a new file `id`: what had that number and is none of `names` is another one there.
    fn only(&mut self, id: FileId, names: &[TreePath]) {
        for node in self.known.names(id).to_vec() {
            let Some(name) = self.known.path(node).filter(|name| !names.contains(name)) else { continue };
            self.known.set_stranger(node);
            if self.facts.found(&name).is_none_or(|there| there.id == id) {
                self.out.again.push(name);
            }
        }
    }

    /// The names of a file that are known and still there, `path` among them.
    fn names_still_there(&self, path: &TreePath, id: FileId) -> Vec<TreePath> {
        let names = self.known.names(id).iter().filter_map(|id| self.known.path(*id));
        names
            .filter(|name| name == path || self.facts.found(name).is_some_and(|there| there.id == id))
            .collect()
    }

    fn meta_of_file(&mut self, path: &TreePath, found: &Found) {
        let Some(seen) = self.known.at(path) else { return };
        if seen.same_meta(found) {
            return self.note(path, found);
        }
        let now = Seen::of(found, seen.content);
        // All names of a file are one file on the standby too.
        let mut changes = Vec::new();
        for id in self.known.names(found.id).to_vec() {
            self.known.set_seen(id, now.clone());
            changes.extend(change_of(self.known, id));
        }
        self.changed.insert(found.id);
        self.step(Op::Meta, path, None, changes);
    }

    fn note(&mut self, path: &TreePath, found: &Found) {
        let Some(seen) = self.known.at(path) else { return };
        let now = Seen::of(found, seen.content);
        if *seen != now {
            let change = self.set(path, now);
            self.step(Op::Note, path, None, change.into_iter().collect());
        }
    }

    fn remove(&mut self, path: &TreePath) {
        let Some(id) = self.known.find(path) else {
            if self.doubts.contains(path) && !path.is_root() {
                let parent = path.parent().and_then(|parent| self.known.at(&parent));
                if parent.is_some_and(|parent| parent.kind == TreeKind::Directory) {
                    self.step(Op::Remove, path, None, Vec::new());
                }
            }
            return;
        };
        if id == ROOT {
            return; // that is for the brakes
        }
        self.out.removed += self.known.remove(id);
        self.step(Op::Remove, path, None, vec![Change::Gone(id)]);
    }

    fn directory_meta(&mut self, path: &TreePath) {
        let (Some(found), Some(seen)) = (self.facts.found(path), self.known.at(path)) else { return };
        if seen.same_meta(found) && !self.doubts.contains(path) {
            return self.note(path, found);
        }
        let change = self.set(path, Seen::of(found, None));
        self.step(Op::Meta, path, None, change.into_iter().collect());
    }
}

fn doubted_files(known: &Known, facts: &Facts) -> HashSet<FileId> {
    let doubted = facts.paths().filter(|path| facts.get(path).is_some_and(|look| look.content));
    let files = doubted
        .flat_map(|path| [known.at(path).map(|seen| seen.id), facts.found(path).map(|found| found.id)]);
    files.flatten().filter(|id| id.inode != 0).collect()
}

/// What the store has to remember of a node.
pub(crate) fn change_of(known: &Known, id: NodeId) -> Option<Change> {
    let (parent, name) = known.place(id)?;
    Some(Change::Set { id, parent, name: name.into(), seen: Box::new(known.seen(id)?.clone()) })
}

fn content_may_differ(seen: &Seen, found: &Found, doubt: bool, moved: bool) -> bool {
    if seen.size != found.size || seen.mtime != found.meta.mtime || doubt || seen.racy {
        return true;
    }
    // A rename changes the time of change too.
    seen.ctime != found.ctime && !moved && found.size <= DOUBTED_MAX_BYTES
}

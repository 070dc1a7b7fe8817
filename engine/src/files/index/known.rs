//! The standby's tree in memory: nodes with parent and name, so that renaming a directory is one change.

use crate::files::disk::{FileId, Found};
use crate::files::entry::rest_of;
use crate::files::{ContentHash, Meta, Mtime, TreePath};
use lockstep_wire::{TreeExpected, TreeKind};
use std::collections::{BTreeMap, HashMap};

/// Number of a node; the same in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The root of the tree.
pub const ROOT: NodeId = NodeId(1);

/// What the standby has of an entry, and as what file it was found on the active's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Type.
    pub kind: TreeKind,
    /// Permissions.
    pub mode: u32,
    /// Number of the owner.
    pub user: u32,
    /// Number of the group.
    pub group: u32,
    /// Last change of the content.
    pub mtime: Mtime,
    /// Hash of the extended attributes and of a symlink's target.
    pub rest: u64,
    /// Size of a file in bytes.
    pub size: u64,
    /// Which file it was here. Nodes with the same one are the same file on the standby, and no others are.
    pub id: FileId,
    /// Last change of anything here; with everything else equal nothing has changed.
    pub ctime: Mtime,
    /// It was read so soon after a change that another one would have the same times.
    pub racy: bool,
    /// How many names it had here. Of a file whose `id` is not known: more than one if it may have other names on the
    /// standby.
    pub links: u32,
    /// Hash of a file's content, where it is known.
    pub content: Option<ContentHash>,
}

impl Seen {
    /// As it is now on the active's disk.
    pub fn of(found: &Found, content: Option<ContentHash>) -> Self {
        let Meta { mode, user, group, mtime, xattrs } = &found.meta;
        Self {
            kind: found.kind,
            mode: *mode,
            user: *user,
            group: *group,
            mtime: *mtime,
            rest: rest_of(xattrs, &found.target),
            size: found.size,
            id: found.id,
            ctime: found.ctime,
            racy: found.racy,
            links: found.links,
            content,
        }
    }

    /// Metadata and target are those of `found`.
    pub fn same_meta(&self, found: &Found) -> bool {
        let now = Self::of(found, None);
        (self.mode, self.user, self.group, self.mtime, self.rest)
            == (now.mode, now.user, now.group, now.mtime, now.rest)
    }

    /// What a standby can check before it takes something from this entry.
    pub fn expected(&self) -> TreeExpected {
        let kind = self.kind.into();
        match self.kind {
            TreeKind::File => {
                TreeExpected { kind, size: self.size, mtime_s: self.mtime.s, mtime_ns: self.mtime.ns }
            }
            _ => TreeExpected { kind, ..TreeExpected::default() },
        }
    }
}

/// Mode of an entry whose metadata is not known: nothing on disk has it.
pub const NO_MODE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    parent: NodeId,
    name: Box<[u8]>,
    seen: Seen,
    children: BTreeMap<Box<[u8]>, NodeId>,
}

/// The tree.
#[derive(Debug, Default)]
pub struct Known {
    nodes: HashMap<NodeId, Node>,
    files: HashMap<FileId, Vec<NodeId>>,
    last: u64,
}

impl Known {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True: nothing is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node at `path`.
    pub fn find(&self, path: &TreePath) -> Option<NodeId> {
        let mut at = ROOT;
        if !path.is_root() {
            for name in path.as_bytes().split(|byte| *byte == b'/') {
                at = *self.nodes.get(&at)?.children.get(name)?;
            }
        }
        self.nodes.contains_key(&at).then_some(at)
    }

    /// Where a node is.
    pub fn path(&self, id: NodeId) -> Option<TreePath> {
        let (mut names, mut at) = (Vec::new(), id);
        while at != ROOT {
            let node = self.nodes.get(&at)?;
            names.push(&*node.name);
            at = node.parent;
        }
        names.reverse();
        TreePath::parse(&names.join(&b'/')).ok()
    }

    /// What is known of it.
    pub fn seen(&self, id: NodeId) -> Option<&Seen> {
        self.nodes.get(&id).map(|node| &node.seen)
    }

    /// What is known of `path`.
    pub fn at(&self, path: &TreePath) -> Option<&Seen> {
        self.seen(self.find(path)?)
    }

    /// Parent and name of a node.
    pub fn place(&self, id: NodeId) -> Option<(NodeId, &[u8])> {
        self.nodes.get(&id).map(|node| (node.parent, &*node.name))
    }

    /// The names in a directory.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        self.nodes.get(&id).into_iter().flat_map(|node| node.children.iter().map(|(name, id)| (&**name, *id)))
    }

    /// All names of a file.
    pub fn names(&self, id: FileId) -> &[NodeId] {
        if id.inode == 0 { &[] } else { self.files.get(&id).map_or(&[], Vec::as_slice) }
    }

    /// Has what the standby has at this node other names there, or may it have?
    pub fn is_shared(&self, id: NodeId) -> bool {
        self.seen(id).is_some_and(|seen| match seen.id.inode {
            0 => seen.links > 1,
            _ => self.names(seen.id).len() > 1,
        })
    }

    /// Which file on the active's disk this node was is of no use any more; what the standby has there stays known.
    pub fn set_stranger(&mut self, id: NodeId) {
        if let Some(seen) = self.seen(id).cloned() {
            self.set_seen(id, Seen { id: FileId::default(), links: 2, ..seen });
        }
    }

    /// A node and all below it, parents first.
    pub fn below(&self, id: NodeId) -> Vec<NodeId> {
        let mut all = vec![id];
        let mut next = 0;
        while next < all.len() {
            let children: Vec<_> = self.children(all[next]).map(|(_, child)| child).collect();
            all.extend(children);
            next += 1;
        }
        all
    }

    /// Puts an entry at `path`, or changes what is known of the one there. None: its directory is not known.
    pub fn set(&mut self, path: &TreePath, seen: Seen) -> Option<NodeId> {
        if let Some(id) = self.find(path) {
            self.set_seen(id, seen);
            return Some(id);
        }
        let parent = match path.parent() {
            Some(parent) => self.find(&parent)?,
            None => ROOT,
        };
        let id = if path.is_root() { ROOT } else { NodeId(self.last.max(ROOT.0) + 1) };
        self.insert(id, parent, path.name().unwrap_or_default(), seen);
        Some(id)
    }

    /// Changes what is known of a node. False: there is no such node any more.
    pub fn set_seen(&mut self, id: NodeId, seen: Seen) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let (old, new) = (node.seen.id, seen.id);
        node.seen = seen;
        if old != new {
            self.forget_file(old, id);
            self.files.entry(new).or_default().push(id);
        }
        true
    }

    /// Puts a node as the store remembers it; its parent may come later.
    pub fn insert(&mut self, id: NodeId, parent: NodeId, name: &[u8], seen: Seen) {
        self.last = self.last.max(id.0);
        self.files.entry(seen.id).or_default().push(id);
        if id != ROOT
            && let Some(above) = self.nodes.get_mut(&parent)
        {
            above.children.insert(name.into(), id);
        }
        self.nodes.insert(id, Node { parent, name: name.into(), seen, children: BTreeMap::new() });
    }

    /// Connects nodes that were inserted before their parents; drops those without one and answers how many.
    pub fn connect(&mut self) -> usize {
        let places: Vec<_> =
            self.nodes.iter().map(|(id, node)| (*id, node.parent, node.name.clone())).collect();
        for (id, parent, name) in places {
            if id != ROOT
                && let Some(above) = self.nodes.get_mut(&parent)
            {
                above.children.insert(name, id);
            }
        }
        let before = self.nodes.len();
        let reached: std::collections::HashSet<_> = if self.nodes.contains_key(&ROOT) {
            self.below(ROOT).into_iter().collect()
        } else {
            <_>::default()
        };
        let lost: Vec<_> = self.nodes.keys().filter(|id| !reached.contains(id)).copied().collect();
        for id in lost {
            self.take_out(id);
        }
        before - self.nodes.len()
    }

    /// Takes a node and all below it out; answers how many they were.
    pub fn remove(&mut self, id: NodeId) -> usize {
        let all = self.below(id);
        if let Some((parent, name)) = self.place(id).map(|(parent, name)| (parent, name.to_vec()))
            && let Some(above) = self.nodes.get_mut(&parent)
            && above.children.get(&name[..]) == Some(&id)
        {
            above.children.remove(&name[..]);
        }
        for id in &all {
            self.take_out(*id);
        }
        all.len()
    }

    fn take_out(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.forget_file(node.seen.id, id);
        }
    }

    fn forget_file(&mut self, file: FileId, id: NodeId) {
        if let Some(names) = self.files.get_mut(&file) {
            names.retain(|name| *name != id);
            if names.is_empty() {
                self.files.remove(&file);
            }
        }
    }

    /// A node gets another place; whatever was there must be gone. False: there is no such place.
    pub fn rename(&mut self, id: NodeId, to: &TreePath) -> bool {
        let (Some(parent), Some(name)) = (to.parent().and_then(|parent| self.find(&parent)), to.name())
        else {
            return false;
        };
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let old = (node.parent, std::mem::replace(&mut node.name, name.into()));
        node.parent = parent;
        if let Some(above) = self.nodes.get_mut(&old.0)
            && above.children.get(&old.1) == Some(&id)
        {
            above.children.remove(&old.1);
        }
        self.nodes.get_mut(&parent).expect("it was just found").children.insert(name.into(), id);
        true
    }

    /// Two nodes change places.
    pub fn exchange(&mut self, a: NodeId, b: NodeId) {
        let place = |node: &Node| (node.parent, node.name.clone());
        let (Some(of_a), Some(of_b)) = (self.nodes.get(&a).map(place), self.nodes.get(&b).map(place)) else {
            return;
        };
        for (id, (parent, name)) in [(a, of_b), (b, of_a)] {
            let node = self.nodes.get_mut(&id).expect("it was just there");
            (node.parent, node.name) = (parent, name.clone());
            if let Some(above) = self.nodes.get_mut(&parent) {
                above.children.insert(name, id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn seen(inode: u64) -> Seen {
        Seen {
            kind: TreeKind::Directory,
            mode: 0,
            user: 0,
            group: 0,
            mtime: Mtime::default(),
            rest: 0,
            size: 0,
            id: FileId { inode, born: None },
            ctime: Mtime::default(),
            racy: false,
            links: 1,
            content: None,
        }
    }

    fn known(paths: &[&str]) -> Known {
        let mut known = Known::default();
        for (at, text) in paths.iter().enumerate() {
            known.set(&path(text), seen(at as u64 + 1)).unwrap();
        }
        known
    }

    #[test]
    fn a_renamed_directory_takes_all_below_it_along() {
        let mut known = known(&["", "a", "a/b", "a/b/c", "d"]);
        let b = known.find(&path("a/b")).unwrap();
        assert!(known.rename(b, &path("d/e")));
        assert_eq!(known.find(&path("a/b/c")), None);
        let c = known.find(&path("d/e/c")).unwrap();
        assert_eq!(known.path(c), Some(path("d/e/c")));
        assert!(!known.rename(c, &path("nowhere/c")));
        assert_eq!(known.remove(b), 2);
        assert_eq!((known.len(), known.names(FileId { inode: 4, born: None })), (3, &[][..]));
    }

    #[test]
    fn two_entries_change_places_also_in_one_directory() {
        let mut known = known(&["", "a", "a/x", "b", "a/y"]);
        let [x, y, b] = ["a/x", "a/y", "b"].map(|text| known.find(&path(text)).unwrap());
        known.exchange(x, y);
        assert_eq!((known.find(&path("a/x")), known.find(&path("a/y"))), (Some(y), Some(x)));
        known.exchange(x, b);
        assert_eq!((known.find(&path("a/y")), known.find(&path("b"))), (Some(b), Some(x)));
    }

    #[test]
    fn nodes_without_a_parent_are_dropped_after_loading() {
        let mut known = Known::default();
        known.insert(NodeId(3), NodeId(2), b"x", seen(3));
        known.insert(NodeId(2), ROOT, b"d", seen(2));
        known.insert(ROOT, ROOT, b"", seen(1));
        known.insert(NodeId(9), NodeId(8), b"lost", seen(9));
        assert_eq!(known.connect(), 1);
        assert_eq!(known.find(&path("d/x")), Some(NodeId(3)));
        assert_eq!(known.set(&path("new"), seen(20)), Some(NodeId(10)), "numbers are not used again");
    }
}

//! Whatever is found on disk, the plan's operations bring the standby there.

use super::*;
use crate::files::disk::{FileId, Found};
use crate::files::index::{Doubts, Known, Seen};
use crate::files::{Meta, Mtime, TreePath};
use lockstep_wire::TreeKind;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn entry(kind: TreeKind, inode: u64) -> Found {
    Found {
        kind,
        meta: Meta { mtime: Mtime { s: inode as i64, ns: 0 }, ..Meta::default() },
        size: if kind == TreeKind::File { inode } else { 0 },
        target: Vec::new(),
        id: FileId { inode, born: None },
        ctime: Mtime::default(),
        racy: false,
        links: 1,
        device: (0, 0),
    }
}

/// A directory ends with a slash.
fn tree(entries: &[(&str, u64)]) -> BTreeMap<TreePath, Found> {
    let one = |(text, inode): &(&str, u64)| {
        let kind = if text.ends_with('/') || text.is_empty() { TreeKind::Directory } else { TreeKind::File };
        (path(text.trim_end_matches('/')), entry(kind, *inode))
    };
    entries.iter().map(one).collect()
}

fn known_of(tree: &BTreeMap<TreePath, Found>) -> Known {
    let mut known = Known::default();
    for (path, found) in tree {
        known.set(path, Seen::of(found, None)).unwrap();
    }
    known
}

/// Looks at everything that is or was.
fn facts_of(before: &BTreeMap<TreePath, Found>, after: &BTreeMap<TreePath, Found>) -> Facts {
    let mut facts = Facts::default();
    for path in before.keys().chain(after.keys()) {
        facts.add(path.clone(), after.get(path).cloned(), false);
    }
    facts
}

/// Carries a plan out on a copy of the tree, and refuses what a file system would refuse.
fn carry_out(
    before: &BTreeMap<TreePath, Found>,
    after: &BTreeMap<TreePath, Found>,
    plan: &Plan,
) -> BTreeMap<TreePath, Found> {
    let mut tree = before.clone();
    let take = |tree: &mut BTreeMap<TreePath, Found>, at: &TreePath| -> Vec<(TreePath, Found)> {
        let paths: Vec<_> = tree.keys().filter(|path| path.is_in(at)).cloned().collect();
        paths.into_iter().map(|path| (path.clone(), tree.remove(&path).unwrap())).collect()
    };
    for step in &plan.steps {
        let at = &step.path;
        if let Some(parent) = at.parent() {
            let above = tree.get(&parent).unwrap_or_else(|| panic!("{step:?}: no directory"));
            assert_eq!(above.kind, TreeKind::Directory, "{step:?}");
        }
        match &step.op {
            Op::Rename(from) => {
                assert!(!at.is_in(from) && !from.is_in(at), "{step:?}");
                let moving = take(&mut tree, from);
                assert!(!moving.is_empty(), "{step:?}: nothing to rename");
                take(&mut tree, at);
                tree.extend(moving.into_iter().map(|(path, found)| (path.moved(from, at).unwrap(), found)));
            }
            Op::Exchange(from) => {
                assert!(!at.is_in(from) && !from.is_in(at), "{step:?}");
                let (one, other) = (take(&mut tree, from), take(&mut tree, at));
                assert!(!one.is_empty() && !other.is_empty(), "{step:?}");
                tree.extend(one.into_iter().map(|(path, found)| (path.moved(from, at).unwrap(), found)));
                tree.extend(other.into_iter().map(|(path, found)| (path.moved(at, from).unwrap(), found)));
            }
            Op::Link(from) => {
                let found = tree.get(from).unwrap_or_else(|| panic!("{step:?}: nothing to link to")).clone();
                take(&mut tree, at);
                tree.insert(at.clone(), found);
            }
            Op::Remove => drop(take(&mut tree, at)),
            Op::Directory => {
                if tree.get(at).is_some_and(|there| there.kind != TreeKind::Directory) {
                    take(&mut tree, at);
                }
                tree.insert(at.clone(), after[at].clone());
            }
            Op::Content { .. } | Op::Symlink | Op::Fifo => {
                take(&mut tree, at);
                tree.insert(at.clone(), after[at].clone());
            }
            Op::Meta | Op::Note => {
                tree.insert(at.clone(), after[at].clone());
            }
        }
    }
    tree
}

/// Plans until nothing more is to be looked at.
fn converge(before: &BTreeMap<TreePath, Found>, after: &BTreeMap<TreePath, Found>) -> Vec<Step> {
    let mut known = known_of(before);
    let (mut there, mut steps) = (before.clone(), Vec::new());
    for _round in 0..4 {
        let made = plan(&mut known, &facts_of(&there, after), &Doubts::default());
        there = carry_out(&there, after, &made);
        steps.extend(made.steps);
        // Whoever reads a file knows it then.
        for (path, found) in after.iter().filter(|(_, found)| found.kind == TreeKind::File) {
            if known.at(path).is_some_and(|seen| seen.id == found.id) {
                known.set(path, Seen::of(found, None));
            }
        }
        if made.below.is_empty() && made.again.is_empty() {
            break;
        }
    }
    let shape = |tree: &BTreeMap<TreePath, Found>| -> Vec<(TreePath, TreeKind, u64)> {
        tree.iter().map(|(path, found)| (path.clone(), found.kind, found.size)).collect()
    };
    assert_eq!(shape(&there), shape(after), "{steps:#?}");
    for (path, found) in after {
        let known = known.at(path).unwrap_or_else(|| panic!("{path} is not known: {steps:#?}"));
        assert_eq!((known.kind, known.id), (found.kind, found.id), "{path}: {steps:#?}");
    }
    assert_eq!(known.len(), after.len());
    steps
}

fn ops(steps: &[Step]) -> Vec<(Op, String)> {
    let sent = steps.iter().filter(|step| !matches!(step.op, Op::Note | Op::Meta));
    sent.map(|step| (step.op.clone(), step.path.to_string())).collect()
}

#[test]
fn a_renamed_directory_is_one_operation() {
    let before = tree(&[("", 1), ("a/", 2), ("a/x", 3), ("a/y/", 4), ("a/y/z", 5)]);
    let after = tree(&[("", 1), ("b/", 2), ("b/x", 3), ("b/y/", 4), ("b/y/z", 5)]);
    assert_eq!(ops(&converge(&before, &after)), [(Op::Rename(path("a")), "b".into())]);
}

#[test]
fn entries_that_changed_places_are_exchanged() {
    let before = tree(&[("", 1), ("a/", 2), ("a/x", 3), ("b", 4), ("c", 5)]);
    let after = tree(&[("", 1), ("b/", 2), ("b/x", 3), ("c", 4), ("a", 5)]);
    let steps = ops(&converge(&before, &after));
    assert!(steps.iter().all(|(op, _)| matches!(op, Op::Exchange(_) | Op::Rename(_))), "{steps:?}");
}

#[test]
fn what_leaves_a_removed_directory_is_renamed_before_the_rest_is_removed() {
    let before = tree(&[("", 1), ("a/", 2), ("a/x", 3), ("a/y", 4)]);
    let after = tree(&[("", 1), ("x", 3)]);
    let steps = ops(&converge(&before, &after));
    assert_eq!(steps, [(Op::Rename(path("a/x")), "x".into()), (Op::Remove, "a".into())]);
}

#[test]
fn another_name_is_a_link_and_a_change_of_the_file_links_all_names_anew() {
    let before = tree(&[("", 1), ("a", 2)]);
    let mut after = tree(&[("", 1), ("a", 2), ("b", 2)]);
    after.values_mut().for_each(|found| found.links = 2);
    assert_eq!(ops(&converge(&before, &after)), [(Op::Link(path("a")), "b".into())]);
    let mut changed = after.clone();
    for name in ["a", "b"] {
        changed.get_mut(&path(name)).unwrap().size = 77;
    }
    let mut known = known_of(&after);
    let steps = plan(&mut known, &facts_of(&after, &changed), &Doubts::default()).steps;
    assert_eq!(
        ops(&steps)[..2],
        [(Op::Content { always: false }, "a".into()), (Op::Link(path("a")), "b".into())]
    );
}

#[test]
fn blocks_are_not_taken_from_where_a_file_comes_to_by_the_same_batch() {
    let before = tree(&[("", 1), ("a/", 2), ("a/x", 300_000), ("a/y", 400_000)]);
    let mut after = tree(&[("", 1), ("b/", 2), ("b/x", 300_000), ("b/y", 500_000)]);
    after.get_mut(&path("b/x")).unwrap().size += 1;
    let mut known = known_of(&before);
    let made = plan(&mut known, &facts_of(&before, &after), &Doubts::default());
    assert_eq!(ops(&made.steps), [(Op::Rename(path("a")), "b".into())]);
    assert_eq!(made.again, [path("b/x"), path("b/y")]);
}

#[test]
fn a_doubt_about_content_goes_along_with_a_rename_and_counts_for_every_name() {
    let before = tree(&[("", 1), ("a", 2), ("k", 3), ("l", 3)]);
    let after = tree(&[("", 1), ("b", 2), ("k", 3)]);
    let mut facts = Facts::default();
    for (at, content) in [("a", true), ("b", false), ("k", false), ("l", true)] {
        facts.add(path(at), after.get(&path(at)).cloned(), content);
    }
    let steps = plan(&mut known_of(&before), &facts, &Doubts::default()).steps;
    let content = |at: &str| (Op::Content { always: false }, at.to_owned());
    assert_eq!(
        ops(&steps),
        [(Op::Rename(path("a")), "b".into()), content("b"), content("k"), (Op::Remove, "l".into())]
    );
}

#[test]
fn a_file_whose_times_cannot_tell_is_read_again() {
    let before = tree(&[("", 1), ("a", 2)]);
    let mut known = known_of(&before);
    let seen = known.at(&path("a")).unwrap().clone();
    known.set(&path("a"), Seen { racy: true, ..seen });
    let steps = plan(&mut known, &facts_of(&before, &before), &Doubts::default()).steps;
    assert_eq!(ops(&steps), [(Op::Content { always: false }, "a".into())]);
}

#[test]
fn another_name_of_what_just_gave_way_becomes_a_link() {
    let fifo = |inode| Found { links: 2, ..entry(TreeKind::Fifo, inode) };
    let mut before = tree(&[("", 1), ("a", 2)]);
    before.insert(path("b"), fifo(3));
    let mut after = tree(&[("", 1), ("c", 2)]);
    after.extend([(path("a"), fifo(3)), (path("d"), fifo(3))]);
    let steps = ops(&converge(&before, &after));
    assert!(!steps.iter().any(|(op, _)| *op == Op::Fifo), "{steps:?}");
}

#[test]
fn a_new_file_of_the_same_number_leaves_no_other_name_behind_as_one_of_it() {
    // `b` is the same file on the standby as `a`; here it was looked at in vain.
    let before = tree(&[("", 1), ("a", 2), ("b", 2)]);
    let mut known = known_of(&before);
    let mut facts = Facts::default();
    facts.add(path("a"), Some(Found { size: 77, ..entry(TreeKind::File, 2) }), true);
    let made = plan(&mut known, &facts, &Doubts::default());
    assert_eq!(ops(&made.steps), [(Op::Content { always: false }, "a".into())]);
    assert_eq!((known.at(&path("b")).unwrap().id, &made.again[..]), (FileId::default(), &[path("b")][..]));
    assert!(known.is_shared(known.find(&path("b")).unwrap()), "its content is sent as a file of its own");
}

#[test]
fn a_directory_that_takes_a_doubt_along_is_replaced_there() {
    let before = tree(&[("", 1), ("a/", 2), ("a/x", 3)]);
    let after = tree(&[("", 1), ("b/", 2), ("b/x", 3), ("b/d/", 4)]);
    let doubts: Doubts = [path("a/d")].into_iter().collect();
    let steps = plan(&mut known_of(&before), &facts_of(&before, &after), &doubts).steps;
    let expected = [(Op::Rename(path("a")), "b"), (Op::Remove, "b/d"), (Op::Directory, "b/d")];
    assert_eq!(ops(&steps), expected.map(|(op, at)| (op, at.to_owned())));
}

#[test]
fn a_directory_in_the_place_of_what_it_lay_in_and_the_other_way_round() {
    let before = tree(&[("", 1), ("a/", 2), ("a/b/", 3), ("a/b/x", 4)]);
    converge(&before, &tree(&[("", 1), ("a/", 3), ("a/x", 4)]));
    converge(&before, &tree(&[("", 1), ("b/", 3), ("b/a/", 2), ("b/x", 4)]));
    converge(&before, &tree(&[("", 1), ("a/", 9), ("a/a/", 2), ("a/a/b/", 3), ("a/a/b/x", 4)]));
}

/// Some tree: for each node a parent among those before it, and a name.
fn any_tree(choices: &[(u8, u8, bool)]) -> BTreeMap<TreePath, Found> {
    let mut directories = vec![TreePath::root()];
    let mut tree = tree(&[("", 1)]);
    for (at, (parent, name, directory)) in choices.iter().enumerate() {
        let parent = &directories[usize::from(*parent) % directories.len()];
        let path = parent.join(&[b'a' + name % 4]).unwrap();
        if tree.contains_key(&path) {
            continue;
        }
        let kind = if *directory { TreeKind::Directory } else { TreeKind::File };
        tree.insert(path.clone(), entry(kind, at as u64 + 2));
        if *directory {
            directories.push(path);
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_tree_becomes_any_other(
        before in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..12),
        after in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<bool>(), 0..14_u64), 0..12),
    ) {
        let before = any_tree(&before);
        let shape: Vec<_> = after.iter().map(|(parent, name, directory, _)| (*parent, *name, *directory)).collect();
        let mut after_tree = any_tree(&shape);
        // Some entries of the new tree are those of the old one, of the same kind, each at most once.
        let mut used = HashSet::from([1]);
        for (found, (.., inode)) in after_tree.values_mut().skip(1).zip(&after) {
            let known = before.values().find(|old| old.id.inode == *inode && old.kind == found.kind);
            let inode = if known.is_some() && used.insert(*inode) { *inode } else { 1000 + found.id.inode };
            *found = entry(found.kind, inode);
        }
        converge(&before, &after_tree);
    }
}

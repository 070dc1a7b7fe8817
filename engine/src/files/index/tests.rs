//! The store never claims more than the standby acknowledged, whatever happened to an answer.

use super::*;
use crate::files::disk::FileId;
use crate::files::{Mtime, TreePath};
use lockstep_wire::TreeKind;

fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

fn seen(kind: TreeKind) -> Seen {
    Seen {
        kind,
        mode: 0o644,
        user: 1,
        group: 2,
        mtime: Mtime { s: 3, ns: 4 },
        rest: 5,
        size: 6,
        id: FileId { inode: 7, born: Some(Mtime { s: 8, ns: 9 }) },
        ctime: Mtime { s: 10, ns: 11 },
        racy: true,
        links: 12,
        content: None,
    }
}

/// A directory ends with a slash.
fn filled(store: &mut Store, texts: &[&str]) -> Known {
    let mut known = Known::default();
    known.set(&TreePath::root(), seen(TreeKind::Directory));
    for text in texts {
        let kind = if text.ends_with('/') { TreeKind::Directory } else { TreeKind::File };
        known.set(&path(text.trim_end_matches('/')), seen(kind)).unwrap();
    }
    let all = known.below(ROOT).into_iter().filter_map(|id| crate::files::plan::change_of(&known, id));
    store.answered(1, &all.collect::<Vec<_>>(), None).unwrap();
    known
}

fn paths(known: &Known) -> Vec<String> {
    let mut paths: Vec<_> =
        known.below(ROOT).iter().filter_map(|id| known.path(*id)).map(|path| path.to_string()).collect();
    paths.sort();
    paths
}

#[test]
fn what_is_doubted_is_known_no_more_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("index.db");
    let mut store = Store::open(&file).unwrap();
    filled(&mut store, &["a/", "a/x", "a/y/", "a/y/z", "b"]);
    let doubts: Doubts = [path("a/y"), path("b"), path("c")].into_iter().collect();
    store.answered(2, &[], Some(&doubts)).unwrap();
    drop(store);
    let store = Store::open(&file).unwrap();
    assert_eq!(paths(&store.load().unwrap()), [".", "a", "a/x"]);
    assert_eq!(store.doubts().unwrap(), doubts);
    assert_eq!(store.load().unwrap().at(&path("a/x")), Some(&seen(TreeKind::File)));
}

#[test]
fn what_an_unanswered_batch_touched_is_in_doubt_if_it_may_be_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("index.db")).unwrap();
    filled(&mut store, &["a/", "a/x", "b", "c/", "c/x", "d"]);
    let touched = |text: &str, meta| Touched { path: path(text), meta };
    store.sending(2, &[touched("a", true), touched("b", true), touched("c", false)]).unwrap();
    store.sending(3, &[touched("d", false)]).unwrap();
    let looks = store.resume(2, false).unwrap();
    assert_eq!(looks, ["a", "b", "c", "d"].map(path));
    let known = store.load().unwrap();
    assert_eq!(paths(&known), [".", "a", "a/x", "d"], "batch 3 never arrived");
    assert_eq!(known.at(&path("a")).unwrap().mode, NO_MODE, "what is in the directory is still known");
    assert_eq!(store.doubts().unwrap(), [path("b"), path("c")].into_iter().collect());
    assert_eq!((store.identity().acked, store.identity().sent), (2, 2));
    store.sending(3, &[touched("d", false)]).unwrap();
    store.resume(2, true).unwrap();
    assert!(store.doubts().unwrap().contains(&path("d")), "it was interrupted");
}

//! What a batch does to a tree, what is refused, and what a crash leaves.

use super::*;
use crate::files::{Meta, Xattrs};
use lockstep_wire::{TreeExpected, TreeMeta, pack};
use std::collections::BTreeMap;
use std::fs as std_fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

const INDEX: u64 = 7;

/// A tree with an applier, and the batches it was sent.
struct Tree {
    dir: TempDir,
    applier: Applier,
    batch: u64,
}

fn config(dir: &TempDir) -> ApplyConfig {
    ApplyConfig {
        root: dir.path().join("tree"),
        state_dir: dir.path().join("state"),
        untouchable: vec![TreePath::parse(b"data/shop.db").unwrap()],
        sync_each_max: SYNC_EACH_MAX,
    }
}

fn meta(mode: u32, s: i64) -> TreeMeta {
    Meta { mode, mtime: Mtime { s, ns: 5 }, ..own() }.to_wire()
}

/// Metadata with this process's user and group.
fn own() -> Meta {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Meta { mode: 0o644, user, group, mtime: Mtime { s: 1_000, ns: 5 }, xattrs: Xattrs::new() }
}

fn op(kind: TreeOpKind, path: &str) -> TreeOp {
    TreeOp { kind: kind.into(), path: Bytes::copy_from_slice(path.as_bytes()), ..TreeOp::default() }
}

fn put(path: &str, data: &str) -> TreeOp {
    let (data, content) = (Bytes::copy_from_slice(data.as_bytes()), ContentHash::of(data.as_bytes()));
    TreeOp {
        meta: Some(meta(0o644, 1_000)),
        data,
        content: content.0.to_vec().into(),
        ..op(TreeOpKind::Put, path)
    }
}

fn directory(path: &str, s: i64) -> TreeOp {
    TreeOp { meta: Some(meta(0o750, s)), ..op(TreeOpKind::Directory, path) }
}

fn from(kind: TreeOpKind, path: &str, from: &str) -> TreeOp {
    TreeOp { from: Bytes::copy_from_slice(from.as_bytes()), ..op(kind, path) }
}

/// A file in pieces: (offset, data) or (offset, length to keep).
fn pieces(begin: TreeOp, pieces: &[(u64, Result<&[u8], u64>)], whole: &[u8]) -> Vec<TreeOp> {
    let mut ops = vec![TreeOp { meta: Some(meta(0o600, 9)), size: whole.len() as u64, ..begin }];
    for (offset, piece) in pieces {
        ops.push(match piece {
            Ok(data) => {
                let data = Bytes::copy_from_slice(data);
                TreeOp { offset: *offset, data, ..op(TreeOpKind::Data, "") }
            }
            Err(length) => TreeOp { offset: *offset, length: *length, ..op(TreeOpKind::Keep, "") },
        });
    }
    ops.push(TreeOp { content: ContentHash::of(whole).0.to_vec().into(), ..op(TreeOpKind::End, "") });
    ops
}

impl Tree {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let applier = Applier::open(config(&dir)).unwrap();
        Self { dir, applier, batch: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    fn try_send(&mut self, ops: Vec<TreeOp>) -> Result<Vec<TreeFailure>, ApplyError> {
        let batch = self.batch + 1;
        let acks = self.applier.take(TreeOps { index: INDEX, batch, ops: pack(ops), last: true }, 1)?;
        self.batch = batch;
        assert_eq!(acks.last().map(|ack| (ack.index, ack.batch, ack.more)), Some((INDEX, batch, false)));
        Ok(acks.into_iter().flat_map(|ack| unpack(ack.failures)).collect::<Result<_, _>>().unwrap())
    }

    /// Sends a batch that must be put in place as a whole.
    fn send(&mut self, ops: Vec<TreeOp>) {
        assert_eq!(self.try_send(ops).unwrap(), []);
    }

    fn reasons(&mut self, ops: Vec<TreeOp>) -> Vec<(String, TreeReason)> {
        let failures = self.try_send(ops).unwrap();
        let text = |failure: &TreeFailure| String::from_utf8_lossy(&failure.path).into_owned();
        failures.iter().map(|failure| (text(failure), failure.reason())).collect()
    }

    fn read(&self, name: &str) -> String {
        std_fs::read_to_string(self.path(name)).unwrap_or_else(|error| format!("{error}"))
    }

    fn mtime(&self, name: &str) -> (i64, i64) {
        let stat = std_fs::symlink_metadata(self.path(name)).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    }

    /// Everything below a directory, by path.
    fn listing(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut left = vec![root.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std_fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let stat = std_fs::symlink_metadata(&path).unwrap();
                let content = if stat.is_file() { std_fs::read(&path).unwrap() } else { Vec::new() };
                if stat.is_dir() {
                    left.push(path.clone());
                }
                found.insert(path, (stat.mode(), content));
            }
        }
        found
    }
}

#[test]
fn every_type_arrives_with_its_metadata_and_directories_keep_their_times() {
    let mut tree = Tree::new();
    let with = Meta { xattrs: [(b"user.a".to_vec(), b"1".to_vec())].into(), mode: 0o4755, ..own() };
    tree.send(vec![
        directory("a", 50),
        directory("a/b", 60),
        TreeOp { meta: Some(with.to_wire()), ..put("a/b/file", "hello") },
        TreeOp { meta: Some(meta(0, 70)), data: "../x".into(), ..op(TreeOpKind::Symlink, "a/link") },
        TreeOp { meta: Some(meta(0o620, 80)), ..op(TreeOpKind::Fifo, "a/fifo") },
        from(TreeOpKind::Link, "a/second", "a/b/file"),
        TreeOp { meta: Some(meta(0o751, 90)), ..op(TreeOpKind::Meta, "") },
    ]);
    assert_eq!(tree.read("a/b/file"), "hello");
    let stat = std_fs::metadata(tree.path("a/second")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o4755, 2));
    assert_eq!(std_fs::read_link(tree.path("a/link")).unwrap(), Path::new("../x"));
    assert!(std_fs::metadata(tree.path("a/fifo")).unwrap().file_type().is_fifo());
    let times = ["a", "a/b", "a/link", "a/fifo", "a/b/file", ""].map(|name| tree.mtime(name));
    assert_eq!(times, [(50, 5), (60, 5), (70, 5), (80, 5), (1_000, 5), (90, 5)]);
    let handle = tree.applier.root().handle(&TreePath::parse(b"a/b/file").unwrap()).unwrap();
    let stat = fs::fstat(&handle).unwrap();
    let opened = crate::files::Opened::handle(rustix::fd::AsFd::as_fd(&handle), &stat);
    assert_eq!(opened.read(&stat).unwrap(), with);

    tree.send(vec![put("a/b/file", "again"), op(TreeOpKind::Remove, "a/fifo")]);
    assert_eq!(tree.read("a/b/file"), "again");
    assert_eq!(tree.read("a/second"), "hello", "the other name is another file now");
    assert_eq!([tree.mtime("a"), tree.mtime("a/b")], [(50, 5), (60, 5)], "unless the active says otherwise");
}

#[test]
fn renames_exchanges_and_type_changes_move_whole_directories() {
    let mut tree = Tree::new();
    tree.send(vec![directory("a", 1), directory("a/in", 2), put("a/in/x", "x"), put("b", "b")]);
    tree.send(vec![from(TreeOpKind::Rename, "c", "a"), put("c/in/y", "y"), directory("a", 3)]);
    assert_eq!((tree.read("c/in/x"), tree.read("c/in/y")), ("x".into(), "y".into()));
    assert_eq!([tree.mtime("a"), tree.mtime("c"), tree.mtime("c/in")], [(3, 5), (1, 5), (2, 5)]);
    tree.send(vec![from(TreeOpKind::Exchange, "b", "c"), put("b/in/z", "z")]);
    assert_eq!((tree.read("c"), tree.read("b/in/z")), ("b".into(), "z".into()));
    tree.send(vec![put("b", "a file now"), directory("c", 4), put("c/new", "new")]);
    assert_eq!((tree.read("b"), tree.read("c/new")), ("a file now".into(), "new".into()));
    tree.send(vec![directory("full", 1), put("full/old", "old"), from(TreeOpKind::Rename, "full", "c")]);
    assert_eq!(tree.read("full/new"), "new");
    assert!(!tree.path("full/old").exists() && !tree.path("c").exists());
    tree.send(vec![from(TreeOpKind::Link, "one", "b"), from(TreeOpKind::Rename, "one", "b")]);
    assert!(tree.path("one").exists() && !tree.path("b").exists(), "two names of one file");
    tree.send(vec![op(TreeOpKind::Remove, "full"), op(TreeOpKind::Remove, "never/was")]);
    tree.applier.tidy();
    let mut left: Vec<_> = Tree::listing(&tree.path("")).into_keys().collect();
    left.retain(|path| !path.starts_with(tree.path(".lockstep")));
    assert_eq!(left, [tree.path("a"), tree.path("one")]);
    assert_eq!(std_fs::read_dir(tree.path(".lockstep/staging")).unwrap().count(), 0);
}

#[test]
fn a_file_in_pieces_keeps_holes_and_parts_of_the_one_before() {
    const MIB: usize = 1 << 20;
    let mut tree = Tree::new();
    let mut whole = vec![0; 4 * MIB];
    whole[MIB..MIB + 5].copy_from_slice(b"hello");
    let begin = op(TreeOpKind::Begin, "big");
    tree.send(pieces(begin.clone(), &[(MIB as u64, Ok(b"hello"))], &whole));
    assert_eq!(std_fs::read(tree.path("big")).unwrap(), whole);
    assert!(std_fs::metadata(tree.path("big")).unwrap().blocks() * 512 < MIB as u64, "holes stay holes");

    let mut second = whole[..3 * MIB].to_vec();
    second[2 * MIB..2 * MIB + 3].copy_from_slice(b"new");
    let expected = TreeExpected { kind: 1, size: whole.len() as u64, mtime_s: 9, mtime_ns: 5 };
    let keep = TreeOp { from: "big".into(), expected: Some(expected), ..begin };
    let changed = [
        (0, Err(2 * MIB as u64)),
        (2 * MIB as u64, Ok(&b"new"[..])),
        (2 * MIB as u64 + 3, Err(MIB as u64 - 3)),
    ];
    tree.send(pieces(keep.clone(), &changed, &second));
    assert_eq!(std_fs::read(tree.path("big")).unwrap(), second);
    assert!(std_fs::metadata(tree.path("big")).unwrap().blocks() * 512 < MIB as u64, "kept holes stay holes");

    let stale = pieces(keep.clone(), &changed, &second);
    assert_eq!(tree.reasons(stale), [("big".to_owned(), TreeReason::Differs)]);
    let beyond = pieces(TreeOp { expected: None, ..keep }, &[(0, Err(4 * MIB as u64))], &whole);
    assert_eq!(tree.reasons(beyond), [("big".to_owned(), TreeReason::Differs)]);
    assert_eq!(std_fs::read(tree.path("big")).unwrap(), second, "what failed changed nothing");
}

#[test]
fn what_cannot_be_done_is_named_and_the_rest_is_done() {
    let mut tree = Tree::new();
    tree.send(vec![put("there", "there"), directory("data", 1), put("data/note", "n")]);
    std_fs::write(tree.path("data/shop.db"), "a database").unwrap();
    let wrong = TreeOp { content: vec![0; 16].into(), ..put("wrong", "x") };
    let other = TreeExpected { kind: 1, size: 77, mtime_s: 0, mtime_ns: 0 };
    let failures = tree.reasons(vec![
        wrong,
        put("none/x", "x"),
        put("there/x", "x"),
        from(TreeOpKind::Rename, "y", "none"),
        TreeOp { expected: Some(other), ..from(TreeOpKind::Rename, "y", "there") },
        TreeOp { expected: Some(other), ..from(TreeOpKind::Link, "y", "there") },
        op(TreeOpKind::Remove, "data"),
        put("data/shop.db", "x"),
        from(TreeOpKind::Rename, "away", "data"),
        TreeOp { meta: Some(meta(0o600, 1)), ..op(TreeOpKind::Meta, "none") },
        put("good", "good"),
    ]);
    let expected = [
        ("wrong", TreeReason::Content),
        ("data", TreeReason::Denied),
        ("data/shop.db", TreeReason::Denied),
        ("data", TreeReason::Denied),
        ("none/x", TreeReason::Missing),
        ("there/x", TreeReason::Missing),
        ("y", TreeReason::Missing),
        ("y", TreeReason::Differs),
        ("y", TreeReason::Differs),
        ("none", TreeReason::Missing),
    ];
    let told: Vec<_> = failures.iter().map(|(path, reason)| (path.as_str(), *reason)).collect();
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (path, reason) in expected.iter().filter(|(path, _)| *path != "data") {
        assert!(told.contains(&(*path, *reason)), "{path} {reason:?} in {told:?}");
    }
    assert_eq!((tree.read("good"), tree.read("there")), ("good".into(), "there".into()));
    assert_eq!((tree.read("data/shop.db"), tree.read("data/note")), ("a database".into(), "n".into()));
    tree.send(vec![
        directory("data", 8),
        TreeOp { meta: Some(meta(0o700, 9)), ..op(TreeOpKind::Meta, "data") },
    ]);
}

/// Paths and extents that lie end the connection; nothing is written outside of the root, whatever came before.
#[test]
fn a_hostile_active_writes_nothing_outside_of_the_root() {
    let mut tree = Tree::new();
    tree.send(vec![directory("a", 1), put("a/file", "file")]);
    let outside = TempDir::new().unwrap();
    std_fs::write(outside.path().join("kept"), "kept").unwrap();
    symlink(outside.path(), tree.path("away")).unwrap();
    symlink(outside.path().join("kept"), tree.path("to-file")).unwrap();
    let before = Tree::listing(outside.path());
    for hostile in ["../x", "a/../../x", "/tmp/x", "a\0b", "", ".lockstep/batch", "a//b", "a/./b"] {
        for ops in [
            vec![put(hostile, "x")],
            vec![directory(hostile, 1)],
            vec![op(TreeOpKind::Remove, hostile)],
            vec![from(TreeOpKind::Rename, hostile, "a")],
            vec![from(TreeOpKind::Rename, "b", hostile)],
            vec![from(TreeOpKind::Link, "b", hostile)],
            vec![from(TreeOpKind::Exchange, "a", hostile)],
        ] {
            let refused = tree.try_send(ops.clone());
            assert!(matches!(refused, Err(ApplyError::Op(OpError::Path { .. }))), "{ops:?}: {refused:?}");
        }
    }
    let through = [
        put("away/x", "x"),
        directory("away/d", 1),
        op(TreeOpKind::Remove, "away/kept"),
        from(TreeOpKind::Rename, "mine", "away/kept"),
        from(TreeOpKind::Rename, "away/file", "a/file"),
        from(TreeOpKind::Link, "mine", "away/kept"),
        from(TreeOpKind::Exchange, "a/file", "away/kept"),
        TreeOp { meta: Some(meta(0o777, 1)), ..op(TreeOpKind::Meta, "away/kept") },
    ];
    for hostile in through {
        // What is removed through a symlink is not there.
        let told = tree.reasons(vec![hostile.clone()]);
        let reasons: Vec<_> = told.iter().map(|(_, reason)| *reason).collect();
        assert_eq!(reasons, [TreeReason::Symlink], "{hostile:?}");
    }
    let keep = TreeOp { from: "away/kept".into(), ..op(TreeOpKind::Begin, "mine") };
    assert_eq!(tree.reasons(pieces(keep, &[(0, Err(4))], b"kept")), [("mine".into(), TreeReason::Symlink)]);
    let keep = TreeOp { from: "to-file".into(), ..op(TreeOpKind::Begin, "mine") };
    assert_eq!(tree.reasons(pieces(keep, &[(0, Err(4))], b"kept")), [("mine".into(), TreeReason::Differs)]);
    tree.send(vec![
        TreeOp { meta: Some(meta(0, 1)), ..op(TreeOpKind::Meta, "to-file") },
        put("away", "mine"),
    ]);
    assert_eq!(Tree::listing(outside.path()), before);
    assert_eq!((tree.read("away"), tree.read("a/file")), ("mine".into(), "file".into()));
}

/// A second thread swaps a directory of the tree and a symlink that leads outside, as fast as it can.
#[test]
fn a_symlink_swapped_in_under_a_directory_leads_nowhere() {
    let mut tree = Tree::new();
    let outside = TempDir::new().unwrap();
    tree.send(vec![directory("d", 1), directory("d/in", 1)]);
    symlink(outside.path(), tree.path("link")).unwrap();
    std_fs::create_dir(outside.path().join("in")).unwrap();
    let (d, link) = (tree.path("d"), tree.path("link"));
    let stop = AtomicBool::new(false);
    let mut reasons = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::renameat_with(fs::CWD, &d, fs::CWD, &link, fs::RenameFlags::EXCHANGE).unwrap();
            }
        });
        for round in 0..300 {
            let ops = vec![
                put(&format!("d/in/{round}"), "x"),
                op(TreeOpKind::Remove, "d/in/kept"),
                directory(&format!("d/in/d{round}"), 1),
            ];
            reasons.extend(tree.try_send(ops).unwrap().iter().map(TreeFailure::reason));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(Tree::listing(outside.path()).into_keys().eq([outside.path().join("in")]));
    let symlinks = reasons.iter().filter(|reason| **reason == TreeReason::Symlink).count();
    assert!(symlinks > 0, "the swap was met at least once in 900 operations: {reasons:?}");
}

#[test]
fn extents_batches_and_sequences_that_lie_are_refused() {
    let begin = || TreeOp { meta: Some(meta(0o600, 1)), size: 10, ..op(TreeOpKind::Begin, "file") };
    let data = |offset, data: &'static str| TreeOp { offset, data: data.into(), ..op(TreeOpKind::Data, "") };
    let keep = |offset, length| TreeOp { offset, length, ..op(TreeOpKind::Keep, "") };
    let end = || TreeOp { content: vec![0; 16].into(), ..op(TreeOpKind::End, "") };
    let many = || (0..=MAX_TREE_BATCH_OPS).map(|_| op(TreeOpKind::Remove, "x")).collect();
    let hostile: Vec<Vec<TreeOp>> = vec![
        vec![begin(), data(0, "more than ten bytes"), end()],
        vec![begin(), data(u64::MAX, "x"), end()],
        vec![begin(), data(5, "x"), data(5, "x"), end()],
        vec![begin(), keep(1, u64::MAX), end()],
        vec![begin(), keep(0, 11), end()],
        vec![TreeOp { size: u64::MAX, ..begin() }],
        vec![begin()],
        vec![begin(), put("x", "x")],
        vec![begin(), begin()],
        vec![data(0, "x")],
        vec![end()],
        many(),
    ];
    let mut tree = Tree::new();
    for ops in hostile {
        let refused = tree.try_send(ops.clone());
        assert!(matches!(refused, Err(ApplyError::Op(_))), "{:?}: {refused:?}", &ops[..ops.len().min(3)]);
    }
    for (index, batch) in [(INDEX, 0), (0, 1), (INDEX + 1, 0)] {
        let ops = TreeOps { index, batch, ops: Bytes::new(), last: true };
        assert!(matches!(tree.applier.take(ops, 1), Err(ApplyError::Op(OpError::Batch { .. }))));
    }
    tree.send(vec![]);
    for batch in [1, 3] {
        let ops = TreeOps { index: INDEX, batch, ops: Bytes::new(), last: true };
        assert!(matches!(tree.applier.take(ops, 1), Err(ApplyError::Op(OpError::Batch { .. }))));
    }
    let malformed = TreeOps { index: INDEX, batch: 2, ops: vec![9, 9].into(), last: true };
    assert!(matches!(tree.applier.take(malformed, 1), Err(ApplyError::Op(OpError::Malformed))));
    let deep: String = vec!["d"; 257].join("/");
    assert!(matches!(tree.try_send(vec![put(&deep, "x")]), Err(ApplyError::Op(OpError::Path { .. }))));
    assert!(tree.applier.is_empty(), "nothing of all this was put in place");
    tree.applier.tidy();
    assert_eq!(Tree::listing(&tree.path(".lockstep/staging")).len(), 0);
}

#[test]
fn a_tree_goes_on_where_it_was_and_says_what_a_crash_interrupted() {
    let mut tree = Tree::new();
    tree.send(vec![put("a", "a")]);
    let unfinished = TreeOps { index: INDEX, batch: 2, ops: pack([put("b", "b")]), last: false };
    assert_eq!(tree.applier.take(unfinished, 100).unwrap(), []);
    assert!(!tree.path("b").exists(), "nothing is in place before its batch is durable");
    let Tree { dir, applier, .. } = tree;
    drop(applier);
    let mut applier = Applier::open(config(&dir)).unwrap();
    assert_eq!(applier.followed(), Followed { index: INDEX, batch: 1 });
    assert!(!applier.is_interrupted() && !applier.is_empty());
    assert_eq!(applier.touched(), [TreePath::parse(b"a").unwrap()]);
    assert_eq!(std_fs::read_dir(dir.path().join("tree/.lockstep/staging")).unwrap().count(), 0);

    // The batch is in place and the state is not: as a crash between the two leaves it.
    let state = std_fs::read(dir.path().join("state/standby.state")).unwrap();
    applier.take(TreeOps { index: INDEX, batch: 2, ops: pack([put("b", "b")]), last: true }, 1).unwrap();
    drop(applier);
    std_fs::write(dir.path().join("state/standby.state"), state).unwrap();
    let applier = Applier::open(config(&dir)).unwrap();
    assert!(applier.is_interrupted());
    assert_eq!(applier.followed(), Followed { index: INDEX, batch: 1 });
    assert_eq!(applier.touched(), [TreePath::parse(b"b").unwrap()]);
    drop(applier);

    std_fs::rename(dir.path().join("tree"), dir.path().join("elsewhere")).unwrap();
    assert!(matches!(Applier::open(config(&dir)), Err(ApplyError::Root { .. })));
    std_fs::create_dir(dir.path().join("tree")).unwrap();
    assert!(matches!(Applier::open(config(&dir)), Err(ApplyError::Lost { .. })), "an empty mount point");
}

#[test]
fn a_root_that_is_moved_away_stops_the_tree() {
    let mut tree = Tree::new();
    tree.send(vec![put("a", "a")]);
    std_fs::rename(tree.path(""), tree.dir.path().join("elsewhere")).unwrap();
    assert!(matches!(tree.try_send(vec![put("b", "b")]), Err(ApplyError::Moved(_))));
}

/// A reader on the standby opens a file again and again while it is overwritten.
fn overwrites(rounds: u32) {
    let mut tree = Tree::new();
    let content = |round: u32| format!("{round:08}").repeat(2_000);
    tree.send(vec![put("file", &content(0))]);
    let (path, stop) = (tree.path("file"), AtomicBool::new(false));
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut last) = (0_u64, 0_u32);
            while !stop.load(Ordering::Relaxed) {
                let found = std_fs::read_to_string(&path).expect("the file is always there");
                let round: u32 = found[..8].parse().expect("a round");
                assert!(found == content(round), "read {reads}: short or mixed");
                assert!(round >= last, "read {reads}: round {round} after {last}");
                (reads, last) = (reads + 1, round);
            }
            reads
        });
        for round in 1..=rounds {
            tree.send(vec![put("file", &content(round))]);
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 10, "{reads} reads");
}

#[test]
fn a_reader_never_finds_a_file_missing_short_or_mixed() {
    overwrites(200);
}

#[test]
#[ignore = "ten thousand durable overwrites take a minute"]
fn long_a_reader_never_finds_a_file_missing_short_or_mixed() {
    overwrites(10_000);
}

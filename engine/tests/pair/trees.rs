//! File trees of a pair: what the active writes is on the standby, also after a takeover and back again.

use crate::epoch;
use crate::node::{Node, pair_without_database};
use crate::writer;
use lockstep_engine::files::ship::{DELETE_MAX_PERCENT, TreeConfig, TreeState};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// A pair with one tree beside its database.
fn pair() -> (Node, Node) {
    let (first, second) = pair_without_database(|config| {
        let root = config.databases[0].path.with_file_name("tree");
        fs::create_dir_all(&root).expect("the node's directory is there");
        config.trees = vec![TreeConfig {
            name: "uploads".parse().expect("a name"),
            root,
            exclude: vec!["*.tmp".into()],
            before_commits: false,
            delete_max_percent: DELETE_MAX_PERCENT,
            bytes_per_s_max: None,
        }];
    });
    writer::create(first.database());
    (first, second)
}

fn root(node: &Node) -> PathBuf {
    node.database().with_file_name("tree")
}

/// Path to type and permissions, owner, time, number of names, content or target, of all that belongs to the tree.
type Seen = BTreeMap<PathBuf, (u32, u32, i64, i64, u64, Vec<u8>)>;

fn seen(root: &Path) -> Seen {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(stat) = fs::symlink_metadata(&path) else { continue }; // removed since it was listed
        let mut links = 0;
        let content = if stat.is_file() {
            links = stat.nlink();
            fs::read(&path).unwrap_or_default()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap_or_default().into_os_string().into_encoded_bytes()
        } else {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
            left.extend(entries.filter(|path| {
                !path.ends_with(".lockstep") && path.extension().is_none_or(|extension| extension != "tmp")
            }));
            Vec::new()
        };
        let of = (stat.mode(), stat.uid(), stat.mtime(), stat.mtime_nsec(), links, content);
        found.insert(path.strip_prefix(root).expect("it lies there").to_owned(), of);
    }
    found
}

async fn until_equal(active: &Node, standby: &Node) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while seen(&root(active)) != seen(&root(standby)) {
        let (here, there) = (seen(&root(active)), seen(&root(standby)));
        let differs: Vec<_> = here
            .iter()
            .filter(|(path, of)| there.get(*path) != Some(of))
            .map(|(path, _)| path)
            .chain(there.keys().filter(|path| !here.contains_key(*path)))
            .collect();
        let late = std::time::Instant::now() > until;
        assert!(!late, "{differs:?} differ: {:#?} {:#?}", active.status().trees, standby.status().trees);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn files_are_on_the_standby_survive_a_takeover_and_come_back() {
    let (mut first, mut second) = pair();
    let tree = root(&first);
    fs::create_dir_all(tree.join("a/deep")).unwrap();
    fs::write(tree.join("a/deep/file"), "hello").unwrap();
    fs::write(tree.join("big"), vec![7; 3 << 20]).unwrap();
    fs::write(tree.join("left.tmp"), "not replicated").unwrap();
    symlink("a/deep", tree.join("link")).unwrap();
    fs::hard_link(tree.join("big"), tree.join("a/same")).unwrap();
    first.become_active(epoch(1)).await.expect("the database can be followed");
    second.become_standby(epoch(1)).await.expect("the mirror opens");
    first.until_in_sync().await;
    until_equal(&first, &second).await;
    assert!(!root(&second).join("left.tmp").exists());
    assert_eq!(second.status().trees[0].state, TreeState::Following);

    fs::rename(tree.join("a"), tree.join("b")).unwrap();
    fs::write(tree.join("b/deep/file"), "changed").unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    fs::write(tree.join("new"), "new").unwrap();
    until_equal(&first, &second).await;

    first.become_idle().await;
    fs::write(tree.join("alone"), "mine alone").unwrap();
    second.promote(epoch(2)).await.expect("the standby takes over");
    fs::write(root(&second).join("new"), "by the second").unwrap();
    fs::remove_dir_all(root(&second).join("b/deep")).unwrap();
    first.become_standby(epoch(2)).await.expect("the mirror opens");
    second.until_in_sync().await;
    until_equal(&second, &first).await;
    let kept = first.directory().join("state/tree/uploads/kept/kept-1");
    let manifest = fs::read_to_string(kept.join("manifest.txt")).expect("what only the first had is kept");
    assert!(manifest.contains("file 1 alone 10 bytes"), "{manifest}");
    assert_eq!(manifest.lines().count(), 1, "{manifest}");
    assert_eq!(fs::read_to_string(kept.join("1")).unwrap(), "mine alone");
    assert!(first.alarms().iter().any(|alarm| alarm.contains("kept-1")), "{:?}", first.alarms());
    assert!(!tree.join("alone").exists());
    assert_eq!(fs::read_to_string(tree.join("new")).unwrap(), "by the second");
}

#[tokio::test]
async fn a_standby_whose_root_is_gone_mirrors_the_database_and_takes_the_tree_up_again() {
    let (mut first, mut second) = pair();
    fs::write(root(&first).join("file"), "one").unwrap();
    first.become_active(epoch(1)).await.expect("the database can be followed");
    second.become_standby(epoch(1)).await.expect("the mirror opens");
    first.until_in_sync().await;
    until_equal(&first, &second).await;
    let away = root(&second).with_file_name("away");
    fs::rename(root(&second), &away).unwrap();
    fs::write(root(&first).join("file"), "two").unwrap();
    second
        .until_status(
            "fault",
            |status| matches!(&status.trees[0].state, TreeState::Stopped(why) if why.contains("moved away")),
        )
        .await;
    assert!(first.status().in_sync, "the database is not concerned");
    fs::rename(&away, root(&second)).unwrap();
    until_equal(&first, &second).await;
}

//! What differs between the two nodes' disks is found, named and put right, and nothing else is.

use crate::epoch;
use crate::node::{Node, pair_without_database};
use crate::writer::{self, Writer};
use lockstep_engine::pair::{CommitMode, Verified};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PAGE: u64 = 4096;

/// Two nodes in sync whose database file has some hundred pages.
async fn filled_pair() -> (Node, Node) {
    let (mut active, mut standby) = pair_without_database(|_| {});
    writer::create(active.database());
    writer::fill(active.database(), 2000);
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    (active, standby)
}

/// Flips one bit of a file behind everybody's back.
fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is that long");
    file.write_all_at(&[byte[0] ^ 4], offset).expect("it can be written");
}

fn wal(database: &Path) -> PathBuf {
    format!("{}-wal", database.display()).into()
}

/// Waits until the sums over all pages have been compared from now on.
async fn until_sums_equal(active: &Node) {
    let before = active.status().databases[0].equality.sums_equal_at;
    active.until_status("equal sums", |s| s.databases[0].equality.sums_equal_at > before).await;
}

async fn assert_equal(active: &Node) {
    let verified = active.verify().await.expect("the standby is there");
    assert_eq!(verified.repaired, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_standbys_disk_is_named_and_put_right() {
    let (mut active, mut standby) = filled_pair().await;
    assert_equal(&active).await;
    let sound = std::fs::read(standby.database()).expect("it can be read");
    flip(standby.database(), 41 * PAGE + 99);
    let verified = active.verify().await.expect("the standby is there");
    assert_eq!(verified, Verified { pages: sound.len() as u64 / PAGE, repaired: 1 });
    let alarms = active.alarms();
    assert!(alarms.iter().any(|a| a.contains("database main") && a.contains("page 42;")), "{alarms:?}");
    assert!(standby.alarms().iter().any(|a| a.contains("page 42 wrongly")), "{:?}", standby.alarms());
    assert!(std::fs::read(standby.database()).expect("it can be read") == sound, "the page is as it was");
    assert_equal(&active).await;
    let equality = active.status().databases[0].equality;
    assert_eq!((equality.mismatched_pages, equality.repaired_pages), (1, 1));
    assert_eq!(standby.copies(), 0);
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_active_that_capture_never_saw_is_found_and_shipped() {
    let (mut active, standby) = filled_pair().await;
    // As if the frame with this change had been dropped on its way: neither the log nor the link knows of it.
    flip(active.database(), 41 * PAGE + 99);
    let verified = active.verify().await.expect("the standby is there");
    assert_eq!(verified.repaired, 1);
    assert!(active.alarms().iter().any(|a| a.contains("page 42;")), "{:?}", active.alarms());
    let at = 41 * PAGE as usize..42 * PAGE as usize;
    let pages =
        [active.database(), standby.database()].map(|path| std::fs::read(path).expect("it can be read"));
    assert!(pages[0][at.clone()] == pages[1][at], "the standby has the active's page");
    assert_equal(&active).await;
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_rots_in_the_standbys_wal_is_found_and_everything_is_compared() {
    let (mut active, mut standby) = filled_pair().await;
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    flip(&wal(standby.database()), 32 + 24 + 99);
    let verified = active.verify().await.expect("the standby is there");
    assert_eq!(verified.repaired, 1);
    assert_equal(&active).await;
    assert_eq!(standby.copies(), 1);
    assert!(active.alarms().iter().any(|a| a.contains("cannot be put right alone")), "{:?}", active.alarms());
    active.until_in_sync().await;
    writer.kill();
    active.stop().await;
    standby.takes_over_with(epoch(2), row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_differs_after_commits_a_vacuum_a_takeover_and_the_way_back() {
    let (mut active, mut standby) = filled_pair().await;
    let mut writer = Writer::start(active.database());
    writer::fill_and_vacuum(active.database(), 3000);
    for _ in 0..5 {
        writer.commit();
        until_sums_equal(&active).await;
        assert_equal(&active).await;
    }
    writer.kill();
    active.drain().await;
    standby.promote(epoch(2)).await.expect("the mirror is promoted");
    active.become_standby(epoch(2)).await.expect("the old active mirrors");
    standby.until_in_sync().await;
    assert_equal(&standby).await;
    let mut writer = Writer::start(standby.database());
    writer.commit();
    until_sums_equal(&standby).await;
    assert_equal(&standby).await;
    writer.kill();
    assert_eq!((active.alarms(), standby.alarms()), (Vec::new(), Vec::new()));
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_cannot_be_asked_to_verify() {
    let (active, standby) = filled_pair().await;
    let refused = standby.verify().await.expect_err("it serves nothing");
    assert!(refused.contains("verify on the node that serves"), "{refused}");
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_over_all_pages_are_compared_at_rest_and_after_restarts_with_and_without_a_clean_close() {
    let (mut active, mut standby) = filled_pair().await;
    until_sums_equal(&active).await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    until_sums_equal(&active).await;
    let cache = |node: &Node| node.directory().join("state/mirror/main/pages.hash");
    for remove in [false, true] {
        // Both forget, or only one of them.
        let mut again = standby.restart(|_| {}).await;
        if remove {
            std::fs::remove_file(cache(&again)).expect("there is a cache");
        }
        again.become_standby(epoch(1)).await.expect("the mirror opens");
        active.until_in_sync().await;
        writer.commit();
        until_sums_equal(&active).await;
        standby = again;
    }
    writer.kill();
    let mut active = active.restart(|_| {}).await;
    active.become_active(epoch(1)).await.expect("the database can be followed");
    active.until_in_sync().await;
    active.until_status("equal sums", |s| s.databases[0].equality.sums_equal_at.is_some()).await;
    assert_equal(&active).await;
    assert_eq!((active.alarms(), standby.alarms()), (Vec::new(), Vec::new()));
    active.stop().await;
    standby.stop().await;
}

//! The data path end to end: two engines over loopback, a writer in a process of its own.

mod attributes;
mod board;
mod changes;
mod cut;
mod disks;
mod equality;
mod node;
mod prepared;
mod rejoin;
mod resync;
mod standby_disk;
mod storm;
mod takeover;
mod trees;
mod writer;
#[path = "../capture/writers.rs"]
#[allow(dead_code, reason = "the capture tests use more of it")]
mod writers;

use lockstep_engine::pair::{Acknowledged, CommitMode};
use lockstep_wire::{Epoch, NodeId};
use node::{Node, pair};
use std::time::Duration;
use writer::Writer;

fn epoch(counter: u64) -> Epoch {
    Epoch { counter, node: NodeId(7) }
}

async fn in_sync() -> (Node, Node) {
    let (mut active, mut standby) = pair();
    active.become_active(epoch(1)).await.expect("the active's database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    (active, standby)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_waited_for_is_on_the_standby_when_it_takes_over() {
    let (active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    let mut acknowledged = 0;
    for _ in 0..50 {
        let row = writer.commit();
        let answer = active.wait(CommitMode::Durable).await.expect("the standby is there");
        assert!(matches!(answer, Acknowledged::Ok(CommitMode::Durable, _)), "{answer:?}");
        acknowledged = row;
    }
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    let rows = writer::rows(standby.database());
    assert!(rows >= acknowledged, "acknowledged {acknowledged}, found {rows}");
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_database_is_copied_while_it_is_written() {
    let (mut active, mut standby) = pair();
    writer::fill(active.database(), 4000);
    let mut writer = Writer::start(active.database());
    active.become_active(epoch(1)).await.expect("the active's database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    for _ in 0..200 {
        writer.commit();
    }
    active.until_in_sync().await;
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert!(writer::rows(standby.database()) >= row);
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_standby_commits_wait_until_solo_is_allowed() {
    let (active, standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    standby.stop().await;
    writer.commit();
    let waiting = active.wait(CommitMode::Durable);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "acknowledged without a standby: {early:?}");
    active.allow_solo(epoch(1)).await;
    assert_eq!(waiting.await, Ok(Acknowledged::Solo(epoch(1))));
    writer.kill();
    active.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_was_away_resumes_from_the_wal_without_a_copy() {
    let (mut active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    standby.become_idle().await;
    for _ in 0..20 {
        writer.commit();
    }
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.wait(CommitMode::Durable).await.expect("the standby is back");
    active.until_in_sync().await;
    assert_eq!(standby.copies(), 0, "the WAL still held the gap");
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_comes_back_to_an_idle_active_is_in_sync_without_a_commit() {
    let (mut active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    standby.become_idle().await;
    active.until_out_of_sync().await;
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    assert_eq!(standby.copies(), 0);
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switch_and_back_copies_nothing() {
    let (mut active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    for _ in 0..10 {
        writer.commit();
    }
    writer.kill();
    active.drain().await;
    standby.promote(epoch(2)).await.expect("the mirror is promoted");
    active.become_standby(epoch(2)).await.expect("the old active mirrors");
    standby.until_in_sync().await;
    let mut writer = Writer::start(standby.database());
    let row = writer.commit();
    standby.wait(CommitMode::Durable).await.expect("the old active mirrors");
    writer.kill();
    assert_eq!(active.copies() + standby.copies(), 0, "both ends of a drained switch hold the same WAL");
    standby.drain().await;
    active.promote(epoch(3)).await.expect("it is promoted again");
    standby.become_standby(epoch(3)).await.expect("and the other mirrors again");
    assert_eq!(writer::rows(active.database()), row);
    active.stop().await;
    standby.stop().await;
    writer::check(active.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_the_active_lost_with_its_power_are_kept_on_the_standby() {
    let (active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    for _ in 0..5 {
        writer.commit();
    }
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer.kill();
    let mut active = active.restart(writer::lose_the_last_commit).await;
    active.become_active(epoch(1)).await.expect("the active's database can be followed");
    active.until_in_sync().await;
    assert_eq!(standby.quarantined(), 1, "the fifth row was acknowledged and is only here");
    active.stop().await;
    standby.promote(epoch(2)).await.expect("the resynchronised mirror is a database");
    assert_eq!(writer::rows(standby.database()), 4);
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_active_with_commits_of_its_own_is_kept_in_quarantine_and_resynchronised() {
    let (active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    standby.become_idle().await;
    let alone = writer.commit();
    writer.kill();
    let mut active = active.restart(|_| ()).await;
    standby.promote(epoch(2)).await.expect("the mirror is promoted");
    let mut writer = Writer::start(standby.database());
    let row = writer.commit();
    assert_eq!(row, alone, "the new active never had the lonely commit");
    active.become_standby(epoch(2)).await.expect("the old active mirrors");
    standby.until_in_sync().await;
    assert_eq!(active.quarantined(), 1);
    writer.kill();
    standby.stop().await;
    active.promote(epoch(3)).await.expect("the resynchronised mirror is a database");
    assert_eq!(writer::rows(active.database()), row);
    active.stop().await;
    writer::check(active.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_whose_sqlite_can_corrupt_its_database_is_named_to_the_operator() {
    let (mut active, mut standby) = pair();
    // What a library of version 3.40.1 leaves in the header.
    let file =
        std::fs::OpenOptions::new().write(true).open(active.database()).expect("the database is there");
    std::os::unix::fs::FileExt::write_all_at(&file, &3_040_001_u32.to_be_bytes(), 96).expect("it is written");
    active.become_active(epoch(1)).await.expect("the active's database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let notices = active.notices();
    assert!(notices.iter().any(|n| n.contains("SQLite 3.40.1") && n.contains("update it")), "{notices:?}");
    active.stop().await;
    standby.stop().await;
}

//! What happens to databases while the pair runs: they appear, go, come back otherwise, outgrow limits.

use crate::node::pair_without_database;
use crate::{epoch, in_sync, writer};
use lockstep_engine::pair::{CommitMode, DatabaseState, EngineEvent};
use rusqlite::Connection;
use std::path::Path;
use writer::Writer;

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_whose_database_rests_is_in_sync_again_after_a_new_connection() {
    let (mut active, mut standby) = in_sync().await;
    for _ in 0..3 {
        standby.become_idle().await;
        active.until_event("end of being in sync", |e| matches!(e, EngineEvent::InSync(false))).await;
        standby.become_standby(epoch(1)).await.expect("the mirror opens");
        active.until_event("being in sync again", |e| matches!(e, EngineEvent::InSync(true))).await;
    }
    assert_eq!(standby.copies(), 0);
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_application_makes_later_is_mirrored_from_then_on() {
    let (mut active, mut standby) = pair_without_database(|_| {});
    active.become_active(epoch(1)).await.expect("it is waited for");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    // The other node's turn before there was anything: the application shall find no file in its way.
    standby.become_idle().await;
    assert!(!standby.database().exists());
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    writer::create(active.database());
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    active.until_in_sync().await;
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_a_database_that_never_was() {
    let (mut active, mut standby) = pair_without_database(|_| {});
    active.become_active(epoch(1)).await.expect("it is waited for");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    active.become_standby(epoch(2)).await.expect("it stands by");
    standby.promote(epoch(2)).await.expect("there is nothing to lose");
    writer::create(standby.database());
    let mut writer = Writer::start(standby.database());
    let row = writer.commit();
    standby.wait(CommitMode::Durable).await.expect("the old active mirrors");
    writer.kill();
    standby.stop().await;
    active.promote(epoch(3)).await.expect("it has the database now");
    assert_eq!(writer::rows(active.database()), row);
    active.stop().await;
}

fn remove(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", database.display())).expect("it is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_made_anew_with_another_page_size_is_copied_anew() {
    let (mut active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer.kill();
    remove(active.database());
    Connection::open(active.database())
        .and_then(|c| c.execute_batch("PRAGMA page_size=1024; VACUUM"))
        .expect("another page size");
    writer::create(active.database());
    active.until_event("end of being in sync", |e| matches!(e, EngineEvent::InSync(false))).await;
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    active.until_in_sync().await;
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row);
    let size: i64 = Connection::open(standby.database())
        .and_then(|c| c.query_row("PRAGMA page_size", (), |row| row.get(0)))
        .expect("it opens");
    assert_eq!(size, 1024);
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_while_nobody_is_attached_is_followed_again() {
    let (mut active, mut standby) = in_sync().await;
    standby.become_idle().await;
    remove(active.database());
    writer::create(active.database());
    active.until_event("word of the failure", |e| matches!(e, EngineEvent::Notice { alarm: true, .. })).await;
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is back");
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_beyond_its_limit_is_let_go_with_an_alarm_and_the_pages_are_compared() {
    let (mut active, mut standby) = pair_without_database(|config| {
        config.databases[0].wal_retain_max_bytes = 200 << 10;
    });
    writer::create(active.database());
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    standby.become_idle().await;
    active.until_event("end of being in sync", |e| matches!(e, EngineEvent::InSync(false))).await;
    let mut writer = Writer::start(active.database());
    let mut row = 0;
    while !active.alarms().iter().any(|sentence| sentence.contains("beyond its limit")) {
        row = writer.commit();
    }
    for _ in 0..200 {
        row = writer.commit();
    }
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.wait(CommitMode::Durable).await.expect("the standby is back");
    active.until_in_sync().await;
    assert_eq!(standby.copies(), 1);
    writer.kill();
    active.stop().await;
    standby.takes_over_with(epoch(2), row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_and_its_writers_arrive_whole() {
    let (mut active, standby) = in_sync().await;
    let mut standby = standby;
    let mut writer = Writer::start(active.database());
    writer::fill_and_vacuum(active.database(), 4000);
    let mut row = 0;
    for _ in 0..20 {
        row = writer.commit();
    }
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    active.until_in_sync().await;
    writer.kill();
    active.stop().await;
    standby.takes_over_with(epoch(2), row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_copied_standby_is_not_promoted_and_goes_on_copying_also_after_a_restart() {
    let (mut active, mut standby) = pair_without_database(|config| {
        config.link.bulk_cap_bytes_per_s = Some(2 << 20);
    });
    writer::create(active.database());
    writer::fill(active.database(), 6000);
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    let half = |s: &lockstep_engine::pair::EngineStatus| {
        s.databases.first().and_then(|d| d.copy).is_some_and(|copy| copy.pages_done > 200)
    };
    standby.until_status("half a copy", half).await;
    let refused = standby.promote(epoch(2)).await.expect_err("half a copy is no database");
    assert!(refused.contains("not a complete copy"), "{refused}");
    standby.until_status("half a copy again", half).await;
    let mut standby = standby.restart(|_| {}).await;
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.until_in_sync().await;
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer.kill();
    active.stop().await;
    standby.promote(epoch(3)).await.expect("now it is complete");
    assert_eq!(writer::rows(standby.database()), row);
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_rollback_mode_is_a_fault_with_its_remedy_and_stays_as_it_is() {
    let (mut active, mut standby) = pair_without_database(|_| {});
    Connection::open(active.database())
        .and_then(|c| c.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)"))
        .expect("a database in rollback mode");
    let before = std::fs::read(active.database()).expect("it can be read");
    active.become_active(epoch(1)).await.expect("others may be fit");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active
        .until_event("an alarm", |e| matches!(e, EngineEvent::Notice { alarm: true, sentence } if sentence.contains("PRAGMA journal_mode=WAL")))
        .await;
    let refused = |s: &lockstep_engine::pair::EngineStatus| matches!(&s.databases.first().expect("it serves").state, DatabaseState::Refused(why) if why.contains("journal_mode=WAL"));
    active.until_status("the fault", refused).await;
    assert!(!active.status().in_sync);
    assert_eq!(std::fs::read(active.database()).expect("it can be read"), before);
    writer::create_wal(active.database());
    active.until_in_sync().await;
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_either_node_is_sound_and_replaces_nothing() {
    let (active, standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    for node in [&active, &standby] {
        let file = node.directory().join("snapshot.db");
        node.snapshot(&file).await.expect("it is written");
        assert_eq!(writer::rows(&file), row);
        writer::check(&file);
        node.snapshot(&file).await.expect_err("the file is there already");
        node.snapshot(node.database()).await.expect_err("the database is there already");
    }
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby still mirrors");
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_only_the_standby_has_is_left_alone_and_kept_once_the_active_makes_one() {
    let (mut active, mut standby) = pair_without_database(|_| {});
    writer::create(standby.database());
    writer::fill(standby.database(), 7);
    active.become_active(epoch(1)).await.expect("it is waited for");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    standby.become_idle().await;
    active.until_out_of_sync().await;
    assert_eq!(writer::rows(standby.database()), 7);
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    writer::create(active.database());
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    let kept = standby.quarantine_directories();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(writer::rows(&kept[0].join("database")), 7);
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_of_a_quarantine_is_made_anew_and_whole() {
    let (active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    standby.become_idle().await;
    let alone = writer.commit();
    writer.kill();
    let mut active = active.restart(|_| ()).await;
    // Killed while the database was copied: half a file, and no manifest, which is written last.
    let torn = active.directory().join("state/quarantine").join(epoch(2).to_string()).join("main");
    std::fs::create_dir_all(&torn).expect("a directory");
    std::fs::write(torn.join("database"), &std::fs::read(active.database()).expect("a database")[..1000])
        .expect("half a copy");
    standby.promote(epoch(2)).await.expect("the mirror is promoted");
    active.become_standby(epoch(2)).await.expect("the old active mirrors");
    standby.until_in_sync().await;
    let kept = active.quarantine_directories();
    assert_eq!(kept, [torn]);
    assert!(kept[0].join("manifest.json").exists());
    assert_eq!(writer::rows(&kept[0].join("database")), alone, "the lonely commit is kept");
    writer::check(&kept[0].join("database"));
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_told_to_stand_by_again_while_frames_arrive_loses_none() {
    let (mut active, mut standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    let mut row = 0;
    for _ in 0..20 {
        for _ in 0..5 {
            row = writer.commit();
        }
        standby.become_standby(epoch(1)).await.expect("the mirror opens");
    }
    active.wait(CommitMode::Durable).await.expect("the standby is back");
    active.until_in_sync().await;
    assert_eq!(standby.alarms(), [] as [String; 0]);
    writer.kill();
    active.stop().await;
    standby.takes_over_with(epoch(2), row).await;
}

//! A standby whose disk fills up, fails or cannot be written: the active goes on alone, nothing is lost, and
//! both are in sync again once the disk is well.

use crate::disks::{Mounts, mount, program, shut_down, unmount};
use crate::node::Node;
use crate::{epoch, writer};
use lockstep_engine::pair::{Acknowledged, CommitMode, EngineEvent};
use std::path::Path;
use writer::Writer;

fn alarm_with(words: &'static [&'static str]) -> impl Fn(&EngineEvent) -> bool {
    move |event| {
        matches!(event, EngineEvent::Notice { alarm: true, sentence }
            if words.iter().all(|word| sentence.contains(word)))
    }
}

async fn alone(active: &mut Node, writer: &mut Writer) -> i64 {
    active.until_out_of_sync().await;
    active.allow_solo(epoch(1)).await;
    let row = writer.commit();
    assert_eq!(active.wait(CommitMode::Durable).await, Ok(Acknowledged::Solo(epoch(1))));
    row
}

async fn same_rows(active: &Node, standby: &Node, row: i64) {
    let snapshot = active.directory().join("snapshot.db");
    standby.snapshot(&snapshot).await.expect("the mirror is whole");
    assert_eq!(writer::rows(&snapshot), row);
    writer::check(&snapshot);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_on_the_standby_loses_nothing_and_ends_when_there_is_room() {
    let (mut active, mut standby, mounts) =
        Mounts::pair(|directory| mount("tmpfs", directory, "tmpfs", 0, "size=2m"));
    writer::create(active.database());
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer::fill(active.database(), 4000);
    let full = alarm_with(&["No space left", "free space on its file system"]);
    standby.until_event("word of the full disk", full).await;
    let row = alone(&mut active, &mut writer).await;
    mounts.run(|directory| mount("tmpfs", directory, "tmpfs", libc::MS_REMOUNT, "size=64m"));
    active.until_in_sync().await;
    active.drain().await;
    assert_eq!(standby.copies(), 0, "the WAL still held the gap");
    same_rows(&active, &standby, row).await;
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

/// Where the standby's failing disk lies, from the standby's directory: beside it, on a sound one.
fn image(directory: &Path) -> String {
    format!("{}.image", directory.display())
}

fn mount_image(directory: &Path) {
    program("mount", &["-o", "loop", &image(directory), directory.to_str().expect("UTF-8")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_the_standby_that_fails_is_seen_by_the_active_and_followed_by_a_sound_mirror() {
    let (mut active, mut standby, mounts) = Mounts::pair(|directory| {
        let file = std::fs::File::create(image(directory)).expect("a file for the disk");
        file.set_len(64 << 20).expect("a sparse file");
        program("mkfs.ext4", &["-q", &image(directory)]);
        mount_image(directory);
    });
    writer::create(active.database());
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    mounts.run(shut_down);
    let row = writer.commit();
    standby.until_event("word of the disk", alarm_with(&["app.db", "Input/output error"])).await;
    assert!(row < alone(&mut active, &mut writer).await);
    let row = writer.commit();
    standby.become_idle().await;
    mounts.run(|directory| {
        unmount(directory);
        mount_image(directory);
        // The mount keeps it; nothing is left when that ends.
        std::fs::remove_file(image(directory)).expect("it is ours");
    });
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    active.drain().await;
    same_rows(&active, &standby, row).await;
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_written_is_named_and_mirrored_into_once_it_can() {
    let (mut active, mut standby, mounts) = Mounts::pair(|directory| {
        let state = directory.join("state");
        std::fs::create_dir(&state).expect("the node's directory is there");
        mount("tmpfs", &state, "tmpfs", libc::MS_RDONLY, "size=2m");
    });
    writer::create(active.database());
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the role itself needs no state");
    let told = alarm_with(&["/state", "Read-only file system", "mount its file system read-write"]);
    standby.until_event("word of the state directory", told).await;
    let mut writer = Writer::start(active.database());
    active.allow_solo(epoch(1)).await;
    let row = writer.commit();
    assert_eq!(active.wait(CommitMode::Durable).await, Ok(Acknowledged::Solo(epoch(1))));
    assert!(!standby.database().exists(), "nothing is mirrored without a state");
    mounts.run(|directory| mount("tmpfs", &directory.join("state"), "tmpfs", libc::MS_REMOUNT, "size=2m"));
    active.until_in_sync().await;
    same_rows(&active, &standby, row).await;
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

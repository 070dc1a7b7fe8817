//! A standby whose disk is full: the active goes on alone, and is in sync again once there is room.

use crate::node::{Node, pair_without_database};
use crate::{epoch, writer};
use lockstep_engine::link::Side;
use lockstep_engine::pair::{Acknowledged, CommitMode, EngineEvent};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use writer::Writer;

/// A small disk for the standby, in a mount namespace of its own that only both engines see.
struct SmallDisk {
    grow: Sender<()>,
    grown: Receiver<()>,
}

fn mount(target: &Path, kind: &str, flags: libc::c_ulong, data: &str) {
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let (target, kind, data) = (text(target.to_str().expect("UTF-8")), text(kind), text(data));
    // SAFETY: every pointer is a terminated string that outlives the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    assert_eq!(result, 0, "mounting needs CAP_SYS_ADMIN: {}", std::io::Error::last_os_error());
}

fn pair_with_small_standby() -> (Node, Node, SmallDisk) {
    let (nodes, made) = channel();
    let (grow, wishes) = channel();
    let (answers, grown) = channel();
    std::thread::spawn(move || {
        // SAFETY: no pointers; it concerns this thread and those it starts.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        let error = std::io::Error::last_os_error();
        assert_eq!(result, 0, "a mount namespace needs CAP_SYS_ADMIN: {error}");
        mount(Path::new("/"), "none", libc::MS_REC | libc::MS_PRIVATE, "");
        let disk = std::cell::OnceCell::<PathBuf>::new();
        let pair = pair_without_database(|config| {
            config.databases[0].checkpoint_frames = 1_000_000;
            if config.link.side == Side::Connect {
                let directory = config.state_dir.parent().expect("it lies in the node's directory");
                mount(directory, "tmpfs", 0, "size=2m");
                disk.set(directory.to_owned()).expect("one standby");
            }
        });
        nodes.send(pair).unwrap_or_else(|_| panic!("the test waits for it"));
        while let Ok(()) = wishes.recv() {
            mount(disk.get().expect("it is mounted"), "tmpfs", libc::MS_REMOUNT, "size=64m");
            answers.send(()).expect("the test waits for it");
        }
    });
    let (active, standby) = made.recv().expect("the pair starts");
    (active, standby, SmallDisk { grow, grown })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_on_the_standby_loses_nothing_and_ends_when_there_is_room() {
    let (mut active, mut standby, disk) = pair_with_small_standby();
    writer::create(active.database());
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer::fill(active.database(), 4000);
    let full = |event: &EngineEvent| {
        matches!(event, EngineEvent::Notice { alarm: true, sentence }
            if sentence.contains("No space left") && sentence.contains("free space on its file system"))
    };
    standby.until_event("word of the full disk", full).await;
    active.until_out_of_sync().await;
    active.allow_solo(epoch(1)).await;
    let row = writer.commit();
    assert_eq!(active.wait(CommitMode::Durable).await, Ok(Acknowledged::Solo(epoch(1))));
    disk.grow.send(()).expect("the disk can grow");
    disk.grown.recv().expect("it has grown");
    active.until_in_sync().await;
    active.drain().await;
    assert_eq!(standby.copies(), 0, "the WAL still held the gap");
    let snapshot = active.directory().join("snapshot.db");
    standby.snapshot(&snapshot).await.expect("the mirror is whole");
    assert_eq!(writer::rows(&snapshot), row);
    writer::check(&snapshot);
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

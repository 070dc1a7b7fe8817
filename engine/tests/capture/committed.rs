//! Only what the wal-index calls committed is published.

use crate::session::{config, start_copy, status, sync};
use crate::writers::{Job, create};
use lockstep_barrier::{Mark, Poke, PokeReceiver};
use lockstep_engine::capture::CaptureConfig;
use lockstep_engine::wal::{FrameHeader, Frames, WalHeader, WalIndex, frame_offset};
use lockstep_wire::FrameNo;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

fn beside(path: &std::path::Path, suffix: &str) -> std::path::PathBuf {
    format!("{}{suffix}", path.display()).into()
}

/// What a writer leaves that dies between its commit frame and the wal-index: right salts, right chain, a
/// commit mark. The -wal carries no locks, so it may be opened and closed here.
fn write_phantom(path: &std::path::Path, after: FrameNo) -> Mark {
    let name = beside(path, "-wal");
    let wal = std::fs::OpenOptions::new().read(true).write(true).open(name).expect("the WAL opens");
    let mut header = [0; 32];
    wal.read_exact_at(&mut header, 0).expect("the WAL has a header");
    let header = WalHeader::parse(&header).expect("the header is sound");
    let mut last = [0; 24];
    wal.read_exact_at(&mut last, frame_offset(after, header.page_size)).expect("the last frame is there");
    let last = FrameHeader::parse(&last);
    let page = vec![0xee; header.page_size as usize];
    let phantom = FrameHeader::sealed(&header, last.chain, 2, last.commit_pages.max(3), &page);
    let frame = after.0 + 1;
    let offset = frame_offset(FrameNo(frame), header.page_size);
    wal.write_all_at(&[&phantom.to_bytes()[..], &page].concat(), offset).expect("the phantom can be written");
    let mut all = std::fs::read(beside(path, "-wal")).expect("the WAL can be read");
    let all = all.split_off(32);
    let valid = Frames::new(&all, header.page_size).verified_prefix(&header, FrameNo(1), header.chain).0;
    assert_eq!(valid.last_commit, frame, "the phantom looks like a commit");
    Mark { salts: header.salts.packed(), chain: phantom.chain.packed(), frame }
}

/// A database with a few commits, and a connection that stays open, as an application's does: nobody recovers the WAL.
fn with_bystander() -> (tempfile::TempDir, std::path::PathBuf, crate::writers::Process) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let mut bystander = Job { pause_us: 60_000_000, count: 1, ..Job::role("reader", 1) }.start(&path);
    bystander.wait_ready();
    (dir, path, bystander)
}

#[test]
fn a_phantom_commit_is_never_published() {
    let (_dir, path, bystander) = with_bystander();
    let (capture, consumer) = start_copy(config(&path), 16);
    Job { count: 5, ..Job::writer(7, 0) }.start(&path).wait();
    let before = sync(&capture);
    consumer.wait_for(before);
    write_phantom(&path, before.frame);
    assert_eq!(sync(&capture), before, "the phantom is not committed");
    // The next writer overwrites it. Had it been published, the chain would break in the copy.
    Job { count: 3, ..Job::writer(8, 0) }.start(&path).wait();
    let after = sync(&capture);
    assert!(after > before);
    consumer.wait_for(after);
    drop(bystander);
    capture.stop();
    consumer.finish().assert_equals(&path);
}

fn with_pokes(path: &std::path::Path) -> (CaptureConfig, Poke) {
    let socket = beside(path, ".poke");
    let pokes = Arc::new(PokeReceiver::bind(&socket).expect("a socket can be made"));
    let poke = Poke::connect(&socket).expect("the receiver is there");
    (CaptureConfig { pokes: Some(pokes), ..config(path) }, poke)
}

#[test]
fn a_poked_phantom_is_sent_in_doubt_and_taken_back_when_it_is_overwritten() {
    let (_dir, path, bystander) = with_bystander();
    let (config, poke) = with_pokes(&path);
    let (capture, consumer) = start_copy(config, 16);
    for round in 0..5 {
        Job { count: 5, ..Job::writer(round, 0) }.start(&path).wait();
        let before = sync(&capture);
        consumer.wait_for(before);
        let mark = write_phantom(&path, before.frame);
        assert!(poke.send(&mark));
        consumer.wait("the phantom", |rebuilt| rebuilt.point.position.frame.0 == mark.frame);
        assert_eq!(sync(&capture), before, "the phantom is not committed");
        // A second poke sends nothing twice; one that is no commit of this WAL sends nothing at all.
        assert!(poke.send(&mark));
        assert!(poke.send(&Mark { frame: mark.frame + 5, ..mark }));
        assert!(poke.send(&Mark { salts: mark.salts ^ 1, frame: mark.frame + 1, ..mark }));
        Job { count: 3, ..Job::writer(100 + round, 0) }.start(&path).wait();
        let after = sync(&capture);
        assert!(after > before);
        consumer.wait_for(after);
        assert_eq!((status(&capture).prepared, status(&capture).rewinds), (round + 1, round + 1));
    }
    drop(bystander);
    capture.stop();
    let rebuilt = consumer.finish();
    assert_eq!(rebuilt.rewinds, 5);
    rebuilt.assert_equals(&path);
}

#[test]
fn a_phantom_is_taken_back_before_the_wal_begins_anew() {
    let (_dir, path, bystander) = with_bystander();
    let (config, poke) = with_pokes(&path);
    let (capture, consumer) = start_copy(config, 16);
    for round in 0..5 {
        Job { count: 5, ..Job::writer(round, 0) }.start(&path).wait();
        let before = sync(&capture);
        consumer.wait_for(before);
        let mark = write_phantom(&path, before.frame);
        assert!(poke.send(&mark));
        consumer.wait("the phantom", |rebuilt| rebuilt.point.position.frame.0 == mark.frame);
        Job { count: 10, ..Job::role("checkpointer", round) }.start(&path).wait();
        Job { count: 3, ..Job::writer(100 + round, 0) }.start(&path).wait();
        let after = sync(&capture);
        assert!(after.generation > before.generation, "the WAL began anew");
        consumer.wait_for(after);
    }
    drop(bystander);
    capture.stop();
    let rebuilt = consumer.finish();
    assert_eq!((rebuilt.rewinds, rebuilt.resets), (5, 5));
    rebuilt.assert_equals(&path);
}

#[test]
fn the_wal_and_wal_index_of_real_sqlite_are_understood() {
    for page_size in [512, 4096, 65536] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("real.db");
        let connection = rusqlite::Connection::open(&path).expect("the database can be created");
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
                 CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(200000)); INSERT INTO t VALUES (1);"
            ))
            .expect("the database can be filled");
        let wal = std::fs::read(beside(&path, "-wal")).expect("the WAL can be read");
        let header = WalHeader::parse(&wal).expect("the header is sound");
        assert_eq!(header.page_size, page_size);
        assert_eq!(header.to_bytes(), wal[..32]);
        let index =
            WalIndex::parse(&std::fs::read(beside(&path, "-shm")).expect("the wal-index can be read"))
                .expect("the wal-index is sound");
        let frames = Frames::new(&wal[32..], header.page_size);
        let verified = frames.verify(&header, FrameNo(1), header.chain).expect("every frame verifies");
        assert_eq!(verified.commits, 3);
        assert_eq!((index.last_frame.0, index.chain), (verified.last_commit, verified.last_commit_chain));
        assert_eq!((index.salts, index.page_size), (header.salts, page_size));
        assert!(!index.is_backfilled());
    }
}

//! Only what the wal-index calls committed is published.

use crate::session::{config, start_copy, sync};
use crate::writers::{Job, create};
use lockstep_engine::wal::{FrameHeader, Frames, WalHeader, WalIndex, frame_offset};
use lockstep_wire::FrameNo;
use std::os::unix::fs::FileExt;

fn beside(path: &std::path::Path, suffix: &str) -> std::path::PathBuf {
    format!("{}{suffix}", path.display()).into()
}

#[test]
fn a_phantom_commit_is_never_published() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let (capture, consumer) = start_copy(config(&path), 16);
    // A connection that stays open, as an application's does: nobody recovers the WAL.
    let mut bystander = Job { pause_us: 60_000_000, count: 1, ..Job::role("reader", 1) }.start(&path);
    bystander.wait_ready();
    Job { count: 5, ..Job::writer(7, 0) }.start(&path).wait();
    let before = sync(&capture);
    consumer.wait_for(before);

    // What a writer leaves that dies between its commit frame and the wal-index: right salts,
    // right chain, a commit mark. The -wal carries no locks, so it may be opened and closed here.
    let wal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(beside(&path, "-wal"))
        .expect("the WAL opens");
    let mut header = [0; 32];
    wal.read_exact_at(&mut header, 0).expect("the WAL has a header");
    let header = WalHeader::parse(&header).expect("the header is sound");
    let mut last = [0; 24];
    wal.read_exact_at(&mut last, frame_offset(before.frame, header.page_size))
        .expect("the last frame is there");
    let last = FrameHeader::parse(&last);
    let page = vec![0xee; header.page_size as usize];
    let phantom = FrameHeader::sealed(&header, last.chain, 2, last.commit_pages.max(3), &page);
    let offset = frame_offset(FrameNo(before.frame.0 + 1), header.page_size);
    wal.write_all_at(&[&phantom.to_bytes()[..], &page].concat(), offset).expect("the phantom can be written");
    let mut all = std::fs::read(beside(&path, "-wal")).expect("the WAL can be read");
    let all = all.split_off(32);
    let valid = Frames::new(&all, header.page_size).verified_prefix(&header, FrameNo(1), header.chain).0;
    assert_eq!(valid.last_commit, before.frame.0 + 1, "the phantom looks like a commit");

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

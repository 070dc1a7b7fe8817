//! Going on where the standby stands, and noticing when that is not possible.

use crate::session::{Consumer, attach, config, copy_all, start_copy, sync};
use crate::writers::{Job, create};
use lockstep_engine::capture::{Attached, Capture, CaptureCommand};
use lockstep_wire::WalGeneration;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

fn database() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    (dir, path)
}

fn write(path: &std::path::Path, seed: u64, count: u64) {
    Job { count, ..Job::writer(seed, 0) }.start(path).wait();
}

#[test]
fn a_restarted_capture_resumes_where_the_standby_stands() {
    let (_dir, path) = database();
    let mut bystander = Job { pause_us: 60_000_000, count: 1, ..Job::role("reader", 1) }.start(&path);
    bystander.wait_ready();
    let (capture, consumer) = start_copy(config(&path), 16);
    write(&path, 1, 20);
    consumer.wait_for(sync(&capture));
    let wal = std::fs::read(path.with_extension("db-wal")).expect("the WAL can be read");
    capture.stop();
    let rebuilt = consumer.finish();
    assert_eq!(wal, std::fs::read(path.with_extension("db-wal")).expect("the WAL is still there"));
    write(&path, 2, 20);

    let (sender, receiver) = mpsc::channel(16);
    let continues = Some(rebuilt.point);
    let capture =
        Capture::start(lockstep_engine::capture::CaptureConfig { continues, ..config(&path) }, sender)
            .expect("it starts");
    assert_eq!(sync(&capture).generation, rebuilt.point.position.generation);
    let at = rebuilt.point.position;
    assert_eq!(attach(&capture, Some(rebuilt.point)), Attached::Resumed { held: at, published: at });
    let consumer = Consumer::start(receiver, rebuilt);
    write(&path, 3, 20);
    consumer.wait_for(sync(&capture));
    drop(bystander);
    capture.stop();
    consumer.finish().assert_equals(&path);
}

#[test]
fn a_wal_that_was_reset_unseen_needs_a_resync_and_gets_a_higher_generation() {
    let (_dir, path) = database();
    let (capture, consumer) = start_copy(config(&path), 16);
    write(&path, 1, 20);
    consumer.wait_for(sync(&capture));
    capture.stop();
    let mut rebuilt = consumer.finish();
    // The last connection closes: the WAL is gone. Then another one is begun.
    write(&path, 2, 20);
    write(&path, 3, 20);

    let (sender, receiver) = mpsc::channel(16);
    let capture = Capture::start(config(&path), sender).expect("it starts");
    let Attached::FromStart { page_count, .. } = attach(&capture, Some(rebuilt.point)) else {
        panic!("frames are missing, yet it resumed");
    };
    let old = rebuilt.point.position.generation;
    rebuilt.copied_to = None;
    let hashes = rebuilt.database.chunks(rebuilt.page_size).map(xxh3_64).collect();
    let consumer = Consumer::start(receiver, rebuilt);
    capture
        .command(CaptureCommand::DifferingPages { first_page: 1, page_count: page_count + 10, hashes })
        .expect("it runs");
    capture.command(CaptureCommand::EndOfCopy).expect("it runs");
    write(&path, 4, 20);
    let position = sync(&capture);
    assert!(position.generation > old, "{position} after {old:?}");
    consumer.wait_for(position);
    capture.stop();
    consumer.finish().assert_equals(&path);
}

#[test]
fn a_session_that_was_away_gets_what_it_missed() {
    let (_dir, path) = database();
    let (sender, mut receiver) = mpsc::channel(64);
    let capture = Capture::start(config(&path), sender).expect("it starts");
    let Attached::FromStart { page_size, page_count, .. } = attach(&capture, None) else {
        panic!("nothing to resume")
    };
    copy_all(&capture, page_count);
    let mut rebuilt = crate::rebuild::Rebuilt::new(page_size);
    let catch_up = |receiver: &mut mpsc::Receiver<_>, rebuilt: &mut crate::rebuild::Rebuilt| {
        let position = sync(&capture);
        while rebuilt.copied_to.is_none() || rebuilt.point.position < position {
            rebuilt.apply(receiver.blocking_recv().expect("capture runs"));
        }
    };
    write(&path, 1, 10);
    catch_up(&mut receiver, &mut rebuilt);
    for round in 0..4 {
        capture.command(CaptureCommand::Detach).expect("it runs");
        let away_from = sync(&capture);
        assert!(receiver.try_recv().is_err(), "everything was taken before");
        write(&path, 10 + round, 10);
        // The application may also try to empty the WAL: what is missed stays.
        Job { count: 1, busy_ms: 1, ..Job::role("checkpointer", round) }.start(&path).wait();
        write(&path, 20 + round, 10);
        assert!(sync(&capture) > away_from, "positions go on while nobody is attached");
        assert!(receiver.try_recv().is_err(), "nothing is published while nobody is attached");
        let at = rebuilt.point.position;
        let resumed = Attached::Resumed { held: at, published: at };
        assert_eq!(attach(&capture, Some(rebuilt.point)), resumed, "round {round}");
        catch_up(&mut receiver, &mut rebuilt);
        // Let the WAL come to rest in the database file, so that the next round begins a generation.
        Job { count: 3, ..Job::role("checkpointer", 7 + round) }.start(&path).wait();
    }
    assert!(rebuilt.point.position.generation > WalGeneration(2), "the WAL was reset in between");
    capture.stop();
    rebuilt.assert_equals(&path);
}

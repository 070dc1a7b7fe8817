//! The application's checkpoints and commits go on as without capture.

use crate::session::{config, start_copy, status, sync};
use crate::writers::{Dice, Job, Report, create};
use lockstep_engine::capture::{Capture, CaptureConfig};
use tokio::sync::mpsc;

#[test]
fn an_idle_follower_stands_in_no_checkpoints_way() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let (capture, consumer) = start_copy(config(&path), 16);
    for round in 0..10 {
        Job { count: 5, ..Job::writer(round, 0) }.start(&path).wait();
        let report = Job { count: 3, ..Job::role("checkpointer", round) }.start(&path).wait();
        assert_eq!(report.locked, 0, "a checkpoint of an idle database was refused");
    }
    consumer.wait_for(sync(&capture));
    println!("{:?}", status(&capture));
    assert!(status(&capture).resets >= 5);
    capture.stop();
    consumer.finish().assert_equals(&path);
}

#[test]
fn the_wal_of_a_database_nobody_attached_to_does_not_grow() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let (sender, _receiver) = mpsc::channel(1);
    let capture =
        Capture::start(CaptureConfig { checkpoint_frames: 100, ..config(&path) }, sender).expect("it starts");
    // No checkpoint of its own.
    Job { count: 3000, pause_us: 100, ..Job::writer(1, 0) }.start(&path).wait();
    let shown = status(&capture);
    println!("{shown:?}");
    assert!(shown.handovers > 5 && shown.resets > 5);
    let wal = std::fs::metadata(path.with_extension("db-wal")).expect("the WAL is there").len();
    assert!(wal < 3000 * 4096, "{wal} bytes");
    capture.stop();
}

fn load(path: &std::path::Path, seed: u64, busy_ms: u64) -> Vec<Report> {
    let mut dice = Dice(seed);
    let writers: Vec<_> = (0..3)
        .map(|_| Job { count: 300, pause_us: 300, busy_ms, ..Job::writer(dice.next(), 1000) }.start(path))
        .collect();
    writers.into_iter().map(crate::writers::Process::wait).collect()
}

#[test]
fn writers_with_a_busy_timeout_are_not_refused_more_often() {
    for busy_ms in [5000, 0] {
        let mut locked = Vec::new();
        for with_capture in [false, true] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("source.db");
            create(&path);
            let follower = with_capture
                .then(|| start_copy(CaptureConfig { checkpoint_frames: 200, ..config(&path) }, 16));
            let reports = load(&path, 42, busy_ms);
            let slowest = reports.iter().map(|r| r.slowest_us).max().unwrap_or(0);
            let refused: u64 = reports.iter().map(|r| r.locked).sum();
            println!(
                "busy timeout {busy_ms} ms, capture {with_capture}: slowest commit {slowest} us, {refused} refused"
            );
            locked.push(refused);
            if let Some((capture, consumer)) = follower {
                consumer.wait_for(sync(&capture));
                println!("{:?}", status(&capture));
                capture.stop();
                consumer.finish().assert_equals(&path);
            }
        }
        if busy_ms >= 100 {
            assert!(locked[1] <= locked[0], "{locked:?} refused without and with capture");
        }
    }
}

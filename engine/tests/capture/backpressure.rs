//! A session that takes slowly, or not at all.

use crate::session::{attach, config, start_copy, status, sync};
use crate::writers::{Job, create};
use lockstep_engine::capture::{Attached, Capture, CaptureCommand, CaptureConfig, CaptureEvent};
use std::path::Path;
use tokio::sync::mpsc;

fn fill(path: &Path, commits: u64) {
    Job { count: commits, ..Job::writer(3, 0) }.start(path).wait();
}

#[test]
fn a_vacuum_larger_than_the_channel_is_streamed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    fill(&path, 3000);
    let (capture, consumer) = start_copy(config(&path), 1);
    Job { count: 1, ..Job::role("vacuum", 1) }.start(&path).wait();
    consumer.wait_for(sync(&capture));
    println!("{:?}", status(&capture));
    assert!(status(&capture).wal_bytes > 4 << 20, "larger than channel and outbox together");
    capture.stop();
    let rebuilt = consumer.finish();
    assert!(!rebuilt.let_go);
    rebuilt.assert_equals(&path);
}

#[test]
fn commands_are_answered_while_nobody_takes_frames_and_then_the_mark_is_let_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let (sender, mut receiver) = mpsc::channel(1);
    let small = CaptureConfig { wal_retain_max_bytes: 1 << 20, ..config(&path) };
    let capture = Capture::start(small, sender).expect("it starts");
    let Attached::FromStart { .. } = attach(&capture, None) else { panic!("nothing to resume") };
    let before = sync(&capture);
    let mut writer = Job { pause_us: 500, ..Job::writer(5, 0) }.start(&path);
    writer.wait_ready();
    let mut answers = 0;
    while !capture.status().let_go {
        assert!(sync(&capture) >= before);
        answers += 1;
        std::thread::yield_now();
    }
    println!("{answers} answers until the mark was let go");
    assert!(status(&capture).wal_bytes > 1 << 20);
    writer.finish();
    let mut let_go = false;
    while !let_go {
        let event = receiver.blocking_recv().expect("capture runs");
        let_go = matches!(event, CaptureEvent::LetGo);
    }
    assert!(receiver.try_recv().is_err(), "nothing follows");
    assert!(sync(&capture) > before);
    assert!(matches!(attach(&capture, None), Attached::FromStart { .. }));
    capture.command(CaptureCommand::Detach).expect("it runs");
    capture.stop();
}

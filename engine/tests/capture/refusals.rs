//! What cannot be followed is refused in one line that names the remedy.

use crate::session::config;
use crate::writers::create;
use lockstep_engine::capture::{Capture, CaptureError};
use rusqlite::Connection;
use std::path::Path;
use tokio::sync::mpsc;

fn refusal(path: &Path) -> CaptureError {
    let (sender, _receiver) = mpsc::channel(1);
    let error = Capture::start(config(path), sender).expect_err("it is refused");
    println!("{error}");
    assert!(!error.to_string().contains('\n'));
    error
}

#[test]
fn files_that_cannot_be_followed_are_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| dir.path().join(name);

    assert!(matches!(refusal(&at("missing.db")), CaptureError::Missing { .. }));

    std::fs::write(at("text.db"), vec![b'x'; 5000]).expect("it can be written");
    assert!(matches!(refusal(&at("text.db")), CaptureError::NotADatabase { .. }));
    std::fs::write(at("empty.db"), b"").expect("it can be written");
    assert!(matches!(refusal(&at("empty.db")), CaptureError::Missing { .. }), "not written yet");
    assert!(matches!(refusal(dir.path()), CaptureError::NotADatabase { .. }));

    let rollback = Connection::open(at("rollback.db")).expect("it can be created");
    rollback.execute_batch("CREATE TABLE t(a)").expect("it can be filled");
    drop(rollback);
    let before = std::fs::read(at("rollback.db")).expect("it can be read");
    assert!(matches!(refusal(&at("rollback.db")), CaptureError::RollbackMode { .. }));
    assert_eq!(before, std::fs::read(at("rollback.db")).expect("it can be read"), "nothing was changed");

    create(&at("wal2.db"));
    let mut bytes = std::fs::read(at("wal2.db")).expect("it can be read");
    bytes[18..20].copy_from_slice(&[3, 3]);
    std::fs::write(at("wal2.db"), bytes).expect("it can be written");
    assert!(matches!(refusal(&at("wal2.db")), CaptureError::Wal2 { .. }));

    create(&at("linked.db"));
    std::fs::hard_link(at("linked.db"), at("other.db")).expect("it can be linked");
    assert!(matches!(refusal(&at("linked.db")), CaptureError::HardLinks { links: 2, .. }));
}

#[test]
fn a_database_that_a_program_holds_exclusively_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("held.db");
    create(&path);
    let mut holder = crate::writers::Job::role("exclusive", 1).start(&path);
    holder.wait_ready();
    holder.wait_for_line("held");
    let error = refusal(&path);
    assert!(matches!(error, CaptureError::Exclusive { .. } | CaptureError::NoSharedIndex { .. }), "{error}");
}

#[test]
fn a_database_replaced_under_the_capture_ends_it_with_a_sentence() {
    use lockstep_engine::capture::CaptureEvent;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let (sender, mut receiver) = mpsc::channel(1);
    let capture = Capture::start(config(&path), sender).expect("it starts");
    std::fs::rename(&path, dir.path().join("away.db")).expect("it can be renamed");
    let Some(CaptureEvent::Failed(sentence)) = receiver.blocking_recv() else { panic!("it went on") };
    println!("{sentence}");
    assert_eq!(capture.status().failed, Some(sentence));
    drop(receiver);
    capture.stop();
}

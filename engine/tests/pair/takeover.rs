//! What a takeover does not wait for.

use crate::{epoch, in_sync, writer};
use lockstep_engine::pair::CommitMode;
use rusqlite::Connection;

/// Large enough that a takeover comes while its snapshot is being written.
const LARGE_BYTES: i64 = 24 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_ends_a_running_snapshot_and_leaves_no_half_of_it() {
    let (mut active, mut standby) = in_sync().await;
    Connection::open(active.database())
        .and_then(|c| c.execute("INSERT INTO t(v) VALUES (zeroblob(?1))", [LARGE_BYTES]))
        .expect("a large row");
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    active.until_in_sync().await;
    let file = standby.directory().join("snapshot.db");
    let begun = standby.directory().join("snapshot.db.new");
    let snapshot = tokio::spawn(standby.snapshot_task(&file));
    while !begun.exists() {
        assert!(!snapshot.is_finished(), "the snapshot is to be under way");
        tokio::task::yield_now().await;
    }
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    let answer = snapshot.await.expect("the task does not panic");
    assert_eq!(answer, Err("the standby takes over: take the snapshot again".to_owned()));
    assert!(!begun.exists() && !file.exists(), "half a snapshot is left");
    assert_eq!(writer::rows(standby.database()), 1);
    let mirror = standby.snapshot(&file).await;
    assert_eq!(mirror, Ok(()), "as the active it takes one");
    standby.stop().await;
    active.stop().await;
}

//! A flip in the standby's memory, through a whole pair whose other comparisons are off: only the sums can see it.

use crate::mirror::spoil;
use crate::node::pair_without_database;
use crate::pair::CommitMode;
use crate::writer::{self, Writer};
use lockstep_wire::{Epoch, NodeId};

fn epoch(counter: u64) -> Epoch {
    Epoch { counter, node: NodeId(7) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_flips_in_memory_between_check_and_write_is_caught_by_the_sums_and_put_right() {
    let (mut active, mut standby) = pair_without_database(|config| {
        config.databases[0].scrub_bytes_per_s = 0;
    });
    writer::create(active.database());
    writer::fill(active.database(), 500);
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let equal = |s: &crate::pair::EngineStatus| s.databases[0].equality.sums_equal_at.is_some();
    active.until_status("equal sums", equal).await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    assert_eq!(active.alarms(), Vec::<String>::new());

    spoil::next_batch_of(standby.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("nothing else notices");
    assert!(spoil::is_done());
    let names_sums = |event: &crate::pair::EngineEvent| matches!(event, crate::pair::EngineEvent::Notice { alarm: true, sentence } if sentence.contains("the sums over all pages of both nodes differ"));
    active.until_event("alarm of the sums", names_sums).await;
    active.verify().await.expect("the standby is there");
    let verified = active.verify().await.expect("the standby is there");
    assert_eq!(verified.repaired, 0, "it was put right");
    active.until_in_sync().await;
    writer.kill();
    active.stop().await;
    standby.takes_over_with(epoch(2), row).await;
}

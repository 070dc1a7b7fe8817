//! What a resync by pages puts on the wire: hashes of all pages, and the pages that differ.

use crate::node::{Node, pair_without_database};
use crate::{epoch, writer};
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows of a page each.
fn fill(database: &Path, rows: i64) {
    writer::create(database);
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO t(v) SELECT randomblob(3700) FROM n";
    let connection = Connection::open(database).expect("it opens");
    connection.pragma_update(None, "synchronous", "OFF").expect("synchronous");
    connection.execute(fill, [rows]).expect("rows are put in");
}

/// Changes rows far from each other and leaves nothing of it in the WAL.
fn change(database: &Path, rows: i64, of: i64) {
    let connection = Connection::open(database).expect("it opens");
    let change = "UPDATE t SET v = randomblob(3700) WHERE id % ?1 = 0";
    assert_eq!(connection.execute(change, [of / rows]).expect("rows are changed") as i64, rows);
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).expect("the WAL is emptied");
}

/// The bytes that the standby says the last copy took: pages, hashes.
fn told(standby: &mut Node) -> [u64; 2] {
    let sentence = standby.notices().into_iter().rfind(|n| n.contains("was sent")).expect("it is told");
    assert!(sentence.contains("the resync by pages"), "{sentence}");
    let numbers = sentence.split(' ').filter_map(|word| word.parse().ok());
    numbers.collect::<Vec<u64>>().try_into().expect("two numbers")
}

/// Two gigabytes take longer than anything else here may.
async fn in_sync(active: &Node) {
    let until = Instant::now() + Duration::from_secs(600);
    while !active.status().in_sync {
        assert!(Instant::now() < until, "not in sync: {:#?}", active.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn resync(pages: i64, changed: i64) {
    let (mut active, mut standby) = pair_without_database(|_| {});
    fill(active.database(), pages);
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    in_sync(&active).await;
    let mut active = active.restart(|database| change(database, changed, pages)).await;
    active.become_active(epoch(1)).await.expect("the database can be followed");
    in_sync(&active).await;
    let [page_bytes, hash_bytes] = told(&mut standby);
    let link = active.status().link.expect("a connection stands");
    let database_bytes = std::fs::metadata(active.database()).expect("it is there").len();
    // As 40 MB of a database of 2 GB in which 1,000 pages differ.
    let shipped = link.bytes_sent + link.bytes_received;
    println!("{shipped} bytes of a database of {database_bytes}: pages {page_bytes}, hashes {hash_bytes}");
    assert!(shipped < database_bytes / 50, "{shipped} of {database_bytes}");
    assert!(page_bytes >= changed as u64 * 4096 && page_bytes < shipped, "{page_bytes} of {shipped}");
    assert!(hash_bytes >= pages as u64 * 8 && hash_bytes < shipped, "{hash_bytes} of {shipped}");
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_ships_the_pages_that_differ_and_hashes_of_the_rest_and_says_how_much() {
    resync(8_000, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "copies two gigabytes"]
async fn long_a_database_of_two_gigabytes_with_a_thousand_changed_pages_takes_less_than_40_mb() {
    resync(500_000, 1_000).await;
}

//! A former active with commits of its own comes back: what it costs, what is equal, what is kept.

use crate::epoch;
use crate::node::{Node, pair};
use crate::writer::{self, Writer};
use lockstep_engine::copy::differences::{Change, Differences};
use lockstep_engine::copy::quarantine::{self, NoFork};
use lockstep_engine::pair::CommitMode;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Rows before anything happens: some 4 MiB, so that a comparison of all pages would show.
const FILLED: i64 = 4000;

/// Rows that the new active writes before the old one is back.
const THEIRS: i64 = 3;

/// What a page or frame with its message takes at most on the wire.
const PAGE_BYTES: u64 = 4300;

struct Rejoined {
    old: Node,
    new: Node,
    /// Rows both had.
    shared: i64,
    /// Sent by the new active from before the old one came back until both were in sync.
    sent_bytes: u64,
    /// Pages that were compared.
    compared: u64,
}

/// The old active commits `alone` rows without its standby, `meanwhile` happens to its database, the standby is
/// promoted and goes on, and the old one comes back.
async fn rejoin(alone: i64, meanwhile: impl FnOnce(&Path)) -> Rejoined {
    rejoin_behind(alone, meanwhile, (THEIRS, false)).await
}

/// The new active writes `theirs` rows meanwhile, and its engine starts again if `restarts`.
async fn rejoin_behind(
    alone: i64,
    meanwhile: impl FnOnce(&Path),
    (theirs, restarts): (i64, bool),
) -> Rejoined {
    let (mut old, mut new) = pair();
    writer::fill(old.database(), FILLED);
    old.become_active(epoch(1)).await.expect("the database can be followed");
    new.become_standby(epoch(1)).await.expect("the mirror opens");
    old.until_in_sync().await;
    let mut writer = Writer::start(old.database());
    let shared = writer.commit();
    old.wait(CommitMode::Durable).await.expect("the standby is there");
    new.become_idle().await;
    for _ in 0..alone {
        writer.commit();
    }
    writer.kill();
    let mut old = old.restart(meanwhile).await;
    new.promote(epoch(2)).await.expect("the mirror is promoted");
    let mut writer = Writer::start(new.database());
    for _ in 0..theirs {
        writer.commit();
    }
    if restarts {
        new = new.restart(|_| ()).await;
        new.become_active(epoch(2)).await.expect("the database can be followed");
    }
    let sent = |node: &Node| node.status().link.map_or(0, |link| link.bytes_sent);
    let before = sent(&new);
    old.become_standby(epoch(2)).await.expect("the old active mirrors");
    new.until_in_sync().await;
    let sent_bytes = sent(&new) - before;
    writer.commit();
    new.wait(CommitMode::Durable).await.expect("frames go on after the copy");
    writer.kill();
    let begun =
        old.notices().into_iter().find(|notice| notice.contains("begins, ")).expect("a copy was told");
    let compared = begun.split("begins, ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
    Rejoined { old, new, shared, sent_bytes, compared: compared.parse().expect("a number of pages") }
}

/// Runs statements, moves everything into the database file and leaves the WAL as it is.
fn run_and_checkpoint(database: &Path, statements: &str) {
    let connection = Connection::open(database).expect("it opens");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("it is set");
    connection.execute_batch(statements).expect("they run");
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())).expect("it is moved");
}

/// Changes a row in a page that no commit of this WAL had touched.
fn change_and_checkpoint(database: &Path) {
    run_and_checkpoint(database, "UPDATE t SET v = 'mine' WHERE id = 7");
}

/// The pages of a database that nobody has open, as SQLite sees them through its WAL.
fn pages(database: &Path) -> Vec<u8> {
    let copy = TempDir::new().expect("a directory");
    let name = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let target = copy.path().join("copy.db");
    for suffix in ["", "-wal"] {
        std::fs::copy(name(database, suffix), name(&target, suffix)).expect("it is copied");
    }
    let connection = Connection::open(&target).expect("it opens");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).expect("it is moved");
    std::fs::read(&target).expect("it can be read")
}

/// Numbers of the rows that are only in the kept data or otherwise there, compared with the fork or with `present`.
async fn kept_rows(node: &Node, fork: Result<(), NoFork>) -> Vec<i64> {
    let kept = quarantine::list_blocking(&node.directory().join("state")).expect("it is listed").kept;
    let work = TempDir::new().expect("a directory");
    let unpacked = quarantine::unpack(&kept[0], work.path()).expect("it is whole");
    assert_eq!(unpacked.fork.as_ref().map(drop), fork.as_ref().map(drop), "{unpacked:?}");
    let base = match unpacked.fork {
        Ok(fork) => fork,
        Err(_) => {
            let present = work.path().join("present.db");
            node.snapshot(&present).await.expect("it is written");
            present
        }
    };
    let differences = Differences::open(&unpacked.kept, &base).expect("both open");
    let mut ids = Vec::new();
    for table in differences.tables().expect("tables") {
        for change in [Change::OnlyHere, Change::Changed] {
            let look = |row: &lockstep_engine::copy::differences::Difference<'_>| {
                ids.push(row.value(0)?.as_i64().map_err(|_| rusqlite::Error::InvalidQuery)?);
                Ok::<(), rusqlite::Error>(())
            };
            differences.rows(&table, change, 1000, look).expect("rows");
        }
    }
    ids.sort_unstable();
    ids
}

/// Both databases are equal, and the former active's is sound.
async fn equal_and_sound(rejoined: Rejoined) {
    equal_and_sound_with(rejoined, THEIRS).await;
}

async fn equal_and_sound_with(mut rejoined: Rejoined, theirs: i64) {
    rejoined.new.stop().await;
    rejoined.old.become_idle().await;
    let equal = pages(rejoined.old.database()) == pages(rejoined.new.database());
    assert!(equal, "the pages of both nodes differ");
    rejoined.old.promote(epoch(3)).await.expect("it is a complete mirror");
    assert_eq!(writer::rows(rejoined.old.database()), rejoined.shared + theirs + 1);
    rejoined.old.stop().await;
    writer::check(rejoined.old.database());
}

async fn comes_back(alone: i64, meanwhile: impl FnOnce(&Path), fork: Result<(), NoFork>, changed: &[i64]) {
    let mut rejoined = rejoin(alone, meanwhile).await;
    assert_rewound(&mut rejoined);
    assert_eq!(rejoined.old.copies(), 0, "it was no mirror that a copy could make incomplete");
    // A row takes a twelfth of a page; the root, the first page and a split come with any commit.
    let most = 6 + (alone as u64).div_ceil(10);
    assert!(rejoined.compared <= most, "{} pages compared for {alone} commits", rejoined.compared);
    let frames = 4 * THEIRS as u64;
    let most = (rejoined.compared + frames) * PAGE_BYTES + 10_000;
    assert!(rejoined.sent_bytes <= most, "{} bytes, expected at most {most}", rejoined.sent_bytes);
    let added = rejoined.shared + 1..=rejoined.shared + alone;
    let expected: Vec<i64> = changed.iter().copied().chain(added).collect();
    assert_eq!(kept_rows(&rejoined.old, fork).await, expected);
    equal_and_sound(rejoined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_active_with_one_commit_of_its_own_is_rewound_to_the_fork() {
    comes_back(1, |_| (), Ok(()), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_active_with_fifty_commits_of_its_own_is_rewound_to_the_fork() {
    comes_back(50, |_| (), Ok(()), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_a_checkpoint_moved_after_the_fork_come_back_from_the_new_active() {
    comes_back(50, change_and_checkpoint, Err(NoFork::Checkpointed), &[7]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_shrank_after_the_fork_gets_its_pages_back() {
    let statements = format!("DELETE FROM t WHERE id > {}; VACUUM;", FILLED / 2);
    let shrink = |database: &Path| run_and_checkpoint(database, &statements);
    let mut rejoined = rejoin(1, shrink).await;
    assert_eq!(rejoined.old.quarantined(), 1);
    equal_and_sound(rejoined).await;
}

/// Rows that fill more of the WAL than a node hands over to a checkpoint at: 100 frames in these tests.
const MANY: i64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_to_the_fork_stays_open_over_many_commits_of_the_new_active() {
    let mut rejoined = rejoin_behind(1, |_| (), (MANY, false)).await;
    assert_rewound(&mut rejoined);
    equal_and_sound_with(rejoined, MANY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_to_the_fork_stays_open_over_a_restart_of_the_new_active() {
    let mut rejoined = rejoin_behind(1, |_| (), (MANY, true)).await;
    assert_rewound(&mut rejoined);
    equal_and_sound_with(rejoined, MANY).await;
}

fn assert_rewound(rejoined: &mut Rejoined) {
    let notices = rejoined.old.notices();
    let told = notices.iter().any(|notice| notice.contains("a rewind to where the histories parted begins"));
    assert!(told && rejoined.compared < 20, "{} pages: {notices:?}", rejoined.compared);
    assert_eq!(rejoined.old.quarantined(), 1);
}

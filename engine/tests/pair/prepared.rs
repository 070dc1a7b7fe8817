//! Commits in doubt through the whole pair: shipped before they are published, because a program told of
//! them, and never published, because their writer died.

use crate::node::Node;
use crate::writer::Writer;
use crate::{epoch, in_sync, writer};
use lockstep_barrier::{Mark, Poke};
use lockstep_engine::pair::CommitMode;
use lockstep_engine::wal::{Frames, WAL_HEADER_BYTES, WalHeader, frame_offset};
use lockstep_wire::{FrameNo, Salts};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn wal(database: &Path) -> PathBuf {
    format!("{}-wal", database.display()).into()
}

/// The last commit frame of a WAL by its checksums alone.
pub(crate) fn last_commit(bytes: &[u8]) -> Option<Mark> {
    let header = WalHeader::parse(bytes).ok()?;
    let frames = Frames::new(&bytes[WAL_HEADER_BYTES..], header.page_size);
    let (good, _) = frames.verified_prefix(&header, FrameNo(1), header.chain);
    let chain = good.last_commit_chain.packed();
    (good.last_commit > 0).then_some(Mark { salts: header.salts.packed(), chain, frame: good.last_commit })
}

/// Leaves what a writer leaves that is killed between its commit frame and the wal-index: a real
/// transaction, made on a copy, whose frames stand in the WAL. (No lock of SQLite lies on a WAL.)
pub(crate) fn leave_phantom(database: &Path) -> Mark {
    leave_commit(database, "INSERT INTO t(v) VALUES (hex(randomblob(150)))")
}

pub(crate) fn leave_commit(database: &Path, statement: &str) -> Mark {
    leave_commit_behind(database, statement, None)
}

/// Behind that frame, or behind the last commit that stands in the WAL.
fn leave_commit_behind(database: &Path, statement: &str, published: Option<FrameNo>) -> Mark {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let copy = directory.path().join("copy.db");
    std::fs::copy(database, &copy).expect("the database can be copied");
    std::fs::copy(wal(database), wal(&copy)).expect("the WAL can be copied");
    if let Some(frame) = published {
        let copy = std::fs::OpenOptions::new().write(true).open(wal(&copy)).expect("a WAL");
        copy.set_len(frame_offset(FrameNo(frame.0 + 1), 4096)).expect("it is cut");
    }
    let before = last_commit(&std::fs::read(wal(&copy)).expect("a WAL")).expect("a commit");
    let connection = rusqlite::Connection::open(&copy).expect("the copy opens");
    connection.execute(statement, []).expect("a row is committed");
    let bytes = std::fs::read(wal(&copy)).expect("a WAL");
    let phantom = last_commit(&bytes).expect("a commit");
    assert!(phantom.frame > before.frame && phantom.salts == before.salts);
    let offset = |frame| frame_offset(FrameNo(frame + 1), 4096);
    let new = &bytes[offset(before.frame) as usize..offset(phantom.frame) as usize];
    let file = std::fs::OpenOptions::new().write(true).open(wal(database)).expect("a WAL");
    file.write_all_at(new, offset(before.frame)).expect("the frames are written");
    phantom
}

/// A pair with so many rows that are durable on the standby; the number of the last.
async fn with_rows(rows: u32) -> (Node, Node, Writer, i64) {
    let (active, standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    let mut row = 0;
    for _ in 0..rows {
        row = writer.commit();
    }
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    (active, standby, writer, row)
}

/// A pair with a few commits, one of which is in doubt on the standby's disk; the rows that are committed.
async fn with_phantom() -> (Node, Node, Writer, Mark, i64) {
    let (active, standby, writer, row) = with_rows(5).await;
    let mark = send_phantom(&active, &standby).await;
    (active, standby, writer, mark, row)
}

async fn send_phantom(active: &Node, standby: &Node) -> Mark {
    let mark = leave_phantom(active.database());
    until_held(active, standby, mark).await;
    mark
}

/// Tells of a commit that is not published, and waits until the standby has it on its disk.
pub(crate) async fn until_held(active: &Node, standby: &Node, mark: Mark) {
    let poke = Poke::connect(&active.directory().join("test/main.poke")).expect("the engine listens");
    assert!(poke.send(&mark));
    let held =
        |status: &lockstep_engine::pair::EngineStatus| status.databases[0].durable.frame.0 == mark.frame;
    standby.until_status("durable phantom", held).await;
}

/// The standby equals the active, without a copy, a quarantine or an alarm on the way.
async fn assert_equal(mut active: Node, mut standby: Node, writer: Writer, row: i64) {
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    active.until_in_sync().await;
    active.verify().await.expect("the standby is there");
    writer.kill();
    assert_eq!((active.alarms(), standby.alarms()), (Vec::new(), Vec::new()));
    assert_eq!((standby.copies(), standby.quarantined()), (0, 0));
    active.stop().await;
    standby.takes_over_with(epoch(2), row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_writer_died_is_forgotten_by_the_standby_when_the_next_one_writes() {
    let (active, standby, mut writer, _, mut row) = with_phantom().await;
    for _ in 0..3 {
        active.wait(CommitMode::Durable).await.expect("what is committed is durable");
        let next = writer.commit();
        assert_eq!(next, row + 1, "the phantom is nobody's row");
        active.wait(CommitMode::Durable).await.expect("the standby is there");
        row = writer.commit();
        active.wait(CommitMode::Durable).await.expect("the standby is there");
        send_phantom(&active, &standby).await;
    }
    row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_keeps_a_commit_in_doubt_that_is_durable() {
    let (active, mut standby, writer, _, row) = with_phantom().await;
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row + 1, "it may have been acknowledged");
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_again_goes_on_behind_a_commit_in_doubt() {
    let (active, standby, mut writer, phantom, _) = with_phantom().await;
    let mut active = active.restart(|_| ()).await;
    active.become_active(epoch(1)).await.expect("the database can be followed");
    active.until_in_sync().await;
    let committed = active.status().databases[0].durable.frame;
    assert!(committed.0 < phantom.frame, "what is in doubt is nobody's yet");
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_again_takes_back_a_phantom_that_was_overwritten_meanwhile() {
    let (active, standby, mut writer, _, _) = with_phantom().await;
    let mut active = active
        .restart(|_| {
            writer.commit();
        })
        .await;
    active.become_active(epoch(1)).await.expect("the database can be followed");
    active.until_in_sync().await;
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_that_remembers_a_phantom_takes_it_back_from_a_standby_that_started_again() {
    let (mut active, mut standby, mut writer, _, _) = with_phantom().await;
    standby.become_idle().await;
    active.until_out_of_sync().await;
    writer.commit();
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phantom_that_neither_node_knows_for_one_goes_into_quarantine() {
    let (active, mut standby, mut writer, _, _) = with_phantom().await;
    standby.become_idle().await;
    let mut active = active
        .restart(|_| {
            writer.commit();
        })
        .await;
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer.kill();
    assert_eq!(standby.quarantined(), 1);
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row);
    standby.stop().await;
}

/// What a writer writes after it has emptied the WAL: the wal-index shows no frame any more, header and first
/// commit stand in the file. All of it is of a real writer, in a copy; here it has not published its commit.
pub(crate) fn leave_first_commit(database: &Path, fill: &str) -> Mark {
    let bytes = first_commit(database, fill);
    std::fs::write(wal(database), &bytes).expect("it is written");
    last_commit(&bytes).expect("a commit")
}

fn first_commit(database: &Path, fill: &str) -> Vec<u8> {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let copy = directory.path().join("copy.db");
    std::fs::copy(database, &copy).expect("the database can be copied");
    let other = rusqlite::Connection::open(&copy).expect("the copy opens");
    other.execute("INSERT INTO t(v) VALUES (?1)", [fill]).expect("a row is committed");
    std::fs::read(wal(&copy)).expect("a WAL")
}

/// The same by a writer that had reset the WAL before: the salts are those that the wal-index shows, and the next such
/// writer's header has them too.
fn leave_first_commit_with_salts(database: &Path, sequence: u32) -> Mark {
    let shm = format!("{}-shm", database.display());
    // In another process: closing the file here would drop the engine's locks on it.
    let index = std::process::Command::new("cat").arg(shm).output().expect("cat").stdout;
    let word = |at: usize| u32::from_be_bytes(index[at..at + 4].try_into().expect("four bytes"));
    let mut bytes = first_commit(database, "in doubt");
    let order = WalHeader::parse(&bytes).expect("a header").order;
    let header = WalHeader::new(order, 4096, sequence, Salts([word(32), word(36)]));
    bytes[..WAL_HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let mut chain = header.chain;
    for frame in bytes[WAL_HEADER_BYTES..].chunks_exact_mut(24 + 4096) {
        chain = order.extend(order.extend(chain, &frame[..8]), &frame[24..]);
        frame[8..16].copy_from_slice(&header.salts.packed().to_be_bytes());
        frame[16..24].copy_from_slice(&chain.packed().to_be_bytes());
    }
    std::fs::write(wal(database), &bytes).expect("it is written");
    last_commit(&bytes).expect("a commit")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_commit_gives_way_to_another_generation_with_the_same_salts() {
    let (active, standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    writer.empty_wal();
    for sequence in [77, 78] {
        let mark = leave_first_commit_with_salts(active.database(), sequence);
        until_held_anew(&active, &standby, mark).await;
    }
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

/// A pair whose standby holds a first commit of a new generation that is in doubt.
async fn with_first_in_doubt() -> (Node, Node, Writer, Mark, i64) {
    let (active, standby, mut writer, row) = with_rows(3).await;
    writer.empty_wal();
    let mark = leave_first_commit(active.database(), "in doubt");
    until_held_anew(&active, &standby, mark).await;
    (active, standby, writer, mark, row)
}

async fn until_held_anew(active: &Node, standby: &Node, mark: Mark) {
    let generation = standby.status().databases[0].durable.generation;
    let poke = Poke::connect(&active.directory().join("test/main.poke")).expect("the engine listens");
    assert!(poke.send(&mark));
    let held = |status: &lockstep_engine::pair::EngineStatus| {
        let durable = status.databases[0].durable;
        durable.frame.0 == mark.frame && durable.generation > generation
    };
    standby.until_status("durable first commit", held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_commit_after_a_reset_travels_before_it_is_published_and_is_shown_to_its_program() {
    let (active, mut standby, writer, mark, row) = with_first_in_doubt().await;
    writer.kill();
    let board = lockstep_barrier::BoardReader::open(&active.board()).expect("a board");
    let verdict = board.wait(&mark, board.session(), std::time::Duration::from_secs(10));
    assert_eq!(verdict, lockstep_barrier::Verdict::Safe);
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row + 1, "it may have been acknowledged");
    standby.stop().await;
    writer::check(standby.database());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_commit_whose_writer_died_gives_way_to_the_next_writers_generation() {
    let (active, standby, mut writer, _, _) = with_first_in_doubt().await;
    active.wait(CommitMode::Durable).await.expect("what is committed is durable");
    // The next one begins the WAL anew, with salts of its own; then once more, before anything was published.
    let second = leave_first_commit(active.database(), "in doubt too");
    until_held_anew(&active, &standby, second).await;
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_commit_in_doubt_survives_a_reconnect_and_is_taken_back_after_it() {
    let (mut active, mut standby, mut writer, _, _) = with_first_in_doubt().await;
    standby.become_idle().await;
    active.until_out_of_sync().await;
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

/// Rows of a commit of 4 MiB.
const LARGE: &str =
    "INSERT INTO t(v) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1024)
    SELECT hex(randomblob(2000)) FROM n";

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_four_mebibytes_travels_before_it_is_published() {
    let (active, standby) = in_sync().await;
    let mut writer = Writer::start(active.database());
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    let mark = leave_commit(active.database(), LARGE);
    assert!(mark.frame > 1024, "{mark:?}");
    until_held(&active, &standby, mark).await;
    let board = lockstep_barrier::BoardReader::open(&active.board()).expect("a board");
    let verdict = board.wait(&mark, board.session(), std::time::Duration::from_secs(10));
    assert_eq!(verdict, lockstep_barrier::Verdict::Safe);
    assert_eq!(writer.commit(), row + 1, "it is nobody's");
    assert_equal(active, standby, writer, row + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_overwrites_one_in_doubt_travels_before_it_is_published_too() {
    let (active, standby, mut writer, _, _) = with_phantom().await;
    // A longer one: the commit frame of the phantom stays where it is.
    let phantom = leave_commit(active.database(), LARGE);
    until_held(&active, &standby, phantom).await;
    // The next writer knows nothing of the phantom: it begins behind what is published.
    let published = active.status().databases[0].position.frame;
    assert!(published.0 < phantom.frame);
    let mark = leave_commit_behind(active.database(), "DELETE FROM t WHERE id = 1", Some(published));
    let board = lockstep_barrier::BoardReader::open(&active.board()).expect("a board");
    let poke = Poke::connect(&active.directory().join("test/main.poke")).expect("the engine listens");
    assert!(poke.send(&mark));
    let verdict = board.wait(&mark, board.session(), std::time::Duration::from_secs(10));
    assert_eq!(verdict, lockstep_barrier::Verdict::Safe);
    let row = writer.commit();
    assert_equal(active, standby, writer, row).await;
}

//! The commit board of a real pair, seen from a program: this process, which never opens the database itself.

use crate::node::{Node, pair_without_database};
use crate::{epoch, in_sync, writer};
use lockstep_barrier::{BoardReader, Mark, Poke, Rule, Verdict};
use lockstep_engine::link::Side;
use lockstep_engine::pair::{CommitMode, EngineConfig};
use lockstep_engine::wal::{Frames, WAL_HEADER_BYTES, WalHeader};
use lockstep_wire::FrameNo;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use writer::Writer;

type Held = tokio::sync::watch::Receiver<bool>;

/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(10);

/// Long enough for an acknowledgement that is on its way, several times over.
const QUIET: Duration = Duration::from_millis(200);

fn reader(node: &Node) -> BoardReader {
    BoardReader::open(&node.board()).expect("the engine has made a board")
}

/// What the writer's program would compute of its last commit. (No lock of SQLite lies on a WAL.)
fn last_commit(node: &Node) -> Mark {
    let path = format!("{}-wal", node.database().display());
    let bytes = std::fs::read(path).expect("a WAL");
    let header = WalHeader::parse(&bytes).expect("a whole header");
    let frames = Frames::new(&bytes[WAL_HEADER_BYTES..], header.page_size);
    let (good, _) = frames.verified_prefix(&header, FrameNo(1), header.chain);
    assert!(good.last_commit > 0, "no commit in the WAL");
    let chain = good.last_commit_chain.packed();
    Mark { salts: header.salts.packed(), chain, frame: good.last_commit }
}

async fn in_sync_with(change: impl Fn(&mut EngineConfig)) -> (Node, Node) {
    let (mut active, mut standby) = pair_without_database(change);
    writer::create(active.database());
    active.become_active(epoch(1)).await.expect("the active's database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    (active, standby)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_shows_commits_that_the_standby_holds_and_no_others() {
    let (mut active, mut standby) = in_sync().await;
    let board = reader(&active);
    assert_eq!(board.names(), ("test".into(), "main".into()));
    let file = std::fs::metadata(active.database()).expect("a database");
    assert_eq!(board.database_file(), Some((file.dev(), file.ino())));
    assert_eq!(board.rule(), Rule::Hold);
    let mut writer = Writer::start(active.database());
    let session = board.session();
    for _ in 0..150 {
        writer.commit();
        assert_eq!(board.wait(&last_commit(&active), session, LIMIT), Verdict::Safe);
    }
    let mut other = last_commit(&active);
    other.chain ^= 1;
    assert_eq!(board.look(&other, session), Verdict::Waiting, "another content of the same frame");
    standby.become_idle().await;
    active.until_out_of_sync().await;
    writer.commit();
    let lonely = last_commit(&active);
    assert_eq!(board.look(&lonely, session), Verdict::Void, "the standby went");
    let session = board.session();
    assert_eq!(board.wait(&lonely, session, QUIET), Verdict::Waiting);
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    assert_eq!(board.wait(&lonely, session, LIMIT), Verdict::Void, "a standby came: the socket answers");
    active.wait(CommitMode::Durable).await.expect("the standby is back");
    let session = board.session();
    writer.commit();
    assert_eq!(board.wait(&last_commit(&active), session, LIMIT), Verdict::Safe);
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

/// A way to the active on which the standby's words can be held back; its port.
async fn relay(to: u16, held: Held) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((standby, _)) = listener.accept().await {
            let Ok(active) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { continue };
            let ((from_standby, to_standby), (from_active, to_active)) =
                (standby.into_split(), active.into_split());
            tokio::spawn(pass(from_active, to_standby, None));
            tokio::spawn(pass(from_standby, to_active, Some(held.clone())));
        }
    });
    port
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: Option<Held>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        if let Some(held) = &mut held
            && held.wait_for(|held| !held).await.is_err()
        {
            return;
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_program_is_released_before_the_standby_has_answered() {
    let (hold, held) = tokio::sync::watch::channel(false);
    let way = std::sync::OnceLock::new();
    let runtime = tokio::runtime::Handle::current();
    let (active, standby) = in_sync_with(|config| {
        let lan = config.link.lan.as_mut().expect("a LAN path");
        if config.link.side == Side::Connect {
            let to = lan.port;
            lan.port = *way
                .get_or_init(|| tokio::task::block_in_place(|| runtime.block_on(relay(to, held.clone()))));
        }
    })
    .await;
    let board = reader(&active);
    let mut writer = Writer::start(active.database());
    hold.send_replace(true);
    let session = board.session();
    writer.commit();
    let mark = last_commit(&active);
    let held = |d: &lockstep_engine::pair::DatabaseStatus| d.durable.frame.0 >= mark.frame;
    standby.until_status("durable commit", |status| held(&status.databases[0])).await;
    assert_eq!(board.wait(&mark, session, QUIET), Verdict::Waiting, "the answer is held back");
    hold.send_replace(false);
    assert_eq!(board.wait(&mark, session, LIMIT), Verdict::Safe);
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_return_alone_only_while_solo_is_allowed_and_the_lease_holds() {
    let lease = Arc::new(AtomicBool::new(true));
    let held = lease.clone();
    let (active, standby) = in_sync_with(move |config| {
        let lease = held.clone();
        config.may_release = Arc::new(move || lease.load(Ordering::Relaxed));
    })
    .await;
    let board = reader(&active);
    let mut writer = Writer::start(active.database());
    standby.stop().await;
    writer.commit();
    let (mark, session) = (last_commit(&active), board.session());
    assert!(matches!(board.wait(&mark, session, QUIET), Verdict::Waiting | Verdict::Void));
    active.allow_solo(epoch(1)).await;
    until_rule(&board, Rule::Solo).await;
    assert_eq!(board.look(&mark, session), Verdict::Alone);
    lease.store(false, Ordering::Relaxed);
    until_rule(&board, Rule::Hold).await;
    lease.store(true, Ordering::Relaxed);
    until_rule(&board, Rule::Solo).await;
    active.hold_commits().await;
    until_rule(&board, Rule::Hold).await;
    writer.kill();
    active.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_acknowledged_alone_no_program_may_begin_to_write_without_a_standby() {
    let refuse = |config: &mut EngineConfig| {
        let boards = config.boards.as_mut().expect("the tests have boards");
        boards.refuse_alone_after = Some(QUIET);
    };
    let (active, mut standby) = in_sync_with(refuse).await;
    let board = reader(&active);
    assert_eq!(board.rule(), Rule::Hold);
    standby.become_idle().await;
    until_rule(&board, Rule::Refuse).await;
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    until_rule(&board, Rule::Hold).await;
    active.stop().await;
    standby.stop().await;
}

async fn until_rule(board: &BoardReader, rule: Rule) {
    let until = tokio::time::Instant::now() + LIMIT;
    while board.rule() != rule {
        assert!(tokio::time::Instant::now() < until, "{:?} instead of {rule:?}", board.rule());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_held_back_by_the_lease_is_shown_when_the_lease_is_there_again() {
    let lease = Arc::new(AtomicBool::new(true));
    let held = lease.clone();
    let (active, standby) = in_sync_with(move |config| {
        let lease = held.clone();
        config.may_release = Arc::new(move || lease.load(Ordering::Relaxed));
    })
    .await;
    let board = reader(&active);
    let mut writer = Writer::start(active.database());
    lease.store(false, Ordering::Relaxed);
    let session = board.session();
    writer.commit();
    let mark = last_commit(&active);
    let held = |d: &lockstep_engine::pair::DatabaseStatus| d.durable.frame.0 >= mark.frame;
    active.until_status("durable commit", |status| held(&status.databases[0])).await;
    assert_eq!(board.wait(&mark, session, QUIET), Verdict::Waiting, "durable, but the lease has ended");
    lease.store(true, Ordering::Relaxed);
    assert_eq!(board.wait(&mark, session, LIMIT), Verdict::Safe);
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_again_goes_on_with_the_board_its_programs_have_mapped() {
    let (active, standby) = in_sync().await;
    let board = reader(&active);
    let mut writer = Writer::start(active.database());
    writer.commit();
    let (mark, session) = (last_commit(&active), board.session());
    assert_eq!(board.wait(&mark, session, LIMIT), Verdict::Safe);
    let mut active = active.restart(|_| ()).await;
    active.become_active(epoch(1)).await.expect("the active's database can be followed");
    active.until_in_sync().await;
    assert!(board.is_current(), "the same file");
    assert_ne!(board.session(), session, "what an earlier engine showed counts no more");
    let session = board.session();
    // It is not sent again, and a strict program could not ask: its commit is not published.
    assert_eq!(board.wait(&mark, session, LIMIT), Verdict::Safe, "the standby's last commit is shown anew");
    writer.commit();
    assert_eq!(board.wait(&last_commit(&active), session, LIMIT), Verdict::Safe);
    writer.kill();
    active.stop().await;
    assert_eq!(board.rule(), Rule::Refuse, "who does not serve lets nobody write");
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_of_a_standby_refuses_until_it_serves() {
    let (active, mut standby) = in_sync().await;
    let board = reader(&standby);
    assert_eq!(board.rule(), Rule::Refuse);
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(board.rule(), Rule::Hold);
    standby.become_standby(epoch(3)).await.expect("it mirrors again");
    assert_eq!(board.rule(), Rule::Refuse);
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_local_commits_suffice_programs_need_not_wait() {
    let (active, standby) = in_sync_with(|config| config.commit_mode = CommitMode::Local).await;
    let board = reader(&active);
    assert_eq!(board.rule(), Rule::Local);
    assert_eq!(board.look(&Mark { frame: 1, ..Mark::default() }, board.session()), Verdict::Alone);
    active.stop().await;
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_commits_that_nobody_poked_for_count_as_not_waited_for() {
    let (active, standby) = in_sync().await;
    let poke = Poke::connect(&active.board().with_extension("poke")).expect("the engine listens");
    let mut writer = Writer::start(active.database());
    let unwaited = async |count| {
        let what = format!("{count} commits not waited for");
        active.until_status(&what, |status| status.databases[0].unwaited_commits == count).await;
    };
    writer.commit();
    writer.commit();
    unwaited(2).await;
    assert!(poke.send(&last_commit(&active)));
    unwaited(0).await;
    writer.commit();
    unwaited(1).await;
    writer.kill();
    active.stop().await;
    standby.stop().await;
}

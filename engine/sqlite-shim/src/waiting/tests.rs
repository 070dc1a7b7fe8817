//! Programs as this module sees them, against an agent that is nothing but a board, a poke and a socket.

use super::*;
use lockstep_barrier::{Board, Mark, PokeReceiver, Rule};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a wait is watched that must not end. A wait that ends too late is no failure.
const WATCHED: Duration = Duration::from_millis(150);
const PAGE: usize = 512;

static RUNTIME: OnceLock<tempfile::TempDir> = OnceLock::new();

/// All tests of this program have one agent's directory, each its own pair.
pub(super) fn socket() -> PathBuf {
    RUNTIME.get_or_init(|| tempfile::tempdir().expect("a directory")).path().join("agent.sock")
}

/// One replicated database with a pair of its own.
struct Stage {
    directory: tempfile::TempDir,
    pair: PathBuf,
}

impl Stage {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let name = format!("pair{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let pair = socket().parent().expect("a parent").join(name);
        std::fs::create_dir(&pair).expect("the pair's directory");
        Self { directory: tempfile::tempdir().expect("a directory"), pair }
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, b"a database").expect("the database");
        path
    }

    fn board(&self, name: &str, database: &Path) -> Board {
        let file = self.pair.join(format!("{name}.board"));
        let pair = self.pair.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        boards::forget();
        Board::create(&file, pair, name, database, false).expect("the board")
    }

    fn pokes(&self, name: &str) -> PokeReceiver {
        PokeReceiver::bind(&self.pair.join(format!("{name}.poke"))).expect("the poke")
    }
}

fn mark(frame: u32) -> Mark {
    Mark { salts: 7, chain: u64::from(frame) * 11, frame }
}

/// The writes of a transaction of one frame.
fn write(database: &Arc<Database>, frame: u32) {
    began(database);
    let at = WAL_HEADER_BYTES + u64::from(frame - 1) * (PAGE as u64 + 24);
    let mut header = vec![0, 0, 0, 1, 0, 0, 0, 1];
    header.extend(mark(frame).salts.to_be_bytes());
    header.extend(mark(frame).chain.to_be_bytes());
    let no_header = || panic!("the page size is known");
    wrote(database, at, &header, no_header);
    wrote(database, at + 24, &[0; PAGE], no_header);
}

fn commit(database: &Arc<Database>, frame: u32) {
    write(database, frame);
    ended(database);
    committed(database);
}

fn open(path: &Path) -> Arc<Database> {
    let database = Database::of(path).expect("it is there");
    database.set_page_bytes(PAGE as u32);
    database
}

/// Does something in a thread and says when it is done.
fn spawn(act: impl FnOnce() + Send + 'static) -> Receiver<()> {
    let (done, watch) = channel();
    std::thread::spawn(move || {
        act();
        let _ = done.send(());
    });
    watch
}

fn goes_on(watch: &Receiver<()>) {
    assert_eq!(watch.recv_timeout(WATCHED), Err(RecvTimeoutError::Timeout), "it did not wait");
}

fn ends(watch: &Receiver<()>) {
    watch.recv_timeout(PATIENCE).expect("the wait ends");
}

fn poked(pokes: &PokeReceiver, wanted: Mark) {
    let fd = std::os::fd::AsFd::as_fd(pokes);
    for _ in 0..100 {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
        let patience = rustix::time::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&patience)).expect("poll");
        if pokes.next().expect("a poke within the time") == wanted {
            return;
        }
    }
    panic!("never poked for {wanted:?}");
}

#[test]
fn a_commit_pokes_the_agent_and_returns_when_the_board_shows_it() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    let pokes = stage.pokes("main");
    let database = open(&path);
    let watch = spawn(move || commit(&database, 3));
    poked(&pokes, mark(3));
    board.publish([mark(2)]);
    goes_on(&watch);
    board.publish([mark(3)]);
    ends(&watch);
}

#[test]
fn a_board_that_appears_later_is_found_and_one_for_a_file_under_another_path_too() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let database = open(&path);
    commit(&database, 1);
    assert!(!database.is_replicated());
    let board = stage.board("main", Path::new("/a/path/of/another/container.db"));
    let metadata = std::fs::metadata(&path).expect("it is there");
    use std::os::unix::fs::MetadataExt;
    board.set_file(metadata.dev(), metadata.ino());
    for _ in 0..10_000 {
        database.look();
        if database.is_replicated() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let watch = spawn(move || commit(&database, 2));
    goes_on(&watch);
    board.publish([mark(2)]);
    ends(&watch);
}

#[test]
fn several_databases_of_one_transaction_are_waited_for_once_at_its_last_end() {
    let stage = Stage::new();
    let (one, two) = (stage.file("one.db"), stage.file("two.db"));
    let boards = [stage.board("one", &one), stage.board("two", &two)];
    let (one, two) = (open(&one), open(&two));
    let (first, first_ended) = channel();
    let watch = spawn(move || {
        write(&one, 1);
        write(&two, 5);
        ended(&one);
        committed(&one);
        first.send(()).expect("the test listens");
        ended(&two);
        committed(&two);
    });
    first_ended.recv_timeout(PATIENCE).expect("nobody waits while the second is locked");
    boards[1].publish([mark(5)]);
    goes_on(&watch);
    boards[0].publish([mark(1)]);
    ends(&watch);
}

#[test]
fn what_was_rolled_back_is_not_waited_for_and_keeps_nobody_from_waiting() {
    let stage = Stage::new();
    let (one, two) = (stage.file("one.db"), stage.file("two.db"));
    let boards = [stage.board("one", &one), stage.board("two", &two)];
    let (one, two) = (open(&one), open(&two));
    let watch = spawn(move || {
        write(&one, 1);
        failed(&one);
        ended(&one);
        // An empty transaction ends without a commit frame.
        began(&one);
        ended(&one);
        committed(&one);
        // Its write to the log went well but it was never published.
        write(&one, 1);
        ended(&one);
        commit(&two, 9);
        // One whose other half never ended: the next waits again.
        write(&one, 2);
        write(&two, 10);
        ended(&one);
        committed(&one);
        commit(&one, 3);
    });
    goes_on(&watch);
    boards[1].publish([mark(9)]);
    goes_on(&watch);
    boards[0].publish([mark(3)]);
    ends(&watch);
}

#[test]
fn solo_and_local_release_and_refuse_keeps_waiting() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    let database = open(&path);
    let other = Arc::clone(&database);
    assert!(!database.is_refused());
    let watch = spawn(move || commit(&other, 1));
    goes_on(&watch);
    board.set_rule(Rule::Refuse);
    assert!(database.is_refused());
    goes_on(&watch);
    board.set_rule(Rule::Solo);
    ends(&watch);
    board.set_rule(Rule::Local);
    commit(&database, 2);
    assert!(!database.is_refused());
}

#[test]
fn a_replaced_board_that_said_solo_releases_nobody() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let old = stage.board("main", &path);
    old.set_rule(Rule::Solo);
    let database = open(&path);
    commit(&database, 1);
    std::fs::remove_file(old.path()).expect("it was there");
    let other = Arc::clone(&database);
    let watch = spawn(move || commit(&other, 2));
    goes_on(&watch);
    let new = stage.board("main", &path);
    goes_on(&watch);
    new.publish([mark(2)]);
    ends(&watch);
}

#[test]
fn an_agent_that_comes_back_is_poked_again_on_its_new_socket() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    let pokes = stage.pokes("main");
    let database = open(&path);
    board.publish([mark(1)]);
    commit(&database, 1);
    poked(&pokes, mark(1));
    drop(pokes);
    let watch = spawn(move || commit(&database, 2));
    goes_on(&watch);
    let pokes = stage.pokes("main");
    let board = stage.board("main", &path);
    poked(&pokes, mark(2));
    board.publish([mark(2)]);
    ends(&watch);
}

/// The agent of all tests: answers each `WAIT` of this pair with the next of these lines, other pairs with a
/// refusal, until the lines are used up.
fn answering(pair: &str, answers: &'static [&'static str]) -> Receiver<()> {
    let wanted = format!("WAIT {pair} main durable ");
    let listener = UnixListener::bind(socket()).expect("the socket");
    spawn(move || {
        let mut answers = answers.iter();
        while answers.len() > 0 {
            let (stream, _) = listener.accept().expect("a program");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a request");
            let refusal = &"ERR pair not asked for here\n";
            let answer = if line.starts_with(&wanted) { answers.next() } else { Some(refusal) };
            // Who asked may have got its answer from the board.
            let _ = (&stream).write_all(answer.expect("counted").as_bytes());
        }
        std::fs::remove_file(socket()).expect("it was there");
    })
}

#[test]
fn when_the_standby_changed_the_agent_is_asked_and_only_ok_durable_or_solo_release() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    let database = open(&path);
    let watch = spawn(move || commit(&database, 1));
    board.void(Rule::Hold);
    let pair = stage.pair.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    ends(&answering(pair, &["ERR starting not yet\n", "OK received 1.2\n", ""]));
    goes_on(&watch);
    ends(&answering(pair, &["OK durable 1.2\n"]));
    ends(&watch);
}

#[test]
fn a_strict_wait_comes_before_publication_and_is_not_repeated_after_it() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    let database = open(&path);
    let (held, holds) = channel();
    let watch = spawn(move || {
        write(&database, 1);
        hold(&database);
        held.send(()).expect("the test listens");
        ended(&database);
        committed(&database);
    });
    goes_on(&watch);
    assert!(holds.try_recv().is_err(), "it was published too early");
    board.publish([mark(1)]);
    holds.recv_timeout(PATIENCE).expect("it is held no more");
    ends(&watch);
}

#[test]
fn a_strict_commit_stays_hidden_over_a_change_of_the_standby_and_whatever_the_socket_says() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    let database = open(&path);
    let (held, holds) = channel();
    let watch = spawn(move || {
        write(&database, 1);
        hold(&database);
        held.send(()).expect("the test listens");
        ended(&database);
        committed(&database);
    });
    goes_on(&watch);
    board.void(Rule::Hold);
    // The agent cannot mean a commit that the wal-index does not show.
    let pair = stage.pair.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    ends(&answering(pair, &["OK durable 1.2\n", "OK durable 1.2\n"]));
    goes_on(&watch);
    assert!(holds.try_recv().is_err(), "it was published too early");
    board.publish([mark(1)]);
    holds.recv_timeout(PATIENCE).expect("it is held no more");
    ends(&watch);
}

thread_local! {
    /// What a program commits when its thread ends.
    static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) };
}

struct Last(Arc<Database>, std::sync::mpsc::Sender<()>);

impl Drop for Last {
    fn drop(&mut self) {
        commit(&self.0, 2);
        let _ = self.1.send(());
    }
}

#[test]
fn a_commit_while_its_thread_ends_waits_too() {
    let stage = Stage::new();
    let path = stage.file("app.db");
    let board = stage.board("main", &path);
    board.publish([mark(1)]);
    let database = open(&path);
    let (done, watch) = channel();
    std::thread::spawn(move || {
        LAST.set(Some(Last(Arc::clone(&database), done)));
        commit(&database, 1);
    });
    goes_on(&watch);
    board.publish([mark(2)]);
    ends(&watch);
}

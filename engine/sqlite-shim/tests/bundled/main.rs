//! A program with SQLite built in (this test itself, executed anew with the library preloaded)
//! against the agent's side of the board.

mod program;

use lockstep_barrier::{Board, Mark, PokeReceiver, Rule};
use program::Program;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Nothing takes so long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long something that must not come is listened for.
const SILENCE: Duration = Duration::from_millis(300);

/// What the agent has: a runtime directory with one board for each database.
struct Stage {
    directory: tempfile::TempDir,
}

/// One database with its board and pokes.
struct Replicated {
    path: PathBuf,
    board: Board,
    pokes: PokeReceiver,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("shop")).expect("a directory");
        Self { directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn database(&self, name: &str, strict: bool) -> Replicated {
        let path = self.plain_database(name);
        let beside = |suffix| self.directory.path().join("shop").join(format!("{name}{suffix}"));
        let pokes = PokeReceiver::bind(&beside(".poke")).expect("a socket");
        let board = Board::create(&beside(".board"), "shop", name, &path, strict).expect("a board");
        let metadata = std::fs::metadata(&path).expect("it is there");
        board.set_file(metadata.dev(), metadata.ino());
        Replicated { path, board, pokes }
    }

    fn plain_database(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{name}.db"));
        let database = rusqlite::Connection::open(&path).expect("it opens");
        database
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT);")
            .expect("it is made");
        path
    }

    fn program(&self, path: &Path) -> Program {
        Program::start(&self.socket(), path)
    }
}

impl Replicated {
    /// The commit that a program says it has written.
    fn poked(&self) -> Mark {
        self.poked_after(0)
    }

    /// The same, of a later frame: a program that waits long says again what it waits for.
    fn poked_after(&self, frame: u32) -> Mark {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(mark) = self.pokes.next().filter(|mark| mark.frame > frame) {
                return mark;
            }
            assert!(Instant::now() < end, "no poke came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What a program without the library sees.
    fn rows(&self) -> i64 {
        let database = rusqlite::Connection::open(&self.path).expect("it opens");
        database.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("it reads")
    }
}

fn waits_until_published(synchronous: &str) {
    let stage = Stage::new();
    let database = stage.database("main", false);
    let mut program = stage.program(&database.path);
    assert_eq!(program.run(&format!("PRAGMA synchronous = {synchronous}")), "ok");
    let mut frame = 0;
    for row in 1..4 {
        program.say(&format!("INSERT INTO t VALUES ({row}, 'x')"));
        let mark = database.poked_after(frame);
        frame = mark.frame;
        assert_eq!(program.answer(SILENCE), None, "it must not return before the standby has it");
        assert_eq!(database.rows(), row, "others go on and see it meanwhile");
        database.board.publish([Mark { chain: !mark.chain, ..mark }]);
        assert_eq!(program.answer(SILENCE), None, "other content of that frame is not this commit");
        database.board.publish([mark]);
        assert_eq!(program.answer(PATIENCE).as_deref(), Some("ok"));
    }
    assert_eq!(program.run("SELECT count(*) FROM t"), "3", "reading waits for nothing");
}

#[test]
fn a_commit_with_full_synchronous_returns_when_it_is_published() {
    waits_until_published("FULL");
}

#[test]
fn a_commit_with_normal_synchronous_returns_when_it_is_published() {
    waits_until_published("NORMAL");
}

#[test]
fn a_transaction_that_spills_its_cache_is_known_by_its_final_content() {
    let stage = Stage::new();
    let database = stage.database("main", false);
    let mut program = stage.program(&database.path);
    for sql in ["PRAGMA cache_size = 5", "PRAGMA synchronous = FULL", "BEGIN"] {
        assert_eq!(program.run(sql), "ok");
    }
    let many = "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < 400)";
    assert_eq!(program.run(&format!("{many} INSERT INTO t SELECT k, hex(randomblob(200)) FROM n")), "ok");
    assert_eq!(program.run("UPDATE t SET v = 'y' WHERE k % 7 = 0"), "ok");
    program.say("COMMIT");
    let mut last = database.poked();
    assert_eq!(program.answer(SILENCE), None);
    while let Some(mark) = database.pokes.next() {
        last = mark;
    }
    let log = std::fs::read(database.path.with_extension("db-wal")).expect("the log is there");
    let header = &log[32 + (last.frame as usize - 1) * (4096 + 24)..][..24];
    let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!((long(8), long(16)), (last.salts, last.chain), "the mark is what the log holds");
    database.board.publish([last]);
    assert_eq!(program.answer(PATIENCE).as_deref(), Some("ok"));
}

#[test]
fn a_rollback_waits_for_nothing_and_leaves_nothing_to_wait_for() {
    let stage = Stage::new();
    let database = stage.database("main", false);
    let mut program = stage.program(&database.path);
    for sql in ["BEGIN IMMEDIATE", "INSERT INTO t VALUES (1, 'x')", "ROLLBACK", "BEGIN IMMEDIATE", "COMMIT"] {
        assert_eq!(program.run(sql), "ok", "{sql}");
    }
    assert_eq!(database.pokes.next(), None);
}

#[test]
fn refuse_answers_busy_before_anything_is_written_and_solo_lets_go() {
    let stage = Stage::new();
    let database = stage.database("main", false);
    let mut program = stage.program(&database.path);
    assert_eq!(
        program.run("SELECT count(*) FROM t"),
        "0",
        "whoever comes first builds the index under the write lock"
    );
    database.board.set_rule(Rule::Refuse);
    assert_eq!(program.run("INSERT INTO t VALUES (1, 'x')"), "error 5");
    assert_eq!(program.run("SELECT count(*) FROM t"), "0");
    database.board.set_rule(Rule::Hold);
    program.say("INSERT INTO t VALUES (1, 'x')");
    database.poked();
    assert_eq!(program.answer(SILENCE), None);
    database.board.set_rule(Rule::Solo);
    assert_eq!(program.answer(PATIENCE).as_deref(), Some("ok"));
    assert_eq!(program.run("INSERT INTO t VALUES (2, 'x')"), "ok");
}

#[test]
fn attached_databases_are_waited_for_once_when_both_are_unlocked() {
    let stage = Stage::new();
    let (one, two) = (stage.database("one", false), stage.database("two", false));
    let mut program = stage.program(&one.path);
    assert_eq!(program.run(&format!("ATTACH '{}' AS two", two.path.display())), "ok");
    assert_eq!(program.run("BEGIN"), "ok");
    assert_eq!(program.run("INSERT INTO main.t VALUES (1, 'x')"), "ok");
    assert_eq!(program.run("INSERT INTO two.t VALUES (1, 'x')"), "ok");
    program.say("COMMIT");
    let marks = (one.poked(), two.poked());
    one.board.publish([marks.0]);
    assert_eq!(program.answer(SILENCE), None);
    // Nobody is kept from either database by the wait.
    for database in [&one, &two] {
        let other = rusqlite::Connection::open(&database.path).expect("it opens");
        other.execute("INSERT INTO t VALUES (2, 'y')", []).expect("the write lock is free");
    }
    two.board.publish([marks.1]);
    assert_eq!(program.answer(PATIENCE).as_deref(), Some("ok"));
}

#[test]
fn strict_hides_a_commit_until_the_standby_has_it() {
    let stage = Stage::new();
    let database = stage.database("main", true);
    let mut program = stage.program(&database.path);
    assert_eq!(program.run("PRAGMA synchronous = FULL"), "ok");
    program.say("INSERT INTO t VALUES (1, 'x')");
    let mark = database.poked();
    assert_eq!(program.answer(SILENCE), None);
    assert_eq!(database.rows(), 0, "no reader sees what the standby lacks");
    database.board.publish([mark]);
    assert_eq!(program.answer(PATIENCE).as_deref(), Some("ok"));
    assert_eq!(database.rows(), 1);
}

#[test]
fn a_database_without_a_board_waits_for_nothing() {
    let stage = Stage::new();
    let path = stage.plain_database("other");
    let mut program = stage.program(&path);
    assert_eq!(program.run("INSERT INTO t VALUES (1, 'x')"), "ok");
}

//! A writer in a process of its own, as an application is: SQLite's locks belong to a process, and a
//! writer inside the engine's would lose them when the engine closes a descriptor.

use rusqlite::Connection;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const DATABASE: &str = "LOCKSTEP_TEST_WRITER_DATABASE";

/// A statement without anything random in it.
pub(crate) const SAME: &str = "INSERT INTO t(v) VALUES ('the same')";

/// A running writer.
pub(crate) struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Writer {
    pub(crate) fn start(database: &Path) -> Self {
        let program = std::env::current_exe().expect("/proc is mounted");
        let mut child = Command::new(program)
            .args(["writer::the_writer_process", "--exact", "--nocapture", "--ignored"])
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, input, output }
    }

    /// Commits one row and returns how many there are.
    pub(crate) fn commit(&mut self) -> i64 {
        self.does(b"\n")
    }

    /// Moves everything into the database file and empties the WAL.
    pub(crate) fn empty_wal(&mut self) {
        self.does(b"empty\n");
    }

    /// Commits what [`SAME`] says.
    pub(crate) fn commit_the_same(&mut self) -> i64 {
        self.does(b"same\n")
    }

    fn does(&mut self, line: &[u8]) -> i64 {
        self.input.write_all(line).expect("the writer lives");
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("the writer lives");
            assert!(read > 0, "the writer ended");
            if let Some((_, rows)) = line.split_once("committed ") {
                return rows.trim().parse().expect("a number of rows");
            }
        }
    }

    /// Kills it, as power loss does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

#[test]
#[ignore = "the other process of the tests beside it, not a test"]
fn the_writer_process() {
    let Some(database) = std::env::var_os(DATABASE) else { return };
    let connection = open(Path::new(&database));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("the test writes lines");
        if line == "empty" {
            let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
            // Another checkpointer or a reader is in the way for a moment.
            let emptied = (0..500).any(|_| {
                let busy: i64 = connection.query_row(truncate, [], |row| row.get(0)).expect("a checkpoint");
                if busy > 0 {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                busy == 0
            });
            assert!(emptied, "somebody reads");
            println!("committed {}", count(&connection));
            continue;
        }
        // Random, or two nodes that part would write the same bytes and count as one history.
        let insert = if line == "same" { SAME } else { "INSERT INTO t(v) VALUES (hex(randomblob(150)))" };
        connection.execute(insert, []).expect("a row is committed");
        println!("committed {}", count(&connection));
    }
}

fn open(database: &Path) -> Connection {
    let connection = Connection::open(database).expect("the database opens");
    connection.busy_timeout(std::time::Duration::from_secs(5)).expect("a busy timeout");
    connection.pragma_update(None, "synchronous", "FULL").expect("synchronous");
    connection
}

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).expect("rows are counted")
}

/// Makes an empty database in WAL mode.
pub(crate) fn create(database: &Path) {
    let connection = open(database);
    connection.pragma_update(None, "journal_mode", "WAL").expect("WAL mode");
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)").expect("a table");
}

/// Puts an existing database into WAL mode.
pub(crate) fn create_wal(database: &Path) {
    open(database).pragma_update(None, "journal_mode", "WAL").expect("WAL mode");
}

/// Puts rows in, takes most of them out again, and packs the database.
pub(crate) fn fill_and_vacuum(database: &Path, rows: i64) {
    fill(database, rows);
    open(database).execute_batch("DELETE FROM t WHERE id % 10 > 0; VACUUM;").expect("it is packed");
}

/// Puts rows in before anybody follows.
pub(crate) fn fill(database: &Path, rows: i64) {
    let connection = open(database);
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO t(v) SELECT hex(randomblob(400)) FROM n";
    connection.execute(fill, [rows]).expect("rows are put in");
}

/// How many rows there are, through stock SQLite.
pub(crate) fn rows(database: &Path) -> i64 {
    count(&open(database))
}

/// The database is sound.
pub(crate) fn check(database: &Path) {
    let result: String =
        open(database).query_row("PRAGMA integrity_check", (), |row| row.get(0)).expect("it runs");
    assert_eq!(result, "ok");
}

/// What a power cut does to a writer without `synchronous=FULL`: the last commit frame is not on disk.
pub(crate) fn lose_the_last_commit(database: &Path) {
    let beside = |end: &str| std::path::PathBuf::from(format!("{}{end}", database.display()));
    let wal = std::fs::OpenOptions::new().write(true).open(beside("-wal")).expect("a WAL");
    let length = wal.metadata().expect("a length").len();
    wal.set_len(length - 4096).expect("it is cut");
    std::fs::remove_file(beside("-shm")).expect("shared memory does not outlive the power");
}

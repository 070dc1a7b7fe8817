//! A program that writes a SQLite database: this very program, started again, so that its locks are
//! its own as an application's are.
//!
//! A bench calls [`serve`] first thing in `main`; in the child it never returns.

use crate::Times;
use rusqlite::Connection;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DATABASE: &str = "BENCH_WRITER_DATABASE";
const WORK: &str = "BENCH_WRITER_WORK";

/// What a writer does.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// For how long.
    pub seconds: u64,
    /// Commits per second; 0: as many as go.
    pub rate_per_s: u64,
    /// Rows per commit.
    pub rows: u64,
    /// Bytes per row.
    pub row_bytes: u64,
    /// Say each commit, for [`Writer::each_commit`].
    pub say_commits: bool,
}

/// A running writer.
#[derive(Debug)]
pub struct Writer(Child);

impl Writer {
    /// Starts it on a database made by [`create`].
    pub fn start(database: &Path, work: Work) -> Self {
        let Work { seconds, rate_per_s, rows, row_bytes, say_commits } = work;
        let child = Command::new(std::env::current_exe().expect("this program has a path"))
            .env(DATABASE, database)
            .env(WORK, format!("{seconds} {rate_per_s} {rows} {row_bytes} {}", u8::from(say_commits)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        Self(child)
    }

    /// Waits for its end; what its commits took, and how many bytes of rows it wrote per second.
    pub fn finish(self) -> Value {
        self.each_commit(|_| ())
    }

    /// The same, and tells when each commit had returned in the writer.
    pub fn each_commit(mut self, mut committed: impl FnMut(Instant)) -> Value {
        let output = BufReader::new(self.0.stdout.take().expect("it is piped"));
        let mut last = String::new();
        for line in output.lines() {
            last = line.expect("the writer's words are text");
            if let Some(moment) = last.strip_prefix("commit ") {
                let ago = now_ns().saturating_sub(moment.parse().expect("a moment"));
                committed(Instant::now() - Duration::from_nanos(ago));
            }
        }
        assert!(self.0.wait().expect("it is our child").success(), "the writer failed: {last}");
        serde_json::from_str(&last).expect("the writer ends with its figures")
    }
}

/// Makes an empty database in WAL mode.
pub fn create(database: &Path) {
    let connection = open(database);
    connection
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);")
        .expect("an empty database is made");
}

/// Puts rows in until the database has about this many bytes, and leaves the WAL empty.
pub fn fill(database: &Path, bytes: u64) {
    let connection = open(database);
    connection.pragma_update(None, "synchronous", "OFF").expect("synchronous");
    let rows = bytes / 3_800;
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO t(v) SELECT randomblob(3700) FROM n",
            [rows as i64],
        )
        .expect("rows are put in");
    let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
    connection.query_row(truncate, [], |_| Ok(())).expect("the WAL is emptied");
    drop(connection);
    // Or the kernel writes it back while something else is measured.
    std::fs::File::open(database).and_then(|file| file.sync_all()).expect("it is written to disk");
}

/// Changes about one of `of` pages that [`fill`] made.
pub fn touch(database: &Path, of: u64) {
    let change = "UPDATE t SET v = randomblob(3700) WHERE id % ?1 = 0";
    open(database).execute(change, [of as i64]).expect("rows are changed");
}

/// In a process started by [`Writer::start`]: writes and never returns. Elsewhere: nothing.
pub fn serve() {
    let (Some(database), Ok(work)) = (std::env::var_os(DATABASE), std::env::var(WORK)) else { return };
    let numbers: Vec<u64> = work.split(' ').map(|n| n.parse().expect("numbers")).collect();
    let [seconds, rate_per_s, rows, row_bytes, say] = numbers[..] else { panic!("five numbers") };
    let work = Work { seconds, rate_per_s, rows, row_bytes, say_commits: say == 1 };
    println!("{}", write(&open(Path::new(&database)), work));
    std::process::exit(0);
}

/// `CLOCK_MONOTONIC`, which all processes share.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Opens it as its application, with synchronous=FULL.
pub fn open(database: &Path) -> Connection {
    let connection = Connection::open(database).expect("the database opens");
    connection.busy_timeout(Duration::from_secs(5)).expect("a busy timeout");
    connection.pragma_update(None, "synchronous", "FULL").expect("synchronous");
    connection
}

fn write(connection: &Connection, work: Work) -> Value {
    let mut insert = connection
        .prepare(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO t(v) SELECT randomblob(?2) FROM n",
        )
        .expect("the table is there");
    let (mut times, began) = (Times::default(), Instant::now());
    let mut commits = 0;
    while began.elapsed() < Duration::from_secs(work.seconds) {
        let commit = Instant::now();
        insert.execute([work.rows as i64, work.row_bytes as i64]).expect("rows are committed");
        times.add(commit.elapsed());
        if work.say_commits {
            println!("commit {}", now_ns());
        }
        commits += 1;
        if work.rate_per_s > 0 {
            let due = Duration::from_secs_f64(commits as f64 / work.rate_per_s as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    let bytes = (commits * work.rows * work.row_bytes) as f64;
    let mut figures = times.figures();
    let mb_per_s = bytes / began.elapsed().as_secs_f64() / 1e6;
    figures["mb_per_s"] = ((mb_per_s * 10.0).round() / 10.0).into();
    figures
}

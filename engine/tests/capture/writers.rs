//! Writers as processes of their own: exec'ed, never forked, so that their locks are theirs.
//!
//! The test binary runs itself with [`ROLE`] set; the test named [`the_other_process`] then does what
//! the variable says, and nothing otherwise.

use rusqlite::{Connection, ErrorCode};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "LOCKSTEP_CAPTURE_TEST_ROLE";

/// What one process does.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) role: &'static str,
    pub(crate) seed: u64,
    pub(crate) autocheckpoint: u32,
    pub(crate) busy_ms: u64,
    pub(crate) pause_us: u64,
    pub(crate) count: u64,
}

impl Job {
    pub(crate) fn writer(seed: u64, autocheckpoint: u32) -> Self {
        Self { role: "writer", seed, autocheckpoint, busy_ms: 5000, pause_us: 0, count: u64::MAX }
    }

    pub(crate) fn role(role: &'static str, seed: u64) -> Self {
        Self { role, ..Self::writer(seed, 1000) }
    }

    pub(crate) fn start(&self, database: &Path) -> Process {
        let job = format!(
            "{} {} {} {} {} {}",
            self.role, self.seed, self.autocheckpoint, self.busy_ms, self.pause_us, self.count
        );
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "writers::the_other_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, job)
            .env("LOCKSTEP_CAPTURE_TEST_DATABASE", database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Process { child, input, output }
    }
}

/// What a writer says at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) commits: u64,
    pub(crate) locked: u64,
    pub(crate) slowest_us: u64,
}

/// A running process; ends when its standard input is closed.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    /// Waits for the line "ready".
    pub(crate) fn wait_ready(&mut self) {
        self.read_line("ready");
    }

    /// Waits for a line that begins so.
    pub(crate) fn wait_for_line(&mut self, prefix: &str) {
        self.read_line(prefix);
    }

    fn read_line(&mut self, prefix: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.output.read_line(&mut line).expect("the process can be read");
            assert!(n > 0, "the process ended without \"{prefix}\"");
            // libtest prints its own words in front.
            if let Some(at) = line.find(prefix) {
                return line[at..].trim().to_owned();
            }
        }
    }

    /// Asks it to end and returns its report.
    pub(crate) fn finish(mut self) -> Report {
        drop(self.input.take());
        self.report()
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(mut self) -> Report {
        let report = self.report();
        drop(self.input.take());
        report
    }

    fn report(&mut self) -> Report {
        let line = self.read_line("report");
        let mut numbers = line.split(' ').skip(1).map(|n| n.parse::<u64>().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        let report = Report { commits: next(), locked: next(), slowest_us: next() };
        assert!(self.child.wait().expect("the process can be waited for").success());
        report
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeatable random numbers (splitmix64).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A database in WAL mode with one table, made by this process and closed again.
pub(crate) fn create(path: &Path) {
    let connection = Connection::open(path).expect("the database can be created");
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, body BLOB);
             CREATE INDEX t_n ON t(n);
             INSERT INTO t(n, body) VALUES (1, zeroblob(100));",
        )
        .expect("the schema can be created");
}

/// Runs only as a process of its own, see the module.
#[test]
fn the_other_process() {
    let Ok(job) = std::env::var(ROLE) else { return };
    let database = std::env::var_os("LOCKSTEP_CAPTURE_TEST_DATABASE").expect("a database is named");
    let words: Vec<&str> = job.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let mut worker = Worker {
        connection: Connection::open(Path::new(&database)).expect("the database opens"),
        dice: Dice(number(1)),
        pause: Duration::from_micros(number(4)),
        report: Report::default(),
    };
    let setup =
        format!("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint={}; SELECT 1 FROM t;", number(2));
    worker.connection.busy_timeout(Duration::from_secs(60)).expect("a timeout can be set");
    worker.connection.execute_batch(&setup).expect("the connection can be set up");
    worker.connection.busy_timeout(Duration::from_millis(number(3))).expect("a timeout can be set");
    say("ready");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        flag.store(true, std::sync::atomic::Ordering::Release);
    });
    let mut left = number(5);
    while left > 0 && !stop.load(std::sync::atomic::Ordering::Acquire) {
        left -= 1;
        match words[0] {
            "writer" => worker.commit(),
            "checkpointer" => worker.checkpoint(),
            "reader" => worker.read(),
            "vacuum" => worker.vacuum(),
            "exclusive" => worker.hold(),
            other => panic!("no role {other}"),
        }
        if !worker.pause.is_zero() {
            std::thread::sleep(worker.pause);
        }
    }
    let Report { commits, locked, slowest_us } = worker.report;
    say(&format!("report {commits} {locked} {slowest_us}"));
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("standard output is open");
}

struct Worker {
    connection: Connection,
    dice: Dice,
    pause: Duration,
    report: Report,
}

impl Worker {
    fn commit(&mut self) {
        let began = Instant::now();
        match self.try_commit() {
            Ok(()) => self.report.commits += 1,
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => self.report.locked += 1,
            Err(e) => panic!("a write failed: {e}"),
        }
        self.report.slowest_us = self.report.slowest_us.max(began.elapsed().as_micros() as u64);
    }

    fn try_commit(&mut self) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for _ in 0..1 + self.dice.below(3) {
            let (n, size) = (self.dice.below(1000) as i64, self.dice.below(3000));
            match self.dice.below(10) {
                0..=5 => {
                    let body: Vec<u8> = (0..size).map(|_| self.dice.next() as u8).collect();
                    transaction
                        .prepare_cached("INSERT INTO t(n, body) VALUES (?1, ?2)")?
                        .execute((n, body))?;
                }
                6..=7 => {
                    transaction
                        .prepare_cached("UPDATE t SET n = n + 1 WHERE n = ?1")?
                        .execute([n])
                        .map(|_| ())?;
                }
                _ => {
                    transaction
                        .prepare_cached("DELETE FROM t WHERE id IN (SELECT id FROM t WHERE n = ?1 LIMIT 3)")?
                        .execute([n])
                        .map(|_| ())?;
                }
            }
        }
        transaction.commit()
    }

    fn checkpoint(&mut self) {
        let mode = ["FULL", "RESTART", "TRUNCATE"][self.dice.below(3) as usize];
        let busy: i64 = self
            .connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(0))
            .expect("a checkpoint answers");
        self.report.locked += u64::from(busy != 0);
        self.report.commits += 1;
        std::thread::sleep(Duration::from_micros(self.dice.below(20_000)));
    }

    fn read(&mut self) {
        self.connection
            .query_row("SELECT count(*), sum(length(body)) FROM t", [], |row| row.get::<_, i64>(0))
            .expect("a reader reads");
        std::thread::sleep(Duration::from_micros(self.dice.below(5_000)));
    }

    /// Takes the database for itself, as `locking_mode=EXCLUSIVE` does, until it is asked to end.
    fn hold(&mut self) {
        if self.report.commits == 0 {
            self.connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE").expect("the mode can be set");
            self.try_commit().expect("the first commit takes the lock");
            self.report.commits = 1;
            say("held");
        }
        std::thread::sleep(Duration::from_millis(1));
    }

    fn vacuum(&mut self) {
        self.connection.execute_batch("VACUUM").expect("VACUUM works");
        self.report.commits += 1;
    }
}

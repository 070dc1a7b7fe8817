//! The other process: runs each line of its input as SQL and answers it with one line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Names the database to the other process, and tells it that it is one.
const DATABASE: &str = "LOCKSTEP_TEST_DATABASE";

/// Before each answer, so that the test runner's own words are passed over.
const ANSWER: &str = "answer: ";

pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
}

/// The library, which Cargo builds beside the tests.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("/proc is there");
    let library = test.with_file_name("liblockstep_sqlite.so");
    assert!(library.is_file(), "{} is not built", library.display());
    library
}

impl Program {
    pub(crate) fn start(socket: &Path, database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("/proc is there"))
            .args(["--exact", "program::the_other_process", "--ignored", "--nocapture"])
            .env("LD_PRELOAD", library())
            .env("LOCKSTEP_SOCKET", socket)
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, text)) = line.split_once(ANSWER) {
                    let _ = answer.send(text.to_owned());
                }
            }
        });
        Self { input: child.stdin.take().expect("piped"), child, answers }
    }

    pub(crate) fn say(&mut self, sql: &str) {
        writeln!(self.input, "{sql}").expect("it listens");
    }

    /// The next answer, if it comes within this time.
    pub(crate) fn answer(&self, within: Duration) -> Option<String> {
        self.answers.recv_timeout(within).ok()
    }

    pub(crate) fn run(&mut self, sql: &str) -> String {
        self.say(sql);
        self.answer(super::PATIENCE).expect("it answers")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "what the other tests execute as a program"]
fn the_other_process() {
    let path = std::env::var_os(DATABASE).expect("started by another test");
    let database = rusqlite::Connection::open(path).expect("it opens");
    database.busy_timeout(Duration::ZERO).expect("it is set");
    for sql in std::io::stdin().lines() {
        let sql = sql.expect("it is text");
        println!("{ANSWER}{}", run(&database, &sql));
    }
}

fn run(database: &rusqlite::Connection, sql: &str) -> String {
    let result = database.prepare(sql).and_then(|mut statement| {
        let mut rows = statement.query([])?;
        let first = rows.next()?.map(|row| row.get::<_, i64>(0)).transpose();
        while rows.next()?.is_some() {}
        Ok(first.ok().flatten().filter(|_| sql.starts_with("SELECT")))
    });
    match result {
        Ok(Some(number)) => number.to_string(),
        Ok(None) => "ok".to_owned(),
        Err(rusqlite::Error::SqliteFailure(error, _)) => format!("error {}", error.extended_code & 0xff),
        Err(error) => format!("error {error}"),
    }
}

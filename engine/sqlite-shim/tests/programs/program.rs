//! A program that reads lines and answers with lines: the `sqlite3` shell or Python.

use super::agent::{PATIENCE, Stage};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a program is watched that must not go on. One that would go on later is no failure.
const WATCHED: Duration = Duration::from_millis(150);

/// The distribution's own: others may be built without extensions.
const PYTHON: &str = "/usr/bin/python3";

/// How the shim comes into a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `LD_PRELOAD`
    Preload,
    /// `.load` or `load_extension`
    Load,
}

/// The library, beside the test program.
pub(crate) fn library() -> PathBuf {
    let program = std::env::current_exe().expect("the test program has a path");
    let library = program.parent().expect("a folder").join("liblockstep_sqlite.so");
    assert!(library.exists(), "{} is missing: build package lockstep-sqlite-shim", library.display());
    library
}

/// Without the shim.
pub(crate) fn plain(database: &str, sql: &str) -> String {
    let output = Command::new("sqlite3").args([database, sql]).output();
    let output = output.expect("the program sqlite3 starts: install the package sqlite3");
    assert!(output.status.success(), "{sql}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// A program under way. Dropping it ends it.
pub(crate) struct Program {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Program {
    /// The stock shell on a database.
    pub(crate) fn shell(stage: &Stage, way: Way, database: &str) -> Self {
        Self::shell_with(stage, way, database, &[])
    }

    /// The same with variables of its own.
    pub(crate) fn shell_with(stage: &Stage, way: Way, database: &str, set: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", database]).envs(set.iter().copied());
        let mut shell = Self::start(stage, way, command, "install the package sqlite3");
        if way == Way::Load {
            shell.says(&format!(".load {}", library().display()));
        }
        // It answers, so it has opened its database.
        shell.says("SELECT 'ready', count(*) FROM t;");
        assert!(shell.line().starts_with("ready|"));
        shell
    }

    /// Python running `script`; `SHIM` in its surroundings is the library.
    pub(crate) fn python(stage: &Stage, way: Way, script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(PYTHON);
        command.args(["-u", "-c", script]).args(arguments).env("SHIM", library());
        Self::start(stage, way, command, "install the package python3")
    }

    fn start(stage: &Stage, way: Way, mut command: Command, remedy: &str) -> Self {
        if way == Way::Preload {
            command.env("LD_PRELOAD", library());
        }
        command.env("LOCKSTEP_SOCKET", stage.socket());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}: {remedy}"));
        let out = child.stdout.take().expect("stdout is piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let input = child.stdin.take().expect("stdin is piped");
        Self { child, input, lines }
    }

    /// Types a line.
    pub(crate) fn says(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the program reads");
    }

    /// Its next line, within the time.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the program answers")
    }

    /// Its next line, if there is one so soon.
    pub(crate) fn line_within(&self, span: Duration) -> Option<String> {
        self.lines.recv_timeout(span).ok()
    }

    /// It answers with exactly this.
    pub(crate) fn answers(&self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// It does not answer yet.
    pub(crate) fn waits(&self) {
        match self.lines.recv_timeout(WATCHED) {
            Err(RecvTimeoutError::Timeout) => {}
            other => panic!("it did not wait: {other:?}"),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Starts, renews, checks and stops the applications of a pair, each under its supervisor.
//!
//! Path: promote -> [`Application::start`]; lease renewed -> [`Application::renew`]; release or
//! demote -> [`Application::ask_to_stop`]. Everything is idempotent, and an agent that was restarted
//! finds a program that runs. Health beyond "it runs" is [`crate::probes::health`]'s, when to
//! start it again is the driver's.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lockstep_wire::{Epoch, PairId};

use super::supervisor::{FAILED, Order, RUNNING, Run, STARTED};
use crate::config::{App, AppRun, Pair, Role};

/// A supervisor answers at once; one that does not is stuck or stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an application was not started, renewed or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// It could not be started.
    #[error("application \"{name}\" did not start: {reason}")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// It does not run.
    #[error("application \"{name}\" does not run; its last output is in {log}")]
    NotRunning {
        /// Its name.
        name: String,
        /// Its log.
        log: String,
    },
    /// Its supervisor does not answer.
    #[error("the supervisor of application \"{name}\" does not answer: {source}")]
    Supervisor {
        /// Its name.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// The variables an application finds in its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment(pub Vec<(String, String)>);

impl Environment {
    /// `LOCKSTEP_ROLE`, `_EPOCH`, `_PAIR`, `_SOCKET`, `_VIP` (comma-separated, without masks),
    /// `_DATABASE_<NAME>` and `_TREE_<NAME>` (upper case, `_` for `-`), and `_DATA_DIR`, the folder of the first database.
    pub fn new(pair: &Pair, role: Role, epoch: Epoch, socket: &Path) -> Self {
        let vips: Vec<_> = pair.vips.iter().map(|vip| vip.address.to_string()).collect();
        let mut variables = vec![
            ("LOCKSTEP_ROLE".to_owned(), role.to_string()),
            ("LOCKSTEP_EPOCH".to_owned(), epoch.to_string()),
            ("LOCKSTEP_PAIR".to_owned(), pair.id.to_string()),
            ("LOCKSTEP_SOCKET".to_owned(), socket.display().to_string()),
            ("LOCKSTEP_VIP".to_owned(), vips.join(",")),
        ];
        let upper = |name: &str| name.to_uppercase().replace('-', "_");
        variables.extend(pair.databases.iter().map(|database| {
            let name = upper(database.name.as_str());
            (format!("LOCKSTEP_DATABASE_{name}"), database.path(role).display().to_string())
        }));
        if let Some(dir) = pair.databases.first().and_then(|database| database.path(role).parent()) {
            variables.push(("LOCKSTEP_DATA_DIR".to_owned(), dir.display().to_string()));
        }
        variables.extend(pair.trees.iter().map(|tree| {
            let name = upper(tree.name.as_str());
            (format!("LOCKSTEP_TREE_{name}"), tree.path(role).display().to_string())
        }));
        Self(variables)
    }
}

impl Environment {
    /// As `EnvironmentFile=` of systemd reads it, one assignment a line; quoted only where it must be, since Podman
    /// and Docker read such files too and take quotes as they are.
    fn to_file_text(&self) -> String {
        let quoted = |value: &str| {
            if value.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:,@+".contains(c)) {
                return value.to_owned();
            }
            let mut text = String::from('"');
            for c in value.chars() {
                if matches!(c, '"' | '\\' | '$' | '`') {
                    text.push('\\');
                }
                text.push(c);
            }
            text + "\""
        };
        self.0.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect()
    }
}

/// How to start a supervisor: this very binary with the hidden verb.
#[derive(Debug, Clone)]
pub struct Supervise {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The program that starts and stops units.
    pub systemctl: PathBuf,
}

impl Supervise {
    /// `lockstep supervise` of the running binary, and systemctl from the path.
    ///
    /// # Errors
    /// /proc is missing.
    pub fn this_binary() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self { program, arguments: vec!["supervise".into()], systemctl: "systemctl".into() })
    }
}

/// One application of a pair on this node.
pub struct Application {
    app: App,
    supervise: Supervise,
    socket: PathBuf,
    reply: PathBuf,
    log: PathBuf,
    supervisor: Option<Child>,
}

impl Application {
    /// Names the application's places: its socket in `runtime_dir`, its log in `pair_dir`.
    /// Starts nothing; one that runs already is found by [`Application::is_running`].
    pub fn new(pair: &PairId, app: &App, supervise: Supervise, runtime_dir: &Path, pair_dir: &Path) -> Self {
        let place = |end: &str| runtime_dir.join(format!("{pair}-{}.{end}", app.name));
        let (socket, reply) = (place("app"), place("reply"));
        let log = pair_dir.join(format!("{}.log", app.name));
        Self { app: app.clone(), supervise, socket, reply, log, supervisor: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.app.name
    }

    /// Starts it, to be killed at `lease_end_us` (CLOCK_BOOTTIME) unless renewed. One that
    /// runs is renewed instead, and keeps the environment it was started with.
    ///
    /// # Errors
    /// It cannot be started, or its supervisor is stuck.
    pub fn start(&mut self, environment: &Environment, lease_end_us: u64) -> Result<(), AppError> {
        if self.is_running()? {
            return self.renew(lease_end_us);
        }
        let order = Order {
            run: match &self.app.run {
                AppRun::Unit(unit) => Run::Unit(unit.clone()),
                AppRun::Command(command) => Run::Command(command.clone()),
            },
            socket: self.socket.clone(),
            log: self.log.clone(),
            lease_end_us,
            stop_timeout_us: u64::from(self.app.stop_timeout_s) * 1_000_000,
            systemctl: self.supervise.systemctl.clone(),
        };
        if let AppRun::Unit(_) = self.app.run {
            // A unit has an environment of its own, and may read this one.
            let file = self.socket.with_extension("env");
            std::fs::write(&file, environment.to_file_text()).map_err(|e| AppError::Start {
                name: self.app.name.clone(),
                reason: format!("{}: {e}", file.display()),
            })?;
        }
        let failed = |reason: String| AppError::Start { name: self.app.name.clone(), reason };
        let mut supervisor = Command::new(&self.supervise.program)
            .args(&self.supervise.arguments)
            .envs(environment.0.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("{}: {e}", self.supervise.program.display())))?;
        let outcome = hand_over(&mut supervisor, &order);
        self.supervisor = Some(supervisor);
        outcome.map_err(failed)
    }

    /// Moves the moment at which it is killed. One datagram; never waits.
    ///
    /// # Errors
    /// It does not run.
    pub fn renew(&mut self, lease_end_us: u64) -> Result<(), AppError> {
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(format!("lease {lease_end_us}").as_bytes(), &self.socket)
        });
        match sent {
            Ok(_) => Ok(()),
            Err(e) if is_absent(&e) => Err(self.absent()),
            Err(source) => Err(self.stuck(source)),
        }
    }

    /// Whether it runs; a supervisor from an earlier life of the agent counts.
    ///
    /// # Errors
    /// Its supervisor is there and does not answer.
    pub fn is_running(&mut self) -> Result<bool, AppError> {
        let first = self.ask(b"status");
        // A question can just miss a supervisor that ends; the second finds nobody.
        let answer = first.or_else(|e| match e.kind() {
            io::ErrorKind::WouldBlock => self.ask(b"status"),
            _ => Err(e),
        });
        match answer {
            Ok(running) => Ok(running),
            Err(e) if is_absent(&e) => {
                self.reap();
                Ok(false)
            }
            Err(source) => Err(self.stuck(source)),
        }
    }

    /// Asks it to stop, and does not wait: it is gone, with all its descendants, when it does not run any
    /// more. Its supervisor kills it when its time is over.
    ///
    /// # Errors
    /// Its supervisor takes no messages.
    pub fn ask_to_stop(&mut self) -> Result<(), AppError> {
        // The supervisor listens only to somebody whom it could answer.
        let sent = self.bind_reply().and_then(|socket| socket.send_to(b"stop", &self.socket));
        let _ = std::fs::remove_file(&self.reply);
        match sent {
            Err(e) if !is_absent(&e) => Err(self.stuck(e)),
            _ => Ok(()),
        }
    }

    /// Sends `question` and waits for the answer: whether the program runs.
    fn ask(&self, question: &[u8]) -> io::Result<bool> {
        let socket = self.bind_reply()?;
        let mut answer = [0; 16];
        let answered = socket.send_to(question, &self.socket).and_then(|_| socket.recv(&mut answer));
        let _ = std::fs::remove_file(&self.reply);
        answered.map(|length| answer[..length] == *RUNNING)
    }

    fn bind_reply(&self) -> io::Result<UnixDatagram> {
        match std::fs::remove_file(&self.reply) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = UnixDatagram::bind(&self.reply)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(socket)
    }

    /// The error that it does not run.
    pub fn absent(&self) -> AppError {
        AppError::NotRunning { name: self.app.name.clone(), log: self.log.display().to_string() }
    }

    fn stuck(&self, source: io::Error) -> AppError {
        AppError::Supervisor { name: self.app.name.clone(), source }
    }

    fn reap(&mut self) {
        // It exits just after it has answered or removed its socket; then the next call does it.
        if self.supervisor.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
            self.supervisor = None;
        }
    }
}

/// No supervisor listens: it never did, it is gone, or it was killed and left its socket.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Gives a supervisor its order and waits for "started".
fn hand_over(supervisor: &mut Child, order: &Order) -> Result<(), String> {
    let text = serde_json::to_vec(order).expect("an order has no map keys that JSON cannot hold");
    let mut input = supervisor.stdin.take().expect("standard input is a pipe");
    input.write_all(&text).map_err(|e| format!("the supervisor does not read its order: {e}"))?;
    drop(input);
    let output = supervisor.stdout.take().expect("standard output is a pipe");
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if line.ends_with(STARTED) {
            return Ok(());
        }
        if let Some((_, reason)) = line.split_once(FAILED) {
            return Err(reason.to_owned());
        }
    }
    Err("the supervisor ended without a word".to_owned())
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;

//! The lab, as the demonstration uses it: the program's own `lab` verbs in child processes.
//!
//! Child processes, because entering a machine needs a process of one thread, and because this
//! is what a reader can type. The lab goes down when the stage is dropped.

use super::client::Progress;
use crate::{
    control::{Answer, Request, ask},
    lab::{Home, Node, sniffer::Observations},
    status::PairStatus,
};
use anyhow::{Context, bail, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// One demonstration at a time.
const LAB: &str = "demo";

/// An agent answers from memory; while it is being killed it does not answer at all.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Lines of each agent's log that explain a failure.
const LOG_LINES: usize = 30;

/// What a shell adds to a signal's number; SIGINT is 2.
const EXIT_INTERRUPTED: i32 = 128 + 2;

/// How often the stage looks whether something has happened.
const LOOK: Duration = Duration::from_millis(2);

/// How to go on with a lab that was kept.
const KEPT: &str = "the lab is still up. Look at it, break it, and end it:
  lockstep lab --name demo status
  lockstep lab --name demo exec a -- lockstep status
  lockstep lab --name demo exec b -- lockstep events
  lockstep lab --name demo power-off a
  lockstep lab --name demo down";

/// Held by the one verb that runs. After Ctrl-C it is never given back: what the story still wants
/// waits for the end.
static VERB: Mutex<()> = Mutex::new(());

/// A lab that is up.
pub(super) struct Stage {
    home: Home,
    keep: bool,
}

impl Stage {
    /// Two nodes in sync with the demonstration's application on `a`. Unless it is to be kept, the
    /// lab ends with this process, however that ends.
    pub(super) fn up(arguments: &[&str], keep: bool) -> anyhow::Result<Self> {
        // A lab that is there already is somebody's: only one that came up here goes down here.
        if lab_command(&["status"])?.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            bail!("a demonstration's lab is up already: end it with `lockstep lab --name {LAB} down`");
        }
        let stage = Self { home: Home::of(LAB)?, keep };
        down_when_interrupted()?;
        let end: &[&str] = if keep { &[] } else { &["--end-with-caller"] };
        run(&[&["up"], arguments, end].concat())?;
        Ok(stage)
    }

    /// Where the demonstration puts its own files.
    pub(super) fn folder(&self) -> &Path {
        self.home.root()
    }

    /// What the agents said last, for a demonstration that failed.
    pub(super) fn show_logs(&self) {
        let _none = VERB.lock().unwrap_or_else(PoisonError::into_inner);
        for node in Node::ALL {
            let log = std::fs::read_to_string(self.home.agent_log(node)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the agent of {}, last lines:", node.name());
            lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }

    /// A `lab` verb.
    pub(super) fn lab(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        run(arguments)
    }

    /// What a node says about its pair; None while its agent does not answer.
    pub(super) fn pair(&self, node: Node) -> Option<PairStatus> {
        match ask(&self.socket(node), &Request::Status {}, STATUS_TIMEOUT) {
            Ok(Answer::Status(status)) => status.pairs.into_iter().next(),
            _ => None,
        }
    }

    /// Asks a node's agent to do something, to its end.
    pub(super) fn operate(&self, node: Node, request: &Request, within: Duration) -> anyhow::Result<String> {
        match ask(&self.socket(node), request, within)? {
            Answer::Done(done) => Ok(done.sentence),
            Answer::Error(failure) => bail!("node {} refused: {failure}", node.name()),
            other => bail!("node {} answered {other:?}", node.name()),
        }
    }

    fn socket(&self, node: Node) -> PathBuf {
        self.home.run(node).join("agent.sock")
    }

    /// Where a node's database is.
    pub(super) fn database(&self, node: Node) -> anyhow::Result<String> {
        let status: serde_json::Value = serde_json::from_slice(&run(&["status", "--json"])?)?;
        let databases = status["nodes"][node.name()]["databases"].as_object();
        let path = databases.and_then(|databases| databases.values().next()?.as_str());
        Ok(path.context("the lab names no database")?.to_owned())
    }

    /// Ends the watch on the switch.
    pub(super) fn observations(&self) -> anyhow::Result<Observations> {
        let seen = run(&["sniff-stop"])?;
        serde_json::from_slice(&seen).context("what the lab's watcher saw")
    }

    /// The client, on its machine.
    pub(super) fn client(&self, arguments: &[String]) -> anyhow::Result<Client> {
        let mut command = lab_command(&["exec", "c", "--"])?;
        command.arg(std::env::current_exe()?).arg("demo-client").args(arguments);
        Client::start(command)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            println!("{KEPT}");
            return;
        }
        if let Err(error) = run(&["down"]) {
            eprintln!("the lab stays: {error:#}");
        }
    }
}

/// Ctrl-C takes the lab down, after the verb that runs; a second one waits for nothing.
fn down_when_interrupted() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        let mut signalled = || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
        };
        signalled();
        thread::spawn(|| {
            let _verb = VERB.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("interrupted: taking the lab down");
            if let Err(error) = carry_out(&["down"]) {
                eprintln!("the lab stays: {error:#}");
            }
            std::process::exit(EXIT_INTERRUPTED);
        });
        signalled();
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(())
}

fn lab_command(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("own program")?);
    // In a group of its own Ctrl-C does not end it half way.
    command.args(["lab", "--name", LAB]).args(arguments).stdin(Stdio::null()).process_group(0);
    // SAFETY: the closure makes one system call and touches no memory of the parent. Without it a
    // `lab up` that outlives the demonstration would take down the next one's lab.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
    Ok(command)
}

fn run(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let _verb = VERB.lock().unwrap_or_else(PoisonError::into_inner);
    carry_out(arguments)
}

fn carry_out(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output =
        lab_command(arguments)?.stderr(Stdio::inherit()).output().context("starting `lockstep lab`")?;
    ensure!(output.status.success(), "`lockstep lab {}` failed ({})", arguments.join(" "), output.status);
    Ok(output.stdout)
}

/// Waits for something to be true, looking every few milliseconds.
pub(super) fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what} did not happen within {} s", within.as_secs());
        thread::sleep(LOOK);
    }
}

/// The running client; ends with the demonstration.
pub(super) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    latest: Arc<Mutex<Progress>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Client {
    /// Starts a command that tells progress in lines.
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the client")?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let latest = Arc::new(Mutex::new(Progress::default()));
        let reader = thread::spawn({
            let latest = Arc::clone(&latest);
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    match serde_json::from_str(&line) {
                        Ok(progress) => *latest.lock().unwrap_or_else(PoisonError::into_inner) = progress,
                        Err(_) => eprintln!("client: {line}"),
                    }
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, latest, reader: Some(reader) })
    }

    /// How far it is.
    pub(super) fn progress(&self) -> Progress {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets it end, and takes what it measured.
    pub(super) fn stop(mut self) -> anyhow::Result<Progress> {
        drop(self.stdin.take());
        let ended = self.child.wait().context("waiting for the client")?;
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        ensure!(ended.success(), "the client failed ({ended})");
        Ok(self.progress())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // After `stop` it has ended already, and both calls do nothing.
        drop(self.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("the client: {error}");
        }
    }
}

/// A word of a shell line.
pub(super) fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))
}

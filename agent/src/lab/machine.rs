//! The first process of a lab machine: PID 1 of its own PID namespace (`lockstep lab-machine`).
//!
//! It makes the machine's other namespaces, mounts its disk, tells the supervisor, waits until
//! the cables are plugged in, then keeps the agent running as an init system would and reaps what
//! nobody else waits for. Its death is the machine's power loss: the kernel ends every process in
//! the PID namespace. It takes one-word orders on standard input and answers each with a line.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use rustix::thread::UnshareFlags;

use super::control::AgentAction;
use super::layout::{Home, Host, Node};
use super::spec::Spec;
use super::{disk, exec, namespace};

/// An agent that ended sooner than this after its start is not started again at once ...
const CRASH_LOOP: Duration = Duration::from_secs(1);
/// ... but after this.
const CRASH_PAUSE: Duration = Duration::from_millis(500);

/// An agent that stops has first to stop its application.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// The supervisor's order when the cables are plugged in.
pub(super) const GO: &str = "go";
/// The same, and the agent stays away until it is started.
pub(super) const GO_WITHOUT_AGENT: &str = "go without agent";

/// Runs until the machine loses power.
pub(super) fn run(host: Host, home: &Home) -> Result<()> {
    namespace::unshare(
        UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWNET,
    )
    .context("namespaces of the machine")?;
    namespace::own_mounts()?;
    namespace::own_sys();
    rustix::system::sethostname(host.name().as_bytes()).context("host name")?;
    let spec = Spec::load(home)?;
    let node = host.node();
    if let Some(node) = node {
        disk::mount_disk(home, node, spec.disk)?;
    }
    answer("ready")?;
    let mut order = String::new();
    std::io::stdin().lock().read_line(&mut order).context("the supervisor's order")?;
    let wanted = match order.trim() {
        GO => true,
        GO_WITHOUT_AGENT => false,
        _ => bail!("expected `{GO}` from the supervisor, got {order:?}"),
    };
    let mut agent = node.filter(|_| spec.agents).map(|node| Agent::new(home.clone(), node, wanted));
    answer("up")?;
    serve(&mut agent)
}

fn answer(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("answering the supervisor")
}

fn serve(agent: &mut Option<Agent>) -> Result<()> {
    let stdin = std::io::stdin();
    loop {
        let now = Instant::now();
        if let Some(agent) = agent {
            agent.start_if_due(now)?;
        }
        wait_for_something(agent.as_ref())?;
        if readable(&stdin)? {
            let mut order = String::new();
            if stdin.lock().read_line(&mut order)? == 0 {
                return Ok(()); // the supervisor is gone
            }
            obey(agent, order.trim())?;
        }
        while let Ok(Some((pid, _))) = waitpid(None, WaitOptions::NOHANG) {
            if let Some(agent) = agent {
                agent.ended(pid, Instant::now());
            }
        }
    }
}

fn obey(agent: &mut Option<Agent>, order: &str) -> Result<()> {
    let Some(agent) = agent else { return answer("this machine runs no agent") };
    let action = match order {
        "kill" => AgentAction::Kill,
        "halt" => AgentAction::Halt,
        "stop" => AgentAction::Stop,
        "start" => AgentAction::Start,
        other => return answer(&format!("unknown order {other:?}")),
    };
    match agent.act(action) {
        Ok(()) => answer("done"),
        Err(e) => answer(&format!("{e:#}")),
    }
}

fn readable(stdin: &impl AsFd) -> Result<bool> {
    let mut fds = [PollFd::new(stdin, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!fds[0].revents().is_empty())
}

/// Sleeps until an order, the agent's end, or a moment: orphans can wait that long for their
/// reaper.
fn wait_for_something(agent: Option<&Agent>) -> Result<()> {
    let stdin = std::io::stdin();
    let running = agent.and_then(|agent| agent.running.as_ref());
    let mut fds = vec![PollFd::new(&stdin, PollFlags::IN)];
    fds.extend(running.map(|(_, descriptor)| PollFd::new(descriptor, PollFlags::IN)));
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e).context("waiting for orders"),
    }
}

struct Agent {
    home: Home,
    node: Node,
    wanted: bool,
    running: Option<(Pid, rustix::fd::OwnedFd)>,
    started: Option<Instant>,
    not_before: Option<Instant>,
}

impl Agent {
    fn new(home: Home, node: Node, wanted: bool) -> Self {
        Self { home, node, wanted, running: None, started: None, not_before: None }
    }

    fn start_if_due(&mut self, now: Instant) -> Result<()> {
        if !self.wanted || self.running.is_some() || self.not_before.is_some_and(|at| now < at) {
            return Ok(());
        }
        let path = self.home.agent_log(self.node);
        let log = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("agent").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        exec::environment(&mut command, &self.home, self.node.into());
        let child = command.spawn().context("starting the agent")?;
        let pid = Pid::from_child(&child);
        self.running =
            Some((pid, pidfd_open(pid, PidfdFlags::empty()).context("agent's process descriptor")?));
        self.started = Some(now);
        Ok(())
    }

    fn ended(&mut self, pid: Pid, now: Instant) {
        if self.running.as_ref().is_some_and(|(running, _)| *running == pid) {
            self.running = None;
            let quick = self.started.is_some_and(|at| now.duration_since(at) < CRASH_LOOP);
            self.not_before = quick.then(|| now + CRASH_PAUSE);
        }
    }

    fn act(&mut self, action: AgentAction) -> Result<()> {
        self.wanted = matches!(action, AgentAction::Kill | AgentAction::Start);
        self.not_before = None;
        let signal = match action {
            AgentAction::Kill | AgentAction::Halt => Signal::KILL,
            AgentAction::Stop => Signal::TERM,
            AgentAction::Start => return Ok(()),
        };
        let Some((pid, descriptor)) = self.running.as_ref() else { return Ok(()) };
        kill_process(*pid, signal).context("signal to the agent")?;
        self.started = None; // an ordered end is no crash
        let mut fds = [PollFd::new(descriptor, PollFlags::IN)];
        let timeout = Timespec { tv_sec: END_DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut fds, Some(&timeout)).context("waiting for the agent's end")?;
        if fds[0].revents().is_empty() {
            bail!("the agent did not end within {} s after {signal:?}", END_DEADLINE.as_secs());
        }
        Ok(())
    }
}

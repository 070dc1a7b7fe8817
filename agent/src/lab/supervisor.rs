//! The lab's supervisor: PID 1 of a PID namespace, so its death ends everything at once.
//!
//! It starts the machines, holds the cables and obeys `lockstep lab` one request at a time. It is
//! a single thread on purpose: entering and making namespaces is per thread, and a machine is
//! started by pointing the next child at a new PID namespace. Its own network namespace is the
//! LAN's switch. It never talks to the agents.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::cables::Cables;
use super::control::{self, AgentAction, Power, Reply, Request};
use super::layout::{Home, Host, Node};
use super::spec::{Disk, Spec};
use super::{disk, freeze, machine, namespace, sniffer, up};

/// A client of the control socket that says nothing is dropped after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A machine answers at once, but for an agent that stops its application first and a disk that
/// recovers its log: longer than either's own deadline, shorter than the client's patience.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);

/// First stage, an ordinary process: makes the namespaces and leaves the second stage in them.
/// `end_with` is the number of the process whose end shall be the lab's; inside, numbers are others,
/// so the second stage gets a descriptor.
pub(super) fn launch(home: &Home, end_with: Option<i32>) -> Result<()> {
    rustix::process::setsid().context("own session")?;
    let caller = end_with.map(caller).transpose().context("the program that wants this lab has ended")?;
    let before = std::fs::read_link("/proc/self/ns/user")?;
    namespace::unshare_as_root(UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWNET)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("lab-supervisor").arg(home.root()).arg("--inside");
    if std::fs::read_link("/proc/self/ns/user")? != before {
        command.arg("--user-namespace");
    }
    if let Some(caller) = &caller {
        command.arg(format!("--end-with={}", caller.as_raw_fd()));
    }
    command.spawn().context("starting the supervisor")?;
    Ok(())
}

/// A descriptor of a process that this one's children keep.
fn caller(number: i32) -> rustix::io::Result<OwnedFd> {
    let number = Pid::from_raw(number).ok_or(rustix::io::Errno::SRCH)?;
    let descriptor = pidfd_open(number, PidfdFlags::empty())?;
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::empty())?;
    Ok(descriptor)
}

/// Second stage: runs the lab until `lab down`.
pub(super) fn run(home: Home, user_namespace: bool, end_with: Option<i32>) -> Result<()> {
    end_on_sigterm();
    let caller = end_with.map(inherited).transpose()?;
    namespace::own_mounts()?;
    let own_pids = File::open("/proc/self/ns/pid").context("/proc/self/ns/pid")?.into();
    let spec = Spec::load(&home)?;
    let cables = Cables::build()?;
    let listener = UnixListener::bind(home.socket()).with_context(|| home.socket().display().to_string())?;
    let mut lab =
        Supervisor { home, spec, user_namespace, own_pids, cables, machines: BTreeMap::new(), sniffer: None };
    for host in [Host::A, Host::B, Host::C] {
        lab.start(host, true).with_context(|| format!("starting machine {}", host.name()))?;
    }
    println!("ready");
    loop {
        let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
        fds.extend(caller.as_ref().map(|caller| PollFd::new(caller, PollFlags::IN)));
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 })) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("waiting for requests"),
        }
        if fds.get(1).is_some_and(|caller| !caller.revents().is_empty()) {
            lab.end();
            return up::remove(&lab.home);
        }
        if !fds[0].revents().is_empty() {
            let (stream, _) = listener.accept().context("control socket")?;
            if lab.answer(&stream) {
                return Ok(());
            }
        }
        lab.reap();
    }
}

/// Takes over a descriptor that the first stage left open, and keeps it from the machines.
fn inherited(number: i32) -> Result<OwnedFd> {
    // SAFETY: the first stage made this descriptor for this process, and nothing else here uses it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC).context("the caller's descriptor")?;
    Ok(descriptor)
}

/// PID 1 ignores what it does not handle; SIGTERM shall end the lab.
fn end_on_sigterm() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: `_exit` may be called from a signal handler.
        unsafe { libc::_exit(0) }
    }
    let handler: extern "C" fn(libc::c_int) = end;
    // SAFETY: the handler calls nothing but `_exit`.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
}

struct Machine {
    pid: Pid,
    descriptor: OwnedFd,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    frozen: bool,
}

struct Supervisor {
    home: Home,
    spec: Spec,
    user_namespace: bool,
    own_pids: OwnedFd,
    cables: Cables,
    machines: BTreeMap<Host, Machine>,
    sniffer: Option<sniffer::Running>,
}

impl Supervisor {
    /// Answers one client; true when the lab shall end.
    fn answer(&mut self, stream: &UnixStream) -> bool {
        let answered = stream.set_read_timeout(Some(REQUEST_TIMEOUT)).map_err(Into::into).and_then(|()| {
            let Some(request) = control::receive(stream)? else { return Ok(false) };
            let down = matches!(request, Request::Down);
            let (reply, descriptor) = match self.obey(request) {
                Ok(done) => done,
                Err(e) => (Reply::Failed { reason: format!("{e:#}") }, None),
            };
            control::send(stream, &reply, descriptor.as_ref().map(AsFd::as_fd))?;
            Ok::<_, anyhow::Error>(down)
        });
        answered.unwrap_or_else(|e| {
            eprintln!("control socket: {e:#}");
            false
        })
    }

    fn obey(&mut self, request: Request) -> Result<(Reply, Option<OwnedFd>)> {
        match request {
            Request::Power => {
                return Ok((Reply::Power { a: self.power(Node::A), b: self.power(Node::B) }, None));
            }
            Request::Enter { host } => {
                let machine = self.machine(host)?;
                let descriptor = machine.descriptor.try_clone().context("process descriptor")?;
                return Ok((Reply::Entered { user_namespace: self.user_namespace }, Some(descriptor)));
            }
            Request::PowerOff { node } => self.power_off(node)?,
            Request::PowerOn { node, agent } => {
                if self.power(node) == Power::Off {
                    self.start(node.into(), agent)?;
                }
            }
            Request::Freeze { node } => {
                let machine = self.machine(node.into())?;
                freeze::freeze(machine.pid)?;
                machine.frozen = true;
            }
            Request::Thaw { node } => {
                let machine = self.machine(node.into())?;
                freeze::thaw(machine.pid)?;
                machine.frozen = false;
            }
            Request::Cut { cable, node, direction } => self.cables.cut(cable, node, direction)?,
            Request::Mend { cable, node, direction } => self.cables.mend(cable, node, direction)?,
            Request::Shape { rate_mbit } => self.cables.shape(rate_mbit)?,
            Request::Agent { node, action } => self.order(node, action)?,
            Request::SniffStart => self.sniff_start()?,
            Request::SniffStop => self.sniffer.take().context("no sniffer is running")?.stop()?,
            Request::Down => self.end(),
        }
        Ok((Reply::Done, None))
    }

    fn power(&self, node: Node) -> Power {
        match self.machines.get(&node.into()) {
            None => Power::Off,
            Some(machine) if machine.frozen => Power::Frozen,
            Some(_) => Power::On,
        }
    }

    fn machine(&mut self, host: Host) -> Result<&mut Machine> {
        self.machines.get_mut(&host).ok_or_else(|| {
            let name = host.name();
            anyhow!("node {name} is off: switch it on with `lockstep lab power-on {name}`")
        })
    }

    /// Starts a machine: a first process in a new PID namespace, its cables, then its agent if that is wanted.
    fn start(&mut self, host: Host, agent: bool) -> Result<()> {
        namespace::unshare(UnshareFlags::NEWPID).context("new PID namespace")?;
        let child = Command::new("/proc/self/exe")
            .args(["lab-machine", host.name()])
            .arg(self.home.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        move_into_link_name_space(self.own_pids.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .context("back to the supervisor's PID namespace")?;
        let mut child = child.context("starting the machine's first process")?;
        let pid = Pid::from_child(&child);
        let mut machine = Machine {
            pid,
            descriptor: pidfd_open(pid, PidfdFlags::empty()).context("process descriptor")?,
            orders: child.stdin.take().expect("stdin is piped"),
            answers: BufReader::new(child.stdout.take().expect("stdout is piped")),
            frozen: false,
        };
        let plugged = machine.expect("ready").and_then(|()| {
            self.cables.plug_in(host, child.id())?;
            machine.order(if agent { machine::GO } else { machine::GO_WITHOUT_AGENT })?;
            machine.expect("up")
        });
        if let Err(e) = plugged {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            if let Some(node) = host.node() {
                self.cables.unplug(node)?;
            }
            return Err(e);
        }
        self.machines.insert(host, machine);
        Ok(())
    }

    /// Cables first, then the disk, then every process.
    fn power_off(&mut self, node: Node) -> Result<()> {
        let Some(machine) = self.machines.remove(&node.into()) else { return Ok(()) };
        let dark = self.cables.lose_power(node);
        let lost = match self.spec.disk {
            Disk::Loop | Disk::LoopExt4 => disk::lose_power(machine.pid, &self.home, node),
            Disk::Dir => Ok(()),
        };
        kill_process(machine.pid, Signal::KILL).context("ending the machine")?;
        waitpid(Some(machine.pid), WaitOptions::empty()).context("waiting for the machine's end")?;
        drop(machine);
        self.cables.unplug(node)?;
        dark.and(lost)
    }

    fn order(&mut self, node: Node, action: AgentAction) -> Result<()> {
        let machine = self.machine(node.into())?;
        if machine.frozen {
            bail!("node {0} is frozen: thaw it first with `lockstep lab thaw {0}`", node.name());
        }
        machine.order(match action {
            AgentAction::Kill => "kill",
            AgentAction::Halt => "halt",
            AgentAction::Stop => "stop",
            AgentAction::Start => "start",
        })?;
        machine.expect("done")
    }

    fn sniff_start(&mut self) -> Result<()> {
        if let Some(running) = self.sniffer.take() {
            running.stop()?;
        }
        let client = self.machine(Host::C)?.pid;
        self.sniffer = Some(sniffer::Running::start(&self.home, client)?);
        Ok(())
    }

    fn end(&mut self) {
        for node in Node::ALL {
            if let Err(e) = self.power_off(node) {
                eprintln!("node {}: {e:#}", node.name());
            }
        }
        if let Some(client) = self.machines.remove(&Host::C) {
            let _ = kill_process(client.pid, Signal::KILL);
            let _ = waitpid(Some(client.pid), WaitOptions::empty());
        }
    }

    /// Buries orphans, and notices a machine that ended by itself.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
            let Some(host) = self.machines.iter().find(|(_, m)| m.pid == pid).map(|(host, _)| *host) else {
                continue;
            };
            eprintln!("machine {} ended by itself: {status:?}", host.name());
            self.machines.remove(&host);
            if let Some(node) = host.node()
                && let Err(e) = self.cables.lose_power(node).and_then(|()| self.cables.unplug(node))
            {
                eprintln!("machine {}: {e:#}", host.name());
            }
        }
    }
}

impl Machine {
    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").with_context(|| format!("order {order:?} to the machine"))
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        let mut fds = [PollFd::new(self.answers.get_ref(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: ANSWER_DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut fds, Some(&timeout)).context("waiting for the machine's answer")?;
        if fds[0].revents().is_empty() {
            bail!("the machine's first process did not answer within {} s", ANSWER_DEADLINE.as_secs());
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the machine's answer")?;
        match line.trim() {
            answer if answer == expected => Ok(()),
            "" => bail!("the machine's first process ended; its reason is in supervisor.log"),
            answer => bail!("{answer}"),
        }
    }
}

//! The supervisor process of one application: it kills the application when the lease ends.
//!
//! Path: agent -> hidden verb `lockstep supervise` -> the application. One process per
//! application, in its own session, so that it outlives an agent that was killed: a restarted
//! agent finds the program alive, and an agent that stays away longer than the lease finds it
//! dead. It reads an [`Order`] from its standard input and takes datagrams on a Unix socket:
//! `lease <end, CLOCK_BOOTTIME us>`, `status`, `stop`. It ends with its program and never
//! starts it again; that is the agent's decision.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};

use super::program::Program;
use crate::clock::boottime_us;

/// What the agent waits for on the supervisor's standard output: this, and then either
/// nothing (started) or the reason why not.
pub(super) const STARTED: &str = "lockstep-supervisor: started";
/// See [`STARTED`].
pub(super) const FAILED: &str = "lockstep-supervisor: failed: ";

/// The answer to `status` while the program runs.
pub(super) const RUNNING: &[u8] = b"running";
/// The answer to `stop`, and to anything asked too late.
pub(super) const GONE: &[u8] = b"gone";

/// How often a program is looked at when nothing wakes the supervisor: a systemd unit cannot
/// wake it, and orphans must be reaped.
const LOOK_US: u64 = 500_000;
/// The same while it is stopping.
const LOOK_STOPPING_US: u64 = 20_000;
/// Longer than any message.
const MESSAGE_BYTES: usize = 64;

/// What to run, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The program.
    pub run: Run,
    /// Where the supervisor listens.
    pub socket: PathBuf,
    /// Where the program's output goes, bounded.
    pub log: PathBuf,
    /// The program is killed at this moment unless a later one is told, CLOCK_BOOTTIME.
    pub lease_end_us: u64,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout_us: u64,
    /// The program that starts and stops units.
    pub systemctl: PathBuf,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// A systemd unit.
    Unit(String),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// The verb: reads the order from standard input, and runs until its program has ended. False when it
/// could not; the reason went to standard output, where the agent reads it.
pub fn main() -> bool {
    let mut text = String::new();
    let order = io::stdin()
        .read_to_string(&mut text)
        .and_then(|_| serde_json::from_str::<Order>(&text).map_err(io::Error::other));
    match order.and_then(|order| run(&order)) {
        Ok(()) => true,
        Err(error) => {
            // Nobody may listen any more.
            let _ = writeln!(io::stdout(), "{FAILED}{error}");
            false
        }
    }
}

fn run(order: &Order) -> io::Result<()> {
    // Fails for a process group's leader, which nobody can take down with the agent's group.
    let _ = rustix::process::setsid();
    // Orphans of the application become our children, so that none of them escapes the kill.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let lock = lock(&order.socket)?;
    let socket = listen(&order.socket)?;
    let started = Program::start(order).and_then(|program| {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        Ok(Supervisor { program, socket, timer, lease_end_us: order.lease_end_us, stopping: None })
    });
    let mut supervisor = match started {
        Ok(supervisor) => supervisor,
        Err(error) => {
            let _ = std::fs::remove_file(&order.socket);
            return Err(error);
        }
    };
    writeln!(io::stdout(), "{STARTED}")?;
    forget_agent()?;
    let outcome = supervisor.watch(order.stop_timeout_us);
    // Also after an error: no program without a supervisor.
    supervisor.program.kill();
    // Before anybody hears that the program is gone, so that it can be started again at once.
    drop(lock);
    let _ = std::fs::remove_file(&order.socket);
    supervisor.answer_the_last();
    outcome
}

/// One supervisor for one application, even if somebody has removed its socket.
fn lock(socket: &Path) -> io::Result<File> {
    let path = socket.with_extension("lock");
    let file =
        File::create(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        let held = format!("another supervisor holds {}; its program ends with its lease", path.display());
        if errno == rustix::io::Errno::WOULDBLOCK {
            io::Error::new(io::ErrorKind::AddrInUse, held)
        } else {
            errno.into()
        }
    })?;
    Ok(file)
}

fn listen(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The agent's pipes break when it dies; from here on nothing is written to them.
fn forget_agent() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: both descriptors are open, and nothing here keeps the old ones.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

struct Stopping {
    kill_at_us: u64,
    asked_by: PathBuf,
}

struct Supervisor {
    program: Program,
    socket: UnixDatagram,
    timer: OwnedFd,
    lease_end_us: u64,
    stopping: Option<Stopping>,
}

impl Supervisor {
    /// Returns when the program has ended or must be killed.
    fn watch(&mut self, stop_timeout_us: u64) -> io::Result<()> {
        loop {
            self.read_messages(stop_timeout_us)?;
            if self.program.has_ended() {
                self.program.note("the program has ended");
                return Ok(());
            }
            let now_us = boottime_us();
            if now_us >= self.lease_end_us {
                self.program.note("the lease has ended: the program is killed");
                return Ok(());
            }
            let kill_at_us = self.stopping.as_ref().map_or(u64::MAX, |stopping| stopping.kill_at_us);
            if now_us >= kill_at_us {
                self.program.note("the program has not stopped in its time: it is killed");
                return Ok(());
            }
            let look_us = now_us + if self.stopping.is_some() { LOOK_STOPPING_US } else { LOOK_US };
            self.wait_until(self.lease_end_us.min(kill_at_us).min(look_us))?;
        }
    }

    /// Waits for a message, the program's end or `until_us`. The timer counts a suspended
    /// machine's sleep, which poll's own time-out does not.
    fn wait_until(&self, until_us: u64) -> io::Result<()> {
        let at = Timespec {
            tv_sec: (until_us / 1_000_000) as i64,
            tv_nsec: ((until_us % 1_000_000) * 1_000) as _,
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        let mut waiting = vec![
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
        ];
        waiting.extend(self.program.end_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut waiting, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whoever has asked and not been answered: the program is gone.
    fn answer_the_last(&self) {
        let stopper = self.stopping.as_ref().map(|stopping| stopping.asked_by.clone());
        let unread = std::iter::from_fn(|| self.socket.recv_from(&mut [0; MESSAGE_BYTES]).ok());
        let askers = unread.filter_map(|(_, sender)| sender.as_pathname().map(Path::to_owned));
        for asked_by in stopper.into_iter().chain(askers) {
            // He may have gone too.
            let _ = self.socket.send_to(GONE, asked_by);
        }
    }

    fn read_messages(&mut self, stop_timeout_us: u64) -> io::Result<()> {
        let mut bytes = [0; MESSAGE_BYTES];
        loop {
            let (length, sender) = match self.socket.recv_from(&mut bytes) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let message = std::str::from_utf8(&bytes[..length]).unwrap_or_default();
            let asked_by = sender.as_pathname().map(Path::to_owned);
            match (message.split_once(' '), message, asked_by) {
                (Some(("lease", end)), _, _) => {
                    self.lease_end_us = end.parse().unwrap_or(self.lease_end_us);
                }
                (_, "status", Some(asked_by)) => {
                    // An agent that asked and died does not matter.
                    let _ = self.socket.send_to(RUNNING, asked_by);
                }
                (_, "stop", Some(asked_by)) => {
                    let first = self.stopping.is_none();
                    let kill_at_us = boottime_us() + stop_timeout_us;
                    let stopping =
                        self.stopping.get_or_insert(Stopping { kill_at_us, asked_by: PathBuf::new() });
                    stopping.asked_by = asked_by;
                    if first {
                        self.program.ask_to_stop();
                    }
                }
                _ => self.program.note("an unknown message was ignored"),
            }
        }
    }
}

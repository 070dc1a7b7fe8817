//! The heartbeat thread: send, receive, echo, renew the lease; nothing else.
//!
//! `socket -> seal -> lockstep_failover::Pulse -> guard`. The thread never waits behind anything:
//! no disk, no allocation in its loop, no lock shared with the data path. The agent talks to it
//! by a bounded channel and an eventfd ([`Heart`]) and hears of everything by [`Event`]s, in the
//! order in which it happened. What is said and permitted is the failover machine's.

mod gaps;
mod priority;
pub mod seal;
mod socket;
mod thread;

pub use gaps::{Count, Gaps, Silences};

use crate::effects::guard::{Guard, GuardError};
use lockstep_engine::link::HeartbeatKeys;
use lockstep_failover::{Event, Path, Time, Timing, Voice};
use lockstep_wire::SessionId;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Commands that may wait for the thread; the machine sends a few per event.
const COMMANDS: usize = 256;

/// Opens and shuts the VIP in the kernel. Implemented by [`Guard`]; tests record.
pub trait LeaseGuard: Send {
    /// The VIP passes until `end` of CLOCK_BOOTTIME and no longer.
    ///
    /// # Errors
    /// The kernel would not: the lease is over then.
    fn renew(&mut self, end: Time) -> Result<(), GuardError>;

    /// The VIP passes no more.
    ///
    /// # Errors
    /// The kernel would not; the element ends by itself.
    fn shut(&mut self) -> Result<(), GuardError>;

    /// The guard is gone: install it anew, shut.
    ///
    /// # Errors
    /// The kernel would not.
    fn reinstall(&mut self) -> Result<(), GuardError>;
}

impl LeaseGuard for Guard {
    fn renew(&mut self, end: Time) -> Result<(), GuardError> {
        self.renew_until(end.as_us())
    }

    fn shut(&mut self) -> Result<(), GuardError> {
        self.delete_lease()
    }

    fn reinstall(&mut self) -> Result<(), GuardError> {
        Self::reinstall(self)
    }
}

/// One way to the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which.
    pub path: Path,
    /// Bound even before the address is there.
    pub local: SocketAddr,
    /// Where the peer listens.
    pub peer: SocketAddr,
    /// Nothing comes or goes by another interface.
    pub interface: Option<String>,
}

/// What the thread is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This life of the agent.
    pub session: SessionId,
    /// Timing of the pair.
    pub timing: Timing,
    /// One or two ways.
    pub routes: Vec<Route>,
    /// Ask for SCHED_FIFO and mlockall.
    pub realtime: bool,
}

/// What the thread measures, for the status.
#[derive(Debug, Default)]
pub struct Gauges {
    /// End of the open lease, microseconds of CLOCK_BOOTTIME; 0: not open. The commit barrier's.
    lease_end_us: AtomicU64,
    /// Mean round trip on (direct, LAN), microseconds; 0: none yet.
    round_trip_us: [AtomicU64; 2],
    /// Last receive time on (direct, LAN), microseconds of CLOCK_BOOTTIME.
    heard_us: [AtomicU64; 2],
    /// Heartbeats sent.
    sent: AtomicU64,
    /// Heartbeats taken.
    taken: AtomicU64,
    /// Datagrams refused: foreign, damaged, replayed.
    refused: AtomicU64,
    /// Longest stall of the thread, microseconds.
    longest_stall_us: AtomicU64,
    /// How long the peer was silent between two words.
    gaps: Gaps,
}

impl Gauges {
    /// When the lease ends; `None`: not open. Compare with the clock at each release of a commit.
    pub fn lease_end(&self) -> Option<Time> {
        let end_us = self.lease_end_us.load(Ordering::Acquire);
        (end_us != 0).then_some(Time::from_us(end_us))
    }

    /// As if the thread had renewed it.
    #[cfg(test)]
    pub(crate) fn set_lease_end(&self, end: Time) {
        self.lease_end_us.store(end.as_us(), Ordering::Release);
    }

    /// Mean round trip on `path`.
    pub fn mean_round_trip(&self, path: Path) -> Option<Duration> {
        let us = self.round_trip_us[path as usize].load(Ordering::Relaxed);
        (us != 0).then_some(Duration::from_micros(us))
    }

    /// When the peer was last heard on `path`.
    pub fn heard(&self, path: Path) -> Option<Time> {
        let us = self.heard_us[path as usize].load(Ordering::Relaxed);
        (us != 0).then_some(Time::from_us(us))
    }

    /// Datagrams (sent, taken, refused).
    pub fn counts(&self) -> (u64, u64, u64) {
        let load = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        (load(&self.sent), load(&self.taken), load(&self.refused))
    }

    /// How long the peer was silent between two words, counted until `now`.
    pub fn silences(&self, now: Time) -> Silences {
        self.gaps.silences(now)
    }

    /// The longest time the thread did not run when it should have.
    pub fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.longest_stall_us.load(Ordering::Relaxed))
    }
}

/// Takes an event for the machine without waiting or allocating; false: no room.
pub type EventSink = Box<dyn Fn(Event) -> bool + Send>;

/// What the agent tells the thread.
enum Command {
    Speak(Voice),
    MajorityProbe(Time),
    ForeignArp,
    Ping { count: u32, gap: Duration },
    Keys(Box<thread::Keys>),
    Stop,
}

/// The running thread. Dropping it stops the heartbeats, shuts the guard's element and waits.
pub struct Heart {
    commands: SyncSender<Command>,
    wake: OwnedFd,
    gauges: Arc<Gauges>,
    privileges: String,
    thread: Option<std::thread::JoinHandle<()>>,
    known_key: std::sync::Mutex<Option<u64>>,
}

/// Why a command did not reach the thread.
#[derive(Debug, thiserror::Error)]
pub enum HeartError {
    /// It does not run any more, or has not for so long that its queue is full.
    #[error("the heartbeat thread does not take commands: {0}")]
    Gone(&'static str),
    /// Sockets or the thread could not be made.
    #[error("heartbeats cannot start on {local}: {source}; is the address of [pair.{path}] this node's?")]
    Start {
        /// Which path.
        path: &'static str,
        /// Address.
        local: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread could not be made.
    #[error("the heartbeat thread cannot start: {0}")]
    Spawn(#[from] io::Error),
}

impl Heart {
    /// Starts the thread. `events` takes without waiting and says false when there is no room; then the
    /// thread drops datagrams unechoed (a heartbeat that the machine does not know of must not be echoed).
    ///
    /// # Errors
    /// Sockets or the thread could not be made.
    pub fn start(
        settings: &Settings,
        guard: Box<dyn LeaseGuard>,
        events: EventSink,
    ) -> Result<Self, HeartError> {
        let mut sockets = Vec::with_capacity(settings.routes.len());
        for route in &settings.routes {
            let socket = socket::Socket::bind(route).map_err(|source| HeartError::Start {
                path: if route.path == Path::Direct { "direct" } else { "lan" },
                local: route.local,
                source,
            })?;
            sockets.push(socket);
        }
        let wake = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC,
        )
        .map_err(io::Error::from)?;
        let (commands, queue) = sync_channel(COMMANDS);
        let gauges = Arc::new(Gauges::default());
        let beating =
            thread::Beating::new(settings, sockets, guard, queue, wake.try_clone()?, events, gauges.clone());
        let (told, privileges) = sync_channel(1);
        let realtime = settings.realtime;
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            let _ = told.send(if realtime { priority::raise() } else { priority::ordinary() });
            beating.run();
        })?;
        let privileges = privileges.recv().unwrap_or_else(|_| "the heartbeat thread died".to_owned());
        let known_key = std::sync::Mutex::new(None);
        Ok(Self { commands, wake, gauges, privileges, thread: Some(thread), known_key })
    }

    /// What the thread may do and may not, in one sentence for log and status.
    pub fn privileges(&self) -> &str {
        &self.privileges
    }

    /// What it measures.
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }

    /// [`lockstep_failover::Action::SetHeartbeat`]. Answered by `HeartbeatSet`.
    ///
    /// # Errors
    /// The thread is gone or stuck.
    pub fn speak(&self, voice: Voice) -> Result<(), HeartError> {
        self.tell(Command::Speak(voice))
    }

    /// The second half of [`lockstep_failover::Action::RenewAlone`]: announce first.
    ///
    /// # Errors
    /// The thread is gone or stuck.
    pub fn majority_probe(&self, sent_at: Time) -> Result<(), HeartError> {
        self.tell(Command::MajorityProbe(sent_at))
    }

    /// A foreign MAC spoke for the VIP: R2 is barred.
    ///
    /// # Errors
    /// The thread is gone or stuck.
    pub fn foreign_arp(&self) -> Result<(), HeartError> {
        self.tell(Command::ForeignArp)
    }

    /// [`lockstep_failover::Action::SendIntentPings`]: ten per path, 4 ms apart. The thread
    /// reports `IntentPingsDone` one allowed round trip after the last.
    ///
    /// # Errors
    /// The thread is gone or stuck.
    pub fn send_intent_pings(&self) -> Result<(), HeartError> {
        self.tell(Command::Ping { count: 10, gap: Duration::from_millis(4) })
    }

    /// Keys of a new data connection. The last key stays when the connection drops, so there is
    /// no way to take keys away; the same keys again change nothing.
    ///
    /// # Errors
    /// The thread is gone or stuck.
    pub fn set_keys(&self, keys: &HeartbeatKeys) -> Result<(), HeartError> {
        let mut known = self.known_key.lock().expect("nothing panics while it is held");
        if *known == Some(keys.id) {
            return Ok(());
        }
        self.tell(Command::Keys(Box::new(thread::Keys::new(keys))))?;
        *known = Some(keys.id);
        Ok(())
    }

    fn tell(&self, command: Command) -> Result<(), HeartError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => HeartError::Gone("its queue is full"),
            TrySendError::Disconnected(_) => HeartError::Gone("it has ended"),
        })?;
        // A full counter has already woken it.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        let _ = self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;

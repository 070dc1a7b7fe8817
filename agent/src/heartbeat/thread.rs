//! The loop of the heartbeat thread: wake, drain every socket, take commands, beat, judge, renew.
//!
//! Draining comes before commands and judging: whatever had arrived is known and reported before
//! a new voice is confirmed or a lease is judged. All buffers are made before the loop.

use super::seal::{MAX_DATAGRAM_BYTES, MAX_PLAIN_BYTES, Opener, Sealer};
use super::socket::Socket;
use super::{Command, EventSink, Gauges, LeaseGuard, Settings};
use crate::clock::boottime_us;
use crate::effects::guard::GuardError;
use lockstep_engine::link::HeartbeatKeys;
use lockstep_failover::{Event, Judgement, Lapse, Pulse, Report, Time};
use lockstep_wire::Heartbeat;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

/// Datagrams taken from one socket before the others have their turn: a flood must not keep the
/// thread from beating.
const BATCH: u32 = 64;

/// New keys, prepared outside the loop.
pub(super) struct Keys {
    sealer: Sealer,
    id: u64,
    receive: [u8; 32],
}

impl Keys {
    pub(super) fn new(keys: &HeartbeatKeys) -> Self {
        Self { sealer: Sealer::new(keys.id, &keys.send), id: keys.id, receive: keys.receive }
    }
}

struct Pings {
    left: u32,
    gap: Duration,
    next: Time,
}

pub(super) struct Beating {
    pulse: Pulse,
    period: Duration,
    round_trip: Duration,
    session: u64,
    sockets: Vec<Socket>,
    guard: Box<dyn LeaseGuard>,
    commands: Receiver<Command>,
    wake: OwnedFd,
    events: EventSink,
    gauges: Arc<Gauges>,
    sealer: Option<Sealer>,
    opener: Opener,
    pings: Option<Pings>,
    /// Reports that found the channel full: they are not lost, they come first.
    owed: Vec<Event>,
    renewed_end: Time,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    buffer: [u8; MAX_DATAGRAM_BYTES + 1],
}

/// Reports that may wait for the agent; more means that it is dead, and its permit ends anyway.
const OWED_MAX: usize = 64;

impl Beating {
    pub(super) fn new(
        settings: &Settings,
        sockets: Vec<Socket>,
        guard: Box<dyn LeaseGuard>,
        commands: Receiver<Command>,
        wake: OwnedFd,
        events: EventSink,
        gauges: Arc<Gauges>,
    ) -> Self {
        Self {
            pulse: Pulse::new(settings.session, settings.timing, Time::from_us(boottime_us())),
            period: settings.timing.period,
            round_trip: settings.timing.round_trip,
            session: settings.session.0,
            sockets,
            guard,
            commands,
            wake,
            events,
            gauges,
            sealer: None,
            opener: Opener::new(),
            pings: None,
            owed: Vec::with_capacity(OWED_MAX),
            renewed_end: Time::default(),
            plain: Vec::with_capacity(MAX_PLAIN_BYTES),
            sealed: Vec::with_capacity(MAX_DATAGRAM_BYTES),
            buffer: [0; MAX_DATAGRAM_BYTES + 1],
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let due = self.due();
            self.sleep_until(due);
            self.note_stall(due);
            self.pay_owed();
            self.drain();
            if !self.take_commands() {
                break;
            }
            self.beat();
            self.judge();
        }
        self.gauges.lease_end_us.store(0, Ordering::Release);
        // Left to the kernel's time-out on failure.
        let _ = self.guard.shut();
    }

    fn now() -> Time {
        Time::from_us(boottime_us())
    }

    /// The next moment at which something is due without any event.
    fn due(&self) -> Time {
        let due = self.pulse.due(Self::now());
        self.pings.as_ref().map_or(due, |pings| due.min(pings.next))
    }

    fn sleep_until(&self, due: Time) {
        let left = due.since(Self::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        // Two sockets at most, and the wake-up.
        match &self.sockets[..] {
            [one] => {
                let mut fds = [PollFd::new(&self.wake, PollFlags::IN), PollFd::new(one, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&timeout));
            }
            [one, two, ..] => {
                let mut fds = [
                    PollFd::new(&self.wake, PollFlags::IN),
                    PollFd::new(one, PollFlags::IN),
                    PollFd::new(two, PollFlags::IN),
                ];
                let _ = poll(&mut fds, Some(&timeout));
            }
            [] => {
                let mut fds = [PollFd::new(&self.wake, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&timeout));
            }
        }
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut counter);
    }

    /// A thread that woke late extends the deadline by which it judges the peer.
    fn note_stall(&mut self, due: Time) {
        let now = Self::now();
        let lasted = now.since(due);
        if lasted > self.period / 4 {
            self.gauges.longest_stall_us.fetch_max(lasted.as_micros() as u64, Ordering::Relaxed);
            // When the agent cannot take it, it is judging nothing either.
            let _ = (self.events)(Event::Stalled { until: now, lasted });
        }
    }

    /// Everything that has arrived, before anything is judged.
    fn drain(&mut self) {
        for i in 0..self.sockets.len() {
            for _ in 0..BATCH {
                match self.sockets[i].receive(&mut self.buffer) {
                    Ok(Some((length, at))) => self.take(i, length, at),
                    Ok(None) => break,
                    // Port unreachable and the like: the next datagram may be fine.
                    Err(_) => {}
                }
            }
        }
    }

    fn take(&mut self, socket: usize, length: usize, at: Time) {
        let datagram = self.buffer.get(..length).unwrap_or_default();
        let by_last_key = self.opener.is_by_last_key(datagram);
        let opened = self.buffer.get_mut(..length).and_then(|datagram| self.opener.open(datagram).ok());
        let heartbeat = opened.and_then(|plain| Heartbeat::from_plain(plain).ok());
        let Some(heartbeat) = heartbeat.filter(|heartbeat| !self.pulse.is_stale(heartbeat, by_last_key))
        else {
            self.gauges.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let path = self.sockets[socket].path;
        // What the machine does not know of is not echoed: its wait would begin too early.
        let event = Event::HeartbeatReceived { path, heartbeat, received_at: at };
        if !self.owed.is_empty() || !(self.events)(event) {
            self.gauges.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let now = Self::now();
        self.gauges.taken.fetch_add(1, Ordering::Relaxed);
        self.gauges.heard_us[path as usize].store(at.as_us(), Ordering::Relaxed);
        self.gauges.gaps.heard(heartbeat.session, at);
        self.measure(socket, &heartbeat, at);
        if let Some(answer) = self.pulse.on_received(&heartbeat, at, now) {
            self.send(&answer, Some(socket));
        }
    }

    fn measure(&self, socket: usize, heartbeat: &Heartbeat, at: Time) {
        if heartbeat.echo_session != self.session || !heartbeat.is_echo {
            return;
        }
        let trip = at.since(Time::from_us(heartbeat.echo_sent_us)).as_micros() as u64;
        let trip = trip.saturating_sub(u64::from(heartbeat.echo_held_us)).max(1);
        let gauge = &self.gauges.round_trip_us[self.sockets[socket].path as usize];
        let mean = gauge.load(Ordering::Relaxed);
        // A mean over about eight round trips.
        gauge.store(if mean == 0 { trip } else { (mean * 7 + trip) / 8 }, Ordering::Relaxed);
    }

    /// False: stop.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Speak(voice)) => {
                    let report = self.pulse.set_voice(voice);
                    self.report_of(report);
                }
                Ok(Command::MajorityProbe(sent_at)) => self.pulse.on_majority_probe(sent_at),
                Ok(Command::ForeignArp) => self.pulse.on_foreign_arp(Self::now()),
                Ok(Command::Ping { count, gap }) => {
                    self.pings = Some(Pings { left: count, gap, next: Self::now() });
                }
                Ok(Command::Keys(keys)) => {
                    self.opener.add_key(keys.id, &keys.receive);
                    self.sealer = Some(keys.sealer);
                    self.report(Event::LinkKeys(true));
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn beat(&mut self) {
        let now = Self::now();
        if let Some(heartbeat) = self.pulse.beat(now) {
            self.send(&heartbeat, None);
        }
        let Some(pings) = &mut self.pings else { return };
        if now < pings.next {
            return;
        }
        if pings.left == 0 {
            self.pings = None;
            self.report(Event::IntentPingsDone);
            return;
        }
        pings.left -= 1;
        pings.next = now + if pings.left == 0 { self.round_trip } else { pings.gap };
        if let Some(heartbeat) = self.pulse.ping(now) {
            self.send(&heartbeat, None);
        }
    }

    /// To one socket, or to all: each datagram has its own counter.
    fn send(&mut self, heartbeat: &Heartbeat, only: Option<usize>) {
        let Some(sealer) = &mut self.sealer else { return };
        heartbeat.encode_into(&mut self.plain);
        for (i, socket) in self.sockets.iter().enumerate() {
            if only.is_some_and(|only| only != i) || sealer.seal(&self.plain, &mut self.sealed).is_err() {
                continue;
            }
            // A path that is down is known by its silence.
            if socket.send(&self.sealed).is_ok() {
                self.gauges.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn judge(&mut self) {
        let judgement = self.pulse.judge(Self::now());
        self.carry_out(judgement);
    }

    fn carry_out(&mut self, judgement: Judgement) {
        match judgement {
            Judgement::Shut => self.gauges.lease_end_us.store(0, Ordering::Release),
            Judgement::Opened | Judgement::Open => self.renew(judgement == Judgement::Opened),
            Judgement::Lapsed(why) => {
                self.gauges.lease_end_us.store(0, Ordering::Release);
                let _ = self.guard.shut();
                self.report_of(Report::Lapsed(why));
            }
        }
    }

    fn renew(&mut self, opened: bool) {
        let Some(end) = self.pulse.lease().lease_end() else { return };
        if !opened && end <= self.renewed_end {
            return;
        }
        match self.guard.renew(end) {
            Ok(()) => {
                self.renewed_end = end;
                self.gauges.lease_end_us.store(end.as_us(), Ordering::Release);
                if opened {
                    self.report_of(Report::Opened);
                }
            }
            // Too late by a hair: the next judgement says so.
            Err(GuardError::Ended { .. }) => {}
            Err(_) => {
                // Somebody flushed the ruleset: the address answers unguarded. Shut it first.
                let _ = self.guard.reinstall();
                let lapsed = self.pulse.guard_gone();
                self.gauges.lease_end_us.store(0, Ordering::Release);
                self.report_of(Report::Lapsed(Lapse::GuardGone));
                debug_assert_eq!(lapsed, Judgement::Lapsed(Lapse::GuardGone));
            }
        }
    }

    fn report_of(&mut self, report: Report) {
        self.report(match report {
            Report::Set { revision, last_grant_sent } => Event::HeartbeatSet { revision, last_grant_sent },
            Report::Opened => Event::LeaseOpened,
            Report::Lapsed(why) => Event::LeaseLapsed(why),
        });
    }

    fn report(&mut self, event: Event) {
        let must_wait = !self.owed.is_empty() || !(self.events)(event.clone());
        if must_wait && self.owed.len() < OWED_MAX {
            self.owed.push(event);
        }
    }

    fn pay_owed(&mut self) {
        while let Some(event) = self.owed.first() {
            if !(self.events)(event.clone()) {
                return;
            }
            self.owed.remove(0);
        }
    }
}

//! One node of the model: disk, kernel (address and guard), heartbeat thread, deciding thread, effects.
//!
//! The machine and the pulse are the product's own. What is around them does what the agent does: the
//! deciding thread takes events in order and does nothing while a state is on its way to disk; the
//! heartbeat thread drains, takes commands, beats and judges; the guard ends by itself.

use crate::sabotage::Sabotage;
use crate::setting::Setting;
use lockstep_failover::event::VipProbe;
use lockstep_failover::{
    Config, Event, Judgement, Machine, PairState, Path, Pending, Pulse, Report, Role, Time, Voice,
};
use lockstep_wire::{Epoch, Heartbeat, NodeId, SessionId};
use std::time::Duration;

/// Datagrams a hung node's socket keeps: the first ones and the newest; what is between is lost.
const SOCKET: usize = 4;
/// Pings go out in the first of so many rounds of the heartbeat thread; answers come in the others.
const PING_ROUNDS: u8 = 3;

/// The data path, as far as failover sees it.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(crate) struct Data {
    pub(crate) active: bool,
    pub(crate) epoch: Epoch,
    pub(crate) solo: bool,
    pub(crate) in_sync: bool,
    pub(crate) follows: Option<Epoch>,
    pub(crate) wants_durable: bool,
    pub(crate) wants_drain: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    Speak(Voice),
    Probe(Time),
    Pings,
}

/// What waits in a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) path: Path,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) at: Time,
    pub(crate) key: u64,
}

/// A round of VIP probes that is not over.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct Probing {
    pub(crate) due: u64,
    pub(crate) sent_at: Time,
    pub(crate) answered: bool,
}

/// One life of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) machine: Machine,
    pub(crate) pulse: Pulse,
    pub(crate) inbox: Vec<Event>,
    pub(crate) socket: Vec<Datagram>,
    pub(crate) commands: Vec<Command>,
    pub(crate) persisting: Option<Pending>,
    pub(crate) effects: Vec<(u64, Event)>,
    pub(crate) probing: Option<Probing>,
    /// Rounds of the heartbeat thread until the intent pings are over, not before this tick.
    pub(crate) pings: Option<(u8, u64)>,
    /// Of the present data connection and of the last, as in the thread; 0: none. The first one seals.
    pub(crate) keys: [u64; 2],
    pub(crate) app_started: bool,
    /// Since when the heartbeat thread has not run.
    pub(crate) hung_since: Option<Time>,
    /// By how much its stalls extend its deadlines until it hears the peer again.
    pub(crate) stalled: Duration,
    /// Newest (session, sequence) of the peer that thread and machine have taken.
    pub(crate) seen: [(u64, u64); 2],
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) n: usize,
    pub(crate) lives: u64,
    pub(crate) powered: bool,
    pub(crate) agent: Option<Box<Agent>>,
    pub(crate) disk: PairState,
    pub(crate) vip: bool,
    pub(crate) guard_end: Time,
    /// The guard was flushed at this tick, and nobody has noticed.
    pub(crate) flushed: Option<u64>,
    pub(crate) data: Data,
    /// It holds every acknowledged commit whose loss nobody has accepted.
    pub(crate) has_all: bool,
    pub(crate) question: bool,
    pub(crate) frozen: bool,
    pub(crate) paused: bool,
    pub(crate) stuck: bool,
    pub(crate) beat_hangs: bool,
    pub(crate) slow_disk: bool,
    pub(crate) app_broken: bool,
}

impl Node {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            n,
            lives: 0,
            powered: true,
            agent: None,
            disk: PairState::new(),
            vip: false,
            guard_end: Time::default(),
            flushed: None,
            data: Data::default(),
            has_all: true,
            question: false,
            frozen: false,
            paused: false,
            stuck: false,
            beat_hangs: false,
            slow_disk: false,
            app_broken: false,
        }
    }

    /// Its agent's threads run, as far as nothing else stops one of them.
    pub(crate) fn runs(&self) -> bool {
        self.powered && !self.frozen && !self.paused && self.agent.is_some()
    }

    /// It answers for the VIP.
    pub(crate) fn answers(&self, now: Time) -> bool {
        self.powered && !self.paused && self.vip && (now < self.guard_end || self.flushed.is_some())
    }

    /// A commit may be released: the barrier looks at the lease.
    pub(crate) fn lease_holds(&self, now: Time) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.pulse.lease().remaining(now).is_some())
    }

    /// The session of its present or last life. Grows.
    pub(crate) fn session(&self) -> u64 {
        (self.n as u64 + 1) * 1_000 + self.lives
    }

    pub(crate) fn start_agent(&mut self, set: &Setting, now: Time) {
        self.lives += 1;
        let session = SessionId(self.session());
        let timing = set.timing(self.n);
        let config = Config {
            node: NodeId(self.n as u64 + 1),
            session,
            role: if self.n == 0 { Role::Primary } else { Role::Secondary },
            timing,
            failover: set.failover,
            application: true,
            open_early: set.open_early,
            release_timeout: Duration::from_secs(3),
            solo_after: set.solo_after,
            failback_after: None,
            witness: false,
            fence: false,
        };
        let lease_left = (self.guard_end > now).then(|| self.guard_end.since(now));
        self.agent = Some(Box::new(Agent {
            machine: Machine::new(config, self.disk.clone(), now),
            pulse: Pulse::new(session, timing, now),
            inbox: vec![Event::Leftovers { vip: self.vip, lease_left }, Event::CopyComplete(true)],
            socket: Vec::new(),
            commands: Vec::new(),
            persisting: None,
            effects: Vec::new(),
            probing: None,
            pings: None,
            keys: [0; 2],
            app_started: false,
            hung_since: None,
            stalled: Duration::ZERO,
            seen: [(0, 0); 2],
        }));
    }

    /// `written`: what was on its way to disk made it there.
    pub(crate) fn end_agent(&mut self, written: bool) {
        if let Some(pending) = self.agent.take().and_then(|agent| agent.persisting)
            && written
        {
            self.on_disk(pending.state().clone());
        }
        self.data = Data::default();
        self.question = false;
        (self.frozen, self.stuck, self.beat_hangs, self.slow_disk) = (false, false, false, false);
    }

    /// A claim for which the operator accepted loss: what this node has is the truth from now on.
    pub(crate) fn on_disk(&mut self, state: PairState) {
        self.has_all |= state.forced && state.epoch > self.disk.epoch;
        self.disk = state;
    }

    pub(crate) fn power_off(&mut self, written: bool) {
        self.end_agent(written);
        self.powered = false;
        self.vip = false;
        self.guard_end = Time::default();
        self.flushed = None;
    }

    /// A datagram sealed with `key` reaches the kernel. What cannot be opened is dropped at once here.
    pub(crate) fn receive(&mut self, path: Path, heartbeat: Heartbeat, key: u64, now: Time) {
        let can_open = self.powered && !self.paused;
        let Some(agent) = self.agent.as_mut().filter(|agent| can_open && agent.keys.contains(&key)) else {
            return;
        };
        if agent.socket.len() >= SOCKET {
            agent.socket.remove(SOCKET / 2);
        }
        agent.socket.push(Datagram { path, heartbeat, at: now, key });
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if let Some(agent) = &mut self.agent {
            agent.tell(event);
        }
    }

    /// One round of the heartbeat thread: what it sends, to one path or to all. `first`: of this tick.
    pub(crate) fn run_thread(
        &mut self,
        set: &Setting,
        tick: u64,
        now: Time,
        first: bool,
    ) -> Vec<(Option<Path>, Heartbeat)> {
        let mut sent = Vec::new();
        let hangs = self.beat_hangs || !self.runs();
        let Some(agent) = self.agent.as_deref_mut() else { return sent };
        if hangs {
            agent.hung_since = agent.hung_since.or(Some(now));
            return sent;
        }
        if let Some(since) = agent.hung_since.take() {
            agent.tell(Event::Stalled { until: now, lasted: now.since(since) });
        }
        if !first && agent.socket.is_empty() && agent.commands.is_empty() && agent.pings.is_none() {
            return sent;
        }
        agent.drain(&mut sent, set, now);
        agent.take_commands(set, tick);
        sent.extend(agent.pulse.beat(now).map(|beat| (None, beat)));
        agent.ping(tick, now, &mut sent);
        self.judge(now);
        sent
    }

    fn judge(&mut self, now: Time) {
        let Some(agent) = self.agent.as_deref_mut() else { return };
        let judgement =
            if self.flushed.take().is_some() { agent.pulse.guard_gone() } else { agent.pulse.judge(now) };
        match judgement {
            Judgement::Shut => {}
            Judgement::Opened | Judgement::Open => {
                self.guard_end = agent.pulse.lease().lease_end().unwrap_or_default();
                if judgement == Judgement::Opened {
                    agent.tell(Event::LeaseOpened);
                }
            }
            Judgement::Lapsed(why) => {
                self.guard_end = Time::default();
                agent.tell(Event::LeaseLapsed(why));
            }
        }
    }
}

impl Agent {
    /// Queues a fact. Of facts that only repeat the last of their kind the newest is kept, so that a
    /// machine that is stuck for long is in the same state as one that is stuck for longer.
    pub(crate) fn tell(&mut self, event: Event) {
        let alike = |queued: &Event| match (queued, &event) {
            (
                Event::HeartbeatReceived { path, heartbeat, .. },
                Event::HeartbeatReceived { path: other_path, heartbeat: other, .. },
            ) => path == other_path && says_the_same(heartbeat, other),
            (Event::TargetsMajority { answered, .. }, Event::TargetsMajority { answered: other, .. }) => {
                answered == other
            }
            (Event::PeerAnnounced { .. }, Event::PeerAnnounced { .. }) => true,
            (Event::HeartbeatSet { revision, .. }, Event::HeartbeatSet { revision: other, .. }) => {
                revision == other
            }
            _ => false,
        };
        if self.persisting.is_some() || self.inbox.len() > 8 {
            let last = self.inbox.iter().rposition(|queued| {
                std::mem::discriminant(queued) == std::mem::discriminant(&event) && same_path(queued, &event)
            });
            if let Some(at) = last.filter(|at| alike(&self.inbox[*at])) {
                self.inbox.remove(at);
            }
        }
        self.inbox.push(event);
    }

    fn drain(&mut self, sent: &mut Vec<(Option<Path>, Heartbeat)>, set: &Setting, now: Time) {
        for Datagram { path, heartbeat, at: received_at, key } in std::mem::take(&mut self.socket) {
            if self.pulse.is_stale(&heartbeat, key != self.keys[0]) {
                continue;
            }
            self.seen[0] = newest(self.seen[0], &heartbeat);
            let known = Sabotage::machine_hears(set, heartbeat);
            self.tell(Event::HeartbeatReceived { path, heartbeat: known, received_at });
            let heartbeat = Sabotage::lease_hears(set, heartbeat, now);
            sent.extend(
                self.pulse.on_received(&heartbeat, received_at, now).map(|answer| (Some(path), answer)),
            );
        }
    }

    fn take_commands(&mut self, set: &Setting, tick: u64) {
        for command in std::mem::take(&mut self.commands) {
            match command {
                Command::Speak(voice) => {
                    let Report::Set { revision, last_grant_sent } = self.pulse.set_voice(voice) else {
                        continue;
                    };
                    self.tell(Event::HeartbeatSet { revision, last_grant_sent });
                }
                Command::Probe(sent_at) => self.pulse.on_majority_probe(sent_at),
                Command::Pings => self.pings = Some((PING_ROUNDS, tick + set.effects)),
            }
        }
    }

    fn ping(&mut self, tick: u64, now: Time, sent: &mut Vec<(Option<Path>, Heartbeat)>) {
        let Some((left, due)) = &mut self.pings else { return };
        if *left == PING_ROUNDS {
            sent.extend(self.pulse.ping(now).map(|ping| (None, ping)));
        }
        if *left > 0 {
            *left -= 1;
        } else if tick >= *due {
            self.pings = None;
            self.tell(Event::IntentPingsDone);
        }
    }

    /// Ends a round of VIP probes that is due.
    pub(crate) fn end_probing(&mut self, tick: u64) {
        if let Some(Probing { due, sent_at, answered }) = self.probing
            && tick >= due
        {
            self.probing = None;
            let result = if answered { VipProbe::PeerMac } else { VipProbe::Silent };
            self.tell(Event::VipProbed { sent_at, result });
        }
    }

    /// Hands the heartbeat thread a command; one that only repeats another replaces it.
    pub(crate) fn command(&mut self, command: Command) {
        self.commands.retain(|queued| match (queued, &command) {
            (Command::Speak(last), Command::Speak(voice)) => last.revision != voice.revision,
            (Command::Probe(_), Command::Probe(_)) => false,
            _ => true,
        });
        self.commands.push(command);
    }
}

/// The newest word seen after `heartbeat`, as thread and machine count it.
pub(crate) fn newest(seen: (u64, u64), heartbeat: &Heartbeat) -> (u64, u64) {
    seen.max((heartbeat.session, heartbeat.sequence))
}

fn same_path(one: &Event, other: &Event) -> bool {
    match (one, other) {
        (Event::HeartbeatReceived { path, .. }, Event::HeartbeatReceived { path: other, .. }) => {
            path == other
        }
        _ => true,
    }
}

fn says_the_same(one: &Heartbeat, other: &Heartbeat) -> bool {
    let timeless = |heartbeat: &Heartbeat| Heartbeat {
        sequence: 0,
        sent_us: 0,
        echo_sent_us: 0,
        echo_held_us: 0,
        is_echo: false,
        ..*heartbeat
    };
    timeless(one) == timeless(other)
}

//! One node of the world: disk, kernel (address, guard), heartbeat thread, agent.

use super::witness::Question;
use super::{Chance, TICK_US, at};
use lockstep_failover::event::VipProbe;
use lockstep_failover::{
    Action, Config, Engine, Event, FailoverType, Judgement, Machine, PairState, Path, Pending, Profile,
    Proof, Pulse, Refusal, Report, Request, Role, SoloAfter, Status, Step, Time, Voice,
};
use lockstep_wire::{Epoch, Heartbeat, NodeId, SessionId};
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Data {
    pub active: bool,
    pub epoch: Epoch,
    pub solo: bool,
    pub in_sync: bool,
    pub resync: u64,
    pub follows: Option<Epoch>,
    pub waiting: Vec<u64>,
    pub wants_durable: bool,
    pub wants_drain: bool,
}

enum Command {
    Speak(Voice),
    Probe(Time),
    Pings,
}

pub struct Node {
    id: u64,
    role: Role,
    offset_us: u64,
    drift_ppm: i64,
    sessions: u64,
    pub powered: bool,
    pub frozen: bool,
    /// The state machine alone is stuck.
    pub stuck: bool,
    pub disk: PairState,
    pub log: Vec<u64>,
    vip: bool,
    guard_end_us: u64,
    agent: Option<(Machine, Pulse)>,
    pub engine: Data,
    pub inbox: Vec<Event>,
    /// With each whether it was sealed by the key before the present one.
    pub socket: Vec<(Path, Heartbeat, Time, bool)>,
    commands: Vec<Command>,
    persisting: Option<(u64, Pending)>,
    effects: Vec<(u64, Event)>,
    vip_probe: Option<(u64, Time, bool)>,
    pings: Option<(u64, u32)>,
    /// The heartbeat thread sleeps until then, unless something comes.
    thread_due: Time,
    pub announced: bool,
    pub key: u64,
    keys: [u64; 2],
    pub failover: FailoverType,
    pub solo_after: SoloAfter,
    pub failback_after: Option<Duration>,
    pub witness: bool,
    pub question: Option<Question>,
    /// Of a killed agent: it may still be carried out.
    pub orphan: Option<Question>,
    fast: bool,
}

impl Node {
    pub fn new(id: u64, role: Role, seed: u64, solo_after: SoloAfter, witness: bool) -> Self {
        let mut chance = Chance(seed ^ id);
        let mut node = Self {
            id,
            role,
            offset_us: 1_000_000 + chance.below(1_000_000_000),
            drift_ppm: chance.below(1_000) as i64 - 500,
            sessions: 0,
            powered: false,
            frozen: false,
            stuck: false,
            disk: PairState::new(),
            log: Vec::new(),
            vip: false,
            guard_end_us: 0,
            agent: None,
            engine: Data::default(),
            inbox: Vec::new(),
            socket: Vec::new(),
            commands: Vec::new(),
            persisting: None,
            effects: Vec::new(),
            vip_probe: None,
            pings: None,
            thread_due: Time::default(),
            announced: false,
            key: 0,
            keys: [0; 2],
            failover: FailoverType::Automatic,
            solo_after,
            failback_after: None,
            witness,
            question: None,
            orphan: None,
            fast: seed.is_multiple_of(2),
        };
        node.power_on(0);
        node
    }

    /// True time to this node's clock.
    pub fn local(&self, us: u64) -> Time {
        let drift = us as i64 * self.drift_ppm / 1_000_000;
        at((self.offset_us + us).saturating_add_signed(drift))
    }

    pub fn later(&mut self, tick: u64, event: Event) {
        self.effects.push((tick, event));
    }

    pub fn runs(&self) -> bool {
        self.powered && !self.frozen && self.agent.is_some()
    }

    /// How often its agent has started.
    pub fn lives(&self) -> u64 {
        self.sessions
    }

    pub fn accepts(&self, key: u64) -> bool {
        self.agent.is_some() && self.keys.contains(&key)
    }

    pub fn add_key(&mut self, key: u64) {
        self.keys = [key, self.keys[0]];
        self.key = key;
    }

    pub fn answers(&self, now_us: u64) -> bool {
        self.powered && self.vip && now_us < self.guard_end_us
    }

    pub fn lease_holds(&self, now_us: u64) -> bool {
        let now = self.local(now_us);
        self.agent.as_ref().is_some_and(|(_, pulse)| pulse.lease().remaining(now).is_some())
    }

    pub fn status(&self) -> Option<Status> {
        self.agent.as_ref().filter(|_| self.powered).map(|(machine, _)| machine.status())
    }

    pub fn power_off(&mut self) {
        self.kill_agent(true);
        self.powered = false;
        self.vip = false;
        self.guard_end_us = 0;
    }

    pub fn power_on(&mut self, now_us: u64) {
        if !self.powered {
            self.powered = true;
            self.frozen = false;
            self.stuck = false;
            self.start_agent(now_us);
        }
    }

    /// `written`: what was on its way to disk made it there.
    pub fn kill_agent(&mut self, written: bool) {
        if let Some((_, pending)) = self.persisting.take()
            && written
        {
            self.disk = pending.state().clone();
        }
        self.agent = None;
        self.key = 0;
        self.keys = [0; 2];
        self.engine = Data::default();
        self.inbox.clear();
        self.socket.clear();
        self.commands.clear();
        self.effects.clear();
        self.vip_probe = None;
        self.orphan = self.question.take();
        self.pings = None;
        self.thread_due = Time::default();
        self.announced = false;
    }

    pub fn start_agent(&mut self, now_us: u64) {
        if !self.powered || self.agent.is_some() {
            return;
        }
        self.sessions += 1;
        let session = SessionId(self.id * 1_000 + self.sessions);
        let now = self.local(now_us);
        let limit = if self.witness { Question::LIMIT } else { Duration::ZERO };
        let timing = Profile::Default.timing().with_arbitration(limit);
        let config = Config {
            node: NodeId(self.id),
            session,
            role: self.role,
            timing,
            failover: self.failover,
            application: true,
            open_early: None,
            release_timeout: Duration::from_secs(10),
            solo_after: self.solo_after,
            failback_after: self.failback_after,
            witness: self.witness,
            fence: false,
        };
        let state = PairState::from_text(&self.disk.to_text()).expect("what was written reads back");
        self.agent = Some((Machine::new(config, state, now), Pulse::new(session, timing, now)));
        let left_us = self.guard_end_us.saturating_sub(now_us);
        let lease_left = (left_us > 0).then_some(Duration::from_micros(left_us));
        self.inbox.push(Event::Leftovers { vip: self.vip, lease_left });
    }

    /// The heartbeat thread; what it sends (to one path, or to all).
    pub fn run_thread(&mut self, now_us: u64) -> Vec<(Option<Path>, Heartbeat)> {
        let now = self.local(now_us);
        if !self.runs() {
            return Vec::new();
        }
        let woken = !self.socket.is_empty() || !self.commands.is_empty() || self.pings.is_some();
        if !woken && now < self.thread_due {
            return Vec::new();
        }
        let Some((_, pulse)) = &mut self.agent else { return Vec::new() };
        let mut sent = Vec::new();
        for (path, heartbeat, received_at, by_last_key) in self.socket.drain(..) {
            if pulse.is_stale(&heartbeat, by_last_key) {
                continue;
            }
            self.inbox.push(Event::HeartbeatReceived { path, heartbeat, received_at });
            sent.extend(pulse.on_received(&heartbeat, received_at, now).map(|answer| (Some(path), answer)));
        }
        for command in self.commands.drain(..) {
            match command {
                Command::Speak(voice) => {
                    let Report::Set { revision, last_grant_sent } = pulse.set_voice(voice) else { continue };
                    self.inbox.push(Event::HeartbeatSet { revision, last_grant_sent });
                }
                Command::Probe(sent_at) => pulse.on_majority_probe(sent_at),
                Command::Pings => self.pings = Some((0, if self.fast { 2 } else { 10 })),
            }
        }
        sent.extend(pulse.beat(now).map(|heartbeat| (None, heartbeat)));
        if let Some((_, left)) = &mut self.pings {
            if *left == 0 {
                self.pings = None;
                self.inbox.push(Event::IntentPingsDone);
            } else {
                *left -= 1;
                sent.extend(pulse.ping(now).map(|heartbeat| (None, heartbeat)));
            }
        }
        match pulse.judge(now) {
            Judgement::Shut => {}
            judgement @ (Judgement::Opened | Judgement::Open) => {
                let left = pulse.lease().remaining(now).unwrap_or_default();
                self.guard_end_us = now_us + left.as_micros() as u64;
                if judgement == Judgement::Opened {
                    self.inbox.push(Event::LeaseOpened);
                }
            }
            Judgement::Lapsed(why) => {
                self.guard_end_us = 0;
                self.inbox.push(Event::LeaseLapsed(why));
            }
        }
        self.thread_due = pulse.due(now);
        sent
    }

    /// A fact from outside, if an agent runs that can hear it.
    pub fn tell(&mut self, event: Event) {
        if self.agent.is_some() {
            self.inbox.push(event);
        }
    }

    pub fn watch_vip(&mut self, peer_answers: bool) {
        if let Some((_, _, seen)) = &mut self.vip_probe {
            *seen |= peer_answers;
        }
    }

    pub fn run_machine(&mut self, now_us: u64, chance: &mut Chance) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.runs() || self.stuck {
            return lines;
        }
        let tick = now_us / TICK_US;
        if let Some((due, _)) = self.persisting {
            if tick < due {
                return lines;
            }
            let (_, pending) = self.persisting.take().expect("just looked");
            let state = pending.state().clone();
            let disk = &mut self.disk;
            let proof =
                Proof::by_writing(&state, |text| PairState::from_text(text).map(|state| *disk = state));
            let actions = pending.persisted(proof.expect("the state reads back"));
            self.carry_out(now_us, actions, chance, &mut lines);
            self.inbox.insert(0, Event::Persisted);
        }
        let due: Vec<Event> = {
            let (due, later) = std::mem::take(&mut self.effects).into_iter().partition(|(at, _)| *at <= tick);
            self.effects = later;
            let due: Vec<(u64, Event)> = due;
            due.into_iter().map(|(_, event)| event).collect()
        };
        self.inbox.extend(due);
        if let Some((due, sent_at, seen)) = self.vip_probe
            && tick >= due
        {
            self.vip_probe = None;
            let result = if seen { VipProbe::PeerMac } else { VipProbe::Silent };
            self.inbox.push(Event::VipProbed { sent_at, result });
        }
        self.inbox.push(Event::Tick);
        let mut events = std::mem::take(&mut self.inbox).into_iter();
        for event in events.by_ref() {
            let now = self.local(now_us);
            let Some((machine, _)) = &mut self.agent else { break };
            let step = machine.handle(now, event);
            self.take_step(now_us, step, chance, &mut lines);
            if self.persisting.is_some() {
                break;
            }
        }
        // The driver is busy writing: the rest waits.
        self.inbox.extend(events);
        lines
    }

    pub fn request(
        &mut self,
        now_us: u64,
        request: Request,
        chance: &mut Chance,
    ) -> Result<Vec<String>, Refusal> {
        let now = self.local(now_us);
        let mut lines = Vec::new();
        let Some((machine, _)) = &mut self.agent else { return Err(Refusal::Busy("off")) };
        let step = machine.request(now, request)?;
        self.take_step(now_us, step, chance, &mut lines);
        Ok(lines)
    }

    fn take_step(&mut self, now_us: u64, step: Step, chance: &mut Chance, lines: &mut Vec<String>) {
        match step {
            Step::Ready(actions) => self.carry_out(now_us, actions, chance, lines),
            Step::Persist(pending) => {
                let ticks = if chance.one_in(50) {
                    chance.below(100)
                } else {
                    chance.below(if self.fast { 1 } else { 3 })
                };
                lines.push(format!("persist {:?}", pending.state()));
                self.persisting = Some((now_us / TICK_US + ticks, pending));
            }
        }
    }

    fn carry_out(&mut self, now_us: u64, actions: Vec<Action>, chance: &mut Chance, lines: &mut Vec<String>) {
        let tick = now_us / TICK_US;
        for action in actions {
            // Some worlds are fast, so that nothing is safe only because effects are slow.
            let soon = if self.fast { tick } else { tick + 1 + chance.below(4) };
            match action {
                Action::Log { row, sentence, .. } => lines.push(format!("[{row}] {sentence}")),
                Action::SetHeartbeat(voice) => self.commands.push(Command::Speak(voice)),
                Action::RenewAlone { probe_sent_at } => {
                    self.announced = self.lease_holds(now_us);
                    self.commands.push(Command::Probe(probe_sent_at));
                }
                Action::ProbeVip => {
                    self.vip_probe = Some((tick + if self.fast { 1 } else { 5 }, self.local(now_us), false));
                }
                Action::SendIntentPings => self.commands.push(Command::Pings),
                Action::Engine(order) => self.engine_order(order, soon),
                Action::AddVipSilent => {
                    self.vip = true;
                    self.effects.push((soon, Event::VipAdded));
                }
                Action::EndVipSockets => self.effects.push((soon, Event::VipSocketsEnded)),
                Action::DeleteLeaseElement => {
                    self.guard_end_us = 0;
                    self.effects.push((soon, Event::LeaseElementDeleted));
                }
                Action::DeleteVip => {
                    self.vip = false;
                    self.effects.push((soon, Event::VipGone));
                }
                Action::StartApp => {
                    self.effects.push((soon, Event::AppStarted));
                    self.effects.push((if self.fast { soon } else { soon + 5 }, Event::AppHealthy));
                }
                Action::StopApp | Action::KillApp => self.effects.push((soon, Event::AppStopped)),
                Action::AskWitness { number, claim } => {
                    self.question = Some(Question::new(number, claim, soon));
                }
                Action::FencePeer => self.effects.push((soon, Event::PeerFenced(Err("none here".into())))),
                Action::RoundTripAlarm(_)
                | Action::WitnessAlarm(_)
                | Action::Question(_)
                | Action::ProbeTargets(_)
                | Action::Announce
                | Action::ConflictWatch(_) => {}
            }
        }
    }

    fn engine_order(&mut self, order: Engine, soon: u64) {
        let fresh = |epoch| Data { epoch, ..Data::default() };
        match order {
            Engine::BecomeActive { epoch } | Engine::Promote { epoch } => {
                let waiting = std::mem::take(&mut self.engine.waiting);
                self.engine = Data { active: true, waiting, ..fresh(epoch) };
                self.effects.push((soon, Event::EngineReady));
            }
            Engine::BecomeStandby { epoch } => {
                self.engine = Data { follows: Some(epoch), ..fresh(epoch) };
                self.effects.push((soon, Event::EngineReady));
            }
            Engine::AllowSolo { .. } => {
                assert!(self.disk.solo, "solo is durable first");
                assert_ne!(self.solo_after, SoloAfter::Never, "nothing is ever acknowledged alone");
                self.engine.solo = true;
            }
            Engine::HoldCommits => {
                self.engine.solo = false;
                self.engine.wants_durable = true;
            }
            Engine::Drain => self.engine.wants_drain = true,
            Engine::Stop => self.engine = Data::default(),
        }
    }
}

//! Two nodes, two links, and time in ticks: everything is decided by the choices made.

use crate::node::{Data, Node};
use crate::setting::Setting;
use lockstep_failover::event::VipProbe;
use lockstep_failover::state::Was;
use lockstep_failover::{Event, Path, Time};
use lockstep_wire::Heartbeat;

/// Rounds within a tick before nothing more happens; more would be a loop.
const ROUNDS_MAX: u32 = 40;
/// A delayed datagram that has not come after so many ticks is lost.
pub(crate) const DELAY_MAX: u64 = 8;
/// Datagrams of one tick that are delayed together.
const HELD: usize = 4;
/// Moments begin here, so that none of the model is confused with "never" (0).
const BOOT_US: u64 = 1_000_000_000;
/// The kernel deletes an address that nobody renews after this many ticks, guard or not.
const VALID_LFT: u64 = 10;

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    TwoHolders,
    /// It acknowledges alone, and its disk does not say so.
    SoloUnsaid(usize),
    Loss(usize),
}

/// Cut lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cuts {
    /// By sender.
    pub(crate) direct: [bool; 2],
    pub(crate) lan_out: [bool; 2],
    pub(crate) lan_in: [bool; 2],
    /// The LAN is split between the nodes; each sees its targets.
    pub(crate) split: bool,
}

/// A datagram that comes later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) key: u64,
    pub(crate) path: Path,
    pub(crate) heartbeat: Heartbeat,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) set: &'static Setting,
    pub(crate) tick: u64,
    /// Ticks of each node's clock.
    pub(crate) clock: [u64; 2],
    pub(crate) nodes: [Node; 2],
    pub(crate) cuts: Cuts,
    /// Of whom what is sent in the next tick is held; and whether it comes as well.
    pub(crate) holding: Option<(usize, bool)>,
    /// From whom, since which tick, what.
    pub(crate) held: Option<(usize, u64, Vec<Held>)>,
    pub(crate) arriving: bool,
    pub(crate) connected: bool,
    /// Data connections so far: each has a key of its own for the heartbeats.
    pub(crate) connections: u64,
    pub(crate) budget: u8,
    pub(crate) broken: Option<Broken>,
    /// Rows and steps logged, with what a story tells; `None`: nobody listens.
    pub(crate) story: Option<Vec<String>>,
}

impl World {
    /// A pair that has never served, both agents just started.
    pub(crate) fn fresh(set: &'static Setting) -> Self {
        let mut world = Self {
            set,
            tick: 0,
            clock: [0; 2],
            nodes: [Node::new(0), Node::new(1)],
            cuts: Cuts::default(),
            holding: None,
            held: None,
            arriving: false,
            connected: false,
            connections: 0,
            budget: set.budget,
            broken: None,
            story: None,
        };
        for n in 0..2 {
            let now = world.now(n);
            world.nodes[n].start_agent(set, now);
        }
        world
    }

    /// The same, once one node serves and the other follows in sync.
    pub(crate) fn well(set: &'static Setting) -> Self {
        let mut world = Self::fresh(set);
        for _ in 0..40 {
            world.pass();
        }
        assert!(world.is_well() && world.broken.is_none(), "a fresh pair comes up");
        world
    }

    /// The present by a node's clock.
    pub(crate) fn now(&self, n: usize) -> Time {
        let tick_us = self.set.tick[n].as_micros() as u64;
        Time::from_us(BOOT_US + self.clock[n] * tick_us)
    }

    pub(crate) fn passes(&self, path: Path, from: usize) -> bool {
        match path {
            Path::Direct => !self.cuts.direct[from],
            Path::Lan => !self.cuts.split && !self.cuts.lan_out[from] && !self.cuts.lan_in[1 - from],
        }
    }

    fn targets_answer(&self, n: usize) -> bool {
        !self.cuts.lan_out[n] && !self.cuts.lan_in[n]
    }

    /// The VIP's holder as `n` sees it by ARP.
    pub(crate) fn sees_holder(&self, n: usize) -> bool {
        let both_ways = self.passes(Path::Lan, n) && self.passes(Path::Lan, 1 - n);
        both_ways && self.nodes[1 - n].answers(self.now(1 - n))
    }

    pub(crate) fn holders(&self) -> impl Iterator<Item = usize> + '_ {
        (0..2).filter(|&n| self.nodes[n].answers(self.now(n)))
    }

    /// One tick.
    pub(crate) fn pass(&mut self) {
        self.tick += 1;
        for n in 0..2 {
            self.clock[n] += u64::from(!self.nodes[n].paused);
        }
        self.arrive();
        for n in 0..2 {
            self.begin_tick(n);
        }
        self.settle();
        self.probe_again();
        self.holding = None;
        self.commit();
        self.judge();
    }

    fn begin_tick(&mut self, n: usize) {
        let (tick, now) = (self.tick, self.now(n));
        let answered = if self.targets_answer(n) { 3 } else { 0 };
        let sees_holder = self.sees_holder(n);
        let node = &mut self.nodes[n];
        if node.flushed.is_some_and(|at| tick >= at + VALID_LFT) {
            (node.vip, node.flushed) = (false, None);
        }
        if !node.runs() {
            return;
        }
        let Some(agent) = node.agent.as_deref_mut() else { return };
        if let Some(probing) = &mut agent.probing {
            probing.answered |= sees_holder;
        }
        agent.end_probing(tick);
        let (due, later) = std::mem::take(&mut agent.effects).into_iter().partition(|(due, _)| *due <= tick);
        agent.effects = later;
        let due: Vec<(u64, Event)> = due;
        due.into_iter().for_each(|(_, event)| agent.tell(event));
        agent.tell(Event::TargetsMajority { sent_at: now, answered, of: 3 });
        agent.inbox.retain(|event| *event != Event::Tick);
        agent.tell(Event::Tick);
    }

    /// Who waits for its lease may find the targets again within the tick.
    fn probe_again(&mut self) {
        let mut probes = false;
        for n in 0..2 {
            let now = self.now(n);
            let answers = self.targets_answer(n);
            let node = &mut self.nodes[n];
            let waits = node.runs() && node.vip && node.disk.was == Was::Active && now >= node.guard_end;
            if waits && answers {
                probes = true;
                node.tell(Event::TargetsMajority { sent_at: now, answered: 3, of: 3 });
            }
        }
        if probes {
            self.settle();
        }
    }

    /// Runs both nodes until nothing more happens in this tick.
    fn settle(&mut self) {
        let order = [self.set.first, 1 - self.set.first];
        for round in 0..ROUNDS_MAX {
            let mut is_busy = false;
            for n in order {
                let now = self.now(n);
                for (path, heartbeat) in self.nodes[n].run_thread(self.set, self.tick, now, round == 0) {
                    is_busy = true;
                    self.send(n, path, heartbeat);
                }
            }
            is_busy |= self.link();
            for n in order {
                is_busy |= self.run_machine(n);
            }
            let owes = |node: &Node| {
                let thread_runs = node.runs() && !node.beat_hangs;
                node.agent.as_ref().is_some_and(|agent| {
                    thread_runs
                        && (!agent.socket.is_empty()
                            || !agent.commands.is_empty()
                            || agent.pings.is_some_and(|(left, due)| left > 0 || due <= self.tick))
                })
            };
            if !is_busy && !self.nodes.iter().any(owes) {
                return;
            }
        }
        panic!("a tick never ends\n{}", self.story.clone().unwrap_or_default().join("\n"));
    }

    fn send(&mut self, from: usize, path: Option<Path>, heartbeat: Heartbeat) {
        let key = self.nodes[from].agent.as_ref().map_or(0, |agent| agent.keys[0]);
        for path in Path::ALL.into_iter().filter(|one| path.is_none_or(|path| path == *one)) {
            if key == 0 || !self.passes(path, from) {
                continue;
            }
            if let Some((_, comes_too)) = self.holding.filter(|(n, _)| *n == from) {
                let tick = self.tick;
                let (_, _, held) = self.held.get_or_insert_with(|| (from, tick, Vec::new()));
                if held.len() < HELD {
                    held.push(Held { key, path, heartbeat });
                }
                if !comes_too {
                    continue;
                }
            }
            let now = self.now(1 - from);
            self.nodes[1 - from].receive(path, heartbeat, key, now);
        }
    }

    fn arrive(&mut self) {
        let is_lost = self.held.as_ref().is_some_and(|(_, since, _)| self.tick > since + DELAY_MAX);
        if !(self.arriving || is_lost) {
            return;
        }
        let Some((from, _, held)) = self.held.take() else { return };
        if std::mem::take(&mut self.arriving) {
            let now = self.now(1 - from);
            for Held { key, path, heartbeat } in held {
                self.nodes[1 - from].receive(path, heartbeat, key, now);
            }
        }
    }

    /// The data connection, and with it the heartbeat keys. True: something changed.
    fn link(&mut self) -> bool {
        let way = |path| self.passes(path, 0) && self.passes(path, 1);
        let key = self.connections;
        let has_key = |node: &Node| node.agent.as_ref().is_some_and(|agent| agent.keys[0] == key && key != 0);
        let can = self.nodes.iter().all(Node::runs) && Path::ALL.into_iter().any(way);
        let was = std::mem::replace(&mut self.connected, can);
        let mut changed = was != can;
        if can && !(was && self.nodes.iter().all(has_key)) {
            changed = true;
            self.connections += 1;
            for node in &mut self.nodes {
                if let Some(agent) = node.agent.as_deref_mut() {
                    agent.keys = [self.connections, agent.keys[0]];
                    agent.tell(Event::LinkKeys(true));
                }
            }
        }
        for n in 0..2 {
            changed |= self.follow(n, can && was);
        }
        changed
    }

    /// Node `n`, when active: does its peer follow?
    fn follow(&mut self, n: usize, up: bool) -> bool {
        let [a, b] = &mut self.nodes;
        let (active, standby) = if n == 0 { (a, b) } else { (b, a) };
        let before = active.data;
        if !active.runs() || !before.active {
            return false;
        }
        let follows = up && standby.runs() && standby.data.follows == Some(before.epoch);
        if !follows {
            active.data = Data { in_sync: false, ..before };
            if before.in_sync {
                active.tell(Event::EngineInSync(false));
            }
            return before.in_sync;
        }
        if !before.in_sync {
            // What only the standby had goes to quarantine; the rest is copied.
            standby.has_all = active.has_all;
            active.data.in_sync = true;
            active.tell(Event::EngineInSync(true));
        }
        if std::mem::take(&mut active.data.wants_durable) {
            active.tell(Event::StandbyDurable);
        }
        if std::mem::take(&mut active.data.wants_drain) {
            active.tell(Event::Drained);
            active.data.active = false;
        }
        !before.in_sync || before.wants_durable || before.wants_drain
    }

    /// Whoever runs the application commits in every tick; a commit is acknowledged by rule.
    fn commit(&mut self) {
        for n in 0..2 {
            let node = &self.nodes[n];
            if !node.runs() || !node.data.active || !node.lease_holds(self.now(n)) {
                continue;
            }
            if node.data.in_sync && self.connected {
                // Both have it; and nobody has what it lacks.
                self.nodes[1 - n].has_all = node.has_all;
            } else if node.data.solo {
                let is_said = node.disk.solo;
                self.nodes[1 - n].has_all = false;
                if !is_said {
                    self.broken = self.broken.or(Some(Broken::SoloUnsaid(n)));
                }
            }
        }
    }

    pub(crate) fn judge(&mut self) {
        if self.holders().count() > 1 {
            self.broken = self.broken.or(Some(Broken::TwoHolders));
        }
        let serves = |n: &usize| self.nodes[*n].data.active && self.nodes[*n].runs();
        let lacking = self.holders().filter(serves).find(|n| !self.nodes[*n].has_all);
        self.broken = self.broken.or(lacking.map(Broken::Loss));
    }

    /// One node serves, the other follows in sync.
    pub(crate) fn is_well(&self) -> bool {
        let serves = |n: usize| {
            let grants = self.nodes[n].agent.as_ref().is_some_and(|agent| {
                let is_heard = agent.pulse.lease().lease_end().is_some();
                is_heard && agent.machine.state().was == Was::Active && !agent.machine.state().solo
            });
            let standby = &self.nodes[1 - n];
            grants
                && self.nodes[n].data.in_sync
                && !standby.disk.outdated
                && standby.disk.epoch == self.nodes[n].disk.epoch
        };
        let [holder] = self.holders().collect::<Vec<_>>()[..] else { return false };
        self.connected && serves(holder)
    }

    pub(crate) fn tell_story(&mut self, n: usize, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>4} s  {}  {}", self.tick, ["a", "b"][n], line()));
        }
    }

    /// What `n` sees when it probes for the VIP now.
    pub(crate) fn probe_result(&self, n: usize) -> VipProbe {
        if self.sees_holder(n) { VipProbe::PeerMac } else { VipProbe::Silent }
    }
}

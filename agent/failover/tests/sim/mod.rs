//! A deterministic world for two machines: cables, LAN, disks, kernels, agents that die or hang.
//!
//! Time advances by ticks. Every fault comes from the schedule or the seed, so a run replays. The
//! world checks in every tick that at most one node answers for the VIP, and that whoever does
//! holds every acknowledged commit.

mod engine;
mod node;
mod witness;

pub use node::Node;

use lockstep_failover::{Event, Path, Profile, Request, Role, SoloAfter, Time};
use lockstep_wire::Heartbeat;
use std::time::Duration;

pub const TICK_US: u64 = 10_000;

/// SplitMix64: small, seeded, good enough to shuffle faults.
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug, Clone)]
struct Flying {
    due: u64,
    to: usize,
    path: Path,
    key: u64,
    heartbeat: Heartbeat,
}

pub struct World {
    pub tick: u64,
    pub nodes: [Node; 2],
    pub chance: Chance,
    /// Direct cable, by sender.
    pub direct_cut: [bool; 2],
    pub lan_out_cut: [bool; 2],
    pub lan_in_cut: [bool; 2],
    /// One message in so many is lost; 0: none.
    pub loss: u64,
    /// One message in so many comes much later; 0: none.
    pub late: u64,
    /// The LAN is in two halves: both see their targets, none the other node.
    pub lan_split: bool,
    pub witness_cut: [bool; 2],
    pub held: witness::Held,
    strays: Vec<witness::Stray>,
    flying: Vec<Flying>,
    connected_since: Option<u64>,
    keys: u64,
    lives: u64,
    /// When within a period the targets are probed, ticks.
    pub probe_phase: u64,
    pub acknowledged: Vec<u64>,
    commits: u64,
    pub operator_accepted_loss: bool,
    pub trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, solo_after: SoloAfter, witness: bool) -> Self {
        let node = |id, role| Node::new(id, role, seed, solo_after, witness);
        let nodes = [node(1, Role::Primary), node(2, Role::Secondary)];
        Self {
            tick: 0,
            nodes,
            chance: Chance(seed),
            direct_cut: [false; 2],
            lan_out_cut: [false; 2],
            lan_in_cut: [false; 2],
            loss: 0,
            late: 200,
            lan_split: false,
            witness_cut: [false; 2],
            held: witness::Held::default(),
            strays: Vec::new(),
            flying: Vec::new(),
            connected_since: None,
            keys: 0,
            lives: 0,
            probe_phase: seed % 20,
            acknowledged: Vec::new(),
            commits: 0,
            operator_accepted_loss: false,
            trace: Vec::new(),
        }
    }

    /// For the lives of both agents that begin from now on, and the present ones anew.
    pub fn failback_after(&mut self, after: Option<Duration>) {
        let now = self.true_us();
        for node in &mut self.nodes {
            node.failback_after = after;
            node.kill_agent(true);
            node.start_agent(now);
        }
    }

    pub fn true_us(&self) -> u64 {
        self.tick * TICK_US
    }

    pub fn passes(&self, path: Path, from: usize) -> bool {
        match path {
            Path::Direct => !self.direct_cut[from],
            Path::Lan => !self.lan_split && !self.lan_out_cut[from] && !self.lan_in_cut[1 - from],
        }
    }

    pub fn targets_answer(&self, n: usize) -> bool {
        !self.lan_out_cut[n] && !self.lan_in_cut[n]
    }

    pub fn heal(&mut self) {
        self.direct_cut = [false; 2];
        self.lan_out_cut = [false; 2];
        self.lan_in_cut = [false; 2];
        self.loss = 0;
        self.lan_split = false;
        self.witness_cut = [false; 2];
    }

    pub fn holders(&self) -> Vec<usize> {
        let now = self.true_us();
        (0..2).filter(|&n| self.nodes[n].answers(now)).collect()
    }

    /// One tick of everything.
    pub fn step(&mut self) {
        self.tick += 1;
        self.deliver();
        for n in 0..2 {
            self.run_thread(n);
        }
        self.link();
        self.probes();
        self.witness();
        for n in 0..2 {
            self.run_machine(n);
        }
        self.commit();
        self.check();
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms * 1_000 / TICK_US {
            self.step();
        }
    }

    /// Runs until `done`, at most `ms`.
    pub fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..ms * 1_000 / TICK_US {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }

    pub fn send(&mut self, from: usize, paths: &[Path], heartbeat: Heartbeat) {
        let key = self.nodes[from].key;
        for &path in paths {
            let lost = self.loss != 0 && self.chance.one_in(self.loss);
            if key == 0 || lost || !self.passes(path, from) {
                continue;
            }
            // Mostly within a tick, sometimes much later.
            let is_late = self.late != 0 && self.chance.one_in(self.late);
            let delay = if is_late { self.chance.below(250) } else { self.chance.below(3) };
            self.flying.push(Flying { due: self.tick + delay, to: 1 - from, path, key, heartbeat });
        }
    }

    fn deliver(&mut self) {
        let tick = self.tick;
        let (due, flying) = std::mem::take(&mut self.flying).into_iter().partition(|m| m.due <= tick);
        self.flying = flying;
        let due: Vec<Flying> = due;
        for message in due {
            let at = self.true_us();
            let node = &mut self.nodes[message.to];
            if node.powered && node.accepts(message.key) {
                let at = node.local(at);
                let by_last_key = message.key != node.key;
                node.socket.push((message.path, message.heartbeat, at, by_last_key));
            }
        }
    }

    fn run_thread(&mut self, n: usize) {
        let sent = self.nodes[n].run_thread(self.tick * TICK_US);
        for (path, heartbeat) in sent {
            match path {
                Some(path) => self.send(n, &[path], heartbeat),
                None => self.send(n, &Path::ALL, heartbeat),
            }
        }
    }

    fn probes(&mut self) {
        let now = self.true_us();
        let every = Profile::Default.timing().period.as_micros() as u64 / TICK_US;
        for n in 0..2 {
            let due = (self.tick + self.probe_phase).is_multiple_of(every);
            let answered = if self.targets_answer(n) { 3 } else { 0 };
            let sent_at = self.nodes[n].local(now);
            if due && self.nodes[n].runs() {
                self.nodes[n].inbox.push(Event::TargetsMajority { sent_at, answered, of: 3 });
            }
            if std::mem::take(&mut self.nodes[n].announced) && self.passes(Path::Lan, n) {
                let received_at = self.nodes[1 - n].local(now);
                self.nodes[1 - n].inbox.push(Event::PeerAnnounced { received_at });
            }
            let heard = self.passes(Path::Lan, n) && self.passes(Path::Lan, 1 - n);
            let peer_answers = self.nodes[1 - n].answers(now) && heard;
            self.nodes[n].watch_vip(peer_answers);
        }
    }

    fn run_machine(&mut self, n: usize) {
        let now = self.true_us();
        let lines = self.nodes[n].run_machine(now, &mut self.chance);
        let at = now / 1_000;
        self.trace.extend(lines.into_iter().map(|line| format!("{at:>7} ms {}: {line}", ["a", "b"][n])));
    }

    fn check(&self) {
        let holders = self.holders();
        assert!(holders.len() < 2, "two nodes answer for the VIP at {} ms", self.true_us() / 1_000);
        if self.operator_accepted_loss {
            return;
        }
        for n in holders {
            let log = &self.nodes[n].log;
            let lost: Vec<_> = self.acknowledged.iter().filter(|id| !log.contains(id)).collect();
            assert!(lost.is_empty(), "{} serves without acknowledged {lost:?}", ["a", "b"][n]);
        }
    }

    pub fn request(&mut self, n: usize, request: Request) -> Result<(), lockstep_failover::Refusal> {
        let now = self.true_us();
        let lines = self.nodes[n].request(now, request, &mut self.chance)?;
        self.trace.extend(lines);
        Ok(())
    }

    /// One node serves, the other follows in sync.
    pub fn is_well(&self) -> bool {
        (0..2).any(|n| self.serves_in_sync(n))
    }

    pub fn serves_in_sync(&self, n: usize) -> bool {
        let [mine, theirs] = [self.nodes[n].status(), self.nodes[1 - n].status()];
        mine.is_some_and(|status| status.in_sync && status.state.name() == "active")
            && theirs.is_some_and(|status| status.in_sync && status.state.name() == "standby")
            && self.holders() == [n]
    }

    pub fn state(&self, n: usize) -> &'static str {
        self.nodes[n].status().map_or("off", |status| status.state.name())
    }

    pub fn show(&self) -> String {
        let last = self.trace.len().saturating_sub(120);
        let states: Vec<String> = (0..2)
            .map(|n| match self.nodes[n].status() {
                Some(s) => {
                    format!("{}: {} {} row {} {}", ["a", "b"][n], s.state.name(), s.epoch, s.row, s.evidence)
                }
                None => "off".to_owned(),
            })
            .collect();
        format!("{}\n{}", self.trace[last..].join("\n"), states.join("\n"))
    }
}

/// For `Time` arithmetic in the world.
pub fn at(us: u64) -> Time {
    Time::from_us(us)
}

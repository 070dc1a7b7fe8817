//! When two states are the same: their futures are.
//!
//! Moments count relative to the present of the clock they are of. What lies back further than any span
//! the machine adds to a moment (12.5 s, for a LAN that is cut off; minutes and hours of the limits of handovers never pass) is over whatever its age, and two such
//! moments are never compared with each other any more; they are all of one age. A stall of the heartbeat
//! thread extends a deadline by itself, so it extends that age too; a thread that hangs for longer than
//! that age hangs for that age. Numbers that only grow
//! (sequences, sessions, revisions) count by how they compare with the newest known, not by value.

use crate::node::{Agent, Command, Node};
use crate::world::World;
use lockstep_failover::{Event, Time};
use lockstep_wire::Heartbeat;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Older is over.
const OVER_US: i128 = 13_500_000;

/// A hasher that takes moments relative to the present, see `Time` and `Pulse`.
struct Relative {
    inner: DefaultHasher,
    own: Time,
    peer: Time,
    over: i128,
}

impl Relative {
    fn age(&mut self, now: Time, moment: i128) {
        let age = i128::from(now.as_us()) - moment;
        self.inner.write_i64(age.min(self.over) as i64);
    }
}

impl Hasher for Relative {
    fn finish(&self) -> u64 {
        self.inner.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.inner.write(bytes);
    }

    fn write_u128(&mut self, own: u128) {
        self.age(self.own, own as i128);
    }

    fn write_i128(&mut self, peer: i128) {
        self.age(self.peer, peer);
    }
}

impl World {
    /// The state's key; the budget left is not part of it.
    pub(crate) fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for n in 0..2 {
            let inner = std::mem::take(&mut hasher);
            let mut relative =
                Relative { inner, own: self.now(n), peer: self.now(1 - n), over: self.over(n) };
            self.hash_node(n, &mut relative);
            hasher = relative.inner;
        }
        (self.cuts, self.holding, self.arriving, self.connected, self.broken).hash(&mut hasher);
        if let Some((from, since, held)) = &self.held {
            (from, self.tick - since).hash(&mut hasher);
            let to = 1 - from;
            let inner = std::mem::take(&mut hasher);
            let mut relative =
                Relative { inner, own: self.now(to), peer: self.now(*from), over: self.over(to) };
            for held in held {
                // Which later connection it can still be opened after.
                let opens = self.nodes[to].agent.as_ref().map(|agent| agent.keys.map(|key| key == held.key));
                (held.path, opens).hash(&mut relative);
                self.hash_heartbeat(to, &held.heartbeat, &mut relative);
            }
            hasher = relative.inner;
        }
        hasher.finish()
    }

    /// From which age on a moment is over for node `n`.
    fn over(&self, n: usize) -> i128 {
        let stalled = self.nodes[n].agent.as_ref().map_or(Duration::ZERO, |agent| agent.stalled);
        OVER_US + stalled.as_micros() as i128
    }

    fn hash_node(&self, n: usize, to: &mut Relative) {
        let Node { powered, disk, vip, guard_end, flushed, data, has_all, question, .. } = &self.nodes[n];
        let node = &self.nodes[n];
        (powered, disk, vip, data, has_all, question).hash(to);
        (*guard_end).max(self.now(n)).hash(to);
        flushed.map(|at| self.tick - at).hash(to);
        (node.frozen, node.paused, node.stuck, node.beat_hangs, node.slow_disk, node.app_broken).hash(to);
        let Some(agent) = &node.agent else { return 0.hash(to) };
        (&agent.machine, &agent.pulse, agent.app_started, agent.hung_since).hash(to);
        self.hash_waiting(n, agent, to);
    }

    /// What waits for one of the threads.
    fn hash_waiting(&self, n: usize, agent: &Agent, to: &mut Relative) {
        // Words of an earlier life of the peer echo nothing to this one.
        let peer = self.nodes[1 - n].session();
        agent.seen.map(|(session, _)| session == peer).hash(to);
        (agent.keys[0] != 0, agent.keys[0] == self.connections).hash(to);
        for datagram in &agent.socket {
            (datagram.path, datagram.at, datagram.key == agent.keys[0]).hash(to);
            self.hash_heartbeat(n, &datagram.heartbeat, to);
        }
        for command in &agent.commands {
            match command {
                Command::Speak(voice) => voice.hash(to),
                Command::Probe(at) => at.hash(to),
                Command::Pings => 1.hash(to),
            }
        }
        if let Some(pending) = &agent.persisting {
            pending.state().hash(to);
        }
        for event in &agent.inbox {
            self.hash_event(n, event, to);
        }
        for (due, event) in &agent.effects {
            due.saturating_sub(self.tick).hash(to);
            self.hash_event(n, event, to);
        }
        let probing = agent
            .probing
            .map(|probing| (probing.due.saturating_sub(self.tick), probing.sent_at, probing.answered));
        (probing, agent.pings.map(|(left, due)| (left, due.saturating_sub(self.tick)))).hash(to);
    }

    fn hash_event(&self, n: usize, event: &Event, to: &mut Relative) {
        std::mem::discriminant(event).hash(to);
        match event {
            Event::HeartbeatReceived { path, heartbeat, received_at } => {
                (path, received_at).hash(to);
                self.hash_heartbeat(n, heartbeat, to);
            }
            Event::PeerAnnounced { received_at: at } | Event::Stalled { until: at, .. } => at.hash(to),
            Event::Leftovers { vip, lease_left } => (vip, lease_left).hash(to),
            Event::HeartbeatSet { last_grant_sent, .. } => last_grant_sent.hash(to),
            Event::LeaseLapsed(lapse) => lapse.hash(to),
            Event::TargetsMajority { sent_at, answered, .. } => (sent_at, answered).hash(to),
            Event::VipProbed { sent_at, result } => (sent_at, result).hash(to),
            Event::EngineInSync(is) | Event::LinkKeys(is) | Event::CopyComplete(is) => is.hash(to),
            _ => {}
        }
        if let Event::Stalled { lasted, .. } = event {
            lasted.hash(to);
        }
    }

    /// A heartbeat on its way to node `n`.
    fn hash_heartbeat(&self, n: usize, heartbeat: &Heartbeat, to: &mut Relative) {
        let Some(agent) = &self.nodes[n].agent else { return };
        let order = agent.seen.map(|seen| (heartbeat.session, heartbeat.sequence).cmp(&seen));
        let is_of_this_life = heartbeat.session == self.nodes[1 - n].session();
        let echoes = heartbeat.echo_session == self.nodes[n].session();
        (order, is_of_this_life, echoes, heartbeat.is_echo, heartbeat.epoch()).hash(to);
        to.write_i128(i128::from(heartbeat.sent_us));
        Time::from_us(heartbeat.echo_sent_us).hash(to);
        (heartbeat.active, heartbeat.solo, heartbeat.outdated, heartbeat.grant_us).hash(to);
        (heartbeat.intent, heartbeat.intent_counter, heartbeat.fit, heartbeat.hands_off).hash(to);
    }
}

/// For the checker: the key, and what may still happen.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.key(), self.budget).hash(state);
    }
}

/// Same key, same future.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        (self.key(), self.budget) == (other.key(), other.budget)
    }
}

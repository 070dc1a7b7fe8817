//! The data path of the world: commits, their acknowledgement, and what the standby holds.

use super::{Node, TICK_US, World};
use lockstep_failover::{Event, Path};

impl World {
    /// The data connection, and with it the heartbeat keys.
    pub(super) fn link(&mut self) {
        let way = |path| self.passes(path, 0) && self.passes(path, 1);
        let can = self.nodes.iter().all(Node::runs) && Path::ALL.into_iter().any(way);
        // A restarted agent begins a new connection, however short it was away.
        let lives = self.nodes.iter().map(Node::lives).sum();
        if !can || std::mem::replace(&mut self.lives, lives) != lives {
            self.connected_since = None;
        } else if self.connected_since.is_none() {
            self.connected_since = Some(self.tick);
        }
        // 200 ms for the handshake.
        let up = self.connected_since.is_some_and(|since| self.tick - since >= 200_000 / TICK_US);
        if up && self.connected_since.is_some_and(|since| self.tick - since == 200_000 / TICK_US) {
            self.keys += 1;
            for node in &mut self.nodes {
                node.add_key(self.keys);
                node.inbox.push(Event::LinkKeys(true));
            }
        }
        for n in 0..2 {
            self.follow(n, up);
        }
    }

    /// Node `n`, when active: does its peer follow?
    fn follow(&mut self, n: usize, up: bool) {
        let (active, standby) = if n == 0 {
            let (a, b) = self.nodes.split_at_mut(1);
            (&mut a[0], &mut b[0])
        } else {
            let (b, a) = self.nodes.split_at_mut(1);
            (&mut a[0], &mut b[0])
        };
        if !active.runs() || !active.engine.active {
            return;
        }
        let follows = up && standby.runs() && standby.engine.follows == Some(active.engine.epoch);
        if follows && !active.engine.in_sync {
            // What only the standby had goes to quarantine; the rest is copied.
            active.engine.resync += 1;
            if active.engine.resync < 300_000 / TICK_US {
                return;
            }
            standby.log.clone_from(&active.log);
            active.engine.in_sync = true;
            active.inbox.push(Event::EngineInSync(true));
        } else if !follows && active.engine.in_sync {
            active.engine.in_sync = false;
            active.engine.resync = 0;
            active.inbox.push(Event::EngineInSync(false));
        }
        if active.engine.in_sync {
            standby.log.clone_from(&active.log);
            if std::mem::take(&mut active.engine.wants_durable) {
                active.inbox.push(Event::StandbyDurable);
            }
            if std::mem::take(&mut active.engine.wants_drain) {
                active.inbox.push(Event::Drained);
                active.engine.active = false;
            }
        }
    }

    /// A commit each 50 ms on whoever runs the application, acknowledged by rule.
    pub(super) fn commit(&mut self) {
        let now = self.true_us();
        for n in 0..2 {
            let node = &mut self.nodes[n];
            if !node.runs() || !node.engine.active {
                continue;
            }
            if self.tick.is_multiple_of(5) && node.answers(now) {
                self.commits += 1;
                node.log.push(self.commits);
                node.engine.waiting.push(self.commits);
            }
            // The barrier checks the lease's end before each release.
            let released = node.lease_holds(now) && (node.engine.solo || node.engine.in_sync);
            if !released {
                continue;
            }
            let waiting = std::mem::take(&mut node.engine.waiting);
            if node.engine.in_sync {
                for &id in &waiting {
                    if !self.nodes[1 - n].log.contains(&id) {
                        self.nodes[1 - n].log.push(id);
                    }
                }
            }
            self.acknowledged.extend(waiting);
        }
    }
}

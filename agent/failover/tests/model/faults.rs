//! Which choices a state offers, and what each does.

use crate::choice::{Choice, Fault, Mend};
use crate::node::Node;
use crate::world::{Cuts, World};
use lockstep_failover::{Event, Request};

impl World {
    /// Everything that may happen next.
    pub(crate) fn choices(&self, choices: &mut Vec<Choice>) {
        choices.push(Choice::Tick);
        self.mends(choices);
        if self.budget == 0 {
            return;
        }
        for &fault in self.set.faults {
            for n in 0..if fault.is_shared() { 1 } else { 2 } {
                if self.may(fault, n) {
                    choices.push(Choice::Fault(fault, n));
                }
            }
        }
    }

    /// What ends the faults that are there.
    pub(crate) fn mends(&self, choices: &mut Vec<Choice>) {
        let mut push = |is: bool, mend| {
            if is {
                choices.push(Choice::Mend(mend));
            }
        };
        push(self.cuts.direct != [false; 2], Mend::Direct);
        push(self.cuts.split, Mend::Split);
        push(self.held.is_some() && !self.arriving && self.holding.is_none(), Mend::Arrive);
        for (n, node) in self.nodes.iter().enumerate() {
            push(self.cuts.lan_out[n] || self.cuts.lan_in[n], Mend::Lan(n));
            push(node.agent.is_none(), Mend::Start(n));
            push(node.frozen || node.stuck || node.beat_hangs || node.paused, Mend::Thaw(n));
            push(node.slow_disk, Mend::Disk(n));
            push(node.app_broken, Mend::App(n));
        }
    }

    /// No fault is there, and none is under way.
    pub(crate) fn is_mended(&self) -> bool {
        let sound = |node: &Node| {
            let hangs = node.frozen || node.stuck || node.beat_hangs || node.paused;
            node.agent.is_some() && !(hangs || node.slow_disk || node.app_broken)
        };
        self.cuts == Cuts::default()
            && self.holding.is_none()
            && self.held.is_none()
            && self.nodes.iter().all(sound)
    }

    /// Every cable is whole and this node sound, and the other one is away: off, hung, or stuck.
    pub(crate) fn left_alone(&self) -> Option<usize> {
        let is_away = |node: &Node| {
            node.agent.is_none() || node.frozen || node.stuck || node.beat_hangs || node.slow_disk
        };
        let alone = (0..2).find(|&n| !is_away(&self.nodes[n]) && is_away(&self.nodes[1 - n]))?;
        let node = &self.nodes[alone];
        if node.disk.epoch == lockstep_wire::Epoch::NONE {
            // A pair that never served waits for its other node: there is nothing to serve yet.
            return None;
        }
        let quiet = self.cuts == Cuts::default() && self.holding.is_none() && self.held.is_none();
        (quiet && !(node.paused || node.app_broken || self.nodes[1 - alone].paused)).then_some(alone)
    }

    fn may(&self, fault: Fault, n: usize) -> bool {
        let node = &self.nodes[n];
        let writes = node.agent.as_ref().is_some_and(|agent| agent.persisting.is_some());
        let all_out = self.cuts.direct[n] && self.cuts.lan_out[n];
        let all_in = self.cuts.direct[1 - n] && self.cuts.lan_in[n];
        match fault {
            Fault::CutDirect => self.cuts.direct != [true; 2],
            Fault::CutDirectFrom => !self.cuts.direct[n],
            Fault::CutLan => !(self.cuts.lan_out[n] && self.cuts.lan_in[n]),
            Fault::CutLanOut => !self.cuts.lan_out[n],
            Fault::CutLanIn => !self.cuts.lan_in[n],
            Fault::Isolate => !(all_out && all_in),
            Fault::Mute => !all_out,
            Fault::Deafen => !all_in,
            Fault::PowerOff => node.powered,
            Fault::PowerOffWritten => node.powered && writes,
            Fault::Kill => node.agent.is_some(),
            Fault::KillWritten => writes,
            Fault::Freeze => node.agent.is_some() && !node.frozen,
            Fault::Stick => node.agent.is_some() && !node.frozen && !node.stuck,
            Fault::HangBeat => node.agent.is_some() && !node.frozen && !node.beat_hangs,
            Fault::SlowDisk => node.agent.is_some() && !node.slow_disk,
            Fault::Delay | Fault::Duplicate => node.runs() && self.held.is_none() && self.holding.is_none(),
            Fault::BreakApp => node.runs() && !node.app_broken,
            Fault::Switchover | Fault::Failover => node.runs(),
            Fault::AcceptLoss => node.runs() && self.is_honest(n),
            Fault::SplitLan => !self.cuts.split,
            Fault::Pause => node.powered && !node.paused,
            Fault::Flush => node.powered && node.flushed.is_none(),
        }
    }

    /// The operator who accepts loss on `n` has looked at the other node: it holds nothing and is not
    /// about to.
    fn is_honest(&self, n: usize) -> bool {
        let other = &self.nodes[1 - n];
        !(other.answers(self.now(1 - n)) || other.data.active)
    }

    /// Makes a choice; false when it changes nothing (a request that is refused).
    pub(crate) fn make(&mut self, choice: Choice) -> bool {
        match choice {
            Choice::Tick => self.pass(),
            Choice::Mend(mend) => {
                self.mend(mend);
                self.judge();
            }
            Choice::Fault(fault, n) => {
                if self.budget == 0 || !self.may(fault, n) {
                    return false;
                }
                self.budget -= 1;
                return self.fail(fault, n);
            }
        }
        true
    }

    fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Direct => self.cuts.direct = [false; 2],
            Mend::Split => self.cuts.split = false,
            Mend::Arrive => self.arriving = true,
            Mend::Lan(n) => (self.cuts.lan_out[n], self.cuts.lan_in[n]) = (false, false),
            Mend::Start(n) => {
                let now = self.now(n);
                self.nodes[n].powered = true;
                self.nodes[n].start_agent(self.set, now);
            }
            Mend::Thaw(n) => {
                let node = &mut self.nodes[n];
                (node.frozen, node.stuck, node.beat_hangs, node.paused) = (false, false, false, false);
            }
            Mend::Disk(n) => self.nodes[n].slow_disk = false,
            Mend::App(n) => {
                let node = &mut self.nodes[n];
                node.app_broken = false;
                if node.agent.as_ref().is_some_and(|agent| agent.app_started) {
                    node.tell(Event::AppHealthy);
                }
            }
        }
    }

    fn fail(&mut self, fault: Fault, n: usize) -> bool {
        let tick = self.tick;
        let cuts = &mut self.cuts;
        let node = &mut self.nodes[n];
        match fault {
            Fault::CutDirect => cuts.direct = [true; 2],
            Fault::CutDirectFrom => cuts.direct[n] = true,
            Fault::CutLan => (cuts.lan_out[n], cuts.lan_in[n]) = (true, true),
            Fault::CutLanOut => cuts.lan_out[n] = true,
            Fault::CutLanIn => cuts.lan_in[n] = true,
            Fault::Isolate => {
                cuts.direct = [true; 2];
                (cuts.lan_out[n], cuts.lan_in[n]) = (true, true);
            }
            Fault::Mute => (cuts.direct[n], cuts.lan_out[n]) = (true, true),
            Fault::Deafen => (cuts.direct[1 - n], cuts.lan_in[n]) = (true, true),
            Fault::PowerOff => node.power_off(false),
            Fault::PowerOffWritten => node.power_off(true),
            Fault::Kill => node.end_agent(false),
            Fault::KillWritten => node.end_agent(true),
            Fault::Freeze => node.frozen = true,
            Fault::Stick => node.stuck = true,
            Fault::HangBeat => node.beat_hangs = true,
            Fault::SlowDisk => node.slow_disk = true,
            Fault::Delay => self.holding = Some((n, false)),
            Fault::Duplicate => self.holding = Some((n, true)),
            Fault::BreakApp => {
                node.app_broken = true;
                if node.agent.as_ref().is_some_and(|agent| agent.app_started) {
                    node.tell(Event::AppFailed("it ended three times".to_owned()));
                }
            }
            Fault::Switchover => return self.request(n, Request::Switchover).is_ok(),
            Fault::Failover => return self.request(n, Request::Failover { accept_loss: false }).is_ok(),
            Fault::AcceptLoss => return self.request(n, Request::Failover { accept_loss: true }).is_ok(),
            Fault::SplitLan => cuts.split = true,
            Fault::Pause => node.paused = true,
            Fault::Flush => node.flushed = Some(tick),
        }
        true
    }
}

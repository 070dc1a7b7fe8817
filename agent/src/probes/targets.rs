//! Probes the target list: is this node still part of the LAN?
//!
//! Path: [`TargetProbe::round`] -> evidence for rule R2 and the decision table. ARP and
//! neighbour discovery through the VIP's interface, because a firewall or a full routing table
//! does not answer for them. An answer carries no number, so it counts for the *oldest*
//! question that is still open: late answers never make evidence newer than it is. A question whose
//! target answered something later and then kept quiet until the next round was lost: were it kept,
//! each lost question would make all later evidence older by a period, for ever. What a majority
//! permits is not decided here.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::neighbours::Neighbours;
use crate::clock::boottime_us;

/// Questions older than this are given up: no device of a LAN answers so late.
const FORGET_US: u64 = 1_000_000;
/// Open questions kept for one target; more are not sent within [`FORGET_US`].
const OPEN_MAX: usize = 64;

/// What one round of probes has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// When its questions were sent, CLOCK_BOOTTIME.
    pub sent_us: u64,
    /// Who answered, and when the question was sent that this proves to have been answered.
    pub answered: Vec<(IpAddr, u64)>,
    /// How many were asked.
    pub targets: usize,
}

impl Round {
    /// More than half of the list has answered.
    pub fn has_majority(&self) -> bool {
        self.answered.len() * 2 > self.targets
    }

    /// The newest send time for which a majority has answered; the `g` of rule R2.
    pub fn majority_sent_us(&self) -> Option<u64> {
        let mut sent: Vec<_> = self.answered.iter().map(|(_, sent_us)| *sent_us).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(self.targets / 2).copied()
    }
}

struct Target {
    address: IpAddr,
    open: VecDeque<u64>,
    /// It answered in the last round, and nothing came from it afterwards.
    answered: bool,
}

/// Probes one list of targets through one interface.
pub struct TargetProbe {
    neighbours: Neighbours,
    own: Option<IpAddr>,
    targets: Vec<Target>,
}

impl TargetProbe {
    /// Opens the sockets it keeps; CAP_NET_RAW. `own` is the node's (not a virtual) address on
    /// `interface`: some devices answer only an asker with an address.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing.
    pub fn open(interface: &str, own: Option<IpAddr>, targets: &[IpAddr]) -> io::Result<Self> {
        let open = VecDeque::with_capacity(OPEN_MAX);
        let target = |&address| Target { address, open: open.clone(), answered: false };
        let targets = targets.iter().map(target).collect();
        Ok(Self { neighbours: Neighbours::open(interface)?, own, targets })
    }

    /// Asks every target once and waits until all have answered, at most `timeout`.
    ///
    /// # Errors
    /// The interface does not exist or does not send (it may be down): nobody answered.
    pub fn round(&mut self, timeout: Duration) -> io::Result<Round> {
        let link = self.neighbours.link()?;
        // Answers that came since the last round close their questions, and are not of this one.
        while let Some(claim) = self.neighbours.next_claim(0)? {
            self.close_question(claim.address, false);
        }
        let sent_us = boottime_us();
        for target in &mut self.targets {
            if std::mem::take(&mut target.answered) {
                target.open.clear();
            }
            while target.open.front().is_some_and(|&sent| sent + FORGET_US < sent_us) {
                target.open.pop_front();
            }
            if target.open.len() < OPEN_MAX {
                target.open.push_back(sent_us);
            }
            self.neighbours.ask(&link, self.own, target.address)?;
        }
        let deadline_us = sent_us + timeout.as_micros() as u64;
        let mut answered: Vec<(IpAddr, u64)> = Vec::with_capacity(self.targets.len());
        while answered.len() < self.targets.len() {
            let Some(claim) = self.neighbours.next_claim(deadline_us)? else { break };
            if claim.mac == link.mac {
                continue;
            }
            let Some(question_us) = self.close_question(claim.address, true) else { continue };
            match answered.iter_mut().find(|(address, _)| *address == claim.address) {
                Some((_, newest)) => *newest = question_us,
                None => answered.push((claim.address, question_us)),
            }
        }
        Ok(Round { sent_us, answered, targets: self.targets.len() })
    }

    fn close_question(&mut self, address: IpAddr, in_time: bool) -> Option<u64> {
        let target = self.targets.iter_mut().find(|target| target.address == address)?;
        target.answered = in_time;
        target.open.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::testnet::{Namespace, set_down};

    fn list(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn a_majority_of_both_families_answers() {
        let (node, _peer) = Namespace::two();
        node.run(|| {
            let targets = list(&["10.0.0.2", "10.0.0.99", "fd00::2"]);
            for own in [None, list(&["10.0.0.1"]).pop(), list(&["fd00::1"]).pop()] {
                let mut probe = TargetProbe::open("eth0", own, &targets).expect("CAP_NET_RAW");
                // One of them never answers, so each round takes its whole time.
                let round = probe.round(Duration::from_millis(200)).expect("asks");
                let mut answered: Vec<_> = round.answered.iter().map(|(address, _)| *address).collect();
                answered.sort();
                assert_eq!(answered, list(&["10.0.0.2", "fd00::2"]), "asked from {own:?}");
                assert!(round.has_majority());
                assert_eq!(round.majority_sent_us(), Some(round.sent_us));
            }
        });
    }

    #[test]
    fn without_a_cable_nobody_answers() {
        let (node, peer) = Namespace::two();
        peer.run(|| set_down("eth0"));
        node.run(|| {
            let mut probe = TargetProbe::open("eth0", None, &list(&["10.0.0.2"])).expect("CAP_NET_RAW");
            let round = probe.round(Duration::from_millis(20)).expect("asks");
            assert_eq!(round.answered, []);
            assert!(!round.has_majority());
            assert_eq!(round.majority_sent_us(), None);
        });
    }

    #[test]
    fn a_late_answer_counts_for_the_question_it_answers() {
        let (node, _peer) = Namespace::two();
        node.run(|| {
            let mut probe = TargetProbe::open("eth0", None, &list(&["10.0.0.2"])).expect("CAP_NET_RAW");
            // A question whose answer is still on its way.
            let earlier = boottime_us() - 300_000;
            probe.targets[0].open.push_back(earlier);
            let round = probe.round(Duration::from_secs(1)).expect("asks");
            assert_eq!(round.majority_sent_us(), Some(earlier));
            assert!(round.sent_us > earlier);
        });
    }

    #[test]
    fn a_lost_question_does_not_make_later_evidence_old() {
        let (node, _peer) = Namespace::two();
        node.run(|| {
            let mut probe = TargetProbe::open("eth0", None, &list(&["10.0.0.2"])).expect("CAP_NET_RAW");
            for _ in 0..3 {
                probe.targets[0].open.push_back(boottime_us() - 300_000);
            }
            probe.round(Duration::from_secs(1)).expect("asks");
            let round = probe.round(Duration::from_secs(1)).expect("asks");
            assert_eq!(round.majority_sent_us(), Some(round.sent_us));
        });
    }

    #[test]
    fn the_majority_is_as_old_as_its_oldest_needed_answer() {
        let [a, b, c]: [IpAddr; 3] = list(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).try_into().expect("three");
        let mut round = Round { sent_us: 9, answered: vec![(a, 9), (b, 5), (c, 7)], targets: 3 };
        assert_eq!(round.majority_sent_us(), Some(7));
        round.answered.pop();
        assert_eq!(round.majority_sent_us(), Some(5));
        round.answered.pop();
        assert_eq!((round.majority_sent_us(), round.has_majority()), (None, false));
    }
}

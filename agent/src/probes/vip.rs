//! Who answers for the virtual addresses: nobody, the peer, or a stranger.
//!
//! Path: [`VipProbe::ask`] before a promotion, [`VipProbe::watch`] while serving and standing
//! by. Asks without an own address, so that nobody's neighbour table changes. Telling the
//! peer's hardware address from a foreign one is the failover machine's.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::neighbours::Neighbours;
use crate::clock::boottime_us;

/// Probes before a promotion.
pub const PROBES: u32 = 5;
/// Between two of them, microseconds.
pub const PROBE_GAP_US: u64 = 10_000;

/// Somebody else says that a virtual address is his.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignClaim {
    /// The virtual address.
    pub address: IpAddr,
    /// His hardware address.
    pub mac: [u8; 6],
    /// When it was read, CLOCK_BOOTTIME.
    pub seen_us: u64,
}

/// Probes and watches the virtual addresses of one pair on one interface.
pub struct VipProbe {
    neighbours: Neighbours,
    vips: Vec<IpAddr>,
}

impl VipProbe {
    /// Opens the sockets it keeps; CAP_NET_RAW.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing.
    pub fn open(interface: &str, vips: &[IpAddr]) -> io::Result<Self> {
        Ok(Self { neighbours: Neighbours::open(interface)?, vips: vips.to_vec() })
    }

    /// Asks once for every address and waits at most `timeout` for the first answer; none:
    /// silent. What had arrived before counts too.
    ///
    /// # Errors
    /// The interface does not exist or does not send: silence was not shown.
    pub fn ask(&mut self, timeout: Duration) -> io::Result<Option<ForeignClaim>> {
        let link = self.neighbours.link()?;
        for vip in &self.vips {
            self.neighbours.ask(&link, None, *vip)?;
        }
        self.wait(link.mac, timeout)
    }

    /// [`PROBES`] questions, [`PROBE_GAP_US`] apart; the first answer ends it.
    ///
    /// # Errors
    /// As [`VipProbe::ask`].
    pub fn ask_repeatedly(&mut self) -> io::Result<Option<ForeignClaim>> {
        for _ in 0..PROBES {
            if let Some(claim) = self.ask(Duration::from_micros(PROBE_GAP_US))? {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    /// Waits at most `timeout` for anybody else to speak for one of the addresses: an answer,
    /// an announcement, or a question asked from it.
    ///
    /// # Errors
    /// The interface does not exist.
    pub fn watch(&mut self, timeout: Duration) -> io::Result<Option<ForeignClaim>> {
        let link = self.neighbours.link()?;
        self.wait(link.mac, timeout)
    }

    fn wait(&self, own_mac: [u8; 6], timeout: Duration) -> io::Result<Option<ForeignClaim>> {
        let deadline_us = boottime_us() + timeout.as_micros() as u64;
        while let Some(claim) = self.neighbours.next_claim(deadline_us)? {
            if claim.mac != own_mac && self.vips.contains(&claim.address) {
                let (address, mac) = (claim.address, claim.mac);
                return Ok(Some(ForeignClaim { address, mac, seen_us: boottime_us() }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::announce::Announcer;
    use crate::effects::route::Route;
    use crate::effects::testnet::{Namespace, add_address};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn vips() -> [IpAddr; 2] {
        ["10.0.0.10", "fd00::10"].map(|text| text.parse().expect("an address"))
    }

    fn probe(node: &Namespace, vips: &[IpAddr]) -> VipProbe {
        node.run(|| VipProbe::open("eth0", vips).expect("CAP_NET_RAW"))
    }

    fn mac(node: &Namespace) -> [u8; 6] {
        node.run(|| Route::open().and_then(|mut route| route.link("eth0")).expect("eth0").mac)
    }

    #[test]
    fn an_address_nobody_has_is_silent() {
        let (node, _peer) = Namespace::two();
        let mut probe = probe(&node, &vips());
        assert_eq!(probe.ask_repeatedly().expect("asks"), None);
    }

    #[test]
    fn the_holder_answers_with_its_hardware_address() {
        for (vip, prefix) in vips().into_iter().zip([32, 128]) {
            let (node, peer) = Namespace::two();
            peer.run(|| add_address("eth0", vip, prefix));
            let claim = probe(&node, &[vip]).ask(PATIENCE).expect("asks").expect("is answered");
            assert_eq!((claim.address, claim.mac), (vip, mac(&peer)));
        }
    }

    #[test]
    fn an_own_copy_of_the_address_is_not_foreign() {
        let (node, _peer) = Namespace::two();
        node.run(|| add_address("eth0", vips()[0], 32));
        assert_eq!(probe(&node, &vips()).ask_repeatedly().expect("asks"), None);
    }

    #[test]
    fn a_foreign_announcement_is_noticed_while_watching() {
        for vip in vips() {
            let (node, peer) = Namespace::two();
            let mut probe = probe(&node, &[vip]);
            assert_eq!(probe.watch(Duration::ZERO).expect("watches"), None);
            peer.run(|| {
                let mut announcer = Announcer::open("eth0", &[vip]).expect("CAP_NET_RAW");
                announcer.announce_now(u64::MAX).expect("announces");
            });
            let claim = probe.watch(PATIENCE).expect("watches").expect("is noticed");
            assert_eq!((claim.address, claim.mac), (vip, mac(&peer)));
        }
    }
}

//! Tells the network where a virtual address is now: gratuitous ARP and neighbour advertisement.
//!
//! Path: lease opened -> [`Announcer::announce_now`], repeated by [`SCHEDULE_US`] and then each
//! [`REPEAT_US`], and again after each healed conflict. Its packet socket bypasses the guard,
//! so every announcement is given the lease's end and is not sent after it. It does not decide
//! when to announce.

use std::io;
use std::net::IpAddr;

use super::frames::{advertisement, arp_request};
use super::packet::{PacketSocket, Receive};
use super::route::Route;
use crate::clock::boottime_us;

/// When to announce, microseconds after the lease opened. The third and later ones exist for
/// receivers that ignore a change within a second of their last (Linux's `locktime`).
pub const SCHEDULE_US: [u64; 5] = [0, 50_000, 200_000, 1_100_000, 5_000_000];
/// How long after the last announcement the next follows, once the schedule is done. Switches
/// forget after 300 s or less.
pub const REPEAT_US: u64 = 30_000_000;

const _: () = assert!(SCHEDULE_US[3] > 1_000_000, "one announcement after locktime has passed");

/// When announcement number `done` (the first is 0) is due, microseconds after the lease opened.
pub fn due_after_us(done: u32) -> u64 {
    let done = done as usize;
    match SCHEDULE_US.get(done) {
        Some(due) => *due,
        None => {
            let repeats = (done - SCHEDULE_US.len() + 1) as u64;
            SCHEDULE_US[SCHEDULE_US.len() - 1] + repeats * REPEAT_US
        }
    }
}

/// Why nothing was announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The lease has ended.
    #[error("the lease ended {late_us} us ago: its addresses are not announced")]
    LeaseEnded {
        /// How long ago.
        late_us: u64,
    },
    /// The interface is missing, has no hardware address or does not send.
    #[error("cannot announce {address} on {interface}: {source}")]
    Send {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Announces the virtual addresses of one pair on one interface.
pub struct Announcer {
    interface: String,
    vips: Vec<IpAddr>,
    socket: PacketSocket,
    route: Route,
}

impl Announcer {
    /// Opens the sockets it keeps, in this thread's network namespace; CAP_NET_RAW.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing.
    pub fn open(interface: &str, vips: &[IpAddr]) -> io::Result<Self> {
        let socket = PacketSocket::open(Receive::Nothing)?;
        Ok(Self { interface: interface.to_owned(), vips: vips.to_vec(), socket, route: Route::open()? })
    }

    /// Announces every address once, with the interface's present hardware address.
    ///
    /// # Errors
    /// The lease, which ends at `lease_end_us` (CLOCK_BOOTTIME), has ended; or the interface
    /// does not send. The other addresses are still announced.
    pub fn announce_now(&mut self, lease_end_us: u64) -> Result<(), AnnounceError> {
        let mut first_error = None;
        for at in 0..self.vips.len() {
            if let Err(error) = self.announce(self.vips[at], lease_end_us) {
                first_error = first_error.or(Some(error));
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn announce(&mut self, address: IpAddr, lease_end_us: u64) -> Result<(), AnnounceError> {
        let interface = &self.interface;
        let failed = |source| AnnounceError::Send { address, interface: interface.clone(), source };
        let link = self.route.link(interface).map_err(failed)?;
        let frame = match address {
            IpAddr::V4(vip) => arp_request(link.mac, vip, vip),
            IpAddr::V6(vip) => advertisement(link.mac, vip, forwards(interface)),
        };
        // Asked last: a thread that was stopped before this line announces nothing.
        let now_us = boottime_us();
        if now_us >= lease_end_us {
            return Err(AnnounceError::LeaseEnded { late_us: now_us - lease_end_us });
        }
        self.socket.send(link.index, &frame).map_err(failed)
    }
}

/// Whether neighbours know this node as a router: an advertisement that says otherwise would
/// make them forget it as one.
fn forwards(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::frames::{Claim, claim};
    use crate::effects::packet::MAX_FRAME_BYTES;
    use crate::effects::testnet::Namespace;

    #[test]
    fn the_schedule_is_dense_at_first_and_then_each_half_minute() {
        let due_ms: Vec<_> = (0..8).map(|done| due_after_us(done) / 1_000).collect();
        assert_eq!(due_ms, [0, 50, 200, 1_100, 5_000, 35_000, 65_000, 95_000]);
    }

    #[test]
    fn neighbours_hear_both_families_with_the_present_hardware_address() {
        let (node, peer) = Namespace::two();
        let heard = peer.run(|| {
            let mut socket = PacketSocket::open(Receive::All).expect("CAP_NET_RAW");
            let link = Route::open().and_then(|mut route| route.link("eth0")).expect("eth0");
            socket.bind(link.index).expect("binds");
            socket
        });
        let vips: [IpAddr; 2] = ["10.0.0.10".parse().expect("IPv4"), "fd00::10".parse().expect("IPv6")];
        let mac = node.run(|| {
            let mut announcer = Announcer::open("eth0", &vips).expect("CAP_NET_RAW");
            announcer.announce_now(u64::MAX).expect("announces");
            announcer.route.link("eth0").expect("eth0").mac
        });
        let mut claims = Vec::new();
        let mut frame = [0; MAX_FRAME_BYTES];
        while claims.len() < 2 {
            let found = claim(heard.await_frame(&mut frame));
            claims.extend(found.filter(|claim| vips.contains(&claim.address)));
        }
        let expected = vips.map(|address| Claim { address, mac, is_answer: false });
        assert_eq!(claims, expected);
    }

    #[test]
    fn nothing_is_announced_after_the_lease() {
        let (node, _peer) = Namespace::two();
        let error = node.run(|| {
            let vips = ["10.0.0.10".parse().expect("an address")];
            let mut announcer = Announcer::open("eth0", &vips).expect("CAP_NET_RAW");
            announcer.announce_now(boottime_us()).expect_err("the lease has just ended")
        });
        assert!(matches!(error, AnnounceError::LeaseEnded { .. }), "{error}");
    }
}

//! Asks who has an address, and listens: ARP for IPv4, neighbour discovery for IPv6.
//!
//! Beneath targets and vip, which know what a question is for. One packet socket per family
//! and interface, kept open, never promiscuous.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::clock::boottime_us;
use crate::effects::frames::{Claim, arp_request, claim, solicitation};
use crate::effects::netlink::readable;
use crate::effects::packet::{MAX_FRAME_BYTES, PacketSocket, Receive};
use crate::effects::route::{Link, Route};

/// The two families' sockets on one interface.
pub(super) struct Neighbours {
    interface: String,
    route: Route,
    sockets: [PacketSocket; 2],
}

impl Neighbours {
    /// Opens the sockets in this thread's network namespace; CAP_NET_RAW.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let sockets = [PacketSocket::open(Receive::Arp)?, PacketSocket::open(Receive::Advertisements)?];
        Ok(Self { interface: interface.to_owned(), route: Route::open()?, sockets })
    }

    /// The interface as it is now, listened to from now on.
    pub(super) fn link(&mut self) -> io::Result<Link> {
        let link = self.route.link(&self.interface)?;
        for socket in &mut self.sockets {
            socket.bind(link.index)?;
        }
        Ok(link)
    }

    /// Asks who has `address`. `own`, when of the same family, is the asker's address; without
    /// it the question teaches nobody anything.
    pub(super) fn ask(&self, link: &Link, own: Option<IpAddr>, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(target) => {
                let sender = own.and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
                self.sockets[0].send(link.index, &arp_request(link.mac, sender, target))
            }
            IpAddr::V6(target) => {
                let sender = own.and_then(ipv6).unwrap_or(Ipv6Addr::UNSPECIFIED);
                self.sockets[1].send(link.index, &solicitation(link.mac, sender, target))
            }
        }
    }

    /// The next claim of an address that arrives before `deadline_us`, or is already there.
    pub(super) fn next_claim(&self, deadline_us: u64) -> io::Result<Option<Claim>> {
        let mut frame = [0; MAX_FRAME_BYTES];
        loop {
            for socket in &self.sockets {
                while let Some(frame) = socket.receive(&mut frame)? {
                    if let Some(claim) = claim(frame) {
                        return Ok(Some(claim));
                    }
                }
            }
            let left_us = deadline_us.saturating_sub(boottime_us());
            if left_us == 0 {
                return Ok(None);
            }
            let sockets = [self.sockets[0].as_fd(), self.sockets[1].as_fd()];
            readable(&sockets, Duration::from_micros(left_us))?;
        }
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(v4) = address { Some(v4) } else { None }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(v6) = address { Some(v6) } else { None }
}

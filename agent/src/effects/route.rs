//! Blocking rtnetlink: links and addresses as the kernel has them now.
//!
//! For vip, announce and the probes. Interfaces are given by name and resolved at each use: a
//! replaced card or a renamed bond has another index and another hardware address.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{NLMSG_HEADER_BYTES, Netlink};

/// An interface as it is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    /// Zeros where the interface has no hardware address of six bytes.
    pub(crate) mac: [u8; 6],
    /// Administratively up and with carrier.
    pub(crate) carrier: bool,
}

/// One rtnetlink socket in the network namespace of the thread that opened it.
pub(crate) struct Route {
    netlink: Netlink,
}

impl Route {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Sends `message` with `flags` besides REQUEST, and returns what comes back; without DUMP
    /// an acknowledgement is awaited.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags | if dump { 0 } else { NLM_F_ACK };
        let mut envelope = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        envelope.finalize();
        let mut bytes = vec![0; envelope.buffer_len()];
        envelope.serialize(&mut bytes);
        let mut answers = Vec::new();
        self.netlink.request(&mut bytes, |kind, payload| answers.extend(parse(kind, payload)))?;
        Ok(answers)
    }

    /// The interface called `name`.
    ///
    /// # Errors
    /// `NotFound` with the name when there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut wanted = LinkMessage::default();
        wanted.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface \"{name}\""));
        let answers = self
            .request(RouteNetlinkMessage::GetLink(wanted), 0)
            .map_err(|error| if error.raw_os_error() == Some(libc::ENODEV) { missing() } else { error })?;
        answers.iter().find_map(link_of).ok_or_else(missing)
    }

    /// The hardware address the kernel last knew for `address` on the interface `name`; none where it
    /// never spoke with it, or gave it up.
    pub(crate) fn neighbour(&mut self, name: &str, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        let mut wanted = NeighbourMessage::default();
        wanted.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        wanted.header.ifindex = self.link(name)?.index;
        let (ifindex, address) = (wanted.header.ifindex, NeighbourAddress::from(address));
        let answers = self.request(RouteNetlinkMessage::GetNeighbour(wanted), NLM_F_DUMP)?;
        Ok(answers.iter().find_map(|answer| {
            let RouteNetlinkMessage::NewNeighbour(entry) = answer else { return None };
            let is_it = entry.header.ifindex == ifindex
                && entry.attributes.contains(&NeighbourAttribute::Destination(address.clone()));
            is_it.then(|| hardware_address(entry)).flatten()
        }))
    }

    /// Drops the packets that wait on the interface `name` for a neighbour's hardware address, and
    /// says for how many neighbours: while a cable is cut they queue *behind* nftables, and would be
    /// sent when it is mended, whatever the guard says by then.
    pub(crate) fn drop_unresolved(&mut self, name: &str) -> io::Result<usize> {
        let ifindex = self.link(name)?.index;
        let mut dropped = 0;
        for answer in
            self.request(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), NLM_F_DUMP)?
        {
            let RouteNetlinkMessage::NewNeighbour(mut entry) = answer else { continue };
            if entry.header.ifindex != ifindex || entry.header.state != NeighbourState::Incomplete {
                continue;
            }
            entry.attributes.retain(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)));
            match self.request(RouteNetlinkMessage::DelNeighbour(entry), 0) {
                // It was resolved or given up in between.
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => dropped += 1,
            }
        }
        Ok(dropped)
    }
}

fn hardware_address(entry: &NeighbourMessage) -> Option<[u8; 6]> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

/// Reads one rtnetlink message; what this crate does not know is none.
pub(crate) fn parse(kind: u16, payload: &[u8]) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.length = u32::try_from(NLMSG_HEADER_BYTES + payload.len()).ok()?;
    RouteNetlinkMessage::deserialize(&header, payload).ok()
}

/// The interface a link message is about.
pub(crate) fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    let carrier = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    Some(Link { index: link.header.index, mac: mac.unwrap_or_default(), carrier })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::testnet::Namespace;
    use std::net::UdpSocket;

    #[test]
    fn a_neighbour_of_either_family_is_known_once_it_was_spoken_to() {
        let (near, far) = Namespace::two();
        let mac = far.run(|| Route::open().and_then(|mut route| route.link("eth0")).expect("eth0").mac);
        for (there, nobody) in [("10.0.0.2", "10.0.0.7"), ("fd00::2", "fd00::7")] {
            let (there, nobody): (IpAddr, IpAddr) =
                (there.parse().expect("an address"), nobody.parse().expect("an address"));
            near.run(|| {
                let mut route = Route::open().expect("netlink");
                assert_eq!(route.neighbour("eth0", nobody).expect("an answer"), None);
                let any: IpAddr = if there.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
                let socket = UdpSocket::bind((any, 0)).expect("a socket here");
                socket.connect((there, 7000)).expect("a route");
                socket.send(b"?").expect("sent");
                // Refused: the other kernel has answered, so each knows the other's card.
                let _ = socket.recv(&mut [0; 1]);
                assert_eq!(route.neighbour("eth0", there).expect("an answer"), Some(mac));
            });
        }
    }
}

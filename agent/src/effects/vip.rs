//! The virtual addresses on an interface: add silently, renew, delete, read back.
//!
//! Path: promote -> [`VipAddresses::add`] -> application -> guard and announcer. An address is
//! one of ours by its protocol number, so that leftovers of a killed agent are found. Every
//! step first asks whether it is already so. Whether anybody hears the address is the guard's
//! matter, and whether it may be added is the failover machine's.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route::Route;
use crate::config::Vip;

/// Marks an address as set by Lockstep (`ip address` prints `proto 0x4c`).
const OUR_PROTOCOL: u8 = 0x4c;

/// The shortest lifetime of an address, seconds: the kernel counts whole ones and may be late.
pub const MIN_LIFETIME_S: u32 = 2;

/// Why an address was not changed.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// The kernel refused.
    #[error("{what} {vip} on {interface} failed: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The address.
        vip: Vip,
        /// The interface.
        interface: String,
        /// The kernel's answer; EPERM means that CAP_NET_ADMIN is missing.
        source: io::Error,
    },
    /// The interface does not exist, or netlink failed.
    #[error("cannot read the addresses of {interface}: {source}")]
    Read {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn full_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address found on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Address and the prefix it is configured with.
    pub vip: Vip,
    /// Set by Lockstep.
    pub ours: bool,
    /// What is left of its lifetime, seconds; `u32::MAX` means for ever.
    pub valid_s: u32,
}

/// Virtual addresses in the network namespace of the thread that opened this.
pub struct VipAddresses {
    route: Route,
}

impl VipAddresses {
    /// Opens the netlink socket it keeps.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { route: Route::open()? })
    }

    /// Adds `vip`, or renews its lifetime where it is: host prefix where the interface has
    /// another address in the network, the configured one where not; no duplicate address
    /// detection, and never chosen as a source (IPv6 with host prefix). Nothing is announced. It disappears by itself
    /// `valid_s` seconds (at least [`MIN_LIFETIME_S`]) after the last call.
    ///
    /// # Errors
    /// No such interface, no CAP_NET_ADMIN.
    pub fn add(&mut self, interface: &str, vip: Vip, valid_s: u32) -> Result<(), VipError> {
        let index = self.index(interface)?;
        let on_interface = self.found(interface, index)?;
        let existing = on_interface.iter().find(|found| found.vip.address == vip.address);
        let has_neighbour = on_interface.iter().any(|found| {
            found.vip.address != vip.address && vip.subnet_has(found.vip.address) && !found.ours
        });
        let prefix = match existing {
            Some(found) => found.vip.prefix,
            None if has_neighbour => full_prefix(vip.address),
            None => vip.prefix,
        };
        let message = address_message(index, Vip { prefix, ..vip }, valid_s.max(MIN_LIFETIME_S));
        self.route
            .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|source| VipError::Kernel {
                what: "adding",
                vip,
                interface: interface.to_owned(),
                source,
            })
    }

    /// Deletes `vip` and reads back that it is gone; it may be gone already.
    ///
    /// # Errors
    /// No such interface, no CAP_NET_ADMIN, or it is still there.
    pub fn delete(&mut self, interface: &str, vip: Vip) -> Result<(), VipError> {
        let index = self.index(interface)?;
        let failed =
            |source| VipError::Kernel { what: "deleting", vip, interface: interface.to_owned(), source };
        for found in self.found(interface, index)?.iter().filter(|found| found.vip.address == vip.address) {
            let message = address_message(index, found.vip, 0);
            match self.route.request(RouteNetlinkMessage::DelAddress(message), 0) {
                // Its lifetime may have ended in between.
                Err(e) if e.raw_os_error() != Some(libc::EADDRNOTAVAIL) => return Err(failed(e)),
                _ => {}
            }
        }
        match self.state(interface, vip.address)? {
            None => Ok(()),
            Some(_) => Err(failed(io::ErrorKind::AddrInUse.into())),
        }
    }

    /// Drops what waits on `interface` for a neighbour's hardware address, and says for how many
    /// neighbours: it has passed the guard already. Call it once the guard is shut.
    ///
    /// # Errors
    /// No such interface, no CAP_NET_ADMIN.
    pub fn drop_waiting(&mut self, interface: &str) -> Result<usize, VipError> {
        self.route
            .drop_unresolved(interface)
            .map_err(|source| VipError::Read { interface: interface.to_owned(), source })
    }

    /// The address as it is on `interface`, if it is.
    ///
    /// # Errors
    /// No such interface.
    pub fn state(&mut self, interface: &str, address: IpAddr) -> Result<Option<Found>, VipError> {
        let index = self.index(interface)?;
        Ok(self.found(interface, index)?.into_iter().find(|found| found.vip.address == address))
    }

    /// What an earlier life of the agent left on `interface`. With several pairs on one
    /// interface it holds the addresses of all of them.
    ///
    /// # Errors
    /// No such interface.
    pub fn leftovers(&mut self, interface: &str) -> Result<Vec<Vip>, VipError> {
        let index = self.index(interface)?;
        let found = self.found(interface, index)?;
        Ok(found.into_iter().filter(|found| found.ours).map(|found| found.vip).collect())
    }

    fn index(&mut self, interface: &str) -> Result<u32, VipError> {
        let link = self.route.link(interface);
        link.map(|link| link.index)
            .map_err(|source| VipError::Read { interface: interface.to_owned(), source })
    }

    fn found(&mut self, interface: &str, index: u32) -> Result<Vec<Found>, VipError> {
        let dump = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self
            .route
            .request(dump, NLM_F_DUMP)
            .map_err(|source| VipError::Read { interface: interface.to_owned(), source })?;
        Ok(answers.iter().filter_map(|answer| read(answer, index)).collect())
    }
}

fn read(message: &RouteNetlinkMessage, index: u32) -> Option<Found> {
    let RouteNetlinkMessage::NewAddress(address) = message else { return None };
    if address.header.index != index {
        return None;
    }
    let (mut own, mut peer, mut ours, mut valid_s) = (None, None, false, u32::MAX);
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Local(local) => own = Some(*local),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == OUR_PROTOCOL,
            AddressAttribute::CacheInfo(times) => valid_s = times.ifa_valid,
            _ => {}
        }
    }
    // IPv6 has no local attribute unless the address is point to point.
    let vip = Vip { address: own.or(peer)?, prefix: address.header.prefix_len };
    Some(Found { vip, ours, valid_s })
}

fn address_message(index: u32, vip: Vip, valid_s: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = vip.prefix;
    message.header.scope = AddressScope::Universe;
    let mut times = CacheInfo::default();
    times.ifa_valid = valid_s;
    times.ifa_preferred = valid_s;
    message.attributes = vec![AddressAttribute::Local(vip.address), AddressAttribute::Address(vip.address)];
    match vip.address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            // A wide mask needs its route: the interface has no other address in the network.
            if vip.prefix == 32 {
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
            }
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            let mut flags = AddressFlags::Nodad;
            if vip.prefix == 128 {
                flags |= AddressFlags::Noprefixroute;
                // Deprecated from the start: never chosen as the source of a new connection.
                times.ifa_preferred = 0;
            }
            message.attributes.push(AddressAttribute::Flags(flags));
        }
    }
    message.attributes.push(AddressAttribute::CacheInfo(times));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(OUR_PROTOCOL)));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::testnet::{Namespace, add_address};

    fn vip(text: &str) -> Vip {
        let (address, prefix) = text.split_once('/').expect("an address with its prefix");
        Vip { address: address.parse().expect("an address"), prefix: prefix.parse().expect("a prefix") }
    }

    #[test]
    fn an_address_is_added_renewed_listed_and_deleted() {
        let (node, _peer) = Namespace::two();
        node.run(|| {
            let mut addresses = VipAddresses::open().expect("netlink");
            for (text, prefix) in [("10.0.0.10/24", 32), ("fd00::10/64", 128)] {
                let vip = vip(text);
                addresses.add("eth0", vip, 30).expect("adds");
                let found = addresses.state("eth0", vip.address).expect("reads").expect("is there");
                assert_eq!((found.vip.prefix, found.ours), (prefix, true), "{text}");
                addresses.add("eth0", vip, 90).expect("renews");
                let found = addresses.state("eth0", vip.address).expect("reads").expect("is there");
                assert!((80..=90).contains(&found.valid_s), "{text} lives {} s", found.valid_s);
            }
            assert_eq!(
                addresses.leftovers("eth0").expect("lists"),
                [vip("10.0.0.10/32"), vip("fd00::10/128")]
            );
            for text in ["10.0.0.10/24", "fd00::10/64"] {
                addresses.delete("eth0", vip(text)).expect("deletes");
                addresses.delete("eth0", vip(text)).expect("is already gone");
            }
            assert_eq!(addresses.leftovers("eth0").expect("lists"), []);
        });
    }

    #[test]
    fn without_another_address_in_the_network_the_configured_mask_is_used() {
        let (node, _peer) = Namespace::two();
        node.run(|| {
            let mut addresses = VipAddresses::open().expect("netlink");
            for text in ["192.168.7.10/24", "fd77::10/64"] {
                addresses.add("eth0", vip(text), 30).expect("adds");
                let found = addresses.state("eth0", vip(text).address).expect("reads").expect("is there");
                assert_eq!(found.vip, vip(text));
            }
        });
    }

    #[test]
    fn what_waits_for_a_neighbour_is_dropped_and_never_sent() {
        let (node, peer) = Namespace::two();
        let absent = "10.0.0.77:9";
        let (mut addresses, socket) = node.run(|| {
            let socket = std::net::UdpSocket::bind("10.0.0.1:0").expect("a socket");
            socket.send_to(b"late", absent).expect("it is queued: nobody answers for the address yet");
            (VipAddresses::open().expect("netlink"), socket)
        });
        assert_eq!(addresses.drop_waiting("eth0").expect("drops"), 1);
        assert_eq!(addresses.drop_waiting("eth0").expect("drops"), 0);
        // The neighbour comes: the next packet reaches it, the queued one does not.
        let ear = peer.run(|| {
            add_address("eth0", IpAddr::from([10, 0, 0, 77]), 24);
            std::net::UdpSocket::bind(absent).expect("a socket")
        });
        socket.send_to(b"new", absent).expect("sends");
        let mut buffer = [0; 8];
        let length = ear.recv(&mut buffer).expect("receives");
        assert_eq!(&buffer[..length], b"new");
    }

    #[test]
    fn a_missing_interface_is_named() {
        let (node, _peer) = Namespace::two();
        let error = node.run(|| {
            let mut addresses = VipAddresses::open().expect("netlink");
            addresses.add("eth9", vip("10.0.0.10/24"), 30).expect_err("no eth9")
        });
        assert!(error.to_string().contains("there is no interface \"eth9\""), "{error}");
    }
}

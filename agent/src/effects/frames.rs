//! Builds and reads the Ethernet frames that ask and tell who has an address.
//!
//! ARP for IPv4, neighbour solicitation and advertisement for IPv6. Bytes only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::icmpv6::{self, Icmpv6Packet};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::MacAddr;

const ETHERNET_BYTES: usize = 14;
const ARP_BYTES: usize = 28;
const IPV6_BYTES: usize = 40;
/// Type, code, checksum, flags, target, and the link-layer address option.
const NEIGHBOUR_BYTES: usize = 32;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Neighbour discovery never crosses a router: anything else was forwarded, or forged.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ARP request "who has `target`?", broadcast, as if from `sender`. With both the same it
/// is an announcement; the target's hardware address is then our own (RFC 5227 leaves it open,
/// and some receivers compare it).
pub(crate) fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(mac, MacAddr::broadcast(), EtherTypes::Arp, ARP_BYTES);
    let mut arp = MutableArpPacket::new(&mut frame[ETHERNET_BYTES..]).expect("room for ARP");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(mac.into());
    arp.set_sender_proto_addr(sender);
    let announces = sender == target;
    arp.set_target_hw_addr(if announces { mac.into() } else { MacAddr::zero() });
    arp.set_target_proto_addr(target);
    frame
}

/// An unsolicited neighbour advertisement of `target` to all nodes, with the override flag.
pub(crate) fn advertisement(mac: [u8; 6], target: Ipv6Addr, is_router: bool) -> Vec<u8> {
    const OVERRIDE: u32 = 1 << 29;
    const ROUTER: u32 = 1 << 31;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let flags = OVERRIDE | if is_router { ROUTER } else { 0 };
    let option = Some((TARGET_LINK_LAYER_ADDRESS, mac));
    neighbour(mac, target, ALL_NODES, NEIGHBOUR_ADVERTISEMENT, flags, target, option)
}

/// A neighbour solicitation "who has `target`?" from `sender`; unspecified asks without making
/// anybody learn us.
pub(crate) fn solicitation(mac: [u8; 6], sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
    let option = (!sender.is_unspecified()).then_some((SOURCE_LINK_LAYER_ADDRESS, mac));
    neighbour(mac, sender, solicited_node(target), NEIGHBOUR_SOLICITATION, 0, target, option)
}

/// The multicast group in which the holder of `target` listens.
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

fn ethernet(
    source: [u8; 6],
    destination: MacAddr,
    kind: pnet::packet::ethernet::EtherType,
    payload_bytes: usize,
) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_BYTES + payload_bytes];
    let mut header = MutableEthernetPacket::new(&mut frame).expect("room for Ethernet");
    header.set_source(source.into());
    header.set_destination(destination);
    header.set_ethertype(kind);
    frame
}

fn neighbour(
    mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    flags: u32,
    target: Ipv6Addr,
    option: Option<(u8, [u8; 6])>,
) -> Vec<u8> {
    let length = if option.is_some() { NEIGHBOUR_BYTES } else { NEIGHBOUR_BYTES - 8 };
    let [.., a, b, c, d] = destination.octets();
    let multicast = MacAddr::new(0x33, 0x33, a, b, c, d);
    let mut frame = ethernet(mac, multicast, EtherTypes::Ipv6, IPV6_BYTES + length);
    let mut ip = MutableIpv6Packet::new(&mut frame[ETHERNET_BYTES..]).expect("room for IPv6");
    ip.set_version(6);
    ip.set_payload_length(length as u16);
    ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
    ip.set_hop_limit(HOP_LIMIT);
    ip.set_source(source);
    ip.set_destination(destination);
    let body = &mut frame[ETHERNET_BYTES + IPV6_BYTES..];
    body[0] = kind;
    body[4..8].copy_from_slice(&flags.to_be_bytes());
    body[8..24].copy_from_slice(&target.octets());
    if let Some((option, mac)) = option {
        // The option's length is in units of eight bytes.
        body[24..26].copy_from_slice(&[option, 1]);
        body[26..32].copy_from_slice(&mac);
    }
    let packet = Icmpv6Packet::new(body).expect("room for ICMPv6");
    let checksum = icmpv6::checksum(&packet, &source, &destination);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// What a frame says about who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The address.
    pub(crate) address: IpAddr,
    /// The hardware address that claims it.
    pub(crate) mac: [u8; 6],
    /// An answer to a question; otherwise an announcement or the asker's own address.
    pub(crate) is_answer: bool,
}

/// Reads the claim in an ARP frame or in a neighbour advertisement.
pub(crate) fn claim(frame: &[u8]) -> Option<Claim> {
    let ethernet = EthernetPacket::new(frame)?;
    match ethernet.get_ethertype() {
        EtherTypes::Arp => arp_claim(ethernet.payload()),
        EtherTypes::Ipv6 => advertised(ethernet.payload(), ethernet.get_source()),
        _ => None,
    }
}

fn arp_claim(payload: &[u8]) -> Option<Claim> {
    let arp = ArpPacket::new(payload)?;
    if arp.get_hw_addr_len() != 6 || arp.get_proto_addr_len() != 4 {
        return None;
    }
    let operation: ArpOperation = arp.get_operation();
    let address = arp.get_sender_proto_addr();
    (!address.is_unspecified()).then_some(Claim {
        address: address.into(),
        mac: arp.get_sender_hw_addr().octets(),
        is_answer: operation == ArpOperations::Reply,
    })
}

fn advertised(payload: &[u8], from: MacAddr) -> Option<Claim> {
    const SOLICITED: u8 = 1 << 6;
    let ip = Ipv6Packet::new(payload)?;
    if ip.get_next_header() != IpNextHeaderProtocols::Icmpv6 || ip.get_hop_limit() != HOP_LIMIT {
        return None;
    }
    let body = payload.get(IPV6_BYTES..)?;
    if *body.first()? != NEIGHBOUR_ADVERTISEMENT {
        return None;
    }
    let target: [u8; 16] = body.get(8..24)?.try_into().ok()?;
    // An advertisement without the option comes from its frame's sender.
    let option = body.get(24..32).filter(|option| option[..2] == [2, 1]);
    let mac = option.map_or(from.octets(), |option| option[2..].try_into().expect("six bytes"));
    Some(Claim { address: Ipv6Addr::from(target).into(), mac, is_answer: body[4] & SOLICITED != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_announcement_is_a_request_with_our_own_hardware_address_as_target() {
        let vip = Ipv4Addr::new(10, 0, 0, 10);
        let frame = arp_request(MAC, vip, vip);
        assert_eq!(frame[..6], [0xff; 6], "broadcast");
        assert_eq!(frame[20..22], [0, 1], "a request");
        assert_eq!(frame[32..38], MAC, "target hardware address");
        assert_eq!(claim(&frame), Some(Claim { address: vip.into(), mac: MAC, is_answer: false }));
    }

    #[test]
    fn a_probe_claims_nothing() {
        let frame = arp_request(MAC, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 10));
        assert_eq!(claim(&frame), None);
        let frame = solicitation(MAC, Ipv6Addr::UNSPECIFIED, "fd00::10".parse().expect("an address"));
        assert_eq!(claim(&frame), None);
    }

    #[test]
    fn an_advertisement_claims_its_target() {
        let vip: Ipv6Addr = "fd00::10".parse().expect("an address");
        let frame = advertisement(MAC, vip, false);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1], "to all nodes");
        assert_eq!(claim(&frame), Some(Claim { address: vip.into(), mac: MAC, is_answer: false }));
    }

    proptest! {
        #[test]
        fn garbage_from_the_wire_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            kind in prop::sample::select(vec![[8, 6], [0x86, 0xdd]]),
        ) {
            let _ = claim(&bytes);
            let mut framed = vec![0; 12];
            framed.extend(kind);
            framed.extend(bytes);
            let _ = claim(&framed);
        }
    }
}

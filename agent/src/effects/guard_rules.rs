//! What the guard's tables hold, as nf_tables messages: sets, rules, and the batch that renews a lease.
//!
//! [`super::guard`] sends them and says what they are for; the bytes are [`super::nft`]'s. Nothing here
//! talks to the kernel.

use std::net::IpAddr;

use super::nft::{Base, Family, Field, Kind, Messages, MetaKey, NFPROTO_IPV4, NFPROTO_IPV6, Set, Test};

pub(super) const GUARDED4: Set = Set { name: "guarded4", id: 1, address_bytes: 4 };
pub(super) const GUARDED6: Set = Set { name: "guarded6", id: 2, address_bytes: 16 };
pub(super) const LEASED4: Set = Set { name: "leased4", id: 3, address_bytes: 4 };
pub(super) const LEASED6: Set = Set { name: "leased6", id: 4, address_bytes: 16 };

/// The loopback interface has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

const IPV4_SOURCE: Field = Field { base: Base::Network, offset: 12, length: 4 };
const IPV4_DESTINATION: Field = Field { base: Base::Network, offset: 16, length: 4 };
const IPV6_SOURCE: Field = Field { base: Base::Network, offset: 8, length: 16 };
const IPV6_DESTINATION: Field = Field { base: Base::Network, offset: 24, length: 16 };
const ARP_SENDER: Field = Field { base: Base::Network, offset: 14, length: 4 };
const ICMPV6_TYPE: Field = Field { base: Base::Transport, offset: 0, length: 1 };
const ADVERTISED: Field = Field { base: Base::Transport, offset: 8, length: 16 };

const IPPROTO_ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Rules in each table, see [`super::guard::Guard::present`].
pub(super) const INET_RULES: usize = 5;
pub(super) const ARP_RULES: usize = 1;
pub(super) const EGRESS_RULES: usize = 4;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

fn by_family(vips: &[IpAddr]) -> (Vec<IpAddr>, Vec<IpAddr>) {
    vips.iter().partition(|vip| vip.is_ipv4())
}

/// Deletes and creates both tables in one batch: there is no moment without rules.
pub(super) fn installation(table: &str, vips: &[IpAddr]) -> Messages {
    let (vips4, vips6) = by_family(vips);
    let mut batch = Messages::batch();
    for family in [Family::Inet, Family::Arp] {
        batch.add_table(family, table);
        batch.delete_table(family, table);
        batch.add_table(family, table);
        batch.add_set(family, table, GUARDED4, false);
        batch.add_set(family, table, LEASED4, true);
        if !vips4.is_empty() {
            batch.elements(Kind::NewElement, family, table, GUARDED4, &vips4, false);
        }
    }
    batch.add_set(Family::Inet, table, GUARDED6, false);
    batch.add_set(Family::Inet, table, LEASED6, true);
    if !vips6.is_empty() {
        batch.elements(Kind::NewElement, Family::Inet, table, GUARDED6, &vips6, false);
    }
    inet_rules(&mut batch, table);
    // NF_ARP_OUT.
    batch.add_chain(Family::Arp, table, "output", 1, 0);
    let [guarded, unleased] = without_lease(ARP_SENDER, GUARDED4, LEASED4);
    batch.add_drop_rule(Family::Arp, table, "output", &[guarded, unleased]);
    batch.end()
}

/// Names the interface, so that a table of another one is known.
pub(super) fn egress_chain(interface: &str) -> String {
    format!("egress-{interface}")
}

/// The same for what leaves `interface`.
pub(super) fn egress_installation(table: &str, vips: &[IpAddr], interface: &str) -> Messages {
    const FAMILY: Family = Family::Netdev;
    let chain = egress_chain(interface);
    let mut batch = Messages::batch();
    batch.add_table(FAMILY, table);
    batch.delete_table(FAMILY, table);
    batch.add_table(FAMILY, table);
    let (vips4, vips6) = by_family(vips);
    for (guarded, leased, vips) in [(GUARDED4, LEASED4, vips4), (GUARDED6, LEASED6, vips6)] {
        batch.add_set(FAMILY, table, guarded, false);
        batch.add_set(FAMILY, table, leased, true);
        if !vips.is_empty() {
            batch.elements(Kind::NewElement, FAMILY, table, guarded, &vips, false);
        }
    }
    batch.add_egress_chain(table, &chain, interface);
    let protocol =
        |number: [u8; 2]| Test::Meta { key: MetaKey::Protocol, equal: true, value: number.to_vec() };
    for (number, field, guarded, leased) in [
        (ETHERTYPE_IPV4, IPV4_SOURCE, GUARDED4, LEASED4),
        (ETHERTYPE_ARP, ARP_SENDER, GUARDED4, LEASED4),
        (ETHERTYPE_IPV6, IPV6_SOURCE, GUARDED6, LEASED6),
    ] {
        let [guarded, unleased] = without_lease(field, guarded, leased);
        batch.add_drop_rule(FAMILY, table, &chain, &[protocol(number), guarded, unleased]);
    }
    batch.add_drop_rule(FAMILY, table, &chain, &advertisement(protocol(ETHERTYPE_IPV6)));
    batch.end()
}

/// An advertisement of the address may come from another source address.
fn advertisement(is_ipv6: Test) -> [Test; 5] {
    let [guarded, unleased] = without_lease(ADVERTISED, GUARDED6, LEASED6);
    [
        is_ipv6,
        Test::Meta { key: MetaKey::Transport, equal: true, value: vec![IPPROTO_ICMPV6] },
        Test::Payload { field: ICMPV6_TYPE, value: vec![NEIGHBOUR_ADVERTISEMENT] },
        guarded,
        unleased,
    ]
}

fn inet_rules(batch: &mut Messages, table: &str) {
    const NF_INET_PRE_ROUTING: u32 = 0;
    const NF_INET_POST_ROUTING: u32 = 4;
    // Before connection tracking and after source NAT: what is seen is what is on the wire.
    batch.add_chain(Family::Inet, table, "prerouting", NF_INET_PRE_ROUTING, -300);
    batch.add_chain(Family::Inet, table, "postrouting", NF_INET_POST_ROUTING, 300);
    let family = |number: u8| Test::Meta { key: MetaKey::Family, equal: true, value: vec![number] };
    let outside = |key| Test::Meta { key, equal: false, value: LOOPBACK_INDEX.to_ne_bytes().to_vec() };
    let mut rule = |chain, key, number, field, guarded, leased| {
        let [guarded, unleased] = without_lease(field, guarded, leased);
        batch.add_drop_rule(Family::Inet, table, chain, &[family(number), outside(key), guarded, unleased]);
    };
    let (incoming, outgoing) = (MetaKey::InInterface, MetaKey::OutInterface);
    rule("prerouting", incoming, NFPROTO_IPV4, IPV4_DESTINATION, GUARDED4, LEASED4);
    rule("prerouting", incoming, NFPROTO_IPV6, IPV6_DESTINATION, GUARDED6, LEASED6);
    rule("postrouting", outgoing, NFPROTO_IPV4, IPV4_SOURCE, GUARDED4, LEASED4);
    rule("postrouting", outgoing, NFPROTO_IPV6, IPV6_SOURCE, GUARDED6, LEASED6);
    batch.add_drop_rule(Family::Inet, table, "postrouting", &advertisement(family(NFPROTO_IPV6)));
}

fn without_lease(field: Field, guarded: Set, leased: Set) -> [Test; 2] {
    [
        Test::AddressIn { field, set: guarded, inside: true },
        Test::AddressIn { field, set: leased, inside: false },
    ]
}

/// The sets that hold a lease, with their addresses.
fn leases(vips: &[IpAddr], egress: bool) -> impl Iterator<Item = (Family, Set, Vec<IpAddr>)> {
    let (vips4, vips6) = by_family(vips);
    let of = move |(family, set)| (family, set, if set == LEASED4 { vips4.clone() } else { vips6.clone() });
    [
        (Family::Inet, LEASED4),
        (Family::Arp, LEASED4),
        (Family::Inet, LEASED6),
        (Family::Netdev, LEASED4),
        (Family::Netdev, LEASED6),
    ]
    .into_iter()
    .filter(move |(family, _)| egress || *family != Family::Netdev)
    .map(of)
    .filter(|(_, _, addresses)| !addresses.is_empty())
}

/// Add, delete, add: a plain add does not refresh the timeout of an element that is there, and
/// a delete alone fails for one that has timed out.
pub(super) fn renewal(table: &str, vips: &[IpAddr], egress: bool) -> Messages {
    let mut batch = Messages::batch();
    for (family, set, addresses) in leases(vips, egress) {
        batch.elements(Kind::NewElement, family, table, set, &addresses, true);
        batch.elements(Kind::DelElement, family, table, set, &addresses, false);
        batch.elements(Kind::NewElement, family, table, set, &addresses, true);
    }
    batch.end()
}

pub(super) fn deletion(table: &str, vips: &[IpAddr], egress: bool) -> Messages {
    let mut batch = Messages::batch();
    for (family, set, addresses) in leases(vips, egress) {
        batch.elements(Kind::NewElement, family, table, set, &addresses, true);
        batch.elements(Kind::DelElement, family, table, set, &addresses, false);
    }
    let mut batch = batch.end();
    // Never seen by a packet, but an element without a timeout must not even be written.
    batch.set_timeouts_ms(1);
    batch
}

//! Builds nf_tables netlink messages: the guard's tables, sets, rules and its renewal.
//!
//! Bytes only; [`super::guard`] sends them. The `nft` program is not needed, and the renewal is
//! one prebuilt buffer in which only the timeouts change. Numbers are those of
//! `linux/netfilter/nf_tables.h`. Nothing here is a general rule language: it knows the few
//! expressions the guard uses.

use std::net::IpAddr;
use std::ops::Range;

/// Subsystem number of nf_tables, the upper byte of a message type.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

/// Netlink header and `struct nfgenmsg`.
const MESSAGE_HEADER_BYTES: usize = 20;

/// Message numbers within nf_tables.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    NewElement = 12,
    GetElement = 13,
    DelElement = 14,
}

impl Kind {
    pub(super) fn message_type(self) -> u16 {
        NFNL_SUBSYS_NFTABLES << 8 | self as u16
    }
}

/// A table's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Family {
    Inet = 1,
    Arp = 3,
    /// Its chains belong to one interface.
    Netdev = 5,
}

/// Netfilter's numbers for the packet's protocol family, as `meta nfproto` gives them.
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// A growing sequence of netlink messages.
pub(super) struct Messages {
    bytes: Vec<u8>,
    /// Where the big-endian timeouts stand, see [`Messages::set_timeouts_ms`].
    timeouts: Vec<Range<usize>>,
    last_message: usize,
}

impl Messages {
    /// Messages outside a batch (dumps).
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), timeouts: Vec::new(), last_message: 0 }
    }

    /// An open batch: all or nothing.
    pub(super) fn batch() -> Self {
        let mut batch = Self::new();
        batch.batch_mark(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// Closes the batch and asks for one acknowledgement, on its last message.
    pub(super) fn end(mut self) -> Self {
        let flags = self.last_message + 6..self.last_message + 8;
        let current = u16::from_ne_bytes([self.bytes[flags.start], self.bytes[flags.start + 1]]);
        self.bytes[flags].copy_from_slice(&(current | NLM_F_ACK).to_ne_bytes());
        self.batch_mark(NFNL_MSG_BATCH_END);
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Writes `timeout_ms` into every element added with a timeout.
    pub(super) fn set_timeouts_ms(&mut self, timeout_ms: u64) {
        for place in &self.timeouts {
            self.bytes[place.clone()].copy_from_slice(&timeout_ms.to_be_bytes());
        }
    }

    fn batch_mark(&mut self, kind: u16) {
        // The resource id, big-endian, names the subsystem the batch is for.
        self.raw_message(kind, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| {});
    }

    /// Appends one message; `attributes` fills it.
    pub(super) fn message(
        &mut self,
        kind: Kind,
        family: Family,
        flags: u16,
        attributes: impl FnOnce(&mut Self),
    ) {
        self.last_message = self.bytes.len();
        self.raw_message(kind.message_type(), NLM_F_REQUEST | flags, family as u8, 0, attributes);
    }

    fn raw_message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; MESSAGE_HEADER_BYTES]);
        self.bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[start + 16] = family;
        self.bytes[start + 18..start + 20].copy_from_slice(&resource.to_be_bytes());
        attributes(self);
        let length = u32::try_from(self.bytes.len() - start).expect("a message of a few hundred bytes");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("attributes here are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut terminated = value.as_bytes().to_vec();
        terminated.push(0);
        self.attribute(kind, &terminated);
    }

    fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes here are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Creates `table`, or finds it there.
    pub(super) fn add_table(&mut self, family: Family, table: &str) {
        self.message(Kind::NewTable, family, NLM_F_CREATE, |m| {
            m.text(1, table);
            m.be32(2, 0);
        });
    }

    /// Deletes `table` with all that is in it.
    pub(super) fn delete_table(&mut self, family: Family, table: &str) {
        self.message(Kind::DelTable, family, 0, |m| m.text(1, table));
    }

    /// Creates a filter chain on a hook; what no rule drops is accepted.
    pub(super) fn add_chain(&mut self, family: Family, table: &str, chain: &str, hook: u32, priority: i32) {
        self.add_chain_of(family, table, chain, hook, priority, None);
    }

    /// Creates a filter chain that sees what `interface` sends.
    pub(super) fn add_egress_chain(&mut self, table: &str, chain: &str, interface: &str) {
        const NF_NETDEV_EGRESS: u32 = 1;
        self.add_chain_of(Family::Netdev, table, chain, NF_NETDEV_EGRESS, 0, Some(interface));
    }

    fn add_chain_of(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        hook: u32,
        priority: i32,
        interface: Option<&str>,
    ) {
        const NF_ACCEPT: u32 = 1;
        self.message(Kind::NewChain, family, NLM_F_CREATE, |m| {
            m.text(1, table);
            m.text(3, chain);
            m.nested(4, |m| {
                m.be32(1, hook);
                m.attribute(2, &priority.to_be_bytes());
                if let Some(interface) = interface {
                    m.text(3, interface);
                }
            });
            m.be32(5, NF_ACCEPT);
            m.text(7, "filter");
        });
    }

    /// Creates a set of addresses; `timeout`: its elements may have one.
    pub(super) fn add_set(&mut self, family: Family, table: &str, set: Set, timeout: bool) {
        const NFT_SET_TIMEOUT: u32 = 0x10;
        self.message(Kind::NewSet, family, NLM_F_CREATE, |m| {
            m.text(1, table);
            m.text(2, set.name);
            m.be32(3, if timeout { NFT_SET_TIMEOUT } else { 0 });
            // What `nft list` prints as ipv4_addr and ipv6_addr.
            m.be32(4, if set.address_bytes == 4 { 7 } else { 8 });
            m.be32(5, set.address_bytes);
            m.be32(10, set.id);
        });
    }

    /// Adds (`NewElement`) or deletes (`DelElement`) addresses; with `timeout`, their timeouts
    /// are written later by [`Messages::set_timeouts_ms`].
    pub(super) fn elements(
        &mut self,
        kind: Kind,
        family: Family,
        table: &str,
        set: Set,
        addresses: &[IpAddr],
        timeout: bool,
    ) {
        let flags = if matches!(kind, Kind::NewElement) { NLM_F_CREATE } else { 0 };
        self.message(kind, family, flags, |m| {
            m.text(1, table);
            m.text(2, set.name);
            m.nested(3, |m| {
                for address in addresses {
                    m.nested(1, |m| {
                        m.nested(1, |m| m.attribute(1, &address_bytes(address)));
                        if timeout {
                            m.attribute(4, &0_u64.to_be_bytes());
                            m.timeouts.push(m.bytes.len() - 8..m.bytes.len());
                        }
                    });
                }
            });
        });
    }

    /// Asks for all elements of `set`.
    pub(super) fn dump_elements(&mut self, family: Family, table: &str, set: Set) {
        self.message(Kind::GetElement, family, NLM_F_DUMP, |m| {
            m.text(1, table);
            m.text(2, set.name);
        });
    }

    /// Asks for all rules of `table`.
    pub(super) fn dump_rules(&mut self, family: Family, table: &str) {
        self.message(Kind::GetRule, family, NLM_F_DUMP, |m| m.text(1, table));
    }

    /// Appends a rule to `chain`: when all `tests` hold, the packet is dropped.
    pub(super) fn add_drop_rule(&mut self, family: Family, table: &str, chain: &str, tests: &[Test]) {
        self.message(Kind::NewRule, family, NLM_F_CREATE | NLM_F_APPEND, |m| {
            m.text(1, table);
            m.text(2, chain);
            m.nested(4, |m| {
                tests.iter().for_each(|test| m.test(test));
                m.expression("immediate", |m| {
                    m.be32(1, VERDICT_REGISTER);
                    // Verdict code 0 is NF_DROP.
                    m.nested(2, |m| m.nested(2, |m| m.be32(1, 0)));
                });
            });
        });
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Self)) {
        self.nested(1, |m| {
            m.text(1, name);
            m.nested(2, data);
        });
    }

    fn test(&mut self, test: &Test) {
        match test {
            Test::Meta { key, equal, value } => {
                self.expression("meta", |m| {
                    m.be32(1, REGISTER);
                    m.be32(2, *key as u32);
                });
                self.compare(*equal, value);
            }
            Test::Payload { field, value } => {
                self.load(field);
                self.compare(true, value);
            }
            Test::AddressIn { field, set, inside } => {
                self.load(field);
                self.expression("lookup", |m| {
                    m.text(1, set.name);
                    m.be32(2, REGISTER);
                    m.be32(4, set.id);
                    m.be32(5, u32::from(!inside));
                });
            }
        }
    }

    fn load(&mut self, field: &Field) {
        self.expression("payload", |m| {
            m.be32(1, REGISTER);
            m.be32(2, field.base as u32);
            m.be32(3, field.offset);
            m.be32(4, field.length);
        });
    }

    fn compare(&mut self, equal: bool, value: &[u8]) {
        self.expression("cmp", |m| {
            m.be32(1, REGISTER);
            m.be32(2, u32::from(!equal));
            m.nested(3, |m| m.attribute(1, value));
        });
    }
}

/// The data register every test uses (NFT_REG_1, 16 bytes: an IPv6 address fits).
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

/// A named set of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    /// Distinguishes new sets within one batch.
    pub(super) id: u32,
    pub(super) address_bytes: u32,
}

/// What a rule can ask about a packet.
pub(super) enum Test {
    /// A property outside the packet's bytes equals, or does not equal, `value`.
    Meta { key: MetaKey, equal: bool, value: Vec<u8> },
    /// Bytes of the packet equal `value`.
    Payload { field: Field, value: Vec<u8> },
    /// An address in the packet is, or is not, in `set`.
    AddressIn { field: Field, set: Set, inside: bool },
}

/// Properties by their `NFT_META_*` number.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum MetaKey {
    /// Ethernet's number of the protocol, two bytes as on the wire.
    Protocol = 1,
    /// Index of the interface the packet came in by, native byte order.
    InInterface = 4,
    /// Index of the interface the packet leaves by, native byte order.
    OutInterface = 5,
    /// `NFPROTO_*`, one byte.
    Family = 15,
    /// Transport protocol, one byte.
    Transport = 16,
}

/// Where in the packet a field stands, bytes.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) base: Base,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Headers a field is counted from.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

/// An address as it stands in a packet.
pub(super) fn address_bytes(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
impl Messages {
    /// What `nft flush ruleset` sends.
    pub(super) fn flush_ruleset() -> Self {
        let mut batch = Self::batch();
        batch.raw_message_of_all_families();
        batch.end()
    }

    fn raw_message_of_all_families(&mut self) {
        self.last_message = self.bytes.len();
        self.raw_message(Kind::DelTable.message_type(), NLM_F_REQUEST, 0, 0, |_| {});
    }

    /// A table that redirects UDP `port` to the node's own `to_port`, as a container's port is.
    pub(super) fn redirect(table: &str, port: u16, to_port: u16) -> Self {
        const IPPROTO_UDP: u8 = 17;
        let mut batch = Self::batch();
        batch.add_table(Family::Inet, table);
        batch.message(Kind::NewChain, Family::Inet, NLM_F_CREATE, |m| {
            m.text(1, table);
            m.text(3, "prerouting");
            m.nested(4, |m| {
                m.be32(1, 0);
                m.attribute(2, &(-100_i32).to_be_bytes());
            });
            m.text(7, "nat");
        });
        batch.message(Kind::NewRule, Family::Inet, NLM_F_CREATE | NLM_F_APPEND, |m| {
            m.text(1, table);
            m.text(2, "prerouting");
            m.nested(4, |m| {
                let destination_port = Field { base: Base::Transport, offset: 2, length: 2 };
                m.test(&Test::Meta { key: MetaKey::Transport, equal: true, value: vec![IPPROTO_UDP] });
                m.test(&Test::Payload { field: destination_port, value: port.to_be_bytes().to_vec() });
                m.expression("immediate", |m| {
                    m.be32(1, REGISTER);
                    m.nested(2, |m| m.attribute(1, &to_port.to_be_bytes()));
                });
                m.expression("redir", |m| m.be32(1, REGISTER));
            });
        });
        batch.end()
    }
}

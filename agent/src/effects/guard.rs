//! The VIP lease in the kernel: nothing passes for a virtual address unless its lease lives.
//!
//! Path: heartbeat thread -> [`Guard::renew_until`] -> nf_tables. A pair has three tables named
//! `lockstep-<pair>`, of the families inet, arp and netdev: a set of guarded addresses, and a set of
//! leased ones whose elements time out by themselves. A killed or hung agent therefore falls
//! silent without doing anything: TCP, UDP, ICMP, NAT replies, ARP and neighbour
//! advertisements. Loopback is left alone, so that the application can be checked at its
//! address before the lease opens.
//!
//! The netdev table looks at what leaves the interface, after everything that can hold a packet back
//! (a neighbour that does not answer yet) and also at packet sockets. A kernel without that hook (before
//! 5.16, or built without it) has the other two. What no table stops: somebody who removes them while
//! the agent hangs.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use lockstep_wire::PairId;

use super::netlink::{Attributes, Netlink};
use super::nft::{
    Base, Family, Field, Kind, Messages, MetaKey, NFPROTO_IPV4, NFPROTO_IPV6, Set, Test, address_bytes,
};
use crate::clock::boottime_us;

/// Addresses one pair may guard; bounds the prebuilt renewal.
pub const MAX_VIPS: usize = 16;

const GUARDED4: Set = Set { name: "guarded4", id: 1, address_bytes: 4 };
const GUARDED6: Set = Set { name: "guarded6", id: 2, address_bytes: 16 };
const LEASED4: Set = Set { name: "leased4", id: 3, address_bytes: 4 };
const LEASED6: Set = Set { name: "leased6", id: 4, address_bytes: 16 };

/// How long a renewal may take from reading the clock to the kernel's answer (usually 15 us);
/// the lease in the kernel ends this much earlier, so that a slow one is not too long.
const RENEWAL_MAX_US: u64 = 1_000;

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

/// Rules in each table, see [`Guard::present`].
const INET_RULES: usize = 5;
const ARP_RULES: usize = 1;
const EGRESS_RULES: usize = 4;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Why the guard could not be installed or renewed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Somebody removed the tables.
    #[error(
        "the VIP guard \"{table}\" is gone: something ran \"nft flush ruleset\" or deleted it; \
         the address must be deleted before the guard is installed again"
    )]
    Gone {
        /// The table's name.
        table: String,
    },
    /// No permission.
    #[error("nf_tables refused \"{table}\": CAP_NET_ADMIN is missing in this network namespace")]
    Denied {
        /// The table's name.
        table: String,
    },
    /// The kernel has no nf_tables.
    #[error(
        "this kernel has no nf_tables ({0}): load nf_tables, or accept address lifetimes and a lease >= 3 s"
    )]
    Unsupported(io::Error),
    /// Any other answer.
    #[error("nf_tables failed on \"{table}\": {source}")]
    Kernel {
        /// The table's name.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The list of addresses is empty, has doubles or is too long.
    #[error("a pair guards 1 to {MAX_VIPS} different virtual addresses, found {0}")]
    Count(usize),
    /// The lease had ended when the kernel could have been told.
    #[error("the lease has ended ({late_us} us ago) or is about to: it is not renewed")]
    Ended {
        /// How long ago.
        late_us: u64,
    },
}

/// The installed guard of one pair. Moves to the heartbeat thread, which alone renews.
pub struct Guard {
    table: String,
    vips: Vec<IpAddr>,
    /// Where the addresses are.
    interface: String,
    /// The netdev table stands: this kernel has the hook.
    egress: bool,
    netlink: Netlink,
    renewal: Messages,
    deletion: Messages,
}

impl Guard {
    /// Installs the guard for `vips` of `interface` in this thread's network namespace, without a
    /// lease. A guard of the same addresses that is already there stays, with its running lease: a
    /// restarted agent neither removes nor renews it (see [`Guard::lease_remaining`]).
    ///
    /// # Errors
    /// No nf_tables, no CAP_NET_ADMIN, or a list that is empty, doubled or too long.
    pub fn install(pair: &PairId, vips: &[IpAddr], interface: &str) -> Result<Self, GuardError> {
        let mut guard = Self::open(pair, vips, interface)?;
        if !guard.present()? {
            guard.reinstall()?;
        } else if !guard.egress {
            // Of an agent that found no hook; there may be one by now, and it begins shut.
            let _ = guard.reinstall_egress();
        }
        Ok(guard)
    }

    fn open(pair: &PairId, vips: &[IpAddr], interface: &str) -> Result<Self, GuardError> {
        let mut vips = vips.to_vec();
        let given = vips.len();
        vips.sort();
        vips.dedup();
        if vips.is_empty() || vips.len() != given || given > MAX_VIPS {
            return Err(GuardError::Count(given));
        }
        let netlink =
            Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).map_err(GuardError::Unsupported)?;
        let table = format!("lockstep-{pair}");
        let (renewal, deletion) = (renewal(&table, &vips, false), deletion(&table, &vips, false));
        let interface = interface.to_owned();
        let mut guard = Self { table, vips, interface, egress: false, netlink, renewal, deletion };
        let egress = guard.has_egress_rules()?;
        guard.set_egress(egress);
        Ok(guard)
    }

    fn set_egress(&mut self, egress: bool) {
        self.egress = egress;
        self.renewal = renewal(&self.table, &self.vips, egress);
        self.deletion = deletion(&self.table, &self.vips, egress);
    }

    /// True when it also sees what leaves the interface, see the module.
    pub fn guards_egress(&self) -> bool {
        self.egress
    }

    /// Replaces whatever is there by a fresh guard without a lease: two tables in one step, then the
    /// third where the kernel can have it.
    ///
    /// # Errors
    /// No nf_tables or no CAP_NET_ADMIN.
    pub fn reinstall(&mut self) -> Result<(), GuardError> {
        let batch = installation(&self.table, &self.vips);
        self.netlink.transact(batch.bytes()).map_err(|e| self.error(e))?;
        // Without it the others guard, as the module says.
        let _ = self.reinstall_egress();
        Ok(())
    }

    fn reinstall_egress(&mut self) -> io::Result<()> {
        let batch = egress_installation(&self.table, &self.vips, &self.interface);
        let installed = self.netlink.transact(batch.bytes());
        self.set_egress(installed.is_ok());
        installed
    }

    /// Opens or renews the lease until `end_us` (CLOCK_BOOTTIME), never longer. The kernel is
    /// told a remaining time, so a thread that is stopped between reading the clock and telling
    /// it would grant too much: such a renewal is noticed and made again, or deleted.
    ///
    /// # Errors
    /// [`GuardError::Gone`] when the tables were removed, [`GuardError::Ended`] when `end_us`
    /// has passed.
    pub fn renew_until(&mut self, end_us: u64) -> Result<(), GuardError> {
        let mut is_too_long = false;
        loop {
            let now_us = boottime_us();
            // Whole milliseconds, rounded down; 0 would mean no timeout at all.
            let remaining_ms = end_us.saturating_sub(now_us + RENEWAL_MAX_US) / 1_000;
            if remaining_ms == 0 {
                if is_too_long {
                    self.delete_lease()?;
                }
                return Err(GuardError::Ended { late_us: now_us.saturating_sub(end_us) });
            }
            self.renewal.set_timeouts_ms(remaining_ms);
            self.netlink.transact(self.renewal.bytes()).map_err(|e| self.error(e))?;
            if boottime_us() - now_us <= RENEWAL_MAX_US {
                return Ok(());
            }
            is_too_long = true;
        }
    }

    /// [`Guard::renew_until`] for `remaining` from now.
    #[cfg(test)]
    fn renew(&mut self, remaining: Duration) -> Result<(), GuardError> {
        self.renew_until(boottime_us() + remaining.as_micros() as u64)
    }

    /// Ends the lease now; it may have ended already.
    ///
    /// # Errors
    /// [`GuardError::Gone`] when the tables were removed.
    pub fn delete_lease(&mut self) -> Result<(), GuardError> {
        // Added and deleted: deleting an element that has timed out would be an error.
        self.netlink.transact(self.deletion.bytes()).map_err(|e| self.error(e))
    }

    /// True when the tables stand with their rules and exactly these addresses.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn present(&mut self) -> Result<bool, GuardError> {
        if self.count_rules(Family::Inet, None)? != INET_RULES
            || self.count_rules(Family::Arp, None)? != ARP_RULES
        {
            return Ok(false);
        }
        if self.egress && !self.has_egress_rules()? {
            return Ok(false);
        }
        let mut guarded = self.elements(Family::Inet, GUARDED4)?;
        let arp_agrees = guarded.len() == self.elements(Family::Arp, GUARDED4)?.len();
        guarded.extend(self.elements(Family::Inet, GUARDED6)?);
        let mut expected: Vec<_> = self.vips.iter().map(address_bytes).collect();
        let mut found: Vec<_> = guarded.into_iter().map(|element| element.address).collect();
        expected.sort();
        found.sort();
        Ok(arp_agrees && expected == found)
    }

    /// How long the lease still runs by the kernel's clock; none when it has ended.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn lease_remaining(&mut self) -> Result<Option<Duration>, GuardError> {
        let mut leased = self.elements(Family::Inet, LEASED4)?;
        leased.extend(self.elements(Family::Inet, LEASED6)?);
        leased.extend(self.elements(Family::Arp, LEASED4)?);
        Ok(leased.iter().map(|element| element.remaining).max())
    }

    /// Removes the tables: the addresses are unguarded afterwards. For the end of the pair only.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(mut self) -> Result<(), GuardError> {
        let mut batch = Messages::batch();
        let egress = self.egress.then_some(Family::Netdev);
        for family in [Family::Inet, Family::Arp].into_iter().chain(egress) {
            batch.add_table(family, &self.table);
            batch.delete_table(family, &self.table);
        }
        self.netlink.transact(batch.end().bytes()).map_err(|e| self.error(e))
    }

    /// Also false when the table is of another interface, or of one that was gone meanwhile.
    fn has_egress_rules(&mut self) -> Result<bool, GuardError> {
        let chain = egress_chain(&self.interface);
        Ok(self.count_rules(Family::Netdev, Some(&chain))? == EGRESS_RULES)
    }

    /// Rules of a table, or of one of its chains.
    fn count_rules(&mut self, family: Family, chain: Option<&str>) -> Result<usize, GuardError> {
        let mut dump = Messages::new();
        dump.dump_rules(family, &self.table);
        let mut rules = 0;
        let answer = |kind, payload: &[u8]| {
            const CHAIN: u16 = 2;
            let mut attributes = Attributes(payload.get(4..).unwrap_or_default());
            let is_wanted = chain.is_none_or(|chain| {
                let is_name = |(kind, name): (u16, &[u8])| {
                    kind == CHAIN && name.strip_suffix(b"\0") == Some(chain.as_bytes())
                };
                attributes.any(is_name)
            });
            rules += usize::from(kind == Kind::NewRule.message_type() && is_wanted);
        };
        match self.netlink.request(dump.bytes_mut(), answer) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(self.error(e)),
            _ => Ok(rules),
        }
    }

    fn elements(&mut self, family: Family, set: Set) -> Result<Vec<Element>, GuardError> {
        let mut dump = Messages::new();
        dump.dump_elements(family, &self.table, set);
        let mut elements = Vec::new();
        let answer = |kind, payload: &[u8]| {
            if kind == Kind::NewElement.message_type() {
                read_elements(payload, &mut elements);
            }
        };
        match self.netlink.request(dump.bytes_mut(), answer) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(self.error(e)),
            _ => Ok(elements),
        }
    }

    fn error(&self, source: io::Error) -> GuardError {
        let table = self.table.clone();
        match source.raw_os_error() {
            Some(libc::ENOENT) => GuardError::Gone { table },
            Some(libc::EPERM) => GuardError::Denied { table },
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                GuardError::Unsupported(source)
            }
            _ => GuardError::Kernel { table, source },
        }
    }
}

struct Element {
    address: Vec<u8>,
    remaining: Duration,
}

/// Reads the elements of one dump part: `nfgenmsg`, then attributes.
fn read_elements(payload: &[u8], elements: &mut Vec<Element>) {
    const ELEMENTS: u16 = 3;
    let attributes = payload.get(4..).unwrap_or_default();
    for (_, list) in Attributes(attributes).filter(|(kind, _)| *kind == ELEMENTS) {
        for (_, element) in Attributes(list) {
            let mut found = Element { address: Vec::new(), remaining: Duration::ZERO };
            for (kind, value) in Attributes(element) {
                match kind {
                    // Key, with its bytes in a nested value.
                    1 => {
                        let mut key = Attributes(value).map(|(_, key)| key.to_vec());
                        found.address = key.next().unwrap_or_default();
                    }
                    // Expiration, milliseconds.
                    5 => {
                        let left = value.first_chunk().map_or(0, |left| u64::from_be_bytes(*left));
                        found.remaining = Duration::from_millis(left);
                    }
                    _ => {}
                }
            }
            elements.push(found);
        }
    }
}

fn by_family(vips: &[IpAddr]) -> (Vec<IpAddr>, Vec<IpAddr>) {
    vips.iter().partition(|vip| vip.is_ipv4())
}

/// Deletes and creates both tables in one batch: there is no moment without rules.
fn installation(table: &str, vips: &[IpAddr]) -> Messages {
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
fn egress_chain(interface: &str) -> String {
    format!("egress-{interface}")
}

/// The same for what leaves `interface`.
fn egress_installation(table: &str, vips: &[IpAddr], interface: &str) -> Messages {
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
fn renewal(table: &str, vips: &[IpAddr], egress: bool) -> Messages {
    let mut batch = Messages::batch();
    for (family, set, addresses) in leases(vips, egress) {
        batch.elements(Kind::NewElement, family, table, set, &addresses, true);
        batch.elements(Kind::DelElement, family, table, set, &addresses, false);
        batch.elements(Kind::NewElement, family, table, set, &addresses, true);
    }
    batch.end()
}

fn deletion(table: &str, vips: &[IpAddr], egress: bool) -> Messages {
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

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

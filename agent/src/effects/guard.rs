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

use super::guard_rules::{
    ARP_RULES, EGRESS_RULES, GUARDED4, GUARDED6, INET_RULES, LEASED4, LEASED6, deletion, egress_chain,
    egress_installation, installation, renewal,
};
use super::netlink::{Attributes, Netlink};
use super::nft::{Family, Kind, Messages, Set, address_bytes};
use crate::clock::boottime_us;

/// Addresses one pair may guard; bounds the prebuilt renewal.
pub const MAX_VIPS: usize = 16;

/// How long a renewal may take from reading the clock to the kernel's answer (usually 15 us);
/// the lease in the kernel ends this much earlier, so that a slow one is not too long.
const RENEWAL_MAX_US: u64 = 1_000;

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

    /// Removes what an earlier agent of this pair left: nothing of it guards, or stops, the addresses any more.
    ///
    /// # Errors
    /// No nf_tables or no CAP_NET_ADMIN.
    pub fn uninstall(pair: &PairId, vips: &[IpAddr], interface: &str) -> Result<(), GuardError> {
        Self::open(pair, vips, interface)?.remove()
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

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

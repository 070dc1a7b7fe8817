//! The virtual address, in its own thread: add, announce, end connections, delete.
//!
//! Everything that can wait for the kernel about the VIP is done here in the order it was asked for,
//! so that "delete" never overtakes "add". The lease itself is the heartbeat thread's; this thread
//! only closes it when asked to.

use super::culprit;
use super::queue::EventQueue;
use crate::clock::boottime_us;
use crate::config::Vip;
use crate::effects::announce::{Announcer, due_after_us};
use crate::effects::guard::Guard;
use crate::effects::sockets::end_connections;
use crate::effects::vip::VipAddresses;
use crate::heartbeat::Gauges;
use lockstep_failover::Event;
use lockstep_wire::PairId;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// The address's own lifetime, the second net beneath the guard, seconds: longer than any stall that a
/// healthy agent survives, short enough that a dead one's address goes.
const LIFETIME_S: u32 = 10;

/// How often the lifetime is renewed while the address is wanted.
const LIFETIME_RENEWAL: Duration = Duration::from_secs(3);

/// How often it is looked whether the address is still there: clients notice a gap of seconds.
const LOOK: Duration = Duration::from_millis(250);

/// What the address thread is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Configure it, silently.
    Add,
    /// The lease is open: announce by schedule until told otherwise.
    Announce,
    /// The lease was renewed by targets alone: announce once.
    AnnounceOnce,
    /// Reset clients while the lease holds.
    EndSockets,
    /// Shut the guard.
    DeleteLease,
    /// Delete it and read back.
    Delete,
}

/// What the address thread needs.
pub(super) struct AddressConfig {
    pub(super) pair: PairId,
    pub(super) interface: String,
    pub(super) vips: Vec<Vip>,
    /// Knows the end of the lease.
    pub(super) gauges: Arc<Gauges>,
    pub(super) queue: EventQueue,
}

struct Address {
    config: AddressConfig,
    addresses: VipAddresses,
    announcer: Announcer,
    guard: Guard,
    /// The address should be there; its lifetime is renewed.
    wanted: bool,
    /// When it was last looked at, and its lifetime last renewed, CLOCK_BOOTTIME.
    looked_us: u64,
    renewed_us: u64,
    /// When the announcing began and how many were sent.
    announcing: Option<(u64, u32)>,
}

/// Starts the thread.
///
/// # Errors
/// When the kernel gives no sockets: CAP_NET_ADMIN or CAP_NET_RAW is missing.
pub(super) fn start(config: AddressConfig) -> anyhow::Result<mpsc::Sender<Task>> {
    let vips: Vec<IpAddr> = config.vips.iter().map(|v| v.address).collect();
    let mut address = Address {
        addresses: VipAddresses::open()?,
        announcer: Announcer::open(&config.interface, &vips)?,
        guard: Guard::install(&config.pair, &vips, &config.interface)?,
        config,
        wanted: false,
        looked_us: 0,
        renewed_us: 0,
        announcing: None,
    };
    let (tasks, queue) = mpsc::channel();
    let name = format!("vip-{}", address.config.pair);
    std::thread::Builder::new().name(name).spawn(move || address.run(&queue))?;
    Ok(tasks)
}

impl Address {
    fn run(&mut self, tasks: &mpsc::Receiver<Task>) {
        loop {
            match tasks.recv_timeout(self.next_due()) {
                Ok(task) => self.carry_out(task),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Also after a task: while this node serves alone, one comes with every heartbeat.
            self.on_time();
        }
    }

    fn next_due(&self) -> Duration {
        let look = if self.wanted { LOOK } else { LIFETIME_RENEWAL };
        let Some((began_us, done)) = self.announcing else { return look };
        let due_us = began_us + due_after_us(done);
        Duration::from_micros(due_us.saturating_sub(boottime_us())).min(look)
    }

    fn on_time(&mut self) {
        if let Some((began_us, done)) = self.announcing
            && boottime_us() >= began_us + due_after_us(done)
        {
            self.announcing = Some((began_us, done + 1));
            self.announce();
        }
        let now_us = boottime_us();
        if self.wanted && now_us >= self.looked_us + LOOK.as_micros() as u64 {
            self.looked_us = now_us;
            let due = now_us >= self.renewed_us + LIFETIME_RENEWAL.as_micros() as u64;
            if self.put_back() || due {
                self.renew_lifetime();
                self.mend_guard();
            }
        }
    }

    /// Renewing finds a guard that is gone; not one whose rules are gone and whose set is not.
    fn mend_guard(&mut self) {
        let mended = match self.guard.present() {
            Ok(true) => return,
            // Nothing passes from here on until the heartbeat thread renews the lease.
            Ok(false) => self.guard.reinstall(),
            Err(error) => Err(error),
        };
        match mended {
            Ok(()) => self.config.queue.note(
                true,
                "guard.mended",
                "something removed the VIP's guard from nftables: it is installed anew; look at what flushes rules here".into(),
            ),
            Err(error) => self.failed(&error),
        }
    }

    fn carry_out(&mut self, task: Task) {
        match task {
            Task::Add => match self.add_all() {
                Ok(()) => {
                    self.wanted = true;
                    self.config.queue.event(Event::VipAdded);
                }
                Err(error) => self.failed(&error),
            },
            Task::Announce => {
                self.announcing = Some((boottime_us(), 1));
                self.announce();
            }
            Task::AnnounceOnce => self.announce(),
            Task::EndSockets => self.end_sockets(),
            Task::DeleteLease => {
                self.announcing = None;
                // A guard that is gone guards nothing; the address goes next.
                if let Err(error) = self.guard.delete_lease() {
                    self.config.queue.note(true, "guard", error.to_string());
                    if let Err(error) = self.guard.reinstall() {
                        return self.failed(&error);
                    }
                }
                if let Err(error) = self.addresses.drop_waiting(&self.config.interface) {
                    self.config.queue.note(false, "vip", error.to_string());
                }
                self.config.queue.event(Event::LeaseElementDeleted);
            }
            Task::Delete => {
                self.announcing = None;
                self.wanted = false;
                let interface = &self.config.interface;
                let deleted = self.config.vips.iter().try_for_each(|v| self.addresses.delete(interface, *v));
                match deleted {
                    Ok(()) => drop(self.config.queue.event(Event::VipGone)),
                    Err(error) => self.failed(&error),
                }
            }
        }
    }

    fn add_all(&mut self) -> Result<(), crate::effects::vip::VipError> {
        let interface = &self.config.interface;
        self.config.vips.iter().try_for_each(|v| self.addresses.add(interface, *v, LIFETIME_S))
    }

    /// What somebody else deleted must be put back, and that is said with the likely one; true: something was.
    fn put_back(&mut self) -> bool {
        let mut deleted = false;
        for vip in &self.config.vips {
            if let Ok(None) = self.addresses.state(&self.config.interface, vip.address) {
                deleted = true;
                let likely = culprit::likely(Path::new("/proc"));
                let sentence = format!(
                    "something deleted {} from {}: put back; {likely}",
                    vip.address, self.config.interface
                );
                self.config.queue.note(true, "vip.deleted", sentence);
            }
        }
        if deleted && self.announcing.is_some() {
            // Clients that asked in the meantime were told nothing, or by somebody else.
            self.announcing = Some((boottime_us(), 0));
        }
        deleted
    }

    fn renew_lifetime(&mut self) {
        self.renewed_us = boottime_us();
        if let Err(error) = self.add_all() {
            self.failed(&error);
        }
    }

    fn announce(&mut self) {
        // Not open yet, or not any more: there is nothing to announce.
        let Some(lease_end) = self.config.gauges.lease_end() else { return };
        if let Err(error) = self.announcer.announce_now(lease_end.as_us()) {
            self.config.queue.note(false, "announce", error.to_string());
        }
    }

    fn end_sockets(&mut self) {
        for vip in &self.config.vips {
            if let Err(error) = end_connections(vip.address) {
                self.config.queue.note(false, "sockets", error.to_string());
            }
        }
        // Clients that could not be reset notice by their own time-outs; the handover goes on.
        self.config.queue.event(Event::VipSocketsEnded);
    }

    fn failed(&self, error: &dyn std::error::Error) {
        self.config.queue.event(Event::EffectFailed(error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::testnet::Namespace;
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn the_lifetime_is_renewed_also_while_every_heartbeat_asks_for_an_announcement() {
        let (node, _peer) = Namespace::two();
        let vip = Vip { address: [10, 0, 0, 10].into(), prefix: 24 };
        let (queue, _events) = EventQueue::new();
        let config = AddressConfig {
            pair: "main".parse().expect("a name"),
            interface: "eth0".into(),
            vips: vec![vip],
            gauges: Arc::default(),
            queue,
        };
        node.run(|| {
            let tasks = start(config).expect("CAP_NET_ADMIN");
            let mut addresses = VipAddresses::open().expect("netlink");
            tasks.send(Task::Add).expect("it runs");
            let deadline = Instant::now() + PATIENCE;
            let mut least_s = u32::MAX;
            loop {
                tasks.send(Task::AnnounceOnce).expect("it runs");
                std::thread::sleep(LOOK / 5);
                let found = addresses.state("eth0", vip.address).expect("reads");
                let Some(found) = found else {
                    assert_eq!(least_s, u32::MAX, "the kernel took the address away");
                    continue;
                };
                if found.valid_s > least_s {
                    return;
                }
                least_s = found.valid_s;
                assert!(Instant::now() < deadline, "never renewed");
            }
        });
    }
}

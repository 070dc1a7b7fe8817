//! Whether an interface has carrier, now and at its next change.
//!
//! Carrier loss only starts the collecting of evidence: netlink can be a second late with it,
//! and a crashed kernel often keeps it up.

use std::io;
use std::time::Duration;

use crate::clock::boottime_us;
use crate::effects::netlink::Netlink;
use crate::effects::route::Route;

/// Multicast group of link changes.
const RTNLGRP_LINK: u32 = 1;

/// Watches one interface.
pub struct CarrierWatch {
    interface: String,
    events: Netlink,
    route: Route,
    last: bool,
}

impl CarrierWatch {
    /// Starts watching in this thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open(interface: &str) -> io::Result<Self> {
        let mut events = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
        // Before the first look, or a change in between would be missed.
        events.join(RTNLGRP_LINK)?;
        let mut watch = Self { interface: interface.to_owned(), events, route: Route::open()?, last: false };
        watch.last = watch.up()?;
        Ok(watch)
    }

    /// True: the interface exists, is up and has carrier.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn up(&mut self) -> io::Result<bool> {
        match self.route.link(&self.interface) {
            Ok(link) => Ok(link.carrier),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Waits at most `timeout` for a change, and returns the new state.
    ///
    /// # Errors
    /// Netlink failed.
    pub fn changed(&mut self, timeout: Duration) -> io::Result<Option<bool>> {
        let deadline_us = boottime_us() + timeout.as_micros() as u64;
        loop {
            let up = self.up()?;
            if up != self.last {
                self.last = up;
                return Ok(Some(up));
            }
            let left_us = deadline_us.saturating_sub(boottime_us());
            if left_us == 0 {
                return Ok(None);
            }
            match self.events.listen(Duration::from_micros(left_us), |_, _| {}) {
                // Events were lost; the next look finds out what they said.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                other => drop(other?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::testnet::{Namespace, set_down, set_up};

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_pulled_and_mended_cable_is_seen() {
        let (node, peer) = Namespace::two();
        let mut watch = node.run(|| CarrierWatch::open("eth0").expect("netlink"));
        // A new cable may still be coming up.
        while !watch.last {
            watch.changed(PATIENCE).expect("watches");
        }
        assert_eq!(watch.changed(Duration::ZERO).expect("watches"), None);
        peer.run(|| set_down("eth0"));
        assert_eq!(watch.changed(PATIENCE).expect("watches"), Some(false));
        peer.run(|| set_up("eth0"));
        assert_eq!(watch.changed(PATIENCE).expect("watches"), Some(true));
    }

    #[test]
    fn a_missing_interface_has_no_carrier() {
        let (node, _peer) = Namespace::two();
        let mut watch = node.run(|| CarrierWatch::open("eth9").expect("netlink"));
        assert!(!watch.up().expect("asks"));
    }
}

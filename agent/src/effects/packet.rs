//! A kept AF_PACKET socket: whole Ethernet frames out of and in from one interface.
//!
//! For the announcer and the ARP and neighbour probes. Opened once, because opening one costs
//! about 10 ms, and never promiscuous: it sees what the card takes anyway. Frames sent here
//! bypass the guard, so whoever announces must hold the lease.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::netlink::readable;

/// The longest frame read; longer ones are cut (none that is looked at is longer).
pub(crate) const MAX_FRAME_BYTES: usize = 256;

/// Which frames a socket receives, by Ethernet type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// None: for sending only.
    Nothing,
    /// ARP.
    Arp,
    /// IPv6, for neighbour discovery.
    Ipv6,
    /// Everything, for tests.
    #[cfg(test)]
    All,
}

impl Receive {
    fn ether_type(self) -> u16 {
        match self {
            Self::Nothing => 0,
            Self::Arp => 0x0806,
            Self::Ipv6 => 0x86dd,
            #[cfg(test)]
            Self::All => 3,
        }
    }
}

/// One AF_PACKET socket.
pub(crate) struct PacketSocket {
    socket: Socket,
    receive: Receive,
    bound_index: u32,
}

impl PacketSocket {
    /// Opens a socket that receives nothing yet; CAP_NET_RAW.
    pub(crate) fn open(receive: Receive) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                io::Error::new(error.kind(), "CAP_NET_RAW is missing for a packet socket")
            }
            _ => error,
        })?;
        Ok(Self { socket, receive, bound_index: 0 })
    }

    /// Receives on the interface with `index` from now on; does nothing when it already does.
    pub(crate) fn bind(&mut self, index: u32) -> io::Result<()> {
        if self.bound_index != index {
            self.socket.bind(&link_address(index, self.receive.ether_type()))?;
            self.bound_index = index;
        }
        Ok(())
    }

    /// Sends a whole frame by the interface with `index`.
    pub(crate) fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
        self.socket.send_to(frame, &link_address(index, ether_type)).map(drop)
    }

    /// The next frame that arrives within `timeout`, or that is already there.
    pub(crate) fn receive<'a>(
        &self,
        frame: &'a mut [u8; MAX_FRAME_BYTES],
        timeout: Duration,
    ) -> io::Result<Option<&'a [u8]>> {
        if !readable(&self.socket, timeout)? {
            return Ok(None);
        }
        let mut buffer = [MaybeUninit::uninit(); MAX_FRAME_BYTES];
        let length = match self.socket.recv_with_flags(&mut buffer, libc::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        for (to, from) in frame.iter_mut().zip(&buffer[..length]) {
            // SAFETY: the kernel has written the first `length` bytes.
            *to = unsafe { from.assume_init() };
        }
        Ok(Some(&frame[..length]))
    }
}

fn link_address(index: u32, ether_type: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: every address type of the kernel fits the storage, and zeros are a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = ether_type.to_be();
    link.sll_ifindex = index as i32;
    link.sll_halen = 6;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll of this length.
    unsafe { SockAddr::new(storage, length) }
}

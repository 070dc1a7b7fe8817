//! A kept AF_PACKET socket: whole Ethernet frames out of and in from one interface.
//!
//! For the announcer and the ARP and neighbour probes. Opened once, because opening one costs
//! about 10 ms, and never promiscuous: it sees what the card takes anyway. Frames sent here
//! bypass the guard, so whoever announces must hold the lease.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

/// The longest frame read; longer ones are cut (none that is looked at is longer).
pub(crate) const MAX_FRAME_BYTES: usize = 256;

/// Which frames a socket receives, by Ethernet type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// None: for sending only.
    Nothing,
    /// ARP.
    Arp,
    /// IPv6 neighbour advertisements.
    Advertisements,
    /// Everything, for tests.
    #[cfg(test)]
    All,
}

impl Receive {
    fn ether_type(self) -> u16 {
        match self {
            Self::Nothing => 0,
            Self::Arp => 0x0806,
            Self::Advertisements => 0x86dd,
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
        if receive == Receive::Advertisements {
            socket.attach_filter(&only_advertisements())?;
        }
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

    /// The next frame that is already there.
    pub(crate) fn receive<'a>(&self, frame: &'a mut [u8; MAX_FRAME_BYTES]) -> io::Result<Option<&'a [u8]>> {
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

    /// [`PacketSocket::receive`], after waiting for a frame.
    #[cfg(test)]
    pub(crate) fn await_frame<'a>(&self, frame: &'a mut [u8; MAX_FRAME_BYTES]) -> &'a [u8] {
        let patience = std::time::Duration::from_secs(10);
        assert!(super::netlink::readable(&[self.as_fd()], patience).expect("polls"), "no frame in 10 s");
        self.receive(frame).expect("receives").expect("a frame is there")
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Accepts neighbour advertisements only: a copy of every IPv6 packet would cost a busy node.
fn only_advertisements() -> [SockFilter; 6] {
    const NEXT_HEADER_AT: u32 = 20;
    const ICMPV6: u32 = 58;
    const TYPE_AT: u32 = 54;
    const ADVERTISEMENT: u32 = 136;
    let load_byte = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    let jump_equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(load_byte, 0, 0, NEXT_HEADER_AT),
        SockFilter::new(jump_equal, 0, 3, ICMPV6),
        SockFilter::new(load_byte, 0, 0, TYPE_AT),
        SockFilter::new(jump_equal, 0, 1, ADVERTISEMENT),
        SockFilter::new(give, 0, 0, u32::MAX),
        SockFilter::new(give, 0, 0, 0),
    ]
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

//! One UDP socket of a path: priority above bulk, kernel receive times on CLOCK_BOOTTIME.
//!
//! The kernel dates datagrams by the wall clock; each is turned into an age against the wall
//! clock now, and so into a moment of CLOCK_BOOTTIME. An age that cannot be (the wall clock was
//! set meanwhile) makes the moment "now": later than true, which only lengthens a wait.

use super::Route;
use crate::clock::boottime_us;
use lockstep_failover::{Path, Time};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Linux's priority for interactive control traffic, the highest without CAP_NET_ADMIN.
const SO_PRIORITY: u32 = 6;
/// DSCP CS6, network control, in the TOS byte.
const TOS_CS6: u32 = 0xc0;
/// An age above this is a changed wall clock, not a datagram that waited.
const AGE_MAX_US: u64 = 10_000_000;

pub(super) struct Socket {
    pub(super) path: Path,
    socket: socket2::Socket,
    peer: SockAddr,
}

impl Socket {
    pub(super) fn bind(route: &Route) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(route.local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(interface) = &route.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        // The cable may be out and the address not there yet.
        if route.local.is_ipv4() {
            socket.set_freebind_v4(true)?;
            socket.set_tos_v4(TOS_CS6)?;
        } else {
            socket.set_freebind_v6(true)?;
            socket.set_tclass_v6(TOS_CS6)?;
        }
        set_option(&socket, libc::SO_PRIORITY, SO_PRIORITY)?;
        set_option(&socket, libc::SO_TIMESTAMPNS, 1)?;
        socket.bind(&route.local.into())?;
        Ok(Self { path: route.path, socket, peer: route.peer.into() })
    }

    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, &self.peer).map(|_| ())
    }

    /// The next datagram, its length and when the kernel received it; `None` when drained.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Time)>> {
        let mut control = [0_u64; 16];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: an all-zero msghdr is valid: no name, no parts, no control.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let received =
            // SAFETY: `message` points to `part` and `control`, which outlive the call, with their lengths.
            unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_TRUNC) };
        let Ok(length) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            let drained = matches!(error.kind(), io::ErrorKind::WouldBlock);
            return if drained { Ok(None) } else { Err(error) };
        };
        Ok(Some((length, received_at(&message))))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set_option(socket: &socket2::Socket, option: i32, value: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the value is a live u32 and the length says so.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn received_at(message: &libc::msghdr) -> Time {
    let now_us = boottime_us();
    let Some(stamp_us) = kernel_stamp_us(message) else { return Time::from_us(now_us) };
    let wall = clock_gettime(ClockId::Realtime);
    let wall_us = wall.tv_sec.unsigned_abs() * 1_000_000 + wall.tv_nsec.unsigned_abs() / 1_000;
    let age_us = wall_us.checked_sub(stamp_us).filter(|age_us| *age_us <= AGE_MAX_US).unwrap_or(0);
    Time::from_us(now_us.saturating_sub(age_us))
}

fn kernel_stamp_us(message: &libc::msghdr) -> Option<u64> {
    // SAFETY: the header was filled by recvmsg; CMSG_* walk only within its control buffer.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_TIMESTAMPNS {
                let stamp: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                return Some(stamp.tv_sec.unsigned_abs() * 1_000_000 + stamp.tv_nsec.unsigned_abs() / 1_000);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

//! A blocking netlink socket: send a request, hand out the answers, report the kernel's error.
//!
//! Beneath guard, vip, sockets, announce and carrier, which build their own messages. The
//! socket belongs to the network namespace of the thread that opens it. It does not reconnect,
//! queue or retry: each of its users is idempotent and is called again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;

/// `struct nlmsghdr`: length, type, flags, sequence, port.
pub(crate) const NLMSG_HEADER_BYTES: usize = 16;
/// Error or acknowledgement.
const NLMSG_ERROR: u16 = 2;
/// End of a dump.
const NLMSG_DONE: u16 = 3;
/// The kernel answers at once; longer than this means that it lost the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The kernel fills dump parts of at most 32 KiB.
const RECEIVE_BYTES: usize = 32 * 1024;

/// One netlink socket with its receive buffer.
pub(crate) struct Netlink {
    socket: Socket,
    buffer: Box<[u8]>,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket of `protocol` (`NETLINK_*`) in this thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_cap_ack(true)?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, buffer: vec![0; RECEIVE_BYTES].into_boxed_slice(), sequence: 0 })
    }

    /// Listens to multicast `group` (`RTNLGRP_*`).
    pub(crate) fn join(&mut self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// Sends one request (header included, its sequence is set here) and calls `answer(type,
    /// payload)` for each message until the acknowledgement or the end of the dump.
    pub(crate) fn request(
        &mut self,
        message: &mut [u8],
        mut answer: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send_to(message, &SocketAddr::new(0, 0), 0)?;
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            for part in Messages(&self.buffer[..length]) {
                if part.sequence != self.sequence {
                    continue;
                }
                match part.kind {
                    NLMSG_ERROR => return part.error().map_or(Ok(()), Err),
                    NLMSG_DONE => return Ok(()),
                    kind => answer(kind, part.payload),
                }
            }
        }
    }

    /// Sends a batch whose last message asks for an acknowledgement, and reads what the kernel
    /// has answered. nf_tables answers before `send` returns, so this neither waits nor
    /// allocates.
    pub(crate) fn transact(&mut self, batch: &[u8]) -> io::Result<()> {
        self.socket.send_to(batch, &SocketAddr::new(0, 0), 0)?;
        let mut first_error = None;
        let mut acknowledged = false;
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            for part in Messages(&self.buffer[..length]).filter(|part| part.kind == NLMSG_ERROR) {
                match part.error() {
                    None => acknowledged = true,
                    Some(error) => first_error = first_error.or(Some(error)),
                }
            }
        }
        match first_error {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits at most `timeout` for multicast messages and hands each out; false when none came.
    pub(crate) fn listen(
        &mut self,
        timeout: Duration,
        mut event: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        if !readable(&[self.socket.as_fd()], timeout)? {
            return Ok(false);
        }
        let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        Messages(&self.buffer[..length]).for_each(|part| event(part.kind, part.payload));
        Ok(true)
    }
}

/// Waits until one of `sockets` has something to read; false after `timeout` or a signal.
pub(crate) fn readable(sockets: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<bool> {
    let mut waiting: Vec<_> = sockets.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut waiting, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Message<'_> {
    /// The error an NLMSG_ERROR carries; none for an acknowledgement.
    fn error(&self) -> Option<io::Error> {
        let code = self.payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
        (code != 0).then(|| io::Error::from_raw_os_error(-code))
    }
}

/// The messages of one datagram; a malformed length ends the walk.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.first_chunk::<NLMSG_HEADER_BYTES>()?;
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let length = word(0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let payload = self.0.get(NLMSG_HEADER_BYTES..length)?;
        let sequence = word(8);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, payload })
    }
}

/// Walks netlink attributes: `(kind without flags, value)`.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_from_a_socket_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes) {
                let _ = message.error();
                Attributes(message.payload).for_each(drop);
            }
            Attributes(&bytes).for_each(drop);
        }
    }
}

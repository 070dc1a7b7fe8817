//! Ends the TCP connections of a virtual address, so that its clients get a reset at once.
//!
//! Path: release -> [`end_connections`], while the address is still leased: deleting the
//! address first would leave the clients hanging in their timeouts. Listening sockets stay,
//! they are the application's. Connections that end in a container are the container's
//! namespace's and are not seen here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::Netlink;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Every TCP state but TIME-WAIT (6), CLOSE (7) and LISTEN (10): those hold no client.
const CONNECTED_STATES: u32 = 0xffff & !(1 << 6 | 1 << 7 | 1 << 10);

/// `struct inet_diag_sockid`.
const SOCKET_ID_BYTES: usize = 48;
/// Netlink header and `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 16 + 8 + SOCKET_ID_BYTES;

/// Why connections were not ended.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The kernel cannot end sockets.
    #[error(
        "this kernel cannot end connections (CONFIG_INET_DIAG_DESTROY is missing): clients of a \
         released address notice it by their own timeouts"
    )]
    Unsupported,
    /// Listing or ending failed.
    #[error("ending the connections of {address} failed: {source}; CAP_NET_ADMIN is needed")]
    Kernel {
        /// The virtual address.
        address: IpAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Ends every TCP connection of `address` in this thread's network namespace and returns how
/// many there were.
///
/// # Errors
/// The kernel cannot do it, or CAP_NET_ADMIN is missing.
pub fn end_connections(address: IpAddr) -> Result<usize, SocketsError> {
    let failed = |source| SocketsError::Kernel { address, source };
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_SOCK_DIAG).map_err(failed)?;
    let mut ids = Vec::new();
    // A socket of an IPv6 listener serves IPv4 clients under a mapped address.
    for family in [AF_INET, AF_INET6] {
        let mut dump = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; SOCKET_ID_BYTES]);
        let answer = |_, payload: &[u8]| ids.extend(socket_of(payload, address).map(|id| (family, id)));
        netlink.request(&mut dump, answer).map_err(failed)?;
    }
    let mut ended = 0;
    for (family, id) in &ids {
        match netlink.request(&mut request(SOCK_DESTROY, NLM_F_ACK, *family, id), |_, _| {}) {
            Ok(()) => ended += 1,
            // It ended by itself.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Err(SocketsError::Unsupported),
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(ended)
}

fn request(kind: u16, flags: u16, family: u8, id: &[u8; SOCKET_ID_BYTES]) -> [u8; REQUEST_BYTES] {
    let mut message = [0; REQUEST_BYTES];
    message[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    message[16] = family;
    message[17] = IPPROTO_TCP;
    message[20..24].copy_from_slice(&CONNECTED_STATES.to_ne_bytes());
    message[24..].copy_from_slice(id);
    message
}

/// The id in a `struct inet_diag_msg`, if that socket's own address is `address`.
fn socket_of(payload: &[u8], address: IpAddr) -> Option<[u8; SOCKET_ID_BYTES]> {
    let family = *payload.first()?;
    let id: [u8; SOCKET_ID_BYTES] = payload.get(4..4 + SOCKET_ID_BYTES)?.try_into().ok()?;
    // Source and destination port, then the source address.
    let source: [u8; 16] = id[4..20].try_into().expect("sixteen bytes");
    let own = match family {
        AF_INET => IpAddr::from(Ipv4Addr::new(source[0], source[1], source[2], source[3])),
        AF_INET6 => Ipv6Addr::from(source).to_canonical(),
        _ => return None,
    };
    (own == address).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::effects::testnet::{Namespace, add_address};

    #[test]
    fn clients_of_the_address_get_a_reset_and_others_do_not() {
        let (node, peer) = Namespace::two();
        let vips: [IpAddr; 2] = ["10.0.0.10", "fd00::10"].map(|text| text.parse().expect("an address"));
        let listener = node.run(|| {
            add_address("eth0", vips[0], 32);
            add_address("eth0", vips[1], 128);
            TcpListener::bind("[::]:80").expect("listens for both families")
        });
        let connect = |address: &str| {
            let client = peer.run(|| TcpStream::connect((address, 80))).expect("connects");
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            (client, listener.accept().expect("accepts").0)
        };
        let (mut client4, _server4) = connect("10.0.0.10");
        let (mut client6, _server6) = connect("fd00::10");
        let (other, _server) = connect("10.0.0.1");
        for (vip, client) in vips.into_iter().zip([&mut client4, &mut client6]) {
            let ended = node.run(|| end_connections(vip)).expect("CAP_NET_ADMIN");
            assert_eq!(ended, 1, "connections of {vip}");
            let error = client.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(node.run(|| end_connections(vip)).expect("again"), 0);
        }
        other.set_nonblocking(true).expect("a socket");
        let error = (&other).read(&mut [0]).expect_err("nothing to read");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the other connection lives");
        connect("10.0.0.10");
    }
}

//! The TCP socket: which cable, where it is bound, and its options.
//!
//! Used by the connector. Knows nothing of TLS or frames.

use super::error::LinkError;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// Which cable a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// The cable between the two nodes.
    Direct,
    /// The network of the clients.
    Lan,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct link",
            Self::Lan => "LAN",
        })
    }
}

/// One way to the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathConfig {
    /// Traffic is bound to this interface; `None`: wherever the route to the peer leads.
    pub interface: Option<String>,
    /// This node's address on it.
    pub address: IpAddr,
    /// The peer's address on it.
    pub peer: IpAddr,
    /// The port the primary listens on.
    pub port: u16,
}

/// The kernel's priority of bulk (TC_PRIO_BULK): in a default queue, heartbeats overtake this connection.
const PRIORITY_BULK: u32 = 2;

/// What may wait unsent in the kernel before a write has to wait: a fresh acknowledgement goes before the
/// next frame, not behind megabytes.
const NOT_SENT_BYTES: u32 = 128 << 10;

/// After this without an acknowledgement the kernel gives up. Longer than the silence deadline, which
/// finds a dead peer sooner: the kernel also counts the time a *living* peer's window is closed by back-pressure.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that wait to be accepted: one peer, two paths, a few retries.
const BACKLOG: i32 = 8;

impl PathConfig {
    /// Where the primary listens.
    fn listen_address(&self) -> SocketAddr {
        self.socket_address(self.address, self.port)
    }

    /// Where the secondary connects to.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.socket_address(self.peer, self.port)
    }

    /// An IPv6 link-local address means nothing without its interface.
    fn socket_address(&self, address: IpAddr, port: u16) -> SocketAddr {
        match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, port, 0, self.interface_index()).into()
            }
            _ => SocketAddr::new(address, port),
        }
    }

    fn interface_index(&self) -> u32 {
        let Some(name) = &self.interface else { return 0 };
        let probe = Socket::new(Domain::IPV4, Type::DGRAM, None);
        probe.ok().and_then(|s| rustix::net::netdevice::name_to_index(&s, name).ok()).unwrap_or(0)
    }

    /// A socket on this path, not yet connected or listening.
    fn socket(&self, local: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&local.into())?;
        Ok(socket)
    }

    /// Listens on this node's address of the path.
    pub(crate) fn listen(&self) -> Result<TcpListener, LinkError> {
        let address = self.listen_address();
        let listen = || {
            let socket = self.socket(address)?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        listen().map_err(|source| LinkError::Socket { what: "listen on", address, source: Arc::new(source) })
    }

    /// Connects from this node's address to the peer's.
    pub(crate) async fn connect(&self, limit: Duration) -> Result<TcpStream, LinkError> {
        let address = self.peer_address();
        let failed =
            |source: io::Error| LinkError::Socket { what: "connect to", address, source: Arc::new(source) };
        let socket = self.socket(self.socket_address(self.address, 0)).map_err(failed)?;
        let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
        let stream = match tokio::time::timeout(limit, socket.connect(address)).await {
            Ok(result) => result.map_err(failed)?,
            Err(_) => return Err(LinkError::NoAnswer { peer: address, after: limit }),
        };
        Ok(stream)
    }
}

/// Sets the options of a connected socket.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_priority(PRIORITY_BULK)?;
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

//! The rtnetlink requests the lab's cables are made of, on the agent's blocking socket.
//!
//! One socket belongs to one network namespace, that of the thread that opened it, for ever.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::effects::route;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// Longest burst a shaped cable lets through at full speed: two frames of the largest size the
/// kernel hands over at once (64 KiB), or nothing large would ever pass.
const SHAPE_BURST_BYTES: u32 = 128 * 1024;
/// Frames a shaped cable keeps waiting: 100 ms at 100 Mbit/s, as in a small switch.
const SHAPE_QUEUE_BYTES: u32 = 1_250_000;

/// One end of a new cable.
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
}

/// What a cable does to the frames leaving through one interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queue {
    /// Passes everything at once.
    Open,
    /// Drops everything in silence; carrier and interface stay.
    Dead,
    /// Passes this many bits each second.
    Shaped {
        /// In Mbit/s.
        rate_mbit: u32,
    },
}

/// An rtnetlink socket in one network namespace.
pub(super) struct Route(route::Route);

impl Route {
    /// Opens one in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        route::Route::open().map(Self)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.0.request(message, flags).map(drop)
    }

    /// Makes a bridge that forwards at once and to all: no spanning tree, no multicast snooping.
    pub(super) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
        let mut message = named(name);
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)]));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        self.set_up(name, true)
    }

    /// Makes a cable: `near` here, `far` in the namespace `far_namespace`. Both ends are down.
    pub(super) fn add_cable(
        &mut self,
        near: &End<'_>,
        far: &End<'_>,
        far_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut peer = named(far.name);
        peer.attributes.push(LinkAttribute::Address(far.mac.to_vec()));
        peer.attributes.push(LinkAttribute::NetNsFd(far_namespace.as_raw_fd()));
        let mut message = named(near.name);
        message.attributes.push(LinkAttribute::Address(near.mac.to_vec()));
        let data = InfoData::Veth(InfoVeth::Peer(peer));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]));
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets an interface up or down. Down here takes the carrier from the other end.
    pub(super) fn set_up(&mut self, name: &str, up: bool) -> io::Result<()> {
        let mut message = named(name);
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Plugs an interface into a bridge of the same namespace.
    pub(super) fn set_bridge(&mut self, name: &str, bridge: &str) -> io::Result<()> {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Controller(self.index(bridge)?));
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes an interface and with it the other end of its cable. Gone already is done.
    pub(super) fn delete(&mut self, name: &str) -> io::Result<()> {
        match self.request(RouteNetlinkMessage::DelLink(named(name)), 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Adds an address; IPv6 without duplicate detection, which would hold it back for a second.
    pub(super) fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = prefix;
        message.header.index = self.index(name)?;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        match address {
            IpAddr::V4(v4) => {
                let broadcast = v4.to_bits() | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                message.attributes.push(AddressAttribute::Broadcast(broadcast.into()));
            }
            IpAddr::V6(_) => message.header.flags |= AddressHeaderFlags::Nodad,
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets what happens to the frames that leave through an interface.
    pub(super) fn set_queue(&mut self, name: &str, queue: Queue) -> io::Result<()> {
        let mut message = TcMessage::with_index(self.index(name)?.cast_signed());
        message.header.parent = TcHandle::ROOT;
        match queue {
            Queue::Open => {
                // ENOENT, EINVAL: there is none but the kernel's own.
                return match self.request(RouteNetlinkMessage::DelQueueDiscipline(message), 0) {
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
                    other => other,
                };
            }
            Queue::Dead => message.attributes.push(TcAttribute::Kind("blackhole".into())),
            Queue::Shaped { rate_mbit } => {
                message.attributes.push(TcAttribute::Kind("tbf".into()));
                message.attributes.push(TcAttribute::Options(token_bucket(rate_mbit)));
            }
        }
        message.header.handle = TcHandle { major: 1, minor: 0 };
        self.set_queue_anew(name, message)
    }

    /// A discipline of one kind cannot become one of another: the old one goes first.
    fn set_queue_anew(&mut self, name: &str, message: TcMessage) -> io::Result<()> {
        self.set_queue(name, Queue::Open)?;
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The index of an interface of this namespace.
    pub(super) fn index(&mut self, name: &str) -> io::Result<u32> {
        Ok(self.0.link(name)?.index)
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.attributes.push(LinkAttribute::IfName(name.into()));
    message
}

/// `struct tc_tbf_qopt` and its attributes (linux/pkt_sched.h).
fn token_bucket(rate_mbit: u32) -> Vec<TcOption> {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    const LINKLAYER_ETHERNET: u8 = 1;
    let rate_bytes = u64::from(rate_mbit) * 1_000_000 / 8;
    // tc_ratespec: cell_log, linklayer, overhead u16, cell_align i16, mpu u16, rate u32.
    let mut rate = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    rate.extend_from_slice(&u32::try_from(rate_bytes).unwrap_or(u32::MAX).to_ne_bytes());
    let mut options = rate;
    options.extend_from_slice(&[0; 12]); // no peak rate
    options.extend_from_slice(&SHAPE_QUEUE_BYTES.to_ne_bytes()); // limit
    options.extend_from_slice(&[0; 8]); // buffer and mtu: TCA_TBF_BURST says it in bytes
    let mut all = vec![DefaultNla::new(TCA_TBF_PARMS, options)];
    if rate_bytes > u64::from(u32::MAX) {
        all.push(DefaultNla::new(TCA_TBF_RATE64, rate_bytes.to_ne_bytes().to_vec()));
    }
    all.push(DefaultNla::new(TCA_TBF_BURST, SHAPE_BURST_BYTES.to_ne_bytes().to_vec()));
    all.into_iter().map(TcOption::Other).collect()
}

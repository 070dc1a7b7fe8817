//! Two network namespaces joined by a cable, for the tests of effects and probes.
//!
//! A namespace lives as long as its value; nothing is left behind when a test dies.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::route::Route;

/// A network namespace.
pub(crate) struct Namespace(File);

impl Namespace {
    /// `eth0` to `eth0`: 10.0.0.1 and fd00::1 here, 10.0.0.2 and fd00::2 there.
    pub(crate) fn two() -> (Self, Self) {
        let (near, far) = (Self::new(), Self::new());
        let far_fd = far.0.as_raw_fd();
        near.run(|| add_cable(far_fd));
        for namespace in [&near, &far] {
            namespace.run(|| ["lo", "eth0"].map(set_up));
        }
        for (namespace, last) in [(&near, 1), (&far, 2)] {
            namespace.run(|| {
                await_operational("eth0");
                add_address("eth0", IpAddr::from([10, 0, 0, last]), 24);
                add_address("eth0", IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]), 64);
            });
        }
        (near, far)
    }

    /// One without cables.
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this short-lived thread changes.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("CAP_SYS_ADMIN is needed to make a network namespace");
            File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace")
        });
        Self(made.join().expect("the namespace was made"))
    }

    /// A path of this process by which other programs find it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` on a thread inside the namespace. Sockets stay inside it afterwards.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("CAP_SYS_ADMIN is needed to enter a network namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn add_cable(far_fd: i32) {
    let mut far = LinkMessage::default();
    far.attributes = vec![LinkAttribute::IfName("eth0".to_owned()), LinkAttribute::NetNsFd(far_fd)];
    let mut near = LinkMessage::default();
    near.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]),
    ];
    let message = RouteNetlinkMessage::NewLink(near);
    Route::open()
        .and_then(|mut route| route.request(message, NLM_F_CREATE | NLM_F_EXCL))
        .expect("a veth pair");
}

/// Waits until the kernel has noticed that `interface` works: IPv6 answers nobody before.
fn await_operational(interface: &str) {
    let mut route = Route::open().expect("netlink");
    let up = LinkAttribute::OperState(State::Up);
    loop {
        let mut wanted = LinkMessage::default();
        wanted.attributes.push(LinkAttribute::IfName(interface.to_owned()));
        let answers = route.request(RouteNetlinkMessage::GetLink(wanted), 0).expect("the interface");
        let is_up = |answer: &RouteNetlinkMessage| matches!(answer, RouteNetlinkMessage::NewLink(link) if link.attributes.contains(&up));
        if answers.iter().any(is_up) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Sets `interface` up.
pub(crate) fn set_up(interface: &str) {
    change(interface, true);
}

/// Sets `interface` down: the other end loses its carrier.
pub(crate) fn set_down(interface: &str) {
    change(interface, false);
}

fn change(interface: &str, up: bool) {
    let mut route = Route::open().expect("netlink");
    let mut message = LinkMessage::default();
    message.header.index = route.link(interface).expect("the interface").index;
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    route.request(RouteNetlinkMessage::SetLink(message), 0).expect("CAP_NET_ADMIN");
}

/// Adds a permanent address without duplicate address detection.
pub(crate) fn add_address(interface: &str, address: IpAddr, prefix: u8) {
    let mut route = Route::open().expect("netlink");
    let mut message = AddressMessage::default();
    message.header.index = route.link(interface).expect("the interface").index;
    message.header.prefix_len = prefix;
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    route
        .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
        .expect("CAP_NET_ADMIN to add an address");
    if let IpAddr::V6(v6) = address {
        await_listening(v6);
    }
}

/// Waits until the kernel listens for solicitations of `address`: it joins their group later.
fn await_listening(address: Ipv6Addr) {
    let [.., a, b, c] = address.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    let groups = || std::fs::read_to_string("/proc/thread-self/net/igmp6").expect("IPv6 is there");
    while !groups().contains(&group) {
        std::thread::yield_now();
    }
}

//! The guard on a real cable: what a neighbour sees of an address with and without its lease.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::config::Vip;
use crate::effects::frames::{arp_request, solicitation};
use crate::effects::packet::{MAX_FRAME_BYTES, PacketSocket, Receive};
use crate::effects::route::Route;
use crate::effects::testnet::{Namespace, add_address};
use crate::effects::vip::VipAddresses;

const VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10);
const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);

fn pair_id() -> PairId {
    "main".parse().expect("a pair's name")
}

fn vips() -> [IpAddr; 2] {
    [VIP4.into(), VIP6.into()]
}

/// A node with both virtual addresses configured and guarded, and a neighbour who listens.
struct Cable {
    node: Namespace,
    peer: Namespace,
    guard: Guard,
    tcp: [TcpListener; 2],
    /// Bound to the virtual addresses.
    udp: [UdpSocket; 2],
    /// Bound to the node's own addresses: nothing guards these.
    own: [UdpSocket; 2],
    /// The neighbour's sockets.
    asking: [UdpSocket; 2],
    sniffer: PacketSocket,
}

impl Cable {
    fn new() -> Self {
        let (node, peer) = Namespace::two();
        let (guard, tcp, udp, own) = node.run(|| {
            let guard = Guard::install(&pair_id(), &vips(), "eth0").expect("CAP_NET_ADMIN");
            let mut addresses = VipAddresses::open().expect("netlink");
            for (address, prefix) in vips().into_iter().zip([24, 64]) {
                addresses.add("eth0", Vip { address, prefix }, 600).expect("adds");
            }
            let tcp = vips().map(|vip| TcpListener::bind((vip, 80)).expect("listens"));
            (
                guard,
                tcp,
                vips().map(bound),
                ["10.0.0.1", "fd00::1"].map(|own| bound(own.parse().expect("own"))),
            )
        });
        let (asking, sniffer) = peer.run(|| {
            let mut sniffer = PacketSocket::open(Receive::All).expect("CAP_NET_RAW");
            sniffer.bind(eth0().index).expect("binds");
            (["10.0.0.2", "fd00::2"].map(|own| bound(own.parse().expect("own"))), sniffer)
        });
        Self { node, peer, guard, tcp, udp, own, asking, sniffer }
    }

    /// As on a kernel without the hook at the interface.
    fn without_egress(mut self) -> Self {
        let mut batch = Messages::batch();
        batch.delete_table(Family::Netdev, &self.guard.table);
        self.guard.netlink.transact(batch.end().bytes()).expect("the table goes");
        self.guard.set_egress(false);
        assert!(self.guard.present().expect("reads"));
        self
    }

    /// Asks for and of the addresses in every way that makes a node answer.
    fn stimulate(&self) {
        self.peer.run(|| {
            let link = eth0();
            let socket = PacketSocket::open(Receive::Nothing).expect("CAP_NET_RAW");
            let peer4 = Ipv4Addr::new(10, 0, 0, 2);
            let peer6: Ipv6Addr = "fd00::2".parse().expect("an address");
            for frame in [
                arp_request(link.mac, peer4, VIP4),
                arp_request(link.mac, Ipv4Addr::UNSPECIFIED, VIP4),
                solicitation(link.mac, peer6, VIP6),
                solicitation(link.mac, Ipv6Addr::UNSPECIFIED, VIP6),
            ] {
                socket.send(link.index, &frame).expect("sends");
            }
            learn_neighbour();
            echo(Domain::IPV4, Protocol::ICMPV4, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0], VIP4.into());
            echo(Domain::IPV6, Protocol::ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0], VIP6.into());
        });
        for (socket, vip) in self.asking.iter().zip(vips()) {
            socket.send_to(b"question", (vip, 7000)).expect("sends");
        }
        self.node.run(|| advertise_from("fd00::1".parse().expect("an address")));
        for (socket, peer) in self.udp.iter().zip(["10.0.0.2:7000", "[fd00::2]:7000"]) {
            // Refused here, with EPERM, when the guard drops it.
            let _ = socket.send_to(b"unasked", peer);
        }
    }

    /// The kinds of frames the neighbour has seen from the addresses up to now.
    fn seen(&self) -> Vec<&'static str> {
        // What the node sends last is seen last: then everything before it has been seen.
        self.own[0].send_to(b"end of what was sent", "10.0.0.2:7000").expect("sends");
        let mut seen = Vec::new();
        let mut frame = [0; MAX_FRAME_BYTES];
        loop {
            let frame = self.sniffer.await_frame(&mut frame);
            seen.extend(from_vip(frame));
            if frame.ends_with(b"end of what was sent") {
                seen.sort();
                seen.dedup();
                return seen;
            }
        }
    }

    /// Waits until the neighbour's questions so far have been handled by the node.
    fn settle(&self) {
        for ((asking, own), address) in
            self.asking.iter().zip(&self.own).zip(["10.0.0.1:7000", "[fd00::1]:7000"])
        {
            asking.send_to(b"settle", address).expect("sends");
            let mut buffer = [0; 16];
            own.recv(&mut buffer).expect("the node's own address is not guarded");
        }
    }

    fn connect(&self, family: usize) -> (TcpStream, TcpStream) {
        let address = SocketAddr::from((vips()[family], 80));
        let asking = self.peer.run(|| TcpStream::connect_timeout(&address, PATIENCE)).expect("connects");
        let (answering, _) = self.tcp[family].accept().expect("accepts");
        (asking, answering)
    }

    fn await_end_of_lease(&mut self) {
        while self.guard.lease_remaining().expect("reads").is_some() {
            std::thread::yield_now();
        }
    }
}

fn eth0() -> crate::effects::route::Link {
    Route::open().and_then(|mut route| route.link("eth0")).expect("eth0")
}

fn bound(address: IpAddr) -> UdpSocket {
    bound_to(&SocketAddr::from((address, 7000)).to_string())
}

fn bound_to(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("binds");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn echo(domain: Domain, protocol: Protocol, message: &[u8], to: IpAddr) {
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("CAP_NET_RAW");
    socket.send_to(message, &SocketAddr::from((to, 0)).into()).expect("sends");
}

/// Advertises the virtual address from another one of the node's addresses.
fn advertise_from(source: Ipv6Addr) {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).expect("CAP_NET_RAW");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("binds");
    let mut message = [0; 24];
    message[0] = 136;
    message[8..].copy_from_slice(&VIP6.octets());
    let to = SocketAddr::from((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), 0));
    // Refused here, with EPERM, when the guard drops it.
    let _ = socket.send_to(&message, &to.into());
}

/// Tells the neighbour's kernel the node's hardware address for both addresses, so that its
/// questions leave although the node does not answer ARP.
fn learn_neighbour() {
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
    };
    let mut route = Route::open().expect("netlink");
    let index = eth0().index;
    let far_mac = node_mac(&mut route);
    for vip in vips() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        let address = match vip {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.header.family = if vip.is_ipv4() {
            netlink_packet_route::AddressFamily::Inet
        } else {
            netlink_packet_route::AddressFamily::Inet6
        };
        message.attributes = vec![
            NeighbourAttribute::Destination(address),
            NeighbourAttribute::LinkLayerAddress(far_mac.to_vec()),
        ];
        let flags = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
        route.request(RouteNetlinkMessage::NewNeighbour(message), flags).expect("CAP_NET_ADMIN");
    }
}

/// The node's hardware address, as the neighbour has learnt it for 10.0.0.1.
fn node_mac(route: &mut Route) -> [u8; 6] {
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
    let socket = UdpSocket::bind("10.0.0.2:0").expect("binds");
    loop {
        socket.send_to(b"who are you", "10.0.0.1:9").expect("sends");
        let dump = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let known = route.request(dump, netlink_packet_core::NLM_F_DUMP).expect("dumps");
        let found = known.iter().find_map(|answer| {
            let RouteNetlinkMessage::NewNeighbour(neighbour) = answer else { return None };
            let wanted = NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(10, 0, 0, 1)));
            neighbour.attributes.contains(&wanted).then_some(())?;
            neighbour.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
                _ => None,
            })
        });
        if let Some(mac) = found {
            return mac;
        }
    }
}

/// What kind of frame this is, if it comes from or speaks for a virtual address.
fn from_vip(frame: &[u8]) -> Option<&'static str> {
    let (v4, v6) = (VIP4.octets(), VIP6.octets());
    match frame[12..14] {
        [8, 6] if frame[28..32] == v4 => Some("arp"),
        [8, 0] if frame[26..30] == v4 => Some(match frame[23] {
            1 => "icmp4",
            6 => "tcp4",
            17 => "udp4",
            _ => "other4",
        }),
        [0x86, 0xdd] if frame[20] == 58 && frame[54] == 136 && frame[62..78] == v6 => Some("advertisement"),
        [0x86, 0xdd] if frame[22..38] == v6 => Some(match frame[20] {
            6 => "tcp6",
            17 => "udp6",
            58 => "icmp6",
            _ => "other6",
        }),
        _ => None,
    }
}

#[test]
fn with_a_lease_the_address_answers_in_every_way() {
    let mut cable = Cable::new();
    cable.guard.renew(LONG).expect("opens the lease");
    let connections = [cable.connect(0), cable.connect(1)];
    cable.stimulate();
    cable.settle();
    assert_eq!(
        cable.seen(),
        ["advertisement", "arp", "icmp4", "icmp6", "tcp4", "tcp6", "udp4", "udp6"],
        "all kinds of frames come from the leased addresses"
    );
    for (mut asking, mut answering) in connections {
        answering.write_all(b"ok").expect("writes");
        let mut buffer = [0; 2];
        asking.read_exact(&mut buffer).expect("reads");
    }
}

#[test]
fn when_the_lease_has_timed_out_nothing_leaves_although_the_address_is_configured() {
    silent_after_its_lease(Cable::new());
    silent_after_its_lease(Cable::new().without_egress());
}

fn silent_after_its_lease(mut cable: Cable) {
    cable.guard.renew(LONG).expect("opens the lease");
    let mut connections = [cable.connect(0), cable.connect(1)];
    cable.seen();
    cable.guard.renew(Duration::from_millis(20)).expect("shortens the lease");
    cable.await_end_of_lease();
    cable.seen();
    for (asking, answering) in &mut connections {
        answering.write_all(b"data of an established connection").expect("into the socket's buffer");
        asking.write_all(b"a request").expect("into the socket's buffer");
    }
    cable.stimulate();
    cable.settle();
    drop(connections);
    assert_eq!(cable.seen(), [""; 0], "frames from an address without a lease");
    for socket in &cable.udp {
        socket.set_nonblocking(true).expect("a socket");
        socket.recv(&mut [0; 16]).expect_err("no question has come in either");
    }
    let remaining = cable.node.run(|| VipAddresses::open().expect("netlink").leftovers("eth0"));
    assert_eq!(remaining.expect("lists").len(), 2, "both addresses are still configured");
    cable.guard.renew(LONG).expect("opens the lease again");
    cable.stimulate();
    cable.settle();
    assert!(cable.seen().contains(&"udp4"), "the same questions are answered with a lease");
}

#[test]
fn what_waits_for_a_neighbour_or_leaves_by_a_packet_socket_is_stopped_at_the_interface() {
    let mut cable = Cable::new();
    assert!(cable.guard.guards_egress(), "this kernel has no netdev egress hook (5.16, NETFILTER_EGRESS)");
    cable.guard.renew(LONG).expect("opens the lease");
    let absent = "10.0.0.77:7000";
    cable.udp[0].send_to(b"queued while leased", absent).expect("nobody answers for the neighbour yet");
    let announce = |cable: &Cable| {
        cable.node.run(|| {
            let socket = PacketSocket::open(Receive::Nothing).expect("CAP_NET_RAW");
            // Refused here, with ENOBUFS, when the guard drops it.
            let _ = socket.send(eth0().index, &arp_request(eth0().mac, VIP4, VIP4));
        });
    };
    announce(&cable);
    assert!(cable.seen().contains(&"arp"), "it leaves while leased");
    cable.guard.renew(Duration::from_millis(20)).expect("shortens the lease");
    cable.await_end_of_lease();
    cable.seen();
    announce(&cable);
    // The neighbour comes and asks for the node: the kernel knows it now, and sends what has waited.
    let neighbour = cable.peer.run(|| {
        add_address("eth0", IpAddr::from([10, 0, 0, 77]), 24);
        let neighbour = bound_to(absent);
        let socket = PacketSocket::open(Receive::Nothing).expect("CAP_NET_RAW");
        let asks = arp_request(eth0().mac, Ipv4Addr::new(10, 0, 0, 77), Ipv4Addr::new(10, 0, 0, 1));
        socket.send(eth0().index, &asks).expect("sends");
        neighbour
    });
    cable.own[0].send_to(b"known", absent).expect("sends");
    let mut buffer = [0; 32];
    let length = neighbour.recv(&mut buffer).expect("the node's own address is not guarded");
    assert_eq!(&buffer[..length], b"known");
    assert_eq!(cable.seen(), [""; 0], "frames from an address without a lease");
}

#[test]
fn a_guard_of_another_interface_is_replaced() {
    let (node, _peer) = Namespace::two();
    node.run(|| {
        let mut first = Guard::install(&pair_id(), &vips(), "lo").expect("CAP_NET_ADMIN");
        assert!(first.guards_egress() && first.present().expect("reads"));
        let mut second = Guard::install(&pair_id(), &vips(), "eth0").expect("CAP_NET_ADMIN");
        assert!(second.guards_egress() && second.present().expect("reads"));
        assert!(!first.present().expect("reads"));
        second.renew(LONG).expect("opens");
        drop(second);
        let mut third = Guard::install(&pair_id(), &vips(), "eth0").expect("finds it");
        assert!(third.lease_remaining().expect("reads").is_some(), "the lease goes on");
    });
}

#[test]
fn a_translated_port_falls_silent_with_the_lease() {
    let mut cable = Cable::new();
    cable.node.run(|| {
        let redirect = Messages::redirect("forwarding", 8080, 7000);
        let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).expect("netlink");
        netlink.transact(redirect.bytes()).expect("redirects port 8080 to the node's own port 7000");
    });
    cable.guard.renew(LONG).expect("opens the lease");
    cable.asking[0].send_to(b"question", (VIP4, 8080)).expect("sends");
    let mut buffer = [0; 16];
    let (_, asked_by) = cable.own[0].recv_from(&mut buffer).expect("the translated question");
    cable.own[0].send_to(b"answer", asked_by).expect("sends");
    let (_, answered_by) = cable.asking[0].recv_from(&mut buffer).expect("the translated answer");
    assert_eq!(answered_by, SocketAddr::from((VIP4, 8080)));
    cable.seen();
    cable.guard.delete_lease().expect("ends the lease");
    // The answering program knows nothing of the address; translation puts it into the packet.
    let _ = cable.own[0].send_to(b"late answer", asked_by);
    cable.asking[0].send_to(b"late question", (VIP4, 8080)).expect("sends");
    let seen = cable.node.run(|| {
        // The node's own port 7000 talks to the same neighbour through the translation, so the
        // end is marked from another port.
        let other = UdpSocket::bind("10.0.0.1:7002").expect("binds");
        other.send_to(b"end of what was sent", "10.0.0.2:7000").expect("sends");
        let mut seen = Vec::new();
        let mut frame = [0; MAX_FRAME_BYTES];
        loop {
            let frame = cable.sniffer.await_frame(&mut frame);
            seen.extend(from_vip(frame));
            if frame.ends_with(b"end of what was sent") {
                return seen;
            }
        }
    });
    assert_eq!(seen, [""; 0], "translated frames from an address without a lease");
}

/// What a container engine sets up: a namespace behind the node, to which port 9000 is translated.
fn container(node: &Namespace) -> Namespace {
    let container = Namespace::new();
    let path = container.path();
    node.run(|| {
        command("ip", &["link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", &path], "");
        command("ip", &["address", "add", "172.31.0.1/24", "dev", "inside"], "");
        command("ip", &["link", "set", "inside", "up"], "");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("CAP_NET_ADMIN in this namespace");
        let rules = "table ip container { chain before { type nat hook prerouting priority dstnat;
                     udp dport 9000 dnat to 172.31.0.2:9000; }; }\n";
        command("nft", &["-f", "-"], rules);
    });
    container.run(|| {
        command("ip", &["address", "add", "172.31.0.2/24", "dev", "eth0"], "");
        command("ip", &["link", "set", "eth0", "up"], "");
        command("ip", &["route", "add", "default", "via", "172.31.0.1"], "");
    });
    container
}

/// Runs a program to its end; the packages iproute2 and nftables have them.
fn command(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{program} {arguments:?}");
}

#[test]
fn the_port_of_a_container_falls_silent_with_the_lease() {
    let mut cable = Cable::new();
    let container = container(&cable.node);
    let inside = container.run(|| bound_to("172.31.0.2:9000"));
    let mut buffer = [0; 32];
    let mut heard = |what: &[u8]| {
        let (length, asked_by) = inside.recv_from(&mut buffer).expect("what is translated arrives");
        assert_eq!(&buffer[..length], what);
        asked_by
    };
    cable.guard.renew(LONG).expect("opens the lease");
    cable.asking[0].send_to(b"question", (VIP4, 9000)).expect("sends");
    let asked_by = heard(b"question");
    inside.send_to(b"answer", asked_by).expect("sends");
    let mut answer = [0; 32];
    let (_, answered_by) = cable.asking[0].recv_from(&mut answer).expect("the translated answer");
    assert_eq!(answered_by, SocketAddr::from((VIP4, 9000)));
    cable.seen();

    cable.guard.delete_lease().expect("ends the lease");
    // The container lives on: it answers late, and the client asks again on the old and on a new flow.
    inside.send_to(b"late answer", asked_by).expect("the container knows of no lease");
    let other = cable.peer.run(|| bound_to("10.0.0.2:7001"));
    for socket in [&cable.asking[0], &other] {
        socket.send_to(b"late question", (VIP4, 9000)).expect("sends");
    }
    // By the node's own address the same port still works, and what came before it came first.
    other.send_to(b"the end", ("10.0.0.1", 9000)).expect("sends");
    let asked_by = heard(b"the end");
    inside.send_to(b"end of what was sent", asked_by).expect("sends");
    let mut frame = [0; MAX_FRAME_BYTES];
    let mut seen = Vec::new();
    loop {
        let frame = cable.sniffer.await_frame(&mut frame);
        seen.extend(from_vip(frame));
        if frame.ends_with(b"end of what was sent") {
            break;
        }
    }
    assert_eq!(seen, [""; 0], "frames of the container from an address without a lease");
}

#[test]
fn deleting_the_lease_is_possible_at_any_time_and_silences_at_once() {
    let mut cable = Cable::new();
    cable.guard.delete_lease().expect("nothing to end yet");
    cable.guard.renew(LONG).expect("opens the lease");
    assert!(cable.guard.lease_remaining().expect("reads").is_some());
    cable.guard.delete_lease().expect("ends the lease");
    assert_eq!(cable.guard.lease_remaining().expect("reads"), None);
    cable.stimulate();
    cable.settle();
    assert_eq!(cable.seen(), [""; 0]);
}

#[test]
fn renewing_moves_the_end_in_both_directions() {
    let (node, _peer) = Namespace::two();
    let mut guard = node.run(|| Guard::install(&pair_id(), &vips(), "eth0")).expect("CAP_NET_ADMIN");
    guard.renew(Duration::from_secs(30)).expect("opens");
    guard.renew(Duration::from_secs(600)).expect("lengthens");
    let long = guard.lease_remaining().expect("reads").expect("is open");
    assert!(long > Duration::from_secs(500) && long <= Duration::from_secs(600), "{long:?}");
    guard.renew(Duration::from_secs(300)).expect("shortens");
    let short = guard.lease_remaining().expect("reads").expect("is open");
    assert!(short <= Duration::from_secs(300), "{short:?}");
    let error = guard.renew_until(boottime_us()).expect_err("a lease that has just ended");
    assert!(matches!(error, GuardError::Ended { .. }), "{error}");
}

#[test]
fn a_flushed_ruleset_is_noticed_and_the_guard_comes_back_without_a_lease() {
    let (node, _peer) = Namespace::two();
    let mut guard = node.run(|| Guard::install(&pair_id(), &vips(), "eth0")).expect("CAP_NET_ADMIN");
    guard.renew(LONG).expect("opens");
    assert!(guard.present().expect("reads"));
    node.run(|| {
        let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).expect("netlink");
        netlink.transact(Messages::flush_ruleset().bytes()).expect("nft flush ruleset");
    });
    assert!(!guard.present().expect("reads"));
    for error in [guard.renew(LONG), guard.delete_lease()].map(|result| result.expect_err("gone")) {
        assert!(matches!(error, GuardError::Gone { .. }), "{error}");
    }
    assert_eq!(guard.lease_remaining().expect("reads"), None);
    guard.reinstall().expect("installs again");
    assert!(guard.present().expect("reads"));
    assert_eq!(guard.lease_remaining().expect("reads"), None);
    guard.renew(LONG).expect("opens again");
}

#[test]
fn a_restarted_agent_finds_the_running_lease_and_other_addresses_replace_it() {
    let (node, _peer) = Namespace::two();
    node.run(|| {
        let mut first = Guard::install(&pair_id(), &vips(), "eth0").expect("CAP_NET_ADMIN");
        first.renew(LONG).expect("opens");
        drop(first);
        let mut second = Guard::install(&pair_id(), &vips(), "eth0").expect("finds it");
        assert!(second.lease_remaining().expect("reads").is_some(), "the lease goes on");
        let mut other = Guard::install(&pair_id(), &[VIP4.into()], "eth0").expect("replaces it");
        assert_eq!(other.lease_remaining().expect("reads"), None);
        other.remove().expect("removes");
        assert!(!second.present().expect("reads"));
    });
}

#[test]
fn two_pairs_do_not_share_a_lease() {
    let (node, _peer) = Namespace::two();
    node.run(|| {
        let mut one =
            Guard::install(&"one".parse().expect("a name"), &vips(), "eth0").expect("CAP_NET_ADMIN");
        let mut two = Guard::install(
            &"two".parse().expect("a name"),
            &["10.0.0.11".parse().expect("an address")],
            "eth0",
        )
        .expect("CAP_NET_ADMIN");
        one.renew(LONG).expect("opens");
        assert_eq!(two.lease_remaining().expect("reads"), None);
    });
}

#[test]
fn an_empty_or_doubled_list_of_addresses_is_refused() {
    for list in [vec![], vec![VIP4.into(), VIP4.into()]] {
        let error = Guard::install(&pair_id(), &list, "eth0").err().expect("refused");
        assert!(matches!(error, GuardError::Count(_)), "{error}");
    }
}

#[test]
fn a_user_namespace_is_enough() {
    const INSIDE: &str = "LOCKSTEP_TEST_INSIDE_USER_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        let mut guard =
            Guard::install(&pair_id(), &vips(), "eth0").expect("CAP_NET_ADMIN of the user namespace");
        guard.renew(LONG).expect("opens");
        assert!(guard.lease_remaining().expect("reads").is_some());
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("the test binary"));
    child.args(["--exact", "effects::guard::tests::a_user_namespace_is_enough"]).env(INSIDE, "1");
    let enter = || {
        let flags = rustix::thread::UnshareFlags::NEWUSER | rustix::thread::UnshareFlags::NEWNET;
        // SAFETY: between fork and exec the child has one thread and shares nothing it changes.
        unsafe { rustix::thread::unshare_unsafe(flags) }?;
        std::fs::write("/proc/self/uid_map", "0 0 1")
    };
    // SAFETY: `enter` makes system calls only; the short buffers it needs are its own.
    unsafe { child.pre_exec(enter) };
    let output = child.output().expect("user namespaces are allowed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

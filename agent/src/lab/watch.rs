//! The watcher process (`lockstep lab-watch`): every frame from a virtual address, on the switch.
//!
//! It listens on all ports of the LAN's switch for frames coming *in*, so no flooding and no
//! learning hides a sender. The switch's own copy of a flooded frame is left out: it comes later
//! and could seem to be sent after another sender's. Meanwhile it asks for each virtual address from the client's machine,
//! by broadcast ARP or multicast neighbour solicitation, so that a second holder with nothing to
//! say has to answer. It ends, and writes down what it saw, when its standard input ends.

use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use pnet::packet::icmpv6::Icmpv6Packet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::layout::{self, BRIDGE, Home, Host, LAN_INTERFACE};
use super::namespace;
use super::route::Mac;
use super::sniffer::{HardwareAddress, Observations, now_ns};
use super::spec::Spec;

/// Between two questions for the same address.
const ASK_NS: u64 = 10_000_000;
/// Enough of a frame for its Ethernet, ARP or IP and neighbour discovery headers.
const HEAD_BYTES: usize = 96;
/// Room for frames while the watcher waits for a processor.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// More runs than this are no takeover but two holders in open fight.
const RUNS_MAX: usize = 1_000_000;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Watches until standard input ends.
pub(super) fn run(home: &Home, client: u32) -> Result<()> {
    let vips = Spec::load(home)?.vip;
    let ear = listen().context("packet socket on the switch")?;
    let switch = netdevice::name_to_index(ear.as_fd(), BRIDGE).context("the switch")?;
    let client = File::open(format!("/proc/{client}/ns/net")).context("the client's network namespace")?;
    namespace::enter(&client)?;
    let mouth = speak().context("packet socket of the client")?;
    let questions: Vec<Vec<u8>> = vips.iter().map(question).collect();
    println!("watching");
    let mut seen = Observations::default();
    let mut next_ns = now_ns();
    loop {
        let wait_ns = next_ns.saturating_sub(now_ns());
        let stdin = io::stdin();
        let mut fds = [PollFd::new(&ear, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait_ns.cast_signed() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("waiting for frames"),
        }
        let ended = !fds[1].revents().is_empty();
        drain(&ear, switch, &vips, &mut seen)?;
        if ended {
            seen.unseen_frames = unseen(&ear)?;
            return write_down(home, &seen);
        }
        if now_ns() >= next_ns {
            next_ns = now_ns() + ASK_NS;
            for question in &questions {
                // ENETDOWN, ENOBUFS: the client's own cable; the next question is near.
                let _ = mouth.send(question);
            }
            seen.asked += 1;
        }
        anyhow::ensure!(seen.runs.len() < RUNS_MAX, "more than {RUNS_MAX} changes of the sender");
    }
}

fn write_down(home: &Home, seen: &Observations) -> Result<()> {
    let path = home.observations();
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    file.write_all(&serde_json::to_vec(seen)?).with_context(|| path.display().to_string())
}

/// A packet socket for every frame that comes in on any interface of this namespace.
fn listen() -> io::Result<Socket> {
    let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
    socket.set_nonblocking(true)?;
    set_packet_option(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let _ = stamp_ns(&socket); // the first question switches time stamps on
    Ok(socket)
}

fn set_packet_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int from the pointer, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn drain(ear: &Socket, switch: u32, vips: &[IpAddr], seen: &mut Observations) -> Result<()> {
    let mut head = [MaybeUninit::<u8>::uninit(); HEAD_BYTES];
    loop {
        let length = match ear.recv_from(&mut head) {
            Ok((_, from)) if interface(&from) == Some(switch) => continue,
            Ok((length, _)) => length.min(HEAD_BYTES),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => continue, // a port went with its node
            Err(e) => return Err(e).context("reading frames"),
        };
        // SAFETY: the kernel wrote `length` bytes, at most the buffer's size.
        let frame = unsafe { std::slice::from_raw_parts(head.as_ptr().cast::<u8>(), length) };
        let Some((mac, senders)) = senders(frame) else { continue };
        for sender in senders.into_iter().flatten().filter(|sender| vips.contains(sender)) {
            seen.add(sender, HardwareAddress(mac), stamp_ns(ear).unwrap_or_else(|_| now_ns()));
        }
    }
}

/// The interface a frame came in on.
fn interface(from: &SockAddr) -> Option<u32> {
    if from.family() != libc::AF_PACKET as libc::sa_family_t {
        return None;
    }
    // SAFETY: the family says that it is a sockaddr_ll, and the storage is large enough for any.
    let address = unsafe { from.as_ptr().cast::<libc::sockaddr_ll>().read_unaligned() };
    Some(address.sll_ifindex.cast_unsigned())
}

/// When the kernel got the frame read last, on the clock of [`now_ns`].
fn stamp_ns(socket: &Socket) -> io::Result<u64> {
    let mut stamp = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    /// `SIOCGSTAMPNS_OLD` (asm-generic/sockios.h).
    const SIOCGSTAMPNS: libc::Ioctl = 0x8907;
    // SAFETY: the kernel writes a timespec to the pointer, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut stamp) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let age_ns = (wall.tv_sec - stamp.tv_sec) * 1_000_000_000 + (wall.tv_nsec - stamp.tv_nsec);
    Ok(now_ns().saturating_sub(u64::try_from(age_ns).unwrap_or(0)))
}

/// Frames dropped for want of room so far.
fn unseen(socket: &Socket) -> Result<u64> {
    let mut counts = [0_u32; 2]; // struct tpacket_stats: packets, drops
    let mut length = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to the pointer; both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            counts.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error()).context("statistics of the packet socket");
    }
    Ok(counts[1].into())
}

/// The frame's Ethernet source, and the addresses it sends from: its IP source or ARP sender, and
/// the target of a neighbour advertisement.
fn senders(frame: &[u8]) -> Option<(Mac, [Option<IpAddr>; 2])> {
    let mac = frame.get(6..12)?.try_into().ok()?;
    let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?).into());
    let v6 = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?).into());
    let kind: [u8; 2] = frame.get(12..14)?.try_into().ok()?;
    let senders = match kind {
        ETHERTYPE_ARP => [v4(28), None],
        ETHERTYPE_IPV4 => [v4(26), None],
        ETHERTYPE_IPV6 => {
            let advertised =
                frame.get(20) == Some(&ICMPV6) && frame.get(54) == Some(&NEIGHBOUR_ADVERTISEMENT);
            let target = advertised.then(|| v6(62)).flatten();
            [v6(22), target.filter(|target| Some(*target) != v6(22))]
        }
        _ => return None,
    };
    Some((mac, senders))
}

/// A packet socket that sends through the client's LAN interface.
fn speak() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let index = netdevice::name_to_index(socket.as_fd(), LAN_INTERFACE)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads a sockaddr_ll from the pointer, which outlives the call.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// The frame that asks who has an address.
fn question(vip: &IpAddr) -> Vec<u8> {
    let number = layout::lan_number(Host::C);
    let (mac, [own4, own6]) = (layout::lan_mac(number), layout::lan_addresses(number));
    match (vip, own4, own6) {
        (IpAddr::V4(vip), IpAddr::V4(own), _) => arp_request(mac, own, *vip),
        (IpAddr::V6(vip), _, IpAddr::V6(own)) => solicitation(mac, own, *vip),
        _ => unreachable!("lan_addresses gives an IPv4 and an IPv6 address"),
    }
}

fn arp_request(mac: Mac, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_ARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]); // Ethernet, IPv4, request
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&own.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

fn solicitation(mac: Mac, own: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let low = target.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(low[13]),
        u16::from_be_bytes([low[14], low[15]]),
    );
    let mut body = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&low);
    body.extend_from_slice(&[1, 1]); // option: source link-layer address, 8 bytes
    body.extend_from_slice(&mac);
    let packet = Icmpv6Packet::new(&body).expect("a solicitation is longer than an ICMPv6 header");
    let checksum = pnet::packet::icmpv6::checksum(&packet, &own, &group);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0xff, low[13], low[14], low[15]];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0, 0, body.len() as u8, ICMPV6, 255]);
    frame.extend_from_slice(&own.octets());
    frame.extend_from_slice(&group.octets());
    frame.extend_from_slice(&body);
    frame
}

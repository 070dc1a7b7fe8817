//! The rules for where a pair meets: addresses, interfaces, targets.

use super::{
    Endpoint, FailoverType, Profile, Vip,
    check::Faults,
    raw::{RawEndpoint, RawPair},
};
use std::net::IpAddr;

/// The kernel's limit for an interface name.
const MAX_INTERFACE_BYTES: usize = 15;

/// Without a direct link only a majority of at least three targets tells the two halves of a split apart.
const MIN_TARGETS_WITHOUT_DIRECT: usize = 3;

/// The network part of a pair.
pub(super) struct Network {
    pub(super) vips: Vec<Vip>,
    pub(super) targets: Vec<IpAddr>,
    pub(super) direct: Option<Endpoint>,
    pub(super) lan: Endpoint,
}

/// Checks addresses, both links and targets of a pair.
pub(super) fn network(raw: &RawPair, profile: Profile, faults: &mut Faults) -> Option<Network> {
    let key = |name: &str| format!("pair \"{}\" {name}", raw.id);
    let vips = check_vips(&raw.vip, &key("vip"), faults);
    let direct = check_direct(raw.direct.as_ref(), &key("direct"), faults);
    let lan = check_lan(raw.lan.as_ref(), &key("lan"), faults);
    let no_cable = direct == Some(None);
    if profile == Profile::Metal && no_cable {
        faults.add(
            key("direct"),
            "profile \"metal\" expects a cable between the nodes, found none",
            "name its interface, or use profile = \"default\"",
        );
    }
    let endpoints = direct.iter().flatten().chain(&lan);
    let own: Vec<IpAddr> = endpoints.flat_map(|e| [e.address, e.peer]).collect();
    for vip in vips.iter().filter(|vip| own.contains(&vip.address)) {
        faults.add(
            key("vip"),
            format!("{} is also an address of a node", vip.address),
            "use an address of its own, it moves between the nodes",
        );
    }
    if let (Some(Some(direct)), Some(lan)) = (&direct, &lan) {
        apart(direct, lan, &key("direct"), faults);
    }
    let alone = no_cable && raw.failover == FailoverType::Automatic;
    let targets = check_targets(&raw.targets, &key("targets"), alone, faults);
    target_addresses(&targets, &vips, &own, &key("targets"), faults);
    let lan = lan?;
    for vip in vips.iter().filter(|vip| vip.address.is_ipv4() == lan.address.is_ipv4()) {
        if !vip.subnet_has(lan.address) {
            let sentence =
                format!("{} is outside the VIP's subnet {vip}: clients may not find it", lan.address);
            faults.warn(&key("lan.address"), &sentence);
        }
    }
    Some(Network { vips, targets, direct: direct?, lan })
}

fn check_vips(raw: &[String], key: &str, faults: &mut Faults) -> Vec<Vip> {
    if raw.is_empty() {
        faults.add(
            key,
            "expected at least one address with its mask",
            "for example vip = [\"10.0.0.10/24\"]",
        );
    }
    let vips: Vec<Vip> = raw.iter().filter_map(|text| check_vip(text, key, faults)).collect();
    faults.unique(key, vips.iter().map(|vip| (vip.address, vip.to_string())));
    vips
}

fn check_vip(text: &str, key: &str, faults: &mut Faults) -> Option<Vip> {
    if text.parse::<IpAddr>().is_ok() {
        faults.add(
            key,
            format!("{text} has no mask"),
            format!("write it with the subnet's mask, for example {text}/24"),
        );
        return None;
    }
    let Some((address, Some(prefix))) = split_address(text) else {
        faults.add(
            key,
            format!("expected an address with its mask, found \"{text}\""),
            "for example \"10.0.0.10/24\"",
        );
        return None;
    };
    if !usable(address) || prefix == 0 {
        faults.add(
            key,
            format!("{text} cannot be given to an interface"),
            "use an unicast address of the clients' subnet",
        );
        return None;
    }
    Some(Vip { address, prefix })
}

/// `Some(None)`: there is no direct link. `None`: faulty.
#[allow(clippy::option_option, reason = "absent and faulty are different here, and only here")]
fn check_direct(raw: Option<&RawEndpoint>, key: &str, faults: &mut Faults) -> Option<Option<Endpoint>> {
    let Some(raw) = raw else {
        faults.add(
            key,
            "expected [pair.direct], found nothing",
            "name the cable's interface, or write interface = \"none\"",
        );
        return None;
    };
    if raw.interface != "none" {
        return check_endpoint(raw, key, faults).map(Some);
    }
    if raw.address.is_some() || raw.peer.is_some() || raw.port.is_some() {
        faults.add(key, "interface is \"none\" but an address is given", "remove it, or name the interface");
        return None;
    }
    Some(None)
}

fn check_lan(raw: Option<&RawEndpoint>, key: &str, faults: &mut Faults) -> Option<Endpoint> {
    let Some(raw) = raw else {
        faults.add(key, "expected [pair.lan], found nothing", "name the interface of the clients' network");
        return None;
    };
    if raw.interface == "none" {
        faults.add(key, "the LAN interface cannot be \"none\"", "name the interface of the clients' network");
        return None;
    }
    check_endpoint(raw, key, faults)
}

fn check_endpoint(raw: &RawEndpoint, key: &str, faults: &mut Faults) -> Option<Endpoint> {
    let before = faults.count();
    let name = &raw.interface;
    let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_INTERFACE_BYTES || name.contains(odd) {
        faults.add(
            format!("{key}.interface"),
            format!("\"{name}\" is not an interface name"),
            "see `ip link` for the names of this machine",
        );
    }
    let mut address = |name: &str, text: Option<&String>| {
        let key = format!("{key}.{name}");
        let Some(text) = text else {
            faults.add(
                key,
                "expected an address, found nothing",
                "give each node an address on this interface",
            );
            return None;
        };
        let parsed = split_address(text).filter(|(address, _)| usable(*address));
        if parsed.is_none() {
            faults.add(
                key,
                format!("expected an unicast address, found \"{text}\""),
                "for example \"192.168.77.1\"",
            );
        }
        parsed
    };
    let own = address("address", raw.address.as_ref());
    let peer = address("peer", raw.peer.as_ref());
    let ((own, prefix), (peer, _)) = (own?, peer?);
    if own == peer {
        faults.add(
            format!("{key}.peer"),
            format!("{peer} is this node's own address"),
            "give the other node's",
        );
    }
    if own.is_ipv4() != peer.is_ipv4() {
        faults.add(
            format!("{key}.peer"),
            format!("{peer} is not of the same family as {own}"),
            "use IPv4 or IPv6 for both",
        );
    }
    let port = raw.port.unwrap_or(super::DEFAULT_PORT);
    if port == 0 {
        faults.add(format!("{key}.port"), "expected 1 to 65535, found 0", "use the same port on both nodes");
    }
    (faults.count() == before).then(|| Endpoint { interface: name.clone(), address: own, prefix, peer, port })
}

/// The two paths must not share anything: then one fault would take both.
fn apart(direct: &Endpoint, lan: &Endpoint, key: &str, faults: &mut Faults) {
    if direct.interface == lan.interface {
        faults.add(
            format!("{key}.interface"),
            format!("{} is also the LAN interface", lan.interface),
            "use another one, or interface = \"none\" if there is no cable between the nodes",
        );
    }
    for address in [direct.address, direct.peer] {
        if address == lan.address || address == lan.peer {
            faults.add(
                format!("{key}.address"),
                format!("{address} is also used on the LAN"),
                "give the direct link addresses of a subnet of its own",
            );
        }
    }
}

fn check_targets(raw: &[String], key: &str, alone: bool, faults: &mut Faults) -> Vec<IpAddr> {
    let mut targets = Vec::new();
    for text in raw {
        match text.parse() {
            Ok(address) if usable(address) => targets.push(address),
            _ => faults.add(
                key,
                format!("expected an address without mask, found \"{text}\""),
                "for example \"10.0.0.1\"",
            ),
        }
    }
    faults.unique(key, targets.iter().map(|target| (*target, target.to_string())));
    if raw.is_empty() {
        faults.add(
            key,
            "expected an odd number of addresses, found none",
            "name 1, 3 or 5 devices of the LAN that each answer ARP for themselves",
        );
    } else if raw.len().is_multiple_of(2) {
        faults.add(
            key,
            format!("expected an odd number of addresses, found {}", raw.len()),
            "add or remove one, so that two halves of a split cannot both see a majority",
        );
    } else if alone && raw.len() < MIN_TARGETS_WITHOUT_DIRECT {
        faults.add(
            key,
            format!(
                "automatic failover without a direct link expects at least 3 addresses, found {}",
                raw.len()
            ),
            "name more, connect the nodes directly, or use failover = \"manual\"",
        );
    } else if raw.len() == 1 {
        faults.warn(key, "a single target decides alone: name three if the LAN has them");
    }
    targets
}

fn target_addresses(targets: &[IpAddr], vips: &[Vip], own: &[IpAddr], key: &str, faults: &mut Faults) {
    for target in targets {
        if own.contains(target) || vips.iter().any(|vip| vip.address == *target) {
            faults.add(key, format!("{target} belongs to this pair"), "name other devices of the LAN");
        }
        if !vips.is_empty() && !vips.iter().any(|vip| vip.subnet_has(*target)) {
            faults.warn(key, &format!("{target} is outside the VIP's subnet: it may never answer ARP"));
        }
    }
}

/// `address` or `address/prefix`.
fn split_address(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let Some((address, prefix)) = text.split_once('/') else { return Some((text.parse().ok()?, None)) };
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix: u8 = digits.then(|| prefix.parse().ok()).flatten()?;
    (prefix <= longest).then_some((address, Some(prefix)))
}

fn usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

//! The lab's cables: who is plugged in where, which cable is cut, and making the kernel agree.
//!
//! [`Cables::apply`] compares what should be with what was last set and changes only the
//! difference, so every command is idempotent. A cut takes the carrier by setting the *other* end
//! down; the node's own interface stays up and keeps its IPv6 addresses. One direction is cut by
//! a queue that drops in silence where the frames leave: carrier and interface notice nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::layout::{self, BRIDGE, Cable, DIRECT_INTERFACE, Direction, Host, LAN_INTERFACE, Node, TARGETS};
use super::namespace::Network;
use super::route::{End, Queue};

/// What the operator did to one node's cables.
#[derive(Default, Clone, Copy)]
struct Damage {
    cut: [bool; 2],
    silent: [[bool; 2]; 2],
}

impl Damage {
    fn silent(&self, cable: Cable, direction: Direction) -> bool {
        self.silent[cable as usize][direction as usize]
    }

    fn cut(&self, cable: Cable) -> bool {
        self.cut[cable as usize]
    }
}

/// All cables of a lab, held by its supervisor, whose own namespace is the LAN's switch.
pub(super) struct Cables {
    lan: Network,
    middle: Network,
    /// Kept alive; they answer ARP by themselves.
    _targets: Vec<Network>,
    nodes: [Option<Network>; 2],
    damage: [Damage; 2],
    shape_mbit: Option<u32>,
    applied: BTreeMap<String, (bool, Queue)>,
}

impl Cables {
    /// Makes the switch in the calling process's network namespace, the middle of the direct cable
    /// and the targets.
    pub(super) fn build() -> Result<Self> {
        let mut lan = Network::own()?;
        lan.route.set_up("lo", true).context("loopback up")?;
        lan.route.add_bridge(BRIDGE).context("bridge of the LAN")?;
        let mut middle = Network::create()?;
        middle.route.add_bridge("cable").context("bridge inside the direct cable")?;
        let mut targets = Vec::new();
        for number in TARGETS {
            let mut target = Network::create()?;
            plug_into_lan(&mut lan, &mut target, &format!("t{number}"), number)?;
            targets.push(target);
        }
        Ok(Self {
            lan,
            middle,
            _targets: targets,
            nodes: [None, None],
            damage: [Damage::default(); 2],
            shape_mbit: None,
            applied: BTreeMap::new(),
        })
    }

    /// Plugs a started machine in, by the number of its first process.
    pub(super) fn plug_in(&mut self, host: Host, pid: u32) -> Result<()> {
        let mut network = Network::of_process(pid)?;
        network.route.set_up("lo", true).context("loopback up")?;
        plug_into_lan(&mut self.lan, &mut network, &port(host), layout::lan_number(host))?;
        let Some(node) = host.node() else { return Ok(()) };
        let near = End { name: &middle_end(node), mac: layout::middle_mac(node) };
        let far = End { name: DIRECT_INTERFACE, mac: layout::direct_mac(node) };
        self.middle.route.add_cable(&near, &far, std::os::fd::AsFd::as_fd(&network.namespace))?;
        self.middle.route.set_bridge(near.name, "cable")?;
        let [v4, v6] = layout::direct_addresses(node);
        network.route.add_address(DIRECT_INTERFACE, v4, 30)?;
        network.route.add_address(DIRECT_INTERFACE, v6, 64)?;
        network.route.set_up(DIRECT_INTERFACE, true)?;
        self.applied.insert(port(host), (true, Queue::Open));
        self.applied.insert(middle_end(node), (false, Queue::Open));
        for interface in [LAN_INTERFACE, DIRECT_INTERFACE] {
            self.applied.insert(format!("{}/{interface}", node.name()), (true, Queue::Open));
        }
        self.nodes[node as usize] = Some(network);
        self.apply()
    }

    /// Takes the carrier of all cables of a node, before its processes die: nothing they say while
    /// dying (a FIN, a reset) may reach anybody.
    pub(super) fn lose_power(&mut self, node: Node) -> Result<()> {
        self.lan.route.set_up(&port(node.into()), false).context("switch port down")?;
        for end in Node::ALL.map(middle_end) {
            if self.applied.contains_key(&end) {
                self.middle.route.set_up(&end, false).context("direct cable down")?;
            }
        }
        Ok(())
    }

    /// Removes a dead node's cables. The peer's end of the direct cable stays without carrier.
    pub(super) fn unplug(&mut self, node: Node) -> Result<()> {
        self.nodes[node as usize] = None;
        self.lan.route.delete(&port(node.into())).context("removing the switch port")?;
        self.middle.route.delete(&middle_end(node)).context("removing the direct cable's end")?;
        self.applied.remove(&port(node.into()));
        self.applied.remove(&middle_end(node));
        self.applied.retain(|name, _| !name.starts_with(&format!("{}/", node.name())));
        if let Some(peer) = self.applied.get_mut(&middle_end(node.peer())) {
            peer.0 = false;
        }
        self.apply()
    }

    /// Cuts a cable of a node, or one direction of it.
    pub(super) fn cut(&mut self, cable: Cable, node: Node, direction: Option<Direction>) -> Result<()> {
        let damage = &mut self.damage[node as usize];
        match direction {
            None => damage.cut[cable as usize] = true,
            Some(direction) => damage.silent[cable as usize][direction as usize] = true,
        }
        self.apply()
    }

    /// Mends a cable of a node, or only one direction of it.
    pub(super) fn mend(&mut self, cable: Cable, node: Node, direction: Option<Direction>) -> Result<()> {
        let damage = &mut self.damage[node as usize];
        match direction {
            None => {
                damage.cut[cable as usize] = false;
                damage.silent[cable as usize] = [false; 2];
            }
            Some(direction) => damage.silent[cable as usize][direction as usize] = false,
        }
        self.apply()
    }

    /// Limits the direct cable to so many Mbit/s each way; `None` takes the limit away.
    pub(super) fn shape(&mut self, rate_mbit: Option<u32>) -> Result<()> {
        self.shape_mbit = rate_mbit;
        self.apply()
    }

    /// Makes the kernel's state what it should be.
    fn apply(&mut self) -> Result<()> {
        let whole = Node::ALL
            .iter()
            .all(|n| self.nodes[*n as usize].is_some() && !self.damage[*n as usize].cut(Cable::Direct));
        let direct_queue = self.shape_mbit.map_or(Queue::Open, |rate_mbit| Queue::Shaped { rate_mbit });
        for node in Node::ALL {
            let Some(network) = &mut self.nodes[node as usize] else { continue };
            let damage = self.damage[node as usize];
            let dead =
                |cable, direction, open| if damage.silent(cable, direction) { Queue::Dead } else { open };
            let (lan_port, direct_port) = (port(node.into()), middle_end(node));
            let own = |interface| format!("{}/{interface}", node.name());
            let wanted = [
                (
                    &mut self.lan,
                    lan_port.clone(),
                    lan_port,
                    !damage.cut(Cable::Lan),
                    dead(Cable::Lan, Direction::In, Queue::Open),
                ),
                (
                    &mut self.middle,
                    direct_port.clone(),
                    direct_port,
                    whole,
                    dead(Cable::Direct, Direction::In, direct_queue),
                ),
            ];
            for (network, key, name, up, queue) in wanted {
                settle(&mut self.applied, network, key, &name, up, queue)?;
            }
            for (interface, cable) in [(LAN_INTERFACE, Cable::Lan), (DIRECT_INTERFACE, Cable::Direct)] {
                let queue = dead(cable, Direction::Out, Queue::Open);
                settle(&mut self.applied, network, own(interface), interface, true, queue)?;
            }
        }
        Ok(())
    }
}

fn settle(
    applied: &mut BTreeMap<String, (bool, Queue)>,
    network: &mut Network,
    key: String,
    name: &str,
    up: bool,
    queue: Queue,
) -> Result<()> {
    let before = applied.get(&key).copied();
    if before.is_none_or(|(_, old)| old != queue) {
        network.route.set_queue(name, queue).with_context(|| format!("{key}: queue {queue:?}"))?;
    }
    // The node's own interface is the node's business: it is set up once, when it is plugged in.
    if !key.contains('/') && before.is_none_or(|(old, _)| old != up) {
        network.route.set_up(name, up).with_context(|| format!("{key}: up {up}"))?;
    }
    applied.insert(key, (up, queue));
    Ok(())
}

fn plug_into_lan(lan: &mut Network, machine: &mut Network, port: &str, number: u8) -> Result<()> {
    let near = End { name: port, mac: layout::port_mac(number) };
    let far = End { name: LAN_INTERFACE, mac: layout::lan_mac(number) };
    lan.route.add_cable(&near, &far, std::os::fd::AsFd::as_fd(&machine.namespace))?;
    lan.route.set_bridge(port, BRIDGE)?;
    lan.route.set_up(port, true)?;
    let [v4, v6] = layout::lan_addresses(number);
    machine.route.add_address(LAN_INTERFACE, v4, layout::LAN_PREFIX.0)?;
    machine.route.add_address(LAN_INTERFACE, v6, layout::LAN_PREFIX.1)?;
    machine.route.set_up(LAN_INTERFACE, true)?;
    Ok(())
}

/// The switch port of a machine.
pub(super) fn port(host: Host) -> String {
    format!("p{}", host.name())
}

fn middle_end(node: Node) -> String {
    format!("m{}", node.name())
}

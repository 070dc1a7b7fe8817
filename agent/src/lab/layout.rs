//! Where everything in a lab is: names, addresses, hardware addresses, folders.
//!
//! ```text
//!   a eth0 ──┐                      ┌── eth0 b        lab bridge `lan` in the supervisor's namespace
//!            ├── lan ── c, t1 t2 t3 ┤                 10.77.0.0/24, fd77::/64
//!   a eth1 ──── ma [ cable ] mb ────── eth1 b         10.78.0.0/30, fd78::/64, in a middle namespace
//! ```
//!
//! Facts only; nothing is made here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::route::Mac;

/// A machine of the pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// The primary, active after `lab up`.
    A,
    /// The secondary.
    B,
}

impl Node {
    /// Both, primary first.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// `a` or `b`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other node of the pair.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(super) fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// A machine commands can run on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// The primary.
    A,
    /// The secondary.
    B,
    /// The client on the LAN.
    C,
}

impl Host {
    /// `a`, `b` or `c`.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
        }
    }

    /// The node of the pair that this machine is.
    pub fn node(self) -> Option<Node> {
        match self {
            Self::A => Some(Node::A),
            Self::B => Some(Node::B),
            Self::C => None,
        }
    }
}

impl From<Node> for Host {
    fn from(node: Node) -> Self {
        match node {
            Node::A => Self::A,
            Node::B => Self::B,
        }
    }
}

/// A network between machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cable {
    /// The crossover cable between the nodes.
    Direct,
    /// A node's cable to the LAN's switch.
    Lan,
}

/// One direction of a node's cable, seen from the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What the node would receive.
    In,
    /// What the node sends.
    Out,
}

/// The pair's name in generated configurations.
pub const PAIR: &str = "lab";
/// Interface to the LAN, in each machine.
pub const LAN_INTERFACE: &str = "eth0";
/// Interface of the crossover cable, in each node.
pub const DIRECT_INTERFACE: &str = "eth1";
/// The bridge all LAN cables end in.
pub(super) const BRIDGE: &str = "lan";
/// The virtual address of generated configurations.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// The IPv6 virtual address with `--ipv6`.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
/// Prefix lengths of the LAN.
pub(super) const LAN_PREFIX: (u8, u8) = (24, 64);
/// Port of the application behind the virtual address.
pub const APP_PORT: u16 = 8080;
/// Single-device addresses on the LAN: an odd number, so that a majority exists.
pub(super) const TARGETS: [u8; 3] = [101, 102, 103];
const CLIENT: u8 = 9;

/// The last byte of a machine's LAN addresses.
pub(super) fn lan_number(host: Host) -> u8 {
    match host {
        Host::A => Node::A.number(),
        Host::B => Node::B.number(),
        Host::C => CLIENT,
    }
}

/// The LAN addresses with this last number: `10.77.0.n` and `fd77::n` (in hexadecimal).
pub fn lan_addresses(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
    [Ipv4Addr::new(10, 77, 0, number).into(), v6.into()]
}

/// A node's addresses on the crossover cable.
pub fn direct_addresses(node: Node) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, node.number().into());
    [Ipv4Addr::new(10, 78, 0, node.number()).into(), v6.into()]
}

/// Hardware address of the LAN interface with this address number: locally administered, and the
/// same after each power-on, as a real card's.
pub fn lan_mac(number: u8) -> Mac {
    [0x02, 0x4c, 0x53, 0, 0, number]
}

pub(super) fn direct_mac(node: Node) -> Mac {
    [0x02, 0x4c, 0x53, 0, 1, node.number()]
}

/// The switch's end of the cable of `number`.
pub(super) fn port_mac(number: u8) -> Mac {
    [0x02, 0x4c, 0x53, 0, 2, number]
}

/// The middle's end of a node's direct cable.
pub(super) fn middle_mac(node: Node) -> Mac {
    [0x02, 0x4c, 0x53, 0, 3, node.number()]
}

/// The folder of one lab.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The folder of the lab with this name: `$LOCKSTEP_LAB_DIR/NAME` or
    /// `/var/tmp/lockstep-lab-UID/NAME`. Not the run-time folder of the session: that is in
    /// memory, where a durable write means nothing, and small.
    ///
    /// # Errors
    /// A name that is no plain word.
    pub fn of(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            bail!("lab name {name:?}: expected 1 to 32 letters, digits, '-' or '_'");
        }
        let base = match std::env::var_os("LOCKSTEP_LAB_DIR") {
            Some(dir) => std::path::absolute(dir).context("LOCKSTEP_LAB_DIR")?,
            None => format!("/var/tmp/lockstep-lab-{}", rustix::process::geteuid().as_raw()).into(),
        };
        Ok(Self { root: base.join(name) })
    }

    /// A folder the supervisor was started with.
    pub(super) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    pub(super) fn spec(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    pub(super) fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// Holds `lockstep`, for PATH.
    pub(super) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    pub(super) fn observations(&self) -> PathBuf {
        self.root.join("observations.json")
    }

    /// A node's configuration.
    pub fn config(&self, node: Node) -> PathBuf {
        self.root.join(format!("{}.toml", node.name()))
    }

    /// A node's folder.
    pub fn node(&self, node: Node) -> PathBuf {
        self.root.join(node.name())
    }

    /// Where a node's disk is mounted, or a plain folder.
    pub(super) fn disk(&self, node: Node) -> PathBuf {
        self.node(node).join("disk")
    }

    /// A node's state folder, on its disk. With `--disk loop` only the node itself sees it.
    pub fn state(&self, node: Node) -> PathBuf {
        self.disk(node).join("state")
    }

    /// A node's identity before its disk is mounted for the first time.
    pub(super) fn seed(&self, node: Node) -> PathBuf {
        self.node(node).join("seed")
    }

    /// A node's run-time folder with its agent's socket.
    pub fn run(&self, node: Node) -> PathBuf {
        self.node(node).join("run")
    }

    /// A node's data folder, on its disk.
    pub fn data(&self, node: Node) -> PathBuf {
        self.disk(node).join("data")
    }

    /// The root of a node's file tree with `--tree`.
    pub fn tree(&self, node: Node) -> PathBuf {
        self.data(node).join("files")
    }

    /// What a node's agent prints.
    pub fn agent_log(&self, node: Node) -> PathBuf {
        self.node(node).join("agent.log")
    }

    /// A node's disk image with `--disk loop`.
    pub(super) fn image(&self, node: Node) -> PathBuf {
        self.node(node).join("disk.img")
    }
}

//! The configuration file: TOML, every key documented, unknown keys are errors.
//!
//! File to [`Config`] in two steps: `raw` is what was written, [`Config`] what was checked; only
//! the second leaves this module. It looks at no interface, file or socket but the configuration
//! itself; whether an interface or a database exists is for the parts that use them.

mod check;
mod check_arbiter;
mod check_network;
mod check_tree;
mod check_workload;
mod error;
mod paths;
mod places;
mod raw;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, ConfigErrors};
pub use paths::Paths;

use lockstep_client::Mode;
use lockstep_engine::link::Fingerprint;
use lockstep_failover::SoloAfter;
use lockstep_wire::{DatabaseName, PairId, TreeName};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// A complete configuration with every key explained; `lockstep config --example` prints it.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Where heartbeats (UDP) and data (TCP) meet the peer unless `port` says otherwise.
pub const DEFAULT_PORT: u16 = 7431;

/// Hand over to a checkpoint at 1000 frames, as SQLite's own autocheckpoint does.
pub const DEFAULT_CHECKPOINT_FRAMES: u32 = 1000;

/// A WAL larger than this costs more to resume from than differing pages cost to send.
pub const DEFAULT_WAL_RETAIN_MAX_MIB: u32 = 1024;

/// 2 GiB are compared with the standby's disk in nine minutes, for a few thousandths of a processor.
pub const DEFAULT_SCRUB_MAX_KIB_S: u32 = (lockstep_engine::pair::SCRUB_BYTES_PER_S >> 10) as u32;

/// An application that is not healthy after this is given the address anyway: clients then see its errors.
pub const DEFAULT_OPEN_EARLY_MS: u32 = 5_000;

/// A program gets this long to finish its requests before it is killed.
pub const DEFAULT_STOP_TIMEOUT_S: u32 = 10;

/// Etcd answers within some ten milliseconds, and within a second while it elects a leader.
pub const DEFAULT_WITNESS_TIMEOUT_MS: u32 = 1_000;

/// What a power controller usually needs, and some more.
pub const DEFAULT_FENCE_TIMEOUT_S: u32 = 20;

/// How an application is watched unless its section says otherwise.
pub const DEFAULT_WATCH: Watch = Watch {
    interval: Duration::from_secs(1),
    timeout: Duration::from_secs(2),
    failures: 3,
    successes: 1,
    restarts: 3,
    restart_window: Duration::from_mins(10),
    start_timeout: Duration::from_mins(1),
};

/// Long enough for a primary that still has a fault to show it.
pub const DEFAULT_FAILBACK_AFTER_S: u32 = 300;

/// A longer hold-off belongs to a person's decision: `failover = "manual"`.
pub const MAX_HOLD_OFF_S: u32 = 120;

/// Commits that wait longer than a day wait for a person: `solo_after = "never"`.
pub const MAX_SOLO_AFTER: Duration = Duration::from_secs(86_400);

/// A configuration larger than this is not one.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This machine.
    pub node: Node,
    /// The pairs it belongs to; at least one.
    pub pairs: Vec<Pair>,
    /// What is allowed but probably not meant, one line each.
    pub warnings: Vec<String>,
}

/// `[node]`: this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, for people.
    pub name: String,
    /// Its configured role, the same for all its pairs.
    pub role: Role,
    /// Hardware family; both nodes of a pair must fit each other.
    pub platform: String,
    /// Timing of heartbeats and lease.
    pub profile: Profile,
    /// How the data path does its disk work.
    pub io_backend: IoBackend,
}

/// `[[pair]]`: two nodes and what they protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The same on both nodes.
    pub id: PairId,
    /// What a commit waits for when the waiter does not say.
    pub commit_mode: Mode,
    /// The peer's certificate.
    pub peer_fingerprint: Fingerprint,
    /// The virtual addresses; at least one.
    pub vips: Vec<Vip>,
    /// An odd list of LAN addresses, each of one device, that tell a dead peer from an own dead cable.
    pub targets: Vec<IpAddr>,
    /// Whether the standby promotes by itself.
    pub failover: FailoverType,
    /// The secondary hands back by itself after so long in sync; `None`: the operator does.
    pub failback_after: Option<Duration>,
    /// Decides and logs, and touches neither the address nor an application.
    pub observe: bool,
    /// Added to the wait before an automatic promotion, seconds.
    pub hold_off_s: u32,
    /// Open the address this long after the application's start even if it is not healthy, milliseconds.
    pub open_early_ms: u32,
    /// How long commits wait for the standby at the least before this node acknowledges alone.
    pub solo_after: SoloAfter,
    /// Programs under the shim show a commit to nobody before the standby has it.
    pub strict: bool,
    /// The cable between the two nodes, unless `interface = "none"`.
    pub direct: Option<Endpoint>,
    /// The network the clients are in.
    pub lan: Endpoint,
    /// Compression of the data connection.
    pub compression: Compression,
    /// Cap on what the data connection sends, Mbit/s; None: the link's own speed.
    pub bandwidth_max_mbit_s: Option<u32>,
    /// Who decides between two nodes that do not hear each other.
    pub witness: Option<Witness>,
    /// Powers the peer off before this node takes over.
    pub fence: Option<Fence>,
    /// The databases, in stream order; at least one.
    pub databases: Vec<Database>,
    /// The file trees, in stream order.
    pub trees: Vec<Tree>,
    /// The applications, in start order.
    pub apps: Vec<App>,
}

/// `[pair.direct]` or `[pair.lan]`: one path to the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the own network interface.
    pub interface: String,
    /// Own address on it.
    pub address: IpAddr,
    /// Its prefix length, if written behind the address.
    pub prefix: Option<u8>,
    /// The peer's address.
    pub peer: IpAddr,
    /// UDP for heartbeats and TCP for data, the same on both nodes.
    pub port: u16,
}

/// A virtual address with its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Prefix length of its subnet.
    pub prefix: u8,
}

impl Vip {
    /// Whether `other` lies in this address's subnet.
    pub fn subnet_has(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(own) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(own) & mask == u128::from(other) & mask
            }
            _ => false,
        }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `[pair.witness]`: a register in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// `http://` or `https://`, without a path; at least one, all of the same cluster.
    pub endpoints: Vec<String>,
    /// The key, the same on both nodes.
    pub key: String,
    /// How long a question may take, with all endpoints.
    pub timeout: Duration,
    /// Who may have signed the endpoints' certificates (PEM); there is one if an endpoint is `https://`.
    pub ca: Option<PathBuf>,
    /// This node's certificate for etcd (PEM).
    pub certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub private_key: Option<PathBuf>,
    /// The user of etcd's own authentication.
    pub user: Option<String>,
    /// Holds that user's password.
    pub password_file: Option<PathBuf>,
}

/// `[pair.fence]`: how to power the peer off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// A `fence_*` program: a name in `PATH` or an absolute path.
    pub agent: String,
    /// What it is told beside the action.
    pub options: BTreeMap<String, String>,
    /// How long until the peer must be confirmed off.
    pub timeout: Duration,
}

/// `[[pair.database]]`: one replicated database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The same on both nodes.
    pub name: DatabaseName,
    /// Its path on the primary.
    pub primary: PathBuf,
    /// Its path on the secondary.
    pub secondary: PathBuf,
    /// Hand over to a checkpoint when the WAL has grown by this many frames.
    pub checkpoint_frames: u32,
    /// Let the WAL go (and resync by pages) above this size, MiB.
    pub wal_retain_max_mib: u32,
    /// How fast pages are compared with the standby's disk in the background, KiB/s; 0: on demand only.
    pub scrub_max_kib_s: u32,
}

impl Database {
    /// Its path on a node of this role.
    pub fn path(&self, role: Role) -> &Path {
        match role {
            Role::Primary => &self.primary,
            Role::Secondary => &self.secondary,
        }
    }
}

/// `[[pair.tree]]`: one replicated tree of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The same on both nodes.
    pub name: TreeName,
    /// Its root on the primary.
    pub primary: PathBuf,
    /// Its root on the secondary.
    pub secondary: PathBuf,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Whether commits wait for the files that were changed before them.
    pub order: TreeOrder,
    /// More than this share of its entries gone at one look is a fault and not the application's will, percent.
    pub delete_max_percent: u8,
    /// Cap on what is sent of it, Mbit/s; None: the link's own speed.
    pub bandwidth_max_mbit_s: Option<u32>,
}

impl Tree {
    /// Its root on a node of this role.
    pub fn path(&self, role: Role) -> &Path {
        match role {
            Role::Primary => &self.primary,
            Role::Secondary => &self.secondary,
        }
    }
}

/// `[[pair.app]]`: one program that uses the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// For logs and commands.
    pub name: String,
    /// What to start.
    pub run: AppRun,
    /// How to ask it whether it works; `None`: that it runs is enough.
    pub health: Option<Health>,
    /// How often it is asked and what follows.
    pub watch: Watch,
    /// How long it may take to stop before it is killed, seconds.
    pub stop_timeout_s: u32,
}

/// How an application is watched, and how often it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// From one question to the next.
    pub interval: Duration,
    /// What one answer may take.
    pub timeout: Duration,
    /// Failed answers in a row that make it unhealthy.
    pub failures: u32,
    /// Good answers in a row that make it healthy.
    pub successes: u32,
    /// Restarts on this node within `restart_window` before it counts as failed.
    pub restarts: u32,
    /// See `restarts`.
    pub restart_window: Duration,
    /// One that is not healthy so long after a start is started again.
    pub start_timeout: Duration,
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppRun {
    /// A systemd unit.
    Unit(String),
    /// A program and its arguments; never empty.
    Command(Vec<String>),
}

/// How to ask an application whether it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// GET this `http://` address; healthy is an answer of 200 to 299.
    Http(String),
    /// Connect to this host and port; healthy is a connection.
    Tcp(String),
    /// Run this; healthy is exit code 0. Never empty.
    Command(Vec<String>),
}

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

word_enum!(
    /// What a node was set up as; never changes by itself.
    Role {
        /// Serves when all is well.
        #[default]
        Primary = "primary",
        /// Stands by when all is well.
        Secondary = "secondary",
    }
);
word_enum!(
    /// Timing of heartbeats, detection and lease.
    Profile {
        /// Dead after 150 ms: root, real-time priority, a direct cable.
        Metal = "metal",
        /// Dead after 600 ms.
        #[default]
        Default = "default",
        /// Dead after 3 s: virtual machines that pause.
        Vm = "vm",
        /// Dead after 10 s: the appliance contract.
        Mse = "mse",
    }
);
word_enum!(
    /// How the data path does its disk work.
    IoBackend {
        /// io_uring where the kernel allows it, else blocking calls.
        #[default]
        Auto = "auto",
        /// io_uring, or an error.
        Uring = "uring",
        /// Blocking calls.
        Blocking = "blocking",
    }
);
word_enum!(
    /// Who decides about an unplanned failover.
    FailoverType {
        /// The standby, when it may.
        #[default]
        Automatic = "automatic",
        /// The operator.
        Manual = "manual",
    }
);
word_enum!(
    /// Who returns the service to the primary.
    FailbackType {
        /// The operator.
        #[default]
        Manual = "manual",
        /// The secondary, after `failback_after_s` in sync.
        Automatic = "automatic",
    }
);
word_enum!(
    /// What comes first, the files of a tree or the commits that follow them.
    TreeOrder {
        /// Neither waits for the other.
        #[default]
        Independent = "independent",
        /// File changes are on the standby's disk before the commits that follow them are sent.
        WithDatabase = "with-database",
    }
);
word_enum!(
    /// Compression of the data connection.
    Compression {
        /// While it pays.
        #[default]
        Auto = "auto",
        /// Never.
        Off = "off",
    }
);

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong with it, one line each.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let unreadable = |problem: String, remedy: &str| {
            ConfigErrors(vec![ConfigError {
                file: path.to_owned(),
                key: "file".into(),
                problem,
                remedy: remedy.into(),
            }])
        };
        let metadata = std::fs::metadata(path).map_err(|e| {
            unreadable(
                format!("cannot be read: {e}"),
                "write one with `lockstep config --example`, or name it with --config",
            )
        })?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(unreadable(
                format!("expected a file of at most {MAX_FILE_BYTES} bytes"),
                "name the right file with --config",
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| {
            unreadable(format!("cannot be read: {e}"), "it must be UTF-8 text that this user may read")
        })?;
        Self::parse(&text, path)
    }

    /// Checks a configuration text; `path` is for its errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, one line each.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        let raw: raw::RawConfig = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            ConfigErrors(vec![ConfigError {
                file: path.to_owned(),
                key: format!("line {line}"),
                problem: e.message().replace('\n', " "),
                remedy: "`lockstep config --example` explains every key".into(),
            }])
        })?;
        check::check(&raw, path)
    }

    /// The pair with this id.
    pub fn pair(&self, id: &PairId) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.id == *id)
    }
}

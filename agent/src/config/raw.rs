//! The configuration file as written: what TOML and types alone can say.
//!
//! Nothing here is checked beyond its shape; [`super::check`] turns it into [`super::Config`].
//! Unknown keys are errors. Every key appears in `example.toml`, which a test verifies.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: RawNode,
    #[serde(default)]
    pub(super) pair: Vec<RawPair>,
}

/// `[node]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: String,
    pub(super) role: super::Role,
    pub(super) platform: Option<String>,
    #[serde(default)]
    pub(super) profile: super::Profile,
    #[serde(default)]
    pub(super) io_backend: super::IoBackend,
}

/// `[[pair]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPair {
    pub(super) id: String,
    pub(super) commit_mode: Option<String>,
    pub(super) peer_fingerprint: Option<String>,
    #[serde(default)]
    pub(super) vip: Vec<String>,
    #[serde(default)]
    pub(super) targets: Vec<String>,
    #[serde(default)]
    pub(super) failover: super::FailoverType,
    #[serde(default)]
    pub(super) failback: super::FailbackType,
    pub(super) failback_after_s: Option<u32>,
    #[serde(default)]
    pub(super) observe: bool,
    pub(super) hold_off_s: Option<u32>,
    pub(super) open_early_ms: Option<u32>,
    pub(super) solo_after: Option<String>,
    #[serde(default)]
    pub(super) strict: bool,
    pub(super) direct: Option<RawEndpoint>,
    pub(super) lan: Option<RawEndpoint>,
    pub(super) link: Option<RawLink>,
    pub(super) witness: Option<RawWitness>,
    pub(super) fence: Option<RawFence>,
    #[serde(default)]
    pub(super) database: Vec<RawDatabase>,
    #[serde(default)]
    pub(super) tree: Vec<RawTree>,
    #[serde(default)]
    pub(super) app: Vec<RawApp>,
}

/// `[pair.direct]`, `[pair.lan]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEndpoint {
    pub(super) interface: String,
    pub(super) address: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) port: Option<u16>,
}

/// `[pair.link]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLink {
    #[serde(default)]
    pub(super) compression: super::Compression,
    pub(super) bandwidth_max_mbit_s: Option<u32>,
}

/// `[pair.witness]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWitness {
    #[serde(default)]
    pub(super) endpoints: Vec<String>,
    pub(super) key: Option<String>,
    pub(super) timeout_ms: Option<u32>,
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) private_key: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
}

/// `[pair.fence]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFence {
    pub(super) agent: String,
    #[serde(default)]
    pub(super) options: BTreeMap<String, String>,
    pub(super) timeout_s: Option<u32>,
}

/// `[[pair.database]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDatabase {
    pub(super) name: String,
    pub(super) primary: PathBuf,
    pub(super) secondary: Option<PathBuf>,
    pub(super) checkpoint_frames: Option<u32>,
    pub(super) wal_retain_max_mib: Option<u32>,
    pub(super) scrub_max_kib_s: Option<u32>,
}

/// `[[pair.tree]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTree {
    pub(super) name: String,
    pub(super) primary: PathBuf,
    pub(super) secondary: Option<PathBuf>,
    #[serde(default)]
    pub(super) exclude: Vec<String>,
    #[serde(default)]
    pub(super) order: super::TreeOrder,
    pub(super) delete_max_percent: Option<u8>,
    pub(super) bandwidth_max_mbit_s: Option<u32>,
}

/// `[[pair.app]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApp {
    pub(super) name: String,
    pub(super) unit: Option<String>,
    pub(super) command: Option<RawCommand>,
    pub(super) health: Option<RawCommand>,
    pub(super) health_interval_ms: Option<u32>,
    pub(super) health_timeout_ms: Option<u32>,
    pub(super) health_failures: Option<u32>,
    pub(super) health_successes: Option<u32>,
    pub(super) restarts: Option<u32>,
    pub(super) restart_window_s: Option<u32>,
    pub(super) start_timeout_s: Option<u32>,
    pub(super) stop_timeout_s: Option<u32>,
}

/// A shell line or a list of arguments.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
pub(super) enum RawCommand {
    Line(String),
    Arguments(Vec<String>),
}

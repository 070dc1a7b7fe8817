//! What a lab was started with, kept in its folder for the processes that come later.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::layout::Home;

/// Where a node's data lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Disk {
    /// A folder. Power loss keeps what was written: the machine's page cache survives it.
    Dir,
    /// A loop-mounted XFS that power loss shuts down without flushing (root; needs mkfs.xfs).
    Loop,
    /// The same with ext4 (root; needs mkfs.ext4).
    LoopExt4,
}

/// A file system of a node's own.
pub(super) struct FileSystem {
    pub(super) name: &'static str,
    /// Makes one in a file: program and options.
    pub(super) make: &'static [&'static str],
    /// Where the program comes from.
    pub(super) package: &'static str,
}

impl Disk {
    /// `None`: a folder.
    pub(super) fn file_system(self) -> Option<FileSystem> {
        match self {
            Self::Dir => None,
            Self::Loop => Some(FileSystem { name: "xfs", make: &["mkfs.xfs", "-q"], package: "xfsprogs" }),
            Self::LoopExt4 => {
                Some(FileSystem { name: "ext4", make: &["mkfs.ext4", "-q", "-F"], package: "e2fsprogs" })
            }
        }
    }
}

/// Whether the pair has an IPv6 virtual address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Ipv6 {
    /// Beside the IPv4 one.
    Also,
    /// Only that, and the nodes speak IPv6 with each other too.
    Only,
}

/// What comes first, files or the commits that follow them; the words of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Order {
    /// Neither waits.
    Independent,
    /// Files.
    WithDatabase,
}

impl Order {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::WithDatabase => "with-database",
        }
    }
}

/// What a lab was started with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) disk: Disk,
    /// Whether the nodes run agents.
    pub(super) agents: bool,
    /// Virtual addresses, without their masks, as configured.
    pub(super) vip: Vec<std::net::IpAddr>,
    /// Name and path of each database on each node.
    pub(super) databases: [Vec<(String, PathBuf)>; 2],
    /// Name and root of each file tree on each node.
    pub(super) trees: [Vec<(String, PathBuf)>; 2],
}

impl Spec {
    pub(super) fn save(&self, home: &Home) -> Result<()> {
        let path = home.spec();
        std::fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())
    }

    pub(super) fn load(home: &Home) -> Result<Self> {
        let path = home.spec();
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }
}

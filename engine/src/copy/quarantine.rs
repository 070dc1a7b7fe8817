//! Keeps a database and its WAL before a rewind or resync discards what only this node had.
//!
//! `<state>/quarantine/<epoch>/<database>/` holds `database`, `database-wal` (so that SQLite opens the
//! pair as it was) and `manifest`, written last: without it the directory is a torn attempt and is
//! written anew. Nothing here is ever deleted; a full quarantine refuses, and the resync waits.

use crate::{
    durable,
    mirror::Mirror,
    storage::{Backend, BlockingDisk, Storage, StorageError},
};
use bytes::Bytes;
use futures_util::FutureExt;
use lockstep_wire::{Chain, DatabaseName, Epoch, Position, Salts};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const TITLE: &str = "lockstep-quarantine 1";

/// Quarantine of one node.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// The agent's state directory; everything goes below its `quarantine`.
    pub state_dir: PathBuf,
    /// Bytes that all of it may take, shared blocks counted in full.
    pub limit_bytes: u64,
}

/// Why a node's own data had to be kept.
#[derive(Debug, Clone)]
pub struct KeepReason {
    /// The epoch under which this node wrote it.
    pub epoch: Epoch,
    /// The database.
    pub database: DatabaseName,
    /// The last position both nodes have, if known.
    pub fork: Option<Position>,
}

/// One database in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its directory.
    pub directory: PathBuf,
    /// The epoch under which this node wrote it.
    pub epoch: Epoch,
    /// The database.
    pub database: DatabaseName,
    /// The last position both nodes have, if known.
    pub fork: Option<Position>,
    /// Last commit in the WAL that is kept.
    pub last: Position,
    /// Running checksum after it.
    pub chain: Chain,
    /// Salts of the WAL that is kept.
    pub salts: Salts,
    /// Size of the database file.
    pub database_bytes: u64,
    /// Size of the WAL.
    pub wal_bytes: u64,
    /// When it was kept, seconds since 1970; for people only.
    pub kept_at_unix_s: u64,
}

/// Why nothing was kept; the database is then untouched.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The limit would be passed.
    #[error(
        "keeping {} takes {needed_bytes} bytes, but {used_bytes} of the {limit_bytes} allowed in {} are in use: move old quarantines away; until then this node is not resynced",
        database.display(), directory.display()
    )]
    Full {
        /// The database file.
        database: PathBuf,
        /// The quarantine.
        directory: PathBuf,
        /// Size of what is to be kept.
        needed_bytes: u64,
        /// Size of what is kept already.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A manifest that cannot be read.
    #[error("{} is damaged: move its directory away", .0.display())]
    Manifest(PathBuf),
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Quarantine {
    fn directory(&self) -> PathBuf {
        self.state_dir.join("quarantine")
    }
}

impl Mirror {
    /// Keeps this node's database and WAL as they are, durably; only then may a rewind or a copy begin.
    /// What is kept already is not kept twice.
    ///
    /// # Errors
    /// [`QuarantineError::Full`] rather than deleting anything; `disk`.
    pub async fn quarantine(
        &mut self,
        quarantine: &Quarantine,
        reason: KeepReason,
    ) -> Result<Kept, QuarantineError> {
        let disk = self.disk().clone();
        let (database_bytes, wal_bytes) = self.sizes().await?;
        let point = self.point();
        let mut kept = Kept {
            directory: PathBuf::new(),
            epoch: reason.epoch,
            database: reason.database,
            fork: reason.fork,
            last: point.position,
            chain: point.chain,
            salts: point.salts,
            database_bytes,
            wal_bytes,
            kept_at_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let earlier = list(&disk, &quarantine.state_dir).await?;
        if let Some(same) = earlier.iter().find(|earlier| earlier.is_same_data(&kept)) {
            self.mark_kept();
            return Ok(same.clone());
        }
        let used_bytes = earlier.iter().map(|kept| kept.database_bytes + kept.wal_bytes).sum();
        let needed_bytes = database_bytes + wal_bytes;
        if needed_bytes + used_bytes > quarantine.limit_bytes {
            return Err(QuarantineError::Full {
                database: self.config().database.clone(),
                directory: quarantine.directory(),
                needed_bytes,
                used_bytes,
                limit_bytes: quarantine.limit_bytes,
            });
        }
        kept.directory = free_directory(&quarantine.directory(), &kept, &earlier);
        copy_all(&disk, self, &kept).await?;
        self.mark_kept();
        Ok(kept)
    }
}

async fn copy_all(disk: &Backend, mirror: &Mirror, kept: &Kept) -> Result<(), StorageError> {
    let mut below: Vec<&Path> = kept.directory.ancestors().take(3).collect();
    below.reverse();
    for directory in below {
        durable::create_dir_durably(disk, directory).await?;
    }
    durable::copy_durably(disk, &mirror.config().database, &kept.directory.join("database")).await?;
    durable::copy_durably(disk, &mirror.config().wal(), &kept.directory.join("database-wal")).await?;
    durable::write_file_durably(disk, &kept.directory.join("manifest"), kept.encode()).await
}

/// The same database of the same epoch may fork more than once: later ones get a number.
fn free_directory(quarantine: &Path, kept: &Kept, earlier: &[Kept]) -> PathBuf {
    let epoch = quarantine.join(kept.epoch.to_string());
    let mut candidates = (1..).map(|number| match number {
        1 => epoch.join(kept.database.as_str()),
        _ => epoch.join(format!("{}.{number}", kept.database)),
    });
    let free = candidates.find(|directory| earlier.iter().all(|earlier| earlier.directory != *directory));
    free.expect("the numbers do not end")
}

/// Everything in quarantine, by epoch and database.
///
/// # Errors
/// [`QuarantineError::Manifest`] names a damaged one; `disk`.
pub async fn list(disk: &Backend, state_dir: &Path) -> Result<Vec<Kept>, QuarantineError> {
    let root = state_dir.join("quarantine");
    let mut found = Vec::new();
    for epoch in disk.list(&root).await? {
        for database in disk.list(&root.join(&epoch)).await? {
            let directory = root.join(&epoch).join(database);
            let manifest = directory.join("manifest");
            let Some(contents) = durable::read_small_file(disk, &manifest).await? else { continue };
            let text = String::from_utf8_lossy(&contents);
            found.push(Kept::decode(directory, &text).ok_or(QuarantineError::Manifest(manifest))?);
        }
    }
    Ok(found)
}

/// [`list`] for callers without a data thread.
///
/// # Errors
/// As [`list`].
pub fn list_blocking(state_dir: &Path) -> Result<Vec<Kept>, QuarantineError> {
    let disk = Backend::Blocking(BlockingDisk { inline: true });
    list(&disk, state_dir).now_or_never().expect("an inline disk never waits")
}

impl Kept {
    fn is_same_data(&self, other: &Self) -> bool {
        let data = |kept: &Self| {
            (kept.epoch, kept.last, kept.chain, kept.salts, kept.database_bytes, kept.wal_bytes)
        };
        self.database == other.database && data(self) == data(other)
    }

    fn encode(&self) -> Bytes {
        let fork = self.fork.map_or_else(|| "unknown".to_owned(), |fork| fork.to_string());
        format!(
            "{TITLE}\nepoch {}\ndatabase {}\nfork {fork}\nlast {}\nchain {}\nsalts {}\ndatabase_bytes {}\n\
             wal_bytes {}\nkept_at_unix_s {}\n",
            self.epoch,
            self.database,
            self.last,
            self.chain.packed(),
            self.salts.packed(),
            self.database_bytes,
            self.wal_bytes,
            self.kept_at_unix_s,
        )
        .into()
    }

    fn decode(directory: PathBuf, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == TITLE).then_some(())?;
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        Some(Self {
            directory,
            epoch: value("epoch")?.parse().ok()?,
            database: value("database")?.parse().ok()?,
            fork: match value("fork")? {
                "unknown" => None,
                fork => Some(fork.parse().ok()?),
            },
            last: value("last")?.parse().ok()?,
            chain: Chain::from_packed(value("chain")?.parse().ok()?),
            salts: Salts::from_packed(value("salts")?.parse().ok()?),
            database_bytes: value("database_bytes")?.parse().ok()?,
            wal_bytes: value("wal_bytes")?.parse().ok()?,
            kept_at_unix_s: value("kept_at_unix_s")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::{FrameNo, NodeId, WalGeneration};

    #[test]
    fn a_manifest_survives_its_text() {
        let kept = Kept {
            directory: "/q/1/app".into(),
            epoch: Epoch { counter: 4, node: NodeId(7) },
            database: "app".parse().unwrap(),
            fork: Some(Position { generation: WalGeneration(2), frame: FrameNo(9) }),
            last: Position { generation: WalGeneration(2), frame: FrameNo(11) },
            chain: Chain([1, 2]),
            salts: Salts([3, 4]),
            database_bytes: 8192,
            wal_bytes: 4152,
            kept_at_unix_s: 1,
        };
        let text = String::from_utf8(kept.encode().to_vec()).unwrap();
        assert_eq!(Kept::decode(kept.directory.clone(), &text), Some(kept));
    }
}

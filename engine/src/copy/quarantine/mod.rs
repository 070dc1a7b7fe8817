//! Keeps a database and its WAL before a rewind or resync discards what only this node had.
//!
//! `<state>/quarantine/<epoch>/<database>/` holds `database`, `database-wal` (so that SQLite opens the
//! pair as it was) and `manifest.json`, written last: without it the directory is a torn attempt and
//! is written anew. Nothing here is ever deleted but by the operator's [`discard`]; a full
//! quarantine refuses, and the resync waits.

mod manifest;
mod unpack;

pub use unpack::{NoFork, UnpackError, Unpacked, check, copy_at_rest, unpack};

use crate::{
    durable,
    mirror::{Mirror, MirrorError},
    storage::{Backend, BlockingDisk, Storage, StorageError, StorageFile},
    wal::WalPoint,
};
use futures_util::FutureExt;
use lockstep_wire::{Chain, DatabaseName, Epoch, PairId, Position, Salts};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes read at once while a kept file is hashed.
const HASH_READ_BYTES: usize = 1 << 20;

/// The files of a kept database, besides the manifest.
const DATABASE: &str = "database";
const WAL: &str = "database-wal";

/// Quarantine of one pair on this node.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// The pair, for the manifest.
    pub pair: PairId,
    /// The pair's state directory; everything goes below its `quarantine`.
    pub state_dir: PathBuf,
    /// Bytes that all of it may take, shared blocks counted in full.
    pub limit_bytes: u64,
}

/// What made it necessary to keep data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// This node was active and its last commit is not one of the new active's.
    Diverged,
    /// This node mirrored commits that the active lost afterwards.
    ActiveLostCommits,
}

/// Why a node's own data had to be kept.
#[derive(Debug, Clone)]
pub struct KeepReason {
    /// The epoch under which this node's data is replaced.
    pub epoch: Epoch,
    /// The database.
    pub database: DatabaseName,
    /// What made it necessary.
    pub why: Why,
    /// The last point both nodes have, if known; recorded when the WAL that is kept holds it.
    pub fork: Option<WalPoint>,
}

/// One database in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its directory.
    pub directory: PathBuf,
    /// The pair.
    pub pair: PairId,
    /// The epoch under which this node's data was replaced.
    pub epoch: Epoch,
    /// The database.
    pub database: DatabaseName,
    /// What made it necessary.
    pub why: Why,
    /// The last point both nodes have, if it is in the WAL that is kept.
    pub fork: Option<WalPoint>,
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
    /// xxh3-64 of the database file.
    pub database_xxh3: u64,
    /// xxh3-64 of the WAL.
    pub wal_xxh3: u64,
    /// When it was kept, seconds since 1970; for people only.
    pub kept_at_unix_s: u64,
}

/// A directory in quarantine that is not a whole kept database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// The directory.
    pub directory: PathBuf,
    /// Its manifest is there and cannot be read; without one, keeping was cut short and is done anew.
    pub damaged: bool,
}

/// Everything in quarantine, by epoch and database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// What is kept whole.
    pub kept: Vec<Kept>,
    /// The rest.
    pub incomplete: Vec<Incomplete>,
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
    /// The mirror's own WAL.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
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
        let fork = match reason.fork {
            Some(fork) if self.holds(&fork).await? => Some(fork),
            _ => None,
        };
        let mut kept = Kept {
            directory: PathBuf::new(),
            pair: quarantine.pair.clone(),
            epoch: reason.epoch,
            database: reason.database,
            why: reason.why,
            fork,
            last: point.position,
            chain: point.chain,
            salts: point.salts,
            database_bytes,
            wal_bytes,
            database_xxh3: 0,
            wal_xxh3: 0,
            kept_at_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let earlier = list(&disk, &quarantine.state_dir).await?;
        if let Some(same) = earlier.kept.iter().find(|earlier| earlier.is_same_data(&kept)) {
            self.mark_kept();
            return Ok(same.clone());
        }
        let used_bytes = earlier.kept.iter().map(|kept| kept.database_bytes + kept.wal_bytes).sum();
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
        copy_all(&disk, self, &mut kept).await?;
        self.mark_kept();
        Ok(kept)
    }
}

async fn copy_all(disk: &Backend, mirror: &Mirror, kept: &mut Kept) -> Result<(), StorageError> {
    let mut below: Vec<&Path> = kept.directory.ancestors().take(3).collect();
    below.reverse();
    for directory in below {
        durable::create_dir_durably(disk, directory).await?;
    }
    let (database, wal) = (kept.directory.join(DATABASE), kept.directory.join(WAL));
    durable::copy_durably(disk, &mirror.config().database, &database).await?;
    durable::copy_durably(disk, &mirror.config().wal(), &wal).await?;
    kept.database_xxh3 = hash_file(disk, &database).await?;
    kept.wal_xxh3 = hash_file(disk, &wal).await?;
    durable::write_file_durably(disk, &kept.directory.join(manifest::FILE), kept.encode()).await
}

async fn hash_file(disk: &Backend, path: &Path) -> Result<u64, StorageError> {
    let file = disk.open(path, crate::storage::Open::default()).await?;
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let mut offset = 0;
    loop {
        let chunk = file.read_at(offset, HASH_READ_BYTES).await?;
        hash.update(&chunk);
        offset += chunk.len() as u64;
        if chunk.len() < HASH_READ_BYTES {
            file.close().await?;
            return Ok(hash.digest());
        }
    }
}

/// The same database of the same epoch may fork more than once: later ones get a number. A directory
/// with a damaged manifest is left alone.
fn free_directory(quarantine: &Path, kept: &Kept, earlier: &Listing) -> PathBuf {
    let epoch = quarantine.join(kept.epoch.to_string());
    let damaged = earlier.incomplete.iter().filter(|entry| entry.damaged).map(|entry| &entry.directory);
    let taken: Vec<&PathBuf> = earlier.kept.iter().map(|kept| &kept.directory).chain(damaged).collect();
    let mut candidates = (1..).map(|number| match number {
        1 => epoch.join(kept.database.as_str()),
        _ => epoch.join(format!("{}.{number}", kept.database)),
    });
    candidates.find(|directory| !taken.contains(&directory)).expect("the numbers do not end")
}

/// Everything in quarantine, by epoch and database.
///
/// # Errors
/// `disk`.
pub async fn list(disk: &Backend, state_dir: &Path) -> Result<Listing, StorageError> {
    let root = state_dir.join("quarantine");
    let mut found = Listing::default();
    for epoch in disk.list(&root).await? {
        for database in disk.list(&root.join(&epoch)).await? {
            let directory = root.join(&epoch).join(database);
            let contents = durable::read_small_file(disk, &directory.join(manifest::FILE)).await?;
            match contents.map(|contents| Kept::decode(directory.clone(), &contents)) {
                Some(Some(kept)) => found.kept.push(kept),
                other => found.incomplete.push(Incomplete { directory, damaged: other.is_some() }),
            }
        }
    }
    Ok(found)
}

/// [`list`] for callers without a data thread.
///
/// # Errors
/// As [`list`].
pub fn list_blocking(state_dir: &Path) -> Result<Listing, StorageError> {
    let disk = Backend::Blocking(BlockingDisk { inline: true });
    list(&disk, state_dir).now_or_never().expect("an inline disk never waits")
}

/// Removes one directory of the quarantine for good, durably. A crash half-way leaves one without a manifest.
///
/// # Errors
/// As the operating system says.
pub fn discard(directory: &Path) -> std::io::Result<()> {
    durable::remove_dir_durably(directory, manifest::FILE)
}

impl Kept {
    fn is_same_data(&self, other: &Self) -> bool {
        let data = |kept: &Self| {
            (kept.epoch, kept.last, kept.chain, kept.salts, kept.database_bytes, kept.wal_bytes)
        };
        self.database == other.database && data(self) == data(other)
    }
}

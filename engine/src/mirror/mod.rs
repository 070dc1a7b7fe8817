//! Standby: append WAL bytes, make them durable, acknowledge, switch generation, recover, take over.
//!
//! The end of the data path: `link -> mirror`. A [`Mirror`] is one database whose `-wal` is the
//! active's, byte for byte, and whose database file is brought up at each generation switch. It owns
//! both files: a foreign opener gets "database is locked". It does not speak to the peer, does not
//! know epochs and does not decide when to promote. A call must not be dropped half-way.

mod append;
mod attributes;
mod copying;
mod error;
mod flush;
mod fold;
mod generation;
mod open;
mod page_hashes;
mod rejoin;
mod scrub;
mod snapshot;
#[cfg(test)]
pub(crate) mod spoil;
mod state_file;
mod take_over;
#[cfg(test)]
mod tests;

pub use copying::HASH_PAGES_MAX;
pub use error::MirrorError;
pub use flush::{FlushTicket, Flushed};
pub use fold::{FOLD_AHEAD_BYTES, FoldTicket, Folded};
pub use page_hashes::Build;
pub use rejoin::FORK_PAGES_MAX;
pub use scrub::{HashTicket, SCRUB_PAGES_MAX};
pub use snapshot::{Snapshot, SnapshotStop, SnapshotTicket};
pub use take_over::TakenOver;

use crate::{
    durable::{self, LatestPages},
    storage::{Backend, DiskFile, FileIdentity, Storage, StorageError, StorageFile},
    wal::{self, FRAME_HEADER_BYTES, FrameHeader, WAL_HEADER_BYTES, WalHeader, WalPoint},
};
use lockstep_wire::{Chain, FrameNo, MirrorState, Position, WalGeneration};
use state_file::StateFile;
use std::{path::PathBuf, sync::Arc};

/// Offset of the file format version numbers in a database file: 2 2 is WAL, 1 1 is not.
pub(crate) const FORMAT_BYTES_OFFSET: u64 = 18;

/// What to mirror, and how its files look.
#[derive(Debug, Clone)]
pub struct MirrorConfig {
    /// The database file; its WAL is beside it.
    pub database: PathBuf,
    /// Directory of this database's `mirror.state`.
    pub state_dir: PathBuf,
    /// How many zeros to keep written ahead of the append point, bytes; 0: none.
    pub zero_ahead_bytes: u32,
    /// Remember page hashes in the state directory.
    pub page_hashes: bool,
    /// From how many bytes of frames on their pages are moved ahead of the end of a generation; 0: never.
    pub fold_ahead_bytes: u64,
}

/// Zeros kept ahead of the append point unless configured: one batch of the link.
pub const ZERO_AHEAD_BYTES: u32 = 1 << 20;

impl MirrorConfig {
    /// A mirror of `database` with its state in `state_dir` and defaults for the rest.
    pub fn new(database: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            database: database.into(),
            state_dir: state_dir.into(),
            zero_ahead_bytes: ZERO_AHEAD_BYTES,
            page_hashes: false,
            fold_ahead_bytes: FOLD_AHEAD_BYTES,
        }
    }

    /// The WAL's path.
    pub fn wal(&self) -> PathBuf {
        with_suffix(&self.database, "-wal")
    }

    fn shm(&self) -> PathBuf {
        with_suffix(&self.database, "-shm")
    }

    fn state_file(&self) -> PathBuf {
        self.state_dir.join("mirror.state")
    }
}

fn with_suffix(path: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What is remembered of a frame: 8 bytes each, so a WAL of 1 GiB costs 2 MiB.
#[derive(Debug, Clone, Copy)]
struct FrameNote {
    page: u32,
    /// Committed size in pages, 0 when it does not commit.
    commit_pages: u32,
}

impl FrameNote {
    fn all<'a>(frames: &wal::Frames<'a>) -> impl Iterator<Item = Self> + use<'a> {
        frames.iter().map(|(head, _)| Self { page: head.page, commit_pages: head.commit_pages })
    }
}

/// The end of a copy as the active announced it.
#[derive(Debug, Clone, Copy)]
struct CopyEnd {
    position: Position,
    page_count: u32,
}

/// One mirrored database.
pub struct Mirror {
    disk: Backend,
    config: MirrorConfig,
    database: DiskFile,
    database_identity: FileIdentity,
    wal: DiskFile,
    wal_identity: FileIdentity,
    state: StateFile,
    /// `None`: the WAL has no sound header.
    header: Option<WalHeader>,
    generation: WalGeneration,
    /// Frames received and checked.
    frames: Vec<FrameNote>,
    /// Running checksum after the last of them.
    chain: Chain,
    /// The last commit frame among them.
    committed: FrameNo,
    /// Written to the WAL since the last flush began, bytes.
    unflushed_bytes: u64,
    /// Last commit frame on disk.
    durable: FrameNo,
    /// Running checksum after it.
    durable_chain: Chain,
    /// Frames of the present generation through this one are published on the active, as far as it has said; `None`:
    /// not known since this mirror was opened.
    published: Option<FrameNo>,
    /// Size of the database in pages at that commit; without one, of the database file.
    page_count: u32,
    /// End of the written space in the WAL, bytes.
    written_end: u64,
    /// A copy is running.
    copying: bool,
    copy_end: Option<CopyEnd>,
    /// This node's own data is in quarantine.
    kept: bool,
    /// Offsets of frames beyond the last commit of a database that this node wrote; broken at adoption.
    stale: Vec<u64>,
    /// Held for writing by whatever changes the database file or frames that are durable.
    pages_lock: Arc<tokio::sync::RwLock<()>>,
    hashes: page_hashes::Hashes,
    fold: fold::Fold,
}

impl Mirror {
    /// What this node holds, for [`lockstep_wire::MirrorStates`].
    ///
    /// # Errors
    /// `disk`, when a checksum cannot be read.
    pub async fn state(&self, stream: u32) -> Result<MirrorState, MirrorError> {
        let point = self.point();
        let published = self.published.map(|frame| frame.min(self.durable));
        let published_chain = match published {
            Some(frame) => self.chain_after(frame).await?.packed(),
            None => 0,
        };
        Ok(MirrorState {
            stream,
            complete: self.state.complete || (self.is_diverged() && self.header.is_some()),
            generation: point.position.generation.0,
            frame: point.position.frame.0,
            chain: point.chain.packed(),
            salts: point.salts.packed(),
            page_size: self.state.page_size,
            page_count: self.page_count,
            has_pages: self.page_count > 0,
            diverged: self.is_diverged(),
            rewinds: true,
            published_frame: published.map(|frame| frame.0),
            published_chain,
        })
    }

    /// What an active said of its publications means nothing to the next one.
    pub fn forget_published(&mut self) {
        self.published = None;
    }

    /// The last durable commit.
    pub fn point(&self) -> WalPoint {
        WalPoint {
            position: self.position(self.durable),
            chain: self.durable_chain,
            salts: self.header.map(|header| header.salts).unwrap_or_default(),
        }
    }

    /// Generation and last frame received and checked.
    pub fn received(&self) -> Position {
        self.position(self.last_frame())
    }

    /// The database file and the WAL together are a sound database that may be promoted.
    pub fn is_complete(&self) -> bool {
        self.state.complete
    }

    /// This node wrote the database itself since it last mirrored.
    pub fn is_diverged(&self) -> bool {
        !self.state.mirrors && self.page_count > 0
    }

    /// What is mirrored.
    pub fn config(&self) -> &MirrorConfig {
        &self.config
    }

    /// Ends mirroring and returns when lock and descriptors are gone; a mere drop may leave that to later.
    /// What was received and not flushed may be lost. Waits for a snapshot that runs ([`SnapshotStop`]).
    ///
    /// # Errors
    /// `disk`, when a flush of this mirror is still running.
    pub async fn close(mut self) -> Result<(), MirrorError> {
        let lock = Arc::clone(&self.pages_lock);
        let _alone = lock.write().await;
        self.hashes.close();
        let empty = self.never_held_anything() && self.database.length().await? == 0;
        self.wal.close().await?;
        self.database.close().await?;
        if empty {
            // An application that makes the database later makes it with its own owner and rights.
            self.disk.remove(&self.config.wal()).await?;
            self.disk.remove(&self.config.database).await?;
        }
        Ok(())
    }

    pub(crate) fn disk(&self) -> &Backend {
        &self.disk
    }

    /// Bytes of database file and WAL.
    pub(crate) async fn sizes(&self) -> Result<(u64, u64), StorageError> {
        Ok((self.database.length().await?, self.wal.length().await?))
    }

    /// This node's own data is in quarantine: it may be changed now.
    pub(crate) fn mark_kept(&mut self) {
        self.kept = true;
    }

    fn position(&self, frame: FrameNo) -> Position {
        Position { generation: self.generation, frame }
    }

    fn last_frame(&self) -> FrameNo {
        FrameNo(u32::try_from(self.frames.len()).expect("SQLite counts frames in 32 bits"))
    }

    /// The last commit frame at or before `frame`; 0 when there is none.
    fn last_commit(&self, frame: FrameNo) -> FrameNo {
        let frames = &self.frames[..frame.0 as usize];
        let index = frames.iter().rposition(|note| note.commit_pages > 0).map_or(0, |index| index + 1);
        FrameNo(u32::try_from(index).expect("SQLite counts frames in 32 bits"))
    }

    /// Where frame `frame` begins in the WAL.
    fn frame_offset(&self, frame: FrameNo) -> u64 {
        let header = WAL_HEADER_BYTES as u64;
        self.header.map_or(header, |header| wal::frame_offset(frame, header.page_size))
    }

    /// End of the last received frame in the WAL, bytes.
    fn append_offset(&self) -> u64 {
        self.frame_offset(FrameNo(self.last_frame().0 + 1))
    }

    /// The running checksum after a frame that is held.
    async fn chain_after(&self, frame: FrameNo) -> Result<Chain, MirrorError> {
        match self.header {
            Some(header) if frame.0 == 0 => Ok(header.chain),
            None => Ok(Chain::default()),
            Some(_) if frame == self.last_frame() => Ok(self.chain),
            Some(_) => {
                let bytes = self.wal.read_at(self.frame_offset(frame), FRAME_HEADER_BYTES).await?;
                let head = bytes.first_chunk().expect("a frame that was counted is there");
                Ok(FrameHeader::parse(head).chain)
            }
        }
    }

    /// The WAL held here contains this commit, so it equals every other WAL that does through it.
    pub(crate) async fn holds(&self, point: &WalPoint) -> Result<bool, MirrorError> {
        let frame = point.position.frame;
        let in_reach = frame > FrameNo(0) && frame <= self.durable && self.last_commit(frame) == frame;
        let of_this_wal = self.header.is_some_and(|header| header.salts == point.salts);
        Ok(in_reach && of_this_wal && self.chain_after(frame).await? == point.chain)
    }

    /// The latest version of each page in the frames after `done` through the commit frame `through`; `None` when
    /// there is none.
    fn latest_pages(&self, done: FrameNo, through: FrameNo) -> Option<LatestPages> {
        let header = self.header?;
        let page_count = self.frames.get(through.0.checked_sub(1)? as usize)?.commit_pages;
        let notes = self.frames[done.0 as usize..through.0 as usize].iter().zip((done.0 + 1..).map(FrameNo));
        // A page beyond the committed size was dropped by a later transaction.
        let kept = notes.filter(|(note, _)| note.page <= page_count);
        let mut pages: Vec<(u32, FrameNo)> = kept.map(|(note, frame)| (note.page, frame)).collect();
        // In place and without a map: a VACUUM has as many frames as the database has pages.
        pages.sort_unstable_by_key(|&(page, frame)| (page, std::cmp::Reverse(frame)));
        pages.dedup_by_key(|(page, _)| *page);
        Some(LatestPages { pages, page_bytes: header.page_size as usize, page_count })
    }

    async fn write_state(&mut self, state: StateFile) -> Result<(), MirrorError> {
        durable::write_file_durably(&self.disk, &self.config.state_file(), state.encode().into()).await?;
        self.state = state;
        Ok(())
    }

    fn protocol(
        &self,
        what: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> MirrorError {
        MirrorError::Protocol {
            database: self.config.database.clone(),
            what,
            expected: expected.into(),
            got: got.into(),
        }
    }

    /// The names must still be our files, or what is "durable" would not be what a takeover opens.
    async fn check_names(&self) -> Result<(), MirrorError> {
        check_name(&self.disk, self.config.database.clone(), self.database_identity).await?;
        check_name(&self.disk, self.config.wal(), self.wal_identity).await
    }
}

async fn check_name(disk: &Backend, path: PathBuf, ours: FileIdentity) -> Result<(), MirrorError> {
    if disk.identity(&path).await? == Some(ours) { Ok(()) } else { Err(MirrorError::Replaced(path)) }
}

//! Opening a mirror: its position is read off the disk, from the WAL's own checksums.
//!
//! What a killed agent had written without a sync is made durable here before it counts. Nothing is
//! repaired beyond that; whether the position fits the active's is the active's to say.

use super::{
    FRAME_HEADER_BYTES, FrameNote, Mirror, MirrorConfig, MirrorError, WAL_HEADER_BYTES, WalHeader,
    page_hashes::Hashes, state_file::StateFile,
};
use crate::{
    durable,
    storage::{Backend, DiskFile, Storage, StorageError, StorageFile},
    wal::{Frames, frame_bytes},
};
use lockstep_wire::{Chain, FrameNo, WalGeneration};
use std::sync::Arc;
use std::time::Duration;

/// How often and how far apart: a second in all, as a takeover's SQLite waits. Whoever really has the database open
/// keeps it longer.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a WAL read at once.
const SCAN_BYTES: u64 = 1 << 20;

/// What a WAL holds by its own checksums.
#[derive(Debug, Default)]
struct Scan {
    header: Option<WalHeader>,
    /// Through the last commit.
    frames: Vec<FrameNote>,
    chain: Chain,
    /// Later frames with the header's salts: they could be chained anew by what overwrites the ones before.
    stale: Vec<u64>,
}

impl Mirror {
    /// Is this database a mirror by its state on disk? False when this node wrote it itself, or never had it.
    ///
    /// # Errors
    /// [`MirrorError::StateFile`] when the state file is damaged; `disk`.
    pub async fn is_mirror_on_disk(disk: &Backend, config: &MirrorConfig) -> Result<bool, MirrorError> {
        Ok(read_state(disk, config).await?.is_some_and(|saved| saved.mirrors))
    }

    /// Is it a complete mirror by its state on disk, so that an operator may let it serve?
    ///
    /// # Errors
    /// As [`Mirror::is_mirror_on_disk`].
    pub async fn is_complete_on_disk(disk: &Backend, config: &MirrorConfig) -> Result<bool, MirrorError> {
        Ok(read_state(disk, config).await?.is_some_and(|saved| saved.mirrors && saved.complete))
    }

    /// Where this node took the database over that it writes now, if it did.
    ///
    /// # Errors
    /// As [`Mirror::is_mirror_on_disk`].
    pub async fn took_over_at(
        disk: &Backend,
        config: &MirrorConfig,
    ) -> Result<Option<crate::wal::WalPoint>, MirrorError> {
        let saved = read_state(disk, config).await?;
        Ok(saved.filter(|saved| !saved.mirrors).and_then(|saved| saved.took_over))
    }

    /// Takes a database over as a mirror: locks it against every other opener and finds its position.
    /// Database and WAL are made when there are none.
    ///
    /// # Errors
    /// [`MirrorError`] names the path and the remedy: in use elsewhere, not writable, damaged state file.
    pub async fn open(disk: Backend, config: MirrorConfig) -> Result<Self, MirrorError> {
        let saved = read_state(&disk, &config).await?;
        let database = durable::open_durably(&disk, &config.database).await?;
        if !lock(&database).await? {
            return Err(MirrorError::InUse(config.database));
        }
        // Nobody has the database open, so this wal-index is left over from a past run.
        disk.remove(&config.shm()).await?;
        let wal = durable::open_durably(&disk, &config.wal()).await?;
        let scan = scan(&wal).await?;
        let wal_identity = wal.identity().await?;
        // A WAL without a header has salts of zero in the state file.
        let salts = scan.header.map(|header| header.salts).unwrap_or_default();
        let salts_known = saved.is_some_and(|saved| saved.generation_of(salts).is_some());
        let state = judge(saved, salts_known, wal_identity.inode);
        // What this node wrote itself stays as it is until it is adopted or kept.
        let stale = if state.mirrors { Vec::new() } else { scan.stale.clone() };
        let broken = if state.mirrors { &scan.stale[..] } else { &[] };
        durable::erase(&wal, broken, FRAME_HEADER_BYTES).await?;
        durable::settle(&wal, scan.header.map(|header| header.to_bytes())).await?;
        let page_size = match (scan.header, state.page_size) {
            (Some(header), _) => header.page_size,
            (None, 0) => page_size_of(&database).await?,
            (None, known) => known,
        };
        let generation = state.generation_of(salts).unwrap_or(WalGeneration(0));
        let file_pages = database.length().await?.checked_div(u64::from(page_size)).unwrap_or(0);
        let page_count = match scan.frames.last() {
            Some(note) => note.commit_pages,
            None => u32::try_from(file_pages).expect("SQLite counts pages in 32 bits"),
        };
        let mut mirror = Self {
            database_identity: database.identity().await?,
            written_end: wal.length().await?,
            durable: FrameNo(u32::try_from(scan.frames.len()).expect("SQLite counts frames in 32 bits")),
            durable_chain: scan.chain,
            published: None,
            chain: scan.chain,
            committed: FrameNo(u32::try_from(scan.frames.len()).expect("SQLite counts frames in 32 bits")),
            unflushed_bytes: 0,
            frames: scan.frames,
            header: scan.header,
            state: StateFile { page_size, wal_inode: wal_identity.inode, ..state },
            disk,
            config,
            database,
            wal,
            wal_identity,
            generation,
            page_count,
            copying: false,
            copy_end: None,
            kept: false,
            stale,
            pages_lock: Arc::default(),
            hashes: Hashes::default(),
            fold: super::fold::Fold::default(),
        };
        mirror.open_hashes();
        Ok(mirror)
    }
}

/// Tries for the lock of a mirror that this process closed a moment ago: a child that was forked meanwhile has a copy
/// of its descriptor, and thereby the lock, until it runs its own program. On a loaded machine that takes a while.
async fn lock(database: &DiskFile) -> Result<bool, StorageError> {
    for _ in 0..LOCK_TRIES {
        if database.lock_sqlite().await? {
            return Ok(true);
        }
        if tokio::runtime::Handle::try_current().is_err() {
            break;
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    database.lock_sqlite().await
}

async fn read_state(disk: &Backend, config: &MirrorConfig) -> Result<Option<StateFile>, MirrorError> {
    durable::create_dir_durably(disk, &config.state_dir).await?;
    let path = config.state_file();
    let Some(contents) = durable::read_small_file(disk, &path).await? else { return Ok(None) };
    let decoded = match String::from_utf8(contents) {
        Ok(text) => StateFile::decode(&text),
        Err(_) => Err("it is not text".to_owned()),
    };
    decoded.map(Some).map_err(|reason| MirrorError::StateFile { path, reason })
}

/// Without a state file, or when somebody put another WAL there while no agent held the lock, the
/// database counts as written by this node: not promoted as a mirror, and kept before it is changed.
fn judge(saved: Option<StateFile>, salts_known: bool, wal_inode: u64) -> StateFile {
    let Some(saved) = saved else { return StateFile::default() };
    let had_wal = saved.generations[0].is_some();
    let ours =
        !saved.mirrors || !saved.complete || (saved.wal_inode == wal_inode && (salts_known || !had_wal));
    if ours { saved } else { StateFile { mirrors: false, complete: false, ..saved } }
}

async fn page_size_of(database: &DiskFile) -> Result<u32, MirrorError> {
    let bytes = database.read_at(16, 2).await?;
    Ok(match bytes[..] {
        // 65536 does not fit; SQLite stores it as 1.
        [0, 1] => 65536,
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        _ => 0,
    })
}

async fn scan(wal: &DiskFile) -> Result<Scan, MirrorError> {
    let Ok(header) = WalHeader::parse(&wal.read_at(0, WAL_HEADER_BYTES).await?) else {
        return Ok(Scan::default());
    };
    let mut found = Scan { header: Some(header), chain: header.chain, ..Scan::default() };
    let frame_bytes = frame_bytes(header.page_size);
    let chunk_bytes = (SCAN_BYTES / frame_bytes).max(1) * frame_bytes;
    // Frames that verify, also those after the last commit.
    let (mut notes, mut chain, mut sound) = (Vec::new(), header.chain, true);
    let mut offset = WAL_HEADER_BYTES as u64;
    loop {
        let length = usize::try_from(chunk_bytes).expect("a chunk is about a megabyte");
        let chunk = wal.read_at(offset, length).await?;
        let frames = Frames::new(&chunk, header.page_size);
        let ours = (0..).zip(frames.iter()).filter(|(_, (head, _))| head.salts == header.salts);
        found.stale.extend(ours.map(|(index, _)| offset + index * frame_bytes));
        if sound {
            let (good, error) = frames.verified_prefix(&header, FrameNo(1), chain);
            chain = good.chain;
            sound = error.is_none();
            notes.extend(FrameNote::all(&frames).take(good.frames as usize));
            if good.last_commit > 0 {
                found.chain = good.last_commit_chain;
                let after = notes.split_off(notes.len() - (good.frames - good.last_commit) as usize);
                found.frames.append(&mut notes);
                notes = after;
            }
        }
        if chunk.len() < length {
            let end = WAL_HEADER_BYTES as u64 + found.frames.len() as u64 * frame_bytes;
            found.stale.retain(|&offset| offset >= end);
            return Ok(found);
        }
        offset += chunk_bytes;
    }
}

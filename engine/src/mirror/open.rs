//! Opening a mirror: its position is read off the disk, from the WAL's own checksums.
//!
//! What a killed agent had written without a sync is made durable here before it counts. Nothing is
//! repaired beyond that; whether the position fits the active's is the active's to say.

use super::{
    FRAME_HEADER_BYTES, FrameNote, Mirror, MirrorConfig, MirrorError, WAL_HEADER_BYTES, WalHeader,
    format::FrameHeader, state_file::StateFile,
};
use crate::{
    durable,
    storage::{Backend, DiskFile, Open, Storage, StorageFile},
};
use lockstep_wire::{Chain, FrameNo, WalGeneration};
use std::sync::Arc;

/// Bytes of a WAL read at once.
const SCAN_BYTES: usize = 1 << 20;

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
    /// Takes a database over as a mirror: locks it against every other opener and finds its position.
    /// Database and WAL are made when there are none.
    ///
    /// # Errors
    /// [`MirrorError`] names the path and the remedy: in use elsewhere, not writable, damaged state file.
    pub async fn open(disk: Backend, config: MirrorConfig) -> Result<Self, MirrorError> {
        let saved = read_state(&disk, &config).await?;
        let how = Open { create: true, mode: config.mode, owner: config.owner };
        let database = durable::open_durably(&disk, &config.database, how).await?;
        if !database.lock_sqlite().await? {
            return Err(MirrorError::InUse(config.database));
        }
        // Nobody has the database open, so this wal-index is left over from a past run.
        disk.remove(&config.shm()).await?;
        let wal = durable::open_durably(&disk, &config.wal(), how).await?;
        let scan = scan(&wal).await?;
        let wal_identity = wal.identity().await?;
        let salts = scan.header.map(|header| header.salts);
        let salts_known = salts.zip(saved).is_some_and(|(salts, saved)| saved.generation_of(salts).is_some());
        let state = judge(saved, salts_known, wal_identity.inode);
        // What this node wrote itself stays as it is until it is adopted or kept.
        let stale = if state.mirrors { Vec::new() } else { scan.stale.clone() };
        let broken = if state.mirrors { &scan.stale[..] } else { &[] };
        durable::erase(&wal, broken, FRAME_HEADER_BYTES).await?;
        let page_size = match (scan.header, state.page_size) {
            (Some(header), _) => header.page_size,
            (None, 0) => page_size_of(&database).await?,
            (None, known) => known,
        };
        let generation = salts.and_then(|salts| state.generation_of(salts)).unwrap_or(WalGeneration(0));
        let file_pages = database.length().await?.checked_div(u64::from(page_size)).unwrap_or(0);
        let page_count = match scan.frames.last() {
            Some(note) => note.commit_pages,
            None => u32::try_from(file_pages).expect("SQLite counts pages in 32 bits"),
        };
        Ok(Self {
            database_identity: database.identity().await?,
            written_end: wal.length().await?,
            durable: FrameNo(u32::try_from(scan.frames.len()).expect("SQLite counts frames in 32 bits")),
            durable_chain: scan.chain,
            chain: scan.chain,
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
        })
    }
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
    let Some(header) = WalHeader::parse(&wal.read_at(0, WAL_HEADER_BYTES).await?) else {
        return Ok(Scan::default());
    };
    let mut found = Scan { header: Some(header), chain: header.chain, ..Scan::default() };
    let frame_bytes = header.frame_bytes();
    let (mut notes, mut chain, mut sound) = (Vec::new(), header.chain, true);
    let mut offset = WAL_HEADER_BYTES as u64;
    // Offsets of chained frames after the last commit, and of anything later with the same salts.
    loop {
        let chunk = wal.read_at(offset, (SCAN_BYTES / frame_bytes).max(1) * frame_bytes).await?;
        for frame in chunk.chunks_exact(frame_bytes) {
            let head = FrameHeader::parse(frame);
            let next = header.after_frame(chain, frame);
            sound = sound && head.page != 0 && head.salts == header.salts && head.chain == next;
            if sound {
                chain = next;
                notes.push(FrameNote { page: head.page, commit_pages: head.commit_pages });
            }
            if head.salts == header.salts {
                found.stale.push(offset);
            }
            if sound && head.commit_pages > 0 {
                found.frames.append(&mut notes);
                found.chain = chain;
                found.stale.clear();
            }
            offset += frame_bytes as u64;
        }
        if chunk.len() < frame_bytes {
            return Ok(found);
        }
    }
}

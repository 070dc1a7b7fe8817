//! The only file that decides when to sync or rename, with the evidence for each choice.
//!
//! Evidence common to all: POSIX promises that data is on disk after `fsync`/`fdatasync` of its file
//! and a name after `fsync` of its directory; between syncs a disk may keep any subset of the
//! writes, in any order, torn at sectors. [`crate::storage::SimulatedDisk`] does exactly that, and
//! the crash tests of the mirror run on it. What the bytes mean is the caller's.

use crate::storage::{Backend, BlockingDisk, DiskFile, Open, Storage, StorageError, StorageFile};
use crate::wal::{FRAME_HEADER_BYTES, frame_offset};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, future};
use lockstep_wire::{FileAttributes, FrameNo};
use std::path::{Path, PathBuf};

/// Pages read at once while a WAL is folded: 256 KiB at 4 KiB pages.
const FOLD_PAGES: usize = 64;

/// Replaces a small file so that a crash leaves the old or the new contents, and the new ones once
/// this has returned.
///
/// Order: write a temporary file beside it; sync that, or the rename could reach the disk before
/// the data and leave an empty file; rename; sync the directory, or the old name could come back.
///
/// # Errors
/// [`StorageError`] names the path; the old contents are then still there.
pub async fn write_file_durably(disk: &Backend, path: &Path, contents: Bytes) -> Result<(), StorageError> {
    let temporary = beside(path, ".new");
    let file = disk.open(&temporary, Open { create: true }).await?;
    file.set_len(0).await?;
    file.write_at(0, contents).await?;
    file.sync_all().await?;
    file.close().await?;
    disk.rename(&temporary, path).await?;
    disk.sync_dir(directory_of(path)).await
}

/// [`write_file_durably`] for callers without a data thread; blocks this thread until it is done.
///
/// # Errors
/// As [`write_file_durably`].
pub fn write_file_durably_blocking(path: &Path, contents: impl Into<Bytes>) -> Result<(), StorageError> {
    let disk = Backend::Blocking(BlockingDisk { inline: true });
    let done = write_file_durably(&disk, path, contents.into()).now_or_never();
    done.expect("an inline disk never waits")
}

/// The whole of a file that [`write_file_durably`] wrote; `None` when there is none.
///
/// # Errors
/// [`StorageError`] names the path.
pub async fn read_small_file(disk: &Backend, path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    if disk.identity(path).await?.is_none() {
        return Ok(None);
    }
    let file = disk.open(path, Open::default()).await?;
    let length = usize::try_from(file.length().await?).expect("a small file fits memory");
    let contents = file.read_at(0, length).await?;
    file.close().await?;
    Ok(Some(contents))
}

/// Opens a file, and when it had to be made, makes its name durable: data synced into a file whose
/// name is lost is lost.
pub(crate) async fn open_durably(disk: &Backend, path: &Path) -> Result<DiskFile, StorageError> {
    let existed = disk.identity(path).await?.is_some();
    let file = disk.open(path, Open { create: true }).await?;
    if !existed {
        file.sync_all().await?;
        disk.sync_dir(directory_of(path)).await?;
    }
    Ok(file)
}

/// Copies a file so that the copy and its name are on disk when this returns. True: blocks are shared.
pub(crate) async fn copy_durably(disk: &Backend, from: &Path, to: &Path) -> Result<bool, StorageError> {
    let shared = disk.copy_file(from, to).await?;
    let copy = disk.open(to, Open::default()).await?;
    copy.sync_all().await?;
    copy.close().await?;
    disk.sync_dir(directory_of(to)).await?;
    Ok(shared)
}

/// Gives a finished file its name, which must be free, and makes both durable; for the operator's own files.
///
/// # Errors
/// As the operating system says; `AlreadyExists` when there is such a file.
pub fn publish_file_durably(finished: &Path, target: &Path) -> std::io::Result<()> {
    std::fs::File::open(finished)?.sync_all()?;
    // A link, unlike a rename, never replaces what is there.
    std::fs::hard_link(finished, target)?;
    std::fs::File::open(directory_of(target))?.sync_all()?;
    std::fs::remove_file(finished)
}

/// Removes a directory for good: first, durably, the file that makes it count, then the rest.
pub(crate) fn remove_dir_durably(directory: &Path, counts: &str) -> std::io::Result<()> {
    match std::fs::remove_file(directory.join(counts)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::File::open(directory)?.sync_all()?,
    }
    std::fs::remove_dir_all(directory)?;
    std::fs::File::open(directory_of(directory))?.sync_all()
}

/// Makes a directory and those missing above it, each with its name in the one above, durable: what is
/// synced below a directory whose own name is lost is lost.
///
/// # Errors
/// [`StorageError`] names the path.
pub async fn create_dir_durably(disk: &Backend, path: &Path) -> Result<(), StorageError> {
    let mut named_in = vec![directory_of(path)];
    while let Some(above) = named_in.last().copied().filter(|above| above.parent().is_some()) {
        if disk.identity(above).await?.is_some() {
            break;
        }
        named_in.push(directory_of(above));
    }
    disk.create_dir_all(path).await?;
    disk.sync_dir(path).await?;
    for directory in named_in {
        disk.sync_dir(directory).await?;
    }
    Ok(())
}

/// [`create_dir_durably`] for callers without a data thread; blocks this thread until it is done.
///
/// # Errors
/// As [`create_dir_durably`].
pub fn create_dir_durably_blocking(path: &Path) -> Result<(), StorageError> {
    let disk = Backend::Blocking(BlockingDisk { inline: true });
    create_dir_durably(&disk, path).now_or_never().expect("an inline disk never waits")
}

/// Gives files an owner, group, mode, ACL and label; answers what could not be set. `fsync`, as `fdatasync`
/// need not write the change of an inode that reading the data does not depend on.
pub(crate) async fn set_attributes(
    files: [&DiskFile; 2],
    wanted: &FileAttributes,
) -> Result<Vec<String>, StorageError> {
    let mut missing = Vec::new();
    for file in files {
        let applied = file.set_attributes(wanted).await?;
        if applied.changed {
            file.sync_all().await?;
        }
        missing = applied.missing;
    }
    Ok(missing)
}

/// Makes appended frames durable. `fdatasync` suffices: it also commits the length that reading them needs.
pub(crate) async fn flush_wal(wal: &DiskFile) -> Result<(), StorageError> {
    wal.sync_data().await
}

/// Ends a copy of pages: cuts the database file when asked, and makes it durable before the state
/// file may call it complete.
pub(crate) async fn finish_pages(database: &DiskFile, cut_bytes: Option<u64>) -> Result<(), StorageError> {
    if let Some(length) = cut_bytes {
        database.set_len(length).await?;
    }
    database.sync_all().await
}

/// Overwrites `[from, to)` with zeros and makes that durable, so that later frames overwrite written
/// space: an overwrite + fdatasync took 95 us where an append, which also commits the length and
/// the block allocation, took 145 to 230 us. False: there is no room for zeros, and none of them counts.
pub(crate) async fn zero_ahead(file: &DiskFile, from: u64, to: u64) -> Result<bool, StorageError> {
    let length = usize::try_from(to.saturating_sub(from)).expect("zeros are written in bounded chunks");
    if file.write_at(from, Bytes::from(vec![0; length])).await.is_err() {
        return Ok(false);
    }
    file.sync_data().await?;
    Ok(true)
}

/// Breaks frames by zeroing their headers, durably. Every removed frame, not only the first: should
/// equal bytes come again at the first, the ones behind it would otherwise be chained anew.
pub(crate) async fn erase(file: &DiskFile, spots: &[u64], length: usize) -> Result<(), StorageError> {
    for &spot in spots {
        file.write_at(spot, Bytes::from(vec![0; length])).await?;
    }
    file.sync_data().await
}

/// Breaks frames whose sync failed, without a word about the outcome: Linux keeps pages that it could
/// not write readable and calls them clean, so a later sync would succeed without them. Breaking
/// their headers makes sure that nobody takes them for durable; they are received and written anew.
pub(crate) async fn distrust(file: &DiskFile, spots: &[u64], length: usize) {
    for &spot in spots {
        if let Err(error) = file.write_at(spot, Bytes::from(vec![0; length])).await {
            tracing::error!(%error, "after a failed sync");
        }
    }
}

/// Makes durable what a killed agent left in a WAL. The header is written again: if its sync failed
/// before the agent was killed, this one would succeed without it.
pub(crate) async fn settle(wal: &DiskFile, header: Option<[u8; 32]>) -> Result<(), StorageError> {
    if let Some(header) = header {
        wal.write_at(0, Bytes::copy_from_slice(&header)).await?;
    }
    wal.sync_data().await
}

/// Cuts a file, durably: what stood behind the end does not come back.
pub(crate) async fn cut(file: &DiskFile, length: u64) -> Result<(), StorageError> {
    file.set_len(length).await?;
    file.sync_all().await
}

/// Empties a WAL, durably.
pub(crate) async fn empty(file: &DiskFile) -> Result<(), StorageError> {
    cut(file, 0).await
}

/// The latest version of each page in a WAL: what a checkpoint would move.
#[derive(Debug, Clone, Default)]
pub(crate) struct LatestPages {
    /// (page from 1, its frame), ascending by page.
    pub(crate) pages: Vec<(u32, FrameNo)>,
    /// Bytes in a page.
    pub(crate) page_bytes: usize,
    /// The database's committed size in pages.
    pub(crate) page_count: u32,
}

/// Writes pages from a WAL into a database file, cuts it to the committed size and makes it durable.
/// The WAL must be durable before: a crash in the middle leaves a mixed database file that the WAL masks.
pub(crate) async fn apply_pages(
    wal: &DiskFile,
    database: &DiskFile,
    latest: &LatestPages,
) -> Result<(), StorageError> {
    copy_pages(wal, database, &latest.pages, latest.page_bytes).await?;
    database.set_len(u64::from(latest.page_count) * latest.page_bytes as u64).await?;
    database.sync_all().await
}

/// Writes some of the pages of a WAL into the database file ahead of a checkpoint, durably, so that the checkpoint's own
/// sync is short. The frames must be durable before, and stay: they mask the pages until the checkpoint is complete.
pub(crate) async fn fold_some(
    wal: &DiskFile,
    database: &DiskFile,
    latest: &LatestPages,
    pages: std::ops::Range<usize>,
) -> Result<(), StorageError> {
    copy_pages(wal, database, &latest.pages[pages], latest.page_bytes).await?;
    database.sync_data().await
}

async fn copy_pages(
    wal: &DiskFile,
    database: &DiskFile,
    pages: &[(u32, FrameNo)],
    page_bytes: usize,
) -> Result<(), StorageError> {
    for group in pages.chunks(FOLD_PAGES) {
        // Frames of neighbouring pages are often neighbours themselves: one read for all of them.
        let reads =
            group.chunk_by(|one, next| next.1.0 == one.1.0 + 1).map(|run| read_frames(wal, run, page_bytes));
        let frames = future::try_join_all(reads).await?;
        let frame_bytes = FRAME_HEADER_BYTES + page_bytes;
        let mut contents =
            frames.iter().flat_map(|run| run.chunks(frame_bytes)).map(|f| &f[FRAME_HEADER_BYTES..]);
        for run in group.chunk_by(|one, next| next.0 == one.0 + 1) {
            let mut data = BytesMut::with_capacity(run.len() * page_bytes);
            contents.by_ref().take(run.len()).for_each(|page| data.extend_from_slice(page));
            database.write_at(u64::from(run[0].0 - 1) * page_bytes as u64, data.freeze()).await?;
        }
    }
    Ok(())
}

/// Neighbouring frames, whole.
async fn read_frames(
    wal: &DiskFile,
    run: &[(u32, FrameNo)],
    page_bytes: usize,
) -> Result<Vec<u8>, StorageError> {
    let length = run.len() * (FRAME_HEADER_BYTES + page_bytes);
    let mut data = wal.read_at(frame_offset(run[0].1, page_bytes as u32), length).await?;
    // Nobody cuts the file; should it be shorter all the same, what is missing reads as zeros, as for SQLite.
    data.resize(length, 0);
    Ok(data)
}

/// Where [`write_copy_durably`] writes, and bytes it replaces there.
pub(crate) struct CopyTarget<'a> {
    pub(crate) path: &'a Path,
    pub(crate) patch: (u64, &'a [u8]),
}

/// How much of a copy is written before it is synced: so that neither its end nor one who stops it waits long, and
/// no other file's sync waits behind gigabytes.
const COPY_SYNC_BYTES: u64 = 32 << 20;

/// Makes a new file of a database file and the pages of its WAL, durable under `target` when this returns. False:
/// `stopped` said so in between, and nothing is left of it.
pub(crate) async fn write_copy_durably(
    disk: &Backend,
    (database, wal): (&DiskFile, &DiskFile),
    latest: &LatestPages,
    target: CopyTarget<'_>,
    stopped: &dyn Fn() -> bool,
) -> Result<bool, StorageError> {
    let temporary = beside(target.path, ".new");
    let copy = disk.open(&temporary, Open { create: true }).await?;
    let written = write_copy(&copy, (database, wal), latest, stopped).await;
    if !matches!(written, Ok(true)) {
        copy.close().await?;
        disk.remove(&temporary).await?;
        return written;
    }
    let (offset, patch) = target.patch;
    copy.write_at(offset, Bytes::copy_from_slice(patch)).await?;
    copy.set_len(u64::from(latest.page_count) * latest.page_bytes as u64).await?;
    copy.sync_all().await?;
    copy.close().await?;
    disk.rename(&temporary, target.path).await?;
    disk.sync_dir(directory_of(target.path)).await?;
    Ok(true)
}

async fn write_copy(
    copy: &DiskFile,
    (database, wal): (&DiskFile, &DiskFile),
    latest: &LatestPages,
    stopped: &dyn Fn() -> bool,
) -> Result<bool, StorageError> {
    const CHUNK_BYTES: usize = 1 << 20;
    copy.set_len(0).await?;
    let (mut offset, mut synced) = (0, 0);
    loop {
        let chunk = database.read_at(offset, CHUNK_BYTES).await?;
        let length = chunk.len();
        if length == 0 {
            break;
        }
        if stopped() {
            return Ok(false);
        }
        copy.write_at(offset, chunk.into()).await?;
        offset += length as u64;
        if offset - synced >= COPY_SYNC_BYTES {
            copy.sync_data().await?;
            synced = offset;
        }
    }
    for pages in latest.pages.chunks((COPY_SYNC_BYTES as usize / latest.page_bytes.max(1)).max(1)) {
        if stopped() {
            return Ok(false);
        }
        copy_pages(wal, copy, pages, latest.page_bytes).await?;
        copy.sync_data().await?;
    }
    Ok(!stopped())
}

/// What a generation switch works on.
pub(crate) struct Switch<'a> {
    pub(crate) disk: &'a Backend,
    pub(crate) wal: &'a DiskFile,
    pub(crate) database: &'a DiskFile,
    /// Pages of the generation that ends; `None` when it had no commit or nothing of it is kept.
    pub(crate) latest: Option<LatestPages>,
    /// The state file and its contents, naming both generations by their salts.
    pub(crate) state: (&'a Path, Bytes),
    /// Header of the generation that begins.
    pub(crate) header: Bytes,
}

/// Ends one generation of a mirror's WAL and begins the next. No frame may be written before this returns.
///
/// 1. WAL durable, else step 2 could leave a mixed database file with nothing to mask it.
/// 2. Its pages into the database file, cut, durable: the WAL masks every page that is touched.
/// 3. State durable: a WAL with either salts has a known number.
/// 4. New header, **synced alone**. Without that sync a crash image can hold the old header with old
///    frames that mask the newer database: 76 of 154 simulated images were stale or corrupt. The test
///    `without_the_header_sync_some_crash_image_is_wrong` swallows it and must see that.
pub(crate) async fn switch_generation(switch: Switch<'_>) -> Result<(), StorageError> {
    if let Some(latest) = &switch.latest {
        switch.wal.sync_data().await?;
        apply_pages(switch.wal, switch.database, latest).await?;
    }
    let (state_path, state) = switch.state;
    write_file_durably(switch.disk, state_path, state).await?;
    switch.wal.write_at(0, switch.header).await?;
    switch.wal.sync_data().await
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{SimulatedDisk, Unsynced};

    #[test]
    fn a_replaced_file_is_old_or_new_after_any_crash_and_new_once_the_call_returned() {
        let world = SimulatedDisk::default();
        let disk = Backend::Simulated(world.clone());
        let path = Path::new("/state/pair.state");
        let write = |text: &'static str| {
            write_file_durably(&disk, path, Bytes::from(text)).now_or_never().unwrap().unwrap();
            world.moment()
        };
        let old = write("the old contents");
        let new = write("new");
        for moment in old..=new {
            for seed in 0..50 {
                let found = world.crash_image(moment, Unsynced::Seeded(seed)).contents(path).unwrap();
                let sound = found == b"new" || (found == b"the old contents" && moment < new);
                assert!(sound, "moment {moment} seed {seed}: {:?}", String::from_utf8_lossy(&found));
            }
        }
    }

    #[tokio::test]
    async fn a_copy_that_is_stopped_at_any_moment_leaves_no_file() {
        const CHUNKS: u32 = 5;
        let dir = tempfile::TempDir::new().unwrap();
        let disk = Backend::Blocking(BlockingDisk { inline: true });
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("db"), vec![7; (CHUNKS as usize) << 20]).unwrap();
        std::fs::write(path("wal"), vec![9; 56 + 4096]).unwrap();
        let open = |name| disk.open(&path(name), Open::default()).now_or_never().unwrap().unwrap();
        let (database, wal) = (open("db"), open("wal"));
        let latest = LatestPages { pages: vec![(2, FrameNo(1))], page_bytes: 4096, page_count: CHUNKS * 256 };
        let target = path("copy");
        let copy = |stop_at: u32| {
            let asked = std::cell::Cell::new(0);
            let stopped = || asked.replace(asked.get() + 1) >= stop_at;
            let target = CopyTarget { path: &target, patch: (18, &[1, 1]) };
            let copied = write_copy_durably(&disk, (&database, &wal), &latest, target, &stopped);
            (copied.now_or_never().unwrap().unwrap(), asked.get())
        };
        let (whole, questions) = copy(u32::MAX);
        assert!(whole && questions > CHUNKS, "{questions}");
        let contents = std::fs::read(&target).unwrap();
        assert_eq!((contents[18], contents[4096], contents[8192]), (1, 9, 7));
        std::fs::remove_file(&target).unwrap();
        for stop_at in 0..questions {
            assert_eq!(copy(stop_at), (false, stop_at + 1));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "stopped at question {stop_at}");
        }
    }

    #[tokio::test]
    async fn a_file_is_replaced_without_a_data_thread_also_inside_a_runtime() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("pair.state");
        write_file_durably_blocking(&path, "one").unwrap();
        write_file_durably_blocking(&path, "two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let error = write_file_durably_blocking(&dir.path().join("none/pair.state"), "x").unwrap_err();
        assert!(error.to_string().contains("none/pair.state"), "{error}");
    }
}

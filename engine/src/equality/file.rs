//! The mapped file of the page hashes: a header with a stamp, then eight bytes per page.
//!
//! A cache: it counts only if it was closed cleanly, which its header says under a checksum. Opening
//! takes that mark away, durably, before anything changes. Room is allocated before it is mapped, so that
//! a full disk is an error here and no signal later. Nothing else opens the file, and it never shrinks.

use super::Slots;
use crate::wal::WalPoint;
use lockstep_wire::{Chain, FrameNo, Position, Salts, WalGeneration};
use memmap2::MmapMut;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const TITLE: &[u8; 16] = b"lockstep-pages 1";

/// The header has a page of its own, so that it is written as one.
const HEADER_BYTES: usize = 4096;

/// Bytes of the header that its checksum covers.
const STAMPED_BYTES: usize = 64;

/// The file grows by hashes of this many pages: 128 KiB.
const CHUNK_PAGES: u32 = 16_384;

/// Pages of the largest database with remembered hashes: 512 GiB at 4 KiB a page, 1 GiB of hashes.
const PAGES_MAX: u32 = 1 << 27;

/// Why there are no remembered hashes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the page hashes in {path} cannot be kept ({source}): free space there; until then a resync reads all pages and sums are not compared"
)]
pub struct PageFileError {
    path: PathBuf,
    source: io::Error,
}

/// Where complete hashes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Everything through here is in.
    pub at: WalPoint,
    /// Size of the database in pages.
    pub pages: u32,
    /// The sum.
    pub sum: u64,
}

/// An open file.
#[derive(Debug)]
pub struct PageFile {
    path: PathBuf,
    file: File,
    map: MmapMut,
}

impl PageFile {
    /// Opens or makes the file; with its stamp if it was closed cleanly.
    ///
    /// # Errors
    /// The path and what the system said.
    pub fn open(path: &Path, page_size: u32) -> Result<(Self, Option<Stamp>), PageFileError> {
        Self::try_open(path, page_size).map_err(|source| PageFileError { path: path.to_owned(), source })
    }

    fn try_open(path: &Path, page_size: u32) -> io::Result<(Self, Option<Stamp>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let least = HEADER_BYTES as u64 + u64::from(CHUNK_PAGES) * 8;
        let length = file.metadata()?.len();
        let chunks = (length.saturating_sub(HEADER_BYTES as u64) / (u64::from(CHUNK_PAGES) * 8)).max(1);
        let whole = HEADER_BYTES as u64 + chunks * u64::from(CHUNK_PAGES) * 8;
        if length < least || length != whole {
            file.set_len(0)?;
            allocate(&file, least)?;
        }
        let mut opened = Self { path: path.to_owned(), map: map(&file)?, file };
        let stamp =
            read_stamp(&opened.map[..HEADER_BYTES], page_size).filter(|stamp| stamp.pages <= opened.room());
        opened.map[..HEADER_BYTES].fill(0);
        opened.map[..16].copy_from_slice(TITLE);
        opened.map[16..20].copy_from_slice(&page_size.to_le_bytes());
        opened.map.flush_range(0, HEADER_BYTES)?;
        Ok((opened, stamp))
    }

    /// Writes the hashes, then the stamp.
    ///
    /// # Errors
    /// The path and what the system said; the file then counts as not closed.
    pub fn close(mut self, stamp: &Stamp) -> Result<(), PageFileError> {
        let written = self.map.flush().and_then(|()| {
            write_stamp(&mut self.map[..HEADER_BYTES], stamp);
            self.map.flush_range(0, HEADER_BYTES)
        });
        written.map_err(|source| PageFileError { path: self.path, source })
    }

    /// Pages it has room for.
    fn room(&self) -> u32 {
        u32::try_from((self.map.len() - HEADER_BYTES) / 8).unwrap_or(u32::MAX)
    }

    fn grow(&mut self, page: u32) -> io::Result<()> {
        if page > PAGES_MAX {
            return Err(io::Error::other(format!("more than {PAGES_MAX} pages")));
        }
        let pages = u64::from(page.div_ceil(CHUNK_PAGES)) * u64::from(CHUNK_PAGES);
        allocate(&self.file, HEADER_BYTES as u64 + pages * 8)?;
        self.map = map(&self.file)?;
        Ok(())
    }

    fn range(page: u32) -> std::ops::Range<usize> {
        let at = HEADER_BYTES + (page as usize - 1) * 8;
        at..at + 8
    }
}

impl Slots for PageFile {
    fn get(&self, page: u32) -> u64 {
        if page == 0 || page > self.room() {
            return 0;
        }
        u64::from_le_bytes(self.map[Self::range(page)].try_into().expect("a slot has eight bytes"))
    }

    fn set(&mut self, page: u32, hash: u64) -> bool {
        if page == 0 {
            return true;
        }
        if page > self.room()
            && let Err(error) = self.grow(page)
        {
            tracing::error!(path = %self.path.display(), %error, "page hashes are not kept");
            return false;
        }
        self.map[Self::range(page)].copy_from_slice(&hash.to_le_bytes());
        true
    }
}

fn map(file: &File) -> io::Result<MmapMut> {
    // SAFETY: the file is in our own state directory, nobody else opens it, and it is never cut while mapped.
    unsafe { MmapMut::map_mut(file) }
}

/// Makes the file this long, with room on the disk for all of it.
fn allocate(file: &File, length: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, length),
        other => Ok(other?),
    }
}

fn write_zeros(file: &File, length: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = file.metadata()?.len();
    while at < length {
        let count = (length - at).min(64 << 10);
        file.write_all_at(&vec![0; count as usize], at)?;
        at += count;
    }
    Ok(())
}

fn write_stamp(header: &mut [u8], stamp: &Stamp) {
    let Stamp { at, pages, sum } = stamp;
    header[20..24].copy_from_slice(&at.position.frame.0.to_le_bytes());
    header[24..32].copy_from_slice(&at.position.generation.0.to_le_bytes());
    header[32..40].copy_from_slice(&at.salts.packed().to_le_bytes());
    header[40..48].copy_from_slice(&at.chain.packed().to_le_bytes());
    header[48..52].copy_from_slice(&pages.to_le_bytes());
    header[56..64].copy_from_slice(&sum.to_le_bytes());
    let check = xxh3_64(&header[..STAMPED_BYTES]);
    header[STAMPED_BYTES..STAMPED_BYTES + 8].copy_from_slice(&check.to_le_bytes());
}

fn read_stamp(header: &[u8], page_size: u32) -> Option<Stamp> {
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let sound = u64_at(STAMPED_BYTES) == xxh3_64(&header[..STAMPED_BYTES]);
    if !sound || &header[..16] != TITLE || u32_at(16) != page_size {
        return None;
    }
    let position = Position { generation: WalGeneration(u64_at(24)), frame: FrameNo(u32_at(20)) };
    let at =
        WalPoint { position, salts: Salts::from_packed(u64_at(32)), chain: Chain::from_packed(u64_at(40)) };
    Some(Stamp { at, pages: u32_at(48), sum: u64_at(56) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let position = Position { generation: WalGeneration(3), frame: FrameNo(9) };
        let at = WalPoint { position, salts: Salts([1, 2]), chain: Chain([3, 4]) };
        Stamp { at, pages: 20_000, sum: 77 }
    }

    #[test]
    fn hashes_count_only_after_a_clean_close_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pages.hash");
        let (mut file, none) = PageFile::open(&path, 4096).unwrap();
        assert_eq!(none, None);
        assert!(file.set(1, 11) && file.set(20_000, 22), "it grows");
        file.close(&stamp()).unwrap();
        let (file, found) = PageFile::open(&path, 4096).unwrap();
        assert_eq!((found, file.get(1), file.get(20_000), file.get(7)), (Some(stamp()), 11, 22, 0));
        drop(file);
        assert_eq!(PageFile::open(&path, 4096).unwrap().1, None, "it was not closed");
    }

    #[test]
    fn another_page_size_or_any_damage_of_the_header_makes_it_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pages.hash");
        let close = || PageFile::open(&path, 4096).unwrap().0.close(&Stamp { pages: 3, ..stamp() }).unwrap();
        close();
        assert_eq!(PageFile::open(&path, 1024).unwrap().1, None);
        for at in 0..STAMPED_BYTES + 8 {
            close();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(PageFile::open(&path, 4096).unwrap().1, None, "byte {at}");
        }
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(PageFile::open(&path, 4096).unwrap().1, None);
        close();
        assert!(PageFile::open(&path, 4096).unwrap().1.is_some());
    }
}

//! What this disk holds of some pages at a position, and putting pages right that it holds wrongly.
//!
//! Reads the files, never what is remembered of them. A page is the latest frame at or before the
//! position in the WAL, or else the database file's, which changes only between generations and where
//! [`super::fold`] has moved frames into it. So a position of the present generation, behind those, can
//! be read while frames go on to arrive.

use super::{FRAME_HEADER_BYTES, Mirror, MirrorError};
use crate::{
    durable,
    storage::{DiskFile, StorageFile},
    wal::lock_page,
};
use bytes::Bytes;
use lockstep_wire::{FrameNo, Position};
use std::{collections::BTreeMap, sync::Arc};
use xxhash_rust::xxh3::xxh3_64;

/// Pages hashed by one call at most; the active asks again for the rest.
pub const SCRUB_PAGES_MAX: u32 = 1024;

/// A reading that has not run yet; owns all it needs. A generation switch waits for it.
pub struct HashTicket {
    database: DiskFile,
    wal: DiskFile,
    page_bytes: usize,
    first_page: u32,
    end_page: u32,
    /// Pages of the range that the WAL has: page to offset of its data.
    in_wal: BTreeMap<u32, u64>,
    _unchanging: tokio::sync::OwnedRwLockReadGuard<()>,
}

impl Mirror {
    /// Prepares to hash pages as they are at a position, after a commit frame. `None`: that can no longer or
    /// not yet be told.
    ///
    /// # Errors
    /// `disk`.
    pub async fn start_hashing(
        &self,
        at: Position,
        first_page: u32,
        page_count: u32,
    ) -> Result<Option<HashTicket>, MirrorError> {
        let Some(total) = self.pages_at(at).await? else { return Ok(None) };
        let Ok(unchanging) = Arc::clone(&self.pages_lock).try_read_owned() else { return Ok(None) };
        let first_page = first_page.max(1);
        let end_page =
            first_page.saturating_add(page_count.min(SCRUB_PAGES_MAX)).min(total.saturating_add(1));
        let range = first_page..end_page.max(first_page);
        let notes = self.frames[..at.frame.0 as usize].iter().zip(1..);
        let in_range = notes.filter(|(note, _)| range.contains(&note.page));
        let in_wal = in_range
            .map(|(note, frame)| (note.page, self.frame_offset(FrameNo(frame)) + FRAME_HEADER_BYTES as u64))
            .collect();
        Ok(Some(HashTicket {
            database: self.database.clone(),
            wal: self.wal.clone(),
            page_bytes: self.state.page_size as usize,
            first_page,
            end_page: range.end,
            in_wal,
            _unchanging: unchanging,
        }))
    }

    /// Page size in bytes, 0 when unknown.
    pub fn page_size(&self) -> u32 {
        self.state.page_size
    }

    /// Size of the database in pages at a position that can be told.
    async fn pages_at(&self, at: Position) -> Result<Option<u32>, MirrorError> {
        let sound = self.state.complete && self.state.page_size > 0 && !self.copying && !self.is_diverged();
        // The database file may hold pages of later frames.
        let passed = at.generation != self.generation || at.frame < self.fold.reaches();
        if !sound || passed || at.frame > self.last_frame() {
            return Ok(None);
        }
        match at.frame.0 {
            0 => Ok(Some(self.file_pages().await?)),
            frame => Ok(Some(self.frames[frame as usize - 1].commit_pages).filter(|&pages| pages > 0)),
        }
    }

    /// Replaces pages of the database file by what they are at a position, durably. A page that the WAL has too
    /// stays as it is, because the file's is not the one that counts. Answers how many were written.
    ///
    /// # Errors
    /// `protocol`: not whole pages; `disk`.
    pub async fn repair(&mut self, at: Position, first_page: u32, data: Bytes) -> Result<u32, MirrorError> {
        let Some(total) = self.pages_at(at).await? else { return Ok(0) };
        let page_bytes = self.state.page_size as usize;
        if first_page == 0 || data.is_empty() || !data.len().is_multiple_of(page_bytes) {
            let expected = format!("whole pages of {page_bytes} bytes from page 1 on");
            let got = format!("{} bytes for page {first_page}", data.len());
            return Err(self.protocol("a repair", expected, got));
        }
        let lock = Arc::clone(&self.pages_lock);
        // A snapshot under way may take long; the active tries again.
        let Ok(_changing) = lock.try_write() else { return Ok(0) };
        let mut written = 0;
        for (number, offset) in (u64::from(first_page)..).zip((0..data.len()).step_by(page_bytes)) {
            let masked = self.frames[..at.frame.0 as usize].iter().any(|note| u64::from(note.page) == number);
            if masked || number > u64::from(total) {
                continue;
            }
            let content = data.slice(offset..offset + page_bytes);
            self.database.write_at((number - 1) * page_bytes as u64, content).await?;
            written += 1;
        }
        if written > 0 {
            durable::finish_pages(&self.database, None).await?;
            self.hashes.rebuild();
        }
        Ok(written)
    }
}

impl HashTicket {
    /// xxh3-64 of each page, 0 for the lock page; fewer than asked at the end of the database.
    ///
    /// # Errors
    /// `disk`.
    pub async fn run(self) -> Result<Vec<u64>, MirrorError> {
        /// Bytes read at once.
        const READ_BYTES: usize = 256 << 10;
        let lock_page = lock_page(self.page_bytes as u32);
        let mut hashes = Vec::new();
        let mut next = self.first_page;
        while next < self.end_page {
            let count = (READ_BYTES / self.page_bytes).max(1).min((self.end_page - next) as usize);
            let offset = u64::from(next - 1) * self.page_bytes as u64;
            let mut data = self.database.read_at(offset, count * self.page_bytes).await?;
            // Beyond the end of the file pages read as zeros, as for SQLite.
            data.resize(count * self.page_bytes, 0);
            for (page, content) in (next..).zip(data.chunks_exact(self.page_bytes)) {
                let hash = match self.in_wal.get(&page) {
                    _ if page == lock_page => 0,
                    Some(&offset) => xxh3_64(&self.wal.read_at(offset, self.page_bytes).await?),
                    None => xxh3_64(content),
                };
                hashes.push(hash);
            }
            next += count as u32;
        }
        Ok(hashes)
    }
}

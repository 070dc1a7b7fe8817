//! The standby's half of a first copy and of a resync: pages into the database file.
//!
//! A copy is fuzzy; it is a sound database only with the frames through its end position. Before
//! the first page is touched the mirror is durably incomplete, and only durable frames through the
//! end position make it complete again. Which pages differ is the active's to find.

use super::{CopyEnd, Mirror, MirrorError, state_file::StateFile};
use crate::{durable, storage::StorageFile, wal::WalPoint};
use lockstep_wire::{FrameNo, Position, Salts, WalGeneration};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Pages hashed by one call at most; the active asks again for the rest.
pub const HASH_PAGES_MAX: u32 = 65_536;
/// Bytes read at once while hashing.
const HASH_READ_BYTES: usize = 1 << 20;

impl Mirror {
    /// Continues as the mirror of a database that this node wrote itself, when its last commit is one
    /// that the new active has too.
    ///
    /// # Errors
    /// `chain`: the last commits differ; `disk`.
    pub async fn adopt(&mut self, point: WalPoint) -> Result<(), MirrorError> {
        let ours = self.point();
        let database = || self.config.database.clone();
        let Some(header) = self.header.filter(|header| header.salts == point.salts) else {
            return Err(MirrorError::Salts { database: database(), expected: ours.salts, got: point.salts });
        };
        if (ours.position.frame, ours.chain) != (point.position.frame, point.chain) {
            let (at, expected, got) = (ours.position, ours.chain, point.chain);
            return Err(MirrorError::Chain { database: database(), at, what: "the active", expected, got });
        }
        durable::erase(&self.wal, &self.stale, super::FRAME_HEADER_BYTES).await?;
        self.stale.clear();
        let generation = point.position.generation;
        let generations = [Some((generation, header.salts)), None];
        let took_over = None;
        self.write_state(StateFile { mirrors: true, complete: true, generations, took_over, ..self.state })
            .await?;
        self.generation = generation;
        self.hashes.reopen(self.point(), self.page_count);
        Ok(())
    }

    /// Writes the pages of the WAL's commits into the database file, durably, so that
    /// [`Self::hash_pages`] sees them. The WAL stays as it is.
    ///
    /// # Errors
    /// [`MirrorError::NotKept`] before a quarantine that is due; `disk`.
    pub async fn fold(&mut self) -> Result<(), MirrorError> {
        if self.is_diverged() && !self.kept {
            return Err(MirrorError::NotKept(self.config.database.clone()));
        }
        self.flush().await?;
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        if let Some(latest) = self.latest_pages(FrameNo(0), self.durable) {
            durable::apply_pages(&self.wal, &self.database, &latest).await?;
        }
        Ok(())
    }

    /// Begins a copy: nothing of the WAL is kept, and of the pages only with `resync` (folded first).
    /// Durably incomplete when it returns.
    ///
    /// # Errors
    /// [`MirrorError::NotKept`] before a quarantine that is due; `protocol`; `disk`.
    pub async fn begin_copy(
        &mut self,
        resync: bool,
        page_size: u32,
        page_count: u32,
    ) -> Result<(), MirrorError> {
        if self.is_diverged() && !self.kept {
            return Err(MirrorError::NotKept(self.config.database.clone()));
        }
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) || page_count == 0 {
            let expected = "at least one page of 512 to 65536 bytes";
            return Err(self.protocol(
                "a copy",
                expected,
                format!("{page_count} pages of {page_size} bytes"),
            ));
        }
        let keep = resync && self.state.page_size == page_size;
        if keep {
            self.fold().await?;
        }
        let remembered = keep && self.hashes.are_of(&self.point());
        self.hashes.begin_copy(remembered);
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        let wal_inode = self.wal_identity.inode;
        let incomplete =
            StateFile { mirrors: true, complete: false, page_size, wal_inode, ..StateFile::default() };
        self.write_state(incomplete).await?;
        durable::empty(&self.wal).await?;
        if !keep {
            durable::empty(&self.database).await?;
        }
        self.header = None;
        self.generation = WalGeneration(0);
        self.frames.clear();
        self.committed = FrameNo(0);
        self.fold = Default::default();
        self.durable = FrameNo(0);
        self.published = None;
        (self.chain, self.durable_chain) = Default::default();
        self.written_end = 0;
        self.copying = true;
        self.copy_end = None;
        self.page_count = self.file_pages().await?;
        Ok(())
    }

    /// xxh3-64 of pages of the database file, remembered or as on this disk; fewer than asked at its end, at most
    /// [`HASH_PAGES_MAX`].
    ///
    /// # Errors
    /// `protocol`: page 0; `disk`.
    pub async fn hash_pages(&self, first_page: u32, page_count: u32) -> Result<Vec<u64>, MirrorError> {
        if first_page == 0 {
            return Err(self.protocol("a hash request", "pages from 1", "page 0"));
        }
        if let Some(remembered) = self.hashes.remembered(first_page, page_count.min(HASH_PAGES_MAX)) {
            return Ok(remembered);
        }
        let page_bytes = self.state.page_size as usize;
        let mut hashes = Vec::new();
        let wanted = page_count.min(HASH_PAGES_MAX) as usize;
        while page_bytes > 0 && hashes.len() < wanted {
            let page = u64::from(first_page - 1) + hashes.len() as u64;
            let length = HASH_READ_BYTES.min((wanted - hashes.len()) * page_bytes);
            let data = self.database.read_at(page * page_bytes as u64, length).await?;
            hashes.extend(data.chunks_exact(page_bytes).map(xxh3_64));
            if data.len() < length {
                break;
            }
        }
        Ok(hashes)
    }

    /// Writes whole pages into the database file.
    ///
    /// # Errors
    /// `protocol`: no copy is running, or not whole pages; `disk`.
    pub async fn write_pages(&mut self, first_page: u32, data: bytes::Bytes) -> Result<(), MirrorError> {
        let page_bytes = self.state.page_size as usize;
        if !self.copying || first_page == 0 || data.is_empty() || !data.len().is_multiple_of(page_bytes) {
            let expected = format!("whole pages of {page_bytes} bytes from page 1 on, in a copy");
            let copying = if self.copying { "in a copy" } else { "without a copy" };
            let got = format!("{} bytes for page {first_page}, {copying}", data.len());
            return Err(self.protocol("pages", expected, got));
        }
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        let pages = u32::try_from(data.len() / page_bytes).expect("a message is smaller than 2^32 pages");
        self.database.write_at(u64::from(first_page - 1) * page_bytes as u64, data).await?;
        if self.frames.is_empty() {
            self.page_count = self.page_count.max(first_page.saturating_add(pages - 1));
        }
        Ok(())
    }

    /// The copy is sound once frames through this position are durable; that may be so already.
    ///
    /// # Errors
    /// `protocol`: no copy is running; `disk`.
    pub async fn end_copy(
        &mut self,
        generation: u64,
        frame: u32,
        page_count: u32,
    ) -> Result<(), MirrorError> {
        if !self.copying || page_count == 0 {
            let got = if self.copying { "an empty database" } else { "none running" };
            return Err(self.protocol("the end of a copy", "a copy with pages", got));
        }
        let position = Position { generation: WalGeneration(generation), frame: FrameNo(frame) };
        self.copy_end = Some(CopyEnd { position, page_count });
        self.complete_copy().await
    }

    pub(super) async fn complete_copy(&mut self) -> Result<(), MirrorError> {
        let Some(end) = self.copy_end else { return Ok(()) };
        let durable = self.position(self.durable);
        if end.position.frame.0 > 0 && durable < end.position {
            return Ok(());
        }
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        // A later generation's fold has set the length already.
        let cut = (self.generation <= end.position.generation || end.position.frame.0 == 0)
            .then(|| u64::from(end.page_count) * u64::from(self.state.page_size));
        durable::finish_pages(&self.database, cut).await?;
        let mut state = StateFile { complete: true, ..self.state };
        if self.header.is_none() {
            // No frame was needed: the copy itself is the point from which the generation counts.
            self.generation = end.position.generation;
            state.generations = [Some((self.generation, Salts::default())), None];
        }
        self.write_state(state).await?;
        self.copying = false;
        self.copy_end = None;
        if self.durable.0 == 0 {
            self.page_count = self.file_pages().await?;
        }
        self.hashes.end_copy();
        self.start_hashes();
        Ok(())
    }

    pub(super) async fn file_pages(&self) -> Result<u32, MirrorError> {
        let pages = self.database.length().await?.checked_div(u64::from(self.state.page_size)).unwrap_or(0);
        Ok(u32::try_from(pages).expect("SQLite counts pages in 32 bits"))
    }
}

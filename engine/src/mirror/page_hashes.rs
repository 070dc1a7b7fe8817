//! Standby: the remembered page hashes follow what the mirror takes.
//!
//! Every hook is called after the mirror's own step. They never refuse: hashes that do not fit are
//! dropped and built anew in the background ([`Mirror::begin_build`]), and a file that cannot be kept is
//! one word for the operator ([`Mirror::page_hash_trouble`]).

use super::{HashTicket, Mirror, MirrorError};
use crate::{
    equality::{BUILD_PAGES, PageHashCache},
    wal::{Frames, WalHeader, WalPoint},
};
use lockstep_wire::{Chain, FrameNo, Position, WalBatch, WalGeneration};

/// The cache of one mirror, and what goes on with it.
#[derive(Default)]
pub(super) struct Hashes {
    cache: Option<PageHashCache>,
    /// A resync is answered from the cache, which stands still meanwhile.
    remembered: bool,
    /// A copy runs: frames are not followed.
    copying: bool,
    trouble: Option<String>,
}

/// A range to be read for the hashes, and where it stands.
pub struct Build {
    /// Reads it.
    pub ticket: HashTicket,
    /// Its position.
    pub at: Position,
    /// Its first page.
    pub first_page: u32,
    /// Size of the database there.
    pub page_count: u32,
}

impl Hashes {
    fn following(&mut self) -> Option<&mut PageHashCache> {
        self.cache.as_mut().filter(|_| !self.copying)
    }

    pub(super) fn generation(
        &mut self,
        number: WalGeneration,
        header: &WalHeader,
        end: Option<(FrameNo, Chain)>,
    ) {
        if let Some(cache) = self.following() {
            cache.generation(number, header, end);
        }
    }

    pub(super) fn rewind(&mut self, frame: FrameNo, chain: Chain) {
        if let Some(cache) = self.following() {
            cache.rewind(frame, chain);
        }
    }

    pub(super) fn reopen(&mut self, at: WalPoint, pages: u32) {
        if let Some(cache) = self.following() {
            cache.reopen(at, pages);
        }
    }

    pub(super) fn rebuild(&mut self) {
        if let Some(cache) = self.following() {
            cache.rebuild();
        }
    }

    /// They are complete and of this place.
    pub(super) fn are_of(&self, point: &WalPoint) -> bool {
        let content = self.cache.as_ref().filter(|_| !self.copying).and_then(|cache| cache.content());
        content.is_some_and(|(at, _)| at == *point)
    }

    pub(super) fn begin_copy(&mut self, remembered: bool) {
        (self.copying, self.remembered) = (true, remembered);
    }

    pub(super) fn end_copy(&mut self) {
        if std::mem::take(&mut self.copying)
            && let Some(cache) = &mut self.cache
        {
            cache.stop();
        }
        self.remembered = false;
    }

    /// Hashes for a resync, if they may be remembered ones; fewer at the end of the database.
    pub(super) fn remembered(&self, first_page: u32, page_count: u32) -> Option<Vec<u64>> {
        let cache = self.cache.as_ref().filter(|_| self.remembered)?;
        let end = first_page.saturating_add(page_count).min(cache.pages().saturating_add(1));
        Some((first_page..end).map_while(|page| cache.hash(page)).collect())
    }

    /// Closes the file. One that is not closed is built anew.
    pub(super) fn close(&mut self) {
        if let Some(cache) = self.cache.take().filter(|_| !self.copying)
            && let Err(error) = cache.close()
        {
            tracing::warn!(%error, "the page hashes are built anew at the next start");
        }
    }

    /// Hands them on at a takeover.
    pub(super) fn take(&mut self) -> Option<PageHashCache> {
        let mut cache = self.cache.take().filter(|_| !self.copying)?;
        cache.settle();
        Some(cache)
    }
}

impl Mirror {
    /// Opens the file for the present page size, if hashes are to be remembered.
    pub(super) fn open_hashes(&mut self) {
        if !self.config.page_hashes || self.state.page_size == 0 {
            return;
        }
        match PageHashCache::open(&PageHashCache::path(&self.config.state_dir), self.state.page_size) {
            Ok(mut cache) => {
                cache.reopen(self.point(), self.page_count);
                self.hashes.cache = Some(cache);
            }
            Err(error) => self.hashes.trouble = Some(error.to_string()),
        }
    }

    /// Begins to follow, where that is possible: at the end of a commit of a sound mirror.
    pub(super) fn start_hashes(&mut self) {
        if !self.state.complete || self.copying {
            return;
        }
        let fits = self.hashes.cache.as_ref().is_some_and(|c| c.page_size() == self.state.page_size);
        if !fits && self.hashes.trouble.is_none() {
            self.hashes.cache = None;
            self.open_hashes();
        }
        let salts = self.header.map(|header| header.salts).unwrap_or_default();
        let at = WalPoint { position: self.received(), chain: self.chain, salts };
        let pages = match self.frames.last() {
            None => self.page_count,
            Some(note) if note.commit_pages > 0 => note.commit_pages,
            Some(_) => return,
        };
        if let Some(cache) = self.hashes.following().filter(|cache| cache.is_off()) {
            cache.restart(at, pages);
        }
    }

    /// Follows frames that were just taken.
    pub(super) fn hash_frames(&mut self, batch: &WalBatch) {
        let Some(header) = self.header else { return };
        let Some(cache) = self.hashes.following() else { return };
        let frames = Frames::new(&batch.data, header.page_size);
        cache.frames(FrameNo(batch.first_frame), Chain::from_packed(batch.chain_before), &frames);
        cache.publish(FrameNo(batch.published_frame));
        if cache.is_off() {
            self.start_hashes();
        }
    }

    /// The last published commit and the sum of all pages there, when every page is in it.
    pub fn content(&self) -> Option<(WalPoint, u64)> {
        self.hashes.cache.as_ref().filter(|_| self.state.complete && !self.copying)?.content()
    }

    /// The sums of both nodes differed: all pages are read anew.
    pub fn rebuild_hashes(&mut self) {
        self.hashes.rebuild();
    }

    /// Why no hashes are kept; told once.
    pub fn page_hash_trouble(&mut self) -> Option<String> {
        if let Some(cache) = &mut self.hashes.cache
            && cache.take_full()
        {
            let path = PageHashCache::path(&self.config.state_dir);
            self.hashes.trouble = Some(format!(
                "no room for the page hashes in {}: free space there; until this node's next start a resync reads all pages and sums are not compared",
                path.display()
            ));
        }
        self.hashes.trouble.take()
    }

    /// The next range to read for the hashes; None: nothing to do now.
    ///
    /// # Errors
    /// `disk`.
    pub async fn begin_build(&mut self) -> Result<Option<Build>, MirrorError> {
        let sound = self.state.complete && !self.copying;
        let Some(cache) = self.hashes.following().filter(|_| sound) else { return Ok(None) };
        let (at, page_count) = (cache.place(), cache.pages());
        let Some((first_page, count)) = cache.begin_reading(BUILD_PAGES) else { return Ok(None) };
        let Some(ticket) = self.start_hashing(at, first_page, count).await? else {
            self.abandon_build();
            return Ok(None);
        };
        Ok(Some(Build { ticket, at, first_page, page_count }))
    }

    /// What a range holds.
    pub fn end_build(&mut self, at: Position, first_page: u32, page_count: u32, hashes: Vec<u64>) {
        if let Some(cache) = self.hashes.following() {
            cache.end_reading(at, first_page, hashes, page_count);
        }
    }

    /// A range could not be read.
    pub fn abandon_build(&mut self) {
        if let Some(cache) = self.hashes.following() {
            cache.abandon_reading();
        }
    }
}

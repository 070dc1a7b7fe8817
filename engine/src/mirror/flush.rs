//! Making received frames durable, detached from the mirror so that the next batch is gathered
//! while one `fdatasync` is in flight.
//!
//! `start_flush -> ticket.run() -> finish_flush`. Only a commit frame is worth a flush, and only
//! what is durable through one is acknowledged.

use super::{FRAME_HEADER_BYTES, Mirror, MirrorError, check_name};
use crate::{
    durable,
    storage::{Backend, DiskFile, FileIdentity},
};
use lockstep_wire::{Chain, FrameNo, WalGeneration};
use std::path::PathBuf;

/// So much of a large transaction goes to disk ahead of its commit, whose own flush is then short: some 30 ms of a
/// slow disk.
const FLUSH_AHEAD_BYTES: u64 = 8 << 20;

/// A flush that has not run yet; owns all it needs.
#[must_use = "a flush that does not run makes nothing durable"]
pub struct FlushTicket {
    disk: Backend,
    wal: DiskFile,
    names: [(PathBuf, FileIdentity); 2],
    flushed: Flushed,
}

/// The proof that a flush ran well.
#[must_use = "the mirror does not know yet: finish_flush"]
#[derive(Debug)]
pub struct Flushed {
    generation: WalGeneration,
    frame: FrameNo,
    chain: Chain,
    page_count: u32,
}

impl FlushTicket {
    /// Waits for the disk.
    ///
    /// # Errors
    /// `disk`; give the mirror to [`Mirror::close_after_failed_flush`] then and open it anew.
    pub async fn run(self) -> Result<Flushed, MirrorError> {
        durable::flush_wal(&self.wal).await?;
        for (path, ours) in self.names {
            check_name(&self.disk, path, ours).await?;
        }
        Ok(self.flushed)
    }
}

impl Mirror {
    /// A flush through the last commit received. When that is durable already, `None`, unless much of a
    /// transaction without its commit yet was written since the last flush.
    ///
    /// # Errors
    /// `disk`, when the checksum of that frame cannot be read.
    pub async fn start_flush(&mut self) -> Result<Option<FlushTicket>, MirrorError> {
        let frame = self.committed;
        if frame <= self.durable && self.unflushed_bytes < FLUSH_AHEAD_BYTES {
            return Ok(None);
        }
        self.unflushed_bytes = 0;
        Ok(Some(FlushTicket {
            disk: self.disk.clone(),
            wal: self.wal.clone(),
            names: [
                (self.config.database.clone(), self.database_identity),
                (self.config.wal(), self.wal_identity),
            ],
            flushed: self.flushed_through(frame.max(self.durable)).await?,
        }))
    }

    /// Takes note of a flush and answers the last durable commit frame of the present generation. May
    /// complete a copy.
    ///
    /// # Errors
    /// `disk`, when a copy cannot be completed.
    pub async fn finish_flush(&mut self, flushed: Flushed) -> Result<FrameNo, MirrorError> {
        // A switch or rewind in the meantime made its own sync.
        if flushed.generation == self.generation
            && flushed.frame > self.durable
            && flushed.frame <= self.last_frame()
        {
            self.durable = flushed.frame;
            self.durable_chain = flushed.chain;
            self.page_count = flushed.page_count;
        }
        self.complete_copy().await?;
        Ok(self.durable)
    }

    /// Start, run and finish in one.
    ///
    /// # Errors
    /// `disk`.
    pub async fn flush(&mut self) -> Result<FrameNo, MirrorError> {
        match self.start_flush().await? {
            Some(ticket) => {
                let flushed = ticket.run().await?;
                self.finish_flush(flushed).await
            }
            None => Ok(self.durable),
        }
    }

    /// Ends mirroring after a flush that failed: frames that are not durable are broken, so that opening
    /// the mirror anew finds only what is on disk.
    ///
    /// # Errors
    /// As [`Mirror::close`].
    pub async fn close_after_failed_flush(self) -> Result<(), MirrorError> {
        let lost = self.durable.0 + 1..=self.last_frame().0;
        let spots: Vec<u64> = lost.map(|frame| self.frame_offset(FrameNo(frame))).collect();
        durable::distrust(&self.wal, &spots, FRAME_HEADER_BYTES).await;
        self.close().await
    }

    pub(super) async fn flushed_through(&self, frame: FrameNo) -> Result<Flushed, MirrorError> {
        Ok(Flushed {
            generation: self.generation,
            frame,
            chain: self.chain_after(frame).await?,
            page_count: match frame.0.checked_sub(1) {
                Some(at) => self.frames[at as usize].commit_pages,
                None => self.page_count,
            },
        })
    }
}

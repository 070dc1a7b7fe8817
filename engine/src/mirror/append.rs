//! Taking WAL bytes: checked against the running checksum, then written where the active has them.
//!
//! The whole batch is checked before a byte is written, so a refusal leaves the mirror as it was.
//! Written is not durable; that is [`super::flush`]'s.

use super::{FrameNote, Mirror, MirrorError};
use crate::{
    durable,
    storage::StorageFile,
    wal::{Frames, frame_bytes},
};
use lockstep_wire::{Chain, FrameNo, Position, WalBatch, WalGeneration};

impl Mirror {
    /// Writes consecutive frames after the last one received, published ones or prepared ones: both count
    /// once they are durable through a commit frame.
    ///
    /// # Errors
    /// `gap`: not the next frame or another generation; `chain`: other bytes than the active's;
    /// `protocol`: malformed; `disk`.
    pub async fn append(&mut self, batch: WalBatch) -> Result<(), MirrorError> {
        let notes = self.check(&batch)?;
        #[cfg(test)]
        let batch = super::spoil::in_memory(batch, &self.config.database);
        let end = self.append_offset() + batch.data.len() as u64;
        self.wal.write_at(self.append_offset(), batch.data.clone()).await?;
        self.unflushed_bytes += batch.data.len() as u64;
        if let Some(last) = notes.iter().rposition(|note| note.commit_pages > 0) {
            self.committed = FrameNo(batch.first_frame + u32::try_from(last).expect("a batch is short"));
        }
        self.frames.extend(notes);
        self.chain = Chain::from_packed(batch.chain_after);
        self.published = self.published.max(Some(FrameNo(batch.published_frame)));
        self.written_end = self.written_end.max(end);
        self.hash_frames(&batch);
        Ok(())
    }

    fn check(&self, batch: &WalBatch) -> Result<Vec<FrameNote>, MirrorError> {
        if self.is_diverged() {
            return Err(self.protocol(
                "frames",
                "adoption or a copy first",
                "frames for a database of this node",
            ));
        }
        let database = || self.config.database.clone();
        let first =
            Position { generation: WalGeneration(batch.generation), frame: FrameNo(batch.first_frame) };
        let next = Position { frame: FrameNo(self.last_frame().0 + 1), ..self.received() };
        let Some(header) = self.header.filter(|_| first == next) else {
            return Err(MirrorError::Gap {
                database: database(),
                held: self.received(),
                what: "frames",
                got: first,
            });
        };
        let before = Chain::from_packed(batch.chain_before);
        if before != self.chain {
            let (at, expected) = (self.received(), self.chain);
            return Err(MirrorError::Chain {
                database: database(),
                at,
                what: "a batch",
                expected,
                got: before,
            });
        }
        let frame_bytes = frame_bytes(header.page_size);
        if batch.data.is_empty() || !(batch.data.len() as u64).is_multiple_of(frame_bytes) {
            let expected = format!("whole frames of {frame_bytes} bytes");
            return Err(self.protocol("frames", expected, format!("{} bytes", batch.data.len())));
        }
        let frames = Frames::new(&batch.data, header.page_size);
        let chain = match frames.verify(&header, first.frame, self.chain) {
            Ok(verified) => verified.chain,
            Err(source) => return Err(MirrorError::Frames { database: database(), source }),
        };
        let after = Chain::from_packed(batch.chain_after);
        if chain != after {
            let (at, what) = (self.position(FrameNo(self.last_frame().0 + frames.count())), "the batch");
            return Err(MirrorError::Chain { database: database(), at, what, expected: chain, got: after });
        }
        Ok(FrameNote::all(&frames).collect())
    }

    /// Writes zeros ahead of the append point when less than half of
    /// [`super::MirrorConfig::zero_ahead_bytes`] is left; for idle moments, as it waits for the disk. A disk
    /// without room for zeros may still have room for frames: then nothing is done.
    ///
    /// # Errors
    /// [`MirrorError::Storage`]: the sync failed, which frames that were written before need too.
    pub async fn zero_ahead(&mut self) -> Result<(), MirrorError> {
        let wanted = u64::from(self.config.zero_ahead_bytes);
        let append_at = self.append_offset();
        let Some(_) = self.header.filter(|_| self.written_end < append_at + wanted / 2) else {
            return Ok(());
        };
        if durable::zero_ahead(&self.wal, self.written_end.max(append_at), append_at + wanted).await? {
            self.written_end = append_at + wanted;
        } else {
            // Not again for every commit.
            self.config.zero_ahead_bytes = 0;
        }
        Ok(())
    }
}

//! The end of a WAL generation, and taking frames back.
//!
//! The order of a switch and its syncs is [`crate::durable::switch_generation`]'s. Both operations
//! are accepted only when the peer names the very point this mirror is at.

use super::{Mirror, MirrorError, WAL_HEADER_BYTES, WalHeader};
use crate::durable::{self, Switch};
use lockstep_wire::{Chain, FrameNo, Generation, Position, Rewind, WalGeneration};
use std::sync::Arc;

impl Mirror {
    /// Ends the present generation: its pages go into the database file; begins the next. Durable when
    /// it returns. The same message twice changes nothing.
    ///
    /// # Errors
    /// `gap` or `chain`: this mirror is not where the generation before ended; `protocol`; `disk`.
    pub async fn begin_generation(&mut self, message: Generation) -> Result<(), MirrorError> {
        let header = self.check_generation(&message)?;
        let Some(header) = header else { return Ok(()) };
        self.flush().await?;
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        let mut state = self.state;
        let generation = WalGeneration(message.generation);
        state.page_size = header.page_size;
        state.wal_inode = self.wal_identity.inode;
        state.generations = match self.header {
            Some(old) => [Some((self.generation, old.salts)), Some((generation, header.salts))],
            // Not the empty WAL too: from here on one is somebody else's doing.
            None => [Some((generation, header.salts)), None],
        };
        let mut latest = self.latest_pages(self.fold.done(), self.durable);
        if let Some(latest) = &mut latest {
            self.fold.without_moved(latest);
        }
        durable::switch_generation(Switch {
            disk: &self.disk,
            wal: &self.wal,
            database: &self.database,
            latest,
            state: (&self.config.state_file(), state.encode().into()),
            header: message.wal_header,
        })
        .await?;
        self.state = state;
        let end = self.header.map(|_| (self.last_frame(), self.chain));
        self.hashes.generation(generation, &header, end);
        self.header = Some(header);
        self.generation = generation;
        self.frames.clear();
        self.committed = FrameNo(0);
        self.fold = Default::default();
        self.durable = FrameNo(0);
        self.published = Some(FrameNo(0));
        (self.chain, self.durable_chain) = (header.chain, header.chain);
        self.written_end = self.written_end.max(WAL_HEADER_BYTES as u64);
        self.check_names().await
    }

    /// The new header; `None` when this generation has begun already.
    fn check_generation(&self, message: &Generation) -> Result<Option<WalHeader>, MirrorError> {
        if self.is_diverged() {
            return Err(self.protocol(
                "a generation",
                "adoption or a copy first",
                "one for a database of this node",
            ));
        }
        let header = match WalHeader::parse(&message.wal_header) {
            Ok(header) if message.wal_header.len() == WAL_HEADER_BYTES => header,
            Ok(_) => return Err(self.protocol("a generation", "32 bytes of header", "more")),
            Err(error) => return Err(self.protocol("a generation", "a sound WAL header", error.to_string())),
        };
        if self.state.page_size != 0 && header.page_size != self.state.page_size {
            let expected = format!("{} bytes a page", self.state.page_size);
            return Err(self.protocol("a generation", expected, header.page_size.to_string()));
        }
        let generation = WalGeneration(message.generation);
        let Some(old) = self.header else {
            let fresh = message.fresh || message.previous_frame == 0;
            return if fresh { Ok(Some(header)) } else { Err(self.generation_gap(message)) };
        };
        if generation == self.generation && header == old {
            return Ok(None);
        }
        if message.fresh {
            return Err(self.protocol("a fresh generation", "a copy to begin before it", "none"));
        }
        if generation <= self.generation || message.previous_frame != self.last_frame().0 {
            return Err(self.generation_gap(message));
        }
        let previous = Chain::from_packed(message.previous_chain);
        if previous != self.chain {
            let database = self.config.database.clone();
            let (at, expected) = (self.received(), self.chain);
            return Err(MirrorError::Chain { database, at, what: "a generation", expected, got: previous });
        }
        Ok(Some(header))
    }

    fn generation_gap(&self, message: &Generation) -> MirrorError {
        MirrorError::Gap {
            database: self.config.database.clone(),
            held: self.received(),
            what: "a generation",
            got: Position {
                generation: WalGeneration(message.generation.saturating_sub(1)),
                frame: FrameNo(message.previous_frame),
            },
        }
    }

    /// Forgets the frames after one, durably: they were prepared and never published.
    ///
    /// # Errors
    /// `gap`: that frame is not held; `chain`: it is another one; `protocol`; `disk`.
    pub async fn rewind(&mut self, message: Rewind) -> Result<(), MirrorError> {
        if self.is_diverged() && !self.kept {
            return Err(MirrorError::NotKept(self.config.database.clone()));
        }
        let target =
            Position { generation: WalGeneration(message.generation), frame: FrameNo(message.frame) };
        let database = || self.config.database.clone();
        // What is moved into the database file was published, and nobody takes that back.
        let moved = target.frame < self.fold.reaches();
        if target.generation != self.generation || target > self.received() || self.header.is_none() || moved
        {
            return Err(MirrorError::Gap {
                database: database(),
                held: self.received(),
                what: "rewind",
                got: target,
            });
        }
        let expected = self.chain_after(target.frame).await?;
        let got = Chain::from_packed(message.chain);
        if expected != got {
            return Err(MirrorError::Chain {
                database: database(),
                at: target,
                what: "rewind",
                expected,
                got,
            });
        }
        self.cut(target.frame, expected).await?;
        self.published = Some(target.frame);
        if self.durable > target.frame {
            self.durable = self.last_commit(target.frame);
            self.durable_chain = self.chain_after(self.durable).await?;
            self.page_count = match self.durable.0 {
                0 => self.file_pages().await?,
                frame => self.frames[frame as usize - 1].commit_pages,
            };
        }
        Ok(())
    }

    /// Ends at the last commit received, durably: what a broken connection left of a transaction comes anew.
    ///
    /// # Errors
    /// `disk`.
    pub async fn settle(&mut self) -> Result<(), MirrorError> {
        self.flush().await?;
        if self.durable < self.last_frame() {
            self.cut(self.durable, self.durable_chain).await?;
        }
        Ok(())
    }

    /// Breaks the frames after `last`, durably.
    async fn cut(&mut self, last: FrameNo, chain: Chain) -> Result<(), MirrorError> {
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        let removed = last.0 + 1..=self.last_frame().0;
        let spots: Vec<u64> = removed.map(|frame| self.frame_offset(FrameNo(frame))).collect();
        durable::erase(&self.wal, &spots, super::FRAME_HEADER_BYTES).await?;
        self.chain = chain;
        self.hashes.rewind(last, chain);
        self.frames.truncate(last.0 as usize);
        self.committed = self.last_commit(last);
        Ok(())
    }
}

//! A former active returns to where the new one took over: its own frames after that go.
//!
//! The commits themselves are in quarantine before. A checkpoint may have moved pages of theirs into the
//! database file, so the file is a sound database again only when the active has sent those
//! pages, as in a copy: until its end the mirror is durably incomplete.

use super::{Mirror, MirrorError, state_file::StateFile};
use crate::{durable, wal::WalPoint};
use lockstep_wire::FrameNo;
use std::{collections::BTreeSet, sync::Arc};

/// Pages that a fork may have touched; with more of them all pages are compared, which then costs little more.
pub const FORK_PAGES_MAX: usize = 16_384;

impl Mirror {
    /// The pages that the file of this node's own database may hold otherwise than at `fork`, as runs (first
    /// page, number of pages). `None`: the fork is not in its WAL, or there are more than `pages_max`.
    ///
    /// # Errors
    /// `disk`.
    pub async fn pages_after_fork(
        &self,
        fork: &WalPoint,
        pages_max: usize,
    ) -> Result<Option<Vec<(u32, u32)>>, MirrorError> {
        if !self.is_diverged() || !self.holds(fork).await? {
            return Ok(None);
        }
        let (before, after) = self.frames.split_at(fork.position.frame.0 as usize);
        let pages_at_fork = before.last().map_or(0, |note| note.commit_pages);
        // A checkpoint of a database that had shrunk cuts the file: pages of the fork are missing then.
        let cut = self.file_pages().await?.saturating_add(1)..=pages_at_fork;
        let mut pages = BTreeSet::new();
        for page in after.iter().map(|note| note.page).chain(cut) {
            pages.insert(page);
            if pages.len() > pages_max {
                return Ok(None);
            }
        }
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for page in pages {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == page => *count += 1,
                _ => runs.push((page, 1)),
            }
        }
        Ok(Some(runs))
    }

    /// Begins a copy that keeps the WAL through `fork` and every page. Durably incomplete when it returns.
    ///
    /// # Errors
    /// [`MirrorError::NotKept`] before a quarantine that is due; `protocol`: the fork is not held; `disk`.
    pub async fn begin_rewind(&mut self, fork: &WalPoint) -> Result<(), MirrorError> {
        if self.is_diverged() && !self.kept {
            return Err(MirrorError::NotKept(self.config.database.clone()));
        }
        if !self.holds(fork).await? {
            let got = format!("{}, which is not in this WAL", fork.position);
            return Err(self.protocol("a rewind", "a commit of this WAL", got));
        }
        self.hashes.begin_copy(false);
        let lock = Arc::clone(&self.pages_lock);
        let _changing = lock.write().await;
        let generation = fork.position.generation;
        // First: a crash after it leaves an incomplete mirror, whatever frames its WAL still has.
        self.write_state(StateFile {
            mirrors: true,
            complete: false,
            wal_inode: self.wal_identity.inode,
            generations: [Some((generation, fork.salts)), None],
            took_over: None,
            ..self.state
        })
        .await?;
        let frame = fork.position.frame;
        let end = self.frame_offset(FrameNo(frame.0 + 1));
        durable::cut(&self.wal, end).await?;
        self.generation = generation;
        self.frames.truncate(frame.0 as usize);
        self.committed = frame;
        self.fold = Default::default();
        self.stale.clear();
        self.durable = frame;
        self.published = Some(frame);
        (self.chain, self.durable_chain) = (fork.chain, fork.chain);
        self.page_count = self.frames.last().map_or(0, |note| note.commit_pages);
        self.written_end = end;
        self.copying = true;
        self.copy_end = None;
        Ok(())
    }
}

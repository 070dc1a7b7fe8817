//! Moving pages of a large WAL into the database file ahead of the end of its generation, in small steps.
//!
//! `start_fold -> ticket.run() -> finish_fold`, beside appends and flushes. Without it the switch after a VACUUM
//! would hold every commit up until a whole database is written. Only pages of frames that are durable and
//! published are moved: the WAL still has them, so it masks whatever a crash leaves half written, and nobody
//! takes them back. A position before them can no longer be told afterwards ([`Mirror::start_hashing`]).

use super::{Mirror, MirrorError};
use crate::{
    durable::{self, LatestPages},
    storage::DiskFile,
    wal::frame_bytes,
};
use lockstep_wire::{FrameNo, WalGeneration};
use std::sync::Arc;

/// Frames begin to be moved when there are so many bytes of them: beyond any WAL that is checkpointed every thousand
/// pages, and little enough for a switch that has to move the rest.
pub const FOLD_AHEAD_BYTES: u64 = 16 << 20;

/// Moved and synced in one step: a switch, which waits for a step under way, waits some 30 ms of a slow disk.
const STEP_BYTES: usize = 8 << 20;

/// What of the present generation is in the database file.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// The pages of every frame through here.
    done: FrameNo,
    plan: Option<Plan>,
}

/// Frames being moved.
#[derive(Debug)]
struct Plan {
    through: FrameNo,
    latest: Arc<LatestPages>,
    /// Of `latest`, so many are in the file.
    moved: usize,
}

/// A step that has not run yet; owns all it needs. A generation switch waits for it.
#[must_use = "a step that does not run moves nothing"]
pub struct FoldTicket {
    wal: DiskFile,
    database: DiskFile,
    latest: Arc<LatestPages>,
    pages: std::ops::Range<usize>,
    folded: Folded,
    _unchanging: tokio::sync::OwnedRwLockReadGuard<()>,
}

/// The proof that a step ran well.
#[must_use = "the mirror does not know yet: finish_fold"]
#[derive(Debug)]
pub struct Folded {
    generation: WalGeneration,
    through: FrameNo,
    moved: usize,
}

impl FoldTicket {
    /// Waits for the disk.
    ///
    /// # Errors
    /// `disk`; the mirror must be opened anew then, as after a failed flush.
    pub async fn run(self) -> Result<Folded, MirrorError> {
        durable::fold_some(&self.wal, &self.database, &self.latest, self.pages).await?;
        Ok(self.folded)
    }
}

impl Fold {
    /// The database file may hold pages of frames through this one.
    pub(super) fn reaches(&self) -> FrameNo {
        self.plan.as_ref().map_or(self.done, |plan| plan.through)
    }

    /// The last frame of which, and of all before it, the file holds the pages.
    pub(super) fn done(&self) -> FrameNo {
        self.done
    }

    /// Takes out of the latest pages after [`Self::done`] what is in the file already.
    pub(super) fn without_moved(&self, latest: &mut LatestPages) {
        let Some(plan) = &self.plan else { return };
        let moved = plan.latest.pages[..plan.moved].last().map_or(0, |(page, _)| *page);
        latest.pages.retain(|&(page, frame)| frame > plan.through || page > moved);
    }
}

impl Mirror {
    /// The next step, when there is much to move; `None` also while a reader needs the file as it is.
    pub fn start_fold(&mut self) -> Option<FoldTicket> {
        if self.fold.plan.is_none() {
            self.fold.plan = Some(self.plan_fold()?);
        }
        let unchanging = Arc::clone(&self.pages_lock).try_read_owned().ok()?;
        let (wal, database) = (self.wal.clone(), self.database.clone());
        let plan = self.fold.plan.as_ref()?;
        let step_bytes = STEP_BYTES.min(usize::try_from(self.config.fold_ahead_bytes).unwrap_or(STEP_BYTES));
        let step = (step_bytes / plan.latest.page_bytes.max(1)).max(1);
        let end = (plan.moved + step).min(plan.latest.pages.len());
        Some(FoldTicket {
            wal,
            database,
            latest: Arc::clone(&plan.latest),
            pages: plan.moved..end,
            folded: Folded { generation: self.generation, through: plan.through, moved: end },
            _unchanging: unchanging,
        })
    }

    fn plan_fold(&self) -> Option<Plan> {
        let sound = self.state.complete && !self.copying && !self.is_diverged();
        let header = self.header.filter(|_| sound && self.config.fold_ahead_bytes > 0)?;
        let least = u32::try_from(self.config.fold_ahead_bytes / frame_bytes(header.page_size)).ok()?;
        let known = self.durable.min(self.published?);
        if known.0 < self.fold.done.0.saturating_add(least.max(1)) {
            return None;
        }
        let through = self.last_commit(known);
        if through <= self.fold.done {
            return None;
        }
        // Whoever reads now may read an earlier position.
        drop(self.pages_lock.try_write().ok()?);
        let latest = Arc::new(self.latest_pages(self.fold.done, through)?);
        Some(Plan { through, latest, moved: 0 })
    }

    /// Takes note of a step.
    pub fn finish_fold(&mut self, folded: &Folded) {
        let Some(plan) = &mut self.fold.plan else { return };
        // A switch in the meantime moved the rest itself.
        if folded.generation != self.generation || folded.through != plan.through {
            return;
        }
        plan.moved = folded.moved;
        if plan.moved == plan.latest.pages.len() {
            self.fold = Fold { done: plan.through, plan: None };
        }
    }
}

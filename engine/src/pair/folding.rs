//! Standby: pages of a large WAL moved into the database file beside whatever else a database's task does.
//!
//! One step at a time; which pages, and when that is sound, is [`crate::mirror`]'s. [`Folding::finish`]
//! waits for the step under way before the mirror leaves the task.

use crate::mirror::{Folded, Mirror, MirrorError};
use tokio::task::JoinHandle;

/// The step under way: a task of its own, as a generation switch, in which this one may be, waits for it.
#[derive(Default)]
pub(super) struct Folding(Option<JoinHandle<Result<Folded, MirrorError>>>);

impl Folding {
    /// Begins a step if there is one to make and none under way.
    pub(super) fn begin(&mut self, mirror: &mut Mirror) {
        if self.0.is_none() {
            self.0 = mirror.start_fold().map(|ticket| tokio::task::spawn_local(ticket.run()));
        }
    }

    /// Waits for the end of the step under way; without one, for ever. May be dropped and called again.
    pub(super) async fn turn(&mut self) -> Result<Folded, MirrorError> {
        match &mut self.0 {
            Some(step) => {
                let folded = step.await.expect("nobody aborts a step, and it does not panic");
                self.0 = None;
                folded
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for the step under way.
    ///
    /// # Errors
    /// `disk`.
    pub(super) async fn finish(mut self, mirror: &mut Mirror) -> Result<(), MirrorError> {
        if self.0.is_some() {
            mirror.finish_fold(&self.turn().await?);
        }
        Ok(())
    }
}

//! Active: has the standby once had all of a tree? Until then it is no standby of it, as with a database being copied.
//!
//! Remembered beside the index, by the index's number, over restarts: what is behind later are changes under way, which
//! the status shows. An index is made anew when the standby follows another one, and then all is compared first.

use crate::files::ship::{Shipper, TreeState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::oneshot::{Receiver, error::TryRecvError};

/// A barrier that was not reached is asked for again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// What is known of one tree.
pub(super) struct Whole {
    file: PathBuf,
    /// The index by which it was whole; 0: none.
    of: u64,
    /// A standby that this index describes is connected, or was last.
    whole: bool,
    connected: bool,
    barrier: Option<Receiver<Result<(), String>>>,
    asked: Option<Instant>,
}

impl Whole {
    /// As remembered in the tree's state directory.
    pub(super) fn read(directory: &Path) -> Self {
        let file = directory.join("whole");
        let of = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { file, of, whole: false, connected: false, barrier: None, asked: None }
    }

    /// A standby has said what it holds; `resumed`: it follows the index that is announced.
    pub(super) fn connected(&mut self, index: u64, resumed: bool) {
        self.disconnected();
        self.connected = true;
        self.whole = resumed && index != 0 && index == self.of;
    }

    pub(super) fn disconnected(&mut self) {
        (self.connected, self.barrier, self.asked) = (false, None, None);
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// False while the standby lacks what there was when it came.
    pub(super) fn judge(&mut self, shipper: &Shipper) -> bool {
        if self.whole || matches!(shipper.status().state, TreeState::Stopped(_)) {
            return true;
        }
        if !self.connected {
            return false;
        }
        match self.barrier.as_mut().map(Receiver::try_recv) {
            Some(Ok(Ok(()))) => self.reached(shipper.announced().index),
            Some(Err(TryRecvError::Empty)) => {}
            Some(Ok(Err(_)) | Err(TryRecvError::Closed)) => self.barrier = None,
            None if self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN) => {
                (self.barrier, self.asked) = (Some(shipper.barrier()), Some(Instant::now()));
            }
            None => {}
        }
        self.whole
    }

    fn reached(&mut self, index: u64) {
        (self.barrier, self.whole, self.of) = (None, true, index);
        // A hint: without it the next start waits for a barrier again.
        if let Err(error) = std::fs::write(&self.file, index.to_string()) {
            tracing::warn!(%error, file = %self.file.display(), "cannot remember that the tree is whole");
        }
    }
}

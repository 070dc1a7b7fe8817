//! The mirror's files belong to whom the active's belong to.
//!
//! Without that a takeover would hand the application files that it may not open, or others files that
//! they may. The order of the steps is [`crate::storage`]'s.

use super::{Mirror, MirrorError};
use crate::{durable, storage};
use lockstep_wire::FileAttributes;

impl Mirror {
    /// Gives database and WAL the owner, group, mode, ACL and label of the active's, durably; nothing when they
    /// have them. Answers what this process has no right to set; the rest is set.
    ///
    /// # Errors
    /// `protocol`: no attributes of a database file; `disk`.
    pub async fn set_attributes(&mut self, wanted: &FileAttributes) -> Result<Vec<String>, MirrorError> {
        let refused = |found| self.protocol("file attributes", "an owner, a mode and short lists", found);
        storage::check_attributes(wanted).map_err(refused)?;
        Ok(durable::set_attributes([&self.database, &self.wal], wanted).await?)
    }
}

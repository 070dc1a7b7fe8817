//! Content hashes of files whose content was proven, by what tells a changed file: inode, size, time of change.
//!
//! A cache: what is not in it is read. It says what the content was and never what the disk holds now.

use crate::files::ContentHash;
use crate::files::apply::Stamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Files remembered: at most about 100 MB of memory.
const FILES_MAX: usize = 1_000_000;

/// The hashes, shared by the thread that applies and the one that proves.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<u64, (Stamp, ContentHash)>>);

impl Remembered {
    /// The content of a file that is still the same.
    pub fn content(&self, stamp: &Stamp) -> Option<ContentHash> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(&stamp.inode).filter(|(known, _)| known == stamp).map(|(_, content)| *content)
    }

    /// Remembers what was proven.
    pub fn extend(&self, proven: impl IntoIterator<Item = (Stamp, ContentHash)>) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (stamp, content) in proven {
            if files.len() >= FILES_MAX && !files.contains_key(&stamp.inode) {
                // Most of what such a tree needs is read again once; finding what is oldest would cost memory.
                files.clear();
            }
            files.insert(stamp.inode, (stamp, content));
        }
    }
}

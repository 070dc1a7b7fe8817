//! What a tree's thread does for a verification ([`super::verify`]), and who waits for the standby's listings.

use super::batch::Stop;
use super::thread::Tree;
use super::verify::{Ask, FIRST_REQUEST};
use crate::files::apply::Stamp;
use crate::files::index::ROOT;
use crate::files::{ContentHash, TreePath};
use bytes::Bytes;
use lockstep_wire::TreeListing;
use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// Who waits for the answers to which request.
pub(super) type Askers = HashMap<u64, Sender<TreeListing>>;

impl Tree {
    pub(super) fn asked(&mut self, ask: Ask) -> Result<(), Stop> {
        // Whoever asked may have gone; without a connection he is told so by the end of his channel.
        match ask {
            Ask::Standby(request, reply) => {
                if let Some(session) = &self.session {
                    self.askers.insert(request.request, reply);
                    session.send(request.into())?;
                }
            }
            Ask::Known(reply) => drop(reply.send((self.contents(), self.known.len() as u64))),
            Ask::IsHere(paths, reply) => {
                let here = paths.iter().map(|(path, hash)| self.is_rotten_here(path, hash)).collect();
                drop(reply.send(here));
            }
            Ask::Doubt(paths) => {
                let (before, now) = (self.doubts.clone(), Instant::now());
                for path in paths {
                    self.shared.lock().dirty.note_below(path.clone(), now);
                    if let Some(id) = self.known.find(&path).filter(|_| !path.is_root()) {
                        self.known.remove(id);
                        self.doubts.add(&path);
                    }
                }
                self.look_at_doubts(&before, now);
            }
        }
        Ok(())
    }

    /// An answer of the standby to a verification; true: it was one.
    pub(super) fn answered_asker(&mut self, listing: &TreeListing) -> bool {
        if listing.request < FIRST_REQUEST {
            return false;
        }
        let wanted =
            self.askers.get(&listing.request).is_some_and(|asker| asker.send(listing.clone()).is_ok());
        if listing.last || !wanted {
            self.askers.remove(&listing.request);
        }
        true
    }

    /// Content of the files that are as they were when they were read.
    fn contents(&self) -> Vec<(Stamp, ContentHash)> {
        let all = self.known.below(ROOT).into_iter().filter_map(|id| self.known.seen(id));
        let known = |seen: &crate::files::index::Seen| {
            let stamp = Stamp { inode: seen.id.inode, size: seen.size, mtime: seen.mtime };
            Some((stamp, seen.content?)).filter(|_| seen.id.inode != 0)
        };
        all.filter_map(known).collect()
    }

    /// Nothing of the file has changed since it was read for the standby, but the bytes that the disk gives.
    fn is_rotten_here(&self, path: &TreePath, hash: &Bytes) -> bool {
        let Some(seen) = self.known.at(path) else { return false };
        let found = self.disk.as_ref().and_then(|disk| disk.look(path).ok().flatten());
        let unchanged = found.is_some_and(|found| found.id == seen.id && found.ctime == seen.ctime);
        unchanged && seen.content.is_some_and(|content| content.0[..] != hash[..])
    }
}

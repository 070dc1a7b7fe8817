//! Active: compares a tree with what the standby's disk holds, when somebody asks, and puts right what differs.
//!
//! A thread of its own walks both trees by the same questions, its own by a [`Prover`], the standby's over the link, and
//! goes down only where hashes differ. What differs is looked at again after a barrier; it counts if neither side has
//! changed since, so that changes under way are not taken for differences. The tree's thread sends the questions, knows the index, and sends again what is doubted.

use super::shared::{Input, Shared};
use crate::files::apply::Stamp;
use crate::files::disk::Disk;
use crate::files::proof::{Placed, Prover, Remembered};
use crate::files::rules::Rules;
use crate::files::{ContentHash, TreePath};
use bytes::Bytes;
use lockstep_wire::{TreeEntry, TreeKind, TreeListRequest, TreeListing, TreeQuestion, unpack};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// What differs is looked at so often before it counts.
const LOOKS: u32 = 5;

/// Between two looks: what was renamed while both sides were read has arrived by then.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// More paths than this are counted, not named.
const NAMED_MAX: usize = 100;

/// Requests of verifications are numbered from here, so that nobody takes their answers for his.
pub(super) const FIRST_REQUEST: u64 = 1 << 32;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The standby lacks it.
    Missing,
    /// Only the standby has it.
    Extra,
    /// Type, metadata or content differ: somebody changed it there.
    Changed,
    /// Its content differs on the standby, and nothing else does: the disk there holds other bytes.
    RottenThere,
    /// The active's own disk holds other bytes than were read when the file was sent, and nothing else has changed.
    RottenHere,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeVerified {
    /// Entries that the standby has by the active's index.
    pub entries: u64,
    /// The first paths that differed, sorted.
    pub differing: Vec<(TreePath, Difference)>,
    /// How many there were: drifted, rotten on the standby, rotten on the active.
    pub drifted: u64,
    /// See `drifted`.
    pub rotten_there: u64,
    /// See `drifted`.
    pub rotten_here: u64,
    /// Of all these, paths that are equal now.
    pub repaired: u64,
}

/// What somebody asked for.
#[derive(Debug, Clone, Copy)]
pub struct VerifyHow {
    /// Read the content of every file on both sides.
    pub deep: bool,
    /// Send again what differs.
    pub repair: bool,
}

/// What the tree's thread is asked by a verification.
pub(super) enum Ask {
    /// Send this to the standby; answers go there until the last one.
    Standby(TreeListRequest, Sender<TreeListing>),
    /// What content the index knows.
    Known(Sender<(Vec<(Stamp, ContentHash)>, u64)>),
    /// Is it this side's disk that holds other bytes than the index says?
    IsHere(Vec<(TreePath, Bytes)>, Sender<Vec<bool>>),
    /// The standby may have anything there.
    Doubt(Vec<TreePath>),
}

type Entries = BTreeMap<Bytes, TreeEntry>;

/// One verification.
pub(super) struct Verifier {
    shared: Arc<Shared>,
    prover: Prover,
    databases_in: BTreeSet<TreePath>,
    requests: u64,
    how: VerifyHow,
}

fn gone<E>(_: E) -> String {
    "the tree is not being sent any more".to_owned()
}

/// Runs one verification to its end.
pub(super) fn verify(
    shared: Arc<Shared>,
    root: &Path,
    rules: Arc<Rules>,
    how: VerifyHow,
) -> Result<TreeVerified, String> {
    let disk =
        Disk::open(root).map_err(|error| format!("its root {} cannot be read: {error}", root.display()))?;
    let remembered = Arc::new(Remembered::default());
    let databases_in = rules.databases().iter().filter_map(TreePath::parent).collect();
    let prover = Prover::new(disk, rules, remembered.clone(), Arc::new(Placed::default()), Arc::default());
    let mut verifier = Verifier { shared, prover, databases_in, requests: FIRST_REQUEST, how };
    verifier.barrier()?;
    let (known, entries) = verifier.ask(Ask::Known)?;
    remembered.extend(known);
    let mut found = verifier.settled(vec![TreePath::root()])?;
    verifier.tell_sides(&mut found)?;
    let repaired = if how.repair { verifier.repair(&found)? } else { 0 };
    let count = |of: &dyn Fn(Difference) -> bool| found.values().filter(|what| of(what.0)).count() as u64;
    Ok(TreeVerified {
        entries,
        drifted: count(&|what| what < Difference::RottenThere),
        rotten_there: count(&|what| what == Difference::RottenThere),
        rotten_here: count(&|what| what == Difference::RottenHere),
        differing: found.into_iter().take(NAMED_MAX).map(|(path, (what, ..))| (path, what)).collect(),
        repaired,
    })
}

/// Paths that differ: how, and what stands here and there.
type Found = BTreeMap<TreePath, (Difference, Option<TreeEntry>, Option<TreeEntry>)>;

impl Verifier {
    fn tell(&self, ask: Ask) {
        self.shared.tell(Input::Verify(ask));
    }

    fn ask<T>(&self, ask: impl FnOnce(Sender<T>) -> Ask) -> Result<T, String> {
        let (reply, answer) = channel();
        self.tell(ask(reply));
        answer.recv().map_err(gone)
    }

    /// Waits until everything that has changed so far is on the standby's disk.
    fn barrier(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(Input::Barrier(reply));
        answer.blocking_recv().map_err(gone)?
    }

    /// What differs below these directories and goes on differing.
    fn settled(&mut self, directories: Vec<TreePath>) -> Result<Found, String> {
        let mut found = self.walk(directories)?;
        let mut still = Found::new();
        for _ in 1..LOOKS {
            if found.is_empty() {
                return Ok(found);
            }
            std::thread::sleep(LOOK_AGAIN);
            self.barrier()?;
            let again = self.walk(parents(found.keys()))?;
            let is_same = |path: &TreePath, now: &_| found.get(path) == Some(now);
            still = again
                .iter()
                .filter(|(path, now)| is_same(path, now))
                .map(|(p, n)| (p.clone(), n.clone()))
                .collect();
            if still.len() == again.len() {
                break;
            }
            found = again;
        }
        Ok(still)
    }

    fn walk(&mut self, mut left: Vec<TreePath>) -> Result<Found, String> {
        let mut found = Found::new();
        while let Some(directory) = left.pop() {
            let answer = self.begin(&directory);
            let ours = self.own(&directory);
            let theirs = collect(&answer);
            match (ours, theirs?) {
                (Ok(ours), Ok(theirs)) => self.compare(&directory, &ours, &theirs, &mut found, &mut left),
                // It went between two looks.
                (Err(_), Err(_)) => {}
                (Ok(_), Err(_)) => drop(found.insert(directory, (Difference::Missing, None, None))),
                (Err(_), Ok(_)) => drop(found.insert(directory, (Difference::Extra, None, None))),
            }
        }
        Ok(found)
    }

    fn request(&mut self, path: &TreePath) -> TreeListRequest {
        self.requests += 1;
        TreeListRequest {
            request: self.requests,
            question: TreeQuestion::Hashes.into(),
            path: Bytes::copy_from_slice(path.as_bytes()),
            deep: self.how.deep,
        }
    }

    fn begin(&mut self, path: &TreePath) -> Receiver<TreeListing> {
        let (reply, answer) = channel();
        let request = self.request(path);
        self.tell(Ask::Standby(request, reply));
        answer
    }

    fn own(&mut self, path: &TreePath) -> Result<Entries, String> {
        let (reply, answer) = channel();
        let request = self.request(path);
        self.prover.answer(&request, &[], &mut |listing| reply.send(listing).is_ok());
        drop(reply);
        collect(&answer)?
    }

    fn compare(
        &self,
        directory: &TreePath,
        ours: &Entries,
        theirs: &Entries,
        found: &mut Found,
        left: &mut Vec<TreePath>,
    ) {
        let names: BTreeSet<&Bytes> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let Ok(path) = directory.join(name) else { continue };
            let what = match (ours.get(name), theirs.get(name)) {
                (Some(_), None) => Some(Difference::Missing),
                (None, _) => Some(Difference::Extra),
                (Some(our), Some(their)) => self.difference(&path, our, their, left),
            };
            if let Some(what) = what {
                found.insert(path, (what, ours.get(name).cloned(), theirs.get(name).cloned()));
            }
        }
    }

    fn difference(
        &self,
        path: &TreePath,
        our: &TreeEntry,
        their: &TreeEntry,
        left: &mut Vec<TreePath>,
    ) -> Option<Difference> {
        // Sockets and devices are not replicated; what cannot be read is a stuck path.
        if our.kind() == TreeKind::Other || !our.fault.is_empty() {
            return None;
        }
        let (mut ours, mut theirs) =
            (our.meta.clone().unwrap_or_default(), their.meta.clone().unwrap_or_default());
        if our.kind() == TreeKind::Directory && self.databases_in.contains(path) {
            // Its time changes with every WAL that comes and goes, on each node by itself.
            for meta in [&mut ours, &mut theirs] {
                (meta.mtime_s, meta.mtime_ns) = (0, 0);
            }
        }
        let same =
            ours == theirs && (our.kind, our.size, &our.target) == (their.kind, their.size, &their.target);
        let changed = (!same || !their.fault.is_empty()).then_some(Difference::Changed);
        match our.kind() {
            TreeKind::Directory if their.kind() == TreeKind::Directory => {
                if our.hash != their.hash {
                    left.push(path.clone());
                }
                changed
            }
            TreeKind::File => changed.or((our.hash != their.hash).then_some(Difference::RottenThere)),
            _ => changed,
        }
    }

    /// Where only content differs: which side's disk is it?
    fn tell_sides(&self, found: &mut Found) -> Result<(), String> {
        let rotten: Vec<(TreePath, Bytes)> = found
            .iter()
            .filter(|(_, (what, ..))| *what == Difference::RottenThere)
            .filter_map(|(path, (_, our, _))| Some((path.clone(), our.as_ref()?.hash.clone())))
            .collect();
        let paths: Vec<TreePath> = rotten.iter().map(|(path, _)| path.clone()).collect();
        let here = self.ask(|reply| Ask::IsHere(rotten, reply))?;
        for (path, _) in paths.into_iter().zip(here).filter(|(_, here)| *here) {
            if let Some((what, ..)) = found.get_mut(&path) {
                *what = Difference::RottenHere;
            }
        }
        Ok(())
    }

    /// Sends again what differs on the standby; answers how many paths are equal afterwards.
    fn repair(&mut self, found: &Found) -> Result<u64, String> {
        let there = found.iter().filter(|(_, (what, ..))| *what != Difference::RottenHere);
        let there: BTreeSet<TreePath> = there.map(|(path, _)| path.clone()).collect();
        if there.is_empty() {
            return Ok(0);
        }
        self.tell(Ask::Doubt(there.iter().cloned().collect()));
        self.barrier()?;
        let left = self.settled(parents(there.iter()))?;
        Ok(there.iter().filter(|path| !left.contains_key(*path)).count() as u64)
    }
}

/// The directories of these paths.
fn parents<'a>(paths: impl Iterator<Item = &'a TreePath>) -> Vec<TreePath> {
    let parents: BTreeSet<TreePath> =
        paths.map(|path| path.parent().unwrap_or_else(TreePath::root)).collect();
    parents.into_iter().collect()
}

/// An answer in one or more messages. The inner error: the directory could not be listed.
fn collect(answer: &Receiver<TreeListing>) -> Result<Result<Entries, String>, String> {
    let mut entries = Entries::new();
    loop {
        let listing = answer.recv().map_err(gone)?;
        if !listing.fault.is_empty() {
            return Ok(Err(listing.fault));
        }
        for entry in unpack::<TreeEntry>(listing.entries) {
            let entry = entry.map_err(|_| "the standby's listing is malformed".to_owned())?;
            entries.insert(entry.name.clone(), entry);
        }
        if listing.last {
            return Ok(Ok(entries));
        }
    }
}

//! What the standby says: what it holds, what it has taken, and what it could not do.

use super::batch::{Session, Stop};
use super::reconcile::Reconcile;
use super::thread::Tree;
use crate::files::TreePath;
use crate::files::index::{Change, Seen};
use lockstep_wire::{Message, TreeAck, TreeFailure, TreeKind, TreeReason, unpack};
use std::collections::HashSet;
use std::time::Instant;
use tokio::sync::mpsc;

impl Tree {
    pub(super) fn connected(
        &mut self,
        state: &lockstep_wire::TreeState,
        out: mpsc::Sender<Message>,
    ) -> Result<(), Stop> {
        self.drop_session();
        if !state.fault.is_empty() {
            self.fault(format!("the standby cannot follow it: {}", state.fault));
            return Ok(());
        }
        self.stopped = None;
        if self.store.is_none() {
            self.open_store()?;
        }
        let Some(store) = &mut self.store else { return Ok(()) };
        let identity = store.identity();
        let connection = self.shared.lock().connection;
        let limit = self.config.bytes_per_s_max;
        let session =
            |batch| Session::new(self.shared.clone(), out, connection, (identity.index, batch), limit);
        let last = state.batch + u64::from(state.interrupted);
        if state.index == identity.index
            && state.batch >= identity.acked
            && last <= identity.sent.max(state.batch)
        {
            let [doubts, paths] = store.resume(state.batch, state.interrupted)?;
            self.known = store.load()?;
            self.doubts = store.doubts()?.into_iter().collect();
            self.session = Some(session(state.batch));
            for path in doubts {
                self.doubt(&path);
            }
            let now = Instant::now();
            let mut shared = self.shared.lock();
            for path in paths.into_iter().chain(self.doubts.iter().cloned()) {
                shared.dirty.note_below(path, now);
            }
            return Ok(());
        }
        let session = session(0);
        self.session = Some(session);
        self.store = None;
        self.fresh = true;
        self.open_store()?;
        let index = self.store.as_ref().map_or(0, |store| store.identity().index);
        if let Some(session) = &mut self.session {
            session.follow(index);
        }
        self.introduce = true;
        if state.empty {
            self.mark_everything();
            return Ok(());
        }
        self.reconcile = Some(Reconcile::new());
        self.ask()
    }

    /// Asks the standby for the next directory, or begins to send when all are known.
    pub(super) fn ask(&mut self) -> Result<(), Stop> {
        let (Some(reconcile), Some(session)) = (&mut self.reconcile, &self.session) else { return Ok(()) };
        if let Some(request) = reconcile.next() {
            return session.send(request.into());
        }
        self.known = self.reconcile.take().map(|reconcile| reconcile.known).unwrap_or_default();
        let all = self.known.below(crate::files::index::ROOT);
        let changes: Vec<Change> =
            all.into_iter().filter_map(|id| crate::files::plan::change_of(&self.known, id)).collect();
        if let Some(store) = &mut self.store {
            store.answered(0, &changes, &[], &[])?;
        }
        self.mark_everything();
        Ok(())
    }

    /// The standby may have anything at `path`.
    fn doubt(&mut self, path: &TreePath) {
        let here = self.disk.as_ref().and_then(|disk| disk.look(path).ok().flatten());
        let Some(id) = self.known.find(path) else {
            self.doubts.insert(path.clone());
            return;
        };
        let seen = self.known.seen(id).cloned();
        let same_directory = here.zip(seen.clone()).is_some_and(|(here, seen)| {
            here.kind == TreeKind::Directory && seen.kind == here.kind && seen.id == here.id
        });
        if let Some(seen) = seen.filter(|_| same_directory || path.is_root()) {
            // What is in it is known; its metadata is not.
            self.known.set(path, Seen { mode: u32::MAX, ..seen });
            return;
        }
        self.known.remove(id);
        self.doubts.insert(path.clone());
    }

    pub(super) fn ack(&mut self, ack: &TreeAck) -> Result<(), Stop> {
        let (Some(session), Some(store)) = (&mut self.session, &mut self.store) else { return Ok(()) };
        if ack.index != store.identity().index {
            return Ok(());
        }
        let mut failures: Vec<(TreePath, TreeFailure)> = Vec::new();
        for failure in unpack::<TreeFailure>(ack.failures.clone()).flatten() {
            if let Ok(path) = TreePath::parse(&failure.path) {
                failures.push((path, failure));
            }
        }
        let mut failed = Vec::new();
        while let Some(flight) = session.flights.front_mut().filter(|flight| flight.batch <= ack.batch) {
            let this = flight.batch == ack.batch;
            if this && !failures.is_empty() {
                let names: HashSet<&TreePath> = failures.iter().map(|(path, _)| path).collect();
                flight.done.retain_mut(|done| {
                    let fails = !done.silent && names.contains(&done.path);
                    if fails {
                        failed.extend(done.from.take());
                    }
                    !fails
                });
            }
            if this && ack.more {
                break;
            }
            let Some(flight) = session.flights.pop_front() else { break };
            let certain: Vec<TreePath> =
                flight.done.iter().filter(|done| !done.silent).map(|done| done.path.clone()).collect();
            for path in &certain {
                self.doubts.remove(path);
                self.stuck.clear(path);
            }
            let changes: Vec<Change> = flight.done.into_iter().flat_map(|done| done.changes).collect();
            let doubts: Vec<TreePath> =
                failures.iter().map(|(path, _)| path.clone()).chain(failed.iter().cloned()).collect();
            store.answered(flight.batch, &changes, if this { &doubts } else { &[] }, &certain)?;
            self.introduce = false;
        }
        let announced = (store.identity().index, store.identity().acked);
        self.shared.lock().announced = announced;
        for from in failed {
            self.doubt(&from);
            self.shared.lock().dirty.note_below(from, Instant::now());
        }
        for (path, failure) in failures {
            self.failed(&path, &failure);
        }
        Ok(())
    }

    /// The standby could not do something with `path`: it is stuck, and tried again.
    fn failed(&mut self, path: &TreePath, failure: &TreeFailure) {
        let now = Instant::now();
        let reason = reason_of(failure);
        tracing::debug!(tree = %self.config.name, %path, op = ?failure.op(), reason, "refused by the standby");
        self.doubt(path);
        if failure.reason() == TreeReason::Missing
            && let Some(parent) = path.parent().filter(|parent| !parent.is_root())
        {
            // Somebody removed its directory on the standby.
            self.doubt_whole(&parent);
            self.shared.lock().dirty.note_below(parent, now);
        }
        self.hold(path, &reason, now);
    }

    fn doubt_whole(&mut self, path: &TreePath) {
        if let Some(id) = self.known.find(path) {
            self.known.remove(id);
        }
        self.doubts.insert(path.clone());
    }
}

/// Why the standby could not do it, for people.
fn reason_of(failure: &TreeFailure) -> String {
    let what = match failure.reason() {
        TreeReason::NoSpace => "the standby has no room left: free some there",
        TreeReason::Name => {
            "the standby's file system takes no such name: use the same file system on both nodes"
        }
        TreeReason::Unsupported => {
            "the standby's file system lacks a feature that it needs: use the same file system on both nodes"
        }
        TreeReason::Missing => "something is missing on the standby; it is sent anew",
        TreeReason::Differs => "the standby has something else there; it is sent anew",
        TreeReason::Content => "it arrived with another content; it is sent anew",
        TreeReason::Denied => "the standby's agent may not do it: run it as root there",
        TreeReason::ReadOnly => "the standby's file system is read-only: look at its disk",
        TreeReason::Disk => "the standby's disk failed",
        TreeReason::Symlink => "a symlink stands on the standby where a directory should be",
        TreeReason::Other => "the standby could not take it",
    };
    if failure.detail.is_empty() { what.to_owned() } else { format!("{what} ({})", failure.detail) }
}

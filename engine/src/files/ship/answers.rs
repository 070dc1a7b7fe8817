//! What the standby says: what it holds, what it has taken, and what it could not do.

use super::batch::{Flight, Session, Stop};
use super::outcome::{Done, Failures, Why, follow, judge};
use super::reconcile::Reconcile;
use super::thread::Tree;
use crate::files::index::{Change, Doubts, NO_MODE, Seen};
use crate::files::watch::Mark;
use lockstep_wire::{Message, TreeAck, TreeFailure, TreeReason, unpack};
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
            let touched = store.resume(state.batch, state.interrupted)?;
            self.known = store.load()?;
            self.doubts = store.doubts()?;
            self.acked = self.doubts.clone();
            self.session = Some(session(state.batch));
            let now = Instant::now();
            let mark = Mark { first: now, due: now, below: true, content: true, changed: false };
            for path in touched {
                self.retry(path, mark);
            }
            self.look_at_doubts(&Doubts::default(), now);
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
            store.answered(0, &changes, None)?;
        }
        self.mark_everything();
        Ok(())
    }

    pub(super) fn ack(&mut self, ack: &TreeAck) -> Result<(), Stop> {
        let (Some(session), Some(store)) = (&mut self.session, &self.store) else { return Ok(()) };
        if ack.index != store.identity().index {
            return Ok(());
        }
        for failure in unpack::<TreeFailure>(ack.failures.clone()).flatten() {
            self.failures.add(failure);
        }
        if ack.more {
            return Ok(());
        }
        let failures = std::mem::take(&mut self.failures);
        let answered = session.flights.iter().take_while(|flight| flight.batch <= ack.batch).count();
        let first = session.flights.iter().map(|flight| flight.first).min().unwrap_or_else(Instant::now);
        let flights: Vec<Flight> = session.flights.drain(..answered).collect();
        for flight in flights {
            self.introduce = false;
            let none = Failures::default();
            let failures = if flight.batch == ack.batch { &failures } else { &none };
            self.account(flight.batch, flight.done, failures)?;
        }
        if let Some(store) = &self.store {
            self.shared.lock().announced = (store.identity().index, store.identity().acked);
        }
        if !failures.is_empty() {
            self.failed(&failures, first);
        }
        Ok(())
    }

    /// The standby has answered `batch`: what is known of it is remembered.
    pub(super) fn account(&mut self, batch: u64, dones: Vec<Done>, failures: &Failures) -> Result<(), Stop> {
        let (mut changes, mut metas) = (Vec::new(), Vec::new());
        let before = self.acked.clone();
        for done in dones {
            let path = matches!(done.why, Why::Sent(_)).then(|| done.path.clone());
            let outcome = judge(&mut self.acked, done, failures);
            if let Some(path) = path.filter(|_| outcome.certain) {
                self.stuck.clear(&path);
            }
            changes.extend(outcome.changes);
            metas.extend(outcome.meta);
        }
        let doubts = (self.acked != before).then_some(&self.acked);
        if let Some(store) = &mut self.store {
            store.answered(batch, &changes, doubts)?;
        }
        for id in metas {
            if let Some(seen) = self.known.seen(id).cloned() {
                self.known.set_seen(id, Seen { mode: NO_MODE, ..seen });
            }
        }
        Ok(())
    }

    /// The standby could not do something. It is stuck, and tried again; whoever waits for it waits on.
    fn failed(&mut self, failures: &Failures, first: Instant) {
        self.doubt_what_builds_on(failures, first);
        for (path, failure) in failures.iter() {
            let reason = reason_of(failure);
            tracing::debug!(tree = %self.config.name, %path, op = ?failure.op(), reason, "refused by the standby");
            self.hold(path, &reason, first);
        }
        for barrier in &mut self.barriers {
            barrier.wait_on();
        }
    }

    /// Plans were made with operations that failed: takes back what these, and those that build on them, were to bring.
    fn doubt_what_builds_on(&mut self, failures: &Failures, first: Instant) {
        let mut doubts = self.acked.clone();
        for done in self.session.iter().flat_map(|session| session.flights.iter().flat_map(|f| &f.done)) {
            follow(&mut doubts, done);
        }
        for path in doubts.iter().filter(|path| !self.doubts.contains(path)) {
            if let Some(id) = self.known.find(path) {
                self.known.remove(id);
            }
            // What failed itself is tried again less and less often.
            if !failures.are_of(path) {
                let mark = Mark { first, due: first, below: true, content: true, changed: false };
                self.shared.lock().dirty.retry(path.clone(), mark);
            }
        }
        self.doubts = doubts;
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

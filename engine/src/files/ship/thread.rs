//! A tree's thread: waits for marks, for the standby's answers and for time to pass, and does one round after another.

use super::asked::Askers;
use super::barrier::Barrier;
use super::batch::{FLIGHTS_MAX, Session, Stop};
use super::gather::Gather;
use super::outcome::Failures;
use super::reconcile::Reconcile;
use super::shared::{Input, Notices, Shared, TreeState};
use super::stuck::Stuck;
use super::{TreeConfig, brake};
use crate::files::TreePath;
use crate::files::disk::Disk;
use crate::files::index::{Doubts, Known, NodeId, Store, StoreError};
use crate::files::plan::{Facts, Plan, plan};
use crate::files::rules::Rules;
use crate::files::watch::{Mark, Watch};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Looks of one round: as much as one batch holds.
const ROUND_LOOKS: usize = 4096;

/// A sweep finds what no event told: stores through memory maps that stay open.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A sweep that is made because something may have been missed rests for so many times what it took.
const SWEEP_REST: u32 = 20;

/// A root that is missing is looked for so often.
const ROOT_RETRY: Duration = Duration::from_secs(1);

/// A file that is always written and took long to read is not read again before this many times that.
const READ_REST: u32 = 10;

/// What looks like a mass deletion is looked at again so often: the files may be back.
const BRAKE_RETRY: Duration = Duration::from_secs(5);

/// Reading for less than this is no burden.
const READ_FREE: Duration = Duration::from_millis(50);

/// The status is renewed so often while there is work.
const SHOW_EVERY: Duration = Duration::from_millis(20);

/// A file that vanished or changed while it was read is looked at again after this.
const AGAIN: Duration = Duration::from_millis(20);

pub(super) struct Tree {
    pub(super) config: TreeConfig,
    pub(super) rules: Arc<Rules>,
    pub(super) index: PathBuf,
    pub(super) fresh: bool,
    pub(super) shared: Arc<Shared>,
    notices: Notices,
    pub(super) store: Option<Store>,
    pub(super) known: Known,
    /// What is not known of the standby once all that is under way is there.
    pub(super) doubts: Doubts,
    /// What is not known of it now, as it has answered.
    pub(super) acked: Doubts,
    /// Of the answer that is coming in.
    pub(super) failures: Failures,
    pub(super) disk: Option<Disk>,
    pub(super) watch: Option<Watch>,
    root_retry: Instant,
    pub(super) session: Option<Session>,
    pub(super) reconcile: Option<Reconcile>,
    /// Send a batch even if there is nothing to send: the standby does not follow this index yet.
    pub(super) introduce: bool,
    /// Directories to be listed.
    pub(super) scan: BTreeSet<TreePath>,
    /// Found to be gone by listings, which are not over.
    pub(super) vanished: Vec<TreePath>,
    /// When the oldest mark of this round was set: what the round leaves for later is as old.
    pub(super) round_first: Instant,
    shown: Instant,
    pub(super) stuck: Stuck,
    /// Large files that must not be read before.
    pub(super) resting: BTreeMap<TreePath, Instant>,
    /// Files that this round could not read.
    pub(super) unread: HashSet<NodeId>,
    pub(super) barriers: Vec<Barrier>,
    pub(super) askers: Askers,
    sweep: Sweep,
    brake: brake::Brake,
    /// The brake has stopped this tree, and it is tried again then.
    brake_retry: Option<Instant>,
    /// It is being tried.
    trial: bool,
    /// Why nothing is sent.
    pub(super) stopped: Option<String>,
    pub(super) count: Count,
}

/// When everything is looked at.
struct Sweep {
    /// The regular one.
    due: Instant,
    /// Since when one is under way.
    began: Option<Instant>,
    /// How long the last one took.
    took: Duration,
    /// Something may have been missed.
    suspect: bool,
}

/// What was sent.
pub(super) struct Count {
    pub(super) files: u64,
    pub(super) bytes: u64,
    rate: (Instant, u64, u64),
    paths: (u64, u64),
}

impl Tree {
    pub(super) fn new(
        config: TreeConfig,
        rules: Arc<Rules>,
        index: PathBuf,
        fresh: bool,
        shared: Arc<Shared>,
        notices: Notices,
    ) -> Self {
        let now = Instant::now();
        let brake = brake::Brake::new(config.delete_max_percent);
        Self {
            config,
            rules,
            index,
            fresh,
            shared,
            notices,
            store: None,
            known: Known::default(),
            doubts: Doubts::default(),
            acked: Doubts::default(),
            failures: Failures::default(),
            disk: None,
            watch: None,
            root_retry: now,
            session: None,
            reconcile: None,
            introduce: false,
            scan: BTreeSet::new(),
            vanished: Vec::new(),
            round_first: now,
            shown: now,
            stuck: Stuck::default(),
            resting: BTreeMap::new(),
            unread: HashSet::new(),
            barriers: Vec::new(),
            askers: Askers::new(),
            sweep: Sweep { due: now + SWEEP_EVERY, began: None, took: Duration::ZERO, suspect: false },
            brake,
            brake_retry: None,
            trial: false,
            stopped: None,
            count: Count { files: 0, bytes: 0, rate: (now, 0, 0), paths: (0, 0) },
        }
    }

    /// Runs until the handle is dropped.
    pub(super) fn run(mut self) {
        if let Err(error) = self.open_store() {
            self.fault(error.to_string());
        }
        loop {
            let (inputs, stop) = {
                let mut state = self.shared.lock();
                (std::mem::take(&mut state.inputs), state.stop)
            };
            if stop {
                return;
            }
            let now = Instant::now();
            self.hold_root(now);
            for input in inputs {
                let done = self.input(input);
                self.settle(done);
            }
            self.sweep_when_due(now);
            self.trial |= self.brake_retry.take_if(|due| *due <= now).is_some();
            let worked = if self.may_send() { self.round() } else { Ok(false) };
            let worked = self.settle(worked).unwrap_or(false);
            self.judge_barriers();
            self.show(worked);
            if !worked {
                self.wait();
            }
        }
    }

    pub(super) fn open_store(&mut self) -> Result<(), StoreError> {
        if let Some(directory) = self.index.parent() {
            // The store says what is wrong if this fails.
            let _ = std::fs::create_dir_all(directory);
        }
        if std::mem::take(&mut self.fresh) {
            Store::forget(&self.index);
        }
        let store = Store::open(&self.index)?;
        self.known = store.load()?;
        self.doubts = store.doubts()?;
        self.acked = self.doubts.clone();
        let identity = store.identity();
        self.shared.lock().announced = (identity.index, identity.acked);
        self.store = Some(store);
        Ok(())
    }

    fn alarm(&self, sentence: &str) {
        (self.notices)(true, format!("tree {}: {sentence}", self.config.name));
    }

    /// Nothing is sent from now on, for this reason.
    pub(super) fn fault(&mut self, sentence: String) {
        if self.stopped.as_ref() != Some(&sentence) {
            self.alarm(&sentence);
            self.stopped = Some(sentence);
        }
    }

    /// What a failed step means for the whole.
    fn settle<T>(&mut self, result: Result<T, Stop>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Stop::Gone) => {}
            Err(Stop::Store(error)) => {
                self.fault(error.to_string());
                self.store = None;
            }
        }
        self.drop_session();
        // What the interrupted round had taken is not marked any more.
        self.mark_everything();
        None
    }

    pub(super) fn drop_session(&mut self) {
        self.session = None;
        self.failures = Failures::default();
        self.reconcile = None;
        self.askers.clear();
        for barrier in self.barriers.drain(..) {
            barrier.answer(Err("the standby went away".to_owned()));
        }
    }

    pub(super) fn mark_everything(&self) {
        let now = Instant::now();
        self.shared.lock().dirty.note_below(TreePath::root(), now);
        // What is neither on disk nor in the index no listing finds.
        self.look_at_doubts(&Doubts::default(), now);
    }

    /// Looks at what is in doubt and is not in `but`.
    pub(super) fn look_at_doubts(&self, but: &Doubts, first: Instant) {
        let mark = Mark { first, due: Instant::now(), below: true, content: true, changed: false };
        for path in self.doubts.iter().filter(|path| !but.contains(path)) {
            self.retry(path.clone(), mark);
        }
    }

    fn input(&mut self, input: Input) -> Result<(), Stop> {
        match input {
            Input::Connected { state, out } => self.connected(&state, out),
            Input::Disconnected => {
                self.drop_session();
                Ok(())
            }
            Input::Ack(ack) => self.ack(&ack),
            Input::Listing(listing) => {
                if self.answered_asker(&listing) {
                    return Ok(());
                }
                let Some(reconcile) = &mut self.reconcile else { return Ok(()) };
                match reconcile.answer(&listing, &self.rules) {
                    Ok(true) => self.ask(),
                    Ok(false) => Ok(()),
                    Err(sentence) => {
                        self.fault(sentence);
                        self.drop_session();
                        Ok(())
                    }
                }
            }
            Input::Barrier(reply) => {
                self.barrier(reply);
                Ok(())
            }
            Input::Verify(ask) => self.asked(ask),
        }
    }

    /// `path` is stuck for now. Who waits for all that happened waits for a second try, and no longer.
    pub(super) fn hold(&mut self, path: &TreePath, reason: &str, first: Instant) {
        let now = Instant::now();
        let (due, new) = self.stuck.add(path, reason.to_owned(), now);
        if new {
            tracing::warn!(tree = %self.config.name, %path, reason, "a path is not replicated");
        }
        let first = if new { first } else { now };
        self.retry(path.clone(), Mark { first, due, below: true, content: true, changed: false });
    }

    /// Looks at `path` again.
    pub(super) fn retry(&self, path: TreePath, mark: Mark) {
        self.shared.lock().dirty.retry(path, mark);
    }

    /// Opens root and watch, or looks whether they came back.
    fn hold_root(&mut self, now: Instant) {
        let lost = std::mem::take(&mut self.shared.lock().root_lost);
        if lost {
            (self.watch, self.disk) = (None, None);
            self.fault(format!("its root {} is gone: put it back", self.config.root.display()));
            self.root_retry = now;
        }
        if self.watch.is_some() || self.root_retry > now {
            return;
        }
        self.root_retry = now + ROOT_RETRY;
        // What was replicated before has Lockstep's directory; a mount point without its file system has not.
        let root = &self.config.root;
        if self.known.len() > 1 && root.is_dir() && !root.join(".lockstep").is_dir() {
            let sentence = format!(
                "its root {} is not the directory that was replicated, for it lacks .lockstep: mount the right file system, or create that directory to have everything compared",
                root.display()
            );
            return self.fault(sentence);
        }
        let opened = Disk::open(root).and_then(|disk| {
            let watch = Watch::start(root, self.rules.clone(), self.shared.clone(), None)?;
            Ok((disk, watch))
        });
        match opened {
            Ok((disk, watch)) => {
                (self.disk, self.watch) = (Some(disk), Some(watch));
                self.stopped = None;
            }
            Err(error) => self.fault(format!(
                "its root {} cannot be watched ({error}): create or mount it",
                root.display()
            )),
        }
    }

    fn sweep_when_due(&mut self, now: Instant) {
        if !self.scan.is_empty() || !self.vanished.is_empty() {
            return;
        }
        let is_marked = self.shared.lock().dirty.get(&TreePath::root()).is_some_and(|mark| mark.below);
        if let Some(began) = self.sweep.began.filter(|_| !is_marked) {
            self.sweep.took = now.duration_since(began);
            self.sweep.due = now + SWEEP_EVERY;
            self.sweep.began = None;
        }
        if self.sweep.began.is_none() && self.sweep_due() <= now && self.may_send() {
            self.mark_everything();
            (self.sweep.began, self.sweep.suspect) = (Some(now), false);
        }
    }

    /// When to look at everything: now and then, and soon when something may have been missed, though never for more
    /// than a small part of the time.
    fn sweep_due(&self) -> Instant {
        let ended = self.sweep.due - SWEEP_EVERY;
        if self.sweep.suspect { ended + self.sweep.took * SWEEP_REST } else { self.sweep.due }
    }

    fn may_send(&self) -> bool {
        let ready = self.session.as_ref().is_some_and(|session| session.flights.len() < FLIGHTS_MAX);
        ready
            && self.reconcile.is_none()
            && self.disk.is_some()
            && self.store.is_some()
            && (self.stopped.is_none() || self.trial)
    }

    /// One round: looks, plans, sends. False: there was nothing to do.
    fn round(&mut self) -> Result<bool, Stop> {
        let now = Instant::now();
        let marks = self.shared.lock().dirty.take_due(now, ROUND_LOOKS);
        let scanned = !self.scan.is_empty();
        if !scanned && self.vanished.is_empty() {
            self.round_first = now;
        }
        self.round_first = marks.iter().map(|(_, mark)| mark.first).fold(self.round_first, Instant::min);
        if marks.is_empty() && !scanned && self.vanished.is_empty() {
            if self.introduce
                && let (Some(session), Some(store)) = (&mut self.session, &mut self.store)
                && session.last_batch() == 0
                && self.shared.lock().dirty.is_empty()
            {
                session.empty_batch(store)?;
            }
            return Ok(false);
        }
        let Some(disk) = self.disk.take() else { return Ok(false) };
        let facts = self.gather(&disk, marks, now);
        if self.shared.lock().root_lost || !disk.is_in_place() {
            // What was just seen may be the emptiness below a mount point.
            self.disk = Some(disk);
            self.shared.lock().root_lost = true;
            self.mark_everything();
            return Ok(true);
        }
        let sent = self.plan_and_send(&disk, &facts);
        self.disk = Some(disk);
        sent.map(|()| true)
    }

    fn gather(&mut self, disk: &Disk, marks: Vec<(TreePath, Mark)>, now: Instant) -> Facts {
        let mut gather = Gather::new(disk, &self.rules, &self.known, &mut self.stuck);
        let mut later = Vec::new();
        for (path, mark) in marks {
            if let Some(due) = self.resting.get(&path).copied().filter(|due| *due > now) {
                later.push((path, Mark { due, ..mark }));
                continue;
            }
            self.resting.remove(&path);
            gather.marked(&path, mark.content);
            // Something was changed by a name that came and went unseen. It may have been another name of a file that is
            // still there.
            let vanished = gather.facts.found(&path).is_none() && self.known.find(&path).is_none();
            self.sweep.suspect |= mark.changed && vanished;
            if mark.below {
                self.scan.insert(path);
            }
        }
        while gather.facts.len() < ROUND_LOOKS
            && let Some(path) = self.scan.pop_first()
        {
            let listed = gather.list(&path);
            self.scan.extend(listed.directories);
            self.vanished.extend(listed.vanished);
        }
        if self.scan.is_empty() {
            for path in std::mem::take(&mut self.vanished) {
                gather.marked(&path, false);
            }
        }
        let shared = self.shared.clone();
        gather.sources(&|path| shared.lock().dirty.get(path).is_some_and(|mark| mark.content));
        let Gather { facts, retry, news, .. } = gather;
        for (path, reason) in news {
            self.alarm(&format!("{path} is not replicated: {reason}"));
        }
        for (path, due) in retry {
            self.retry(path, Mark { first: now, due, below: true, content: false, changed: false });
        }
        let mut shared = self.shared.lock();
        for (path, mark) in later {
            shared.dirty.retry(path, mark);
        }
        drop(shared);
        facts
    }

    fn plan_and_send(&mut self, disk: &Disk, facts: &Facts) -> Result<(), Stop> {
        let vanishing = brake::vanishing(&self.known, facts);
        if let Some(sentence) = self.brake.refuse(vanishing, self.known.len(), Instant::now()) {
            self.braked(sentence);
            return Ok(());
        }
        if self.trial && self.scan.is_empty() {
            (self.trial, self.stopped) = (false, None);
        }
        let Plan { steps, below, again, .. } = plan(&mut self.known, facts, &self.doubts);
        self.scan.extend(below);
        let now = Instant::now();
        for path in again {
            let mark =
                Mark { first: self.round_first, due: now, below: false, content: true, changed: false };
            self.shared.lock().dirty.retry(path, mark);
        }
        self.carry_out(disk, facts, steps)
    }

    fn braked(&mut self, sentence: String) {
        self.brake_retry = Some(Instant::now() + BRAKE_RETRY);
        // While it is tried again how many entries are gone is no news.
        if !std::mem::take(&mut self.trial) {
            self.fault(sentence);
        }
        self.mark_everything();
    }

    /// Looks at a path again that changed while it was looked at; `sent`: what was there before is on its way.
    pub(super) fn look_again(&mut self, path: &TreePath, took: Duration, sent: bool) {
        let now = Instant::now();
        let first = if sent { now } else { self.round_first };
        let rest = if took > READ_FREE { took * READ_REST } else { AGAIN };
        if took > READ_FREE {
            self.resting.insert(path.clone(), now + rest);
        }
        let mark = Mark { first, due: now + rest, below: false, content: true, changed: false };
        self.shared.lock().dirty.retry(path.clone(), mark);
    }

    fn wait(&self) {
        let state = self.shared.lock();
        let now = Instant::now();
        if !state.inputs.is_empty() || state.stop || state.root_lost {
            return;
        }
        let mut until = now + ROOT_RETRY;
        if self.may_send() {
            until = until.min(self.sweep_due().max(now + Duration::from_millis(1)));
            until = until.min(state.dirty.next_due().unwrap_or(until));
        }
        if self.barriers.iter().any(|barrier| barrier.is_seen_now(state.cookie)) {
            return;
        }
        let wait = until.saturating_duration_since(now);
        // A time-out is one of the things waited for, and what panicked elsewhere says so itself.
        drop(self.shared.wake.wait_timeout(state, wait));
    }

    fn show(&mut self, working: bool) {
        let now = Instant::now();
        if working && now.duration_since(self.shown) < SHOW_EVERY {
            return;
        }
        self.shown = now;
        let flights = || self.session.iter().flat_map(|session| &session.flights);
        let flying: usize = flights().map(|flight| flight.done.len()).sum();
        let flying_bytes = flights().map(|flight| flight.bytes).sum();
        let flying_since = self.session.as_ref().and_then(|session| session.flights.front()).map(|f| f.since);
        let mut shared = self.shared.lock();
        let marks = shared.dirty.len() + self.scan.len() + self.vanished.len();
        let pending = marks + flying;
        let oldest = [shared.dirty.oldest(), flying_since, self.stuck.oldest()].into_iter().flatten().min();
        let (since, bytes, rate) = self.count.rate;
        if now.duration_since(since) >= Duration::from_secs(1) {
            let passed = now.duration_since(since).as_secs_f64();
            let new = ((self.count.bytes - bytes) as f64 / passed) as u64;
            let paths = ((self.count.files - self.count.paths.0) as f64 / passed) as u64;
            self.count.rate = (now, self.count.bytes, (rate + new) / 2);
            self.count.paths = (self.count.files, (self.count.paths.1 + paths) / 2);
        }
        let status = &mut shared.status;
        status.state = match (&self.stopped, &self.session) {
            (Some(reason), _) => TreeState::Stopped(reason.clone()),
            (None, _) if self.watch.is_none() => TreeState::Starting,
            (None, None) => TreeState::Alone,
            (None, Some(_)) if self.reconcile.is_some() => TreeState::Comparing,
            (None, Some(_)) if pending > 0 || self.introduce || self.sweep.suspect => TreeState::Sending,
            (None, Some(_)) => TreeState::Level,
        };
        (status.pending_paths, status.pending_bytes) = (pending as u64, flying_bytes);
        status.oldest = oldest;
        status.entries = self.known.len() as u64;
        (status.files_sent, status.bytes_sent) = (self.count.files, self.count.bytes);
        status.bytes_per_s = self.count.rate.2;
        status.remaining_s = (self.count.paths.1 > 0).then(|| pending as u64 / self.count.paths.1);
        status.source = self.watch.as_ref().map(|watch| watch.source().name());
        status.watch_fault = self.watch.as_ref().and_then(Watch::fault);
        status.stuck_paths = self.stuck.len() as u64;
        status.stuck = self.stuck.named();
    }
}

//! Active: one database's state: its capture, its waiters, and how far the standby is with it.
//!
//! Owned by [`super::active::Active`], which decides; here is only what concerns a single database.

use super::DatabaseConfig;
use super::active::WaitReply;
use super::barrier::{Barrier, CommitMode, Progress};
use super::board::{CommitBoard, Marks};
use super::scrub::Scrub;
use super::sharing::Waiters;
use super::standby::Own;
use super::standing::Standing;
use super::starting::Starting;
use super::status::{CopyProgress, DatabaseState, DatabaseStatus, EqualityStatus};
use super::sums::{Compared, ServedSums};
use super::thread::Inputs;
use crate::capture::{Capture, CaptureError, CaptureEvent};
use crate::mirror::TakenOver;
use crate::wal::WalPoint;
use lockstep_wire::{Ack, Chain, FileAttributes, FrameNo, Position, Salts};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// How long a database may be unfit before it is an alarm: an application needs a moment to make it.
const REFUSED_PATIENCE: Duration = Duration::from_secs(2);

/// Groups of commits remembered until somebody waits beyond them; older ones merge.
const UNWAITED_GROUPS: usize = 1024;

/// A number that no reading of this process carries yet, whichever role or pair asked for it.
fn new_serial() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// One database being served.
pub(super) struct Served {
    pub(super) config: DatabaseConfig,
    pub(super) state: DatabaseState,
    pub(super) continues: Option<WalPoint>,
    /// Keeps an application's last close from removing the WAL until capture has attached.
    pub(super) taken: Option<TakenOver>,
    /// Since when it cannot be followed.
    pub(super) refused_at: Option<Instant>,
    /// A capture about to run.
    pub(super) starting: Option<Starting>,
    pub(super) capture: Option<Rc<Capture>>,
    /// Its read mark was let go, and the operator knows.
    pub(super) let_go: bool,
    /// At home unless a shipment has it.
    pub(super) events: Option<mpsc::Receiver<CaptureEvent>>,
    pub(super) shipment: Option<JoinHandle<()>>,
    pub(super) barrier: Barrier<WaitReply>,
    /// How far the attached standby is.
    standing: Standing,
    pub(super) marks: Marks,
    /// How far programs may be told, as the pair's commit mode asks.
    pub(super) mode: CommitMode,
    /// Stamps of an older numbering are ignored.
    pub(super) stamp_serial: u64,
    /// The standby holds everything acknowledged of this database.
    pub(super) synced: bool,
    /// The attached mirror is a sound database by its own word.
    pub(super) complete: bool,
    /// In sync once durable here; None: not known yet.
    pub(super) target: Option<Position>,
    pub(super) sent: Position,
    pub(super) commits: u64,
    pub(super) unwaited: VecDeque<(Position, u64)>,
    pub(super) waited: Position,
    /// Shared with the shipment.
    pub(super) waiters: Waiters,
    pub(super) level_since: Option<Instant>,
    pub(super) copy: Option<CopyProgress>,
    /// Shared with the shipment, which carries it out.
    pub(super) scrub: Rc<RefCell<Scrub>>,
    /// Tells the shipment of something new in `scrub`.
    pub(super) scrub_wake: Rc<Notify>,
    /// Remembered page hashes; shared with the shipment too.
    pub(super) sums: Rc<RefCell<ServedSums>>,
    /// Contents differ in a way that only a resync puts right.
    pub(super) resync: bool,
}

impl Served {
    pub(super) fn new(
        (config, state_dir): (DatabaseConfig, PathBuf),
        Own { mut taken, took_over }: Own,
        board: Option<CommitBoard>,
        mode: CommitMode,
    ) -> Self {
        let hashes = taken.as_mut().and_then(|taken| taken.page_hashes.take());
        let sums = ServedSums::new(config.page_hashes.then_some(state_dir), hashes, Instant::now());
        let scrub = Scrub::new(config.scrub_bytes_per_s, Instant::now());
        Self {
            marks: Marks::new(board, mode),
            mode,
            config,
            state: DatabaseState::Idle,
            continues: took_over,
            taken,
            refused_at: None,
            starting: None,
            capture: None,
            let_go: false,
            events: None,
            shipment: None,
            barrier: Barrier::default(),
            standing: Standing::default(),
            stamp_serial: new_serial(),
            synced: false,
            complete: false,
            target: None,
            sent: Position::default(),
            commits: 0,
            unwaited: VecDeque::new(),
            waited: Position::default(),
            level_since: None,
            copy: None,
            scrub: Rc::new(RefCell::new(scrub)),
            scrub_wake: Rc::default(),
            waiters: Waiters::default(),
            sums: Rc::new(RefCell::new(sums)),
            resync: false,
        }
    }

    /// Cannot be followed now. An application that is just making its database is not worth an alarm.
    pub(super) fn refused(&mut self, error: &CaptureError, inputs: &Inputs) {
        if matches!(error, CaptureError::Missing { .. }) {
            self.state = DatabaseState::Absent;
            return;
        }
        let since = *self.refused_at.get_or_insert_with(Instant::now);
        let state = DatabaseState::Refused(error.to_string());
        if since.elapsed() >= REFUSED_PATIENCE && self.state != state {
            inputs.notice(true, format!("database {}: {error}", self.config.name));
            self.state = state;
        }
    }

    /// A standby is attached and holds so much on its disk, in part published; None: a copy comes first.
    /// `last` names its last commit by content, for a program that waits for just that one: it is not sent again.
    pub(super) fn attached(
        &mut self,
        held: Option<Position>,
        published: Position,
        complete: bool,
        last: Option<WalPoint>,
    ) {
        self.renumber();
        self.barrier.attach();
        self.marks.void(self.barrier.is_solo());
        if let Some(WalPoint { position, chain, salts }) = last {
            self.marks.sent(position, salts, &[(position.frame, chain)]);
        }
        self.target = None;
        self.complete = complete;
        self.synced = false;
        self.state = if held.is_some() { DatabaseState::Streaming } else { DatabaseState::Copying };
        // What it holds it acknowledged on an earlier connection.
        self.standing = Standing::attached(held.unwrap_or_default(), published);
        self.advance();
        self.sent = Position::default();
        self.waited = Position::default();
        self.unwaited.clear();
    }

    /// Readings under way are of an older numbering: they are asked for anew.
    fn renumber(&mut self) {
        self.barrier.unstamp();
        self.stamp_serial = new_serial();
    }

    /// The capture has ended by itself.
    pub(super) fn capture_failed(&mut self, sentence: String) {
        self.detach();
        self.capture = None;
        self.events = None;
        self.synced = false;
        self.state = DatabaseState::Refused(sentence);
    }

    pub(super) fn detach(&mut self) {
        self.renumber();
        self.standing = Standing::default();
        self.marks.void(self.barrier.is_solo());
        self.target = None;
        self.copy = None;
        // One that is not followed yet, or cannot be, is not in sync: only what does not exist is.
        self.synced &= self.state == DatabaseState::Absent;
        if self.capture.is_some() {
            self.state = DatabaseState::Alone;
        }
    }

    /// Frames through `position` were handed to the link, published through `published`; `commits` are the
    /// commit frames among them.
    pub(super) fn sent(
        &mut self,
        position: Position,
        published: FrameNo,
        salts: Salts,
        commits: &[(FrameNo, Chain)],
    ) {
        self.marks.sent(position, salts, commits);
        self.commits += commits.len() as u64;
        if position > self.waited && !commits.is_empty() {
            if self.unwaited.len() == UNWAITED_GROUPS {
                let (_, merged) = self.unwaited.pop_front().expect("the queue is full");
                if let Some(first) = self.unwaited.front_mut() {
                    first.1 += merged;
                }
            }
            self.unwaited.push_back((position, commits.len() as u64));
        }
        self.published(Position { frame: position.frame.min(published), ..position });
    }

    /// What was handed to the link through `position` is published.
    pub(super) fn published(&mut self, position: Position) {
        self.standing.publish(position);
        self.sent = self.standing.published();
        self.advance();
    }

    /// What was handed to the link after `to` is being taken back.
    pub(super) fn rewind(&mut self, to: Position) {
        self.standing.rewind(to);
        self.marks.rewind(to);
        while let Some((_, commits)) = self.unwaited.pop_back_if(|(at, _)| *at > to) {
            self.commits = self.commits.saturating_sub(commits);
        }
    }

    /// The standby has taken back what followed `to`.
    ///
    /// # Errors
    /// It was not told to.
    pub(super) fn rewound(&mut self, to: Position) -> Result<(), String> {
        self.standing.rewound(to)
    }

    /// The standby is this far with what was sent.
    pub(super) fn acknowledged(&mut self, progress: Progress) {
        self.standing.acknowledge(progress);
        self.advance();
    }

    /// Has the standby reached what was sent, and what it lacked when it attached?
    pub(super) fn judge(&mut self) {
        let durable = self.barrier.progress().durable;
        if durable >= self.sent {
            self.level_since = Some(Instant::now());
        }
        let reached = self.target.is_some_and(|target| durable >= target);
        if reached && self.complete {
            self.target = None;
            self.synced = true;
            self.copy = None;
            self.state = DatabaseState::Streaming;
        }
    }

    fn advance(&mut self) {
        self.barrier.advance(self.standing.committed());
    }

    /// Somebody waits for everything through `position`.
    pub(super) fn waited(&mut self, position: Position) {
        if position > self.waited {
            self.waiters.seen(Instant::now());
            self.waited = position;
        }
        while self.unwaited.front().is_some_and(|(at, _)| *at <= self.waited) {
            self.unwaited.pop_front();
        }
    }

    /// Compares the standby's sum over all pages with ours at the same commit. While frames are being taken back, what
    /// stands at a position there is not what was sent for it last.
    pub(super) fn compare_sums(&mut self, ack: &Ack) {
        if self.standing.is_rewinding() {
            return;
        }
        let now = Instant::now();
        let compared = self.sums.borrow_mut().compare(ack, now);
        if let Compared::Differ(at) = compared {
            self.scrub.borrow_mut().doubt(at, now);
            self.scrub_wake.notify_one();
        }
    }

    /// What programs may be told of, published or not, because they know its content: as far as the standby is a
    /// sound database with it.
    fn safe(&self) -> Option<Position> {
        let Progress { received, durable } = self.standing.sent();
        let safe = if self.mode == CommitMode::Received { received.max(durable) } else { durable };
        self.complete.then_some(safe)
    }

    /// Programs can be told of commits.
    pub(super) fn has_safe_marks(&self) -> bool {
        self.safe().is_some_and(|safe| self.marks.reached(safe))
    }

    /// Tells programs of their safe commits. Called only while this node may acknowledge.
    pub(super) fn release_marks(&mut self) {
        if let Some(safe) = self.safe() {
            self.marks.release(safe);
        }
    }

    /// Owner, group, mode, ACL and label of its file; `None` when there is none or it cannot be looked at, which
    /// capture says better.
    pub(super) fn attributes(&self) -> Option<FileAttributes> {
        crate::storage::attributes_of(&self.config.path).ok().flatten()
    }

    pub(super) fn status(&self) -> DatabaseStatus {
        let capture = self.capture.as_ref().map(|c| c.status());
        DatabaseStatus {
            name: self.config.name.clone(),
            state: self.state.clone(),
            position: capture.as_ref().map_or(self.sent, |c| c.position),
            durable: self.barrier.progress().durable,
            level_since: self.level_since,
            wal_bytes: capture.as_ref().map_or(0, |c| c.wal_bytes),
            commits: self.commits,
            unwaited_commits: self.unwaited.iter().map(|(_, commits)| commits).sum(),
            waiting: self.barrier.waiting() as u32,
            copy: self.copy,
            equality: EqualityStatus {
                sums_equal_at: self.sums.borrow().compared_at(),
                ..self.scrub.borrow().status()
            },
        }
    }
}

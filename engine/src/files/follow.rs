//! Standby: one tree being followed, on threads of its own, so that its disk never delays a database.
//!
//! `link -> data thread -> (queue) -> this thread -> disk`, and answers back. A second thread looks at the disk when
//! the active asks what is there; batches go on meanwhile. What is queued is bounded by the tree's window.

use super::apply::{Applier, ApplyConfig, ApplyError, Followed};
use super::disk::Disk;
use super::kept::{Kept, keep_changes};
use super::proof::{Placed, Prover, Remembered};
use super::rules::Rules;
use super::{TreePath, ship::Notices};
use lockstep_wire::{
    MAX_BODY_BYTES, Message, TREE_WINDOW_BYTES, TreeListRequest, TreeListing, TreeName, TreeOps, TreeState,
    TreeStates,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// A tree that cannot be followed is opened anew so often: its root may be mounted again.
const RETRY: Duration = Duration::from_secs(5);

/// Requests that may wait for an answer. An active asks one thing at a time.
const REQUESTS_MAX: u64 = 64;

/// One tree that this node follows.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// Its name.
    pub name: TreeName,
    /// Where it is.
    pub apply: ApplyConfig,
    /// What belongs to it.
    pub rules: Rules,
    /// The index of the time when this node was the active, if there is one.
    pub old_index: std::path::PathBuf,
    /// The most that is kept of what this node changed alone, bytes.
    pub keep_bytes_max: u64,
}

/// What a tree's thread says.
#[derive(Debug)]
pub enum FollowNote {
    /// For the active, on the tree's stream.
    Stream(Message),
    /// For the active, on the control stream.
    Control(Message),
    /// The active broke the protocol: end the connection.
    Broken(String),
}

/// Where it stands, for the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Following {
    /// What is followed, and how far.
    pub followed: Followed,
    /// Why nothing is followed now.
    pub fault: Option<String>,
    /// Bytes of messages on their way to the disk.
    pub queued_bytes: u64,
}

enum Work {
    Connected {
        stream: u32,
        out: UnboundedSender<FollowNote>,
        held: tokio::sync::oneshot::Sender<TreeState>,
    },
    Ops(TreeOps, u64),
    List(TreeListRequest),
    Disconnected,
    /// This node takes over: what was followed counts no more.
    End {
        forget: bool,
    },
}

/// The data thread's handle.
pub struct Follower {
    queue: Sender<Work>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queued_bytes: AtomicU64,
    requests: AtomicU64,
    /// Ends an answer under way.
    stop: Arc<AtomicBool>,
    shown: Mutex<Following>,
}

impl Follower {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn start(config: FollowConfig, notices: Notices) -> std::io::Result<Self> {
        let (queue, work) = channel();
        let shared = Arc::<Shared>::default();
        let mut thread = Thread {
            config,
            notices,
            shared: shared.clone(),
            applier: None,
            remembered: Arc::default(),
            placed: Arc::default(),
            connection: None,
            prover: None,
        };
        let name = format!("tree-{}", thread.config.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || thread.run(&work))?;
        Ok(Self { queue, thread: Some(thread), shared })
    }

    /// An active announced the tree as `stream`: answers what is held, and gives what it has to say to `out`.
    pub fn connected(
        &self,
        stream: u32,
        out: UnboundedSender<FollowNote>,
    ) -> tokio::sync::oneshot::Receiver<TreeState> {
        let (held, state) = tokio::sync::oneshot::channel();
        self.send(Work::Connected { stream, out, held });
        state
    }

    /// A message of the active.
    ///
    /// # Errors
    /// It is none of a tree, or more is under way than the window allows.
    pub fn message(&self, message: Message) -> Result<(), String> {
        match message {
            Message::TreeOps(ops) => {
                let bytes = ops.body_bytes();
                let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
                if queued > TREE_WINDOW_BYTES + MAX_BODY_BYTES as u64 {
                    return Err(format!("{queued} bytes of a tree are under way, more than its window"));
                }
                self.send(Work::Ops(ops, bytes));
            }
            Message::TreeListRequest(request) => {
                if self.shared.requests.fetch_add(1, Ordering::SeqCst) >= REQUESTS_MAX {
                    return Err("more questions about a tree than are ever asked at once".into());
                }
                self.send(Work::List(request));
            }
            other => return Err(format!("{} is not an active's message of a tree", other.name())),
        }
        Ok(())
    }

    /// The connection is gone: what is not a whole batch is dropped.
    pub fn disconnected(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.send(Work::Disconnected);
    }

    /// Where it stands.
    pub fn shown(&self) -> Following {
        let shown = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Following { queued_bytes: self.shared.queued_bytes.load(Ordering::SeqCst), ..shown }
    }

    /// Ends the thread; what is answered waits for it: for the batch that is being put in place. With `forget` this
    /// node writes the tree from now on, and no active's index describes it any more.
    pub fn stop(mut self, forget: bool) -> impl FnOnce() + Send + 'static {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.send(Work::End { forget });
        let thread = self.thread.take();
        move || {
            if let Some(thread) = thread {
                // A panic was reported by its thread.
                let _ = thread.join();
            }
        }
    }

    fn send(&self, work: Work) {
        // The thread ends only when it is told to, and then nobody waits for its answers.
        let _ = self.queue.send(work);
    }
}

struct Thread {
    config: FollowConfig,
    notices: Notices,
    shared: Arc<Shared>,
    applier: Option<Applier>,
    remembered: Arc<Remembered>,
    placed: Arc<Placed>,
    connection: Option<(u32, UnboundedSender<FollowNote>)>,
    prover: Option<Sender<(TreeListRequest, Vec<TreePath>)>>,
}

impl Thread {
    fn run(&mut self, work: &Receiver<Work>) {
        self.open();
        loop {
            let next = match (&self.applier, &self.connection) {
                (None, Some(_)) => work.recv_timeout(RETRY),
                _ => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(Work::Connected { stream, out, held }) => {
                    self.connection = Some((stream, out));
                    self.shared.stop.store(false, Ordering::SeqCst);
                    self.open();
                    // Without a reader the connection is gone again.
                    let _ = held.send(self.state(stream));
                }
                Ok(Work::Ops(ops, bytes)) => {
                    self.ops(ops, bytes);
                    self.shared.queued_bytes.fetch_sub(bytes, Ordering::SeqCst);
                }
                Ok(Work::List(request)) => self.list(request),
                Ok(Work::Disconnected) => {
                    self.connection = None;
                    self.prover = None;
                    if let Some(applier) = &mut self.applier {
                        applier.disconnect();
                    }
                }
                Ok(Work::End { forget }) => {
                    self.end(forget);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.retry(),
                // The handle was dropped: the role ended in a hurry.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn end(&mut self, forget: bool) {
        self.prover = None;
        if let Some(applier) = &mut self.applier {
            applier.disconnect();
        }
        let forgotten = match (&mut self.applier, forget) {
            (Some(applier), true) => applier.forget(),
            (None, true) => Applier::forget_state(&self.config.apply),
            (_, false) => Ok(()),
        };
        if let Err(error) = forgotten {
            self.alarm(&error.to_string());
        }
    }

    /// What this node changed as an active and its standby never had is kept before another active replaces it.
    fn keep_changes(&self) -> std::io::Result<()> {
        let (into, most) = (self.config.apply.state_dir.join("kept"), self.config.keep_bytes_max);
        let (root, rules) = (&self.config.apply.root, &self.config.rules);
        let kept = keep_changes(root, rules, &self.config.old_index, (&into, most))?;
        if let Some((directory, Kept { entries, removed, bytes, left_out })) = kept {
            let at = directory.display();
            self.alarm(&format!("this node had {entries} changed and {removed} removed entries that the other node never had: {bytes} bytes of them are kept in {at} (manifest.txt names them), {left_out} files were beyond the limit"));
        }
        Ok(())
    }

    fn alarm(&self, sentence: &str) {
        (self.notices)(true, format!("tree {}: {sentence}", self.config.name));
    }

    /// Opens the tree if it is not open; a fault is told once.
    fn open(&mut self) {
        if self.applier.is_none() {
            // Nothing may be replaced before.
            if let Err(source) = self.keep_changes() {
                let what = "keeping what this node changed in the tree alone";
                return self.fault(&ApplyError::Disk { what, source });
            }
            match Applier::open(self.config.apply.clone()) {
                Ok(applier) => {
                    self.placed.done(applier.followed().batch);
                    self.applier = Some(applier);
                }
                Err(error) => return self.fault(&error),
            }
        }
        self.show(None);
    }

    fn fault(&mut self, error: &ApplyError) {
        let sentence = error.to_string();
        let known = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner).fault.clone();
        if known.as_ref() != Some(&sentence) {
            self.alarm(&sentence);
        }
        self.applier = None;
        self.show(Some(sentence));
    }

    fn show(&self, fault: Option<String>) {
        let mut shown = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.followed = self.applier.as_ref().map_or(shown.followed, Applier::followed);
        shown.fault = fault;
    }

    fn state(&self, stream: u32) -> TreeState {
        let fault = self.shared.shown.lock().unwrap_or_else(PoisonError::into_inner).fault.clone();
        let Some(applier) = &self.applier else {
            return TreeState { stream, fault: fault.unwrap_or_default(), ..TreeState::default() };
        };
        let Followed { index, batch } = applier.followed();
        TreeState {
            stream,
            index,
            batch,
            interrupted: applier.is_interrupted(),
            empty: applier.is_empty(),
            fault: String::new(),
        }
    }

    fn say(&self, note: FollowNote) {
        if let Some((_, out)) = &self.connection {
            // A connection that ended needs no answer.
            let _ = out.send(note);
        }
    }

    /// The state has changed under a standing connection.
    fn tell_state(&self) {
        if let Some((stream, _)) = &self.connection {
            let states = vec![self.state(*stream)];
            self.say(FollowNote::Control(TreeStates { states }.into()));
        }
    }

    fn retry(&mut self) {
        self.open();
        if self.applier.is_some() {
            self.tell_state();
        }
    }

    fn ops(&mut self, ops: TreeOps, bytes: u64) {
        // Without a tree the active knows already that nothing is taken.
        let (Some(applier), Some(_)) = (&mut self.applier, &self.connection) else { return };
        if ops.last {
            self.placed.begin(ops.batch);
        }
        let last = ops.last;
        let taken = applier.take(ops, bytes);
        self.remembered.extend(applier.take_proven());
        match taken {
            Ok(acks) => {
                let progress = acks.is_empty().then(|| applier.ack());
                self.placed.done(applier.followed().batch);
                for ack in acks.into_iter().chain(progress) {
                    self.say(FollowNote::Stream(ack.into()));
                }
                self.show(None);
                if last && let Some(applier) = &mut self.applier {
                    applier.tidy();
                }
            }
            Err(ApplyError::Op(error)) => self.say(FollowNote::Broken(error.to_string())),
            Err(error) => {
                self.fault(&error);
                self.tell_state();
            }
        }
    }

    fn list(&mut self, request: TreeListRequest) {
        if self.prover.is_none()
            && let Err(error) = self.start_prover()
        {
            self.shared.requests.fetch_sub(1, Ordering::SeqCst);
            let (fault, path) = (format!("the root cannot be read: {error}"), request.path);
            let listing =
                TreeListing { request: request.request, path, fault, last: true, ..TreeListing::default() };
            return self.say(FollowNote::Stream(listing.into()));
        }
        let touched = self.applier.as_ref().map_or(Vec::new(), |applier| applier.touched().to_vec());
        if let Some(prover) = &self.prover {
            // It ends with the connection.
            let _ = prover.send((request, touched));
        }
    }

    fn start_prover(&mut self) -> std::io::Result<()> {
        let Some((_, out)) = self.connection.clone() else { return Ok(()) };
        let disk = Disk::open(&self.config.apply.root)?;
        let (requests, work) = channel::<(TreeListRequest, Vec<TreePath>)>();
        let rules = Arc::new(self.config.rules.clone());
        let (remembered, placed) = (self.remembered.clone(), self.placed.clone());
        let shared = self.shared.clone();
        let mut prover = Prover::new(disk, rules, remembered, placed, shared.stop.clone());
        let run = move || {
            for (request, touched) in work {
                shared.requests.fetch_sub(1, Ordering::SeqCst);
                prover.answer(&request, &touched, &mut |listing| {
                    out.send(FollowNote::Stream(listing.into())).is_ok()
                });
            }
        };
        let name = format!("prove-{}", self.config.name);
        // It ends when its queue is closed, and holds nothing that anyone waits for.
        std::thread::Builder::new().name(name).spawn(run)?;
        self.prover = Some(requests);
        Ok(())
    }
}

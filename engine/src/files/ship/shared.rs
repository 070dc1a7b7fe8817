//! What the tree's thread, the watch and the data thread share, and the data thread's handle on it.

use super::TreeConfig;
use super::stuck::StuckPath;
use super::thread::Tree;
use super::verify::{Ask, TreeVerified, VerifyHow, verify};
use crate::files::rules::Rules;
use crate::files::watch::{Dirty, Listener};
use lockstep_wire::{Message, TreeAck, TreeAnnounced, TreeListing, TreeName};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Tells the operator: an alarm or not, and one sentence.
pub type Notices = Arc<dyn Fn(bool, String) + Send + Sync>;

/// What the data thread tells a tree.
pub(super) enum Input {
    /// A standby is there and holds this.
    Connected { state: lockstep_wire::TreeState, out: mpsc::Sender<Message> },
    /// It is gone.
    Disconnected,
    /// It answered.
    Ack(TreeAck),
    /// It said what a directory holds.
    Listing(TreeListing),
    /// Somebody waits until everything that happened so far is on the standby's disk.
    Barrier(oneshot::Sender<Result<(), String>>),
    /// A verification needs something.
    Verify(Ask),
}

pub(super) struct State {
    pub(super) dirty: Dirty,
    pub(super) inputs: VecDeque<Input>,
    /// Counts connections; messages for an earlier one are not sent any more.
    pub(super) connection: u64,
    pub(super) received_bytes: u64,
    pub(super) cookie: u64,
    pub(super) root_lost: bool,
    pub(super) stop: bool,
    pub(super) announced: (u64, u64),
    pub(super) status: TreeStatus,
}

pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) wake: Condvar,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, input: Input) {
        let mut state = self.lock();
        // Nobody will answer any more, and whoever waits is told by the end of his channel.
        if !state.stop {
            state.inputs.push_back(input);
        }
        drop(state);
        self.wake.notify_all();
    }
}

impl Listener for Shared {
    fn mark(&self, change: &mut dyn FnMut(&mut Dirty)) {
        change(&mut self.lock().dirty);
        self.wake.notify_all();
    }

    fn cookie(&self, number: u64) {
        let mut state = self.lock();
        state.cookie = state.cookie.max(number);
        drop(state);
        self.wake.notify_all();
    }

    fn root_lost(&self) {
        self.lock().root_lost = true;
        self.wake.notify_all();
    }
}

/// What happens with a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TreeState {
    /// Watches are being set.
    #[default]
    Starting,
    /// No standby.
    Alone,
    /// The standby is asked what it holds.
    Comparing,
    /// Something is on its way or about to be.
    Sending,
    /// The standby has everything.
    Level,
    /// This node stands by: it takes what the active sends.
    Following,
    /// Nothing is sent, for a reason with the remedy.
    Stopped(String),
}

/// A tree, for the status.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeStatus {
    /// Its name.
    pub name: TreeName,
    /// What happens with it.
    pub state: TreeState,
    /// Paths that may have changed, or whose change is under way.
    pub pending_paths: u64,
    /// Bytes on their way to the standby's disk.
    pub pending_bytes: u64,
    /// Since when the oldest of them waits.
    pub oldest: Option<Instant>,
    /// Active: the standby once had all of it, since it follows this index.
    pub whole: bool,
    /// Entries that the standby has.
    pub entries: u64,
    /// Files sent since this node serves.
    pub files_sent: u64,
    /// Bytes of their content sent.
    pub bytes_sent: u64,
    /// Bytes per second, of late.
    pub bytes_per_s: u64,
    /// Until everything known to be pending is sent, seconds.
    pub remaining_s: Option<u64>,
    /// Where changes are learnt from.
    pub source: Option<&'static str>,
    /// What cannot be watched, with the remedy.
    pub watch_fault: Option<String>,
    /// How many paths are stuck.
    pub stuck_paths: u64,
    /// The oldest of them.
    pub stuck: Vec<StuckPath>,
}

impl TreeStatus {
    /// Of a tree nothing is known of yet.
    pub fn new(name: TreeName) -> Self {
        Self {
            name,
            state: TreeState::Starting,
            pending_paths: 0,
            pending_bytes: 0,
            whole: false,
            oldest: None,
            entries: 0,
            files_sent: 0,
            bytes_sent: 0,
            bytes_per_s: 0,
            remaining_s: None,
            source: None,
            watch_fault: None,
            stuck_paths: 0,
            stuck: Vec::new(),
        }
    }
}

/// The data thread's handle on one tree that this node sends. Dropping it ends the tree's thread.
pub struct Shipper {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    root: PathBuf,
    rules: Arc<Rules>,
}

impl Shipper {
    /// Begins to watch a tree. `index` is the file of its index; with `fresh` an index that is there is of no use:
    /// this node was a standby since.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(
        config: TreeConfig,
        rules: Rules,
        index: PathBuf,
        fresh: bool,
        notices: Notices,
    ) -> std::io::Result<Self> {
        let state = State {
            dirty: Dirty::default(),
            inputs: VecDeque::new(),
            connection: 0,
            received_bytes: 0,
            cookie: 0,
            root_lost: false,
            stop: false,
            announced: (0, 0),
            status: TreeStatus::new(config.name.clone()),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let name = format!("tree-{}", config.name);
        let (root, rules) = (config.root.clone(), Arc::new(rules));
        let tree = Tree::new(config, rules.clone(), index, fresh, shared.clone(), notices);
        let thread = std::thread::Builder::new().name(name).spawn(move || tree.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), root, rules })
    }

    /// How it is announced to a standby.
    pub fn announced(&self) -> TreeAnnounced {
        let state = self.shared.lock();
        let (index, batch) = state.announced;
        TreeAnnounced { name: state.status.name.to_string(), index, batch }
    }

    /// A standby holds `state`; messages for it go to `out`.
    pub fn connected(&self, state: lockstep_wire::TreeState, out: mpsc::Sender<Message>) {
        let mut shared = self.shared.lock();
        shared.connection += 1;
        shared.received_bytes = 0;
        shared.inputs.push_back(Input::Connected { state, out });
        drop(shared);
        self.shared.wake.notify_all();
    }

    /// There is no standby any more.
    pub fn disconnected(&self) {
        self.shared.lock().connection += 1;
        self.shared.tell(Input::Disconnected);
    }

    /// The standby has answered.
    pub fn ack(&self, ack: TreeAck) {
        let mut shared = self.shared.lock();
        shared.received_bytes = shared.received_bytes.max(ack.received_bytes);
        shared.inputs.push_back(Input::Ack(ack));
        drop(shared);
        self.shared.wake.notify_all();
    }

    /// The standby has said what a directory holds.
    pub fn listing(&self, listing: TreeListing) {
        self.shared.tell(Input::Listing(listing));
    }

    /// Answers once everything that happened before is on the standby's disk, or why that is not to be awaited.
    pub fn barrier(&self) -> oneshot::Receiver<Result<(), String>> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(Input::Barrier(reply));
        answer
    }

    /// Compares the tree with what the standby's disk holds; answers what differed, or why it could not be compared.
    pub fn verify(&self, how: VerifyHow) -> oneshot::Receiver<Result<TreeVerified, String>> {
        let (reply, answer) = oneshot::channel();
        let (shared, root, rules) = (self.shared.clone(), self.root.clone(), self.rules.clone());
        // Without a thread the reply is dropped. It ends by itself when the tree's thread does.
        let run = move || drop(reply.send(verify(shared, &root, rules, how)));
        drop(std::thread::Builder::new().name("verify-tree".into()).spawn(run));
        answer
    }

    /// What it shows of itself.
    pub fn status(&self) -> TreeStatus {
        self.shared.lock().status.clone()
    }
}

impl Shipper {
    /// Ends the tree's thread; what is answered waits for that, at the longest for a block of a file to be read.
    pub fn stop(&self) -> impl FnOnce() + Send + 'static {
        self.tell_to_stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        move || {
            if let Some(thread) = thread {
                // A panic was reported by its thread.
                let _ = thread.join();
            }
        }
    }

    fn tell_to_stop(&self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.connection += 1;
        drop(state);
        self.shared.wake.notify_all();
    }
}

impl Drop for Shipper {
    /// Tells the thread to end, without waiting: it may be about to hand over a message.
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

//! Active: the file trees being sent, beside the databases.
//!
//! Each tree has a thread of its own ([`crate::files::ship`]); here its messages come to and from the connection. Its
//! window is its own: messages of trees wait in no queue that frames of a database need.

use super::EngineConfig;
use super::connection::Connection;
use super::thread::Inputs;
use super::whole::Whole;
use crate::files::index::Store;
use crate::files::rules::Rules;
use crate::files::ship::{Shipper, TreeConfig, TreeState, TreeStatus, TreeVerified, VerifyHow};
use lockstep_wire::{Message, Trees};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Messages between a tree's thread and the link; one is half a millisecond at 1 Gbit/s, or a large one 4 ms.
const QUEUE: usize = 2;

/// A tree that holds commits back is asked again so often.
const HELD_RETRY: Duration = Duration::from_millis(100);

/// A path that the standby refused is tried again after half a second, a second, and so on: one that overtook another,
/// or changed meanwhile, is taken by then.
pub const STUCK_PATIENCE: Duration = Duration::from_secs(2);

/// One tree of this node while it is active.
struct ServedTree {
    /// Or what there is to show of one that could not be started.
    shipper: Result<Shipper, Box<TreeStatus>>,
    /// Its changes come before the commits that follow them.
    before_commits: bool,
    whole: RefCell<Whole>,
}

/// The trees of this node while it is active.
pub(super) struct ServedTrees {
    trees: Vec<ServedTree>,
    /// How many databases have their streams before these.
    databases: usize,
}

/// Where what is known of a tree on this node is kept.
pub(super) fn tree_dir(config: &EngineConfig, tree: &TreeConfig) -> PathBuf {
    config.state_dir.join("tree").join(tree.name.as_str())
}

pub(super) fn index_path(config: &EngineConfig, tree: &TreeConfig) -> PathBuf {
    tree_dir(config, tree).join("index.db")
}

/// What belongs to a tree on this node.
pub(super) fn tree_rules(
    config: &EngineConfig,
    tree: &TreeConfig,
) -> Result<Rules, crate::files::rules::PatternError> {
    let databases: Vec<PathBuf> = config.databases.iter().map(|database| database.path.clone()).collect();
    Rules::new(&tree.root, &tree.exclude, &databases)
}

/// This node stands by from now on: what it knew of its own standby is of no use any more.
pub(super) fn forget_indexes(config: &EngineConfig) {
    for tree in &config.trees {
        Store::forget(&index_path(config, tree));
    }
}

impl ServedTree {
    fn status(&self) -> TreeStatus {
        self.shipper.as_ref().map_or_else(|status| (**status).clone(), Shipper::status)
    }
}

impl ServedTrees {
    /// Begins to watch all trees.
    pub(super) fn start(config: &EngineConfig, inputs: &Inputs) -> Self {
        let trees = config.trees.iter().map(|tree| {
            let notices = Arc::new(inputs.notices());
            let started = tree_rules(config, tree).map_err(|error| error.to_string()).and_then(|rules| {
                let index = index_path(config, tree);
                Shipper::start(tree.clone(), rules, index, false, notices).map_err(|error| error.to_string())
            });
            let shipper = started.map_err(|sentence| {
                inputs.notice(true, format!("tree {}: {sentence}", tree.name));
                let stopped = TreeState::Stopped(sentence);
                Box::new(TreeStatus { state: stopped, ..TreeStatus::new(tree.name.clone()) })
            });
            let whole = RefCell::new(Whole::read(&tree_dir(config, tree)));
            ServedTree { shipper, before_commits: tree.before_commits, whole }
        });
        Self { trees: trees.collect(), databases: config.databases.len() }
    }

    fn running(&self) -> impl Iterator<Item = &Shipper> {
        self.trees.iter().filter_map(|tree| tree.shipper.as_ref().ok())
    }

    /// Ends all threads and waits for them.
    pub(super) async fn stop(&self) {
        let stopping: Vec<_> = self.running().map(Shipper::stop).collect();
        for stopped in stopping {
            // A thread that panicked has said so.
            let _ = tokio::task::spawn_blocking(stopped).await;
        }
    }

    /// A standby is connected: tell it what will come.
    pub(super) fn connected(&self, connection: &Connection) {
        if self.trees.is_empty() {
            return;
        }
        let announced = self.trees.iter().map(|tree| match &tree.shipper {
            Ok(shipper) => shipper.announced(),
            Err(status) => lockstep_wire::TreeAnnounced { name: status.name.to_string(), index: 0, batch: 0 },
        });
        connection.send_control(Trees { trees: announced.collect() }.into());
    }

    /// The standby is gone.
    pub(super) fn disconnected(&self) {
        for tree in &self.trees {
            tree.whole.borrow_mut().disconnected();
            if let Ok(shipper) = &tree.shipper {
                shipper.disconnected();
            }
        }
    }

    /// The standby has said what it holds; again of a tree that it cannot follow any more.
    ///
    /// # Errors
    /// A stream that was never announced.
    pub(super) fn states(
        &self,
        connection: &Rc<Connection>,
        states: Vec<lockstep_wire::TreeState>,
    ) -> Result<(), String> {
        for state in states {
            let stream = u16::try_from(state.stream).map_err(|_| "a stream beyond all".to_owned())?;
            let tree = self.of_stream(stream)?;
            let Ok(shipper) = &tree.shipper else { continue };
            let index = shipper.announced().index;
            tree.whole.borrow_mut().connected(index, state.index == index);
            let (out, mut messages) = mpsc::channel::<Message>(QUEUE);
            let sender = connection.stream(stream);
            tokio::task::spawn_local(async move {
                while let Some(message) = messages.recv().await {
                    if sender.send(message).await.is_err() {
                        return; // dropping the queue tells the tree's thread
                    }
                }
            });
            shipper.connected(state, out);
        }
        Ok(())
    }

    /// A message of the standby on a tree's stream.
    ///
    /// # Errors
    /// It is none of a tree, or the stream was never announced.
    pub(super) fn message(&self, stream: u16, message: Message) -> Result<(), String> {
        let tree = self.of_stream(stream)?;
        match (message, &tree.shipper) {
            (_, Err(_)) => {}
            (Message::TreeAck(ack), Ok(tree)) => tree.ack(ack),
            (Message::TreeListing(listing), Ok(tree)) => tree.listing(listing),
            (other, _) => return Err(format!("{} is not a standby's message of a tree", other.name())),
        }
        Ok(())
    }

    fn of_stream(&self, stream: u16) -> Result<&ServedTree, String> {
        let index = usize::from(stream).checked_sub(self.databases + 1);
        let tree = index.and_then(|index| self.trees.get(index));
        tree.ok_or_else(|| format!("an answer on stream {stream}, which was never announced"))
    }

    /// Is there any?
    pub(super) fn any(&self) -> bool {
        !self.trees.is_empty()
    }

    /// Does any tree want its changes to come before the commits that follow them?
    pub(super) fn any_before_commits(&self) -> bool {
        self.trees.iter().any(|tree| tree.before_commits)
    }

    /// Returns once every file change that comes before the commits to be sent now is on the standby's disk, for the
    /// trees that want that. A tree that cannot be sent, or a path of it, holds the commits back: the standby may lack
    /// commits, never the file that one of them names.
    pub(super) async fn before_commits(&self) {
        for tree in self.trees.iter().filter(|tree| tree.before_commits) {
            let Ok(shipper) = &tree.shipper else { return std::future::pending().await };
            while shipper.barrier().await != Ok(Ok(())) || shipper.status().stuck_paths > 0 {
                tokio::time::sleep(HELD_RETRY).await;
            }
        }
    }

    /// Why commits are held back, in a sentence; `None`: they are not, or only until files have arrived.
    pub(super) fn held(&self) -> Option<String> {
        self.trees.iter().filter(|tree| tree.before_commits).find_map(|tree| held_by(&tree.status()))
    }

    /// All of what the standby needs to serve the trees is on its disk, but for what is changing just now. A tree that
    /// cannot be sent is an alarm of its own and keeps no database from being in sync, unless commits wait for it.
    pub(super) fn are_whole(&self) -> bool {
        let mut whole = true;
        // Every one is asked, for each has to be told of its barrier.
        for tree in &self.trees {
            if let Ok(shipper) = &tree.shipper {
                whole &= tree.whole.borrow_mut().judge(shipper);
            }
        }
        whole && self.held().is_none()
    }

    /// Returns once everything that has changed by now is on the standby's disk, or cannot be brought there: a path that
    /// was refused is tried again for a while, for most are taken then.
    pub(super) async fn drain(&self) {
        let each = self.running().map(async |shipper| {
            let until = Instant::now() + STUCK_PATIENCE;
            while shipper.barrier().await == Ok(Ok(())) && shipper.status().stuck_paths > 0 {
                if Instant::now() >= until {
                    return;
                }
                tokio::time::sleep(HELD_RETRY).await;
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// Begins to compare a tree with what the standby's disk holds.
    ///
    /// # Errors
    /// There is no such tree, or it cannot be sent.
    pub(super) fn verify(
        &self,
        name: &str,
        how: VerifyHow,
    ) -> Result<oneshot::Receiver<Result<TreeVerified, String>>, String> {
        let tree = self.trees.iter().find(|tree| tree.status().name.as_str() == name);
        let tree = tree.ok_or_else(|| format!("tree {name} is not configured in this pair"))?;
        match (&tree.shipper, tree.status().state) {
            (_, TreeState::Stopped(why)) => Err(format!("tree {name}: {why}")),
            (Ok(shipper), _) => Ok(shipper.verify(how)),
            (Err(_), _) => Err(format!("tree {name} is not being sent")),
        }
    }

    /// For the status.
    pub(super) fn statuses(&self) -> Vec<TreeStatus> {
        let of = |tree: &ServedTree| TreeStatus { whole: tree.whole.borrow().is_whole(), ..tree.status() };
        self.trees.iter().map(of).collect()
    }
}

fn held_by(status: &TreeStatus) -> Option<String> {
    let why = match (&status.state, status.stuck.first()) {
        (TreeState::Stopped(why), _) => why.clone(),
        (_, Some(stuck)) if stuck.since.elapsed() >= STUCK_PATIENCE => {
            format!("{}: {}", stuck.path, stuck.reason)
        }
        _ => return None,
    };
    Some(format!(
        "commits wait for tree {}, whose files come first (order = \"with-database\"): {why}",
        status.name
    ))
}

//! Standby: the file trees being followed, beside the mirrors.
//!
//! Each tree has threads of its own ([`crate::files::follow`]); here its messages come to and from the connection.
//! Nothing of a tree takes credit that frames of a database need: what waits for a tree's disk is bounded by the
//! tree's own window.

use super::EngineConfig;
use super::connection::Connection;
use super::thread::{Input, Inputs};
use super::trees::{index_path, tree_dir, tree_rules};
use crate::files::apply::{Applier, ApplyConfig, SYNC_EACH_MAX};
use crate::files::follow::{FollowConfig, FollowNote, Follower, Following};
use crate::files::ship::{TreeConfig, TreeState as ShownState, TreeStatus};
use lockstep_wire::{Message, TreeName, TreeState, TreeStates, Trees};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;

/// The trees of this node while it stands by.
pub(super) struct FollowedTrees {
    trees: Vec<(TreeName, Result<Follower, String>)>,
    /// Tree of each announced stream; `None`: not configured here.
    streams: Vec<Option<usize>>,
    /// How many databases have their streams before these.
    databases: usize,
    inputs: Inputs,
}

fn apply_config(config: &EngineConfig, tree: &TreeConfig) -> ApplyConfig {
    ApplyConfig {
        root: tree.root.clone(),
        state_dir: tree_dir(config, tree),
        untouchable: Vec::new(),
        sync_each_max: SYNC_EACH_MAX,
    }
}

/// This node writes its trees from now on: what it followed is of no use any more.
pub(super) fn forget_followed(config: &EngineConfig, inputs: &Inputs) {
    for tree in &config.trees {
        if let Err(error) = Applier::forget_state(&apply_config(config, tree)) {
            inputs.notice(true, format!("tree {}: {error}", tree.name));
        }
    }
}

impl FollowedTrees {
    /// Begins to follow all trees.
    pub(super) fn start(config: &EngineConfig, inputs: &Inputs) -> Self {
        let start = |tree: &TreeConfig| {
            let rules = tree_rules(config, tree).map_err(|error| error.to_string())?;
            let apply = ApplyConfig { untouchable: rules.databases().to_vec(), ..apply_config(config, tree) };
            let follow = FollowConfig {
                name: tree.name.clone(),
                apply,
                rules,
                old_index: index_path(config, tree),
                keep_bytes_max: config.quarantine_max_bytes,
            };
            Follower::start(follow, Arc::new(inputs.notices())).map_err(|error| error.to_string())
        };
        let trees = config.trees.iter().map(|tree| {
            let started = start(tree);
            if let Err(sentence) = &started {
                inputs.notice(true, format!("tree {}: {sentence}", tree.name));
            }
            (tree.name.clone(), started)
        });
        Self {
            trees: trees.collect(),
            streams: Vec::new(),
            databases: config.databases.len(),
            inputs: inputs.clone(),
        }
    }

    /// The active names its trees: answer what is held.
    ///
    /// # Errors
    /// It broke the protocol.
    pub(super) fn announced(
        &mut self,
        announced: &Trees,
        connection: Option<&Rc<Connection>>,
    ) -> Result<(), String> {
        let Some(connection) = connection else { return Ok(()) };
        if !self.streams.is_empty() {
            return Err("trees announced twice".into());
        }
        let mut states = Vec::new();
        for (at, tree) in announced.trees.iter().enumerate() {
            let stream = u16::try_from(self.databases + 1 + at).map_err(|_| "more trees than streams")?;
            let index = self.trees.iter().position(|(name, _)| name.as_str() == tree.name);
            if self.streams.contains(&index) && index.is_some() {
                return Err(format!("tree {} announced twice", tree.name));
            }
            self.streams.push(index);
            states.push((stream, self.connect(index, stream, &tree.name, connection)));
        }
        let connection = connection.clone();
        tokio::task::spawn_local(async move {
            let mut held = Vec::new();
            for (stream, state) in states {
                let state = match state {
                    Ok(state) => state.await.map_err(|_| "its thread has ended".to_owned()),
                    Err(fault) => Err(fault),
                };
                let faulty = |fault| TreeState { stream: u32::from(stream), fault, ..TreeState::default() };
                held.push(state.unwrap_or_else(faulty));
            }
            connection.send_control(TreeStates { states: held }.into());
        });
        Ok(())
    }

    fn connect(
        &self,
        index: Option<usize>,
        stream: u16,
        name: &str,
        connection: &Rc<Connection>,
    ) -> Result<tokio::sync::oneshot::Receiver<TreeState>, String> {
        let Some(index) = index else {
            let name: String = name.chars().take(64).collect();
            return Err(format!(
                "the standby's configuration lacks tree {name:?}: configure the same trees on both nodes"
            ));
        };
        let follower = self.trees[index].1.as_ref().map_err(Clone::clone)?;
        let (out, mut notes) = unbounded_channel();
        let (sender, connection, inputs) =
            (connection.stream(stream), connection.clone(), self.inputs.clone());
        tokio::task::spawn_local(async move {
            while let Some(note) = notes.recv().await {
                match note {
                    // A connection that ended needs no answer.
                    FollowNote::Stream(message) => drop(sender.send(message).await),
                    FollowNote::Control(message) => connection.send_control(message),
                    FollowNote::Broken(sentence) => {
                        inputs.send(Input::TreeBroken { connection: connection.id(), sentence });
                    }
                }
            }
        });
        Ok(follower.connected(u32::from(stream), out))
    }

    /// A message on a tree's stream.
    ///
    /// # Errors
    /// The active broke the protocol.
    pub(super) fn message(&self, stream: u16, message: Message) -> Result<(), String> {
        let at = usize::from(stream).checked_sub(self.databases + 1);
        let Some(index) = at.and_then(|at| self.streams.get(at)) else {
            return Err(format!("{} on stream {stream}, which was never announced", message.name()));
        };
        match index.map(|index| &self.trees[index].1) {
            Some(Ok(follower)) => follower.message(message),
            // The active was told that it is not followed.
            Some(Err(_)) | None => Ok(()),
        }
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.streams.clear();
        for (_, follower) in &self.trees {
            if let Ok(follower) = follower {
                follower.disconnected();
            }
        }
    }

    /// Ends all threads and waits for them: for the batches that are being put in place. With `forget` this node
    /// writes the trees from now on.
    pub(super) async fn stop(&mut self, forget: bool) {
        let followers = std::mem::take(&mut self.trees).into_iter().filter_map(|(_, follower)| follower.ok());
        let stopping: Vec<_> = followers.map(|follower| follower.stop(forget)).collect();
        for stopped in stopping {
            // A thread that panicked has said so.
            let _ = tokio::task::spawn_blocking(stopped).await;
        }
    }

    /// For the status.
    pub(super) fn statuses(&self) -> Vec<TreeStatus> {
        let status = |(name, follower): &(TreeName, Result<Follower, String>)| {
            let shown = match follower {
                Ok(follower) => follower.shown(),
                Err(sentence) => Following { fault: Some(sentence.clone()), ..Following::default() },
            };
            let state = shown.fault.map_or(ShownState::Following, ShownState::Stopped);
            TreeStatus { state, pending_bytes: shown.queued_bytes, ..TreeStatus::new(name.clone()) }
        };
        self.trees.iter().map(status).collect()
    }
}

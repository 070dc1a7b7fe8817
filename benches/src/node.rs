//! Two engines that pin each other, for scenarios that measure the whole data path.
//!
//! A node must be started on a thread of the network namespace it belongs to.

pub mod process;

use lockstep_engine::link::{
    CompressionSetting, Greeting, Identity, LinkConfig, LinkTiming, PathConfig, Side,
};
use lockstep_engine::pair::{
    Acknowledged, BoardConfig, Command, CommitMode, DatabaseConfig, Engine, EngineConfig, EngineEvent,
    EngineStatus,
};
use lockstep_engine::storage::BackendChoice;
use lockstep_wire::{DatabaseName, Epoch, NodeId, SessionId};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

/// Both nodes.
const NAMES: [&str; 2] = ["a", "b"];

/// The only port of a namespace of our own.
const PORT: u16 = 7700;

/// The right to write of the node that is active in a bench.
const EPOCH: Epoch = Epoch { counter: 1, node: NodeId(7) };

/// The agent's default.
const CHECKPOINT_FRAMES: u32 = 1_000;

/// Configurations of a pair: `a` listens, each has a folder of its own below `directory`.
pub fn pair(directory: &Path, interface: &str, addresses: [IpAddr; 2]) -> [EngineConfig; 2] {
    let identities = NAMES.map(|name| Arc::new(Identity::generate(name).expect("an identity is made")));
    configs(directory, interface, addresses, &identities)
}

/// The same for nodes in processes of their own, each of which calls this: the identities are kept in
/// `directory`, where [`make_identities`] has put them.
pub fn pair_of_processes(directory: &Path, interface: &str, addresses: [IpAddr; 2]) -> [EngineConfig; 2] {
    let load = |name| Arc::new(Identity::load(&directory.join("identity").join(name)).expect("it was made"));
    let mut configs = configs(directory, interface, addresses, &NAMES.map(load));
    for (config, name) in configs.iter_mut().zip(NAMES) {
        let runtime_dir = directory.join(name);
        config.boards =
            Some(BoardConfig { runtime_dir, group: None, strict: false, refuse_alone_after: None });
    }
    configs
}

/// Makes the identities of both nodes below `directory`.
pub fn make_identities(directory: &Path) {
    for name in NAMES {
        let folder = directory.join("identity").join(name);
        std::fs::create_dir_all(&folder).expect("a folder for an identity");
        let identity = Identity::generate(name).expect("an identity is made");
        identity.save(&folder, false).expect("it is kept");
    }
}

/// The board of a node of [`pair_of_processes`].
pub fn board(config: &EngineConfig) -> PathBuf {
    let boards = config.boards.as_ref().expect("such a node has boards");
    boards.runtime_dir.join("bench/main.board")
}

fn configs(
    directory: &Path,
    interface: &str,
    addresses: [IpAddr; 2],
    identities: &[Arc<Identity>; 2],
) -> [EngineConfig; 2] {
    let fingerprints = [identities[0].fingerprint(), identities[1].fingerprint()];
    [0, 1].map(|own| {
        let name = NAMES[own];
        let folder = directory.join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the node");
        EngineConfig {
            databases: vec![DatabaseConfig {
                name: main_database(),
                path: folder.join("app.db"),
                checkpoint_frames: CHECKPOINT_FRAMES,
                wal_retain_max_bytes: 4 << 30,
                scrub_bytes_per_s: lockstep_engine::pair::SCRUB_BYTES_PER_S,
                page_hashes: true,
            }],
            trees: Vec::new(),
            state_dir: folder.join("state"),
            quarantine_max_bytes: 1 << 30,
            link: LinkConfig {
                greeting: Greeting {
                    pair: "bench".parse().expect("a name"),
                    node_name: name.to_owned(),
                    software: "bench".to_owned(),
                    session: SessionId(own as u64 + 1),
                },
                peer: fingerprints[1 - own],
                side: [Side::Listen, Side::Connect][own],
                direct: Some(PathConfig {
                    interface: Some(interface.to_owned()),
                    address: addresses[own],
                    peer: addresses[1 - own],
                    port: PORT,
                }),
                lan: None,
                compression: CompressionSetting::Adaptive,
                bulk_cap_bytes_per_s: None,
                timing: LinkTiming::default(),
            },
            identity: Arc::clone(&identities[own]),
            commit_mode: CommitMode::Durable,
            boards: None,
            storage: BackendChoice::Best,
            may_release: Arc::new(|| true),
        }
    })
}

/// The database of a node.
pub fn database(config: &EngineConfig) -> PathBuf {
    config.databases[0].path.clone()
}

fn main_database() -> DatabaseName {
    "main".parse().expect("a name")
}

/// A running engine and a small runtime to talk to it.
pub struct Node {
    engine: Engine,
    events: mpsc::UnboundedReceiver<EngineEvent>,
    runtime: Runtime,
}

impl Node {
    /// Starts an engine; to be called in its namespace.
    pub fn start(config: EngineConfig) -> Self {
        let (engine, events) = Engine::start(config).expect("a thread is made");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { engine, events, runtime }
    }

    /// Serves.
    pub fn become_active(&self) {
        self.ask(|reply| Command::BecomeActive { epoch: EPOCH, reply }).expect("it becomes active");
    }

    /// Mirrors.
    pub fn become_standby(&self) {
        self.ask(|reply| Command::BecomeStandby { epoch: EPOCH, reply }).expect("it becomes a standby");
    }

    /// Waits until every commit that has returned is on the standby's disk.
    pub fn wait_durable(&self) {
        let wait = |reply| Command::Wait { database: main_database(), mode: CommitMode::Durable, reply };
        let answer = self.ask(wait);
        assert!(matches!(answer, Ok(Acknowledged::Ok(..))), "{answer:?}");
    }

    /// Waits as [`Self::wait_durable`] once for each moment received, and tells how long after the moment
    /// the answer came. Ends with the channel of moments.
    pub fn lag(&self, mut commits: mpsc::UnboundedReceiver<Instant>, mut each: impl FnMut(Duration)) {
        let (tell, mut answers) = mpsc::unbounded_channel();
        self.runtime.block_on(async {
            let mut waiting = 0_u64;
            let mut open = true;
            while open || waiting > 0 {
                tokio::select! {
                    commit = commits.recv(), if open => match commit {
                        None => open = false,
                        Some(commit) => {
                            let (reply, answer) = oneshot::channel();
                            let mode = CommitMode::Durable;
                            self.engine.command(Command::Wait { database: main_database(), mode, reply }).await;
                            let tell = tell.clone();
                            tokio::spawn(async move {
                                let answer = answer.await.expect("the data thread lives");
                                assert!(matches!(answer, Ok(Acknowledged::Ok(..))), "{answer:?}");
                                let _ = tell.send(commit.elapsed());
                            });
                            waiting += 1;
                        }
                    },
                    Some(lag) = answers.recv() => {
                        waiting -= 1;
                        each(lag);
                    }
                }
            }
        });
    }

    /// Waits until the standby holds everything.
    pub fn until_in_sync(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.engine.status().in_sync {
            assert!(Instant::now() < until, "not in sync after {limit:?}: {:#?}", self.engine.status());
            std::thread::sleep(Duration::from_millis(1));
            while self.events.try_recv().is_ok() {}
        }
    }

    /// What it shows.
    pub fn status(&self) -> EngineStatus {
        self.engine.status()
    }

    /// Ends it in order.
    pub fn stop(self) {
        self.ask(Command::Stop);
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        self.runtime.block_on(async {
            self.engine.command(command).await;
            answer.await.expect("the data thread lives")
        })
    }
}

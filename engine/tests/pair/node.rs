//! One node of the tests: an engine with its directory and what it has said so far.

use crate::writer;
use lockstep_engine::link::{
    CompressionSetting, Greeting, Identity, LinkConfig, LinkTiming, PathConfig, Side,
};
use lockstep_engine::pair::{
    Acknowledged, BoardConfig, Command, CommitMode, DatabaseConfig, Engine, EngineConfig, EngineEvent,
    EngineStatus, Verified,
};
use lockstep_engine::storage::BackendChoice;
use lockstep_wire::{DatabaseName, Epoch, SessionId};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Node {
    directory: Arc<TempDir>,
    config: EngineConfig,
    engine: Engine,
    events: mpsc::UnboundedReceiver<EngineEvent>,
    seen: Vec<EngineEvent>,
}

/// Two nodes that pin each other; the first has an empty database.
pub(crate) fn pair() -> (Node, Node) {
    let (first, second) = pair_without_database(|_| {});
    writer::create(first.database());
    (first, second)
}

/// Two nodes, the first with an empty database; the second connects to `far_end`, on the port that is answered too.
pub(crate) fn pair_over(far_end: Ipv4Addr) -> (Node, Node, u16) {
    let (first, second) = pair_without_database(|config| {
        if config.link.side == Side::Connect {
            config.link.lan.as_mut().expect("there is a LAN").peer = far_end.into();
        }
    });
    writer::create(first.database());
    let port = first.config.link.lan.as_ref().expect("there is a LAN").port;
    (first, second, port)
}

/// Two nodes that pin each other and have no database yet.
pub(crate) fn pair_without_database(change: impl Fn(&mut EngineConfig)) -> (Node, Node) {
    let identities = ["a", "b"].map(|name| Arc::new(Identity::generate(name).expect("an identity is made")));
    let fingerprints = [identities[0].fingerprint(), identities[1].fingerprint()];
    let port = free_port();
    let [a, b] = identities;
    let node = |identity, peer, side| {
        let directory = Arc::default_dir();
        let mut config = config(identity, peer, side, port, &directory);
        change(&mut config);
        Node::start(config, directory)
    };
    (node(a, fingerprints[1], Side::Listen), node(b, fingerprints[0], Side::Connect))
}

trait DefaultDir {
    fn default_dir() -> Self;
}

impl DefaultDir for Arc<TempDir> {
    fn default_dir() -> Self {
        Self::new(TempDir::new().expect("a temporary directory"))
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

fn config(
    identity: Arc<Identity>,
    peer: lockstep_engine::link::Fingerprint,
    side: Side,
    port: u16,
    directory: &TempDir,
) -> EngineConfig {
    let address = Ipv4Addr::LOCALHOST.into();
    EngineConfig {
        databases: vec![DatabaseConfig {
            name: main_db(),
            path: directory.path().join("app.db"),
            checkpoint_frames: 100,
            wal_retain_max_bytes: 64 << 20,
            scrub_bytes_per_s: 64 << 20,
            page_hashes: true,
        }],
        trees: Vec::new(),
        state_dir: directory.path().join("state"),
        quarantine_max_bytes: 1 << 30,
        link: LinkConfig {
            greeting: Greeting {
                pair: "test".parse().expect("a name"),
                node_name: if side == Side::Listen { "a".into() } else { "b".into() },
                software: "test".into(),
                session: SessionId(u64::from(port)),
            },
            peer,
            side,
            direct: None,
            lan: Some(PathConfig { interface: None, address, peer: address, port }),
            compression: CompressionSetting::Adaptive,
            bulk_cap_bytes_per_s: None,
            timing: LinkTiming::default(),
        },
        identity,
        commit_mode: CommitMode::Durable,
        boards: Some(BoardConfig {
            runtime_dir: directory.path().to_owned(),
            group: None,
            strict: false,
            refuse_alone_after: None,
        }),
        storage: BackendChoice::Best,
        may_release: Arc::new(|| true),
    }
}

fn main_db() -> DatabaseName {
    "main".parse().expect("a name")
}

impl Node {
    fn start(config: EngineConfig, directory: Arc<TempDir>) -> Self {
        let (engine, events) = Engine::start(config.clone()).expect("a thread is made");
        Self { directory, config, engine, events, seen: Vec::new() }
    }

    pub(crate) fn database(&self) -> &Path {
        &self.config.databases[0].path
    }

    pub(crate) fn databases(&self) -> impl Iterator<Item = &Path> {
        self.config.databases.iter().map(|database| &*database.path)
    }

    /// Where programs see which commits of the first database are safe.
    pub(crate) fn board(&self) -> PathBuf {
        self.directory().join("test/main.board")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn status(&self) -> EngineStatus {
        self.engine.status()
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine.clone()
    }

    /// Alarms so far.
    pub(crate) fn alarms(&mut self) -> Vec<String> {
        self.collect();
        let alarm = |event: &EngineEvent| match event {
            EngineEvent::Notice { alarm: true, sentence } => Some(sentence.clone()),
            _ => None,
        };
        self.seen.iter().filter_map(alarm).collect()
    }

    pub(crate) async fn snapshot(&self, destination: &Path) -> Result<(), String> {
        self.snapshot_task(destination).await
    }

    /// A snapshot that runs beside this node's other business.
    pub(crate) fn snapshot_task(
        &self,
        destination: &Path,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (engine, destination) = (self.engine.clone(), destination.to_owned());
        async move {
            let (reply, done) = oneshot::channel();
            engine.command(Command::Snapshot { database: main_db(), destination, reply }).await;
            done.await.expect("the data thread lives")
        }
    }

    /// Waits for an event after the ones seen so far.
    pub(crate) async fn until_event(&mut self, what: &str, mut is_it: impl FnMut(&EngineEvent) -> bool) {
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => {
                    let found = is_it(&event);
                    self.seen.push(event);
                    if found {
                        return;
                    }
                }
                other => panic!("no {what} ({other:?}): {:#?} {:#?}", self.seen, self.engine.status()),
            }
        }
    }

    /// Waits until the status shows something.
    pub(crate) async fn until_status(&self, what: &str, mut is_it: impl FnMut(&EngineStatus) -> bool) {
        let until = tokio::time::Instant::now() + LIMIT;
        // A role that has just begun shows its databases a moment later.
        while self.engine.status().databases.is_empty() || !is_it(&self.engine.status()) {
            assert!(tokio::time::Instant::now() < until, "no {what}: {:#?}", self.engine.status());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn role(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
    ) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        self.engine.command(command(reply)).await;
        tokio::time::timeout(LIMIT, done).await.expect("a role change ends").expect("the data thread lives")
    }

    pub(crate) async fn become_active(&mut self, epoch: Epoch) -> Result<(), String> {
        self.role(|reply| Command::BecomeActive { epoch, reply }).await
    }

    pub(crate) async fn become_standby(&mut self, epoch: Epoch) -> Result<(), String> {
        self.role(|reply| Command::BecomeStandby { epoch, reply }).await
    }

    pub(crate) async fn promote(&mut self, epoch: Epoch) -> Result<(), String> {
        self.role(|reply| Command::Promote { epoch, reply }).await
    }

    /// A takeover whose database is sound and has exactly these rows; the node is stopped afterwards.
    pub(crate) async fn takes_over_with(&mut self, epoch: Epoch, rows: i64) {
        self.promote(epoch).await.expect("a complete mirror can be promoted");
        assert_eq!(writer::rows(self.database()), rows);
        self.stop().await;
        writer::check(self.database());
    }

    pub(crate) async fn become_idle(&self) {
        let (reply, done) = oneshot::channel();
        self.engine.command(Command::BecomeIdle(reply)).await;
        done.await.expect("the data thread lives");
    }

    pub(crate) async fn allow_solo(&self, epoch: Epoch) {
        self.engine.command(Command::AllowSolo(epoch)).await;
    }

    /// Commits wait again; does not wait for the standby.
    pub(crate) async fn hold_commits(&self) {
        self.engine.command(Command::HoldCommits(oneshot::channel().0)).await;
    }

    pub(crate) async fn drain(&self) {
        let (reply, done) = oneshot::channel();
        self.engine.command(Command::Drain(reply)).await;
        tokio::time::timeout(LIMIT, done).await.expect("a drain ends").expect("the standby stays");
    }

    /// Waits beside this node's other business.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { engine: self.engine.clone() }
    }

    /// Compares everything with the standby's disk.
    pub(crate) async fn verify(&self) -> Result<Verified, String> {
        let (reply, answer) = oneshot::channel();
        self.engine.command(Command::Verify { database: main_db(), reply }).await;
        // With a resync and its new connection in between it may take some seconds.
        let answer = tokio::time::timeout(3 * LIMIT, answer).await;
        answer.unwrap_or_else(|_| panic!("no answer: {:?}", self.engine.status())).expect("the thread lives")
    }

    pub(crate) async fn wait(&self, mode: CommitMode) -> Result<Acknowledged, String> {
        self.waiter().wait(mode).await
    }
}

/// Waits for commits.
pub(crate) struct Waiter {
    engine: Engine,
}

impl Waiter {
    pub(crate) async fn wait(&self, mode: CommitMode) -> Result<Acknowledged, String> {
        let (reply, answer) = oneshot::channel();
        self.engine.command(Command::Wait { database: main_db(), mode, reply }).await;
        let answer = tokio::time::timeout(LIMIT, answer).await;
        answer.unwrap_or_else(|_| panic!("no answer: {:?}", self.engine.status())).expect("the thread lives")
    }
}

impl Node {
    pub(crate) async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        self.engine.command(Command::Stop(reply)).await;
        done.await.expect("the data thread ends in order");
    }

    /// Ends the engine, lets something happen to the database, and starts another engine, without a role.
    pub(crate) async fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.stop().await;
        meanwhile(self.database());
        Self::start(self.config, self.directory)
    }

    /// The last word on being in sync is "yes".
    pub(crate) async fn until_in_sync(&mut self) {
        self.until(true).await;
    }

    /// The last word on being in sync is "no".
    pub(crate) async fn until_out_of_sync(&mut self) {
        self.until(false).await;
    }

    async fn until(&mut self, wanted: bool) {
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            self.collect();
            let last = self.seen.iter().rev().find_map(|e| match e {
                EngineEvent::InSync(in_sync) => Some(*in_sync),
                _ => None,
            });
            if last == Some(wanted) {
                return;
            }
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => self.seen.push(event),
                other => panic!(
                    "in sync is not {wanted} ({other:?}): {:#?} {:#?}",
                    self.seen,
                    self.engine.status()
                ),
            }
        }
    }

    fn collect(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
    }

    /// What this node has told its operator so far.
    pub(crate) fn notices(&mut self) -> Vec<String> {
        self.collect();
        let notice = |event: &EngineEvent| match event {
            EngineEvent::Notice { sentence, .. } => Some(sentence.clone()),
            _ => None,
        };
        self.seen.iter().filter_map(notice).collect()
    }

    /// How many copies or resyncs began on this node as a standby.
    pub(crate) fn copies(&mut self) -> usize {
        self.collect();
        let mut complete = false;
        let mut began = 0;
        for event in &self.seen {
            if let EngineEvent::CopyComplete(now) = event {
                began += usize::from(complete && !now);
                complete = *now;
            }
        }
        began
    }

    /// Where diverged data was kept.
    pub(crate) fn quarantine_directories(&mut self) -> Vec<PathBuf> {
        self.collect();
        let kept = |event: &EngineEvent| match event {
            EngineEvent::Quarantined { directory, .. } => Some(directory.clone()),
            _ => None,
        };
        self.seen.iter().filter_map(kept).collect()
    }

    pub(crate) fn quarantined(&mut self) -> usize {
        self.collect();
        self.seen.iter().filter(|e| matches!(e, EngineEvent::Quarantined { .. })).count()
    }
}

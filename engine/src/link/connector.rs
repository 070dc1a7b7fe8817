//! Gets a connection to the peer and keeps getting one: who connects, over which path, how often.
//!
//! The node configured as secondary connects, the primary listens on both its addresses, whoever is
//! active at the time. The direct link is preferred; the LAN is used while it is down, and left when it
//! is back. A newer connection replaces an older one on both ends, because the connecting end makes
//! one only when it has given up the old or has found a better way. What is said on a connection is the pair
//! session's business.

use super::{
    backoff::{Backoff, QuietLog},
    compression::CompressionSetting,
    connection::{self, EpochCell, LinkTiming, Receiver, Sender, Setup},
    error::LinkError,
    hello::{Greeting, greet},
    identity::{Fingerprint, Identity},
    socket::{self, Path, PathConfig},
    stats::LinkStats,
    tls::{HeartbeatKeys, Side, Tls},
};
use futures_util::{FutureExt, future::select_ok};
use lockstep_wire::{Epoch, Hello, NodeId};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

/// A connection that lived this long ends the back-off: the next attempt is immediate again.
const STABLE: Duration = Duration::from_secs(1);

/// Handshakes at once on one path. A peer needs one.
const HANDSHAKES_MAX: usize = 8;

/// What a link needs to know.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Who this node is.
    pub greeting: Greeting,
    /// The one certificate that is accepted.
    pub peer: Fingerprint,
    /// The secondary connects, the primary listens.
    pub side: Side,
    /// The direct link, if there is one.
    pub direct: Option<PathConfig>,
    /// The LAN.
    pub lan: Option<PathConfig>,
    /// Whether bodies may be packed.
    pub compression: CompressionSetting,
    /// The operator's limit for bulk, bytes per second.
    pub bulk_cap_bytes_per_s: Option<u64>,
    /// Deadlines and periods.
    pub timing: LinkTiming,
}

/// A connection that was made, ready for the pair session.
#[derive(Debug)]
pub struct Established {
    /// Sends.
    pub sender: Sender,
    /// Receives; dropping it ends the connection.
    pub receiver: Receiver,
    /// Keys for the heartbeats.
    pub keys: HeartbeatKeys,
    /// The path.
    pub path: Path,
    /// The peer's greeting.
    pub peer: Hello,
    /// The peer's epoch. When it is above this node's, adopt it durably (and demote) before sending anything:
    /// messages of the older epoch are refused.
    pub peer_epoch: Epoch,
}

/// Makes connections to one peer in the background, for as long as it lives.
#[derive(Debug)]
pub struct Link {
    inner: Arc<Inner>,
    /// Aborted when the link is dropped.
    _tasks: JoinSet<()>,
}

pub(super) struct Inner {
    config: LinkConfig,
    tls: Tls,
    own: NodeId,
    epoch: EpochCell,
    stats: Arc<LinkStats>,
    slot: Mutex<Slot>,
    arrived: Notify,
    log: QuietLog,
}

/// The newest connection, and whether it was taken.
#[derive(Debug, Default)]
struct Slot {
    waiting: Option<Established>,
    current: Option<(Sender, Path, Instant)>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("pair", &self.config.greeting.pair).finish_non_exhaustive()
    }
}

impl Link {
    /// Starts connecting or listening on the current runtime.
    ///
    /// # Errors
    /// [`LinkError`] when the configuration has no path or the identity cannot be used.
    pub fn new(config: LinkConfig, identity: &Identity, epoch: EpochCell) -> Result<Self, LinkError> {
        if config.direct.is_none() && config.lan.is_none() {
            let pair = &config.greeting.pair;
            let sentence = format!(
                "pair \"{pair}\" has neither a direct link nor a LAN: configure [pair.direct] or [pair.lan]"
            );
            return Err(LinkError::refused("pair", sentence));
        }
        let inner = Arc::new(Inner::new(config, identity, epoch)?);
        let mut tasks = JoinSet::new();
        match inner.config.side {
            Side::Connect => {
                tasks.spawn(inner.clone().connect_forever());
            }
            Side::Listen => {
                for path in [Path::Direct, Path::Lan] {
                    if inner.path(path).is_some() {
                        tasks.spawn(inner.clone().listen_forever(path));
                    }
                }
            }
        }
        Ok(Self { inner, _tasks: tasks })
    }

    /// Waits for a connection newer than all given before. The one given before is then over: drop it.
    /// Cancellation safe; nothing is lost or begun anew.
    pub async fn next(&mut self) -> Established {
        loop {
            if let Some(established) = self.inner.slot().waiting.take() {
                return established;
            }
            self.inner.arrived.notified().await;
        }
    }

    /// Counters and state for the status.
    pub fn stats(&self) -> Arc<LinkStats> {
        self.inner.stats.clone()
    }
}

impl Inner {
    pub(super) fn new(config: LinkConfig, identity: &Identity, epoch: EpochCell) -> Result<Self, LinkError> {
        Ok(Self {
            tls: Tls::new(identity, config.peer)?,
            own: identity.node_id(),
            config,
            epoch,
            stats: Arc::default(),
            slot: Mutex::default(),
            arrived: Notify::new(),
            log: QuietLog::default(),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, path: Path) -> Option<&PathConfig> {
        match path {
            Path::Direct => self.config.direct.as_ref(),
            Path::Lan => self.config.lan.as_ref(),
        }
    }

    /// Puts a new connection in the place of the one before.
    fn install(self: &Arc<Self>, established: Established) {
        let (sender, path) = (established.sender.clone(), established.path);
        let peer = &established.peer;
        tracing::info!(%path, peer = %peer.node_name, software = %peer.software, "data connection made");
        self.log.clear();
        self.stats.connected(path);
        let older = {
            let mut slot = self.slot();
            slot.waiting = Some(established);
            slot.current.replace((sender.clone(), path, Instant::now()))
        };
        if let Some((older, ..)) = older {
            older
                .shared
                .end(LinkError::Goodbye(format!("a newer connection over the {path} takes its place")));
        }
        self.arrived.notify_one();
        // Sees to it that the status tells the end even if nobody takes the connection.
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            let why = sender.ended().await;
            if let Some(inner) = inner.upgrade() {
                inner.on_end(&sender, path, &why);
            }
        });
    }

    fn on_end(&self, sender: &Sender, path: Path, why: &LinkError) {
        let current =
            self.slot().current.as_ref().is_some_and(|(s, ..)| Arc::ptr_eq(&s.shared, &sender.shared));
        if current {
            self.stats.disconnected(why.to_string());
            self.log.say(path, why);
        }
    }

    fn failed(&self, path: Path, error: &LinkError) {
        self.stats.trouble(error.to_string());
        self.log.say(path, error);
    }

    async fn connect_forever(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let current = self.slot().current.as_ref().filter(|(s, ..)| s.is_open()).cloned();
            let Some((sender, path, since)) = current else {
                match self.connect_any().await {
                    Ok(established) => self.install(established),
                    Err(_) => sleep(backoff.next()).await,
                }
                continue;
            };
            let better = async {
                if path == Path::Direct || self.config.direct.is_none() {
                    return std::future::pending().await;
                }
                sleep(self.config.timing.direct_retry).await;
                self.connect(Path::Direct).await
            };
            tokio::select! {
                _ = sender.ended() => {
                    if since.elapsed() >= STABLE {
                        backoff = Backoff::default();
                    } else {
                        // Made and lost at once: somebody refuses; do not hammer.
                        sleep(backoff.next()).await;
                    }
                }
                made = better => {
                    if let Ok(established) = made {
                        self.install(established);
                    }
                }
            }
        }
    }

    /// The direct link first; the LAN when that failed or takes long. The first to get through wins.
    async fn connect_any(&self) -> Result<Established, LinkError> {
        let given_up = Notify::new();
        let direct = async {
            let result = self.connect(Path::Direct).await;
            given_up.notify_one();
            result
        };
        let lan = async {
            if self.config.direct.is_some() {
                // Either event lets the LAN begin.
                let _ = timeout(self.config.timing.direct_head_start, given_up.notified()).await;
            }
            self.connect(Path::Lan).await
        };
        match (&self.config.direct, &self.config.lan) {
            (Some(_), Some(_)) => select_ok([direct.boxed(), lan.boxed()]).await.map(|(made, _)| made),
            (Some(_), None) => direct.await,
            (None, _) => lan.await,
        }
    }

    async fn connect(&self, path: Path) -> Result<Established, LinkError> {
        let config = self.path(path).expect("only configured paths are tried");
        let attempt = async {
            let tcp = config.connect(self.config.timing.connect).await?;
            self.establish(tcp, path).await
        };
        attempt.await.inspect_err(|error| self.failed(path, error))
    }

    /// From a TCP connection to one the pair session can use.
    pub(super) async fn establish(&self, tcp: TcpStream, path: Path) -> Result<Established, LinkError> {
        socket::prepare(&tcp)?;
        let limit = self.config.timing.greeting;
        let LinkConfig { greeting, peer, side, .. } = &self.config;
        let greeted = timeout(limit, async {
            let (mut stream, keys) = self.tls.handshake(tcp, *side).await?;
            let greeted = greet(&mut stream, greeting, self.own, *peer, self.epoch.load()).await;
            let greeted = greeted.map_err(|error| self.tls.own_certificate(error))?;
            Ok::<_, LinkError>((stream, keys, greeted))
        });
        let (stream, keys, greeted) = greeted.await.map_err(|_| LinkError::NoGreeting(limit))??;
        let (peer, peer_epoch) = (greeted.hello.clone(), greeted.epoch);
        let setup = Setup {
            epoch: self.epoch.clone(),
            timing: self.config.timing,
            stats: self.stats.clone(),
            compression: self.config.compression,
            bulk_cap_bytes_per_s: self.config.bulk_cap_bytes_per_s,
        };
        let (sender, receiver) = connection::start(stream, greeted, setup);
        Ok(Established { sender, receiver, keys, path, peer, peer_epoch })
    }

    async fn listen_forever(self: Arc<Self>, path: Path) {
        let config = self.path(path).expect("only configured paths are listened on");
        let mut backoff = Backoff::default();
        loop {
            // The address may appear later than we do: an interface that comes up, a tentative IPv6 address.
            let listener = match config.listen() {
                Ok(listener) => listener,
                Err(error) => {
                    self.failed(path, &error);
                    sleep(backoff.next()).await;
                    continue;
                }
            };
            let mut handshakes = JoinSet::new();
            // Out of descriptors or memory ends the loop: listen anew after a pause.
            while let Ok((tcp, from)) = listener.accept().await {
                while handshakes.try_join_next().is_some() {}
                if from.ip() != config.peer {
                    // Strangers get no handshake, so they cannot take the places of the peer's.
                    self.failed(path, &LinkError::Stranger { from: from.ip(), expected: config.peer });
                    continue;
                }
                if handshakes.len() < HANDSHAKES_MAX {
                    let inner = self.clone();
                    handshakes.spawn(async move {
                        match inner.establish(tcp, path).await {
                            Ok(established) => inner.install(established),
                            Err(error) => inner.failed(path, &error),
                        }
                    });
                }
            }
            sleep(backoff.next()).await;
        }
    }
}

//! One pair on this node: starts its threads and holds their handles.

use super::alarms::Alarms;
use super::arbiter::Arbiter;
use super::decide::{Decider, now};
use super::hands::Hands;
use super::operator::Switches;
use super::probing::{ProbeConfig, Probes};
use super::queue::EventQueue;
use super::{address, application, data, dry};
use crate::config::{self, Config, Paths};
use crate::effects::guard::Guard;
use crate::effects::vip::VipAddresses;
use crate::events::EventLog;
use crate::heartbeat::{Gauges, Heart, LeaseGuard, Route, Settings};
use anyhow::Context;
use lockstep_engine::durable::create_dir_durably_blocking;
use lockstep_engine::files::ship::TreeConfig;
use lockstep_engine::link::{
    CompressionSetting, Greeting, Identity, LinkConfig, LinkTiming, PathConfig, Side,
};
use lockstep_engine::pair::{BoardConfig, DatabaseConfig, Engine, EngineConfig};
use lockstep_engine::storage::BackendChoice;
use lockstep_failover::{
    self as failover, Event, FailoverType, Machine, PairState, Profile, SoloAfter, Status,
};
use lockstep_wire::SessionId;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An operator's switchover gives up when stopping and draining take longer than the applications' own
/// stop time-outs and this.
const RELEASE_SLACK: Duration = Duration::from_secs(10);

/// Where nothing is acknowledged alone: a connection is back before, or the standby is gone.
const REFUSE_ALONE_AFTER: Duration = Duration::from_secs(2);

/// How much quarantine may hold.
const QUARANTINE_MAX_BYTES: u64 = 64 << 30;

/// A running pair.
pub(super) struct Pair {
    pub(super) config: config::Pair,
    pub(super) role: config::Role,
    pub(super) engine: Engine,
    pub(super) queue: EventQueue,
    pub(super) log: Arc<EventLog>,
    pub(super) shown: Arc<Mutex<Status>>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) timing: failover::Timing,
    pub(super) apps: application::Shown,
}

impl Pair {
    /// Starts everything of one pair. Call inside the agent's runtime.
    ///
    /// # Errors
    /// A damaged state, a missing capability, an address that cannot be bound; one sentence each.
    pub(super) fn start(
        config: &Config,
        pair: &config::Pair,
        paths: &Paths,
        identity: &Arc<Identity>,
        session: SessionId,
    ) -> anyhow::Result<Self> {
        let state_dir = paths.pair_dir(&pair.id);
        create_dir_durably_blocking(&state_dir)?;
        let state_file = state_dir.join("pair.state");
        let state = load_state(&state_file)?;
        let log = Arc::new(EventLog::open(&state_dir.join("events.db"))?);
        let (queue, inputs) = EventQueue::new();
        let timing = timing_of(config, pair);
        let vips: Vec<IpAddr> = pair.vips.iter().map(|v| v.address).collect();

        let (guard, leftovers) = guard_of(pair, &vips)?;
        let sink = queue.clone();
        let settings = heartbeat_settings(pair, session, timing);
        let heart = Heart::start(&settings, guard, Box::new(move |event| sink.try_event(event)))?;
        tracing::info!("heartbeat thread: {}", heart.privileges());
        let (gauges, heart) = (heart.gauges().clone(), Arc::new(heart));
        let (engine, engine_events) = start_engine(config, pair, paths, identity.clone(), session, &gauges)?;
        let (engine_actions, action_queue) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(data::carry_out(engine.clone(), queue.clone(), action_queue));
        tokio::spawn(data::listen(engine_events, queue.clone(), heart.clone()));
        let alarms = Alarms::new(log.clone());
        let machine = Machine::new(machine_config(config, pair, identity, session, timing), state, now());
        let shown = Arc::new(Mutex::new(machine.status()));
        let watch = data::Watch {
            queue: queue.clone(),
            alarms: alarms.clone(),
            machine: shown.clone(),
            solo_after: pair.solo_after,
        };
        tokio::spawn(data::watch_databases(engine.clone(), watch));
        let (application, apps) = if pair.observe {
            (dry::application(pair, queue.clone())?, application::Shown::default())
        } else {
            let commits_wait = commits_wait(&engine);
            let (shown, gauges) = (shown.clone(), gauges.clone());
            application::start(config, pair, paths, shown, gauges, queue.clone(), commits_wait)?
        };
        let probes = Probes::start(&probe_config(pair, vips, timing.period, queue.clone()), &heart)?;
        let hands = Hands {
            heart,
            address: address_of(pair, &gauges, &queue)?,
            probes,
            engine: engine_actions,
            engine_orders: 0,
            application,
            arbiter: Arbiter::start(pair, &queue)?,
            alarms,
        };
        queue.event(leftovers);
        let switches = Switches::load(&state_dir, pair.observe)?;
        let decider =
            Decider { machine, inputs, hands, state_file, log: log.clone(), shown: shown.clone(), switches };
        std::thread::Builder::new().name(format!("decide-{}", pair.id)).spawn(move || decider.run())?;
        Ok(Self {
            config: pair.clone(),
            role: config.node.role,
            engine,
            queue,
            log,
            shown,
            gauges,
            timing,
            apps,
        })
    }
}

/// Commits wait for a standby that does not follow.
fn commits_wait(engine: &Engine) -> application::CommitsWait {
    let engine = engine.clone();
    Box::new(move || {
        let data = engine.status();
        data.active && !data.in_sync && data.databases.iter().any(|database| database.waiting > 0)
    })
}

fn load_state(file: &Path) -> anyhow::Result<PairState> {
    match std::fs::read_to_string(file) {
        Ok(text) => PairState::from_text(&text).with_context(|| {
            format!(
                "{} cannot be used: restore it, or move it away only if the peer serves or holds everything",
                file.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(PairState::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn timing_of(config: &Config, pair: &config::Pair) -> failover::Timing {
    let profile =
        Profile::from_name(&config.node.profile.to_string()).expect("both lists have the same names");
    // A look at the witness may be under way when the takeover asks.
    let witness = pair.witness.as_ref().map_or(Duration::ZERO, |witness| witness.timeout * 2);
    let fence = pair.fence.as_ref().map_or(Duration::ZERO, |fence| fence.timeout);
    let timing = profile.timing().with_hold_off(Duration::from_secs(pair.hold_off_s.into()));
    timing.with_arbitration(witness + fence)
}

/// What enforces the lease, and what an earlier life left. A pair that only observes has neither.
fn guard_of(pair: &config::Pair, vips: &[IpAddr]) -> anyhow::Result<(Box<dyn LeaseGuard>, Event)> {
    let interface = &pair.lan.interface;
    if pair.observe {
        // Left by an agent that did not only observe, it would stop the address of who serves now.
        if let Err(error) = Guard::uninstall(&pair.id, vips, interface) {
            tracing::warn!("no look at whether a guard is left: {error}");
        }
        return Ok((Box::new(dry::NoGuard), Event::Leftovers { vip: false, lease_left: None }));
    }
    let mut guard = Guard::install(&pair.id, vips, interface)?;
    if !guard.guards_egress() {
        tracing::warn!(
            "this kernel has no egress hook for {interface}: what waits for a neighbour is dropped by the agent alone; use Linux 5.16 or later with NETFILTER_EGRESS"
        );
    }
    let leftovers = leftovers(pair, &mut guard)?;
    Ok((Box::new(guard), leftovers))
}

fn address_of(
    pair: &config::Pair,
    gauges: &Arc<Gauges>,
    queue: &EventQueue,
) -> anyhow::Result<std::sync::mpsc::Sender<address::Task>> {
    if pair.observe {
        return Ok(dry::address(pair, queue.clone())?);
    }
    address::start(address::AddressConfig {
        pair: pair.id.clone(),
        interface: pair.lan.interface.clone(),
        vips: pair.vips.clone(),
        gauges: gauges.clone(),
        queue: queue.clone(),
    })
}

/// What an earlier life of the agent left in the kernel.
fn leftovers(pair: &config::Pair, guard: &mut Guard) -> anyhow::Result<Event> {
    let mut addresses = VipAddresses::open()?;
    let mut vip = false;
    for wanted in &pair.vips {
        vip |= addresses.state(&pair.lan.interface, wanted.address)?.is_some();
    }
    Ok(Event::Leftovers { vip, lease_left: guard.lease_remaining()? })
}

fn heartbeat_settings(pair: &config::Pair, session: SessionId, timing: failover::Timing) -> Settings {
    let route = |path, end: &config::Endpoint| Route {
        path,
        local: (end.address, end.port).into(),
        peer: (end.peer, end.port).into(),
        interface: Some(end.interface.clone()),
    };
    let direct = pair.direct.as_ref().map(|end| route(failover::Path::Direct, end));
    let routes = direct.into_iter().chain([route(failover::Path::Lan, &pair.lan)]).collect();
    Settings { session, timing, routes, realtime: true }
}

fn machine_config(
    config: &Config,
    pair: &config::Pair,
    identity: &Identity,
    session: SessionId,
    timing: failover::Timing,
) -> failover::Config {
    let stop: u32 = pair.apps.iter().map(|a| a.stop_timeout_s).sum();
    failover::Config {
        node: identity.node_id(),
        session,
        role: match config.node.role {
            config::Role::Primary => failover::Role::Primary,
            config::Role::Secondary => failover::Role::Secondary,
        },
        timing,
        failover: match pair.failover {
            config::FailoverType::Automatic => FailoverType::Automatic,
            config::FailoverType::Manual => FailoverType::Manual,
        },
        application: !pair.apps.is_empty(),
        open_early: (pair.open_early_ms > 0).then(|| Duration::from_millis(pair.open_early_ms.into())),
        solo_after: pair.solo_after,
        failback_after: pair.failback_after,
        witness: pair.witness.is_some(),
        fence: pair.fence.is_some(),
        release_timeout: Duration::from_secs(stop.into()) + RELEASE_SLACK,
    }
}

fn probe_config(pair: &config::Pair, vips: Vec<IpAddr>, period: Duration, queue: EventQueue) -> ProbeConfig {
    ProbeConfig {
        interface: pair.lan.interface.clone(),
        direct: pair.direct.as_ref().map(|d| d.interface.clone()),
        own: pair.lan.address,
        peer: pair.lan.peer,
        targets: pair.targets.clone(),
        vips,
        period,
        queue,
    }
}

fn tree_config(tree: &config::Tree, role: config::Role) -> TreeConfig {
    TreeConfig {
        name: tree.name.clone(),
        root: tree.path(role).to_owned(),
        exclude: tree.exclude.clone(),
        before_commits: tree.order == config::TreeOrder::WithDatabase,
        delete_max_percent: tree.delete_max_percent,
        bytes_per_s_max: tree.bandwidth_max_mbit_s.map(|mbit| u64::from(mbit) * 125_000),
    }
}

fn start_engine(
    config: &Config,
    pair: &config::Pair,
    paths: &Paths,
    identity: Arc<Identity>,
    session: SessionId,
    gauges: &Arc<Gauges>,
) -> anyhow::Result<(Engine, tokio::sync::mpsc::UnboundedReceiver<lockstep_engine::pair::EngineEvent>)> {
    let role = config.node.role;
    let gauges = gauges.clone();
    let path = |e: &config::Endpoint| PathConfig {
        interface: Some(e.interface.clone()),
        address: e.address,
        peer: e.peer,
        port: e.port,
    };
    let databases = pair.databases.iter().map(|d| DatabaseConfig {
        name: d.name.clone(),
        path: d.path(role).to_owned(),
        checkpoint_frames: d.checkpoint_frames,
        wal_retain_max_bytes: u64::from(d.wal_retain_max_mib) << 20,
        scrub_bytes_per_s: u64::from(d.scrub_max_kib_s) << 10,
        page_hashes: true,
    });
    let engine = EngineConfig {
        databases: databases.collect(),
        trees: pair.trees.iter().map(|tree| tree_config(tree, role)).collect(),
        state_dir: paths.pair_dir(&pair.id),
        quarantine_max_bytes: QUARANTINE_MAX_BYTES,
        identity,
        link: LinkConfig {
            greeting: Greeting {
                pair: pair.id.clone(),
                node_name: config.node.name.clone(),
                software: env!("CARGO_PKG_VERSION").into(),
                session,
            },
            peer: pair.peer_fingerprint,
            side: if role == config::Role::Secondary { Side::Connect } else { Side::Listen },
            direct: pair.direct.as_ref().map(path),
            lan: Some(path(&pair.lan)),
            compression: match pair.compression {
                config::Compression::Auto => CompressionSetting::Adaptive,
                config::Compression::Off => CompressionSetting::Off,
            },
            bulk_cap_bytes_per_s: pair.bandwidth_max_mbit_s.map(|mbit| u64::from(mbit) * 125_000),
            timing: LinkTiming::default(),
        },
        commit_mode: super::engine_mode(pair.commit_mode),
        boards: Some(BoardConfig {
            runtime_dir: paths.runtime_dir.clone(),
            group: crate::control::group(),
            strict: pair.strict,
            refuse_alone_after: (pair.solo_after == SoloAfter::Never).then_some(REFUSE_ALONE_AFTER),
        }),
        storage: match config.node.io_backend {
            config::IoBackend::Blocking => BackendChoice::Blocking,
            config::IoBackend::Auto | config::IoBackend::Uring => BackendChoice::Best,
        },
        // A commit is answered only while the lease holds: afterwards the peer may serve.
        may_release: Arc::new(move || gauges.lease_end().is_some_and(|end| now() < end)),
    };
    Ok(Engine::start(engine)?)
}

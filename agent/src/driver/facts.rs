//! Puts together what `lockstep status` shows, from the machine, the data path and the heartbeat.

use super::data::why_commits_wait;
use super::decide::now;
use super::pair::Pair;
use crate::config::{Config, Role};
use crate::status::{
    CopyStatus, DatabaseStatus, HeartbeatStatus, Heartbeats, LinkStatus, PairStatus, SCHEMA, ScrubStatus,
    Status,
};
use lockstep_engine::pair::{DatabaseState, EngineStatus};
use lockstep_failover::{Path, status::State};
use lockstep_wire::Position;
use std::sync::Arc;
use std::time::Duration;

/// All facts of this node.
pub(super) fn status(config: &Config, pairs: &[Arc<Pair>]) -> Status {
    Status {
        schema: SCHEMA,
        node: config.node.name.clone(),
        role: config.node.role,
        version: env!("CARGO_PKG_VERSION").into(),
        pairs: pairs.iter().map(|pair| of_pair(pair)).collect(),
    }
}

/// Active: the standby holds everything acknowledged. Standby: so does this node, by the active's word.
pub(super) fn in_sync(pair: &Pair) -> bool {
    pair.machine().in_sync
}

/// This node serves.
pub(super) fn serves(pair: &Pair) -> bool {
    pair.machine().state == State::Active
}

fn of_pair(pair: &Pair) -> PairStatus {
    let machine = pair.machine();
    let data = pair.engine.status();
    let databases: Vec<DatabaseStatus> =
        pair.config.databases.iter().map(|d| database(pair, d, &data, machine.in_sync)).collect();
    let link = data.link.as_ref();
    let waiting = data.databases.iter().map(|d| d.waiting).sum();
    let lag_frames = databases.iter().filter_map(|d| d.lag_frames).max();
    PairStatus {
        id: pair.config.id.to_string(),
        state: machine.state,
        epoch: machine.epoch.to_string(),
        in_sync: machine.in_sync,
        solo: machine.solo,
        maintenance: machine.maintenance,
        observe: machine.observe,
        position: databases.first().map_or_else(|| Position::default().to_string(), |d| d.position.clone()),
        lag_frames,
        lag_ms: lag_ms(&data),
        unwaited_commits: data.databases.iter().map(|d| d.unwaited_commits).sum(),
        waiting,
        waiting_why: why_commits_wait(
            &machine,
            pair.config.solo_after,
            waiting,
            data.held_by_tree.as_deref(),
        ),
        vip: pair.config.vips.iter().map(ToString::to_string).collect(),
        lease_ms_left: lease_left(pair).map(|left| left.as_millis() as u64),
        heartbeat: heartbeats(pair),
        databases,
        trees: super::trees::statuses(pair, &data),
        io_backend: data.io_backend.clone(),
        events: pair.log.recent(),
        link: LinkStatus {
            path: link.and_then(|l| l.path).map(|path| cable(path).to_owned()),
            compressing: link.is_some_and(|l| l.compressing),
            compression_reason: link.map_or_else(String::new, |l| l.compression.clone()),
            sent_bytes: link.map_or(0, |l| l.bytes_sent),
            received_bytes: link.map_or(0, |l| l.bytes_received),
            fault: link.and_then(|l| l.trouble.clone()),
        },
        apps: pair.apps.status(),
        alarms: pair.log.alarms(),
        question: machine.question,
        quarantined: data.quarantined,
    }
}

/// The word in the JSON form.
fn cable(path: lockstep_engine::link::Path) -> &'static str {
    match path {
        lockstep_engine::link::Path::Direct => "direct",
        lockstep_engine::link::Path::Lan => "lan",
    }
}

fn lease_left(pair: &Pair) -> Option<Duration> {
    pair.gauges.lease_end().map(|end| end.since(now())).filter(|left| !left.is_zero())
}

fn heartbeats(pair: &Pair) -> Heartbeats {
    let of = |path: Path| {
        let age = pair.gauges.heard(path).map(|at| now().since(at));
        HeartbeatStatus {
            up: age.is_some_and(|age| age < pair.timing.dead_after),
            age_ms: age.map(|age| age.as_millis() as u64),
            mean_rtt_ms: pair.gauges.mean_round_trip(path).map(|rtt| rtt.as_secs_f64() * 1000.0),
        }
    };
    Heartbeats {
        direct: pair.config.direct.as_ref().map(|_| of(Path::Direct)),
        lan: of(Path::Lan),
        silences: pair.gauges.silences(now()),
    }
}

fn lag_ms(data: &EngineStatus) -> Option<u64> {
    let behind = data.databases.iter().filter(|d| data.active && d.position != d.durable);
    let since = behind.filter_map(|d| d.level_since).map(|at| at.elapsed().as_millis() as u64).max();
    if data.active && data.in_sync { Some(since.unwrap_or(0)) } else { since }
}

fn database(
    pair: &Pair,
    config: &crate::config::Database,
    data: &EngineStatus,
    in_sync: bool,
) -> DatabaseStatus {
    let found = data.databases.iter().find(|d| d.name == config.name);
    let role: Role = pair.role;
    DatabaseStatus {
        name: config.name.to_string(),
        path: config.path(role).display().to_string(),
        position: found.map(|d| d.position).unwrap_or_default().to_string(),
        in_sync,
        lag_frames: found.and_then(|d| {
            let same = d.position.generation == d.durable.generation;
            same.then(|| u64::from(d.position.frame.0.saturating_sub(d.durable.frame.0)))
        }),
        waiting: found.map_or(0, |d| d.waiting),
        wal_bytes: found.map_or(0, |d| d.wal_bytes),
        copy: found.and_then(|d| d.copy).map(|copy| CopyStatus {
            resync: copy.resync,
            rewind: copy.rewind,
            done_bytes: u64::from(copy.pages_done) * u64::from(copy.page_size),
            total_bytes: u64::from(copy.pages_total) * u64::from(copy.page_size),
            rate_bytes_per_s: (copy.pages_per_s() * f64::from(copy.page_size)) as u64,
            remaining_s: copy.remaining_s().map(|s| s.ceil() as u64),
        }),
        verified_age_s: found.and_then(|d| d.equality.verified_at).map(|at| at.elapsed().as_secs()),
        sums_equal_age_s: found.and_then(|d| d.equality.sums_equal_at).map(|at| at.elapsed().as_secs()),
        scrub: found.filter(|_| data.active).map(|d| ScrubStatus {
            done_pages: d.equality.pages_done,
            total_pages: d.equality.pages_total,
            mismatched_pages: d.equality.mismatched_pages,
            repaired_pages: d.equality.repaired_pages,
        }),
        fault: found.and_then(|d| match &d.state {
            DatabaseState::Refused(sentence) => Some(sentence.clone()),
            _ => None,
        }),
    }
}

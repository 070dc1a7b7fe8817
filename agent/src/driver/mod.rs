//! Runs the failover machine: events in, steps persisted, actions carried out.
//!
//! `heartbeat, probes, data path -> queue -> decide -> hands -> effects`. One `pair::Pair` per pair of
//! the configuration; the agent itself only starts them, answers its socket and ends.

mod address;
mod alarms;
mod application;
mod arbiter;
mod culprit;
mod data;
mod decide;
mod drill;
mod dry;
mod explain;
mod facts;
mod handle;
mod hands;
mod operator;
mod pair;
mod probing;
mod queue;
mod trees;
mod watched;

use crate::config::{Config, Paths};
use crate::control;
use anyhow::Context;
use lockstep_client::Mode;
use lockstep_engine::link::Identity;
use lockstep_engine::pair::{Command, CommitMode};
use lockstep_wire::SessionId;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long the data threads may take to close their files at the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the agent until SIGTERM or SIGINT. The applications and the lease are left as they are: an
/// agent that comes back within the lease goes on, otherwise the lease ends by itself.
///
/// # Errors
/// What keeps the agent from starting, as one sentence.
pub fn run(config: Config, paths: &Paths) -> anyhow::Result<()> {
    for warning in config.warnings.iter().chain(&config.check_places(paths)?) {
        tracing::warn!("{warning}");
    }
    let identity = Identity::load(&paths.state_dir)
        .context("this node has no identity: make one with `lockstep identity`")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config, paths, &Arc::new(identity)))
}

async fn serve(config: Config, paths: &Paths, identity: &Arc<Identity>) -> anyhow::Result<()> {
    std::fs::create_dir_all(&paths.runtime_dir)
        .with_context(|| format!("cannot make {}", paths.runtime_dir.display()))?;
    let listener = control::bind(&paths.socket())?;
    let session = new_session()?;
    let mut pairs = Vec::new();
    for pair in &config.pairs {
        let started = pair::Pair::start(&config, pair, paths, identity, session);
        pairs.push(Arc::new(started.with_context(|| format!("pair {}", pair.id))?));
    }
    let agent = Arc::new(handle::Agent { config, pairs });
    // Only a service manager listens to this.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        () = control::serve(listener, agent.clone()) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    for pair in &agent.pairs {
        pair.queue.stop();
        let (done, stopped) = tokio::sync::oneshot::channel();
        pair.engine.command(Command::Stop(done)).await;
        let _ = tokio::time::timeout(STOP_LIMIT, stopped).await;
    }
    Ok(())
}

/// A name for this life of the agent: random, never 0.
fn new_session() -> anyhow::Result<SessionId> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the kernel gives no random numbers"))?;
    Ok(SessionId(u64::from_ne_bytes(bytes) | 1))
}

fn engine_mode(mode: Mode) -> CommitMode {
    match mode {
        Mode::Local => CommitMode::Local,
        Mode::Received => CommitMode::Received,
        Mode::Durable => CommitMode::Durable,
    }
}

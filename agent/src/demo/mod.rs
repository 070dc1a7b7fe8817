//! The demonstration: two nodes on one machine, a real application, power pulled.
//!
//! `script` tells the story on a `stage` (the lab) with `app` and `client`, `timeline` shows it,
//! `verify` counts at the end, `report` prints and writes the outcome. It knows the agents only
//! by their status and by what a client sees.

pub mod app;
pub mod client;
mod outage;
mod report;
mod script;
mod stage;
#[cfg(test)]
mod tests;
mod timeline;
mod verify;

pub use report::Report;

use crate::{
    cli::Exit,
    config::{Config, Paths},
    status::Paint,
};
use anyhow::Context;
use clap::Args;
use std::{
    hash::{BuildHasher, Hasher},
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
};

/// `lockstep demo`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep demo\n  lockstep demo --report report.json --profile metal\n  \
    lockstep demo --ipv6\n  \
    lockstep demo --keep   then: lockstep lab --name demo exec a -- lockstep status\n\
    Exits with 0 only if nothing acknowledged was lost, never two nodes held the address, and both\n\
    databases are sound and equal."
)]
pub struct DemoArgs {
    /// Write the outcome as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the lab up.
    #[arg(long)]
    keep: bool,
    /// Where each node's data lies: a folder, or a loop-mounted xfs that power-off does not flush (root).
    #[arg(long, default_value = "dir", value_parser = ["dir", "loop"])]
    disk: String,
    /// Timing of both nodes.
    #[arg(long, default_value = "default", value_parser = ["metal", "default", "vm", "mse"])]
    profile: String,
    /// Addresses of IPv6 only: the virtual one, the nodes' own and the targets.
    #[arg(long)]
    ipv6: bool,
    /// Repeats a run: names the orders and chooses the moment of the power loss.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of load before the power loss.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Orders per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// `lockstep demo-app`
#[derive(Debug, Args)]
pub struct AppArgs {
    /// The database; without it, the node's first configured one.
    #[arg(long)]
    database: Option<PathBuf>,
    /// Address and port.
    #[arg(long)]
    listen: SocketAddr,
    /// The agent's socket; without it and --database nobody is waited for.
    #[arg(long, env = "LOCKSTEP_SOCKET")]
    socket: Option<PathBuf>,
    /// The pair.
    #[arg(long, default_value = "lab")]
    pair: String,
    /// The database's name.
    #[arg(long, default_value = "main")]
    db: String,
    /// Answer when COMMIT returns, like a program that knows nothing of Lockstep.
    #[arg(long)]
    trust_commit: bool,
}

/// `lockstep demo-client`
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// The application.
    #[arg(long)]
    target: SocketAddr,
    /// Where acknowledged ids go.
    #[arg(long)]
    acknowledged: PathBuf,
    /// Names the orders.
    #[arg(long)]
    seed: u64,
    /// Orders per second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Concurrent writers.
    #[arg(long, default_value_t = 8)]
    workers: u32,
}

/// `lockstep demo-verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The database.
    database: PathBuf,
    /// The ids that must be in it.
    acknowledged: PathBuf,
}

/// Runs the demonstration.
///
/// # Errors
/// It could not be played to its end.
pub fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let paint = Paint { colour: io::stdout().is_terminal() };
    let seed = args.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
    println!("seed {seed}");
    let report = script::run(args, seed, paint)?;
    if let Some(file) = &args.report {
        let mut text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(if report.passed() { Exit::Done } else { Exit::Failed })
}

/// Runs the application until it is told to stop.
///
/// # Errors
/// Its database, its configuration or its port cannot be had.
pub fn run_app(args: &AppArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let safety = |socket| app::Safety { socket, pair: args.pair.clone(), database: args.db.clone() };
    let (database, safety) = match &args.database {
        Some(database) => (database.clone(), args.socket.clone().map(safety)),
        None => {
            let config = Config::load(&paths.config)?;
            let pair = config.pairs.first().expect("a checked configuration has a pair");
            let database = pair.databases.first().expect("a checked pair has a database");
            let socket = args.socket.clone().unwrap_or_else(|| paths.socket());
            let (pair, name) = (pair.id.to_string(), database.name.to_string());
            let safety = app::Safety { socket, pair, database: name };
            (database.path(config.node.role).to_owned(), Some(safety))
        }
    };
    let safety = safety.filter(|_| !args.trust_commit);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(app::serve(database, args.listen, safety));
    // Requests that still wait for the standby must not hold up the end.
    runtime.shutdown_background();
    served.map(|()| Exit::Done)
}

/// Runs the client until standard input ends.
///
/// # Errors
/// See [`client::run`].
pub fn run_client(args: &ClientArgs) -> anyhow::Result<Exit> {
    let load = client::Load {
        target: args.target,
        workers: args.workers,
        rate_per_s: args.rate,
        seed: args.seed,
        acknowledged: args.acknowledged.clone(),
    };
    client::run(&load, io::stdin(), &mut io::stdout())?;
    Ok(Exit::Done)
}

/// Looks at a node's database and prints what it found.
///
/// # Errors
/// See `verify::verify`.
pub fn run_verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    println!("{}", serde_json::to_string(&verify::verify(&args.database, &args.acknowledged)?)?);
    Ok(Exit::Done)
}

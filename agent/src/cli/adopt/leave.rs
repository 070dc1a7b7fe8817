//! `adopt --leave`: what to remove so that nothing of Lockstep's stays with a database.

use super::super::{Exit, print_json, put};
use super::journal;
use crate::{
    config::{Config, Paths},
    control::{Failure, FailureCode},
};
use lockstep_engine::copy::quarantine;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How a database leaves.
#[derive(Debug, Serialize)]
struct Leaving {
    path: PathBuf,
    /// Pair and name by this node's configuration; null: it is not configured here.
    pair: Option<String>,
    database: Option<String>,
    journal_mode: &'static str,
    /// What to do, in order.
    steps: Vec<String>,
}

pub(super) fn run(database: &Path, rollback: bool, json: bool, paths: &Paths) -> anyhow::Result<Exit> {
    let (path, mut header) = journal::examine(database)?;
    let configured = configured(&path, paths);
    if rollback && header.wal {
        if let Some((pair, name)) = &configured {
            let sentence = format!(
                "{} is still database {name} of pair {pair}: remove it from the configuration of both nodes and restart their agents first",
                path.display()
            );
            return Err(Failure::new(FailureCode::Refused, sentence).into());
        }
        journal::switch(&path, journal::Mode::Delete)?;
        header.wal = false;
    }
    let leaving = Leaving {
        steps: steps(&path, configured.as_ref(), header.wal, paths),
        pair: configured.as_ref().map(|(pair, _)| pair.clone()),
        database: configured.map(|(_, name)| name),
        journal_mode: if header.wal { "WAL" } else { "rollback" },
        path,
    };
    if json {
        print_json(&leaving)?;
    } else {
        let steps = leaving.steps.iter().enumerate().map(|(at, step)| format!("{}. {step}\n", at + 1));
        put(&steps.collect::<String>())?;
    }
    Ok(Exit::Done)
}

/// Pair and name of the database by this node's configuration.
fn configured(path: &Path, paths: &Paths) -> Option<(String, String)> {
    let config = Config::load(&paths.config).ok()?;
    let role = config.node.role;
    let of_it = |file: &Path| file == path || std::fs::canonicalize(file).is_ok_and(|real| real == path);
    config.pairs.iter().find_map(|pair| {
        let database = pair.databases.iter().find(|database| of_it(database.path(role)))?;
        Some((pair.id.to_string(), database.name.to_string()))
    })
}

fn steps(path: &Path, configured: Option<&(String, String)>, wal: bool, paths: &Paths) -> Vec<String> {
    let mut steps = Vec::new();
    match configured {
        Some((pair, name)) => {
            steps.push(format!("remove [[pair.database]] \"{name}\" of pair \"{pair}\" from {} on both nodes; if it is the last one, disable lockstep.service instead", paths.config.display()));
            steps.push("restart the standby's agent, then the active's; on the standby the file is a copy: remove it, or keep it as one".to_owned());
            let pair_dir = paths.state_dir.join(pair);
            steps.push(format!("remove {}", pair_dir.join("mirror").join(name).display()));
            let kept = quarantine::list_blocking(&pair_dir).map(|found| found.kept).unwrap_or_default();
            let kept = kept.iter().filter(|kept| kept.database.as_str() == name).count();
            if kept > 0 {
                steps.push(format!("{kept} kept copies are in quarantine: `lockstep quarantine list`"));
            }
        }
        None => steps.push(format!(
            "{} names no such database on this node: nothing to remove there",
            paths.config.display()
        )),
    }
    steps.push(format!(
        "nothing of Lockstep's lies beside {}: -wal and -shm are SQLite's own",
        path.display()
    ));
    if wal {
        steps.push(format!("it stays in WAL mode, which is as good without Lockstep; to change that, stop the application and run `lockstep adopt {} --leave --rollback-journal`", path.display()));
    }
    steps
}

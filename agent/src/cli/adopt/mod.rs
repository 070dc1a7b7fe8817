//! `adopt`: may an existing database join a pair, what must be done before, and how it leaves again.
//!
//! Looks at files and processes of this machine; works without an agent and without a configuration.
//! Changes nothing but the journal mode, and that only when asked and when nobody has it open.

mod facts;
mod journal;
mod leave;
#[cfg(test)]
mod tests;

use super::{Exit, print_json, put};
use crate::{config::Paths, status::bytes};
use clap::Args;
use facts::Facts;
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep adopt /srv/shop/orders.db\n  \
    lockstep adopt /srv/shop/orders.db --switch-to-wal\n  \
    lockstep adopt /srv/shop/orders.db --leave --rollback-journal\n\
    Run it as root: other users do not see who has the database open.\n\
    Exits with 3 when the database cannot join as it is; the report says what to do.")]
pub(super) struct AdoptArgs {
    /// The database file.
    database: PathBuf,
    /// Put it into WAL mode, if nobody has it open.
    #[arg(long, conflicts_with = "leave")]
    switch_to_wal: bool,
    /// Say what to remove so that the database leaves its pair.
    #[arg(long)]
    leave: bool,
    /// With --leave: also put it back into rollback-journal mode, if nobody has it open.
    #[arg(long, requires = "leave")]
    rollback_journal: bool,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &AdoptArgs, paths: &Paths) -> anyhow::Result<Exit> {
    if args.leave {
        return leave::run(&args.database, args.rollback_journal, args.json, paths);
    }
    if args.switch_to_wal {
        let (real, header) = journal::examine(&args.database)?;
        if !header.wal {
            journal::switch(&real, journal::Mode::Wal)?;
        }
    }
    let facts = Facts::gather(&args.database, &paths.state_dir);
    if args.json {
        print_json(&facts)?;
    } else {
        put(&human(&facts))?;
    }
    let fit = facts.refusal.is_none() && !facts.switch_needed;
    Ok(if fit { Exit::Done } else { Exit::Refused })
}

fn human(facts: &Facts) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "{label:<11}{}", text.replace(|c: char| c.is_control(), " "));
    };
    line("database", &facts.path.display().to_string());
    if let Some(refusal) = &facts.refusal {
        line("refused", refusal);
    }
    if let Some(header) = &facts.header {
        line("journal", header.journal_mode);
        line("size", &format!("{}, pages of {} bytes", bytes(facts.bytes), header.page_size));
        line("written by", &format!("SQLite {}", header.sqlite_version));
    }
    line("owner", &format!("user {}, group {}, mode {}", facts.user, facts.group, facts.mode));
    line("free", &format!("{} beside the database", known(facts.free_bytes)));
    line("", &format!("{} in {}", known(facts.state_free_bytes), facts.state_dir.display()));
    for opener in &facts.open_by {
        line("open by", &format!("process {} ({})", opener.pid, opener.command));
    }
    if facts.open_by.is_empty() {
        line("open by", "nobody that could be seen");
    }
    if facts.unseen_processes > 0 {
        let count = facts.unseen_processes;
        line("", &format!("the files of {count} processes could not be seen: run this as root"));
    }
    for warning in &facts.warnings {
        line("warning", warning);
    }
    if let Some(downtime) = facts.downtime {
        line("downtime", downtime);
    }
    if facts.switch_needed {
        line(
            "next",
            &format!("stop the application, then `lockstep adopt {} --switch-to-wal`", facts.path.display()),
        );
    }
    if let Some(section) = &facts.section {
        let _ = write!(out, "\nAdd to the pair in /etc/lockstep/lockstep.toml on both nodes:\n\n{section}");
    }
    out
}

fn known(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".to_owned(), bytes)
}

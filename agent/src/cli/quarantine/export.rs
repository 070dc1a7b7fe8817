//! `quarantine export`: kept data as one ordinary database file, and its differences as SQL.

use super::entry;
use super::{Exit, print_json, put, show};
use crate::{
    config::Paths,
    control::{Failure, FailureCode},
};
use anyhow::Context;
use clap::Args;
use lockstep_engine::copy::differences::write_script;
use lockstep_engine::{copy::quarantine, durable};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep quarantine export orders /tmp\n  \
    lockstep quarantine export orders /tmp/kept.db --sql /tmp/kept.sql\n\
    The file is an ordinary database without a WAL, checked by SQLite. The script holds statements that\n\
    would bring the rows back; it stops at a row that the other database has by now.")]
pub(super) struct ExportArgs {
    /// Which: as `list` prints it, or the end of that.
    name: String,
    /// The file to write, which must not exist, or a folder for it.
    target: PathBuf,
    /// Also write the differences as SQL to this file, which must not exist.
    #[arg(long, value_name = "FILE")]
    sql: Option<PathBuf>,
    /// Compare with this database file for the SQL, instead of with what both nodes had.
    #[arg(long, value_name = "FILE", requires = "sql")]
    against: Option<PathBuf>,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExportArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let entry = entry::find(paths, &args.name)?;
    let kept = entry.kept()?;
    let target = if args.target.is_dir() {
        args.target.join(format!("{}-{}-{}.db", entry.pair, entry.label(), entry.epoch))
    } else {
        args.target.clone()
    };
    for file in [Some(&target), args.sql.as_ref()].into_iter().flatten() {
        if file.symlink_metadata().is_ok() {
            let sentence = format!("{} exists already: name a file that is to be made", file.display());
            return Err(Failure::new(FailureCode::Refused, sentence).into());
        }
    }
    // Beside the target: the finished file only needs its name there.
    let work = show::work_in(folder(&target))?;
    let exported = if let Some(sql) = &args.sql {
        let opened = show::open(kept, args.against.as_deref(), paths, work.path())?;
        write_sql(&opened, sql, &entry.name())?;
        opened.kept
    } else {
        quarantine::unpack(kept, work.path())?.kept
    };
    quarantine::check(&exported)?;
    durable::publish_file_durably(&exported, &target)
        .with_context(|| format!("cannot write {}", target.display()))?;
    report(args, &target)?;
    Ok(Exit::Done)
}

fn report(args: &ExportArgs, target: &Path) -> anyhow::Result<()> {
    if args.json {
        return print_json(&serde_json::json!({ "database": target, "sql": args.sql, "integrity": "ok" }));
    }
    put(&format!("{} written, its integrity is ok\n", target.display()))?;
    match &args.sql {
        Some(sql) => put(&format!("{} written\n", sql.display())),
        None => Ok(()),
    }
}

fn write_sql(opened: &show::Opened, sql: &Path, name: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", sql.display());
    let work = show::work_in(folder(sql))?;
    let written = work.path().join("script.sql");
    let mut script = BufWriter::new(File::create_new(&written).with_context(failed)?);
    writeln!(script, "-- Brings back what only {name} has.").with_context(failed)?;
    // Rows that only a later state has are somebody else's, not deletions.
    write_script(&show::differences(opened)?, opened.base.is_fork(), &mut script).with_context(failed)?;
    script.flush().with_context(failed)?;
    durable::publish_file_durably(&written, sql).with_context(failed)
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

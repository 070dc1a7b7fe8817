//! `run` and `shim`: start a program with the SQLite shim, or tell how.
//!
//! They find the library beside this program and set the environment; what the library does inside
//! the program is engine/sqlite-shim's. A program that the dynamic linker would start without it is
//! refused, because its commits would return unprotected and nobody would notice.

use super::{Exit, print_json, program, put};
use crate::config::Paths;
use anyhow::{Context, bail};
use clap::Args;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// File name of the library.
const LIBRARY: &str = "liblockstep_sqlite.so";

/// Where packages put it.
const INSTALLED: &str = "/usr/lib/lockstep";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lockstep run -- /usr/bin/shop --listen 0.0.0.0:80\n  lockstep run --strict -- python3 app.py\n\
    Every COMMIT of a replicated database then returns when the standby holds it (docs/shim.md).\n\
    Refused (3) for programs that no library can be loaded into: linked statically, or set-user-ID."
)]
pub(super) struct RunArgs {
    #[command(flatten)]
    wait: Wait,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep shim\n  lockstep shim --print-env >> /etc/default/shop\n  \
    env $(lockstep shim --print-env) python3 app.py")]
pub(super) struct ShimArgs {
    #[command(flatten)]
    wait: Wait,
    /// Print only the environment, one NAME=value a line, as systemd's EnvironmentFile= takes it.
    #[arg(long)]
    print_env: bool,
    /// Print JSON for programs.
    #[arg(long, conflicts_with = "print_env")]
    json: bool,
}

#[derive(Debug, Args)]
struct Wait {
    /// Wait before anybody can read a commit, not after: no reader sees what the standby lacks.
    #[arg(long)]
    strict: bool,
    /// The shim's library, where it is not beside this program or in /usr/lib/lockstep.
    #[arg(long, env = "LOCKSTEP_SHIM", value_name = "FILE")]
    library: Option<PathBuf>,
}

impl Wait {
    /// The library, and what a program's environment needs for it.
    fn environment(&self, paths: &Paths) -> anyhow::Result<(PathBuf, BTreeMap<&'static str, OsString>)> {
        let found = find(self.library.as_deref())?;
        let mut environment = BTreeMap::from([
            ("LD_PRELOAD", preload(&found, std::env::var_os("LD_PRELOAD"))),
            ("LOCKSTEP_SOCKET", socket(paths)),
        ]);
        if self.strict {
            environment.insert("LOCKSTEP_STRICT", "1".into());
        }
        Ok((found, environment))
    }
}

pub(super) fn run(args: &RunArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let (_, environment) = args.wait.environment(paths)?;
    let [name, arguments @ ..] = args.command.as_slice() else { bail!("a command is needed") };
    if let Some(reason) = program::refuses_preload(Path::new(name))? {
        eprintln!(
            "lockstep: {reason}: the shim cannot be loaded into it. Wait with the agent's socket instead (docs/clients.md)."
        );
        return Ok(Exit::Refused);
    }
    // Returns only when the program could not be started.
    let error = Command::new(name).args(arguments).envs(environment).exec();
    Err(error).with_context(|| format!("{} cannot be started", Path::new(name).display()))
}

pub(super) fn shim(args: &ShimArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let (library, environment) = args.wait.environment(paths)?;
    if args.json {
        let text = |value: &OsString| value.to_string_lossy().into_owned();
        let environment: BTreeMap<_, _> = environment.iter().map(|(n, v)| (n, text(v))).collect();
        print_json(&serde_json::json!({ "library": library, "environment": environment }))?;
        return Ok(Exit::Done);
    }
    let lines: String =
        environment.iter().map(|(name, value)| format!("{name}={}\n", value.display())).collect();
    if args.print_env {
        put(&lines)?;
        return Ok(Exit::Done);
    }
    put(&format!(
        "Start a program with the shim:\n  lockstep run -- COMMAND\nor with this environment (lockstep shim --print-env):\n{}\
         or load it into one connection, from SQL:\n  SELECT load_extension('{}');\n",
        lines.lines().map(|line| format!("  {line}\n")).collect::<String>(),
        library.with_extension("").display(),
    ))?;
    Ok(Exit::Done)
}

/// The agent's socket; an application that the agent starts is told it.
fn socket(paths: &Paths) -> OsString {
    let told = std::env::var_os("LOCKSTEP_SOCKET").filter(|socket| !socket.is_empty());
    told.unwrap_or_else(|| paths.socket().into_os_string())
}

/// Puts the library first in whatever is preloaded already.
fn preload(library: &Path, others: Option<OsString>) -> OsString {
    let mut all = library.as_os_str().to_owned();
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        all.push(":");
        all.push(others);
    }
    all
}

/// Beside this program, in Cargo's folder of libraries, or where packages put it.
fn find(chosen: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("/proc is needed to find the shim's library")?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let places = match chosen {
        Some(chosen) => vec![std::path::absolute(chosen)?],
        None => [beside, &beside.join("deps"), Path::new(INSTALLED)].map(|dir| dir.join(LIBRARY)).to_vec(),
    };
    let Some(found) = places.iter().find(|place| place.is_file()) else {
        let list: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        bail!("the shim's library is not at {}: name it with --library", list.join(" nor at "));
    };
    // The dynamic linker splits LD_PRELOAD at both and knows no escape.
    if found.as_os_str().as_encoded_bytes().iter().any(|byte| b": ".contains(byte)) {
        bail!("{} cannot be preloaded: its path must hold neither space nor colon", found.display());
    }
    Ok(found.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn what_is_preloaded_already_stays_behind_the_shim() {
        assert_eq!(preload(Path::new("/s.so"), None), OsStr::new("/s.so"));
        assert_eq!(preload(Path::new("/s.so"), Some("".into())), OsStr::new("/s.so"));
        assert_eq!(preload(Path::new("/s.so"), Some("/a.so".into())), OsStr::new("/s.so:/a.so"));
    }

    #[test]
    fn a_library_that_is_not_there_or_cannot_be_named_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a b.so");
        assert!(find(Some(&file)).unwrap_err().to_string().contains("--library"));
        std::fs::write(&file, "").expect("it is written");
        assert!(find(Some(&file)).unwrap_err().to_string().contains("neither space nor colon"));
    }
}

//! `completions` and `man`: generated from the command line itself.

use super::{Cli, Exit, put};
use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep completions bash > /etc/bash_completion.d/lockstep")]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep man | man -l -\n  lockstep man /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write one page per verb into this folder instead of printing the main one.
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lockstep", &mut script);
    put(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    match &args.dir {
        Some(dir) => {
            clap_mangen::generate_to(Cli::command(), dir).with_context(|| {
                format!("{}: the pages cannot be written: it must be a folder", dir.display())
            })?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            put(&String::from_utf8(page)?)?;
        }
    }
    Ok(Exit::Done)
}

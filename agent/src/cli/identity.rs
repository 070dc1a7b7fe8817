//! `identity`: the node's certificate, made once. Works without an agent.

use super::{Exit, print_json, put};
use crate::config::Paths;
use anyhow::Context;
use clap::Args;
use lockstep_engine::link::{CERTIFICATE_FILE, Identity, KEY_FILE};
use serde_json::json;
use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep identity\n  lockstep identity --json | jq -r .fingerprint\n\
    Run it on both nodes and put each fingerprint into the other's `peer_fingerprint`.")]
pub(super) struct IdentityArgs {
    /// Make a new one in place of the old: the peer refuses this node until it pins the new one.
    #[arg(long)]
    replace: bool,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &IdentityArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let dir = &paths.state_dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!("{} cannot be made: choose another --state-dir or become root", dir.display())
    })?;
    // Half an identity is damage, which `load` names; only a node without any gets a new one.
    let identity = match (args.replace, present(paths)) {
        (true, _) => make(paths, true)?,
        (false, true) => Identity::load(dir)?,
        (false, false) => make(paths, false)?,
    };
    let (fingerprint, node) = (identity.fingerprint().to_string(), identity.node_id().to_string());
    if args.json {
        print_json(&json!({ "fingerprint": fingerprint, "node": node }))?;
    } else {
        put(&format!("{fingerprint}\n"))?;
    }
    Ok(Exit::Done)
}

fn present(paths: &Paths) -> bool {
    [KEY_FILE, CERTIFICATE_FILE].iter().any(|name| paths.state_dir.join(name).symlink_metadata().is_ok())
}

fn make(paths: &Paths, replace: bool) -> anyhow::Result<Identity> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = Identity::generate(&name)?;
    identity.save(&paths.state_dir, replace)?;
    Ok(identity)
}

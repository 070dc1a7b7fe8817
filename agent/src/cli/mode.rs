//! `maintenance` and `observe`: what a node may do by itself.

use super::{Exit, operate};
use crate::{config::Paths, control::Request};
use clap::{Args, ValueEnum};

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// From now on, also after a restart of the agent.
    On,
    /// No longer.
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep maintenance on\n  lockstep maintenance off\n\
    On either node, for both: the other one hears of it and keeps to it when this one falls silent.\n\
    `lockstep switchover` and `lockstep failover` go on working.")]
pub(super) struct MaintenanceArgs {
    switch: Switch,
    #[command(flatten)]
    common: operate::Common,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep observe on\n  lockstep observe off\n\
    For this node only. With `observe = true` in the configuration of both nodes Lockstep also leaves the virtual\n\
    address and the applications alone, for instance beside a program that runs without it.")]
pub(super) struct ObserveArgs {
    switch: Switch,
    #[command(flatten)]
    common: operate::Common,
}

pub(super) fn maintenance(args: MaintenanceArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let on = args.switch == Switch::On;
    operate::perform(args.common, paths, |pair| Request::Maintenance { pair, on })
}

pub(super) fn observe(args: ObserveArgs, paths: &Paths) -> anyhow::Result<Exit> {
    let on = args.switch == Switch::On;
    operate::perform(args.common, paths, |pair| Request::Observe { pair, on })
}

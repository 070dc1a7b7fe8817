//! Why an operator's request is refused: one clear sentence each, with the command that resolves it.

use lockstep_wire::Epoch;
use std::time::Duration;

/// A named refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It already serves.
    #[error("this node is already active under epoch {0}: nothing to do")]
    AlreadyActive(Epoch),
    /// It is in the middle of something.
    #[error("this node is {0}: wait until it is done, see `lockstep status`")]
    Busy(&'static str),
    /// A failover while the peer speaks.
    #[error("the peer was heard {} ms ago: use `lockstep switchover`, which loses nothing", heard.as_millis())]
    PeerAlive {
        /// How long ago.
        heard: Duration,
    },
    /// The wait for the other's lease is not over.
    #[error("the other node's lease may last {} ms more: repeat `lockstep failover` then", left.as_millis())]
    LeaseMayLast {
        /// How long.
        left: Duration,
    },
    /// No valid grant and no acceptance of loss.
    #[error(
        "no valid grant ({position}): the loss is 0 if the peer died before its grant ended, otherwise unknown; confirm that the peer is off and use `lockstep failover --accept-loss`"
    )]
    MayLose {
        /// What is known of the last position.
        position: String,
    },
    /// Nothing to serve.
    #[error(
        "this node holds no complete copy: wait for `lockstep status` to say in sync, or start the other node"
    )]
    NoCopy,
    /// It sees too few targets.
    #[error(
        "only {answered} of {of} targets answer here: this node may be the one that is cut off; repair the LAN, then repeat"
    )]
    NoMajority {
        /// How many.
        answered: u32,
        /// Of how many.
        of: u32,
    },
    /// The standby is not in sync.
    #[error("the standby is not in sync: wait until `lockstep status` says so; the copy goes on")]
    NotInSync,
    /// The peer is not heard.
    #[error(
        "the peer is not heard: a switchover needs both nodes; use `lockstep failover` on the standby if the active is off"
    )]
    PeerSilent,
    /// It decides and logs, and moves nothing.
    #[error("this node only observes: `lockstep observe off` first, or set `observe = false`")]
    Observing,
    /// A failback where nothing is to be returned.
    #[error("the configured primary already serves: nothing to fail back")]
    AtHome,
}

impl Refusal {
    /// A stable word for `--json`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AlreadyActive(_) => "already-active",
            Self::Busy(_) => "busy",
            Self::PeerAlive { .. } => "peer-alive",
            Self::LeaseMayLast { .. } => "lease-may-last",
            Self::MayLose { .. } => "may-lose",
            Self::NoCopy => "no-copy",
            Self::NoMajority { .. } => "no-majority",
            Self::NotInSync => "not-in-sync",
            Self::PeerSilent => "peer-silent",
            Self::Observing => "observing",
            Self::AtHome => "at-home",
        }
    }
}

//! What the machine is told. Facts cannot be refused; requests of an operator can.

use crate::lease::Lapse;
use crate::time::Time;
use crate::witness::Answer;
use lockstep_wire::{DatabaseName, Heartbeat, Position};
use std::time::Duration;

/// A way heartbeats travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The cable between the two nodes.
    Direct,
    /// The network that carries the VIP.
    Lan,
}

impl Path {
    /// Both, in order of preference.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Lan];

    /// For logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct link",
            Self::Lan => "LAN",
        }
    }
}

/// What five VIP probes brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VipProbe {
    /// Nobody answered.
    Silent,
    /// The peer's MAC answered.
    PeerMac,
    /// A MAC that belongs to neither node answered.
    ForeignMac,
    /// Our own MAC answered (the address is still ours).
    Own,
}

/// Something that is so, or has happened. The machine takes every fact at every time.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed; due after [`crate::Machine::poll_timeout`].
    Tick,
    /// The state of the last step is on disk.
    Persisted,
    /// First event of a life: what an earlier life left in the kernel.
    Leftovers {
        /// The VIP is configured here.
        vip: bool,
        /// How long the guard's element still lives; `None`: no element.
        lease_left: Option<Duration>,
    },
    /// A heartbeat or echo came in, opened and checked. Order of arrival.
    HeartbeatReceived {
        /// Where.
        path: Path,
        /// What it says.
        heartbeat: Heartbeat,
        /// Kernel receive time.
        received_at: Time,
    },
    /// The ARP announcement of an R2 renewal by the peer was seen: counts like a heartbeat in the wait.
    PeerAnnounced {
        /// Kernel receive time.
        received_at: Time,
    },
    /// The heartbeat thread did not run for this long up to `until` (its own stall).
    Stalled {
        /// When it ran again.
        until: Time,
        /// How long it did not run.
        lasted: Duration,
    },
    /// Heartbeat keys exist (true), or none yet. Without keys a peer is unknown, never dead.
    LinkKeys(bool),
    /// The heartbeat thread speaks by this voice now; everything it received before was reported before.
    HeartbeatSet {
        /// [`crate::Voice::revision`].
        revision: u64,
        /// When it last sent a grant, in this life of the agent.
        last_grant_sent: Option<Time>,
    },
    /// The lease opened: the VIP answers.
    LeaseOpened,
    /// The lease ended.
    LeaseLapsed(Lapse),
    /// A round of probes to the target list is over.
    TargetsMajority {
        /// When the round was sent.
        sent_at: Time,
        /// How many answered.
        answered: u32,
        /// How many there are.
        of: u32,
    },
    /// [`crate::Action::ProbeVip`] is over.
    VipProbed {
        /// When the first probe was sent.
        sent_at: Time,
        /// The outcome.
        result: VipProbe,
    },
    /// [`crate::Action::SendIntentPings`] is over; answers came as heartbeats before it.
    IntentPingsDone,
    /// [`crate::Action::AskWitness`] is over.
    WitnessAnswered {
        /// Of the question.
        number: u64,
        /// What came of it.
        answer: Answer,
    },
    /// [`crate::Action::FencePeer`] is over: the peer is confirmed off, or why that is not known.
    PeerFenced(Result<(), String>),
    /// A foreign MAC announced or defended the VIP.
    ForeignArp,
    /// Carrier of an interface. Loss only starts the collecting of evidence.
    Carrier {
        /// Which.
        path: Path,
        /// Present.
        up: bool,
    },
    /// Active: the standby follows (true), or not (connection lost, copying).
    EngineInSync(bool),
    /// Active, after [`crate::Engine::HoldCommits`]: everything acknowledged so far is durable on
    /// the standby, and from now on nothing is acknowledged alone.
    StandbyDurable,
    /// Active, after [`crate::Engine::Drain`]: every commit is durable on the standby, capture stopped.
    Drained,
    /// Where a database stands (for lineage and questions).
    At {
        /// Which.
        database: DatabaseName,
        /// Its last position: published (active) or durable (standby).
        position: Position,
    },
    /// Commits acknowledged or written solo so far.
    SoloCommits(u64),
    /// After BecomeActive or Promote: mirror opened, capture running. After BecomeStandby: ready to follow.
    EngineReady,
    /// The engine could not do what it was told.
    EngineFailed(String),
    /// Standby: a first copy or resync is complete (true) or has begun (false). Also once at the
    /// start, by what the disk holds: without a complete copy no operator can force this node.
    CopyComplete(bool),
    /// The peer refuses the data connection.
    PeerRefused(String),
    /// The VIP is configured, silent.
    VipAdded,
    /// Established connections of the VIP are ended.
    VipSocketsEnded,
    /// The guard's element is gone.
    LeaseElementDeleted,
    /// The VIP was read back as absent.
    VipGone,
    /// An effect failed; the machine repeats or holds.
    EffectFailed(String),
    /// The application's start command returned.
    AppStarted,
    /// The application answers its health check.
    AppHealthy,
    /// The application failed after its restarts.
    AppFailed(String),
    /// The application is down.
    AppStopped,
    /// The disk of a database fails (why), or works again (`None`).
    DatabaseDisk(Option<String>),
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Planned and lossless: the other node serves.
    Switchover,
    /// Serve here although the peer is silent.
    Failover {
        /// The operator accepts that acknowledged commits may be missing.
        accept_loss: bool,
    },
    /// A switchover that returns to the configured primary.
    Failback,
    /// Decide and log, act on nothing.
    Observe(bool),
    /// No automatic move, on either node.
    Maintenance(bool),
}

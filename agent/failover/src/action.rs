//! What the machine wants done. Every action is idempotent: the effect first asks whether it is
//! already so. Completion comes back as the [`crate::Event`] named beside it.

use crate::lease::Permit;
use crate::time::Time;
use crate::witness::Claim;
use lockstep_wire::{Epoch, Intent};
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Life goes on.
    Info,
    /// Protection is less than configured.
    Warning,
    /// Somebody must look now.
    Critical,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// One readable sentence with its evidence: a decision or a non-decision.
    Log {
        /// Row of the table, or a step's name.
        row: &'static str,
        /// How much it matters; what is critical is also an alarm.
        severity: Severity,
        /// The sentence.
        sentence: String,
    },
    /// The round trip endangers the lease (row 18), whatever else holds; `None`: no longer. Given once
    /// per change.
    RoundTripAlarm(Option<(Severity, String)>),
    /// The witness is not reached, whatever else holds; `None`: it is again. Given once per change.
    WitnessAlarm(Option<String>),
    /// A question only the operator can answer; `None` withdraws it.
    Question(Option<String>),
    /// Hand this to the heartbeat thread; it answers [`crate::Event::HeartbeatSet`]. Also the
    /// refresh of the permit and the sign that the machine lives, at least once a second.
    SetHeartbeat(Voice),
    /// Announce by ARP if the lease is open, then hand the probe's time to the heartbeat thread (R2).
    RenewAlone {
        /// When the answered majority probe was sent.
        probe_sent_at: Time,
    },
    /// Probe the target list each heartbeat period (true), or stop. [`crate::Event::TargetsMajority`].
    ProbeTargets(bool),
    /// Five ARP probes for the VIP, 10 ms apart. [`crate::Event::VipProbed`].
    ProbeVip,
    /// Ten heartbeats with the present voice per path, 4 ms apart. [`crate::Event::IntentPingsDone`]
    /// one round trip after the last, after everything that came in.
    SendIntentPings,
    /// Ask the witness; one at a time, in order. [`crate::Event::WitnessAnswered`] within a bounded time, also
    /// when it cannot be reached.
    AskWitness {
        /// Names the question.
        number: u64,
        /// What is wished.
        claim: Claim,
    },
    /// Power the peer off and make sure that it is. [`crate::Event::PeerFenced`] within a bounded time.
    FencePeer,
    /// To the data path.
    Engine(Engine),
    /// Configure the VIP; the guard stays shut. [`crate::Event::VipAdded`].
    AddVipSilent,
    /// The lease is open: announce the VIP, at 0, 50, 200 ms, 1.1 s, 5 s, then each 30 s.
    Announce,
    /// End the VIP's connections while it still answers. [`crate::Event::VipSocketsEnded`].
    EndVipSockets,
    /// Shut the guard. [`crate::Event::LeaseElementDeleted`].
    DeleteLeaseElement,
    /// Delete the VIP and read back. [`crate::Event::VipGone`].
    DeleteVip,
    /// [`crate::Event::AppStarted`], then `AppHealthy` or `AppFailed`.
    StartApp,
    /// Politely, with its stop timeout, then by force. [`crate::Event::AppStopped`].
    StopApp,
    /// At once. [`crate::Event::AppStopped`].
    KillApp,
    /// Report foreign ARP for the VIP ([`crate::Event::ForeignArp`], `PeerAnnounced`) from now on.
    ConflictWatch(bool),
}

/// What the data path is told. It knows epoch and role, never why they changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Capture and send under this epoch; commits wait until the standby holds them. `EngineReady`.
    BecomeActive {
        /// The epoch.
        epoch: Epoch,
    },
    /// Refuse frames older than this epoch, then open the mirror as sole opener and capture. `EngineReady`.
    Promote {
        /// The epoch.
        epoch: Epoch,
    },
    /// Follow the peer; keep in quarantine what diverged. `EngineReady`.
    BecomeStandby {
        /// The epoch to accept.
        epoch: Epoch,
    },
    /// Acknowledge commits alone: solo is durable.
    AllowSolo {
        /// The epoch.
        epoch: Epoch,
    },
    /// Acknowledge nothing alone any more. `StandbyDurable`, once.
    HoldCommits,
    /// Everything to the standby, then stop capturing. `Drained`.
    Drain,
    /// Stop both directions; commits wait or are refused before they begin.
    Stop,
}

/// What the heartbeat thread says and may do, until the next one. Valid for
/// [`crate::profile::PERMIT_AGE`] after `at`; then it lapses and falls silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Voice {
    /// Grows when anything but `at` changes.
    pub revision: u64,
    /// When the machine last said so.
    pub at: Time,
    /// Our epoch.
    pub epoch: Epoch,
    /// We serve.
    pub active: bool,
    /// We acknowledge alone, or are about to.
    pub solo: bool,
    /// We may lack acknowledged commits.
    pub outdated: bool,
    /// How long a grant lasts after what it echoes; `None`: no grant.
    pub grant: Option<Duration>,
    /// What we intend.
    pub intent: Intent,
    /// Counter of the intent's epoch.
    pub intent_counter: u64,
    /// For the operator.
    pub solo_commits: u64,
    /// We stand by and may be handed the service: LAN, targets, disk and application let us.
    pub fit: bool,
    /// Automatic moves are off.
    pub hands_off: bool,
    /// False: from an intent until its durable cancellation nothing is echoed.
    pub echo: bool,
    /// A lapsed in-sync node that has heard nothing for the detection time is silent.
    pub silent_when_deaf: bool,
    /// The right to hold the lease.
    pub permit: Option<Permit>,
}

/// Of what is said; the revision only tells one voice from the next.
impl Hash for Voice {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.at, self.epoch, self.active, self.solo, self.outdated, self.grant).hash(state);
        (self.intent, self.intent_counter, self.solo_commits, self.echo).hash(state);
        (self.silent_when_deaf, self.permit, self.fit, self.hands_off).hash(state);
    }
}

//! A machine alone, told fact by fact.

use crate::words::{OURS, from_peer, ms, timing};
use lockstep_failover::{
    Action, Config, Engine, Event, FailoverType, Machine, PairState, Path, Proof, Role, SoloAfter, Step, Time,
};
use lockstep_wire::{Heartbeat, NodeId};
use std::time::Duration;

/// One machine whose writes succeed at once and whose heartbeat thread obeys at once.
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) now: Time,
    pub(crate) actions: Vec<Action>,
    pub(crate) written: Vec<PairState>,
    sequence: u64,
    pub(crate) auto: bool,
}

impl Rig {
    pub(crate) fn new(role: Role, state: PairState) -> Self {
        Self::with(role, state, SoloAfter::default())
    }

    pub(crate) fn with(role: Role, state: PairState, solo_after: SoloAfter) -> Self {
        Self::configured(role, state, |config| config.solo_after = solo_after)
    }

    pub(crate) fn configured(role: Role, state: PairState, change: impl Fn(&mut Config)) -> Self {
        let mut config = Config {
            node: NodeId(if role == Role::Primary { 1 } else { 2 }),
            session: OURS,
            role,
            timing: timing(),
            failover: FailoverType::Automatic,
            application: true,
            open_early: None,
            release_timeout: Duration::from_secs(10),
            solo_after: SoloAfter::default(),
            failback_after: None,
            witness: false,
            fence: false,
        };
        change(&mut config);
        let machine = Machine::new(config, state, ms(1_000));
        let mut rig = Self {
            machine,
            now: ms(1_000),
            actions: Vec::new(),
            written: Vec::new(),
            sequence: 0,
            auto: true,
        };
        rig.tell(Event::Leftovers { vip: false, lease_left: None });
        rig.tell(Event::LinkKeys(true));
        rig
    }

    pub(crate) fn tell(&mut self, event: Event) {
        let mut step = self.machine.handle(self.now, event);
        loop {
            match step {
                Step::Ready(actions) => return self.obey(actions),
                Step::Persist(pending) => {
                    let state = pending.state().clone();
                    let proof = Proof::by_writing(&state, |_| Ok::<(), ()>(())).expect("written");
                    self.written.push(state);
                    let actions = pending.persisted(proof);
                    self.obey(actions);
                    step = self.machine.handle(self.now, Event::Persisted);
                }
            }
        }
    }

    pub(crate) fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.actions.push(action.clone());
            if !self.auto {
                continue;
            }
            match action {
                Action::SetHeartbeat(voice) => {
                    let last_grant_sent = voice.grant.map(|_| self.now);
                    self.tell(Event::HeartbeatSet { revision: voice.revision, last_grant_sent });
                    if voice.permit.is_some() {
                        self.tell(Event::LeaseOpened);
                    }
                }
                Action::Engine(Engine::HoldCommits) => self.tell(Event::StandbyDurable),
                Action::Engine(Engine::Drain) => self.tell(Event::Drained),
                Action::Engine(_) => self.tell(Event::EngineReady),
                Action::AddVipSilent => self.tell(Event::VipAdded),
                Action::EndVipSockets => self.tell(Event::VipSocketsEnded),
                Action::DeleteLeaseElement => self.tell(Event::LeaseElementDeleted),
                Action::DeleteVip => self.tell(Event::VipGone),
                Action::StartApp => self.tell(Event::AppHealthy),
                Action::StopApp | Action::KillApp => self.tell(Event::AppStopped),
                _ => {}
            }
        }
    }

    /// The peer speaks on both paths, echoing what we send now.
    pub(crate) fn peer(&mut self, change: impl Fn(&mut Heartbeat)) {
        self.peer_on(&Path::ALL, change);
    }

    /// The same on some paths.
    pub(crate) fn peer_on(&mut self, paths: &[Path], change: impl Fn(&mut Heartbeat)) {
        self.sequence += 1;
        let mut heartbeat = from_peer(self.sequence, self.now.as_us() / 1_000);
        heartbeat.outdated = true;
        change(&mut heartbeat);
        for &path in paths {
            self.tell(Event::HeartbeatReceived { path, heartbeat, received_at: self.now });
        }
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.tell(Event::TargetsMajority { sent_at: self.now, answered: 3, of: 3 });
    }

    /// An active node in sync with its standby.
    pub(crate) fn active() -> Self {
        Self::active_with(|_| {})
    }

    /// The same, configured otherwise.
    pub(crate) fn active_with(change: impl Fn(&mut Config)) -> Self {
        let mut rig = Self::configured(Role::Primary, PairState::new(), change);
        rig.wait(100);
        rig.peer(|beat| (beat.epoch_counter, beat.epoch_node) = (0, 0));
        rig.wait(100);
        rig.peer(|_| {});
        rig.tell(Event::EngineInSync(true));
        assert!(rig.machine.status().in_sync, "{:?}", rig.machine.status());
        rig
    }

    /// A standby in sync under a grant.
    pub(crate) fn standby() -> Self {
        Self::standby_with(|_| {})
    }

    pub(crate) fn standby_with(change: impl Fn(&mut Config)) -> Self {
        let mut rig = Self::configured(Role::Secondary, PairState::new(), change);
        rig.wait(100);
        for _ in 0..2 {
            rig.peer(|beat| {
                (beat.active, beat.outdated, beat.grant_us) = (true, false, 1_700_000);
            });
        }
        assert!(rig.machine.status().in_sync, "{:?}", rig.machine.status());
        rig
    }

    pub(crate) fn position(&self, wanted: impl Fn(&Action) -> bool) -> Option<usize> {
        self.actions.iter().position(wanted)
    }
}

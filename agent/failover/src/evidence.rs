//! What one node knows, each fact with its age, and how the table sees it.
//!
//! Facts only come in here; nothing is decided. Old facts stay until newer ones replace them and
//! are judged by their age at the moment of the decision.

use crate::detector::Detector;
use crate::event::{Path, VipProbe};
use crate::grant::ReceivedGrant;
use crate::profile::Timing;
use crate::round_trip::RoundTrips;
use crate::table::{Peer, Vip};
use crate::time::Time;
use lockstep_wire::{Epoch, Heartbeat, Position, SessionId};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// The peer's newest word.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Word {
    /// What it said.
    pub heartbeat: Heartbeat,
    /// When it came in.
    pub at: Time,
}

impl Word {
    /// Hashes what it decides at a node of `session`: its words, and which moment of ours it echoes.
    fn hash_for<H: Hasher>(&self, session: SessionId, state: &mut H) {
        let said = &self.heartbeat;
        let echoed = (said.echo_session == session.0).then(|| Time::from_us(said.echo_sent_us));
        (self.at, echoed, said.epoch(), said.active, said.solo, said.outdated).hash(state);
        (said.grant_us, said.intent, said.intent_counter, said.fit, said.hands_off).hash(state);
    }
}

/// The newest round of target probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Majority {
    /// When it was sent.
    pub sent_at: Time,
    /// How many answered.
    pub answered: u32,
    /// Of how many.
    pub of: u32,
    /// Since when every round had a majority; `None`: this one has not.
    pub since: Option<Time>,
}

/// All facts of one node.
#[derive(Debug, Clone)]
pub struct Evidence {
    session: SessionId,
    /// Silence.
    pub detector: Detector,
    /// What the peer granted.
    pub grant: ReceivedGrant,
    /// The peer's newest word.
    pub word: Option<Word>,
    /// Former sessions of the peer.
    former: Vec<u64>,
    /// Newest own send time the peer echoed, and at which epoch of the peer.
    pub echoed: Option<(Time, Epoch)>,
    /// How long answers take.
    pub round_trips: RoundTrips,
    /// Targets.
    pub majority: Option<Majority>,
    /// The VIP probe of the present attempt: when sent, what came.
    pub vip: Option<(Time, VipProbe)>,
    /// Foreign ARP for the VIP.
    pub foreign_at: Option<Time>,
    /// Active: the standby follows; since when it is so or not.
    pub engine_in_sync: bool,
    /// See `engine_in_sync`.
    pub in_sync_changed: Time,
    /// Standby: the copy is complete.
    pub copy_complete: bool,
    /// The lease is open, as reported.
    pub lease_open: bool,
    /// The application failed after its restarts.
    pub app_failed: bool,
    /// When it last did, in this life of the agent.
    pub app_failed_at: Option<Time>,
    /// Why the database's disk fails; `None`: it does not.
    pub disk_fault: Option<String>,
    /// The VIP's interface has a carrier.
    pub lan_carrier: bool,
    /// Since when no round of probes has had a majority.
    pub majority_lost: Option<Time>,
    /// The permit had grown too old.
    pub permit_old: bool,
    /// Solo commits so far.
    pub solo_commits: u64,
    /// Positions.
    pub positions: BTreeMap<String, Position>,
}

/// Of what decides; see `machine/alike.rs` for what is left out.
impl Hash for Evidence {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.detector, self.grant, self.echoed, self.majority).hash(state);
        if let Some(word) = &self.word {
            word.hash_for(self.session, state);
        }
        (self.vip, self.foreign_at, self.engine_in_sync, self.in_sync_changed).hash(state);
        (self.copy_complete, self.lease_open, self.app_failed, self.permit_old).hash(state);
        (self.app_failed_at, self.disk_fault.is_some(), self.lan_carrier, self.majority_lost).hash(state);
    }
}

impl Evidence {
    /// Knows nothing at `now`.
    pub fn new(session: SessionId, timing: &Timing, now: Time) -> Self {
        Self {
            session,
            detector: Detector::new(timing, now),
            grant: ReceivedGrant::default(),
            word: None,
            former: Vec::new(),
            echoed: None,
            round_trips: RoundTrips::default(),
            majority: None,
            vip: None,
            foreign_at: None,
            engine_in_sync: false,
            in_sync_changed: now,
            copy_complete: false,
            lease_open: false,
            app_failed: false,
            app_failed_at: None,
            disk_fault: None,
            lan_carrier: true,
            majority_lost: None,
            permit_old: false,
            solo_commits: 0,
            positions: BTreeMap::new(),
        }
    }

    /// Takes a heartbeat. True when it is the newest word of the peer's present session.
    pub fn on_heartbeat(
        &mut self,
        path: Path,
        heartbeat: &Heartbeat,
        at: Time,
        epoch: Epoch,
        timing: &Timing,
    ) -> bool {
        if heartbeat.session == 0 || self.former.contains(&heartbeat.session) {
            return false;
        }
        let us = |us: u32| Duration::from_micros(u64::from(us));
        self.detector.on_heard(path, at, us(heartbeat.lease_us), us(heartbeat.period_us));
        if heartbeat.echo_session == self.session.0 && heartbeat.echo_sent_us != 0 {
            let echo = (Time::from_us(heartbeat.echo_sent_us), heartbeat.epoch());
            let trip = at.since(echo.0).saturating_sub(us(heartbeat.echo_held_us));
            self.round_trips.on_answer(path, trip, at, timing);
            if self.echoed.is_none_or(|(sent, _)| echo.0 >= sent) {
                self.echoed = Some(echo);
            }
        }
        let newest = match self.word {
            Some(word) if word.heartbeat.session == heartbeat.session => {
                heartbeat.sequence > word.heartbeat.sequence
            }
            Some(word) => {
                self.former.truncate(3);
                self.former.insert(0, word.heartbeat.session);
                true
            }
            None => true,
        };
        if newest {
            self.word = Some(Word { heartbeat: *heartbeat, at });
            self.grant.on_heartbeat(heartbeat, self.session, epoch);
        }
        newest
    }

    /// Takes a round of target probes. True when it has a majority.
    pub fn on_targets(&mut self, sent_at: Time, answered: u32, of: u32) -> bool {
        if self.majority.is_some_and(|last| sent_at < last.sent_at) {
            return false;
        }
        let won = answered * 2 > of;
        self.majority_lost = if won { None } else { self.majority_lost.or(Some(sent_at)) };
        let since = self.majority.and_then(|last| last.since).unwrap_or(sent_at);
        self.majority = Some(Majority { sent_at, answered, of, since: won.then_some(since) });
        won
    }

    /// Since when a majority has answered without a gap, if the newest round is recent.
    pub fn majority_since(&self, timing: &Timing, now: Time) -> Option<Time> {
        let fresh = timing.dead_after.max(timing.period * 3);
        self.majority.filter(|last| now < last.sent_at + fresh).and_then(|last| last.since)
    }

    /// The peer, as the table sees it.
    pub fn peer(&self, timing: &Timing, now: Time) -> Peer {
        let alive = |path| self.detector.is_alive_on(path, timing, now);
        if !alive(Path::Direct) && !alive(Path::Lan) {
            return if self.detector.knows_peer() { Peer::Nothing } else { Peer::Unknown };
        }
        if !self.peer_hears_us(timing, now) {
            return Peer::Deaf;
        }
        match (alive(Path::Direct), alive(Path::Lan)) {
            (true, true) => Peer::Both,
            (true, false) => Peer::DirectOnly,
            _ => Peer::LanOnly,
        }
    }

    /// Does the peer echo something recent of ours?
    pub fn peer_hears_us(&self, timing: &Timing, now: Time) -> bool {
        self.echoed.is_some_and(|(sent, _)| now < sent + timing.dead_after + timing.period)
    }

    /// Does the peer echo us at `epoch`, recently enough for a lease?
    pub fn echo_at(&self, epoch: Epoch, timing: &Timing, now: Time) -> bool {
        self.echoed.is_some_and(|(sent, at)| at == epoch && now < sent + timing.lease)
    }

    /// The VIP, as the table sees it. Our own MAC counts as nobody.
    pub fn vip(&self) -> Vip {
        match self.vip {
            None => Vip::Unasked,
            Some((_, VipProbe::Silent | VipProbe::Own)) => Vip::Silent,
            Some((_, VipProbe::PeerMac)) => Vip::PeerMac,
            Some((_, VipProbe::ForeignMac)) => Vip::Foreign,
        }
    }

    /// The evidence in words, for logs and questions.
    pub fn sentence(&self, timing: &Timing, now: Time) -> String {
        let heard = |path: Path| match self.detector.heard_on(path) {
            Some(at) => format!("{} heard {} ms ago", path.name(), now.since(at).as_millis()),
            None => format!("{} never heard", path.name()),
        };
        let targets = match self.majority {
            Some(round) => format!(
                "{} of {} targets {} ms ago",
                round.answered,
                round.of,
                now.since(round.sent_at).as_millis()
            ),
            None => "targets not probed".to_owned(),
        };
        let grant = match self.grant.remaining(now) {
            Some(left) => format!("grant {} ms left", left.as_millis()),
            None => "no grant".to_owned(),
        };
        let hears = if self.peer_hears_us(timing, now) { "peer hears us" } else { "peer does not hear us" };
        let vip = match self.vip {
            Some((at, result)) => format!("VIP probe {result:?} {} ms ago", now.since(at).as_millis()),
            None => "VIP not probed".to_owned(),
        };
        let (direct, lan) = (heard(Path::Direct), heard(Path::Lan));
        format!("{direct}, {lan}, {hears}, {targets}, {grant}, {vip}")
    }
}

//! The failover machine of one pair on one node: facts in, decisions out.
//!
//! Each event is noted in [`Evidence`]; then the present [`Phase`] is advanced, one file per
//! concern: `cold_start` (neither active nor standby), `standby`, `promote`, `opening` (from the
//! right to write to a served address), `active`, `release`. What the node says in its heartbeats
//! follows from phase and durable state alone (`voice`). While a state is on its way to disk,
//! facts are noted and nothing is decided.

mod active;
mod alike;
mod cold_start;
mod explain;
mod forecast;
mod moves;
mod note;
mod opening;
mod promote;
mod release;
mod request;
mod round_trip;
mod standby;
mod view;
mod voice;
mod witness;

pub use explain::Fact;
pub use forecast::{Forecast, Foreseen};

use crate::action::{Action, Severity, Voice};
use crate::event::{Event, Path};
use crate::evidence::Evidence;
use crate::grant::SentGrant;
use crate::profile::Timing;
use crate::round_trip::Pace;
use crate::solo::SoloAfter;
use crate::state::{Fork, LINEAGE_MAX, PairState, Was};
use crate::status::{State, Status};
use crate::step::{Pending, Step};
use crate::table::{Row, Verdict};
use crate::time::Time;
use lockstep_wire::{Epoch, Intent, NodeId, SessionId};
use std::time::Duration;

/// The permit is refreshed this often: five times within its age limit.
const REFRESH: Duration = Duration::from_secs(1);
/// Unfinished effects are asked for again this often.
const RETRY: Duration = Duration::from_secs(1);
/// An agent listens at least this long after its start for its peer before it judges that it is alone:
/// the data connection that brings the heartbeat keys must have had time to come up.
const LISTEN_MIN: Duration = Duration::from_secs(3);
/// Phase changes within one event: more would be a loop.
const CHANGES_MAX: u32 = 16;

/// Configured, never changes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves first.
    Primary,
    /// Stands by first.
    Secondary,
}

/// Who decides on an unplanned failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailoverType {
    /// The machine.
    Automatic,
    /// The operator.
    Manual,
}

/// What the machine is told once.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// This life of the agent.
    pub session: SessionId,
    /// Role.
    pub role: Role,
    /// Timing with hold-off.
    pub timing: Timing,
    /// Who decides.
    pub failover: FailoverType,
    /// An application is configured; without one the lease opens as soon as the address is there.
    pub application: bool,
    /// Open this long after the start command returned although the application is not healthy yet.
    pub open_early: Option<Duration>,
    /// An operator's switchover gives up when stopping and draining take longer.
    pub release_timeout: Duration,
    /// How long commits wait for the standby at the least.
    pub solo_after: SoloAfter,
    /// The secondary hands back to a primary that has been in sync and fit for so long; `None`: the operator does.
    pub failback_after: Option<Duration>,
    /// A witness decides between two nodes that do not hear each other.
    pub witness: bool,
    /// The standby powers the active off before it takes over.
    pub fence: bool,
}

/// Where the machine is. Every phase knows what it waits for.
#[derive(Debug, Clone, PartialEq, Hash)]
enum Phase {
    Cold(cold_start::Cold),
    Standby(standby::Standby),
    Promoting(promote::Promoting),
    Opening(opening::Opening),
    Active(active::Active),
    Releasing(release::Releasing),
}

/// One pair on one node.
#[derive(Debug, Clone)]
pub struct Machine {
    config: Config,
    /// On disk.
    state: PairState,
    /// On its way to disk.
    next: Option<PairState>,
    /// `next` was given to the caller.
    handed_out: bool,
    phase: Phase,
    evidence: Evidence,
    witness: witness::Witness,
    sent_grant: SentGrant,
    voice: Option<Voice>,
    confirmed: u64,
    opening: u64,
    observe: bool,
    maintenance: bool,
    question: Option<String>,
    row: &'static str,
    /// A row that may pass, and since when it holds.
    passing: Option<(&'static str, Time)>,
    sentence: String,
    /// What was said of the round trip.
    pace: Option<(Path, Pace)>,
    /// Automatic handovers of this life, oldest first.
    moves: Vec<Time>,
    /// When this life began.
    started: Time,
    now: Time,
    out: Vec<Action>,
}

impl Machine {
    /// A new life with what the last one left on disk. The first event should be `Leftovers`.
    pub fn new(config: Config, state: PairState, now: Time) -> Self {
        Self {
            config,
            state,
            next: None,
            handed_out: false,
            phase: Phase::Cold(cold_start::Cold::new()),
            evidence: Evidence::new(config.session, &config.timing, now),
            witness: witness::Witness::default(),
            sent_grant: SentGrant::after_restart(now),
            voice: None,
            confirmed: 0,
            opening: 0,
            observe: false,
            maintenance: false,
            question: None,
            row: "start",
            passing: None,
            sentence: String::new(),
            pace: None,
            moves: Vec::new(),
            started: now,
            now,
            out: Vec::new(),
        }
    }

    /// Takes a fact. Facts cannot be refused.
    pub fn handle(&mut self, now: Time, event: Event) -> Step {
        self.now = self.now.max(now);
        self.note(event);
        self.step()
    }

    /// When [`Event::Tick`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        let rhythm = (self.config.timing.period / 2).min(Duration::from_millis(200));
        let over = self.evidence.detector.wait_over_at(&self.config.timing);
        let due = self.now + rhythm;
        Some(if over > self.now { due.min(over) } else { due })
    }

    /// The durable state, as far as it is known to be on disk.
    pub fn state(&self) -> &PairState {
        &self.state
    }

    /// What the node says of itself.
    pub fn status(&self) -> Status {
        let timing = &self.config.timing;
        let heard = |path| self.evidence.detector.heard_on(path).map(|at| self.now.since(at));
        Status {
            state: self.state_word(),
            epoch: self.state.epoch,
            in_sync: match &self.phase {
                Phase::Active(active) => active.is_in_sync(),
                Phase::Standby(_) => !self.state.outdated && self.evidence.grant.is_valid(self.now),
                _ => false,
            },
            solo: match &self.phase {
                Phase::Active(active) => active.is_solo(),
                _ => self.peer_says_solo(),
            },
            waits_for_standby: matches!(&self.phase, Phase::Active(active) if active.waits_for_standby()),
            outdated: self.state.was != Was::Active && self.state.outdated,
            grant_left: self.evidence.grant.remaining(self.now),
            question: self.question.clone(),
            row: self.row,
            evidence: self.evidence.sentence(timing, self.now),
            heard: Path::ALL.map(heard),
            lease_open: self.evidence.lease_open,
            observe: self.observe,
            maintenance: self.maintenance,
            positions: self.evidence.positions.clone(),
        }
    }

    /// What was last said of the row that holds, with the evidence of that moment.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    fn state_word(&self) -> State {
        match &self.phase {
            Phase::Cold(_) if self.state.was == Was::Never && self.evidence.word.is_none() => State::Unpaired,
            Phase::Cold(cold) if cold.is_clearing() => State::Releasing,
            Phase::Cold(_) => State::Holding,
            Phase::Standby(_) if self.state.outdated => State::Copying,
            Phase::Standby(_) => State::Standby,
            Phase::Promoting(_) | Phase::Opening(_) => State::Promoting,
            Phase::Active(_) => State::Active,
            Phase::Releasing(_) => State::Releasing,
        }
    }

    fn peer_says_solo(&self) -> bool {
        self.evidence.word.is_some_and(|word| word.heartbeat.active && word.heartbeat.solo)
    }

    /// Advances until nothing changes or a state must be written.
    fn step(&mut self) -> Step {
        let mut changes = 0;
        while self.next.is_none() && self.advance() {
            changes += 1;
            assert!(changes < CHANGES_MAX, "a phase changes a few times per event: {:?}", self.phase);
        }
        if self.next.is_none() {
            self.speak();
            self.mind_witness();
        }
        self.judge_round_trip();
        let actions = std::mem::take(&mut self.out);
        match &self.next {
            Some(state) if !self.handed_out => {
                self.handed_out = true;
                Step::Persist(Pending { state: state.clone(), then: actions })
            }
            _ => Step::Ready(actions),
        }
    }

    /// One move of the present phase; true when another should follow.
    fn advance(&mut self) -> bool {
        match self.phase.clone() {
            Phase::Cold(cold) => self.advance_cold(cold),
            Phase::Standby(standby) => self.advance_standby(standby),
            Phase::Promoting(promoting) => self.advance_promoting(promoting),
            Phase::Opening(opening) => self.advance_opening(opening),
            Phase::Active(active) => self.advance_active(active),
            Phase::Releasing(releasing) => self.advance_releasing(releasing),
        }
    }

    /// Goes to `phase`; the caller returns true.
    fn go(&mut self, phase: impl Into<Phase>) -> bool {
        self.phase = phase.into();
        true
    }

    /// Asks for `state` to be written; the phase goes on at `Persisted`. Returns false.
    fn persist(&mut self, state: PairState) -> bool {
        debug_assert!(self.next.is_none(), "one state at a time is on its way to disk");
        if state != self.state {
            self.next = Some(state);
            return false;
        }
        true
    }

    /// The state after claiming the next epoch: a claim is always solo until the peer is in sync.
    fn claimed(&self, forced: bool) -> PairState {
        let mut state = self.state.clone();
        state.epoch = self.state.epoch.next(self.config.node);
        state.was = Was::Active;
        state.solo = true;
        state.outdated = false;
        state.intent = None;
        state.released = false;
        state.refused = None;
        state.forced = forced;
        self.extend_lineage(&mut state);
        state
    }

    /// The state after accepting the peer's epoch (or staying on ours, following).
    fn followed(&self, epoch: Epoch) -> PairState {
        let mut state = self.state.clone();
        if epoch > state.epoch {
            state.epoch = epoch;
            // It may lack what was acknowledged meanwhile, until a grant says otherwise.
            state.outdated = true;
            self.extend_lineage(&mut state);
        }
        state.outdated |= state.was == Was::Active && !state.released;
        state.was = Was::Standby;
        state.solo = false;
        state.intent = None;
        state.released = false;
        state.forced = false;
        state
    }

    fn extend_lineage(&self, state: &mut PairState) {
        state.lineage.push(Fork { epoch: state.epoch, positions: self.evidence.positions.clone() });
        let excess = state.lineage.len().saturating_sub(LINEAGE_MAX);
        state.lineage.drain(..excess);
    }

    fn log(&mut self, row: &'static str, severity: Severity, sentence: impl Into<String>) {
        self.out.push(Action::Log { row, severity, sentence: sentence.into() });
    }

    /// Logs a row of the table when it is another than the last, with its evidence.
    fn log_row(&mut self, row: &'static Row) {
        if self.row == row.id {
            self.passing = None;
            return;
        }
        if row.is_of_a_heard_peer() {
            // A peer that comes or goes is heard on one path first: that is no state of affairs.
            let since = match self.passing {
                Some((id, since)) if id == row.id => since,
                _ => self.now,
            };
            self.passing = Some((row.id, since));
            if self.now < since + self.config.timing.period * 2 {
                return;
            }
        }
        self.passing = None;
        self.row = row.id;
        let evidence = self.evidence.sentence(&self.config.timing, self.now);
        self.sentence = format!("{} ({evidence})", row.sentence);
        let sentence = self.sentence.clone();
        self.log(row.id, row.severity, sentence);
    }

    fn ask(&mut self, question: &str) {
        if self.question.is_none() {
            let positions: Vec<String> =
                self.evidence.positions.iter().map(|(name, at)| format!("{name} at {at}")).collect();
            let last = if positions.is_empty() { "none known".to_owned() } else { positions.join(", ") };
            let text = format!("{question}. Last position: {last}");
            self.question = Some(text.clone());
            self.out.push(Action::Question(Some(text)));
        }
    }

    fn withdraw_question(&mut self) {
        if self.question.take().is_some() {
            self.out.push(Action::Question(None));
        }
    }

    /// The question of a row that asks; under any other row there is none.
    fn ask_or_withdraw(&mut self, row: &Row) {
        match row.verdict {
            Verdict::Ask => self.ask(row.sentence),
            _ => self.withdraw_question(),
        }
    }

    fn act(&mut self, action: Action) {
        self.out.push(action);
    }

    /// Everything said so far is what the heartbeat thread speaks by.
    fn voice_is_set(&self) -> bool {
        self.voice.is_some_and(|voice| voice.revision <= self.confirmed)
    }

    fn newest_intent(&self) -> Intent {
        self.evidence
            .word
            .and_then(|word| Intent::try_from(word.heartbeat.intent).ok())
            .unwrap_or(Intent::None)
    }
}

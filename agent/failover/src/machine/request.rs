//! What an operator may ask for, and why it may be refused.

use super::promote::Promoting;
use super::release::Releasing;
use super::standby::Standby;
use super::{Machine, Phase, Role};
use crate::action::Severity;
use crate::event::Request;
use crate::refusal::Refusal;
use crate::state::Was;
use crate::step::Step;
use crate::table::{Peer, Tie};
use crate::time::Time;

impl Machine {
    /// Takes an operator's request, or refuses it with one sentence.
    ///
    /// # Errors
    /// The [`Refusal`]; nothing changed then.
    pub fn request(&mut self, now: Time, request: Request) -> Result<Step, Refusal> {
        self.now = self.now.max(now);
        if self.next.is_some() {
            return Err(Refusal::Busy("writing its state"));
        }
        let moves = !matches!(request, Request::Observe(_) | Request::Maintenance(_));
        if self.observe && moves {
            return Err(Refusal::Observing);
        }
        match request {
            Request::Observe(on) => self.observe = on,
            Request::Maintenance(on) => self.maintenance = on,
            Request::Switchover => self.switchover()?,
            Request::Failback => {
                let at_home = (self.config.role == Role::Primary) == matches!(self.phase, Phase::Active(_));
                if at_home && matches!(self.phase, Phase::Active(_) | Phase::Standby(_)) {
                    return Err(Refusal::AtHome);
                }
                self.switchover()?;
            }
            Request::Failover { accept_loss } => self.failover(accept_loss)?,
        }
        self.log("request", Severity::Info, format!("the operator asks: {request:?}"));
        Ok(self.step())
    }

    fn switchover(&mut self) -> Result<(), Refusal> {
        let hears = self.evidence.peer_hears_us(&self.config.timing, self.now)
            && self.evidence.detector.is_alive(&self.config.timing, self.now);
        match &self.phase {
            Phase::Active(_) | Phase::Standby(_) if !hears => Err(Refusal::PeerSilent),
            Phase::Active(active) if active.is_in_sync() && self.evidence.engine_in_sync => {
                self.phase = Releasing::new(self.now).into();
                Ok(())
            }
            Phase::Standby(_) if !self.state.outdated && self.evidence.grant.is_valid(self.now) => {
                self.phase = Standby::wishing(self.now).into();
                Ok(())
            }
            Phase::Active(_) | Phase::Standby(_) => Err(Refusal::NotInSync),
            _ => Err(Refusal::Busy(self.state_word().name())),
        }
    }

    fn failover(&mut self, accept_loss: bool) -> Result<(), Refusal> {
        match &self.phase {
            Phase::Active(_) => return Err(Refusal::AlreadyActive(self.state.epoch)),
            Phase::Promoting(_) | Phase::Opening(_) => return Err(Refusal::Busy("promoting")),
            Phase::Releasing(releasing) if !releasing.is_told() => return Err(Refusal::Busy("releasing")),
            Phase::Cold(cold) if !cold.is_idle() => return Err(Refusal::Busy("starting")),
            _ => {}
        }
        self.check_silence()?;
        let refused = accept_loss && self.tie() == Tie::Lost;
        let by_grant = self.evidence.grant.is_valid(self.now) && !self.state.outdated && !refused;
        if !by_grant && !accept_loss {
            let at: Vec<String> =
                self.evidence.positions.iter().map(|(name, at)| format!("{name} at {at}")).collect();
            let position = if at.is_empty() { "no position known".to_owned() } else { at.join(", ") };
            return Err(Refusal::MayLose { position });
        }
        if self.state.was == Was::Standby && self.state.outdated && !self.evidence.copy_complete {
            return Err(Refusal::NoCopy);
        }
        let followed = matches!(self.phase, Phase::Standby(_));
        self.phase = Promoting::by_operator(!by_grant, followed).into();
        Ok(())
    }

    fn check_silence(&self) -> Result<(), Refusal> {
        let timing = &self.config.timing;
        let both_cold = matches!(self.phase, Phase::Cold(_))
            && self.evidence.word.is_some_and(|word| !word.heartbeat.active);
        if !matches!(self.evidence.peer(timing, self.now), Peer::Nothing | Peer::Unknown) && !both_cold {
            let last = self.evidence.detector.last_heard().unwrap_or(self.now);
            return Err(Refusal::PeerAlive { heard: self.now.since(last) });
        }
        let Some(over_at) = self.wait_over_at() else {
            let round = self.evidence.majority;
            return Err(Refusal::NoMajority {
                answered: round.map_or(0, |round| round.answered),
                of: round.map_or(0, |round| round.of),
            });
        };
        if self.now < over_at && !both_cold {
            return Err(Refusal::LeaseMayLast { left: over_at.since(self.now) });
        }
        Ok(())
    }
}

//! What the node says in its heartbeats, from phase and durable state alone.
//!
//! Called only while no state is on its way to disk: nothing is said that a crash could take back.

use super::{Machine, Phase, REFRESH};
use crate::action::{Action, Voice};
use crate::lease::Permit;
use crate::state::Was;
use crate::time::Time;
use lockstep_wire::Intent;

impl Machine {
    /// Says what is so; once a second also when nothing changed, as the sign that the machine lives.
    pub(super) fn speak(&mut self) {
        let mut voice = self.voice_now();
        if let Some(said) = self.voice {
            voice.revision = said.revision;
            voice.at = said.at;
            if voice == said {
                if self.now < said.at + REFRESH {
                    return;
                }
            } else {
                voice.revision += 1;
            }
        }
        voice.at = self.now;
        self.voice = Some(voice);
        self.act(Action::SetHeartbeat(voice));
        if voice.revision == 1 {
            self.act(Action::ProbeTargets(true));
            // A standby counts the active's announcements like heartbeats.
            self.act(Action::ConflictWatch(true));
        }
    }

    fn voice_now(&self) -> Voice {
        let state = &self.state;
        let mut voice = Voice {
            revision: 1,
            at: Time::default(),
            epoch: state.epoch,
            active: false,
            solo: state.solo && state.was == Was::Active,
            outdated: state.outdated && state.was != Was::Active,
            grant: None,
            intent: Intent::None,
            intent_counter: 0,
            solo_commits: if state.solo { self.evidence.solo_commits } else { 0 },
            fit: false,
            hands_off: self.own_hands_off(),
            echo: true,
            silent_when_deaf: false,
            permit: None,
        };
        match &self.phase {
            Phase::Cold(cold) => {
                voice.silent_when_deaf = state.was == Was::Active && !state.solo;
                if cold.is_resuming() {
                    voice.active = true;
                    voice.permit = Some(self.permit(false));
                }
            }
            Phase::Standby(standby) => {
                standby.speak(state, &mut voice);
                voice.fit = !state.outdated && self.is_fit();
            }
            Phase::Promoting(promoting) => promoting.speak(state, &mut voice),
            Phase::Opening(opening) => {
                voice.active = true;
                if opening.wants_lease() {
                    voice.permit = Some(self.permit(opening.alone));
                }
                // In sync it opens only by the peer's echo; deaf, it must not keep the peer from taking over.
                voice.silent_when_deaf = !state.solo;
            }
            Phase::Active(active) => {
                voice.active = true;
                voice.permit = Some(self.permit(false));
                // Told earlier, a standby that only lost its connection would be outdated for nothing.
                let leaving = active.leaving_since();
                voice.solo |= leaving.is_some_and(|since| self.config.solo_after.is_over(since, self.now));
                voice.grant = active.is_in_sync().then(|| self.config.timing.grant_validity());
                voice.silent_when_deaf = !state.solo;
            }
            Phase::Releasing(releasing) => {
                releasing.speak(state, &mut voice);
                if releasing.keeps_lease() {
                    voice.permit = Some(self.permit(false));
                }
            }
        }
        voice
    }

    fn permit(&self, alone: bool) -> Permit {
        Permit { epoch: self.state.epoch, opening: self.opening, alone, targets: self.may_lean() }
    }
}

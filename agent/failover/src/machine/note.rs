//! Facts go into the evidence here; nothing is decided.

use super::{Machine, Phase};
use crate::action::Severity;
use crate::event::{Event, Path};
use crate::lease::Lapse;
use crate::state::Was;

impl Machine {
    pub(super) fn note(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Persisted => self.on_persisted(),
            Event::HeartbeatReceived { path, heartbeat, received_at } => {
                let timing = &self.config.timing;
                self.evidence.on_heartbeat(path, &heartbeat, received_at, self.state.epoch, timing);
                self.note_heard();
            }
            Event::PeerAnnounced { received_at } => self.evidence.detector.on_announced(received_at),
            Event::Stalled { lasted, .. } => self.evidence.detector.on_stalled(lasted),
            Event::LinkKeys(known) => self.evidence.detector.on_keys(known, now),
            Event::HeartbeatSet { revision, last_grant_sent } => {
                self.confirmed = self.confirmed.max(revision);
                if let Some(at) = last_grant_sent {
                    self.sent_grant.sent(at);
                }
            }
            Event::LeaseOpened => {
                self.evidence.lease_open = true;
                self.evidence.permit_old = false;
            }
            Event::LeaseLapsed(why) => {
                self.evidence.lease_open = false;
                self.evidence.permit_old = why == Lapse::PermitOld;
                self.log("lapse", Severity::Critical, lapse_sentence(why));
            }
            Event::TargetsMajority { sent_at, answered, of } => {
                if self.evidence.on_targets(sent_at, answered, of) {
                    self.renew_alone(sent_at);
                }
            }
            Event::VipProbed { sent_at, result } => {
                self.evidence.vip = Some((sent_at, result));
                self.note_phase(&event);
            }
            Event::WitnessAnswered { number, answer } => self.on_answer(number, answer),
            Event::PeerFenced(ref result) => {
                match result {
                    Ok(()) => self.log("fence", Severity::Warning, "the peer is confirmed off"),
                    Err(why) => {
                        self.log(
                            "fence",
                            Severity::Critical,
                            format!("the peer is not confirmed off: {why}"),
                        );
                    }
                }
                self.note_phase(&event);
            }
            Event::ForeignArp => self.evidence.foreign_at = Some(now),
            Event::Carrier { path, up } => {
                if path == Path::Lan {
                    self.evidence.lan_carrier = up;
                }
                let word = if up { "is back" } else { "is lost: collecting evidence" };
                self.log("carrier", Severity::Info, format!("carrier of the {} {word}", path.name()));
            }
            Event::EngineInSync(in_sync) => {
                if in_sync != self.evidence.engine_in_sync {
                    self.evidence.in_sync_changed = now;
                }
                self.evidence.engine_in_sync = in_sync;
                self.note_phase(&Event::EngineInSync(in_sync));
            }
            Event::At { database, position } => {
                self.evidence.positions.insert(database.to_string(), position);
            }
            Event::SoloCommits(count) => self.evidence.solo_commits = count,
            Event::CopyComplete(complete) => self.evidence.copy_complete = complete,
            Event::EngineFailed(ref why) | Event::EffectFailed(ref why) | Event::PeerRefused(ref why) => {
                self.log("failed", Severity::Warning, why.clone());
                self.note_phase(&event);
            }
            Event::AppFailed(ref why) => {
                self.evidence.app_failed = true;
                self.evidence.app_failed_at = Some(now);
                self.log(
                    "app",
                    Severity::Critical,
                    format!("the application failed after its restarts: {why}"),
                );
            }
            Event::AppStarted => {
                self.evidence.app_failed = false;
                self.note_phase(&event);
            }
            Event::DatabaseDisk(fault) => {
                let sentence = match &fault {
                    Some(why) => format!("the disk of a database fails: {why}"),
                    None => "the disks of the databases work again".to_owned(),
                };
                let severity = if fault.is_some() { Severity::Critical } else { Severity::Info };
                self.evidence.disk_fault = fault;
                self.log("disk", severity, sentence);
            }
            Event::AppHealthy => {
                self.evidence.app_failed = false;
                self.note_phase(&event);
            }
            ref event => self.note_phase(event),
        }
    }

    /// Completion of effects goes to the phase that asked for them.
    fn note_phase(&mut self, event: &Event) {
        match &mut self.phase {
            Phase::Cold(cold) => cold.note(event, self.now),
            Phase::Promoting(promoting) => promoting.note(event),
            Phase::Opening(opening) => opening.note(event, self.now),
            Phase::Active(active) => active.note(event),
            Phase::Releasing(releasing) => releasing.note(event),
            Phase::Standby(_) => {}
        }
    }

    fn note_heard(&mut self) {
        if let Phase::Promoting(promoting) = &mut self.phase {
            promoting.answered = true;
        }
    }

    fn on_persisted(&mut self) {
        if let Some(state) = self.next.take() {
            // Our own claim keeps the grant it rests on: it is checked once more.
            if state.was != Was::Active && (state.epoch != self.state.epoch || state.outdated) {
                self.evidence.grant.void();
            }
            self.state = state;
            self.handed_out = false;
        }
    }
}

fn lapse_sentence(why: Lapse) -> &'static str {
    match why {
        Lapse::NoEvidence => "the lease lapsed: neither the peer's echo nor a permitted majority renewed it",
        Lapse::PermitOld => "the lease lapsed: the state machine's permit was older than 5 s",
        Lapse::GuardGone => {
            "the lease lapsed: the VIP's guard is gone (somebody flushed the nftables ruleset); it is installed anew"
        }
    }
}

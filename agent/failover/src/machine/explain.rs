//! The evidence as a list of facts with their ages, for people and programs. Read only.

use super::{Machine, Phase};
use crate::event::Path;
use crate::time::Time;
use lockstep_wire::Intent;
use serde::{Deserialize, Serialize};

/// One thing the node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// A stable word.
    pub name: String,
    /// What is known.
    pub value: String,
    /// How old that is, milliseconds; null: it holds now, or was never found out.
    pub age_ms: Option<u64>,
}

impl Machine {
    /// Everything the decisions rest on, at `now`.
    pub fn facts(&self, now: Time) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut add = |name: &str, value: String, at: Option<Time>| {
            let age_ms = at.map(|at| now.since(at).as_millis() as u64);
            facts.push(Fact { name: name.to_owned(), value, age_ms });
        };
        let (evidence, timing) = (&self.evidence, &self.config.timing);
        for path in Path::ALL {
            let alive = evidence.detector.is_alive_on(path, timing, now);
            let heard = evidence.detector.heard_on(path);
            let value = match heard {
                None => "never heard",
                Some(_) if alive => "heard",
                Some(_) => "silent",
            };
            let name = if path == Path::Direct { "heartbeat-direct" } else { "heartbeat-lan" };
            add(name, value.to_owned(), heard);
        }
        let hears = if evidence.peer_hears_us(timing, now) { "yes" } else { "no" };
        add("peer-hears-us", hears.to_owned(), evidence.echoed.map(|(sent, _)| sent));
        let word = match evidence.word {
            None => "nothing said".to_owned(),
            Some(word) => word_of(&word.heartbeat),
        };
        add("peer-says", word, evidence.word.map(|word| word.at));
        let targets = match evidence.majority {
            None => "not probed".to_owned(),
            Some(round) => format!("{} of {} answer", round.answered, round.of),
        };
        add("targets", targets, evidence.majority.map(|round| round.sent_at));
        let vip = evidence.vip.map_or("not probed".to_owned(), |(_, result)| format!("{result:?}"));
        add("vip-probe", vip, evidence.vip.map(|(at, _)| at));
        let foreign = if evidence.foreign_at.is_some() { "a foreign MAC spoke for the VIP" } else { "none" };
        add("foreign-arp", foreign.to_owned(), evidence.foreign_at);
        let grant = match evidence.grant.remaining(now) {
            Some(left) => format!("valid for {} ms", left.as_millis()),
            None => "none".to_owned(),
        };
        add("grant-received", grant, None);
        add("lan-carrier", if evidence.lan_carrier { "present" } else { "lost" }.to_owned(), None);
        let app = if evidence.app_failed { "failed after its restarts" } else { "not failed" };
        add("application", app.to_owned(), evidence.app_failed_at);
        let disk = evidence.disk_fault.clone().unwrap_or_else(|| "works".to_owned());
        add("database-disk", disk, None);
        if let Phase::Active(_) = self.phase {
            let follows = if evidence.engine_in_sync { "follows" } else { "does not follow" };
            add("standby", follows.to_owned(), Some(evidence.in_sync_changed));
            add("lease", if evidence.lease_open { "open" } else { "not open" }.to_owned(), None);
        }
        if self.config.witness {
            let (value, at) = self.witness_fact();
            add("witness", value, at);
        }
        let moves = if self.hands_off() { "off" } else { "on" };
        add("automatic-moves", moves.to_owned(), None);
        facts
    }
}

fn word_of(word: &lockstep_wire::Heartbeat) -> String {
    let mut said = vec![format!("epoch {}", word.epoch())];
    let flags = [
        (word.active, "active"),
        (word.solo, "solo"),
        (word.outdated, "outdated"),
        (word.grant_us > 0, "grants"),
        (word.fit, "fit to serve"),
        (word.hands_off, "automatic moves off"),
    ];
    said.extend(flags.iter().filter(|(is, _)| *is).map(|(_, name)| (*name).to_owned()));
    match Intent::try_from(word.intent) {
        Ok(Intent::None) | Err(_) => {}
        Ok(intent) => said.push(format!("intent {intent:?}")),
    }
    said.join(", ")
}

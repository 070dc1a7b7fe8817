//! What is wrong with a pair now, for the status: from what the machine says and what the data path finds.
//!
//! An alarm stands as long as its cause. One of them, the situation, is the newest thing the table or a
//! step of the machine complains of; the others each have a cause of their own.

use crate::events::{Event as LogEvent, EventLog, Severity};
use lockstep_engine::files::ship::TreeStatus;
use lockstep_engine::pair::{DatabaseState, DatabaseStatus};
use lockstep_failover::action;
use lockstep_failover::table::{TABLE, Verdict};
use std::sync::Arc;

/// What the table or a step complains of; stands until both paths carry heartbeats again.
const SITUATION: &str = "situation";
/// The open question to the operator.
const QUESTION: &str = "question";
/// Commits wait for the standby.
const COMMITS: &str = "commits-wait";
/// Nobody decides between two nodes that do not hear each other.
const WITNESS: &str = "witness";
/// Row 18.
const ROUND_TRIP: &str = "round-trip";

/// In the detail of an event: it is a decision of the machine, or a step of one.
pub(super) const DECISION: &str = "decision";

/// The alarms of one pair, and its event log.
#[derive(Clone)]
pub(super) struct Alarms(Arc<EventLog>);

impl Alarms {
    pub(super) fn new(log: Arc<EventLog>) -> Self {
        Self(log)
    }

    /// A decision, a non-decision or a step of the machine.
    pub(super) fn record(&self, row: &str, severity: action::Severity, sentence: &str) {
        let severity = severity_of(severity);
        self.0.record(LogEvent::now(severity, row, sentence, serde_json::json!({ DECISION: row })));
        let verdict = TABLE.iter().find(|known| known.id == row).map(|known| known.verdict);
        match (severity, verdict) {
            (Severity::Info, Some(Verdict::Stay)) => drop(self.0.lift(SITUATION)),
            (Severity::Critical, _) | (Severity::Warning, Some(_)) => {
                self.0.stand(SITUATION, severity, sentence);
            }
            _ => {}
        }
    }

    /// The question to the operator; `None`: it is settled.
    pub(super) fn question(&self, question: Option<&str>) {
        match question {
            Some(sentence) => self.0.raise(QUESTION, Severity::Critical, sentence),
            None => self.0.clear(QUESTION, "the question to the operator is settled"),
        }
    }

    /// The round trip and the lease; `None`: they fit.
    pub(super) fn round_trip(&self, alarm: Option<(action::Severity, String)>) {
        match alarm {
            Some((severity, sentence)) => self.0.raise(ROUND_TRIP, severity_of(severity), &sentence),
            None => self.0.clear(ROUND_TRIP, "the round trip fits the lease again"),
        }
    }

    /// The witness is not reached; `None`: it is.
    pub(super) fn witness(&self, alarm: Option<&str>) {
        match alarm {
            Some(sentence) => self.0.raise(WITNESS, Severity::Critical, sentence),
            None => self.0.clear(WITNESS, "the witness is reached again"),
        }
    }

    /// The heartbeat thread takes no commands.
    pub(super) fn heartbeat(&self, sentence: &str) {
        self.0.raise("heartbeat", Severity::Critical, sentence);
    }

    /// Why commits wait for a standby that does not follow; `None`: none does.
    pub(super) fn commits(&self, why: Option<&str>) {
        match why {
            // How many is news of every moment: shown, not recorded.
            Some(sentence) => drop(self.0.stand(COMMITS, Severity::Critical, sentence)),
            None => drop(self.0.lift(COMMITS)),
        }
    }

    /// What is wrong with the file trees.
    pub(super) fn trees(&self, trees: &[TreeStatus]) {
        for alarm in trees.iter().flat_map(super::trees::alarms) {
            match alarm.standing {
                // Told once: which path it is, and how many, may be news of every moment.
                Some((severity, sentence)) if self.0.stands(&alarm.key) => {
                    self.0.stand(&alarm.key, severity, &sentence);
                }
                Some((severity, sentence)) => self.0.raise(&alarm.key, severity, &sentence),
                None => self.0.clear(&alarm.key, &alarm.cleared),
            }
        }
    }

    /// Which databases cannot be replicated now. The data path has told why by events of its own.
    pub(super) fn databases(&self, databases: &[DatabaseStatus]) {
        for database in databases {
            let key = format!("database-{}", database.name);
            match &database.state {
                DatabaseState::Refused(sentence) => {
                    let sentence = format!("database {}: {sentence}", database.name);
                    self.0.stand(&key, Severity::Critical, &sentence);
                }
                _ => self.0.clear(&key, &format!("database {} is no longer refused", database.name)),
            }
        }
    }
}

fn severity_of(severity: action::Severity) -> Severity {
    match severity {
        action::Severity::Info => Severity::Info,
        action::Severity::Warning => Severity::Warning,
        action::Severity::Critical => Severity::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarms() -> (tempfile::TempDir, Alarms) {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(&dir.path().join("events.db")).unwrap();
        (dir, Alarms::new(Arc::new(log)))
    }

    fn standing(alarms: &Alarms) -> Vec<(String, Severity, String)> {
        alarms.0.alarms().into_iter().map(|alarm| (alarm.key, alarm.severity, alarm.sentence)).collect()
    }

    #[test]
    fn every_row_that_needs_somebody_is_an_alarm_until_both_paths_carry_heartbeats() {
        let (_dir, alarms) = alarms();
        for row in TABLE {
            alarms.record(row.id, row.severity, row.sentence);
            let severity = severity_of(row.severity);
            let wanted = (severity > Severity::Info)
                .then(|| (SITUATION.to_owned(), severity, row.sentence.to_owned()));
            assert_eq!(standing(&alarms), Vec::from_iter(wanted), "row {}", row.id);
            assert_eq!(alarms.0.recent().last().map(|event| event.kind.clone()), Some(row.id.to_owned()));
            alarms.record("1a", action::Severity::Info, "both paths carry heartbeats");
            assert_eq!(standing(&alarms), []);
        }
    }

    #[test]
    fn a_critical_step_stands_until_then_and_a_lesser_one_is_only_recorded() {
        let (_dir, alarms) = alarms();
        alarms.record("failed", action::Severity::Warning, "an effect failed");
        assert_eq!(standing(&alarms), []);
        alarms.record("lapse", action::Severity::Critical, "the lease lapsed");
        alarms.record("c2e", action::Severity::Info, "serving");
        assert_eq!(standing(&alarms), [(SITUATION.into(), Severity::Critical, "the lease lapsed".into())]);
        alarms.record("1b", action::Severity::Info, "following");
        assert_eq!(standing(&alarms), []);
    }

    #[test]
    fn question_and_round_trip_stand_beside_the_situation_and_are_recorded_once() {
        let (_dir, alarms) = alarms();
        alarms.record("11", action::Severity::Critical, "the active is silent");
        let slow = || Some((action::Severity::Warning, "the round trip is 150 ms: look".to_owned()));
        for _ in 0..2 {
            alarms.question(Some("confirm that it is off"));
            alarms.round_trip(slow());
        }
        let keys: Vec<String> = standing(&alarms).into_iter().map(|(key, ..)| key).collect();
        assert_eq!(keys, [QUESTION, ROUND_TRIP, SITUATION]);
        assert_eq!(alarms.0.recent().len(), 3);
        alarms.question(None);
        alarms.round_trip(None);
        assert_eq!(standing(&alarms).len(), 1);
    }
}

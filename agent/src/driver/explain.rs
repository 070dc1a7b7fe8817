//! `lockstep why`: the machine's evidence and forecast, and what it decided last.

use super::decide::now;
use super::pair::Pair;
use crate::control::{Failure, FailureCode, Why};
use crate::events::Event;
use lockstep_failover::Fact;

/// Looked through for decisions: other events stand between them.
const EVENTS: u32 = 400;
/// Shown at the most.
const DECISIONS: usize = 12;

/// Asks the deciding thread for its machine and looks into the copy.
///
/// # Errors
/// The agent is stopping, or its event log cannot be read.
pub(super) async fn why(pair: &Pair) -> Result<Why, Failure> {
    let machine = pair.queue.machine().await.map_err(|_| super::handle::stopping())?;
    let log = pair.log.clone();
    let decisions = tokio::task::spawn_blocking(move || log.last(EVENTS));
    let decisions = decisions.await.map_err(|_| super::handle::stopping())?;
    let decisions = decisions.map_err(|error| Failure::new(FailureCode::Failed, error.to_string()))?;
    let mut decisions: Vec<Event> = decisions.into_iter().filter(is_decision).collect();
    decisions.drain(..decisions.len().saturating_sub(DECISIONS));
    let status = machine.status();
    let at = now();
    let lease = pair.gauges.lease_end().map(|end| end.since(at)).filter(|left| !left.is_zero());
    let mut facts = machine.facts(at);
    facts.push(Fact { name: "silences".into(), value: pair.gauges.silences(at).advice(), age_ms: None });
    Ok(Why {
        pair: pair.config.id.to_string(),
        state: status.state,
        epoch: status.epoch.to_string(),
        row: status.row.to_owned(),
        sentence: machine.sentence().to_owned(),
        facts,
        lease_ms_left: lease.map(|left| left.as_millis() as u64),
        if_peer_fell_silent: machine.forecast(at),
        question: status.question,
        decisions,
    })
}

/// What the detail of a decision says, see [`super::alarms`].
fn is_decision(event: &Event) -> bool {
    event.detail.get(super::alarms::DECISION).is_some()
}

//! Row 18: tells the operator when the round trip endangers the lease. Moves nothing.

use super::Machine;
use crate::action::{Action, Severity};
use crate::round_trip::Pace;

impl Machine {
    /// Raises, changes or withdraws the alarm, on either node and in every phase.
    pub(super) fn judge_round_trip(&mut self) {
        let timing = &self.config.timing;
        let slowest = self.evidence.round_trips.slowest(timing, self.now);
        let pace = slowest.map(|(path, pace, _)| (path, pace));
        if pace == self.pace {
            return;
        }
        self.pace = pace;
        let alarm = slowest.map(|(path, pace, trip)| {
            let (path, trip, lease) = (path.name(), trip.as_millis(), timing.lease.as_millis());
            if pace == Pace::BeyondLease {
                let sentence = format!(
                    "the round trip on the {path} is {trip} ms, the lease {lease} ms: the standby's echo renews nothing and \
                     the address is served only while another path renews it; find what delays UDP there, or set a slower \
                     profile on both nodes"
                );
                return (Severity::Critical, sentence);
            }
            let limit = timing.round_trip_limit().as_millis();
            let sentence = format!(
                "the round trip on the {path} is {trip} ms, with a lease of {lease} ms it must stay below {limit} ms: two \
                 lost heartbeats may end the lease; find what delays UDP there, or set a slower profile on both nodes"
            );
            (Severity::Warning, sentence)
        });
        self.act(Action::RoundTripAlarm(alarm));
    }
}

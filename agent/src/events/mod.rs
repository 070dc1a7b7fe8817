//! The event log and alarms.
//!
//! The driver records what happened and what was decided, also against acting; status, command
//! line and pages read it.

mod log;
mod record;

pub use log::{EventLog, EventLogError, MAX_ROWS};
pub use record::{Alarm, Event, Severity};

//! The event log and alarms.

mod record;

pub use record::{Alarm, Event, Severity};

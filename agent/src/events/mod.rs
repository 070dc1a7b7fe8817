//! The event log and alarms.

//! Runs the failover machine: events in, steps persisted, actions carried out.

//! Lockstep's failover decisions: pure functions of time and events.

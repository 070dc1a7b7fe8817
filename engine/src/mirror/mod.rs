//! Standby: append WAL bytes, make them durable, acknowledge, switch generation, recover, take over.

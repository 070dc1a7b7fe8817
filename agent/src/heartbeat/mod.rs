//! The heartbeat thread: send, receive, echo, renew the lease; nothing else.

pub mod seal;

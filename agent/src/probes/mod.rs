//! World to fact: carrier, targets, who answers for the VIP, application health.

pub mod carrier;
mod neighbours;
pub mod targets;
pub mod vip;

//! World to fact: carrier, targets, who answers for the VIP, application health.

pub mod carrier;
pub mod health;
mod neighbours;
pub mod targets;
pub mod vip;

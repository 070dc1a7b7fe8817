//! Action to world: one file per thing touched.

pub mod announce;
pub mod app;
pub(crate) mod frames;
pub mod guard;
mod guard_rules;
pub(crate) mod netlink;
mod nft;
pub(crate) mod packet;
mod program;
pub(crate) mod route;
pub mod sockets;
pub mod supervisor;
#[cfg(test)]
pub(crate) mod testnet;
pub mod vip;

//! Action to world: one file per thing touched.

pub mod announce;
#[allow(dead_code)]
pub(crate) mod frames;
pub mod guard;
#[allow(dead_code)]
pub(crate) mod netlink;
mod nft;
#[allow(dead_code)]
pub(crate) mod packet;
pub(crate) mod route;
#[cfg(test)]
#[allow(dead_code)]
pub(crate) mod testnet;
pub mod vip;

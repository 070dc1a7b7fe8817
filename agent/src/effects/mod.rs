//! Action to world: one file per thing touched.

pub mod announce;
pub(crate) mod frames;
pub mod guard;
pub(crate) mod netlink;
mod nft;
pub(crate) mod packet;
pub(crate) mod route;
pub mod sockets;
#[cfg(test)]
pub(crate) mod testnet;
pub mod vip;

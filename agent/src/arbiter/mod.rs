//! Those who decide when two nodes do not hear each other: a witness outside of both ([`etcd`]), and a fence
//! that powers the other node off ([`fence`]).
//!
//! Both answer within a time known from the configuration, whatever happens out there. What their answers
//! allow is the failover machine's.

pub mod etcd;
pub mod fence;

//! One test for each sentence of docs/failover.md without which two nodes could serve, commits
//! could be lost or nobody would serve. By theme; what a machine is told is in `rig`.

mod alarm;
mod grant;
mod lease;
mod moves;
mod promotion;
mod pulse;
mod release;
mod rig;
mod silence;
mod witness;
mod words;

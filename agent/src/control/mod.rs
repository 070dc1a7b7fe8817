//! The agent's socket: commit barrier and operator requests.
//!
//! `server` reads lines that anybody in the group may send and never trusts them; what they ask
//! for is done by an [`AgentHandle`]. `ask` is the command line's side. Programs that wait for
//! commits use `lockstep-client` or speak the text protocol themselves.

mod ask;
mod protocol;
mod report;
mod server;
#[cfg(test)]
mod tests;

pub use ask::{AskError, ask};
pub use protocol::{
    Answer, DifferingPath, Done, Failure, FailureCode, MAX_WAIT_MS, Operation, OperationKind, Request,
    SnapshotRequest, Verified, VerifiedDatabase, VerifiedTree, VerifyRequest, WaitRequest,
};
pub use report::{DrillMove, Drilled, Why};
pub use server::{BindError, bind, group, serve};

use crate::{events::Event, status::Status};
use lockstep_client::Acknowledged;
use lockstep_wire::PairId;

/// What the socket needs of the agent. Each call is one request of one connection; a future that
/// is dropped (time-out, agent stops) must leave nothing behind.
pub trait AgentHandle: Send + Sync + 'static {
    /// Returns when every commit that returned before this call is acknowledged: reads the
    /// wal-index anew first. The server enforces the time-out.
    fn wait(&self, request: WaitRequest) -> impl Future<Output = Result<Acknowledged, Failure>> + Send;

    /// All facts, now.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// The last events, oldest first, of one pair or all.
    fn events(
        &self,
        pair: Option<PairId>,
        last: u32,
    ) -> impl Future<Output = Result<Vec<Event>, Failure>> + Send;

    /// Does what an operator asks for, to its end.
    fn operate(&self, operation: Operation) -> impl Future<Output = Result<Done, Failure>> + Send;

    /// Evidence, forecast, last decisions.
    fn why(&self, pair: Option<PairId>) -> impl Future<Output = Result<Why, Failure>> + Send;

    /// A switchover and back, measured.
    fn drill(&self, pair: Option<PairId>) -> impl Future<Output = Result<Drilled, Failure>> + Send;

    /// Takes note that kept data was removed by the operator.
    fn discarded(&self, pair: PairId, entry: String) -> impl Future<Output = Result<Done, Failure>> + Send;

    /// Writes a sound copy of a database.
    fn snapshot(&self, request: SnapshotRequest) -> impl Future<Output = Result<Done, Failure>> + Send;

    /// Compares every page, and the trees, with the standby's disk.
    fn verify(&self, request: VerifyRequest) -> impl Future<Output = Result<Vec<Verified>, Failure>> + Send;
}

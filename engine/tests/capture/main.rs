//! Capture against real SQLite writers in processes of their own: what comes out of the event
//! stream must be the database, whatever they do to its WAL.

mod rebuild;
mod session;
mod writers;

mod attach;
mod backpressure;
mod checkpoints;
mod committed;
mod refusals;
mod storm;

//! What end-to-end tests share: a lab per test, a pair under load, and code of the tests run on its machines.

mod inside;
pub(crate) mod invariants;
mod lab;
mod pair;

pub(crate) use inside::arguments;
pub(crate) use lab::Lab;
pub(crate) use pair::{DEMO_APP, Logged, Pair, unmodified_app, waiting_app};

//! What end-to-end tests share: a lab per test, and code of the tests run on its machines.

mod inside;
mod lab;

pub(crate) use inside::arguments;
pub(crate) use lab::Lab;

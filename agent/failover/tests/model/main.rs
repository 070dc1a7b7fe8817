//! The product's own machine and heartbeat, two of each, explored in every order of faults by an
//! explicit-state model checker (stateright). What is modelled and what is not: docs/testing.md.

mod check;
mod choice;
mod explore;
mod faults;
mod hands;
mod key;
mod node;
mod sabotage;
mod setting;
mod stories;
mod world;

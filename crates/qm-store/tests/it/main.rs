//! The store from outside: its contract, its recovery, its faults.

mod common;
mod contract;
mod crash;
mod faults;
mod kill;
#[cfg(feature = "__breaks")]
mod mutants;

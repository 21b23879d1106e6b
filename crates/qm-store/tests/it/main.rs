//! The store from outside: its contract, its recovery, its faults.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::print_stdout, reason = "the campaigns report what they did")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to size"
)]

mod caches;
mod campaign;
mod check;
mod common;
mod contract;
mod crash;
mod damage;
mod faults;
mod full;
mod kill;
mod missing;
#[cfg(feature = "__breaks")]
mod mutants;
mod pace;
mod scrub;
mod sides;
mod unreadable;
mod workloads;

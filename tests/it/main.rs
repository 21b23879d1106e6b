//! Integration tests: real nodes on loopback, in this process and as processes of their own.
//!
//! With `QM_SLOW_TESTS=1` at full size: a hundred thousand lines and more, outages of a minute, a
//! million waiting messages. Figures are told with `--nocapture`; `QM_NODE_BIN` names the program
//! to test, else it is built.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod copies;
mod hostile;
mod inherited;
mod kills;
mod lines;
mod load;
mod money;
mod nat;
mod outage;
mod program;
mod remint;
mod restart;
mod support;
mod torture;
mod transactions;
mod two_nodes;

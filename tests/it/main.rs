//! Integration tests: real nodes on loopback, in this process and as processes of their own.
//!
//! What takes long or kills processes runs only with `QM_SLOW_TESTS=1`.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod restart;
mod support;
mod two_nodes;

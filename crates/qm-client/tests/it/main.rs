//! The client against a scripted node over a real socket.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod connecting;
mod receiving;
mod sending;
mod support;
mod transactions;

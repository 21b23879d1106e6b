//! Messages that wait in queues: who is handed them, when their time runs out, what becomes of
//! those that come back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../streams/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of streams, which use all of it"
)]
mod support;

mod expiry;
mod picked;
mod rejected;

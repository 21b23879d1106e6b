//! What an operator asks and does, and that the answers are true.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod answers;
mod causes;
mod drain;
mod emptying;
mod keys;
mod questions;
mod remembering;
mod settings;
mod support;
mod told;
mod undone;

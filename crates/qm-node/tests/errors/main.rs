//! Every error of the table, provoked in the real program: its code, its exit code, its words.
//!
//! The table itself is asked for (`qm-node errors`), so that what it says and what is printed
//! cannot part.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod command;
mod exits;
mod flow;
mod skeleton;
mod start;
mod support;
mod unseen;

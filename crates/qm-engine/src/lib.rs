//! The delivery protocol of qm as pure state machines.
#![forbid(unsafe_code)]

pub mod admin;
mod backlog;
mod commits;
mod config;
mod entropy;
mod io;
mod record;
mod time;

#[cfg(feature = "__breaks")]
pub use config::Breaks;
pub use config::{EngineConfig, Trust};
pub use entropy::{Entropy, SeededEntropy};
pub use io::{
    ConnId, DialFailure, Event, Input, Lane, LinkId, LoadId, Output, Recovered, StoreOp,
    StoredRecord, StreamId, StreamSummary, Ticket,
};
pub use record::{LocalSettings, RemoteKey};
pub use time::{Now, Timestamp};

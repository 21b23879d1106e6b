//! The delivery protocol of qm as pure state machines.
#![forbid(unsafe_code)]

mod acking;
pub mod admin;
mod backlog;
mod cause;
mod clients;
mod commits;
mod config;
mod connections;
mod damage;
mod dead;
mod destination;
mod digests;
mod durable;
mod engine;
mod entropy;
mod expiry;
mod history;
mod inbound;
mod io;
mod jobs;
mod leases;
pub mod limits;
mod lives;
mod outgoing;
mod peers;
mod penalty;
mod purge;
mod queues;
mod record;
mod recover;
mod room;
mod scan;
mod seek;
mod session;
mod sizes;
mod spill;
mod time;
mod trace;
mod undone;
mod unoffered;
mod views;
mod why;

#[cfg(feature = "__breaks")]
pub use config::Breaks;
pub use config::{EngineConfig, Trust};
pub use engine::{ArrivalKey, Engine, Identity, Route};
pub use entropy::{Entropy, SeededEntropy};
pub use io::{
    ConnId, DialFailure, Event, FullBy, Input, Lane, LinkId, LoadId, Output, Recovered, StoreOp,
    StoredRecord, StreamId, StreamSummary, Ticket,
};
pub use record::{LocalSettings, RemoteKey, StoredMessage, StoredQueue};
pub use sizes::Sizes;
pub use time::{Now, Timestamp};

//! The delivery protocol of qm as pure state machines.
#![forbid(unsafe_code)]

/// Notes for the simulation that a rare branch was taken; nothing otherwise.
macro_rules! reached {
    ($engine:expr, $what:ident) => {
        #[cfg(feature = "__breaks")]
        {
            $engine.reached.note($crate::probe::Reach::$what);
        }
    };
}
pub(crate) use reached;

/// Whether a test switched a rule off; never outside of tests.
macro_rules! broken {
    ($engine:expr, $rule:ident) => {{
        #[cfg(feature = "__breaks")]
        let broken = $engine.config.breaks.$rule;
        #[cfg(not(feature = "__breaks"))]
        let broken = false;
        broken
    }};
}
pub(crate) use broken;

mod acking;
pub mod admin;
mod arrivals;
mod asking;
mod audit;
mod awaited;
mod backlog;
mod cause;
mod clients;
mod commits;
mod config;
mod connections;
mod damage;
mod dead;
mod destination;
mod dialling;
mod digests;
mod durable;
mod engine;
mod entropy;
mod expiry;
mod finals;
mod forgotten;
mod handed;
mod heirs;
mod history;
mod identity;
mod idle;
mod inbound;
mod io;
mod jobs;
mod journal;
mod kept;
#[cfg(feature = "__breaks")]
mod late;
mod leases;
pub mod limits;
mod lives;
mod loading;
mod met;
mod outgoing;
mod peers;
mod penalty;
mod picking;
#[cfg(feature = "__breaks")]
mod probe;
mod purge;
mod quarantine;
mod queues;
mod receiving;
mod recent;
mod record;
mod recorded;
mod recover;
mod reidentify;
#[cfg(feature = "__breaks")]
mod relabel;
mod reports;
mod room;
mod scan;
mod seek;
mod session;
mod settling;
mod sizes;
mod spill;
pub mod stream;
#[cfg(test)]
mod testing;
mod time;
mod trace;
mod unconfirmed;
mod undone;
mod unoffered;
mod views;
mod voids;
mod why;

pub use audit::Risen;
pub use config::{EngineConfig, OnTwin, Trust};
pub use engine::{ArrivalKey, Engine, Identity, Route};
pub use entropy::{Entropy, SeededEntropy};
pub use identity::{
    BranchEvidence, BranchView, PartedView, Seal, TokenKey, TwinMachine, TwinView, WentBackView,
};
pub use io::{
    ConnId, DialFailure, Event, FullBy, Input, Lane, LinkId, LoadId, Output, Recovered,
    RefusalsKnown, StoreOp, StoredRecord, StreamId, StreamSummary, Ticket,
};
#[cfg(feature = "__breaks")]
pub use probe::{Breaks, Reach, Reached};

pub use quarantine::QUARANTINE;
pub use record::{LocalSettings, RemoteKey, StoredMessage, StoredQueue};
pub use reidentify::Roles;
pub use sizes::Sizes;
pub use time::{Now, Timestamp, spoken};

//! Durable effects for a queue manager: an append log that forgets.
#![forbid(unsafe_code)]

#[cfg(feature = "engine")]
pub mod adapter;
#[cfg(feature = "__breaks")]
pub mod breaks;
#[cfg(not(feature = "__breaks"))]
mod breaks;
mod committer;
mod error;
mod format;
mod fs;
mod index;
mod log;
mod memory;
mod reader;
mod rules;
mod scan;
mod segment;
mod store;
mod types;

pub use committer::{Committer, Completion};
pub use error::StoreError;
pub use fs::{Fault, File, Fs, RealFs, SimFs};
pub use log::{Log, LogOptions, SaltSource};
pub use memory::MemoryStore;
pub use reader::Reader;
pub use store::Store;
pub use types::{
    Applied, Batch, HEAD_BYTES_MAX, KEY_BYTES_MAX, Op, RecentPut, Record, Recovered, RecoveryNote,
    Refusal, StreamId, StreamSummary, Usage,
};

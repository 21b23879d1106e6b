//! Durable effects for a queue manager: an append log that forgets.
//!
//! A queue manager writes a message, hands it on and never wants to see it again. This crate is
//! the disk for that: batches of records, removals and small keyed state go in, each batch whole
//! or not at all; what was reported done survives a killed process and a power cut; space comes
//! back as records are removed. It is not a database: records are found by stream and position
//! only, keyed state is small and handed back whole at recovery, and one process owns a directory.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use qm_store::{Applied, Batch, Log, LogOptions, Op, SimFs, StreamId};
//!
//! # fn main() -> Result<(), qm_store::StoreError> {
//! // On a real disk: `RealFs` instead, and salts from the operating system.
//! let disk = Arc::new(SimFs::new());
//! let salts = || { let mut salt = 0; Box::new(move || { salt += 1; salt }) };
//! let (mut log, found) =
//!     Log::open(disk.clone(), Path::new("/data"), LogOptions::default(), salts())?;
//! assert!(found.clean && found.streams.is_empty());
//!
//! let inbox = StreamId(1);
//! let accept = Batch::from(vec![
//!     Op::Put { stream: inbox, position: 1, head: "envelope".into(), body: "hello".into() },
//!     Op::Set { key: "inbox.next".into(), value: vec![2].into() },
//! ]);
//! assert_eq!(log.commit(&[accept])?, [Applied::Done]); // now, and only now, it is on the disk
//! drop(log); // as good as a crash
//!
//! let (mut log, found) = Log::open(disk, Path::new("/data"), LogOptions::default(), salts())?;
//! assert_eq!(found.state[b"inbox.next".as_slice()], [2].as_slice());
//! let waiting = log.reader().read(inbox, 0, 100, 1 << 20)?;
//! assert_eq!(waiting[0].body, "hello");
//! let settle = Batch::from(vec![Op::Remove { stream: inbox, first: 1, last: 1 }]);
//! assert_eq!(log.commit(&[settle])?, [Applied::Done]);
//! log.close();
//! # Ok(())
//! # }
//! ```
//!
//! # Types to know
//! [`Batch`] and [`Op`] are what goes in, [`Applied`] is what became of it. [`Log`] is the
//! synchronous core, [`Committer`] runs it on a thread of its own and lets everything that waits
//! share a flush, [`Reader`] reads beside it, huge bodies
//! in pieces if need be. [`MemoryStore`] keeps the same [`Store`] contract
//! without a disk. [`Recovered`] is what opening found. [`Fs`] stands between the log and the
//! disk: [`RealFs`], or [`SimFs`], which does to unflushed data whatever a disk may do.
//!
//! # Guarantees
//! * **Durable means flushed.** [`Applied::Done`] follows the flush; no option changes that.
//! * **Atomic.** After recovery a batch is there whole or not at all, and batches of one commit
//!   survive as a prefix in their order.
//! * **Honest after errors.** After a failed write or flush everything is
//!   [`StoreError::Failed`] until the log is opened again; recovery writes what it believes to
//!   disk before anybody relies on it.
//! * **Damage is named.** A write cut short is told from damage of what was durable. Damage is an
//!   error or a note with segment and offset; bytes that do not match their checksum are never
//!   served. One thing cannot be known: damage to the very last commit before a crash looks
//!   like that commit being cut short. A segment file that is gone is named as well: a small list
//!   tells which there must be.
//! * **Room to drain.** Removals and state use a reserve that puts cannot touch; a full store
//!   answers [`Applied::Full`] to puts and recovers by itself: once no more than a quarter is
//!   live the next put is accepted, see `FORMAT.md`. The reserve is finite: it
//!   holds one removal for every 72 bytes, fewer when they share commits, and what is emptied
//!   meanwhile is used again.
//! * **Bounded.** The log takes at most about twice what is live and eight segments more; the index
//!   takes 12 bytes a record up to [`LogOptions::index_bytes_max`], beyond that the cold part waits
//!   in a file; recovery reads through one-mebibyte windows. Bodies of
//!   [`LogOptions::side_file_bytes`] or more have files of their own and are never moved.
//! * **Caches decide nothing.** Hint files and index pages have to match a hash that is kept
//!   elsewhere; whatever becomes of them, what is served comes from verified segments.
//!
//! # Layout of the file
//! `FORMAT.md` beside this crate states every byte.
//!
//! # Features
//! * `engine`: the adapter between the engine's effects and batches.
#![forbid(unsafe_code)]

#[cfg(feature = "engine")]
pub mod adapter;
#[cfg(feature = "__breaks")]
pub mod breaks;
#[cfg(not(feature = "__breaks"))]
#[expect(unreachable_pub, reason = "public with the feature, unused without")]
mod breaks;
mod committer;
mod error;
mod format;
mod fs;
mod hint;
mod index;
mod log;
mod manifest;
mod memory;
mod reader;
mod repair;
mod rules;
mod scan;
mod scrub;
mod segment;
mod side;
mod store;
mod survey;
mod types;

pub use committer::{Committer, Completion};
pub use error::StoreError;
pub use fs::{Around, Fault, File, Fs, RealFs, SimFs, Tear, read_around};
pub use log::{Log, LogOptions, SaltSource};
pub use memory::MemoryStore;
pub use reader::Reader;
pub use repair::{Repaired, repair};
pub use scrub::{Scrub, Scrubbed};
pub use store::Store;
pub use survey::{Checked, Damage, Lost, LostRecord, StoreLock, check};
pub use types::{
    Applied, Batch, BodyPart, HEAD_BYTES_MAX, KEY_BYTES_MAX, Op, RawRecord, RecentPut, Record,
    Recovered, RecoveryNote, Refusal, RefusalsKnown, StreamId, StreamSummary, Usage,
};

//! Exact, bounded, lock-free duplicate cache and ack-route cache, with the clock handed in.
//!
//! [`DedupCache`] answers one question, from any number of threads: *was this key here before,
//! among the newest N, within the last T?* It is for receivers of messages that may come more than
//! once. [`AckRouteCache`] remembers where the sender of a message can be reached, and does not
//! mistake two senders with one identity for one.
//!
//! They are not general caches: they hold no values beside routes, and evict by age alone.
//!
//! ```
//! use qm_cache::{Admit, DedupCache, DedupConfig};
//!
//! # fn store(_: &str) -> bool { true }
//! # fn acknowledge() {}
//! # let (sender, number, now_ms) = (1, 7, 0);
//! // Keys are whatever is a fixed number of words: here a sender and a number. The hash key
//! // should be random, so that no sender can choose keys that collide.
//! let cache = DedupCache::<(u64, u64)>::new(DedupConfig::default(), [0x1234, 0x5678]);
//!
//! match cache.admit((sender, number), now_ms) {
//!     Admit::Fresh(reservation) => {
//!         if store("the message") {
//!             reservation.commit(); // from now on copies are duplicates
//!             acknowledge();
//!         } // else: dropped, and the next copy is fresh again
//!     }
//!     Admit::Duplicate => acknowledge(), // the sender did not get the first one
//!     Admit::InFlight => {}              // somebody is storing it: the sender will ask again
//! }
//! ```
//!
//! # Types to know
//! [`DedupCache`] with its [`DedupConfig`], the answer [`Admit`], and the right to a reserved key:
//! [`Reservation`] (a guard) or [`Ticket`] (owned, for asynchronous code). [`Key`] for key types of
//! one's own. [`AckRouteCache`] with its [`RouteConfig`], the answer [`Learned`], and
//! [`RouteHandle`] for sessions.
//!
//! # Consistency
//! * Of all who admit or insert one key at one time, one wins; the others hear
//!   [`Admit::InFlight`] or, once he has committed, [`Admit::Duplicate`].
//! * **Duplicate is never false**: it is answered only for a key that was committed, compared word
//!   for word, and is still remembered. A false one would lose a message.
//! * **Fresh again only after** the key was aborted, purged, or pushed out by `capacity` others. On
//!   one thread this is exact. Where threads race in one place of the table a place may be lost
//!   ([`DedupStats::wasted`]), which shortens the window by one entry while it passes.
//! * A reserved key is never evicted and never purged, however long it takes: reservations live in
//!   a table of their own and take no place from the window. Aborted keys push nothing out.
//! * The oldest goes first. Age counts from the commit. A capacity of 0 turns the cache off: all is
//!   fresh.
//! * Nothing is forgotten before its interval is over for the sake of time, not even when a
//!   thread or the whole machine stands still: a purge takes what was entered before a moment the
//!   clock has told, and trusts no age that an entry claims for itself. (That moment is when an
//!   insertion draws its place: one whose thread then stands still for an interval is forgotten at
//!   once.)
//! * Everything here is a function of the calls and the hash key: no clock is read, no random
//!   number drawn. One thread with the same inputs gets the same answers.
//!
//! # Progress
//! * `admit`, `insert_if_absent`, `commit`, `abort`, `probe` are lock-free: a call is repeated
//!   in part only when another call made progress meanwhile. A thread that is stopped anywhere
//!   stops nobody, with one bound: an insertion that comes round the ring to a place whose
//!   insertion was stopped half-way skips it, so `max(capacity, 64)` threads stopped half-way at
//!   once would make the next one spin. They are not wait-free: who loses every race is repeated
//!   for as long as he loses.
//! * `purge` reads the boundary from a few marks and raises one number: a microsecond at any size,
//!   and nobody waits. It need not be called: the first call after each interval does it.
//! * When `in_flight_max` reservations are outstanding, further new keys are answered
//!   [`Admit::InFlight`] at once ([`DedupStats::refused`]).
//!
//! # Memory and size
//! All memory is taken at creation: `(2 + words of the key) · 8` bytes an entry, 8 to 16 for the
//! index, `(1 + words) · 12` for each reservation allowed, and 8 to 16 KiB for the marks of the
//! clock. For a key of five words that is 64 to 72 bytes an entry from a million on, 86 at 10,000.
//! Where owners have shares ([`Key::OWNER_WORDS`]) entries and index are there twice, as with the
//! keys of the feature `wire`: 129 bytes an entry at a million, 156 at 10,000.
//! Beside it, 5 KiB of counters.
//!
//! Capacity is *rate × how long senders keep trying*. [`DedupStats::effective_window_ms`] tells how
//! long keys really last, and [`DedupStats::evicted_young`] rises when that is shorter than the
//! interval.
//!
//! | messages a second | senders try for | capacity | MiB, five words | with shares of owners |
//! |---|---|---|---|---|
//! | 10 | 15 minutes | 10,000 (the default) | 0.8 | 1.5 |
//! | 500 | 10 minutes | 300,000 | 20 | 40 |
//! | 5,000 | 30 minutes | 9,000,000 | 610 | 1,218 |
//! | 50,000 | 10 minutes | 30,000,000 | 1,860 | 3,717 |
//!
//! The largest capacity is 2^32 - 1. Tickets number 2^48 insertions, 8.9 years at a million a
//! second; a cache that gets there admits everything as fresh. A thread that stops in the middle of
//! an insertion and goes on after exactly a multiple of 2^40 others, 12 days at a million a second,
//! may hide the keys of one bucket.
//!
//! # Hostile peers
//! Hashes are keyed (`SipHash`-1-3 unless another hasher is given). Nothing a peer sends makes the
//! caches grow. With [`Key::OWNER_WORDS`] one peer cannot push out the keys of the others
//! ([`DedupConfig::owner_share_percent`]).
//!
//! # Features
//! `wire`, off by default: keys of qm's own messages, `MessageDedup` and `AckRoutes`; brings
//! `qm-wire`. The crate has no `unsafe` of its own; [papaya](https://docs.rs/papaya) is the map of
//! [`AckRouteCache`].
#![forbid(unsafe_code)]

mod dedup;
mod hash;
mod inflight;
mod key;
mod log;
#[cfg(loom)]
mod modelled;
mod owners;
mod reduce;
mod route;
mod stats;
mod sync;
#[cfg(feature = "wire")]
mod wire;

pub use dedup::{Admit, DedupCache, DedupConfig, DedupStats, KeyState, Reservation, Ticket};
pub use hash::{KeyedSipHasher, SipHasher13};
pub use key::Key;
pub use route::{AckRouteCache, Learned, RouteConfig, RouteHandle, RouteStats};
#[cfg(feature = "wire")]
pub use wire::{AckRoutes, MessageDedup};

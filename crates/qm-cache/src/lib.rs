//! Exact, bounded, lock-free duplicate cache and ack-route cache, with the clock handed in.
//!
//! ```
//! use qm_cache::{Admit, DedupCache, DedupConfig};
//!
//! let cache = DedupCache::<u64>::new(DedupConfig::default(), [1, 2]);
//! match cache.admit(7, 0) {
//!     Admit::Fresh(reservation) => reservation.commit(), // once the work is done
//!     Admit::InFlight | Admit::Duplicate => unreachable!("the first of its kind"),
//! }
//! assert!(matches!(cache.admit(7, 1), Admit::Duplicate));
//! ```
#![forbid(unsafe_code)]

mod dedup;
mod hash;
mod inflight;
mod key;
mod log;
mod owners;
mod reduce;
mod route;
mod stats;
mod sync;

pub use dedup::{Admit, DedupCache, DedupConfig, DedupStats, KeyState, Reservation, Ticket};
pub use hash::{KeyedSipHasher, SipHasher13};
pub use key::Key;
pub use route::{AckRouteCache, Learned, RouteConfig, RouteHandle, RouteStats};

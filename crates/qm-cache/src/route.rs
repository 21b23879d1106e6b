//! The ack-route cache.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

#[cfg(not(loom))]
use papaya::{Compute, HashMap, Operation};

use crate::hash::KeyedSipHasher;
#[cfg(loom)]
use crate::modelled::{Compute, HashMap, Operation};
use crate::stats::Counter;
use crate::sync::{AtomicIsize, AtomicU64, Ordering, is_mutant};

/// Sizes and times of an [`AckRouteCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// How long a route is held after it was last seen; 10 minutes by default.
    pub lifetime_ms: u64,
    /// Rows held at most, 65,536 by default: keys come from remote peers.
    pub rows_max: usize,
    /// Routes of one key held at most, 8 by default; the one not seen for longest gives way.
    pub candidates_max: usize,
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            lifetime_ms: 10 * 60 * 1000,
            rows_max: 65_536,
            candidates_max: 8,
        }
    }
}

/// What [`AckRouteCache::learn`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Learned {
    /// The key had no live route.
    New,
    /// The newest route of the key was seen again.
    Refreshed,
    /// The key has another live route too: the sender has moved, or there are two senders with one
    /// identity. Both routes are kept, this one in front.
    Alternative {
        /// Whether this route had not been held before.
        first_seen: bool,
    },
    /// The cache is full of live rows: the route was not stored.
    Full,
}

/// What an [`AckRouteCache`] did since its creation, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteStats {
    /// Keys with routes.
    pub rows: usize,
    /// Keys learned.
    pub learned: u64,
    /// Times a further route was learned for a key that had a live one.
    pub conflicts: u64,
    /// Times a key was seen at another of its known routes than the time before.
    pub switches: u64,
    /// Routes dropped because they failed.
    pub failed: u64,
    /// Routes dropped because their lifetime was over.
    pub expired: u64,
    /// Routes dropped because their key had too many.
    pub displaced: u64,
    /// Routes not stored because the cache was full.
    pub refused: u64,
}

/// The rows that threads have counted so far.
fn rows_counted(len: &AtomicIsize) -> usize {
    let counted = len.load(Ordering::Relaxed);
    if is_mutant("unsigned_rows") {
        return counted.cast_unsigned();
    }
    usize::try_from(counted).unwrap_or(0)
}

/// A route and when it was last seen.
#[derive(Debug)]
struct Candidate<R> {
    route: R,
    /// In ticks; stored only when it changes. Shared by all rows the candidate is in.
    last_seen: AtomicU64,
}

/// The routes of one key, newest first. Never empty while it is in the map.
type Row<R> = Box<[Arc<Candidate<R>>]>;

/// A session's hold on the route it uses: keeps it alive without asking the map.
#[derive(Debug)]
pub struct RouteHandle<R> {
    candidate: Arc<Candidate<R>>,
    tick_shift: u32,
}

impl<R> Clone for RouteHandle<R> {
    fn clone(&self) -> Self {
        Self {
            candidate: Arc::clone(&self.candidate),
            tick_shift: self.tick_shift,
        }
    }
}

impl<R> RouteHandle<R> {
    /// The route.
    #[must_use]
    pub fn route(&self) -> &R {
        &self.candidate.route
    }

    /// Notes that the route was seen now; says whether the cache still holds it.
    ///
    /// Costs two loads while the tick has not changed. After `false`, learn the route again. After
    /// `true` the route lives for a lifetime from now, whoever purges meanwhile: it goes earlier
    /// only if it [fails](AckRouteCache::failed) or its key has too many.
    #[must_use]
    pub fn refresh(&self, now_ms: u64) -> bool {
        self.candidate.see(now_ms >> self.tick_shift)
    }
}

/// `last_seen` of a candidate that was dropped from the map.
const DROPPED: u64 = u64::MAX;

impl<R> Candidate<R> {
    /// Raises `last_seen`; `false` when the candidate has been dropped.
    fn see(&self, tick: u64) -> bool {
        let mut seen = self.last_seen.load(Ordering::Relaxed);
        if is_mutant("blind_see") && seen < tick {
            self.last_seen.store(tick, Ordering::Relaxed);
            return true;
        }
        while seen < tick.min(DROPPED - 1) {
            match self.last_seen.compare_exchange_weak(
                seen,
                tick.min(DROPPED - 1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        seen != DROPPED
    }

    /// A swap: it stands behind every sight that came before it, where loom takes a store for one
    /// that a sight may overtake.
    fn drop_from_map(&self) {
        self.last_seen.swap(DROPPED, Ordering::Relaxed);
    }

    fn is_live(&self, now: u64, lifetime: u64) -> bool {
        is_within(self.last_seen.load(Ordering::Relaxed), now, lifetime)
    }

    /// Whether it is live; if not, it is dropped here and now, before it leaves its row.
    ///
    /// A session that sees it at this moment either makes it live or hears that it is gone. To
    /// judge first and to drop later would take from a session what it had just been told it has.
    fn live_or_dropped(&self, now: u64, lifetime: u64) -> bool {
        let mut seen = self.last_seen.load(Ordering::Relaxed);
        while seen != DROPPED && !is_within(seen, now, lifetime) {
            if is_mutant("judged_only") {
                return false;
            }
            match self.last_seen.compare_exchange_weak(
                seen,
                DROPPED,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return false,
                Err(now) => seen = now,
            }
        }
        seen != DROPPED
    }
}

/// Whether a tick of `last_seen` is so young that its candidate lives.
fn is_within(seen: u64, now: u64, lifetime: u64) -> bool {
    seen != DROPPED && now.saturating_sub(seen) <= lifetime
}

/// Where the acknowledgements of a sender go: key → routes, the newest first.
///
/// A route lives for a time after it was last seen. A second live route for a key is kept beside
/// the first and reported, never written over it: which of them is right shows when an
/// acknowledgement is sent there and [fails](Self::failed) or not.
///
/// ```
/// use qm_cache::{AckRouteCache, Learned, RouteConfig};
///
/// let routes = AckRouteCache::new(RouteConfig::default(), [1, 2]);
/// let (learned, session) = routes.learn_handle(7_u64, "10.0.0.1:1801", 0);
/// assert_eq!(learned, Learned::New);
///
/// // The session keeps its route alive by itself.
/// let session = session.expect("there is room");
/// assert!(session.refresh(400_000));
///
/// // A clone of the sender, or the sender at a new address.
/// let again = routes.learn(7, "10.0.0.2:1801", 401_000);
/// assert_eq!(again, Learned::Alternative { first_seen: true });
/// assert_eq!(routes.candidates(&7, 401_000), ["10.0.0.2:1801", "10.0.0.1:1801"]);
///
/// // The one that does not know the message is dropped, and the next is tried.
/// assert!(routes.failed(&7, &"10.0.0.2:1801"));
/// assert_eq!(routes.candidates(&7, 401_000), ["10.0.0.1:1801"]);
/// ```
///
/// # Consistency
/// Rows are immutable and replaced whole, so a reader sees the row before or after a change, never
/// half of it. Reads take no lock. Writers of different keys rarely meet; writers of one key
/// retry: of two threads that learn two routes of one key, the later one reports the other. A route
/// that was seen is held for its lifetime, also beside a thread that purges. No call iterates in an
/// order that shows, except [`purge`](Self::purge), whose result does not depend on it.
pub struct AckRouteCache<K, R, S = KeyedSipHasher> {
    rows: HashMap<K, Row<R>, S>,
    /// Below 0 for a moment when a row is removed before the thread that made it has counted it.
    len: AtomicIsize,
    config: RouteConfig,
    tick_shift: u32,
    lifetime_ticks: u64,
    /// The tick of the latest purge that was made for want of room.
    purged_for_room: AtomicU64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    learned: Counter,
    conflicts: Counter,
    switches: Counter,
    failed: Counter,
    expired: Counter,
    displaced: Counter,
    refused: Counter,
}

impl<K, R> AckRouteCache<K, R>
where
    K: Hash + Eq + Copy,
    R: Clone + Eq,
{
    /// An empty cache whose hashes are keyed with `hash_key`, which should be random and secret.
    ///
    /// # Panics
    /// When `candidates_max` is 0.
    #[must_use]
    pub fn new(config: RouteConfig, hash_key: [u64; 2]) -> Self {
        Self::with_hasher(config, KeyedSipHasher::new(hash_key))
    }
}

impl<K, R, S> AckRouteCache<K, R, S>
where
    K: Hash + Eq + Copy,
    R: Clone + Eq,
    S: BuildHasher,
{
    /// An empty cache with a hasher of one's own.
    ///
    /// # Panics
    /// When `candidates_max` is 0.
    #[must_use]
    pub fn with_hasher(config: RouteConfig, hasher: S) -> Self {
        assert!(config.candidates_max > 0, "a key has at least one route");
        // At least 64 ticks to a lifetime, and a power of two of milliseconds to a tick.
        let tick_shift = (config.lifetime_ms / 64).checked_ilog2().unwrap_or(0);
        Self {
            rows: HashMap::builder().hasher(hasher).build(),
            len: AtomicIsize::new(0),
            config,
            tick_shift,
            lifetime_ticks: config.lifetime_ms.div_ceil(1 << tick_shift),
            purged_for_room: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// Notes that `key` was seen at `route`.
    pub fn learn(&self, key: K, route: R, now_ms: u64) -> Learned {
        self.learn_handle(key, route, now_ms).0
    }

    /// As [`learn`](Self::learn), with a handle for the session; `None` only with
    /// [`Learned::Full`].
    pub fn learn_handle(&self, key: K, route: R, now_ms: u64) -> (Learned, Option<RouteHandle<R>>) {
        let now = now_ms >> self.tick_shift;
        let rows = self.rows.pin();
        if let Some(row) = rows.get(&key)
            && let Some(front) = row.first()
            && front.route == route
            && self.is_live(front, now)
            && front.see(now)
        {
            return (Learned::Refreshed, Some(self.handle(front)));
        }
        if !self.make_room(&key, now) {
            self.counters.refused.add(1);
            return (Learned::Full, None);
        }
        let fresh = Arc::new(Candidate {
            route,
            last_seen: AtomicU64::new(now),
        });
        let first = if is_mutant("stale_row") {
            rows.get(&key)
        } else {
            None
        };
        let mut learned = Learned::New;
        let update = rows.compute(key, |row| {
            // May run again when another thread changes the row meanwhile: it says anew what it
            // finds, and drops nothing but what has expired.
            let mut old = row.map_or(&[][..], |(_, row)| row);
            if is_mutant("stale_row") {
                old = first.map_or(&[][..], |row| row);
            }
            let live = || {
                old.iter()
                    .filter(|c| c.live_or_dropped(now, self.lifetime_ticks))
            };
            // It may stand behind routes that are no more: then nobody moved.
            let newest = live().next();
            // A known route keeps its candidate, so that handles on it stay good. It is seen before
            // it is in the row, where it could be dropped.
            let known = live().find(|c| c.route == fresh.route && c.see(now));
            let others = live()
                .filter(|c| c.route != fresh.route)
                .take(self.config.candidates_max - 1);
            let row: Row<R> = std::iter::once(known.unwrap_or(&fresh))
                .chain(others)
                .map(Arc::clone)
                .collect();
            learned = match known {
                Some(known) if newest.is_some_and(|newest| Arc::ptr_eq(newest, known)) => {
                    Learned::Refreshed
                }
                None if newest.is_none() => Learned::New,
                known => Learned::Alternative {
                    first_seen: known.is_none(),
                },
            };
            Operation::<_, ()>::Insert(row)
        });
        let handle = match update {
            Compute::Inserted(..) => {
                self.len.fetch_add(1, Ordering::Relaxed);
                self.handle(&fresh)
            }
            Compute::Updated {
                old: (_, old),
                new: (_, new),
            } => {
                self.retire(old, new, now);
                let Some(front) = new.first() else {
                    unreachable!("a row has a route")
                };
                self.handle(front)
            }
            Compute::Removed(..) | Compute::Aborted(()) => {
                unreachable!("the operation is always an insertion")
            }
        };
        match learned {
            Learned::New => self.counters.learned.add(1),
            Learned::Alternative { first_seen: true } => self.counters.conflicts.add(1),
            Learned::Alternative { first_seen: false } => self.counters.switches.add(1),
            Learned::Refreshed | Learned::Full => {}
        }
        (learned, Some(handle))
    }

    /// Lets go of the candidates that have left a row.
    fn retire(&self, old: &[Arc<Candidate<R>>], new: &[Arc<Candidate<R>>], now: u64) {
        for gone in old
            .iter()
            .filter(|c| !new.iter().any(|n| Arc::ptr_eq(n, c)))
        {
            let why = if self.is_live(gone, now) {
                &self.counters.displaced
            } else {
                &self.counters.expired
            };
            why.add(1);
            gone.drop_from_map();
        }
    }

    /// The live routes of a key, the one learned last first.
    ///
    /// A session that [refreshes](RouteHandle::refresh) its route keeps it alive, but does not
    /// move it to the front.
    #[must_use]
    pub fn candidates(&self, key: &K, now_ms: u64) -> Vec<R> {
        let now = now_ms >> self.tick_shift;
        let rows = self.rows.pin();
        let row = rows.get(key).map_or(&[][..], |row| row);
        row.iter()
            .filter(|c| self.is_live(c, now))
            .map(|c| c.route.clone())
            .collect()
    }

    /// A handle on the newest live route of a key.
    #[must_use]
    pub fn newest(&self, key: &K, now_ms: u64) -> Option<RouteHandle<R>> {
        let now = now_ms >> self.tick_shift;
        let rows = self.rows.pin();
        rows.get(key)?
            .iter()
            .find(|c| self.is_live(c, now))
            .map(|c| self.handle(c))
    }

    /// Drops a route that did not lead to the sender; says whether it was held.
    pub fn failed(&self, key: &K, route: &R) -> bool {
        let dropped = self.keep(*key, |candidate| candidate.route != *route);
        self.counters.failed.add(dropped);
        dropped > 0
    }

    /// Drops the routes whose lifetime is over; says how many. Stops nobody.
    pub fn purge(&self, now_ms: u64) -> usize {
        self.purge_at(now_ms >> self.tick_shift)
    }

    fn purge_at(&self, now: u64) -> usize {
        let rows = self.rows.pin();
        let mut dropped = 0;
        for (key, row) in &rows {
            if !row.iter().all(|candidate| self.is_live(candidate, now)) {
                let lifetime = self.lifetime_ticks;
                dropped += self.keep(*key, |candidate| candidate.live_or_dropped(now, lifetime));
            }
        }
        self.counters.expired.add(dropped);
        usize::try_from(dropped).unwrap_or(usize::MAX)
    }

    /// Keeps some candidates of a row; the number of those dropped.
    fn keep(&self, key: K, keep: impl Fn(&Candidate<R>) -> bool) -> u64 {
        let rows = self.rows.pin();
        let update = rows.compute(key, |row| {
            let Some((_, row)) = row else {
                return Operation::Abort(());
            };
            let kept: Row<R> = row.iter().filter(|c| keep(c)).map(Arc::clone).collect();
            if kept.len() == row.len() {
                Operation::Abort(())
            } else if kept.is_empty() {
                Operation::Remove
            } else {
                Operation::Insert(kept)
            }
        });
        let (old, new) = match update {
            Compute::Updated {
                old: (_, old),
                new: (_, new),
            } => (old, &**new),
            Compute::Removed(_, old) => {
                self.len.fetch_sub(1, Ordering::Relaxed);
                (old, &[][..])
            }
            Compute::Inserted(..) | Compute::Aborted(()) => return 0,
        };
        let gone = old
            .iter()
            .filter(|c| !new.iter().any(|n| Arc::ptr_eq(n, c)));
        gone.map(|candidate| candidate.drop_from_map()).count() as u64
    }

    /// What the cache did and holds.
    #[must_use]
    pub fn stats(&self) -> RouteStats {
        RouteStats {
            rows: self.len(),
            learned: self.counters.learned.sum(),
            conflicts: self.counters.conflicts.sum(),
            switches: self.counters.switches.sum(),
            failed: self.counters.failed.sum(),
            expired: self.counters.expired.sum(),
            displaced: self.counters.displaced.sum(),
            refused: self.counters.refused.sum(),
        }
    }

    /// Whether a row for `key` may be written; purges at most once a tick when the cache is full.
    ///
    /// Threads that write at the same time may pass the limit by their number.
    fn make_room(&self, key: &K, now: u64) -> bool {
        let has_room = || self.len() < self.config.rows_max;
        if has_room() || self.rows.pin().contains_key(key) {
            return true;
        }
        if self.purged_for_room.fetch_max(now + 1, Ordering::Relaxed) <= now {
            self.purge_at(now);
        }
        has_room()
    }

    fn len(&self) -> usize {
        rows_counted(&self.len)
    }

    fn is_live(&self, candidate: &Candidate<R>, now: u64) -> bool {
        candidate.is_live(now, self.lifetime_ticks)
    }

    fn handle(&self, candidate: &Arc<Candidate<R>>) -> RouteHandle<R> {
        RouteHandle {
            candidate: Arc::clone(candidate),
            tick_shift: self.tick_shift,
        }
    }
}

impl<K, R, S> std::fmt::Debug for AckRouteCache<K, R, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AckRouteCache")
            .field("rows", &rows_counted(&self.len))
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

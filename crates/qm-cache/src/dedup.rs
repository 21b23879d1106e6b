//! The duplicate cache.

mod answer;
mod tables;

use std::hash::BuildHasher;

use crate::Key;
use crate::hash::{KeyedSipHasher, hash_words};
use crate::key::{Source, Words};
use crate::log::{Found, Log, Single, TICK_WRAP};
use crate::stats::Counter;
use crate::sync::{AtomicU64, Line, Ordering, is_mutant};

pub use answer::{Admit, KeyState, Reservation, Ticket};
use tables::{Refused, Tables};

/// Sizes and times of a [`DedupCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupConfig {
    /// Committed keys remembered, 10,000 by default (KB 255546, `RemoveDuplicateSize`); 0 turns
    /// duplicate removal off.
    pub capacity: usize,
    /// Keys older than this are forgotten, and how often that is done; 30 minutes by default
    /// (KB 255546, `RemoveDuplicateCleanup`). 0: keys do not age.
    pub purge_interval_ms: u64,
    /// Reservations that may be outstanding at once; a key beyond is answered
    /// [`Admit::InFlight`]. They take no room from `capacity`. With 0 nothing can be reserved, and
    /// only [`DedupCache::insert_if_absent`] and its batch form are of use.
    pub in_flight_max: usize,
    /// How much of the capacity one owner may take from others, in percent; 50 by default.
    ///
    /// An owner ([`Key::OWNER_WORDS`]) with so many places takes no further place from a key of
    /// somebody else: his keys then go to a second ring, which all such owners share. It has as
    /// many places as the first, so the newest `capacity` keys are remembered whosever they are;
    /// nobody can flush the windows of the others, and a lone owner still has the whole. Without
    /// effect, and without the second ring's memory, at 100, for keys without owners, below a
    /// capacity of 512, and where nothing can be reserved.
    pub owner_share_percent: u8,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self::with_capacity(10_000)
    }
}

impl DedupConfig {
    /// The defaults for a cache of this capacity.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            purge_interval_ms: 30 * 60 * 1000,
            in_flight_max: (capacity / 128).clamp(2048, 8192),
            owner_share_percent: 50,
        }
    }
}

/// What a [`DedupCache`] did since its creation, and holds now.
///
/// Read without stopping anybody: while others work the numbers need not belong to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DedupStats {
    /// Keys that may be remembered.
    pub capacity: usize,
    /// Keys remembered (wasted places among them counted).
    pub len: usize,
    /// Reservations outstanding.
    pub in_flight: usize,
    /// Keys answered as duplicates.
    pub hits: u64,
    /// Keys committed or inserted.
    pub misses: u64,
    /// Keys answered as in flight because somebody else had reserved them.
    pub contended: u64,
    /// Keys answered as in flight because `in_flight_max` reservations were outstanding.
    pub refused: u64,
    /// Reservations given up.
    pub aborted: u64,
    /// Keys forgotten because their time was over.
    pub purged: u64,
    /// Keys remembered apart because their owners were over their share, since the creation.
    pub loud: u64,
    /// Keys forgotten because newer ones needed their place.
    pub evicted: u64,
    /// Of `evicted`: those not older than the purge interval. When this rises, the cache is too
    /// small for the traffic.
    pub evicted_young: u64,
    /// Places lost to races between threads; each shortened the window by one entry once.
    pub wasted: u64,
    /// Age of the oldest key remembered, exact to [`tick_ms`](Self::tick_ms). `None` when there is
    /// none, or where keys do not age.
    pub oldest_age_ms: Option<u64>,
    /// For how long a key is remembered at present: the age of what was evicted last, at most the
    /// purge interval. `None` while neither bound has been met, and where keys do not age.
    pub effective_window_ms: Option<u64>,
    /// The unit in which ages are kept.
    pub tick_ms: u64,
    /// Bytes held on the heap.
    pub heap_bytes: usize,
}

#[derive(Debug, Default)]
struct Counters {
    hits: Counter,
    contended: Counter,
    refused: Counter,
    aborted: Counter,
}

#[derive(Debug)]
struct Clock {
    /// The highest tick seen.
    now: AtomicU64,
    /// The tick of the latest purge.
    purged: AtomicU64,
}

/// Remembers the newest `capacity` keys, exactly: who admits a key is told whether it is new.
///
/// See the [crate documentation](crate) for what it promises.
pub struct DedupCache<K: Key, S: BuildHasher = KeyedSipHasher> {
    /// `None`: off.
    tables: Option<Tables<K>>,
    clock: Line<Clock>,
    /// Ticks are milliseconds shifted right by this.
    tick_shift: u32,
    /// Keys more than so many ticks old are due to be forgotten; 0: never.
    due_ticks: u64,
    hasher: S,
    counters: Counters,
}

impl<K: Key> DedupCache<K> {
    /// An empty cache whose hashes are keyed with `hash_key`, which should be random and secret.
    ///
    /// # Panics
    /// When the capacity is 2^32 or more, or `in_flight_max` above 2^28.
    #[must_use]
    pub fn new(config: DedupConfig, hash_key: [u64; 2]) -> Self {
        Self::with_hasher(config, KeyedSipHasher::new(hash_key))
    }
}

impl<K: Key, S: BuildHasher> DedupCache<K, S> {
    /// An empty cache with a hasher of one's own.
    ///
    /// All 64 bits of the hash are used. A hasher whose collisions can be aimed at makes the cache
    /// slow, never wrong.
    ///
    /// # Panics
    /// As [`new`](DedupCache::new).
    #[must_use]
    pub fn with_hasher(config: DedupConfig, hasher: S) -> Self {
        assert!(
            0 < K::IDENTITY_WORDS && K::IDENTITY_WORDS <= K::WORDS,
            "a key has at least one identity word"
        );
        // At least 1,024 ticks to an interval, and a power of two of milliseconds to a tick.
        let interval_ms = config.purge_interval_ms.min(INTERVAL_MAX_MS);
        let tick_shift = (interval_ms / 1024).checked_ilog2().unwrap_or(0);
        let due_ticks = interval_ms.div_ceil(1 << tick_shift);
        debug_assert!(
            due_ticks * 3 < TICK_WRAP,
            "three intervals fit into the ticks of an entry"
        );
        let tables =
            (config.capacity > 0).then(|| Tables::new(&config, due_ticks, hasher.hash_one(0_u64)));
        Self {
            tables,
            clock: Line(Clock {
                now: AtomicU64::new(0),
                purged: AtomicU64::new(0),
            }),
            tick_shift,
            due_ticks,
            hasher,
            counters: Counters::default(),
        }
    }

    /// Reserves a key unless it is known; the reservation aborts when dropped.
    pub fn admit(&self, key: K, now_ms: u64) -> Admit<Reservation<'_, K, S>> {
        self.admit_ticket(key, now_ms).map(|ticket| Reservation {
            cache: self,
            ticket: Some(ticket),
        })
    }

    /// Reserves a key unless it is known.
    ///
    /// With `in_flight_max` reservations outstanding the answer to an unknown key is
    /// [`Admit::InFlight`]; nothing is evicted for a reservation, and no reservation is evicted.
    #[inline(always)]
    pub fn admit_ticket(&self, key: K, now_ms: u64) -> Admit<Ticket> {
        let Some(tables) = &self.tables else {
            return Admit::Fresh(Ticket::off());
        };
        self.advance(tables, now_ms);
        let key = Words(key.to_words());
        let hash = self.hash(key);
        self.count(tables.reserve(key, hash))
    }

    /// Reserves many keys, as [`admit_ticket`](Self::admit_ticket) one after the other would, and
    /// appends the answers to `answers`.
    ///
    /// Their places in memory are fetched together, so that a batch (16 is enough) waits once.
    pub fn admit_batch(&self, keys: &[K], now_ms: u64, answers: &mut Vec<Admit<Ticket>>) {
        let Some(tables) = &self.tables else {
            answers.extend(keys.iter().map(|_| Admit::Fresh(Ticket::off())));
            return;
        };
        self.advance(tables, now_ms);
        for keys in keys.chunks(BATCH) {
            let hashes = self.fetch(tables, keys, false);
            for (key, hash) in keys.iter().zip(hashes) {
                let key = Words(key.to_words());
                answers.push(self.count(tables.reserve(key, hash)));
            }
        }
    }

    /// Remembers a reserved key: later copies are duplicates.
    ///
    /// Its age counts from now, the latest time the cache was told. A ticket of another cache is
    /// ignored.
    #[expect(clippy::needless_pass_by_value, reason = "the right is used up")]
    pub fn commit(&self, ticket: Ticket) {
        let (Some(tables), Some(held)) = (&self.tables, ticket.held) else {
            return;
        };
        if !tables.in_flight.is_reserved(held) {
            return;
        }
        let tick = self.clock.0.now.load(Ordering::Acquire);
        if is_mutant("release_first") {
            let key: Vec<u64> = (0..K::WORDS)
                .map(|at| tables.in_flight.key_of(held).word(at))
                .collect();
            tables.in_flight.release(held);
            return tables.remember(Words(&key[..]), ticket.hash, tick);
        }
        tables.remember(tables.in_flight.key_of(held), ticket.hash, tick);
        // Only now: whoever finds the key no longer reserved finds it committed.
        tables.in_flight.release(held);
    }

    /// Gives a reserved key up: the next copy is fresh. A ticket of another cache is ignored.
    #[expect(clippy::needless_pass_by_value, reason = "the right is used up")]
    pub fn abort(&self, ticket: Ticket) {
        let (Some(tables), Some(held)) = (&self.tables, ticket.held) else {
            return;
        };
        if tables.in_flight.is_reserved(held) {
            tables.in_flight.release(held);
            self.counters.aborted.add(1);
        }
    }

    /// Remembers a key at once; says whether it was new.
    ///
    /// `false`: committed before, or in the hands of somebody else just now.
    #[inline(always)]
    pub fn insert_if_absent(&self, key: K, now_ms: u64) -> bool {
        let Some(tables) = &self.tables else {
            return true;
        };
        let tick = self.advance(tables, now_ms);
        let key = Words(key.to_words());
        let hash = self.hash(key);
        match tables.insert(key, hash, tick, &mut Single) {
            Found::Absent => return true,
            Found::Tentative => self.counters.contended.add(1),
            Found::Committed => self.counters.hits.add(1),
        }
        false
    }

    /// Remembers many keys at once, as [`insert_if_absent`](Self::insert_if_absent) one after the
    /// other would, and appends to `fresh` which were new.
    pub fn insert_batch(&self, keys: &[K], now_ms: u64, fresh: &mut Vec<bool>) {
        let Some(tables) = &self.tables else {
            fresh.extend(keys.iter().map(|_| true));
            return;
        };
        let tick = self.advance(tables, now_ms);
        let is_far = tables.log.is_far();
        for keys in keys.chunks(BATCH) {
            let mut run = tables.log.empty_run();
            let (mut hits, mut contended, mut left) = (0, 0, keys.len() as u64);
            let mut insert = |key: Words<K::Words>, hash| {
                run.expect_more(left);
                left -= 1;
                match tables.insert(key, hash, tick, &mut run) {
                    Found::Absent => return true,
                    Found::Committed => hits += 1,
                    Found::Tentative => contended += 1,
                }
                false
            };
            let hashes = is_far.then(|| self.fetch(tables, keys, true));
            for (at, key) in keys.iter().enumerate() {
                let key = Words(key.to_words());
                let hash = hashes.map_or_else(|| self.hash(key), |hashes| hashes[at]);
                fresh.push(insert(key, hash));
            }
            tables.log.return_run(&run);
            self.counters.hits.add_some(hits);
            self.counters.contended.add_some(contended);
        }
    }

    /// Looks a key up without changing anything.
    #[must_use]
    pub fn probe(&self, key: K) -> Option<KeyState> {
        let tables = self.tables.as_ref()?;
        let key = Words(key.to_words());
        let hash = self.hash(key);
        let scan = tables.scan(key, hash);
        if scan.found == Found::Committed {
            return Some(KeyState::Committed);
        }
        if scan.found == Found::Tentative || tables.in_flight.holds(key, hash) {
            return Some(KeyState::Reserved);
        }
        // It may have been committed between the two looks.
        let again = tables.rescan(scan, key, hash);
        (again.found == Found::Committed).then_some(KeyState::Committed)
    }

    /// Forgets the keys that are older than the purge interval; says how many that were.
    ///
    /// It need not be called: the first call of another kind after each interval does the same.
    /// An age is kept in ticks, and no key is forgotten before its interval is over; it may be
    /// kept two ticks longer. Reservations are not touched.
    pub fn purge(&self, now_ms: u64) -> usize {
        let Some(tables) = &self.tables else { return 0 };
        let purged = || tables.logs().map(Log::purged).sum::<u64>();
        let before = purged();
        let tick = self.advance(tables, now_ms);
        if self.due_ticks > 0 {
            self.clock.0.purged.fetch_max(tick, Ordering::Relaxed);
            tables.purge(tick);
        }
        usize::try_from(purged().wrapping_sub(before)).unwrap_or(usize::MAX)
    }

    /// What the cache did and holds.
    #[must_use]
    pub fn stats(&self) -> DedupStats {
        let counters = &self.counters;
        let mut stats = DedupStats {
            hits: counters.hits.sum(),
            contended: counters.contended.sum(),
            refused: counters.refused.sum(),
            aborted: counters.aborted.sum(),
            tick_ms: 1 << self.tick_shift,
            ..DedupStats::default()
        };
        if let Some(tables) = &self.tables {
            let now = self.clock.0.now.load(Ordering::Relaxed);
            let main = tables.log.stats(now);
            let loud = tables
                .loud
                .as_ref()
                .map(|log| log.stats(now))
                .unwrap_or_default();
            let ms = |ticks: u64| ticks << self.tick_shift;
            stats.capacity = tables.log.window();
            stats.len = usize::try_from(main.len + loud.len).unwrap_or(usize::MAX);
            stats.in_flight = tables.in_flight.len();
            stats.misses = main.inserted + loud.inserted;
            stats.loud = loud.inserted;
            stats.purged = main.purged + loud.purged;
            stats.evicted = main.evicted + loud.evicted;
            let due = main.evicted_due + loud.evicted_due;
            stats.evicted_young = stats.evicted.saturating_sub(due);
            stats.wasted = main.wasted + loud.wasted;
            if self.due_ticks > 0 {
                stats.oldest_age_ms = main.oldest_age_ticks.max(loud.oldest_age_ticks).map(ms);
                let due = (stats.purged > 0).then_some(self.due_ticks);
                stats.effective_window_ms = match (main.last_evicted_age_ticks, due) {
                    (Some(evicted), Some(due)) => Some(ms(evicted.min(due))),
                    (evicted, due) => evicted.or(due).map(ms),
                };
            }
            stats.heap_bytes =
                tables.logs().map(Log::heap_bytes).sum::<usize>() + tables.in_flight.heap_bytes();
        }
        stats
    }

    #[inline(always)]
    fn hash(&self, key: impl Source) -> u64 {
        hash_words(&self.hasher, key, K::IDENTITY_WORDS)
    }

    /// Hashes a batch and brings near what its looks will read, and what the next batch will write
    /// if this one is `inserting`.
    #[inline]
    fn fetch(&self, tables: &Tables<K>, keys: &[K], inserting: bool) -> [u64; BATCH] {
        let hash = |key: &K| self.hash(Words(key.to_words()));
        let hashes = std::array::from_fn(|at| keys.get(at).map_or(0, hash));
        if tables.log.is_far() {
            let last_word = |at: usize| {
                let key = keys.get(at).map(|key: &K| Words(key.to_words()));
                key.map_or(0, |key| key.word(K::WORDS - 1))
            };
            let ahead = if inserting { BATCH } else { 0 };
            std::hint::black_box(tables.log.touch(&hashes, ahead, last_word));
        }
        hashes
    }

    #[inline]
    fn count(&self, answer: Result<Admit<Ticket>, Refused>) -> Admit<Ticket> {
        match answer {
            Ok(answer) => {
                match answer {
                    Admit::Fresh(_) => {}
                    Admit::InFlight => self.counters.contended.add(1),
                    Admit::Duplicate => self.counters.hits.add(1),
                }
                answer
            }
            Err(Refused) => {
                self.counters.refused.add(1);
                Admit::InFlight
            }
        }
    }

    /// Takes note of the time, and purges when an interval has passed; the tick of now.
    ///
    /// Time that goes backwards stands still.
    #[inline]
    fn advance(&self, tables: &Tables<K>, now_ms: u64) -> u64 {
        let tick = now_ms >> self.tick_shift;
        let known = self.clock.0.now.load(Ordering::Acquire);
        if tick <= known {
            known
        } else {
            self.advance_to(tables, tick)
        }
    }

    #[cold]
    fn advance_to(&self, tables: &Tables<K>, tick: u64) -> u64 {
        let clock = &self.clock.0;
        // Before the clock moves: who sees the new time draws a ticket from here on.
        let boundary = tables.log.boundary();
        let loud_boundary = tables.loud.as_ref().map_or(0, Log::boundary);
        let mut known = clock.now.load(Ordering::Relaxed);
        while known < tick {
            match clock
                .now
                .compare_exchange(known, tick, Ordering::AcqRel, Ordering::Acquire)
            {
                Err(now) => {
                    known = now;
                    continue;
                }
                Ok(_) if self.due_ticks == 0 => return tick,
                Ok(_) => {}
            }
            let boundary = if is_mutant("late_tail") {
                tables.log.boundary()
            } else {
                boundary
            };
            tables.log.leave_mark(known, tick, boundary);
            if let Some(loud) = &tables.loud {
                loud.leave_mark(known, tick, loud_boundary);
            }
            if tick - known > self.due_ticks {
                // A pause longer than the interval: all are due, and their ticks, which are kept
                // modulo 2^13, could pass for young before long.
                clock.purged.fetch_max(tick, Ordering::Relaxed);
                tables.log.forget_below(boundary);
                if let Some(loud) = &tables.loud {
                    loud.forget_below(loud_boundary);
                }
            } else if tick - clock.purged.load(Ordering::Relaxed).min(tick) >= self.due_ticks {
                clock.purged.fetch_max(tick, Ordering::Relaxed);
                tables.purge(tick);
            }
            return tick;
        }
        known
    }
}

/// Longer purge intervals count as this one, 35,000 years.
const INTERVAL_MAX_MS: u64 = 1 << 50;

/// Keys of a batch whose places in memory are fetched together.
const BATCH: usize = 16;

impl<K: Key, S: BuildHasher> std::fmt::Debug for DedupCache<K, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DedupCache")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

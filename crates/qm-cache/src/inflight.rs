//! The bounded table of keys that are reserved and neither committed nor aborted yet.
//!
//! An open-addressed table of groups of eight slots. A key is put into the first free slot at or
//! after its home group; `reach` of the home group says how many groups further its keys may lie,
//! and only grows. A slot goes FREE → CLAIMED → PENDING → RESERVED → FREE. Who wins a key is
//! settled between PENDING slots: everybody publishes first, orders himself against the others
//! (one read-modify-write of the same word, [`Log::order`](crate::log::Log::order)) and then looks;
//! of two with the same key at least the later one sees the other. It withdraws from a RESERVED
//! slot and from a PENDING one with a lower number, and kills a PENDING one with a higher number.

use std::marker::PhantomData;
use std::sync::atomic::AtomicU64 as StdU64;

use crate::Key;
use crate::key::Source;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Line, Ordering, fence, is_mutant, words};

#[cfg(not(loom))]
const GROUP: usize = 8;
#[cfg(loom)]
const GROUP: usize = 2;

const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const PENDING: u64 = 2;
const RESERVED: u64 = 3;
const KILLED: u64 = 4;
const STATE: u64 = 7;
const FINGERPRINT_SHIFT: u32 = 3;
const FINGERPRINT: u64 = 0x1fff << FINGERPRINT_SHIFT;
const VERSION_SHIFT: u32 = 16;

/// A slot somebody holds, and the version that proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Which table: a right of one table is none in another.
    table: u64,
    slot: u32,
    /// Version and fingerprint of the slot, with no state.
    stamp: u64,
}

/// What the table knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    None,
    /// Somebody has reserved the key, or is about to.
    Some,
}

/// Numbers the tables of this process. No answer depends on it.
static TABLES: StdU64 = StdU64::new(0);

pub(crate) struct InFlight<K> {
    table: u64,
    states: Box<[AtomicU64]>,
    words: Box<[AtomicU64]>,
    reach: Box<[AtomicU32]>,
    limit: usize,
    count: Line<AtomicUsize>,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> InFlight<K> {
    /// A table for at most `limit` reservations.
    ///
    /// # Panics
    /// When `limit` is above 2^28.
    pub(crate) fn new(limit: usize) -> Self {
        assert!(limit <= 1 << 28, "at most 2^28 reservations at once");
        // Two thirds full at the limit: a home group rarely needs more than its neighbour.
        let groups = (limit + limit / 2).div_ceil(GROUP).max(1);
        let slots = groups * GROUP;
        Self {
            table: TABLES.fetch_add(1, Ordering::Relaxed),
            states: words(slots),
            words: words(slots * K::WORDS),
            reach: (0..groups).map(|_| AtomicU32::new(0)).collect(),
            limit,
            count: Line(AtomicUsize::new(0)),
            key: PhantomData,
        }
    }

    /// Bytes held on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        (self.states.len() + self.words.len()) * 8 + self.reach.len() * 4
    }

    /// Reservations outstanding.
    pub(crate) fn len(&self) -> usize {
        self.count.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.reach.len() as u64) >> 32) as usize
    }

    #[inline]
    const fn fingerprint(hash: u64) -> u64 {
        (hash >> 16 << FINGERPRINT_SHIFT) & FINGERPRINT
    }

    fn group(&self, home: usize, distance: usize) -> std::ops::Range<usize> {
        let mut group = home + distance;
        if group >= self.reach.len() {
            group -= self.reach.len();
        }
        group * GROUP..(group + 1) * GROUP
    }

    #[inline]
    fn key_words(&self, slot: usize) -> &[AtomicU64] {
        &self.words[slot * K::WORDS..(slot + 1) * K::WORDS]
    }

    /// Takes a slot for a key and publishes it as PENDING; `None` at the limit.
    #[inline]
    pub(crate) fn publish(&self, key: impl Source, hash: u64) -> Option<Held> {
        if self.count.0.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.count.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let home = self.home(hash);
        // There are more slots than admitted reservations, so a free one is found; but another
        // may be released behind this look and a later one taken ahead of it, hence the rounds.
        loop {
            for distance in 0..self.reach.len() {
                for slot in self.group(home, distance) {
                    if let Some(held) = self.take(slot, home, distance, key, hash) {
                        return Some(held);
                    }
                }
            }
        }
    }

    #[inline]
    fn take(
        &self,
        slot: usize,
        home: usize,
        distance: usize,
        key: impl Source,
        hash: u64,
    ) -> Option<Held> {
        let state = &self.states[slot];
        let old = state.load(Ordering::Relaxed);
        if old & STATE != FREE {
            return None;
        }
        let version = (old >> VERSION_SHIFT).wrapping_add(1) << VERSION_SHIFT;
        let stamp = version | Self::fingerprint(hash);
        state
            .compare_exchange(old, stamp | CLAIMED, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        let distance = u32::try_from(distance).expect("groups number below 2^32");
        if self.reach[home].load(Ordering::Relaxed) < distance {
            self.reach[home].fetch_max(distance, Ordering::Relaxed);
        }
        // Whoever reads a word written below also sees that the slot has changed hands.
        fence(Ordering::Release);
        for (at, word) in self.key_words(slot).iter().enumerate() {
            word.store(key.word(at), Ordering::Relaxed);
        }
        state.store(stamp | PENDING, Ordering::Release);
        Some(Held {
            table: self.table,
            slot: u32::try_from(slot).expect("slots number below 2^32"),
            stamp,
        })
    }

    /// Looks for others with the same key after this thread has published and ordered itself.
    ///
    /// `mine` is `None` for who holds no slot and yields to none but the reserved: he kills every
    /// pending rival.
    #[inline]
    pub(crate) fn contend(&self, mine: Option<Held>, key: impl Source, hash: u64) -> Rival {
        let rank = mine.map_or(0, |held| held.slot as usize);
        let own = mine.map(|held| held.slot as usize);
        let home = self.home(hash);
        let reach = self.reach[home].load(Ordering::Acquire) as usize;
        for distance in 0..=reach {
            for slot in self.group(home, distance) {
                if own == Some(slot) {
                    continue;
                }
                let mut state = self.states[slot].load(Ordering::Acquire);
                while self.is_of(slot, state, key, hash) {
                    if state & STATE == RESERVED || own.is_some() && slot < rank {
                        return Rival::Some;
                    }
                    match self.states[slot].compare_exchange(
                        state,
                        state & !STATE | KILLED,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    ) {
                        Ok(_) => break,
                        Err(now) => state = now,
                    }
                }
            }
        }
        Rival::None
    }

    /// Whether the slot in this state is a pending or reserved one of this key.
    #[inline]
    fn is_of(&self, slot: usize, state: u64, key: impl Source, hash: u64) -> bool {
        if !matches!(state & STATE, PENDING | RESERVED)
            || state & FINGERPRINT != Self::fingerprint(hash)
        {
            return false;
        }
        let same = self
            .key_words(slot)
            .iter()
            .enumerate()
            .all(|(at, word)| word.load(Ordering::Relaxed) == key.word(at));
        fence(Ordering::Acquire);
        // Acquire: who finds the holder gone must find what he committed.
        let now = self.states[slot].load(Ordering::Acquire);
        // A changed version: the holder has gone. A changed state alone: the words still hold.
        if is_mutant("torn_rival") {
            return same;
        }
        same && now >> VERSION_SHIFT == state >> VERSION_SHIFT && now & STATE != FREE
    }

    /// Whether somebody has reserved the key.
    pub(crate) fn holds(&self, key: impl Source, hash: u64) -> bool {
        let home = self.home(hash);
        let reach = self.reach[home].load(Ordering::Acquire) as usize;
        (0..=reach)
            .flat_map(|distance| self.group(home, distance))
            .any(|slot| {
                let state = self.states[slot].load(Ordering::Acquire);
                state & STATE == RESERVED && self.is_of(slot, state, key, hash)
            })
    }

    /// Turns a pending slot into a reservation, unless a rival has killed it.
    #[inline]
    pub(crate) fn confirm(&self, held: Held) -> bool {
        if is_mutant("no_confirm") {
            self.states[held.slot as usize].store(held.stamp | RESERVED, Ordering::Release);
            return true;
        }
        self.states[held.slot as usize]
            .compare_exchange(
                held.stamp | PENDING,
                held.stamp | RESERVED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Whether this is a reservation of this table that has not been released.
    #[inline]
    pub(crate) fn is_reserved(&self, held: Held) -> bool {
        held.table == self.table
            && self.states[held.slot as usize].load(Ordering::Relaxed) == held.stamp | RESERVED
    }

    /// The words of a held slot, which stay as they are until it is released.
    #[inline]
    pub(crate) fn key_of(&self, held: Held) -> &[AtomicU64] {
        self.key_words(held.slot as usize)
    }

    /// Gives a slot back.
    #[inline]
    pub(crate) fn release(&self, held: Held) {
        self.states[held.slot as usize].store(held.stamp & !FINGERPRINT | FREE, Ordering::Release);
        self.count.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<K> std::fmt::Debug for InFlight<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

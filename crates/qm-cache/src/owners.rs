//! How many places of the log each owner of keys has.

use crate::key::Source;
use crate::sync::{AtomicU32, Ordering};

/// Owners are told apart by a keyed hash into so many counters.
#[cfg(not(loom))]
const COUNTERS: usize = 1024;
#[cfg(loom)]
const COUNTERS: usize = 1;

/// Set in a counter whose owner has keys in the log of the loud.
const LOUD: u32 = 1 << 31;

/// The places owners have in the log, and who is over his share.
#[derive(Debug)]
pub(crate) struct Owners {
    counters: Box<[AtomicU32]>,
    key: u64,
    words: usize,
    limit: u32,
}

impl Owners {
    /// Counts owners named by the first `words` words of a key, each with a share of `limit`.
    pub(crate) fn new(words: usize, limit: usize, key: u64) -> Self {
        let counters = (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        let limit = u32::try_from(limit).unwrap_or(LOUD - 1).min(LOUD - 1);
        Self {
            counters,
            key,
            words,
            limit,
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.counters.len() * 4
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "shifted down to the bits of an index"
    )]
    fn counter(&self, key: impl Source) -> &AtomicU32 {
        let hash = (0..self.words).fold(self.key, |hash, at| {
            let mixed = (hash ^ key.word(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ mixed >> 32
        });
        let bits = self.counters.len().ilog2();
        &self.counters[hash.wrapping_mul(self.key | 1).unbounded_shr(64 - bits) as usize]
    }

    pub(crate) fn gain(&self, key: impl Source) {
        self.counter(key).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn lose(&self, key: impl Source) {
        self.counter(key).fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the owner of this key has all the places he may have.
    pub(crate) fn is_over(&self, key: impl Source) -> bool {
        self.counter(key).load(Ordering::Relaxed) & !LOUD >= self.limit
    }

    /// Whether two keys have owners that are counted together.
    pub(crate) fn same(&self, one: impl Source, other: impl Source) -> bool {
        std::ptr::eq(self.counter(one), self.counter(other))
    }

    /// Marks the owner of this key as having keys in the log of the loud.
    pub(crate) fn mark_loud(&self, key: impl Source) {
        self.counter(key).fetch_or(LOUD, Ordering::Relaxed);
    }

    /// Whether the owner of this key may have keys in the log of the loud.
    pub(crate) fn is_loud(&self, key: impl Source) -> bool {
        self.counter(key).load(Ordering::Relaxed) & LOUD != 0
    }
}

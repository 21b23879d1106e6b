//! What is compared: every way to remember the newest N keys that this ecosystem offers.
//!
//! All use the same hasher with the same key, and all that need a queue beside their table use the
//! same one. None is given a hint the others do not get.

use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use parking_lot::Mutex;
use qm_cache::{Admit, DedupCache, DedupConfig, KeyedSipHasher};

/// A message identity as a queue manager has it: two words of sender, then incarnation, sequence
/// number and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) [u64; 5]);

impl Id {
    pub(crate) const fn nth(n: u64) -> Self {
        let sender = n % 16;
        let tag = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self([
            0x8000_1234 + sender,
            0x5678 * sender,
            0xabcd_ef01 ^ sender,
            n / 16,
            tag,
        ])
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in self.0 {
            state.write_u64(word);
        }
    }
}

impl qm_cache::Key for Id {
    type Words = [u64; 5];
    const WORDS: usize = 5;
    fn to_words(&self) -> [u64; 5] {
        self.0
    }
}

pub(crate) const HASHER: KeyedSipHasher = KeyedSipHasher::new([0x0123_4567, 0x89ab_cdef]);

/// Something that remembers the newest keys.
pub(crate) trait Contender: Sync {
    const NAME: &'static str;
    fn new(capacity: usize) -> Self;
    /// Whether the key was new.
    fn insert(&self, key: Id) -> bool;
    /// How many of the keys were new.
    fn insert_run(&self, keys: &[Id]) -> usize {
        keys.iter().filter(|key| self.insert(**key)).count()
    }
    fn holds(&self, key: Id) -> bool;
}

fn config(capacity: usize) -> DedupConfig {
    DedupConfig::with_capacity(capacity)
}

/// This crate, a key at a time.
pub(crate) struct Ours(pub(crate) DedupCache<Id>);

impl Contender for Ours {
    const NAME: &'static str = "qm-cache insert";
    fn new(capacity: usize) -> Self {
        Self(DedupCache::with_hasher(config(capacity), HASHER))
    }
    fn insert(&self, key: Id) -> bool {
        self.0.insert_if_absent(key, 0)
    }
    fn holds(&self, key: Id) -> bool {
        self.0.probe(key).is_some()
    }
}

/// This crate, sixteen keys at a time.
pub(crate) struct OursBatched(DedupCache<Id>);

impl Contender for OursBatched {
    const NAME: &'static str = "qm-cache insert_batch(16)";
    fn new(capacity: usize) -> Self {
        Self(DedupCache::with_hasher(config(capacity), HASHER))
    }
    fn insert(&self, key: Id) -> bool {
        self.0.insert_if_absent(key, 0)
    }
    fn insert_run(&self, keys: &[Id]) -> usize {
        let mut fresh = Vec::with_capacity(keys.len());
        self.0.insert_batch(keys, 0, &mut fresh);
        fresh.iter().filter(|fresh| **fresh).count()
    }
    fn holds(&self, key: Id) -> bool {
        self.0.probe(key).is_some()
    }
}

/// This crate, reserved and committed a key at a time.
pub(crate) struct OursTwoPhase(DedupCache<Id>);

impl Contender for OursTwoPhase {
    const NAME: &'static str = "qm-cache admit + commit";
    fn new(capacity: usize) -> Self {
        Self(DedupCache::with_hasher(config(capacity), HASHER))
    }
    fn insert(&self, key: Id) -> bool {
        match self.0.admit_ticket(key, 0) {
            Admit::Fresh(ticket) => {
                self.0.commit(ticket);
                true
            }
            Admit::InFlight | Admit::Duplicate => false,
        }
    }
    fn holds(&self, key: Id) -> bool {
        self.0.probe(key).is_some()
    }
}

/// This crate, sixteen keys reserved at a time and committed one by one.
pub(crate) struct OursTwoPhaseBatched(DedupCache<Id>);

impl Contender for OursTwoPhaseBatched {
    const NAME: &'static str = "qm-cache admit_batch(16) + commits";
    fn new(capacity: usize) -> Self {
        Self(DedupCache::with_hasher(config(capacity), HASHER))
    }
    fn insert(&self, key: Id) -> bool {
        self.0.insert_if_absent(key, 0)
    }
    fn insert_run(&self, keys: &[Id]) -> usize {
        let mut answers = Vec::with_capacity(keys.len());
        self.0.admit_batch(keys, 0, &mut answers);
        let tickets = answers.into_iter().filter_map(Admit::fresh);
        tickets.map(|ticket| self.0.commit(ticket)).count()
    }
    fn holds(&self, key: Id) -> bool {
        self.0.probe(key).is_some()
    }
}

/// The obvious way: a set and a queue behind a lock.
pub(crate) struct Mutexed {
    inner: Mutex<(HashSet<Id, KeyedSipHasher>, VecDeque<Id>)>,
    capacity: usize,
}

impl Mutexed {
    fn put(
        (set, queue): &mut (HashSet<Id, KeyedSipHasher>, VecDeque<Id>),
        capacity: usize,
        key: Id,
    ) -> bool {
        if !set.insert(key) {
            return false;
        }
        if queue.len() == capacity
            && let Some(oldest) = queue.pop_front()
        {
            set.remove(&oldest);
        }
        queue.push_back(key);
        true
    }

    /// Forgets the older half, as a purge would; everybody waits.
    pub(crate) fn forget_half(&self) -> usize {
        let (set, queue) = &mut *self.inner.lock();
        let half = queue.len() / 2;
        for key in queue.drain(..half) {
            set.remove(&key);
        }
        half
    }

    /// Looks at some keys, as a step of a purge of a set without an order must; everybody waits.
    pub(crate) fn walk(&self, keys: usize) -> usize {
        let (set, _) = &*self.inner.lock();
        set.iter()
            .take(keys)
            .filter(|key| key.0[4] % 2 == 1)
            .count()
    }
}

impl Contender for Mutexed {
    const NAME: &'static str = "mutex + set + deque";
    fn new(capacity: usize) -> Self {
        let set = HashSet::with_capacity_and_hasher(capacity + 1, HASHER);
        Self {
            inner: Mutex::new((set, VecDeque::with_capacity(capacity))),
            capacity,
        }
    }
    fn insert(&self, key: Id) -> bool {
        Self::put(&mut self.inner.lock(), self.capacity, key)
    }
    fn insert_run(&self, keys: &[Id]) -> usize {
        let mut inner = self.inner.lock();
        keys.iter()
            .filter(|key| Self::put(&mut inner, self.capacity, **key))
            .count()
    }
    fn holds(&self, key: Id) -> bool {
        self.inner.lock().0.contains(&key)
    }
}

/// The order of arrival, for the tables that have none.
struct Order {
    queue: Mutex<VecDeque<Id>>,
    capacity: usize,
}

impl Order {
    fn new(capacity: usize) -> Self {
        Self {
            queue: Mutex::new(VecDeque::with_capacity(capacity)),
            capacity,
        }
    }

    /// Puts a key in and says which falls out.
    fn push(&self, key: Id) -> Option<Id> {
        let mut queue = self.queue.lock();
        let oldest = if queue.len() == self.capacity {
            queue.pop_front()
        } else {
            None
        };
        queue.push_back(key);
        oldest
    }
}

macro_rules! table_and_queue {
    (
        $name:ident, $title:literal, $table:ty, $new:expr,
        $insert:expr, $remove:expr, $holds:expr
    ) => {
        pub(crate) struct $name {
            table: $table,
            order: Order,
        }

        impl Contender for $name {
            const NAME: &'static str = $title;
            fn new(capacity: usize) -> Self {
                let new: fn(usize) -> $table = $new;
                Self {
                    table: new(capacity),
                    order: Order::new(capacity),
                }
            }
            fn insert(&self, key: Id) -> bool {
                let insert: fn(&$table, Id) -> bool = $insert;
                let remove: fn(&$table, Id) = $remove;
                if !insert(&self.table, key) {
                    return false;
                }
                if let Some(oldest) = self.order.push(key) {
                    remove(&self.table, oldest);
                }
                true
            }
            fn holds(&self, key: Id) -> bool {
                let holds: fn(&$table, Id) -> bool = $holds;
                holds(&self.table, key)
            }
        }
    };
}

table_and_queue!(
    DashMapQueue,
    "dashmap + queue",
    dashmap::DashSet<Id, KeyedSipHasher>,
    |capacity| dashmap::DashSet::with_capacity_and_hasher(capacity, HASHER),
    |table, key| table.insert(key),
    |table, key| {
        table.remove(&key);
    },
    |table, key| table.contains(&key)
);

table_and_queue!(
    PapayaQueue,
    "papaya + queue",
    papaya::HashSet<Id, KeyedSipHasher>,
    |capacity| papaya::HashSet::with_capacity_and_hasher(capacity, HASHER),
    |table, key| table.pin().insert(key),
    |table, key| {
        table.pin().remove(&key);
    },
    |table, key| table.pin().contains(&key)
);

table_and_queue!(
    SccQueue,
    "scc + queue",
    scc::HashSet<Id, KeyedSipHasher>,
    |capacity| scc::HashSet::with_capacity_and_hasher(capacity, HASHER),
    |table, key| table.insert_sync(key).is_ok(),
    |table, key| {
        table.remove_sync(&key);
    },
    |table, key| table.contains_sync(&key)
);

/// moka evicts by its own policy: it is bounded, but does not promise to keep the newest.
pub(crate) struct Moka(moka::sync::Cache<Id, (), KeyedSipHasher>);

impl Contender for Moka {
    const NAME: &'static str = "moka";
    fn new(capacity: usize) -> Self {
        Self(
            moka::sync::Cache::builder()
                .max_capacity(capacity as u64)
                .build_with_hasher(HASHER),
        )
    }
    fn insert(&self, key: Id) -> bool {
        self.0.entry(key).or_insert(()).is_fresh()
    }
    fn holds(&self, key: Id) -> bool {
        self.0.contains_key(&key)
    }
}

/// `quick_cache` evicts by its own policy: it is bounded, but does not promise to keep the newest.
pub(crate) struct QuickCache(
    quick_cache::sync::Cache<Id, (), quick_cache::UnitWeighter, KeyedSipHasher>,
);

impl Contender for QuickCache {
    const NAME: &'static str = "quick_cache";
    fn new(capacity: usize) -> Self {
        Self(quick_cache::sync::Cache::with(
            capacity,
            capacity as u64,
            quick_cache::UnitWeighter,
            HASHER,
            quick_cache::sync::DefaultLifecycle::default(),
        ))
    }
    fn insert(&self, key: Id) -> bool {
        match self.0.get_value_or_guard(&key, None) {
            quick_cache::sync::GuardResult::Guard(guard) => guard.insert(()).is_ok(),
            _ => false,
        }
    }
    fn holds(&self, key: Id) -> bool {
        self.0.peek(&key).is_some()
    }
}

//! What a hostile peer, a strange hasher, a careless caller or an unlucky clock could try.
#![cfg(not(loom))]

use std::hash::{BuildHasher, Hasher};

use qm_cache::{Admit, DedupCache, DedupConfig, Key, KeyState};

/// A hasher whose every key collides: the worst a flood of chosen keys could do.
#[derive(Clone, Copy, Default)]
struct Constant(u64);

impl BuildHasher for Constant {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Constant {
    fn write(&mut self, _: &[u8]) {}
    fn finish(&self) -> u64 {
        self.0
    }
}

/// A peer and a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u64, u64);

impl Key for Id {
    type Words = [u64; 2];
    const WORDS: usize = 2;
    const OWNER_WORDS: usize = 1;
    fn to_words(&self) -> [u64; 2] {
        [self.0, self.1]
    }
}

fn config(capacity: usize) -> DedupConfig {
    DedupConfig {
        purge_interval_ms: 1000,
        in_flight_max: 8,
        ..DedupConfig::with_capacity(capacity)
    }
}

/// Collisions cost time, never an answer.
#[test]
fn keys_that_all_collide_get_exact_answers() {
    for hash in [0, 1, u64::MAX, 0x8000_0000_0000_0000] {
        for capacity in [1, 2, 63, 64, 65, 500] {
            let cache = DedupCache::<u64, _>::with_hasher(config(capacity), Constant(hash));
            for n in 0..3 * capacity as u64 + 10 {
                assert!(cache.insert_if_absent(n, 0), "key {n} is new");
                assert!(!cache.insert_if_absent(n, 0), "key {n} is known");
                let oldest = (n + 1).saturating_sub(capacity as u64);
                assert!(cache.probe(oldest).is_some(), "key {oldest} after {n}");
                assert!(
                    oldest == 0 || cache.probe(oldest - 1).is_none(),
                    "one too many"
                );
            }
            // Reservations of keys that collide, up to the limit.
            let tickets: Vec<_> = (0..8)
                .filter_map(|n| cache.admit_ticket(1 << 40 | n, 0).fresh())
                .collect();
            assert_eq!(tickets.len(), 8);
            for n in 0..9 {
                assert!(matches!(cache.admit(1 << 40 | n, 0), Admit::InFlight));
            }
            tickets.into_iter().for_each(|ticket| cache.abort(ticket));
            for n in 0..8 {
                assert_eq!(cache.probe(1 << 40 | n), None);
            }
        }
    }
}

/// Nothing a peer sends makes the cache grow.
#[test]
fn memory_is_what_it_was_at_the_start() {
    let cache = DedupCache::<Id>::new(config(1000), [1, 2]);
    let bytes = cache.stats().heap_bytes;
    let mut held = Vec::new();
    for n in 0..50_000_u64 {
        match cache.admit_ticket(Id(n % 3, n), n / 10) {
            Admit::Fresh(ticket) if n % 2 == 0 => cache.commit(ticket),
            Admit::Fresh(ticket) => held.push(ticket),
            Admit::InFlight | Admit::Duplicate => {}
        }
        if held.len() == 8 {
            held.drain(..).for_each(|ticket| cache.abort(ticket));
        }
        let stats = cache.stats();
        assert!(stats.len <= 1000 + 125 && stats.in_flight <= 8, "{stats:?}");
    }
    assert_eq!(cache.stats().heap_bytes, bytes);
}

/// One peer floods with new keys, with repetitions and with keys it never commits; others keep
/// their windows and their reservations.
#[test]
fn a_flood_takes_nothing_from_the_others() {
    let cache = DedupCache::<Id>::new(
        DedupConfig {
            in_flight_max: 64,
            ..config(1000)
        },
        [1, 2],
    );
    for n in 0..300 {
        assert!(cache.insert_if_absent(Id(1, n), 0));
    }
    let reserved = cache.admit_ticket(Id(1, 300), 0).fresh().expect("new");
    for n in 0..20_000 {
        match n % 3 {
            0 => assert!(cache.insert_if_absent(Id(666, n), 0)),
            1 => drop(cache.admit(Id(666, n), 0)),
            _ => assert!(!cache.insert_if_absent(Id(666, n - 2), 0)),
        }
    }
    assert!(matches!(cache.admit(Id(1, 300), 0), Admit::InFlight));
    for n in 0..300 {
        assert!(cache.probe(Id(1, n)).is_some(), "message {n}");
    }
    // The flood has filled the places nobody had: now the oldest goes, which is his own.
    cache.commit(reserved);
    for n in 1..=300 {
        assert_eq!(
            cache.probe(Id(1, n)),
            Some(KeyState::Committed),
            "message {n}"
        );
    }
}

/// A right is used up once, and only where it was given, even where two caches are alike.
#[test]
fn a_ticket_of_a_cache_that_is_alike_commits_nothing() {
    let alike = || DedupCache::<u64>::new(config(100), [1, 2]);
    let (one, other) = (alike(), alike());
    let foreign = one.admit_ticket(7, 0).fresh().expect("new");
    let own = other.admit_ticket(7, 0).fresh().expect("new");
    other.commit(foreign);
    assert_eq!(other.probe(7), Some(KeyState::Reserved));
    other.abort(own);
    assert_eq!(other.probe(7), None, "what was aborted is no duplicate");
    assert_eq!(one.probe(7), Some(KeyState::Reserved));
}

/// A reservation outlives its interval, any number of purges, and the window many times over.
#[test]
fn a_reservation_is_never_lost() {
    for capacity in [1, 64, 1000] {
        let cache = DedupCache::<u64>::new(config(capacity), [1, 2]);
        let held = cache.admit_ticket(u64::MAX, 0).fresh().expect("new");
        for n in 0..5 * capacity as u64 {
            assert!(cache.insert_if_absent(n, n * 10));
            cache.purge(n * 10 + 5);
        }
        let now_ms = 1 << 50;
        assert!(matches!(cache.admit(u64::MAX, now_ms), Admit::InFlight));
        cache.commit(held);
        assert!(matches!(
            cache.admit(u64::MAX, now_ms + 1000),
            Admit::Duplicate
        ));
        assert!(matches!(
            cache.admit(u64::MAX, now_ms + 2001),
            Admit::Fresh(_)
        ));
    }
}

/// Ticks are kept modulo 2^13 in entries and modulo 2^16 in marks. Whatever the steps in which time
/// passes, a key is known for its interval, and forgotten soon after.
#[test]
fn no_step_of_the_clock_brings_a_key_back_or_loses_it() {
    for start_ms in [0, 1, 8191, 65_535, 65_536, (1 << 16) * 3 - 1, 1 << 40] {
        for step_ms in [1, 7, 250, 333, 500, 999, 1000] {
            let cache = DedupCache::<u64>::new(config(100_000), [1, 2]);
            let mut now_ms = start_ms;
            for n in 0..70_000_u64.div_ceil(step_ms).min(3000) {
                assert!(cache.insert_if_absent(n, now_ms), "key {n} is new");
                now_ms += step_ms;
                // Known for 1,000 ms, by whoever asks.
                let youngest_due = n.checked_sub(1000 / step_ms);
                let kept = youngest_due.map_or(0, |due| due + 1);
                assert!(
                    !cache.insert_if_absent(kept, now_ms - step_ms),
                    "{kept} of {n}"
                );
                // Purges come once in an interval, so a key lasts two at most.
                if let Some(gone) = n.checked_sub(2 * 1000 / step_ms + 2) {
                    assert_eq!(cache.probe(gone), None, "{gone} of {n}, step {step_ms}");
                }
            }
        }
    }
}

#[test]
fn without_ageing_no_age_is_claimed() {
    let ageless = DedupConfig {
        purge_interval_ms: 0,
        ..config(10)
    };
    let cache = DedupCache::<u64>::new(ageless, [1, 2]);
    for n in 0..20 {
        assert!(cache.insert_if_absent(n, n * 100_000));
    }
    assert_eq!(cache.purge(u64::MAX), 0);
    let stats = cache.stats();
    assert_eq!(
        (stats.oldest_age_ms, stats.effective_window_ms),
        (None, None)
    );
    assert_eq!((stats.len, stats.evicted), (10, 10));
}

#[test]
#[should_panic(expected = "a ring has 1 to 2^32 - 1 slots")]
fn a_capacity_beyond_the_limit_is_refused_before_memory_is_taken() {
    drop(DedupCache::<u64>::new(config(1 << 32), [1, 2]));
}

/// All of it at once in a batch: repetitions inside the batch, of the window, and of what is held.
#[test]
fn a_batch_is_as_exact_as_its_keys_one_by_one() {
    for capacity in [1, 16, 64, 200, 30_000] {
        let cache = DedupCache::<u64>::new(config(capacity), [1, 2]);
        let one_by_one = DedupCache::<u64>::new(config(capacity), [1, 2]);
        let mut state = 1_u64;
        for _ in 0..2000 {
            let keys: Vec<u64> = (0..40)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state >> 33) % (2 * capacity as u64)
                })
                .collect();
            let mut fresh = Vec::new();
            cache.insert_batch(&keys, 0, &mut fresh);
            let expected: Vec<bool> = keys
                .iter()
                .map(|key| one_by_one.insert_if_absent(*key, 0))
                .collect();
            assert_eq!(fresh, expected);
        }
        assert_eq!(cache.stats().misses, one_by_one.stats().misses);
    }
}

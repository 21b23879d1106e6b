//! What one owner can push out, long pauses, and what the statistics tell.
#![cfg(not(loom))]

use qm_cache::{Admit, DedupCache, DedupConfig, Key, KeyState};

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

const CAPACITY: usize = 1000;

fn shared(percent: u8) -> DedupCache<Id> {
    let config = DedupConfig {
        owner_share_percent: percent,
        purge_interval_ms: 1000,
        ..DedupConfig::with_capacity(CAPACITY)
    };
    DedupCache::new(config, [3, 4])
}

fn remembered(cache: &DedupCache<Id>, owner: u64, numbers: std::ops::Range<u64>) -> usize {
    numbers
        .filter(|n| cache.probe(Id(owner, *n)) == Some(KeyState::Committed))
        .count()
}

#[test]
fn a_noisy_peer_does_not_flush_the_others() {
    let cache = shared(40);
    for n in 0..600 {
        assert!(cache.insert_if_absent(Id(1, n), 0));
    }
    for n in 0..100_000 {
        assert!(
            cache.insert_if_absent(Id(2, n), 0),
            "message {n} of the noisy peer"
        );
    }
    // The noisy peer filled the 400 places nobody had, and took none beyond.
    assert_eq!(remembered(&cache, 1, 0..600), 600);
    // Its newest are remembered apart.
    assert_eq!(remembered(&cache, 2, 99_000..100_000), CAPACITY);
    let stats = cache.stats();
    assert_eq!(stats.loud, 100_000 - 400, "{stats:?}");

    for n in 0..100_000_u64.div_ceil(7) {
        let key = Id(2, n * 7);
        let known = cache.probe(key).is_some();
        assert_eq!(matches!(cache.admit(key, 0), Admit::Duplicate), known);
    }
    assert_eq!(remembered(&cache, 1, 0..600), 600);
}

/// Peers that are as busy as each other, in bursts and by turns: what each has among the newest is
/// remembered, wherever it was put.
#[test]
fn shares_cost_nobody_a_place_among_the_newest() {
    for (owners, burst) in [(2, 1), (2, 700), (3, 450), (5, 33)] {
        for percent in [10, 50] {
            let cache = shared(percent);
            let key = |n: u64| Id(n / burst % owners, n);
            for n in 0..5_000 {
                assert!(cache.insert_if_absent(key(n), 0));
                if n % 97 == 0 {
                    for n in (0..=n).rev().take(CAPACITY) {
                        let state = cache.probe(key(n));
                        assert_eq!(state, Some(KeyState::Committed), "{owners} {burst} {n}");
                    }
                }
            }
            // By turns each takes its own oldest place, and with half of all only two can be over.
            let meet = burst > 1 && (percent < 50 || owners == 2);
            assert_eq!(cache.stats().loud > 0, meet, "{owners} {burst} {percent}");
        }
    }
}

#[test]
fn without_shares_it_would() {
    let cache = shared(100);
    for n in 0..600 {
        assert!(cache.insert_if_absent(Id(1, n), 0));
    }
    for n in 0..1000 {
        assert!(cache.insert_if_absent(Id(2, n), 0));
    }
    assert_eq!(remembered(&cache, 1, 0..600), 0);
}

#[test]
fn a_lone_peer_has_the_whole_window() {
    let cache = shared(40);
    for n in 0..10_000 {
        assert!(cache.insert_if_absent(Id(1, n), 0));
    }
    assert_eq!(remembered(&cache, 1, 0..10_000), CAPACITY);
    assert_eq!(remembered(&cache, 1, 9_000..10_000), CAPACITY);
    assert_eq!(cache.stats().loud, 0);
}

#[test]
fn what_is_due_protects_nobody() {
    let cache = shared(40);
    for n in 0..1000 {
        assert!(cache.insert_if_absent(Id(1, n), 0));
    }
    for n in 0..1000 {
        assert!(cache.insert_if_absent(Id(2, n), 2000));
    }
    assert_eq!(
        remembered(&cache, 2, 0..1000),
        1000,
        "the others' keys were over"
    );
    assert_eq!(cache.stats().loud, 0);
}

/// Ticks are kept modulo 2^13: an entry must not come back to life when they have gone round.
#[test]
fn a_pause_of_any_length_forgets_everything() {
    for pause_ms in [
        1002,
        5000,
        8191,
        8192,
        8193,
        8192 * 3 + 5,
        1 << 40,
        u64::MAX / 2,
    ] {
        let cache = shared(100);
        for n in 0..10 {
            assert!(cache.insert_if_absent(Id(1, n), 7));
        }
        assert!(
            cache.insert_if_absent(Id(1, 5), 7 + pause_ms),
            "{pause_ms} ms later"
        );
        assert_eq!(remembered(&cache, 1, 0..10), 1);
        assert_eq!(cache.stats().purged, 10);
        assert_eq!(cache.purge(8 + pause_ms), 0);
    }
}

#[test]
fn time_that_goes_backwards_stands_still() {
    let cache = shared(100);
    assert!(cache.insert_if_absent(Id(1, 1), 5000));
    assert!(cache.insert_if_absent(Id(1, 2), 10));
    assert!(!cache.insert_if_absent(Id(1, 1), 0));
    assert_eq!(cache.purge(0), 0);
    assert_eq!(cache.purge(6000), 0);
    assert_eq!(cache.purge(6001), 2);
}

/// At one message a millisecond a thousand places last for a second, whatever the interval says.
#[test]
fn the_effective_window_is_what_the_size_allows() {
    let config = DedupConfig {
        purge_interval_ms: 2000,
        ..DedupConfig::with_capacity(CAPACITY)
    };
    let cache = DedupCache::<u64>::new(config, [3, 4]);
    for n in 0..1000 {
        assert!(cache.insert_if_absent(n, n));
    }
    assert_eq!(
        cache.stats().effective_window_ms,
        None,
        "no bound has been met yet"
    );
    for n in 1000..1500 {
        assert!(cache.insert_if_absent(n, n));
    }
    let stats = cache.stats();
    assert_eq!(stats.effective_window_ms, Some(1000), "{stats:?}");
    assert_eq!((stats.evicted, stats.evicted_young), (500, 500));
    assert_eq!(stats.oldest_age_ms, Some(999));

    // One in ten milliseconds: now the interval is what bounds it.
    for n in 0..2000 {
        assert!(cache.insert_if_absent(10_000 + n, 1500 + 10 * n));
    }
    let stats = cache.stats();
    assert_eq!(stats.effective_window_ms, Some(2000), "{stats:?}");
}

#[test]
fn at_the_limit_reservations_are_refused_and_none_is_lost() {
    let config = DedupConfig {
        in_flight_max: 50,
        ..DedupConfig::with_capacity(2)
    };
    let cache = DedupCache::<u64>::new(config, [3, 4]);
    let mut tickets = Vec::new();
    for n in 0..50 {
        tickets.push(cache.admit_ticket(n, 0).fresh().expect("below the limit"));
    }
    assert!(matches!(cache.admit(50, 0), Admit::InFlight));
    assert_eq!((cache.stats().in_flight, cache.stats().refused), (50, 1));
    for n in 1000..2000 {
        assert!(cache.insert_if_absent(n, 0), "insertions go on");
    }
    for n in 0..50 {
        assert!(
            matches!(cache.admit(n, 0), Admit::InFlight),
            "reservation {n}"
        );
    }
    tickets.into_iter().for_each(|ticket| cache.commit(ticket));
    assert!(matches!(cache.admit(48, 0), Admit::Duplicate));
    assert!(matches!(cache.admit(49, 0), Admit::Duplicate));
    assert!(
        matches!(cache.admit(47, 0), Admit::Fresh(_)),
        "two places, the newest two"
    );
}

#[test]
fn a_ticket_of_another_cache_is_ignored() {
    let (one, other) = (shared(100), shared(100));
    let ticket = one.admit_ticket(Id(1, 1), 0).fresh().expect("new");
    other.commit(ticket);
    assert_eq!(other.probe(Id(1, 1)), None);
    assert_eq!(one.probe(Id(1, 1)), Some(KeyState::Reserved));
}

/// A message as a node names it: five words, four of them its name, two of these its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message<const OWNERS: usize>([u64; 5]);

impl<const OWNERS: usize> Key for Message<OWNERS> {
    type Words = [u64; 5];
    const WORDS: usize = 5;
    const IDENTITY_WORDS: usize = 4;
    const OWNER_WORDS: usize = OWNERS;
    fn to_words(&self) -> [u64; 5] {
        self.0
    }
}

/// What the README tells of a node's memory: bytes an entry where owners have shares, and where
/// they have none.
#[test]
fn shares_of_owners_take_the_memory_twice() {
    let bytes = |capacity: usize| {
        let config = DedupConfig::with_capacity(capacity);
        let owned = DedupCache::<Message<2>>::new(config, [1, 2])
            .stats()
            .heap_bytes;
        let plain = DedupCache::<Message<0>>::new(config, [1, 2])
            .stats()
            .heap_bytes;
        [owned, plain].map(|bytes| bytes as f64 / capacity as f64)
    };
    for (capacity, owned_told, plain_told) in [(10_000, 156.4, 85.4), (1_000_000, 129.4, 65.0)] {
        let [owned, plain] = bytes(capacity);
        assert!((owned - owned_told).abs() < 0.1, "{capacity}: {owned}");
        assert!((plain - plain_told).abs() < 0.1, "{capacity}: {plain}");
    }
}

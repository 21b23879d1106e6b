//! Duplicate removal as KB 255546 describes it, row by row, and where this cache goes further.
//!
//! That only non-transactional messages are looked up is for who holds the cache to see to.
#![cfg(not(loom))]

#[path = "articles/clones.rs"]
mod clones;

use qm_cache::{Admit, DedupCache, DedupConfig, KeyState};

const MINUTE_MS: u64 = 60 * 1000;

/// Computer and message identifier.
type Id = (u64, u64);

fn cache(config: DedupConfig) -> DedupCache<Id> {
    DedupCache::new(config, [0x0123, 0x4567])
}

fn deliver(cache: &DedupCache<Id>, id: Id, now_ms: u64) -> bool {
    match cache.admit(id, now_ms) {
        Admit::Fresh(reservation) => {
            reservation.commit();
            true
        }
        Admit::InFlight | Admit::Duplicate => false,
    }
}

#[test]
fn an_arriving_duplicate_is_removed() {
    let cache = cache(DedupConfig::default());
    assert!(deliver(&cache, (1, 1), 0));
    assert!(!deliver(&cache, (1, 1), 1));
    assert!(!deliver(&cache, (1, 1), 10 * MINUTE_MS));
    assert_eq!(cache.stats().hits, 2);
}

#[test]
fn the_computer_is_part_of_the_identifier() {
    let cache = cache(DedupConfig::default());
    assert!(deliver(&cache, (1, 7), 0));
    assert!(
        deliver(&cache, (2, 7), 0),
        "another computer's message with the same number"
    );
}

#[test]
fn ten_thousand_messages_are_remembered_by_default() {
    let cache = cache(DedupConfig::default());
    for n in 0..10_000 {
        assert!(deliver(&cache, (1, n), n));
    }
    for n in 0..10_000 {
        assert_eq!(
            cache.probe((1, n)),
            Some(KeyState::Committed),
            "message {n}"
        );
    }
    assert!(deliver(&cache, (1, 10_000), 10_000));
    assert_eq!(cache.probe((1, 0)), None, "the oldest gives way");
    assert_eq!(
        cache.probe((1, 1)),
        Some(KeyState::Committed),
        "and only the oldest"
    );
    assert_eq!(cache.stats().len, 10_000);
}

#[test]
fn every_thirty_minutes_what_is_older_is_removed() {
    let cache = cache(DedupConfig::default());
    let tick_ms = cache.stats().tick_ms;
    assert!(deliver(&cache, (1, 1), 0));
    assert!(deliver(&cache, (1, 2), 20 * MINUTE_MS));
    assert_eq!(
        cache.purge(30 * MINUTE_MS),
        0,
        "exactly as old as the interval is not older"
    );
    assert_eq!(cache.probe((1, 1)), Some(KeyState::Committed));
    assert_eq!(cache.purge(30 * MINUTE_MS + 2 * tick_ms), 1);
    assert_eq!(cache.probe((1, 1)), None);
    assert_eq!(cache.probe((1, 2)), Some(KeyState::Committed));
    assert!(deliver(&cache, (1, 1), 31 * MINUTE_MS));
}

#[test]
fn the_purge_happens_without_being_called() {
    let cache = cache(DedupConfig::default());
    assert!(deliver(&cache, (1, 1), 0));
    for minute in 1..=61 {
        assert!(deliver(&cache, (1, 100 + minute), minute * MINUTE_MS));
    }
    assert!(deliver(&cache, (1, 1), 61 * MINUTE_MS), "forgotten by then");
    assert!(cache.stats().purged >= 29, "{:?}", cache.stats());
}

#[test]
fn a_new_cache_is_empty() {
    let before = cache(DedupConfig::default());
    assert!(deliver(&before, (1, 1), 0));
    let after_restart = cache(DedupConfig::default());
    assert!(deliver(&after_restart, (1, 1), 1));
}

#[test]
fn only_identifiers_are_stored() {
    let config = DedupConfig {
        in_flight_max: 0,
        ..DedupConfig::default()
    };
    let bytes = cache(config).stats().heap_bytes as f64 / 10_000.0;
    // Two words of identifier, two of administration, an index of at most two words.
    assert!(bytes <= 48.0, "{bytes} bytes a message");
}

#[test]
fn size_and_interval_can_be_set() {
    let config = DedupConfig {
        capacity: 3,
        purge_interval_ms: 1000,
        ..DedupConfig::default()
    };
    let cache = cache(config);
    for n in 0..4 {
        assert!(deliver(&cache, (1, n), 0));
    }
    assert!(!deliver(&cache, (1, 1), 0));
    assert!(deliver(&cache, (1, 0), 0));
    assert_eq!(cache.purge(1001), 3);
    assert_eq!(cache.stats().len, 0);
}

#[test]
fn size_zero_turns_it_off() {
    let cache = cache(DedupConfig {
        capacity: 0,
        ..DedupConfig::default()
    });
    for _ in 0..3 {
        assert!(deliver(&cache, (1, 1), 0));
        assert!(cache.insert_if_absent((1, 1), 0));
    }
    let mut answers = Vec::new();
    cache.admit_batch(&[(1, 1), (1, 1)], 0, &mut answers);
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Admit::Fresh(_)))
    );
    assert_eq!(cache.probe((1, 1)), None);
    assert_eq!(cache.purge(0), 0);
    assert_eq!(cache.stats().heap_bytes, 0);
}

/// MSMQ enters a message before it is stored, so that the retry of one that could not be stored is
/// removed as its own duplicate: the message is lost.
#[test]
fn a_message_that_could_not_be_stored_is_not_its_own_duplicate() {
    let cache = cache(DedupConfig::default());
    let Admit::Fresh(reservation) = cache.admit((1, 1), 0) else {
        panic!("the first copy")
    };
    assert!(
        matches!(cache.admit((1, 1), 0), Admit::InFlight),
        "neither stored nor acknowledged"
    );
    drop(reservation); // the disk was full
    assert!(deliver(&cache, (1, 1), 1));
    assert!(!deliver(&cache, (1, 1), 2));
}

/// Messages that are refused again and again cost no place in the window.
#[test]
fn aborted_messages_push_nothing_out() {
    let cache = cache(DedupConfig {
        capacity: 4,
        ..DedupConfig::default()
    });
    for n in 0..4 {
        assert!(deliver(&cache, (1, n), 0));
    }
    for n in 0..1000 {
        drop(cache.admit((2, n), 0));
    }
    for n in 0..4 {
        assert!(!deliver(&cache, (1, n), 0), "message {n}");
    }
}

//! Threads against an oracle. `QM_SLOW_TESTS=1` runs a hundred times as long.
#![cfg(not(loom))]
#![expect(clippy::cast_possible_truncation, reason = "keys are indices here")]

#[path = "common/dice.rs"]
mod dice;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;

use qm_cache::{Admit, DedupCache, DedupConfig, KeyState};

use dice::{Dice, scale};

const THREADS: usize = 4;

const NEVER: u8 = 0;
const COMMITTING: u8 = 1;

/// Every thread delivers every key, in an order of its own, some of them by reservations that are
/// committed or aborted, some at once, while somebody purges all the time.
#[test]
fn every_key_is_committed_once() {
    let keys = 50 * scale();
    let config = DedupConfig {
        in_flight_max: 64,
        // Room for the places that are lost where threads meet.
        ..DedupConfig::with_capacity(2 * usize::try_from(keys).unwrap())
    };
    let cache = DedupCache::<(u64, u64)>::new(config, [5, 6]);
    let oracle: Vec<AtomicU8> = (0..keys).map(|_| AtomicU8::new(NEVER)).collect();
    let wins: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let (cache, oracle, wins) = (&cache, &oracle, &wins);
                scope.spawn(move || {
                    let mut dice = Dice(number as u64);
                    for step in 0..keys {
                        // All threads work in the same neighbourhood, so that they meet.
                        let at = ((step & !15) + dice.below(16)).min(keys - 1);
                        for at in [at, step] {
                            deliver(
                                cache,
                                &mut dice,
                                at,
                                &oracle[at as usize],
                                &wins[at as usize],
                            );
                        }
                    }
                })
            })
            .collect();
        let (cache, done) = (&cache, &done);
        let purger = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(cache.purge(0), 0, "nothing is old");
                thread::yield_now();
            }
        });
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
        purger.join().unwrap();
    });
    for at in 0..keys {
        assert_eq!(wins[at as usize].load(Ordering::Relaxed), 1, "key {at}");
        assert_eq!(
            cache.probe((at, !at)),
            Some(KeyState::Committed),
            "key {at}"
        );
    }
    let stats = cache.stats();
    assert_eq!(
        (stats.misses, stats.in_flight, stats.purged),
        (keys, 0, 0),
        "{stats:?}"
    );
}

/// Delivers a key until somebody has committed it.
fn deliver(
    cache: &DedupCache<(u64, u64)>,
    dice: &mut Dice,
    at: u64,
    oracle: &AtomicU8,
    wins: &AtomicU64,
) {
    let key = (at, !at);
    loop {
        if dice.below(3) == 0 {
            // What is entered at once is known to others before this thread hears of it.
            oracle.store(COMMITTING, Ordering::SeqCst);
            if cache.insert_if_absent(key, 0) {
                wins.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if cache.probe(key) == Some(KeyState::Committed) {
                return;
            }
            continue;
        }
        match cache.admit_ticket(key, 0) {
            Admit::Fresh(ticket) if dice.below(4) == 0 => cache.abort(ticket),
            Admit::Fresh(ticket) => {
                oracle.store(COMMITTING, Ordering::SeqCst);
                cache.commit(ticket);
                wins.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Admit::InFlight => thread::yield_now(),
            Admit::Duplicate => {
                assert_ne!(
                    oracle.load(Ordering::SeqCst),
                    NEVER,
                    "nobody committed key {at}"
                );
                return;
            }
        }
    }
}

/// A small window turns over all the time. Nothing is a duplicate that was not committed, and
/// nothing is forgotten before `capacity` others came (less those places the cache says it lost).
#[test]
fn the_window_holds_what_it_promises() {
    let keys = 200 * scale();
    for capacity in [8, 64, 1000] {
        let config = DedupConfig {
            in_flight_max: 64,
            ..DedupConfig::with_capacity(capacity)
        };
        let cache = DedupCache::<u64>::new(config, [5, 6]);
        // One more than the number of commits begun before this key's last one; 0: none.
        let begun_at: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
        let begun = AtomicU64::new(0);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (cache, begun_at, begun) = (&cache, &begun_at, &begun);
                scope.spawn(move || {
                    let mut dice = Dice(number as u64);
                    for step in 0..keys {
                        let lag = dice.below(2 * capacity as u64);
                        for key in [step, step.saturating_sub(lag)] {
                            let before = begun_at[key as usize].load(Ordering::SeqCst);
                            match cache.admit_ticket(key, 0) {
                                Admit::Duplicate => {
                                    let now = begun_at[key as usize].load(Ordering::SeqCst);
                                    assert!(now > 0, "key {key} was never committed");
                                }
                                Admit::InFlight => {}
                                Admit::Fresh(ticket) => {
                                    let others = begun.load(Ordering::SeqCst) + 1 - before;
                                    let wasted = cache.stats().wasted;
                                    assert!(
                                        before == 0 || others + wasted >= capacity as u64,
                                        "key {key} was forgotten after {others} others"
                                    );
                                    let mine = begun.fetch_add(1, Ordering::SeqCst) + 1;
                                    begun_at[key as usize].store(mine, Ordering::SeqCst);
                                    cache.commit(ticket);
                                }
                            }
                        }
                    }
                });
            }
        });
        let stats = cache.stats();
        assert_eq!(stats.in_flight, 0);
        assert!(stats.len <= capacity, "{stats:?}");
        assert_eq!(stats.misses, begun.into_inner(), "{stats:?}");
    }
}

/// The same key at the same moment, again and again: one thread wins each time.
#[test]
fn one_winner_each_time() {
    let rounds = 100 * scale();
    let cache = DedupCache::<u64>::new(DedupConfig::with_capacity(1000), [5, 6]);
    let turn = AtomicU64::new(0);
    let won: Vec<AtomicU64> = (0..rounds).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for number in 0..THREADS as u64 {
            let (cache, turn, won) = (&cache, &turn, &won);
            scope.spawn(move || {
                for round in 0..rounds {
                    turn.fetch_add(1, Ordering::SeqCst);
                    while turn.load(Ordering::SeqCst) < (round + 1) * THREADS as u64 {
                        thread::yield_now();
                    }
                    let mine = if (number + round) % 2 == 0 {
                        cache.insert_if_absent(round, 0)
                    } else if let Admit::Fresh(ticket) = cache.admit_ticket(round, 0) {
                        cache.commit(ticket);
                        true
                    } else {
                        false
                    };
                    won[round as usize].fetch_add(u64::from(mine), Ordering::SeqCst);
                }
            });
        }
    });
    for (round, winners) in won.iter().enumerate() {
        assert_eq!(winners.load(Ordering::SeqCst), 1, "round {round}");
    }
}

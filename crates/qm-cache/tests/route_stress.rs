//! Threads against an oracle: the ack-route cache. `QM_SLOW_TESTS=1` runs a hundred times as long.
#![cfg(not(loom))]

#[path = "common/dice.rs"]
mod dice;

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use qm_cache::{AckRouteCache, Learned, RouteConfig, RouteHandle};

use dice::{Dice, scale};

const THREADS: u64 = 4;

const CONFLICT: Learned = Learned::Alternative { first_seen: true };

/// Every thread is a machine with one and the same identity, key after key at the same moment: one
/// of them is new and each other one a conflict; none is written over, though somebody purges.
#[test]
fn of_machines_with_one_identity_all_are_held_and_all_but_one_reported() {
    let keys = 20 * scale();
    let config = RouteConfig {
        rows_max: usize::try_from(keys).unwrap(),
        ..RouteConfig::default()
    };
    let cache = AckRouteCache::<u64, u64>::new(config, [1, 2]);
    let (done, together) = (AtomicBool::new(false), Barrier::new(4));
    let answers: Vec<Vec<(Learned, bool)>> = thread::scope(|scope| {
        let purger = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(cache.purge(0), 0, "nothing is old");
                thread::yield_now();
            }
        });
        let machines: Vec<_> = (0..THREADS)
            .map(|machine| {
                let (cache, together) = (&cache, &together);
                scope.spawn(move || {
                    let learn = |key| {
                        if key % 64 == 0 {
                            together.wait();
                        }
                        let (learned, session) = cache.learn_handle(key, machine, 0);
                        // Told at the end: the others would wait for whoever panics here.
                        let is_held = session.is_some_and(|session| session.refresh(0))
                            && cache.candidates(&key, 0).contains(&machine);
                        (learned, is_held)
                    };
                    (0..keys).map(learn).collect()
                })
            })
            .collect();
        let answers = machines.into_iter().map(|m| m.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        purger.join().unwrap();
        answers
    });
    for (at, key) in (0..keys).enumerate() {
        let said = |what| answers.iter().filter(|all| all[at] == (what, true)).count();
        assert_eq!((said(Learned::New), said(CONFLICT)), (1, 3), "key {key}");
        let held = BTreeSet::from_iter(cache.candidates(&key, 0));
        assert_eq!(held, BTreeSet::from([0, 1, 2, 3]), "key {key}");
    }
    let stats = cache.stats();
    assert_eq!(
        (stats.rows as u64, stats.learned, stats.conflicts),
        (keys, keys, 3 * keys),
        "{stats:?}"
    );
}

const KEYS: u64 = 3;
const LIFETIME_MS: u64 = 64; // a tick is a millisecond

/// Of one machine under one key: what the others may rely on.
///
/// 0 while the machine is at work on it or its route is not held; else when it was last seen, and
/// above that a number that no other state of it has.
struct Held(AtomicU64);

impl Held {
    const TIME_BITS: u32 = 40;

    fn note(&self, serial: &mut u64, seen_ms: u64) {
        *serial += 1;
        self.0
            .store(*serial << Self::TIME_BITS | seen_ms, Ordering::SeqCst);
    }

    fn forget(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// A state in which the route is certainly held until the time that goes with it.
    fn read(&self) -> Option<(u64, u64)> {
        let state = self.0.load(Ordering::SeqCst);
        let seen_ms = state & ((1 << Self::TIME_BITS) - 1);
        (state != 0).then_some((state, seen_ms + LIFETIME_MS))
    }
}

/// What the answers of one thread come to.
#[derive(Default)]
struct Told {
    new: u64,
    conflicts: u64,
    switches: u64,
    failed: u64,
    /// Answers that the oracle could check, as another machine was there all the time.
    checked: u64,
}

struct World {
    cache: AckRouteCache<u64, u64>,
    clock: AtomicU64,
    /// For each key, for each machine.
    held: Vec<Vec<Held>>,
}

impl World {
    fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// The machines other than this one that are held under a key now.
    fn others(&self, key: usize, machine: usize) -> Vec<(usize, (u64, u64))> {
        let held = self.held[key].iter().enumerate();
        held.filter(|(other, _)| *other != machine)
            .filter_map(|(other, held)| Some((other, held.read()?)))
            .collect()
    }

    /// Those of them that were held all the time since.
    fn still(&self, key: usize, since: &[(usize, (u64, u64))]) -> Vec<u64> {
        let unchanged = since.iter().filter(|(other, (state, until_ms))| {
            let now = self.held[key][*other].read();
            now.is_some_and(|(now, _)| now == *state) && self.now_ms() <= *until_ms
        });
        unchanged.map(|(other, _)| *other as u64).collect()
    }

    fn play(&self, machine: usize, steps: u64) -> Told {
        let (mut dice, mut told, mut serial) = (Dice(machine as u64), Told::default(), 0);
        let mut sessions: Vec<Option<RouteHandle<u64>>> = vec![None; self.held.len()];
        let route = machine as u64;
        for _ in 0..steps {
            let at = usize::try_from(dice.below(KEYS)).expect("few");
            let (key, mine) = (at as u64, &self.held[at][machine]);
            let others = self.others(at, machine);
            let now_ms = self.now_ms();
            match dice.below(8) {
                0..=2 => {
                    let was_held = mine.read();
                    mine.forget();
                    let (learned, session) = self.cache.learn_handle(key, route, now_ms);
                    let beside = self.still(at, &others);
                    told.checked += u64::from(!beside.is_empty());
                    match learned {
                        Learned::New => {
                            told.new += 1;
                            assert_eq!(beside, [], "{machine} was new under {key} beside others");
                        }
                        CONFLICT => {
                            told.conflicts += 1;
                            // Whoever is held is not learned for the first time.
                            let until_ms = was_held.map_or(0, |(_, until_ms)| until_ms);
                            assert!(was_held.is_none() || self.now_ms() > until_ms);
                        }
                        Learned::Alternative { .. } => told.switches += 1,
                        Learned::Refreshed => {}
                        other => panic!("{other:?}, and there is room"),
                    }
                    sessions[at] = session;
                    mine.note(&mut serial, now_ms);
                }
                3..=4 => {
                    if let Some(session) = &sessions[at] {
                        mine.forget();
                        if session.refresh(now_ms) {
                            mine.note(&mut serial, now_ms);
                        } else {
                            sessions[at] = None;
                        }
                    }
                }
                5 => {
                    mine.forget();
                    told.failed += u64::from(self.cache.failed(&key, &route));
                    assert!(!self.cache.candidates(&key, 0).contains(&route));
                    if let Some(session) = sessions[at].take() {
                        assert!(!session.refresh(now_ms), "nobody brings it back");
                    }
                }
                _ => {
                    // Those that are tried include all that were there all the time, myself too.
                    let was_held = mine.read();
                    let tried = self.cache.candidates(&key, self.now_ms());
                    for other in self.still(at, &others) {
                        told.checked += 1;
                        assert!(tried.contains(&other), "{other} under {key}: {tried:?}");
                    }
                    if was_held.is_some_and(|(_, until_ms)| self.now_ms() <= until_ms) {
                        assert!(tried.contains(&route), "{machine} under {key}: {tried:?}");
                    }
                    let distinct = BTreeSet::from_iter(&tried);
                    assert_eq!(distinct.len(), tried.len(), "{tried:?}");
                }
            }
        }
        told
    }
}

/// Machines that come, are seen, fail and grow old under a few keys, while the clock moves and
/// somebody purges: who was seen is held and reported, who failed is gone, and every route that
/// was taken in is held or was counted when it went.
#[test]
fn who_was_seen_is_held_and_who_failed_is_gone() {
    let config = RouteConfig {
        lifetime_ms: LIFETIME_MS,
        rows_max: 8,
        candidates_max: 4,
    };
    let world = World {
        cache: AckRouteCache::new(config, [1, 2]),
        clock: AtomicU64::new(0),
        held: (0..KEYS)
            .map(|_| (0..THREADS).map(|_| Held(AtomicU64::new(0))).collect())
            .collect(),
    };
    let done = AtomicBool::new(false);
    let told: Vec<Told> = thread::scope(|scope| {
        let time = scope.spawn(|| {
            let mut dice = Dice(99);
            while !done.load(Ordering::Relaxed) {
                // Sometimes just so far that what is seen at this moment is at its end.
                let step = [0, 0, 1, LIFETIME_MS + 1][usize::try_from(dice.below(4)).expect("few")];
                let now_ms = world.clock.fetch_add(step, Ordering::SeqCst) + step;
                world.cache.purge(now_ms);
                (0..dice.below(200)).for_each(|_| std::hint::spin_loop());
            }
        });
        let machines: Vec<_> = (0..usize::try_from(THREADS).unwrap())
            .map(|machine| {
                let world = &world;
                scope.spawn(move || world.play(machine, 300 * scale()))
            })
            .collect();
        let told = machines.into_iter().map(|m| m.join()).collect::<Vec<_>>();
        done.store(true, Ordering::Relaxed);
        time.join().unwrap();
        told.into_iter().map(Result::unwrap).collect()
    });
    let sum = |what: fn(&Told) -> u64| told.iter().map(what).sum::<u64>();
    let stats = world.cache.stats();
    assert_eq!(
        (stats.learned, stats.conflicts, stats.switches, stats.failed),
        (
            sum(|t| t.new),
            sum(|t| t.conflicts),
            sum(|t| t.switches),
            sum(|t| t.failed)
        ),
        "{stats:?}"
    );
    assert_eq!((stats.displaced, stats.refused), (0, 0), "{stats:?}");
    world.cache.purge(world.now_ms());
    let stats = world.cache.stats();
    let rows = (0..KEYS).map(|key| world.cache.candidates(&key, world.now_ms()).len() as u64);
    let (rows, held) = rows.fold((0, 0), |(rows, held), row| (rows + row.min(1), held + row));
    assert_eq!(stats.rows as u64, rows, "{stats:?}");
    assert_eq!(
        stats.learned + stats.conflicts,
        stats.failed + stats.expired + held,
        "{stats:?}"
    );
    assert!(stats.conflicts > 0 && stats.expired > 0, "{stats:?}");
    assert!(
        sum(|t| t.checked) > scale(),
        "the oracle had something to say"
    );
}

/// More senders than there is room for, from all threads at once.
#[test]
fn no_more_rows_than_allowed_but_for_those_being_written() {
    const ROWS_MAX: u64 = 100;
    let config = RouteConfig {
        rows_max: 100,
        ..RouteConfig::default()
    };
    for round in 0..scale() {
        let cache = AckRouteCache::<u64, u64>::new(config, [round, 2]);
        let refused: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let cache = &cache;
                    scope.spawn(move || {
                        let keys = (0..ROWS_MAX).map(|n| n * THREADS + number);
                        keys.filter(|key| cache.learn(*key, number, 0) == Learned::Full)
                            .count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        let stats = cache.stats();
        let rows = stats.rows as u64;
        assert!((ROWS_MAX..ROWS_MAX + THREADS).contains(&rows), "{stats:?}");
        assert_eq!(refused, THREADS * ROWS_MAX - rows, "{stats:?}");
        let held = (0..THREADS * ROWS_MAX).filter(|key| cache.newest(key, 0).is_some());
        assert_eq!(held.count() as u64, rows);
    }
}

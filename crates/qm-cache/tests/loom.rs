//! Models of the races, explored by loom: `cargo xtask loom` runs them, and with `--faults` builds
//! in the faults that they must find.
#![cfg(loom)]

#[path = "loom/routes.rs"]
mod routes;

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use loom::sync::Arc;
use loom::thread;
use qm_cache::{Admit, DedupCache, DedupConfig, KeyState, Ticket};

/// Everything in one chain: as many races as can be.
#[derive(Clone, Copy, Default)]
struct OneChain;

impl BuildHasher for OneChain {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for OneChain {
    fn write(&mut self, _: &[u8]) {}
    fn finish(&self) -> u64 {
        0
    }
}

type Key = [u64; 2];
type Cache = DedupCache<Key, OneChain>;

const A: Key = [1, 1];
const B: Key = [2, 2];
const C: Key = [3, 3];

const INTERVAL_MS: u64 = 4; // a tick is a millisecond

fn cache(capacity: usize) -> Arc<Cache> {
    let config = DedupConfig {
        capacity,
        purge_interval_ms: INTERVAL_MS,
        in_flight_max: 2,
        ..DedupConfig::default()
    };
    Arc::new(DedupCache::with_hasher(config, OneChain))
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_within(3, model);
}

/// Explores a model with at most so many preemptions, or `LOOM_MAX_PREEMPTIONS`, and prints in how
/// many executions.
#[expect(clippy::print_stdout, reason = "shown with --show-output")]
fn explore_within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    let (begun, start) = (std::sync::Arc::new(AtomicU64::new(0)), Instant::now());
    let executions = std::sync::Arc::clone(&begun);
    builder.check(move || {
        begun.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!(
        "{} executions, at most {} preemptions, {:.1} s",
        executions.load(Ordering::Relaxed),
        builder.preemption_bound.unwrap_or(preemptions),
        start.elapsed().as_secs_f64()
    );
}

/// Runs both at once, each in a thread of its own.
fn race<T: 'static, U: 'static>(
    cache: &Arc<Cache>,
    one: impl FnOnce(&Cache) -> T + 'static,
    other: impl FnOnce(&Cache) -> U + 'static,
) -> (T, U) {
    race_on(cache, one, other)
}

/// The same, whatever it is they meet on.
fn race_on<C: 'static, T: 'static, U: 'static>(
    cache: &Arc<C>,
    one: impl FnOnce(&C) -> T + 'static,
    other: impl FnOnce(&C) -> U + 'static,
) -> (T, U) {
    let (for_one, for_other) = (Arc::clone(cache), Arc::clone(cache));
    let one = thread::spawn(move || one(&for_one));
    let other = thread::spawn(move || other(&for_other));
    (one.join().unwrap(), other.join().unwrap())
}

fn ticket(answer: Admit<Ticket>) -> Option<Ticket> {
    answer.fresh()
}

fn winners<T>(answers: &[Option<T>]) -> usize {
    answers.iter().flatten().count()
}

#[test]
fn of_two_reservers_one_wins() {
    explore(|| {
        let cache = cache(2);
        let admit = |cache: &Cache| ticket(cache.admit_ticket(A, 0));
        let (one, other) = race(&cache, admit, admit);
        assert_eq!(winners(&[one, other]), 1);
        assert_eq!(cache.probe(A), Some(KeyState::Reserved));
    });
}

#[test]
fn of_two_inserters_one_wins() {
    explore(|| {
        let cache = cache(2);
        let insert = |cache: &Cache| cache.insert_if_absent(A, 0);
        let (one, other) = race(&cache, insert, insert);
        assert!(one ^ other);
        assert_eq!(cache.probe(A), Some(KeyState::Committed));
    });
}

#[test]
fn of_a_reserver_and_an_inserter_one_wins() {
    explore(|| {
        let cache = cache(2);
        let (inserted, reserved) = race(
            &cache,
            |cache| cache.insert_if_absent(A, 0),
            |cache| ticket(cache.admit_ticket(A, 0)),
        );
        assert!(inserted ^ reserved.is_some());
    });
}

#[test]
fn of_a_committer_and_an_inserter_one_wins() {
    explore(|| {
        let cache = cache(4);
        let (inserted, committed) = race(
            &cache,
            |cache| cache.insert_if_absent(A, 0),
            |cache| {
                ticket(cache.admit_ticket(A, 0))
                    .map(|held| cache.commit(held))
                    .is_some()
            },
        );
        assert!(inserted ^ committed);
        assert_eq!(cache.probe(A), Some(KeyState::Committed));
    });
}

#[test]
fn of_three_one_wins() {
    explore_within(1, || {
        let cache = cache(4);
        let insert = |cache: &Cache| cache.insert_if_absent(A, 0);
        let commit = |cache: &Cache| {
            ticket(cache.admit_ticket(A, 0))
                .map(|t| cache.commit(t))
                .is_some()
        };
        let third = Arc::clone(&cache);
        let third = thread::spawn(move || commit(&third));
        let (one, other) = race(&cache, insert, commit);
        let won = [one, other, third.join().unwrap()];
        assert_eq!(won.into_iter().filter(|won| *won).count(), 1);
    });
}

#[test]
fn a_commit_is_never_missed() {
    explore(|| {
        let cache = cache(2);
        let first = ticket(cache.admit_ticket(A, 0)).unwrap();
        race(
            &cache,
            |cache| cache.commit(first),
            |cache| {
                assert!(
                    !matches!(cache.admit_ticket(A, 0), Admit::Fresh(_)),
                    "one of a kind"
                );
            },
        );
        assert!(matches!(cache.admit_ticket(A, 0), Admit::Duplicate));
    });
}

#[test]
fn an_abort_is_never_taken_for_a_commit() {
    explore(|| {
        let cache = cache(2);
        let first = ticket(cache.admit_ticket(A, 0)).unwrap();
        let ((), second) = race(
            &cache,
            |cache| cache.abort(first),
            |cache| {
                let answer = cache.admit_ticket(A, 0);
                assert!(!matches!(answer, Admit::Duplicate), "nothing was committed");
                ticket(answer)
            },
        );
        match second {
            Some(held) => cache.commit(held),
            None => assert!(matches!(cache.admit_ticket(A, 0), Admit::Fresh(_))),
        }
    });
}

/// An inserter that gives way to a reservation must not have been taken for a commit.
#[test]
fn what_gives_way_was_never_a_duplicate() {
    explore(|| {
        let cache = cache(2);
        let held = ticket(cache.admit_ticket(A, 0)).unwrap();
        race(
            &cache,
            |cache| {
                assert!(
                    !matches!(cache.admit_ticket(A, 0), Admit::Duplicate),
                    "nobody committed"
                );
            },
            |cache| assert!(!cache.insert_if_absent(A, 0)),
        );
        cache.abort(held);
        assert!(matches!(cache.admit_ticket(A, 0), Admit::Fresh(_)));
    });
}

/// A slot is read while it changes hands: keys nobody inserted must not appear.
#[test]
fn a_torn_read_is_noticed() {
    explore(|| {
        let cache = cache(1);
        assert!(cache.insert_if_absent(A, 0));
        race(
            &cache,
            |cache| assert!(cache.insert_if_absent(B, 0)),
            |cache| {
                assert_eq!(cache.probe([1, 2]), None);
                assert_eq!(cache.probe([2, 1]), None);
            },
        );
        assert_eq!(cache.probe(A), None);
        assert_eq!(cache.probe(B), Some(KeyState::Committed));
    });
}

/// The same for the table of reservations.
#[test]
fn a_torn_rival_is_noticed() {
    explore(|| {
        let cache = cache(4);
        let first = ticket(cache.admit_ticket(A, 0)).unwrap();
        let (second, _mixed) = race(
            &cache,
            |cache| {
                cache.abort(first);
                ticket(cache.admit_ticket(B, 0)).unwrap()
            },
            |cache| ticket(cache.admit_ticket([1, 2], 0)).expect("nobody else wants this key"),
        );
        cache.commit(second);
        assert_eq!(cache.probe(B), Some(KeyState::Committed));
    });
}

/// Insertions of different keys into one chain while it overflows: nothing within the window is
/// lost, whatever order their tickets were drawn in.
#[test]
fn the_window_is_kept_whole() {
    explore(|| {
        let cache = cache(3);
        race(
            &cache,
            |cache| assert!(cache.insert_if_absent(A, 0)),
            |cache| assert!(cache.insert_if_absent(B, 0)),
        );
        assert!(cache.insert_if_absent(C, 0));
        assert!(cache.insert_if_absent([4, 4], 0));
        let remembered = [A, B, C, [4, 4]]
            .into_iter()
            .filter(|key| cache.probe(*key).is_some());
        assert_eq!(remembered.count(), 3, "{:?}", cache.stats());
    });
}

/// An inserter is lapped while it writes its slot.
#[test]
fn a_slot_has_one_writer() {
    explore(|| {
        let cache = cache(2);
        race(
            &cache,
            |cache| assert!(cache.insert_if_absent(A, 0)),
            |cache| {
                assert!(cache.insert_if_absent(B, 0));
                assert!(cache.insert_if_absent(C, 0));
            },
        );
        let remembered = [A, B, C]
            .iter()
            .filter(|key| cache.probe(**key).is_some())
            .count();
        let stats = cache.stats();
        assert!(
            remembered <= 2 && remembered as u64 + stats.wasted >= 2,
            "{stats:?}"
        );
        for mixed in [[1, 2], [2, 1], [1, 3], [3, 1]] {
            assert_eq!(cache.probe(mixed), None);
        }
    });
}

/// After a pause everything old goes, but nothing that was inserted after it.
#[test]
fn a_purge_spares_what_is_inserted_meanwhile() {
    explore(|| {
        let cache = cache(3);
        assert!(cache.insert_if_absent(A, 0));
        let now_ms = 3 * INTERVAL_MS;
        race(
            &cache,
            move |cache| cache.purge(now_ms),
            move |cache| assert!(cache.insert_if_absent(B, now_ms)),
        );
        assert_eq!(cache.probe(A), None);
        assert_eq!(cache.probe(B), Some(KeyState::Committed));
    });
}

/// The clock moves while a key is inserted: the mark of the new tick must not stand above it.
#[test]
fn a_mark_spares_what_is_inserted_meanwhile() {
    explore(|| {
        let cache = cache(3);
        race(
            &cache,
            |cache| cache.purge(3),
            |cache| {
                // Whether or not the clock has been moved by the other.
                assert!(cache.insert_if_absent(B, 3));
            },
        );
        // Exactly as old as the interval is not older.
        assert_eq!(cache.purge(3 + INTERVAL_MS), 0);
        assert_eq!(cache.probe(B), Some(KeyState::Committed));
    });
}

/// The clock moves while a batch holds places that it gives back: who takes them then is young.
#[test]
fn a_mark_spares_what_takes_a_place_given_back() {
    explore(|| {
        let cache = cache(3);
        race(
            &cache,
            |cache| cache.purge(3),
            |cache| {
                let mut fresh = Vec::new();
                cache.insert_batch(&[A, A], 0, &mut fresh);
                assert_eq!(fresh, [true, false]);
            },
        );
        assert!(cache.insert_if_absent(B, 3));
        cache.purge(3 + INTERVAL_MS);
        assert_eq!(cache.probe(B), Some(KeyState::Committed));
    });
}

/// Insertions go round the ring while a key is reserved.
#[test]
fn a_reservation_outlives_the_window() {
    explore(|| {
        let cache = cache(1);
        let held = ticket(cache.admit_ticket(A, 0)).unwrap();
        race(
            &cache,
            |cache| {
                assert!(cache.insert_if_absent(B, 0));
                assert!(cache.insert_if_absent(C, 0));
            },
            |cache| assert!(matches!(cache.admit_ticket(A, 0), Admit::InFlight)),
        );
        assert!(matches!(cache.admit_ticket(A, 0), Admit::InFlight));
        cache.commit(held);
        assert!(matches!(cache.admit_ticket(A, 0), Admit::Duplicate));
    });
}

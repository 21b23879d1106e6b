//! The ack-route cache, on a map that loom sees.

use loom::sync::Arc;
use qm_cache::{AckRouteCache, Learned, RouteConfig};

use super::{OneChain, explore, explore_within, race_on};

type Routes = AckRouteCache<u8, char, OneChain>;

const LIFETIME_MS: u64 = 4; // a tick is a millisecond

fn routes(rows_max: usize, candidates_max: usize) -> Arc<Routes> {
    let config = RouteConfig {
        lifetime_ms: LIFETIME_MS,
        rows_max,
        candidates_max,
    };
    Arc::new(AckRouteCache::with_hasher(config, OneChain))
}

const CONFLICT: Learned = Learned::Alternative { first_seen: true };

/// Neither is written over the other, and one of them is told of the other.
#[test]
fn two_routes_learned_at_once_are_a_conflict() {
    explore(|| {
        let routes = routes(2, 2);
        let (one, other) = race_on(
            &routes,
            |routes| routes.learn(1, 'a', 0),
            |routes| routes.learn(1, 'b', 0),
        );
        let held = routes.candidates(&1, 0);
        match (one, other) {
            (Learned::New, CONFLICT) => assert_eq!(held, ['b', 'a']),
            (CONFLICT, Learned::New) => assert_eq!(held, ['a', 'b']),
            both => panic!("{both:?}"),
        }
        let stats = routes.stats();
        assert_eq!((stats.rows, stats.learned, stats.conflicts), (1, 1, 1));
    });
}

/// The same where a key has room for one: one gives way, and is reported all the same.
#[test]
fn a_route_that_gives_way_is_reported() {
    explore(|| {
        let routes = routes(2, 1);
        let (one, other) = race_on(
            &routes,
            |routes| routes.learn(1, 'a', 0),
            |routes| routes.learn(1, 'b', 0),
        );
        assert!(
            matches!(
                (one, other),
                (Learned::New, CONFLICT) | (CONFLICT, Learned::New)
            ),
            "{one:?} {other:?}"
        );
        assert_eq!(routes.stats().displaced, 1);
    });
}

/// Of a session that sees its route and a purge that finds it old, one is first, and both know.
#[test]
fn a_route_that_was_seen_is_held() {
    explore(|| {
        let routes = routes(2, 2);
        let session = routes.learn_handle(1, 'a', 0).1.unwrap();
        let late = LIFETIME_MS + 1;
        let (held, purged) = race_on(
            &routes,
            move |_| session.refresh(late),
            move |routes| routes.purge(late),
        );
        assert_eq!(held, purged == 0);
        assert_eq!(routes.candidates(&1, late).is_empty(), !held);
        assert_eq!(routes.stats().rows, usize::from(held));
    });
}

/// The same where the one that finds it old learns another route.
#[test]
fn a_route_that_was_seen_stands_beside_one_learned() {
    explore(|| {
        let routes = routes(2, 2);
        let session = routes.learn_handle(1, 'a', 0).1.unwrap();
        let late = LIFETIME_MS + 1;
        let (held, learned) = race_on(
            &routes,
            move |_| session.refresh(late),
            move |routes| routes.learn(1, 'b', late),
        );
        let (says, holds): (_, &[_]) = if held {
            (CONFLICT, &['b', 'a'])
        } else {
            (Learned::New, &['b'])
        };
        // A session may have come between the look at its route and the answer.
        assert!(learned == says || held, "{learned:?}");
        let candidates = routes.candidates(&1, late);
        assert!(candidates == holds, "{candidates:?}");
    });
}

/// A sender seen a moment before its route was too old, and a purge a moment after.
#[test]
fn a_second_route_is_never_new_beside_one_that_lives() {
    explore(|| {
        let routes = routes(2, 2);
        routes.learn(1, 'a', 0);
        race_on(
            &routes,
            |routes| routes.learn(1, 'a', LIFETIME_MS),
            |routes| routes.purge(LIFETIME_MS + 1),
        );
        assert_eq!(routes.learn(1, 'b', LIFETIME_MS + 1), CONFLICT);
        assert_eq!(routes.candidates(&1, LIFETIME_MS + 1), ['b', 'a']);
    });
}

/// A route that failed stays away, though its session saw it at that moment.
#[test]
fn a_route_that_failed_is_gone() {
    explore(|| {
        let routes = routes(2, 2);
        let session = routes.learn_handle(1, 'a', 0).1.unwrap();
        let seen = session.clone();
        let (dropped, _held_until_then) = race_on(
            &routes,
            |routes| routes.failed(&1, &'a'),
            move |_| seen.refresh(1),
        );
        assert!(dropped);
        assert!(!session.refresh(2), "nobody brings it back");
        assert_eq!(routes.candidates(&1, 2), [' '; 0]);
        assert_eq!(routes.stats().rows, 0);
    });
}

/// A route that fails while another one of its key is learned: only that one is left.
#[test]
fn a_route_learned_beside_one_that_fails_is_held() {
    explore_within(2, || {
        let routes = routes(2, 2);
        routes.learn(1, 'a', 0);
        let (dropped, learned) = race_on(
            &routes,
            |routes| routes.failed(&1, &'a'),
            |routes| routes.learn(1, 'b', 0),
        );
        assert!(dropped);
        assert!(matches!(learned, Learned::New | CONFLICT), "{learned:?}");
        assert_eq!(routes.candidates(&1, 0), ['b']);
        assert_eq!(routes.stats().rows, 1);
    });
}

/// A row is removed before the thread that made it has counted it.
#[test]
fn a_cache_with_room_refuses_nobody() {
    explore(|| {
        let routes = routes(2, 1);
        race_on(
            &routes,
            |routes| routes.learn(1, 'a', 0),
            |routes| {
                routes.failed(&1, &'a');
                assert_eq!(routes.learn(2, 'b', 0), Learned::New);
            },
        );
        let held = (1..=2).filter(|key| routes.newest(key, 0).is_some());
        assert_eq!(held.count(), routes.stats().rows);
    });
}

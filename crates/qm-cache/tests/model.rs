//! The caches against models a reader can check in his head.
#![cfg(not(loom))]

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use qm_cache::{
    AckRouteCache, Admit, DedupCache, DedupConfig, Key, KeyState, Learned, RouteConfig, Ticket,
};

/// An identity word and a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tagged(u64, u64);

impl Key for Tagged {
    type Words = [u64; 2];
    const WORDS: usize = 2;
    const IDENTITY_WORDS: usize = 1;
    fn to_words(&self) -> [u64; 2] {
        [self.0, self.1]
    }
}

const INTERVAL_MS: u64 = 100; // a tick is a millisecond

#[derive(Clone, Debug)]
enum Call {
    Admit(Tagged),
    AdmitBatch(Vec<Tagged>),
    Insert(Tagged),
    InsertBatch(Vec<Tagged>),
    /// Of the outstanding tickets, the one with this index modulo their number.
    Commit(usize),
    Abort(usize),
    Purge,
    Pass(u64),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let key = (0..24_u64, 0..3_u64).prop_map(|(id, tag)| Tagged(id, tag / 2));
    let keys = prop::collection::vec(key.clone(), 0..40);
    let call = prop_oneof![
        6 => key.clone().prop_map(Call::Admit),
        1 => keys.clone().prop_map(Call::AdmitBatch),
        6 => key.prop_map(Call::Insert),
        1 => keys.prop_map(Call::InsertBatch),
        6 => any::<usize>().prop_map(Call::Commit),
        2 => any::<usize>().prop_map(Call::Abort),
        1 => Just(Call::Purge),
        3 => prop_oneof![4 => 0..20_u64, 1 => 0..400_u64, 1 => 8000..9000_u64].prop_map(Call::Pass),
    ];
    prop::collection::vec(call, 0..120)
}

/// What the cache promises, one call after the other.
#[derive(Debug, Default)]
struct Model {
    capacity: usize,
    in_flight_max: usize,
    committed: VecDeque<(Tagged, u64)>,
    reserved: Vec<Tagged>,
    now_ms: u64,
    purged_ms: u64,
    hits: u64,
    misses: u64,
    contended: u64,
    refused: u64,
    aborted: u64,
    purged: u64,
    evicted: u64,
}

impl Model {
    fn is_committed(&self, key: Tagged) -> bool {
        self.committed.iter().any(|(k, _)| *k == key)
    }

    fn state(&self, key: Tagged) -> Option<KeyState> {
        if self.is_committed(key) {
            Some(KeyState::Committed)
        } else {
            self.reserved.contains(&key).then_some(KeyState::Reserved)
        }
    }

    fn commit(&mut self, key: Tagged) {
        self.misses += 1;
        if self.committed.len() == self.capacity {
            self.committed.pop_front();
            self.evicted += 1;
        }
        self.committed.push_back((key, self.now_ms));
    }

    fn purge(&mut self) -> usize {
        self.purged_ms = self.now_ms;
        let before = self.committed.len();
        self.committed
            .retain(|(_, since_ms)| self.now_ms - since_ms <= INTERVAL_MS);
        self.purged += (before - self.committed.len()) as u64;
        before - self.committed.len()
    }

    /// The cache notices the time when it is called.
    fn notice(&mut self, noticed_ms: &mut u64) {
        let pause_ms = self.now_ms - *noticed_ms;
        *noticed_ms = self.now_ms;
        if pause_ms > 0 && self.now_ms - self.purged_ms >= INTERVAL_MS || pause_ms > INTERVAL_MS {
            self.purge();
        }
    }

    fn admit(&mut self, key: Tagged) -> Admit<bool> {
        if self.is_committed(key) {
            self.hits += 1;
            Admit::Duplicate
        } else if self.reserved.contains(&key) {
            self.contended += 1;
            Admit::InFlight
        } else if self.reserved.len() == self.in_flight_max {
            self.refused += 1;
            Admit::InFlight
        } else {
            self.reserved.push(key);
            Admit::Fresh(self.committed.iter().any(|(k, _)| k.0 == key.0))
        }
    }

    fn insert(&mut self, key: Tagged) -> bool {
        if self.is_committed(key) {
            self.hits += 1;
            false
        } else if self.reserved.contains(&key) {
            self.contended += 1;
            false
        } else {
            self.commit(key);
            true
        }
    }
}

fn check(capacity: usize, in_flight_max: usize, calls: Vec<Call>) {
    let config = DedupConfig {
        capacity,
        purge_interval_ms: INTERVAL_MS,
        in_flight_max,
        ..DedupConfig::default()
    };
    let cache = DedupCache::<Tagged>::new(config, [7, 8]);
    let mut model = Model {
        capacity,
        in_flight_max,
        ..Model::default()
    };
    let mut tickets: Vec<(Tagged, Ticket)> = Vec::new();
    let mut noticed_ms = 0;
    // Places that inserters leave when they give way to a reservation count as entries.
    let mut gave_way = false;
    for call in calls {
        let now_ms = model.now_ms;
        match call {
            Call::Admit(key) => {
                model.notice(&mut noticed_ms);
                let answer = cache.admit_ticket(key, now_ms);
                let expected = model.admit(key);
                settle(key, answer, expected, &mut tickets);
            }
            Call::AdmitBatch(keys) => {
                model.notice(&mut noticed_ms);
                let mut answers = Vec::new();
                cache.admit_batch(&keys, now_ms, &mut answers);
                assert_eq!(answers.len(), keys.len());
                for (key, answer) in keys.into_iter().zip(answers) {
                    let expected = model.admit(key);
                    settle(key, answer, expected, &mut tickets);
                }
            }
            Call::Insert(key) => {
                model.notice(&mut noticed_ms);
                gave_way |= model.state(key) == Some(KeyState::Reserved);
                if gave_way {
                    return;
                }
                assert_eq!(
                    cache.insert_if_absent(key, now_ms),
                    model.insert(key),
                    "{key:?}"
                );
            }
            Call::InsertBatch(keys) => {
                model.notice(&mut noticed_ms);
                gave_way |= keys
                    .iter()
                    .any(|k| model.state(*k) == Some(KeyState::Reserved));
                if gave_way {
                    return;
                }
                let mut fresh = Vec::new();
                cache.insert_batch(&keys, now_ms, &mut fresh);
                let expected: Vec<bool> = keys.iter().map(|key| model.insert(*key)).collect();
                assert_eq!(fresh, expected);
            }
            Call::Commit(at) => {
                if !tickets.is_empty() {
                    let (key, ticket) = tickets.swap_remove(at % tickets.len());
                    cache.commit(ticket);
                    model.reserved.retain(|k| *k != key);
                    // The age counts from the latest time the cache was told.
                    let now_ms = std::mem::replace(&mut model.now_ms, noticed_ms);
                    model.commit(key);
                    model.now_ms = now_ms;
                }
            }
            Call::Abort(at) => {
                if !tickets.is_empty() {
                    let (key, ticket) = tickets.swap_remove(at % tickets.len());
                    cache.abort(ticket);
                    model.reserved.retain(|k| *k != key);
                    model.aborted += 1;
                }
            }
            Call::Purge => {
                noticed_ms = now_ms;
                assert_eq!(cache.purge(now_ms), model.purge());
            }
            Call::Pass(ms) => model.now_ms += ms,
        }
        for id in 0..24 {
            for tag in 0..2 {
                let key = Tagged(id, tag);
                assert_eq!(cache.probe(key), model.state(key), "{key:?}");
            }
        }
    }
    let stats = cache.stats();
    let counted = (
        stats.hits,
        stats.misses,
        stats.contended,
        stats.refused,
        stats.aborted,
    );
    let expected = (
        model.hits,
        model.misses,
        model.contended,
        model.refused,
        model.aborted,
    );
    assert_eq!(
        counted, expected,
        "hits, misses, contended, refused, aborted"
    );
    assert_eq!(
        (stats.purged, stats.evicted),
        (model.purged, model.evicted),
        "purged, evicted"
    );
    assert_eq!(
        (stats.len, stats.in_flight),
        (model.committed.len(), model.reserved.len())
    );
    assert_eq!(stats.wasted, 0, "one thread has no races");
    let oldest_ms = model
        .committed
        .front()
        .map(|(_, since_ms)| noticed_ms - since_ms);
    assert_eq!(stats.oldest_age_ms, oldest_ms);
}

fn settle(
    key: Tagged,
    answer: Admit<Ticket>,
    expected: Admit<bool>,
    tickets: &mut Vec<(Tagged, Ticket)>,
) {
    match (answer, expected) {
        (Admit::Fresh(ticket), Admit::Fresh(sibling)) => {
            assert_eq!(ticket.has_sibling(), sibling, "{key:?}");
            tickets.push((key, ticket));
        }
        (answer, expected) => assert_eq!(answer.map(|_| true), expected, "{key:?}"),
    }
}

/// An owner and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owned(u64, u64);

impl Key for Owned {
    type Words = [u64; 2];
    const WORDS: usize = 2;
    const OWNER_WORDS: usize = 1;
    fn to_words(&self) -> [u64; 2] {
        [self.0, self.1]
    }
}

#[derive(Clone, Debug)]
struct Burst {
    owner: u64,
    keys: usize,
    /// Behind the burst, so many of the keys before are delivered again.
    again: usize,
    how: u8,
    pass_ms: u64,
}

fn bursts() -> impl Strategy<Value = Burst> {
    let pass_ms = prop_oneof![3 => Just(0_u64), 3 => 0..20_u64, 1 => 90..110_u64];
    (0..3_u64, 1..500_usize, 0..50_usize, 0..3_u8, pass_ms).prop_map(
        |(owner, keys, again, how, pass_ms)| Burst {
            owner,
            keys,
            again,
            how,
            pass_ms,
        },
    )
}

const SHARED_CAPACITY: usize = 600;

/// However the places are shared: what is among the newest and not due is a duplicate, and what
/// never came is fresh.
fn check_shares(percent: u8, start_ms: u64, bursts: &[Burst]) {
    let config = DedupConfig {
        capacity: SHARED_CAPACITY,
        purge_interval_ms: INTERVAL_MS,
        owner_share_percent: percent,
        ..DedupConfig::default()
    };
    let cache = DedupCache::<Owned>::new(config, [7, 8]);
    let mut came: Vec<(Owned, u64)> = Vec::new();
    let mut now_ms = start_ms;
    for burst in bursts {
        now_ms += burst.pass_ms;
        let first = came.len() as u64;
        let new = (0..burst.keys as u64).map(|n| Owned(burst.owner, first + n));
        let new: Vec<Owned> = new.collect();
        match burst.how {
            0 => {
                for key in &new {
                    assert!(cache.insert_if_absent(*key, now_ms), "{key:?} never came");
                }
            }
            1 => {
                let mut answers = Vec::new();
                cache.admit_batch(&new, now_ms, &mut answers);
                for answer in answers {
                    cache.commit(answer.fresh().expect("it never came"));
                }
            }
            _ => {
                let mut fresh = Vec::new();
                cache.insert_batch(&new, now_ms, &mut fresh);
                assert!(fresh.iter().all(|fresh| *fresh), "they never came");
            }
        }
        came.extend(new.iter().map(|key| (*key, now_ms)));
        let young = came.iter().rev().take(SHARED_CAPACITY);
        let young = young.filter(|(_, since_ms)| now_ms - since_ms <= INTERVAL_MS);
        for (at, (key, _)) in young.enumerate() {
            assert_eq!(cache.probe(*key), Some(KeyState::Committed), "{key:?}");
            if at < burst.again {
                assert!(!cache.insert_if_absent(*key, now_ms), "{key:?} came before");
            }
        }
    }
    assert!(cache.stats().len <= 2 * SHARED_CAPACITY);
}

#[derive(Clone, Debug)]
enum RouteCall {
    Learn(u8, u8),
    Failed(u8, u8),
    /// A session sees its peer again, by its handle.
    Refresh(usize),
    Purge,
    Pass(u64),
}

fn route_calls() -> impl Strategy<Value = Vec<RouteCall>> {
    let call = prop_oneof![
        6 => (0..4_u8, 0..5_u8).prop_map(|(key, route)| RouteCall::Learn(key, route)),
        2 => (0..4_u8, 0..5_u8).prop_map(|(key, route)| RouteCall::Failed(key, route)),
        3 => any::<usize>().prop_map(RouteCall::Refresh),
        1 => Just(RouteCall::Purge),
        2 => (0..40_u64).prop_map(RouteCall::Pass),
    ];
    prop::collection::vec(call, 0..80)
}

const LIFETIME_MS: u64 = 60; // a tick is a millisecond
const CANDIDATES_MAX: usize = 3;

fn check_routes(calls: Vec<RouteCall>) {
    let config = RouteConfig {
        lifetime_ms: LIFETIME_MS,
        rows_max: 3,
        candidates_max: CANDIDATES_MAX,
    };
    let cache = AckRouteCache::<u8, u8>::new(config, [1, 2]);
    // Key → routes with the time they were seen, the newest first.
    let mut model: BTreeMap<u8, Vec<(u8, u64)>> = BTreeMap::new();
    let mut handles = Vec::new();
    let mut now_ms = 0;
    let live = |seen_ms: u64, now_ms: u64| now_ms - seen_ms <= LIFETIME_MS;
    for call in calls {
        match call {
            RouteCall::Learn(key, route) => {
                let (learned, handle) = cache.learn_handle(key, route, now_ms);
                if learned == Learned::Full {
                    assert!(handle.is_none());
                    let is_live = |row: &Vec<(u8, u64)>| {
                        row.iter().any(|(_, seen_ms)| live(*seen_ms, now_ms))
                    };
                    assert!(!model.get(&key).is_some_and(is_live));
                    assert_eq!(model.values().filter(|row| is_live(row)).count(), 3);
                    model.remove(&key);
                    continue;
                }
                let row = model.entry(key).or_default();
                let is_live = |(_, seen_ms): &(u8, u64)| live(*seen_ms, now_ms);
                let is_front = row
                    .first()
                    .is_some_and(|front| front.0 == route && is_live(front));
                if !is_front {
                    // Only a row that is written anew lets go of what has expired.
                    row.retain(is_live);
                }
                let at = row.iter().position(|(r, _)| *r == route);
                let expected = match (row.len(), at) {
                    (0, _) => Learned::New,
                    (_, Some(0)) => Learned::Refreshed,
                    (_, at) => Learned::Alternative {
                        first_seen: at.is_none(),
                    },
                };
                assert_eq!(learned, expected, "{key} at {route}");
                if let Some(at) = at {
                    row.remove(at);
                }
                row.insert(0, (route, now_ms));
                row.truncate(CANDIDATES_MAX);
                handles.push((key, handle.expect("there was room")));
            }
            RouteCall::Failed(key, route) => {
                let row = model.entry(key).or_default();
                let held = row.iter().position(|(r, _)| *r == route);
                let dropped = cache.failed(&key, &route);
                if let Some(at) = held {
                    assert!(dropped || !live(row[at].1, now_ms));
                    row.remove(at);
                }
                if row.is_empty() {
                    model.remove(&key);
                }
            }
            RouteCall::Refresh(at) => {
                if !handles.is_empty() {
                    let (key, handle) = &handles[at % handles.len()];
                    if handle.refresh(now_ms) {
                        let row = model.get_mut(key).expect("a good handle has a row");
                        let entry = row.iter_mut().find(|(r, _)| r == handle.route());
                        entry.expect("a good handle has a candidate").1 = now_ms;
                    }
                }
            }
            RouteCall::Purge => {
                cache.purge(now_ms);
                model.retain(|_, row| {
                    row.retain(|(_, seen_ms)| live(*seen_ms, now_ms));
                    !row.is_empty()
                });
                assert_eq!(cache.stats().rows, model.len());
            }
            RouteCall::Pass(ms) => now_ms += ms,
        }
        for key in 0..4 {
            let expected: Vec<u8> = model
                .get(&key)
                .into_iter()
                .flatten()
                .filter(|(_, seen_ms)| live(*seen_ms, now_ms))
                .map(|(route, _)| *route)
                .collect();
            assert_eq!(cache.candidates(&key, now_ms), expected, "key {key}");
        }
    }
}

proptest! {
    #[test]
    fn duplicate_cache(
        capacity in prop_oneof![Just(1_usize), 2..12_usize, 60..70_usize, Just(200)],
        in_flight_max in prop_oneof![Just(0_usize), 1..4_usize, Just(100)],
        calls in calls(),
    ) {
        check(capacity, in_flight_max, calls);
    }

    #[test]
    fn shares(
        percent in prop_oneof![Just(1_u8), Just(10), Just(50), Just(99)],
        start_ms in prop_oneof![Just(0_u64), 0..20_000_u64, Just(1 << 45)],
        bursts in prop::collection::vec(bursts(), 1..16),
    ) {
        check_shares(percent, start_ms, &bursts);
    }

    #[test]
    fn route_cache(calls in route_calls()) {
        check_routes(calls);
    }
}

#[test]
fn a_route_behind_one_that_expired_has_not_moved() {
    check_routes(vec![
        RouteCall::Learn(3, 1),
        RouteCall::Learn(3, 3),
        RouteCall::Learn(3, 0),
        RouteCall::Pass(26),
        RouteCall::Refresh(0),
        RouteCall::Refresh(1),
        RouteCall::Pass(35),
        RouteCall::Learn(3, 3),
    ]);
}

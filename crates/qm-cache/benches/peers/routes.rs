//! The ack-route cache against maps from a key to a list of routes and times.
//!
//! The others do what it does and no more: a route that is seen again gets a new time, a further
//! one is put in front, what is too old is not told and is dropped by a purge. None has handles, so
//! a session that sees its peer again must ask the map.

use std::collections::HashMap;
use std::hint::black_box;

use parking_lot::Mutex;
use qm_cache::{AckRouteCache, KeyedSipHasher, RouteConfig, RouteHandle};

use crate::contenders::HASHER;
use crate::lanes::{Dice, cpu_ns, median};
use crate::report::Report;

/// A queue manager's life, as a node has it: two words of identity and the incarnation.
type Key = [u64; 3];

const fn nth(n: u64) -> Key {
    [
        0x8000_1234 ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        0x5678 + n,
        0xabcd_ef01 ^ n,
    ]
}

/// Rows, as many as a cache holds unless it is told otherwise.
const ROWS: u64 = 65_536;
const LIFETIME_MS: u64 = 600_000;
/// Looks of one round.
const LOOKS: u64 = 100_000;

/// Routes of one key and when each was seen, the newest first.
type Row = Vec<(u32, u64)>;

/// Notes a sight; whether the row was written.
fn see(row: &mut Row, route: u32, now_ms: u64) {
    match row.first_mut() {
        Some(front) if front.0 == route => front.1 = front.1.max(now_ms),
        _ => {
            row.retain(|(of, seen_ms)| *of != route && now_ms - seen_ms <= LIFETIME_MS);
            row.truncate(7);
            row.insert(0, (route, now_ms));
        }
    }
}

fn newest(row: &Row, now_ms: u64) -> Option<u32> {
    let live = row.iter().find(|(_, seen)| now_ms - seen <= LIFETIME_MS);
    live.map(|(route, _)| *route)
}

fn purge(row: &mut Row, now_ms: u64) -> bool {
    row.retain(|(_, seen_ms)| now_ms - seen_ms <= LIFETIME_MS);
    !row.is_empty()
}

trait Routes {
    const NAME: &'static str;
    fn new() -> Self;
    fn learn(&mut self, key: Key, route: u32, now_ms: u64);
    fn newest(&self, key: Key, now_ms: u64) -> Option<u32>;
    /// A session sees its peer at the route that it was learned with.
    fn seen_by_session(&self, n: u64, key: Key, now_ms: u64);
    fn purge(&self, now_ms: u64);
    fn rows(&self) -> usize;
}

struct Ours {
    cache: AckRouteCache<Key, u32>,
    sessions: Vec<RouteHandle<u32>>,
}

impl Routes for Ours {
    const NAME: &'static str = "qm-cache AckRouteCache";
    fn new() -> Self {
        Self {
            cache: AckRouteCache::with_hasher(RouteConfig::default(), HASHER),
            sessions: Vec::new(),
        }
    }
    fn learn(&mut self, key: Key, route: u32, now_ms: u64) {
        let (_, session) = self.cache.learn_handle(key, route, now_ms);
        if (self.sessions.len() as u64) < ROWS {
            self.sessions.extend(session);
        } else {
            black_box(session);
        }
    }
    fn newest(&self, key: Key, now_ms: u64) -> Option<u32> {
        self.cache
            .newest(&key, now_ms)
            .map(|handle| *handle.route())
    }
    fn seen_by_session(&self, n: u64, _: Key, now_ms: u64) {
        let at = usize::try_from(n).expect("below the number of rows");
        black_box(self.sessions[at].refresh(now_ms));
    }
    fn purge(&self, now_ms: u64) {
        black_box(self.cache.purge(now_ms));
    }
    fn rows(&self) -> usize {
        self.cache.stats().rows
    }
}

struct Mutexed(Mutex<HashMap<Key, Row, KeyedSipHasher>>);

impl Routes for Mutexed {
    const NAME: &'static str = "mutex + map";
    fn new() -> Self {
        Self(Mutex::new(HashMap::with_hasher(HASHER)))
    }
    fn learn(&mut self, key: Key, route: u32, now_ms: u64) {
        see(self.0.lock().entry(key).or_default(), route, now_ms);
    }
    fn newest(&self, key: Key, now_ms: u64) -> Option<u32> {
        newest(self.0.lock().get(&key)?, now_ms)
    }
    fn seen_by_session(&self, n: u64, key: Key, now_ms: u64) {
        if let Some(row) = self.0.lock().get_mut(&key) {
            see(row, route_of(n), now_ms);
        }
    }
    fn purge(&self, now_ms: u64) {
        self.0.lock().retain(|_, row| purge(row, now_ms));
    }
    fn rows(&self) -> usize {
        self.0.lock().len()
    }
}

struct Dashed(dashmap::DashMap<Key, Row, KeyedSipHasher>);

impl Routes for Dashed {
    const NAME: &'static str = "dashmap";
    fn new() -> Self {
        Self(dashmap::DashMap::with_hasher(HASHER))
    }
    fn learn(&mut self, key: Key, route: u32, now_ms: u64) {
        see(&mut self.0.entry(key).or_default(), route, now_ms);
    }
    fn newest(&self, key: Key, now_ms: u64) -> Option<u32> {
        newest(&*self.0.get(&key)?, now_ms)
    }
    fn seen_by_session(&self, n: u64, key: Key, now_ms: u64) {
        if let Some(mut row) = self.0.get_mut(&key) {
            see(&mut row, route_of(n), now_ms);
        }
    }
    fn purge(&self, now_ms: u64) {
        self.0.retain(|_, row| purge(row, now_ms));
    }
    fn rows(&self) -> usize {
        self.0.len()
    }
}

/// The same map as ours, and rows that are written anew for each sight.
struct Papaya(papaya::HashMap<Key, Row, KeyedSipHasher>);

impl Routes for Papaya {
    const NAME: &'static str = "papaya";
    fn new() -> Self {
        Self(papaya::HashMap::with_hasher(HASHER))
    }
    fn learn(&mut self, key: Key, route: u32, now_ms: u64) {
        self.0.pin().update_or_insert_with(
            key,
            |row| {
                let mut row = row.clone();
                see(&mut row, route, now_ms);
                row
            },
            || vec![(route, now_ms)],
        );
    }
    fn newest(&self, key: Key, now_ms: u64) -> Option<u32> {
        newest(self.0.pin().get(&key)?, now_ms)
    }
    fn seen_by_session(&self, n: u64, key: Key, now_ms: u64) {
        self.0.pin().update(key, |row| {
            let mut row = row.clone();
            see(&mut row, route_of(n), now_ms);
            row
        });
    }
    fn purge(&self, now_ms: u64) {
        let is_live = |row: &Row| row.iter().any(|(_, seen)| now_ms - seen <= LIFETIME_MS);
        self.0.pin().retain(|_, row| is_live(row));
    }
    fn rows(&self) -> usize {
        self.0.len()
    }
}

const fn route_of(n: u64) -> u32 {
    (n % 4_000_000_000) as u32
}

const WHAT: [&str; 5] = [
    "a known route seen again",
    "the newest route by the map",
    "a session that sees its peer",
    "a purge that finds nothing, a row",
    "a purge of all, a row",
];

/// Nanoseconds of each of `WHAT` for a contender in one round.
fn round<R: Routes>(routes: &mut R, round: u64) -> [f64; 5] {
    // Milliseconds that go by without a route growing old.
    let now_ms = 1_000 + round;
    let mut dice = Dice(round + 1);
    let mut timed = |count: u64, call: &mut dyn FnMut(u64)| {
        let numbers: Vec<u64> = (0..count).map(|_| dice.below(ROWS)).collect();
        let start = cpu_ns();
        numbers.iter().for_each(|n| call(*n));
        (cpu_ns() - start) as f64 / count as f64
    };
    let learn = timed(LOOKS, &mut |n| routes.learn(nth(n), route_of(n), now_ms));
    let look = timed(LOOKS, &mut |n| {
        assert_eq!(routes.newest(nth(n), now_ms), Some(route_of(n)));
    });
    let session = timed(LOOKS, &mut |n| routes.seen_by_session(n, nth(n), now_ms));
    let row = |ns: f64| ns / ROWS as f64;
    let nothing = row(timed(1, &mut |_| routes.purge(now_ms)));
    assert_eq!(routes.rows() as u64, ROWS);
    let mut gone = R::new();
    (0..ROWS).for_each(|n| gone.learn(nth(n), route_of(n), 0));
    let all = row(timed(1, &mut |_| gone.purge(2 * LIFETIME_MS)));
    assert_eq!(gone.rows(), 0);
    [learn, look, session, nothing, all]
}

fn filled<R: Routes>() -> R {
    let mut routes = R::new();
    (0..ROWS).for_each(|n| routes.learn(nth(n), route_of(n), 0));
    routes
}

/// A table: what each contender takes, and how many times as long the others take as ours.
pub(crate) fn compare(report: &mut Report, rounds: usize) {
    let mut ours: Ours = filled();
    let (mut mutexed, mut dashed, mut papaya): (Mutexed, Dashed, Papaya) =
        (filled(), filled(), filled());
    let names = [Ours::NAME, Mutexed::NAME, Dashed::NAME, Papaya::NAME];
    let mut times = names.map(|_| Vec::new());
    // The first round warms up.
    for number in 0..=rounds as u64 {
        let taken = [
            round(&mut ours, number),
            round(&mut mutexed, number),
            round(&mut dashed, number),
            round(&mut papaya, number),
        ];
        if number > 0 {
            times
                .iter_mut()
                .zip(taken)
                .for_each(|(all, one)| all.push(one));
        }
    }
    for (at, what) in WHAT.iter().enumerate() {
        let of = |who: usize| times[who].iter().map(move |round| round[at]);
        report.number(
            &format!("64k routes: {what}, {}", names[0]),
            "ns",
            median(of(0).collect()),
        );
        for (who, name) in names.iter().enumerate().skip(1) {
            let ratio = of(who).zip(of(0)).map(|(other, ours)| other / ours);
            let name = format!("64k routes: {what}, {name} to {}", names[0]);
            report.number(&name, "x", median(ratio.collect()));
        }
    }
}

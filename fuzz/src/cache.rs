//! Targets of qm-cache.

use std::collections::VecDeque;

use qm_cache::{Admit, DedupCache, DedupConfig, KeyState, Ticket};

/// What a cache used by one thread must do.
struct Model {
    capacity: usize,
    interval_ms: u64,
    in_flight_max: usize,
    now_ms: u64,
    /// The time of the latest call that takes one: a commit has no clock of its own.
    told_ms: u64,
    /// Committed keys and the time of each commit, oldest first.
    committed: VecDeque<(u64, u64)>,
    reserved: Vec<(u64, Ticket)>,
}

/// What the model says of a key.
#[derive(Debug, PartialEq)]
enum Expect {
    Fresh,
    Duplicate,
    /// Its interval is over; when it is forgotten is the cache's affair.
    Either,
}

impl Model {
    fn expect(&self, key: u64) -> Expect {
        match self.committed.iter().find(|(known, _)| *known == key) {
            None => Expect::Fresh,
            Some((_, at)) if self.is_due(*at) => Expect::Either,
            Some(_) => Expect::Duplicate,
        }
    }

    fn is_due(&self, at_ms: u64) -> bool {
        self.interval_ms > 0 && self.now_ms.saturating_sub(at_ms) > self.interval_ms
    }

    fn is_reserved(&self, key: u64) -> bool {
        self.reserved.iter().any(|(reserved, _)| *reserved == key)
    }

    fn commit(&mut self, key: u64) {
        self.committed.retain(|(known, _)| *known != key);
        self.push(key);
    }

    fn waste(&mut self) {
        self.push(WASTED);
    }

    fn push(&mut self, key: u64) {
        self.committed.push_back((key, self.told_ms));
        while self.committed.len() > self.capacity {
            self.committed.pop_front();
        }
    }
}

/// Stands for a wasted place; no operation uses this key.
const WASTED: u64 = u64::MAX;

/// Any sequence of operations by one thread gives the answers of a plain model: a key is a
/// duplicate exactly while it is among the newest `capacity` committed keys and not over age.
///
/// The first three bytes choose capacity, reservations and interval; then two bytes an operation.
pub fn dedup_ops(data: &[u8]) {
    let Some(([capacity, in_flight_max, interval], ops)) = data.split_first_chunk() else {
        return;
    };
    let config = DedupConfig {
        capacity: usize::from(capacity % 20),
        purge_interval_ms: [0, 1, 1000, 5000][usize::from(interval % 4)],
        in_flight_max: usize::from(in_flight_max % 6),
        ..DedupConfig::default()
    };
    let cache = DedupCache::<u64>::new(config, [1, 2]);
    let mut model = Model {
        capacity: config.capacity,
        interval_ms: config.purge_interval_ms,
        in_flight_max: config.in_flight_max,
        now_ms: 0,
        told_ms: 0,
        committed: VecDeque::new(),
        reserved: Vec::new(),
    };
    for op in ops.chunks_exact(2) {
        let (op, argument) = (op[0], op[1]);
        let key = u64::from(argument % 32);
        match op % 7 {
            0 | 1 => admit(&cache, &mut model, key),
            2 => insert(&cache, &mut model, key),
            3 => {
                if let Some((key, ticket)) = model.reserved.pop() {
                    cache.commit(ticket);
                    if model.capacity > 0 {
                        model.commit(key);
                    }
                }
            }
            4 => {
                if !model.reserved.is_empty() {
                    let (_, ticket) = model.reserved.remove(0);
                    cache.abort(ticket);
                }
            }
            5 => model.now_ms += u64::from(argument) * u64::from(op / 7) / 4,
            _ => {
                model.told_ms = model.now_ms;
                cache.purge(model.now_ms);
                // What is over age by more than two ticks is gone now.
                if model.interval_ms > 0 {
                    let slack = 2 * cache.stats().tick_ms;
                    let (now, interval) = (model.now_ms, model.interval_ms);
                    let live = |at: u64| now.saturating_sub(at) <= interval + slack;
                    model.committed.retain(|(_, at)| live(*at));
                }
            }
        }
        let state = cache.probe(key);
        match model.expect(key) {
            _ if model.capacity == 0 => assert_eq!(state, None),
            _ if model.is_reserved(key) => assert!(state.is_some()),
            Expect::Duplicate => assert_eq!(state, Some(KeyState::Committed)),
            Expect::Fresh => assert_eq!(state, None),
            Expect::Either => {}
        }
        let stats = cache.stats();
        assert!(stats.len <= config.capacity);
        if config.capacity > 0 {
            assert_eq!(stats.in_flight, model.reserved.len());
        }
    }
}

fn admit(cache: &DedupCache<u64>, model: &mut Model, key: u64) {
    model.told_ms = model.now_ms;
    let answer = cache.admit_ticket(key, model.now_ms);
    let full = model.capacity > 0 && model.reserved.len() >= model.in_flight_max;
    match (answer, model.expect(key)) {
        (Admit::Fresh(ticket), _) if model.capacity == 0 => cache.abort(ticket),
        (Admit::InFlight, _) => assert!(model.is_reserved(key) || full, "free and not reserved"),
        (Admit::Duplicate, expect) => {
            assert_ne!(expect, Expect::Fresh, "a false duplicate loses a message");
        }
        (Admit::Fresh(ticket), expect) => {
            assert_ne!(expect, Expect::Duplicate, "forgotten within its window");
            assert!(!model.is_reserved(key) && !full);
            model.reserved.push((key, ticket));
        }
    }
}

fn insert(cache: &DedupCache<u64>, model: &mut Model, key: u64) {
    model.told_ms = model.now_ms;
    let fresh = cache.insert_if_absent(key, model.now_ms);
    if model.capacity == 0 {
        assert!(fresh);
    } else if model.is_reserved(key) {
        assert!(!fresh, "in the hands of somebody else");
        // It is found out only after a place was taken, which is wasted.
        model.waste();
    } else {
        match (fresh, model.expect(key)) {
            (true, expect) => {
                assert_ne!(expect, Expect::Duplicate, "forgotten within its window");
                model.commit(key);
            }
            (false, expect) => {
                assert_ne!(expect, Expect::Fresh, "a false duplicate loses a message");
            }
        }
    }
}

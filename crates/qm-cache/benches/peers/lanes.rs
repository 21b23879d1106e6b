//! A contender that is full, and what a round with it takes.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use crate::contenders::{
    Contender, DashMapQueue, Id, Moka, Mutexed, Ours, OursBatched, OursTwoPhase,
    OursTwoPhaseBatched, PapayaQueue, QuickCache, SccQueue,
};

/// Keys handed over at once where a contender takes batches.
pub(crate) const RUN: usize = 16;

pub(crate) fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let part = |n: i64| u64::try_from(n).expect("processor time is not negative");
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Numbers without order.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) const fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % n
    }
}

pub(crate) trait Lane {
    fn name(&self) -> String;
    /// Nanoseconds for a key that is new, in a cache that is full.
    fn unique(&mut self, count: u64) -> f64;
    /// Nanoseconds for a key that is remembered.
    fn duplicate(&mut self, count: u64) -> f64;
    /// Keys of the newest `capacity` that are not remembered.
    fn forgotten(&self) -> usize;
    /// Hands over new or remembered keys, and measures nothing.
    fn without_clock(&mut self, new: bool, count: u64);
}

struct Runner<C> {
    contender: C,
    capacity: u64,
    run: usize,
    next: u64,
    dice: Dice,
}

/// The contenders of a size with the names wanted, filled.
pub(crate) fn lanes(capacity: usize, wanted: impl Fn(&str) -> bool) -> Vec<Box<dyn Lane>> {
    type Make = fn(usize, usize) -> Box<dyn Lane>;
    // At 10M the others would fill the machine's memory; the mutex stands for them.
    let all_sizes = usize::MAX;
    let contenders: [(usize, usize, &str, Make); 11] = [
        (all_sizes, 1, Ours::NAME, lane::<Ours>),
        (all_sizes, RUN, OursBatched::NAME, lane::<OursBatched>),
        (1_000_000, 1, OursTwoPhase::NAME, lane::<OursTwoPhase>),
        (
            1_000_000,
            RUN,
            OursTwoPhaseBatched::NAME,
            lane::<OursTwoPhaseBatched>,
        ),
        (all_sizes, 1, Mutexed::NAME, lane::<Mutexed>),
        (all_sizes, RUN, Mutexed::NAME, lane::<Mutexed>),
        (1_000_000, 1, DashMapQueue::NAME, lane::<DashMapQueue>),
        (1_000_000, 1, SccQueue::NAME, lane::<SccQueue>),
        (1_000_000, 1, PapayaQueue::NAME, lane::<PapayaQueue>),
        (1_000_000, 1, QuickCache::NAME, lane::<QuickCache>),
        (1_000_000, 1, Moka::NAME, lane::<Moka>),
    ];
    contenders
        .into_iter()
        .filter(|(capacity_max, run, name, _)| {
            capacity <= *capacity_max && wanted(&title(name, *run))
        })
        .map(|(_, run, _, make)| make(capacity, run))
        .collect()
}

fn title(name: &str, run: usize) -> String {
    if run == 1 {
        name.to_owned()
    } else {
        format!("{name}, batches of {run}")
    }
}

fn lane<C: Contender + 'static>(capacity: usize, run: usize) -> Box<dyn Lane> {
    let contender = C::new(capacity);
    for n in 0..capacity as u64 {
        assert!(
            contender.insert(Id::nth(n)),
            "{} holds a key nobody inserted",
            C::NAME
        );
    }
    Box::new(Runner {
        contender,
        capacity: capacity as u64,
        run,
        next: capacity as u64,
        dice: Dice(1),
    })
}

impl<C: Contender> Runner<C> {
    fn measure(&self, count: u64, key: impl FnMut() -> Id) -> f64 {
        let start = cpu_ns();
        self.hand_over(count, key);
        (cpu_ns() - start) as f64 / count as f64
    }

    #[inline]
    fn hand_over(&self, count: u64, mut key: impl FnMut() -> Id) {
        if self.run == 1 {
            for _ in 0..count {
                black_box(self.contender.insert(key()));
            }
        } else {
            for _ in 0..count / RUN as u64 {
                let keys: [Id; RUN] = std::array::from_fn(|_| key());
                black_box(self.contender.insert_run(&keys));
            }
        }
    }
}

impl<C: Contender> Lane for Runner<C> {
    fn name(&self) -> String {
        title(C::NAME, self.run)
    }

    fn unique(&mut self, count: u64) -> f64 {
        let mut next = self.next;
        let time = self.measure(count, || {
            next += 1;
            Id::nth(next - 1)
        });
        self.next = next;
        time
    }

    fn duplicate(&mut self, count: u64) -> f64 {
        let oldest = self.next - self.capacity;
        let mut dice = Dice(self.dice.0);
        let time = self.measure(count, || Id::nth(oldest + dice.below(self.capacity)));
        self.dice = dice;
        time
    }

    fn without_clock(&mut self, new: bool, count: u64) {
        let next = self.next;
        if new {
            let mut keys = next..;
            self.hand_over(count, || Id::nth(keys.next().expect("has no end")));
        } else {
            let mut dice = Dice(1);
            let oldest = next - self.capacity;
            self.hand_over(count, || Id::nth(oldest + dice.below(self.capacity)));
        }
    }

    fn forgotten(&self) -> usize {
        let newest = self.next - self.capacity..self.next;
        newest
            .filter(|n| !self.contender.holds(Id::nth(*n)))
            .count()
    }
}

/// What no exact table can beat: one load from memory of this size that nothing predicts, one
/// swap where it was loaded, one addition to a counter.
pub(crate) struct ColdLoad {
    table: Vec<AtomicU64>,
    counter: AtomicU64,
}

impl ColdLoad {
    pub(crate) fn new(capacity: usize) -> Self {
        let words = capacity.next_power_of_two() * 8;
        Self {
            table: (0..words).map(|_| AtomicU64::new(0)).collect(),
            counter: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn once(&self, dice: &mut Dice) {
        let at = usize::try_from(dice.below(self.table.len() as u64)).expect("below a length");
        let word = &self.table[at];
        let old = word.load(Ordering::Relaxed);
        let ticket = self.counter.fetch_add(1, Ordering::Relaxed);
        black_box(word.compare_exchange(old, ticket, Ordering::AcqRel, Ordering::Relaxed)).ok();
    }
}

pub(crate) fn cold_load(capacity: usize, count: u64, rounds: usize) -> f64 {
    let cold = ColdLoad::new(capacity);
    let mut dice = Dice(1);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = cpu_ns();
        for _ in 0..count {
            cold.once(&mut dice);
        }
        times.push((cpu_ns() - start) as f64 / count as f64);
    }
    median(times)
}

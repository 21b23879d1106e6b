//! Compares the duplicate cache with what one would use instead, all in one run.
//!
//! `cargo bench -p qm-cache` prints a table and leaves it as JSON and as a plot beside the build.
//! `-- --quick` takes a fifth of the time. Times are processor time of the calling thread unless
//! they say otherwise; every figure is the median of rounds in which the contenders take turns.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "peers/contenders.rs"]
mod contenders;
#[path = "peers/report.rs"]
mod report;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use contenders::{
    Contender, DashMapQueue, Id, Moka, Mutexed, Ours, OursBatched, OursTwoPhase, PapayaQueue,
    QuickCache, SccQueue,
};
use report::Report;
use rustix::time::{ClockId, clock_gettime};

/// Keys handed over at once where a contender takes batches.
const RUN: usize = 16;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let scale = if quick { 4 } else { 1 };
    let rounds = if quick { 3 } else { 5 };
    let mut report = Report::default();

    for (size, capacity, count) in [
        ("10k", 10_000, 2_000_000 / scale),
        ("1M", 1_000_000, 2_000_000 / scale),
    ] {
        let mut lanes: Vec<Box<dyn Lane>> = vec![
            lane::<Ours>(capacity, 1, count),
            lane::<OursBatched>(capacity, RUN, count),
            lane::<OursTwoPhase>(capacity, 1, count),
            lane::<Mutexed>(capacity, 1, count),
            lane::<Mutexed>(capacity, RUN, count),
            lane::<DashMapQueue>(capacity, 1, count),
            lane::<SccQueue>(capacity, 1, count),
            lane::<PapayaQueue>(capacity, 1, count),
            lane::<QuickCache>(capacity, 1, count),
            lane::<Moka>(capacity, 1, count / 4),
        ];
        run(&mut report, size, rounds, &mut lanes);
        report.number(
            &format!("{size}: cold load + two atomics"),
            "ns",
            cold_load(capacity),
        );
    }
    let mut lanes: Vec<Box<dyn Lane>> = vec![
        lane::<Ours>(10_000_000, 1, 4_000_000 / scale),
        lane::<OursBatched>(10_000_000, RUN, 4_000_000 / scale),
        lane::<Mutexed>(10_000_000, 1, 4_000_000 / scale),
    ];
    run(&mut report, "10M", rounds.min(3), &mut lanes);
    drop(lanes);
    report.number("10M: cold load + two atomics", "ns", cold_load(10_000_000));

    for capacity in [10_000, 1_000_000, 10_000_000] {
        let bytes = Ours::new(capacity).0.stats().heap_bytes as f64 / capacity as f64;
        report.number(&format!("bytes an entry at {capacity}"), "B", bytes);
    }
    two_threads(&mut report, 2_000_000 / scale, rounds);
    purge(&mut report, rounds);
    report.finish();
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let part = |n: i64| u64::try_from(n).expect("processor time is not negative");
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Numbers without order.
struct Dice(u64);

impl Dice {
    const fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % n
    }
}

/// A contender that is full, and what was measured of it.
struct Runner<C> {
    contender: C,
    capacity: u64,
    run: usize,
    count: u64,
    next: u64,
    dice: Dice,
}

trait Lane {
    fn name(&self) -> String;
    /// Nanoseconds for a key that is new, in a cache that is full.
    fn unique(&mut self) -> f64;
    /// Nanoseconds for a key that is remembered.
    fn duplicate(&mut self) -> f64;
    /// Keys of the newest `capacity` that are not remembered.
    fn forgotten(&self) -> usize;
}

fn lane<C: Contender + 'static>(capacity: usize, run: usize, count: u64) -> Box<dyn Lane> {
    let contender = C::new(capacity);
    for n in 0..capacity as u64 {
        assert!(
            contender.insert(Id::nth(n)),
            "{} holds a key nobody inserted",
            C::NAME
        );
    }
    let (capacity, next) = (capacity as u64, capacity as u64);
    Box::new(Runner {
        contender,
        capacity,
        run,
        count,
        next,
        dice: Dice(1),
    })
}

impl<C: Contender> Runner<C> {
    fn measure(&self, mut key: impl FnMut() -> Id) -> f64 {
        let start = cpu_ns();
        if self.run == 1 {
            for _ in 0..self.count {
                black_box(self.contender.insert(key()));
            }
        } else {
            for _ in 0..self.count / RUN as u64 {
                let keys: [Id; RUN] = std::array::from_fn(|_| key());
                black_box(self.contender.insert_run(&keys));
            }
        }
        (cpu_ns() - start) as f64 / self.count as f64
    }
}

impl<C: Contender> Lane for Runner<C> {
    fn name(&self) -> String {
        if self.run == 1 {
            C::NAME.to_owned()
        } else {
            format!("{}, batches of {RUN}", C::NAME)
        }
    }

    fn unique(&mut self) -> f64 {
        let mut next = self.next;
        let time = self.measure(|| {
            next += 1;
            Id::nth(next - 1)
        });
        self.next = next;
        time
    }

    fn duplicate(&mut self) -> f64 {
        let oldest = self.next - self.capacity;
        let mut dice = Dice(self.dice.0);
        let time = self.measure(|| Id::nth(oldest + dice.below(self.capacity)));
        self.dice = dice;
        time
    }

    fn forgotten(&self) -> usize {
        let newest = self.next - self.capacity..self.next;
        newest
            .filter(|n| !self.contender.holds(Id::nth(*n)))
            .count()
    }
}

fn run(report: &mut Report, size: &str, rounds: usize, lanes: &mut [Box<dyn Lane>]) {
    let mut unique = vec![Vec::new(); lanes.len()];
    let mut duplicate = vec![Vec::new(); lanes.len()];
    for _ in 0..rounds {
        for (lane, times) in lanes.iter_mut().zip(&mut unique) {
            times.push(lane.unique());
        }
    }
    let forgotten: Vec<usize> = lanes.iter().map(|lane| lane.forgotten()).collect();
    for _ in 0..rounds {
        for (lane, times) in lanes.iter_mut().zip(&mut duplicate) {
            times.push(lane.duplicate());
        }
    }
    let names = lanes.iter().map(|lane| lane.name()).collect::<Vec<_>>();
    let medians = |times: Vec<Vec<f64>>| times.into_iter().map(median).collect::<Vec<_>>();
    report.table(
        size,
        &names,
        &medians(unique),
        &medians(duplicate),
        &forgotten,
    );
}

/// What no exact table can beat: one load from memory of this size that nothing predicts, one
/// swap where it was loaded, one addition to a counter.
fn cold_load(capacity: usize) -> f64 {
    let table: Vec<AtomicU64> = (0..capacity.next_power_of_two() * 8)
        .map(|_| AtomicU64::new(0))
        .collect();
    let (counter, mut dice, count) = (AtomicU64::new(0), Dice(1), 2_000_000_u64);
    let start = cpu_ns();
    for _ in 0..count {
        let at = usize::try_from(dice.below(table.len() as u64)).expect("below a length");
        let word = &table[at];
        let old = word.load(Ordering::Relaxed);
        let ticket = counter.fetch_add(1, Ordering::Relaxed);
        black_box(word.compare_exchange(old, ticket, Ordering::AcqRel, Ordering::Relaxed)).ok();
    }
    (cpu_ns() - start) as f64 / count as f64
}

/// Wall-clock nanoseconds for `count` calls by each of some threads.
fn wall(threads: u32, count: u64, call: impl Fn(u64) + Sync) -> f64 {
    let barrier = Barrier::new(threads as usize + 1);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, call) = (&barrier, &call);
            scope.spawn(move || {
                barrier.wait();
                for n in 0..count {
                    call(n * u64::from(threads) + u64::from(thread));
                }
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed().as_nanos() as f64
    })
}

/// How much more two threads do in the same time, beside the same with a bare atomic counter.
fn two_threads(report: &mut Report, count: u64, rounds: usize) {
    let cache = Ours::new(1_000_000);
    let next = AtomicU64::new(0);
    let mut ratios = (Vec::new(), Vec::new(), Vec::new());
    let mutexed = Mutexed::new(1_000_000);
    for _ in 0..rounds {
        let speed_up = |call: &(dyn Fn(u64) + Sync), count: u64| {
            let one = wall(1, count, call);
            2.0 * one / wall(2, count, call)
        };
        let base = next.fetch_add(4 * count, Ordering::Relaxed);
        // Each key once: the second measurement goes on where the first ended.
        let fresh = AtomicU64::new(base);
        let key = |n: u64| Id::nth(fresh.load(Ordering::Relaxed) + n);
        ratios.0.push({
            let one = wall(1, count, |n| {
                black_box(cache.insert(key(n)));
            });
            fresh.fetch_add(count, Ordering::Relaxed);
            2.0 * one
                / wall(2, count, |n| {
                    black_box(cache.insert(key(n)));
                })
        });
        fresh.store(base, Ordering::Relaxed);
        ratios.1.push({
            let one = wall(1, count, |n| {
                black_box(mutexed.insert(key(n)));
            });
            fresh.fetch_add(count, Ordering::Relaxed);
            2.0 * one
                / wall(2, count, |n| {
                    black_box(mutexed.insert(key(n)));
                })
        });
        let counter = AtomicU64::new(0);
        ratios.2.push(speed_up(
            &|_| {
                counter.fetch_add(1, Ordering::Relaxed);
            },
            10 * count,
        ));
    }
    report.number(
        "1M: two threads against one, qm-cache insert",
        "x",
        median(ratios.0),
    );
    report.number("1M: two threads against one, mutex", "x", median(ratios.1));
    report.number(
        "two threads against one, a bare atomic counter",
        "x",
        median(ratios.2),
    );
}

const MINUTE_MS: u64 = 60_000;

/// A purge of a million keys, and what inserters notice of it.
fn purge(report: &mut Report, rounds: usize) {
    let capacity = 2_000_000;
    let mut ours_us = Vec::new();
    let mut mutex_us = Vec::new();
    for _ in 0..rounds {
        let ours = Ours::new(capacity);
        let mutexed = Mutexed::new(capacity);
        for n in 0..capacity as u64 {
            // The younger half comes 20 minutes later.
            ours.0
                .insert_if_absent(Id::nth(n), n / 1_000_000 * 20 * MINUTE_MS);
            mutexed.insert(Id::nth(n));
        }
        let start = Instant::now();
        let purged = ours.0.purge(31 * MINUTE_MS);
        ours_us.push(start.elapsed().as_nanos() as f64 / 1000.0);
        assert_eq!(purged, 1_000_000);
        let start = Instant::now();
        assert_eq!(mutexed.forget_half(), 1_000_000);
        mutex_us.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    report.number("purge of 1M keys, qm-cache", "us", median(ours_us));
    report.number(
        "purge of 1M keys, mutex (everybody waits)",
        "us",
        median(mutex_us),
    );

    let (mut quiet, mut purging) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        quiet.push(tail_ns(false));
        purging.push(tail_ns(true));
    }
    report.number(
        "1M: p99.9 of an insert, another thread idling by",
        "ns",
        median(quiet),
    );
    report.number(
        "1M: p99.9 of an insert, another thread purging",
        "ns",
        median(purging),
    );
}

/// The 99.9th percentile of wall-clock times of inserts while another thread spins or purges.
fn tail_ns(purging: bool) -> f64 {
    let cache = Arc::new(Ours::new(1_000_000));
    for n in 0..1_000_000 {
        cache.insert(Id::nth(n));
    }
    let done = Arc::new(AtomicBool::new(false));
    let other = {
        let (cache, done) = (Arc::clone(&cache), Arc::clone(&done));
        thread::spawn(move || {
            let mut purges = 0_u64;
            while !done.load(Ordering::Relaxed) {
                if purging {
                    cache.0.purge(0);
                    purges += 1;
                }
                thread::sleep(std::time::Duration::from_micros(100));
            }
            purges
        })
    };
    let mut times: Vec<u32> = (1_000_000..2_000_000)
        .map(|n| {
            let start = Instant::now();
            black_box(cache.insert(Id::nth(n)));
            u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX)
        })
        .collect();
    done.store(true, Ordering::Relaxed);
    assert_eq!(
        other.join().expect("the other thread does not panic") > 0,
        purging
    );
    times.sort_unstable();
    f64::from(times[times.len() / 1000 * 999])
}

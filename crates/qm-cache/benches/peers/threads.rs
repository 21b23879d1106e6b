//! Two threads at once: how they scale, and what a purge does to those who insert meanwhile.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::contenders::{Contender, Id, Mutexed, Ours, OursBatched, PapayaQueue};
use crate::lanes::{ColdLoad, Dice, RUN, cpu_ns, median};
use crate::report::Report;

/// Keys of one thread in one round: some milliseconds, so that a round fits between two turns of
/// the scheduler.
const KEYS: u64 = 40_000;

/// Wall-clock time, and processor time of all threads, for one round of each of some threads.
fn round(threads: u64, call: &(dyn Fn(u64) + Sync)) -> (f64, f64) {
    let barrier = Barrier::new(usize::try_from(threads).expect("few"));
    let took = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let (start, cpu) = (Instant::now(), cpu_ns());
                    call(number);
                    (start, Instant::now(), (cpu_ns() - cpu) as f64)
                })
            })
            .collect();
        let took: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker does not panic"))
            .collect();
        let first = took.iter().map(|(start, ..)| *start).min();
        let last = took.iter().map(|(_, end, _)| *end).max();
        let wall = last.zip(first).map(|(last, first)| last - first);
        let cpu = took.iter().map(|(.., cpu)| cpu).sum::<f64>();
        (wall, cpu)
    });
    (took.0.expect("there are threads").as_nanos() as f64, took.1)
}

/// How much more two threads do in the same time than one.
///
/// By the wall clock, as it happened; and by processor time, which another program's turn on the
/// core does not lengthen: what one key costs one thread alone, to what it costs each of two.
pub(crate) fn scaling(report: &mut Report, rounds: usize) {
    let next = AtomicU64::new(0);
    let fresh = |call: &dyn Fn(Id)| {
        let first = next.fetch_add(KEYS, Ordering::Relaxed);
        (first..first + KEYS).for_each(|n| call(Id::nth(n)));
    };
    let (ours, batched) = (Ours::new(1_000_000), OursBatched::new(1_000_000));
    let (mutexed, papaya) = (Mutexed::new(1_000_000), PapayaQueue::new(1_000_000));
    for n in 1 << 40..(1 << 40) + 1_000_000 {
        let key = Id::nth(n);
        let filled = (ours.insert(key), batched.insert(key), mutexed.insert(key));
        assert_eq!((filled, papaya.insert(key)), ((true, true, true), true));
    }
    let counter = AtomicU64::new(0);
    let cold = ColdLoad::new(1_000_000);
    let contenders: [(&str, &(dyn Fn(u64) + Sync)); 6] = [
        ("qm-cache insert", &|_| {
            fresh(&|key| {
                black_box(ours.insert(key));
            });
        }),
        ("qm-cache insert_batch(16)", &|_| {
            let first = next.fetch_add(KEYS, Ordering::Relaxed);
            for start in (first..first + KEYS).step_by(RUN) {
                let keys: [Id; RUN] = std::array::from_fn(|at| Id::nth(start + at as u64));
                black_box(batched.insert_run(&keys));
            }
        }),
        ("mutex + set + deque", &|_| {
            fresh(&|key| {
                black_box(mutexed.insert(key));
            });
        }),
        ("papaya + queue", &|_| {
            fresh(&|key| {
                black_box(papaya.insert(key));
            });
        }),
        ("a bare loop: cold load + two atomics", &|number| {
            let mut dice = Dice(number + 1);
            (0..KEYS * 4).for_each(|_| cold.once(&mut dice));
        }),
        ("a bare loop: one atomic counter", &|_| {
            for _ in 0..KEYS * 10 {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }),
    ];
    let mut by_wall = vec![Vec::new(); contenders.len()];
    let mut by_cpu = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (at, (_, call)) in contenders.iter().enumerate() {
            let (wall_1, cpu_1) = round(1, call);
            let (wall_2, cpu_2) = round(2, call);
            by_wall[at].push(2.0 * wall_1 / wall_2);
            by_cpu[at].push(4.0 * cpu_1 / cpu_2);
        }
    }
    for (at, (name, _)) in contenders.iter().enumerate() {
        let what = format!("1M: two threads to one, {name}");
        report.number(&what, "x (wall clock)", median(by_wall[at].clone()));
        report.number(&what, "x (processor time)", median(by_cpu[at].clone()));
    }
}

const MINUTE_MS: u64 = 60_000;

/// A purge of a million keys.
pub(crate) fn purge(report: &mut Report, rounds: usize) {
    let capacity = 2_000_000;
    let (mut ours_us, mut mutex_us) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let ours = Ours::new(capacity);
        for n in 0..capacity as u64 {
            // The younger half comes 20 minutes later.
            ours.0
                .insert_if_absent(Id::nth(n), n / 1_000_000 * 20 * MINUTE_MS);
        }
        let start = Instant::now();
        let purged = ours.0.purge(31 * MINUTE_MS);
        ours_us.push(start.elapsed().as_nanos() as f64 / 1000.0);
        assert_eq!(purged, 1_000_000);
        if round < 3 {
            let mutexed = Mutexed::new(capacity);
            for n in 0..capacity as u64 {
                mutexed.insert(Id::nth(n));
            }
            let start = Instant::now();
            assert_eq!(mutexed.forget_half(), 1_000_000);
            mutex_us.push(start.elapsed().as_nanos() as f64 / 1000.0);
        }
    }
    report.number("purge of 1M keys, qm-cache", "us", median(ours_us));
    let name = "purge of 1M keys, mutex + set + deque, everybody waiting";
    report.number(name, "us", median(mutex_us));
}

/// What another thread does again and again while one inserts.
#[derive(Clone, Copy)]
enum Other<'a> {
    Nothing,
    Purges(&'a Ours),
    /// The control: a purge that looks at a hundredth of a set under its lock.
    Walks(&'a Mutexed),
}

/// What is told of a run, what the other thread does, and an insertion of the n-th key.
type Run<'a> = (&'a str, Other<'a>, &'a dyn Fn(u64) -> bool);

/// The pause of the other thread between two purges.
const PAUSE: Duration = Duration::from_micros(250);

/// Of the model's time, between two insertions: so much that purges have something to forget.
const STEP_MS: u64 = 2;

/// What those who insert notice of purges by another thread.
///
/// Where there are fewer cores than busy threads, the other thread also takes turns on the core of
/// the one that inserts. So that this is not taken for a cost of the cache, purges of an unrelated
/// cache are measured as well. The control, inserts into a set behind a mutex that another thread
/// purges in steps by walking, shows that a slow purge would be seen.
pub(crate) fn tails(report: &mut Report, rounds: usize) {
    let fill = || {
        let cache = Ours::new(1_000_000);
        (0..1_000_000).for_each(|n| {
            cache.0.insert_if_absent(Id::nth(n), n * STEP_MS);
        });
        cache
    };
    let (cache, unrelated) = (fill(), fill());
    let mutexed = Mutexed::new(1_000_000);
    (0..1_000_000).for_each(|n| assert!(mutexed.insert(Id::nth(n))));
    let mut next = 1_000_000;
    let ours = |n| cache.0.insert_if_absent(Id::nth(n), n * STEP_MS);
    let locked = |n| mutexed.insert(Id::nth(n));
    let runs: [Run<'_>; 5] = [
        ("qm-cache, another thread waking up", Other::Nothing, &ours),
        (
            "qm-cache, another thread purging an unrelated cache",
            Other::Purges(&unrelated),
            &ours,
        ),
        (
            "qm-cache, another thread purging it",
            Other::Purges(&cache),
            &ours,
        ),
        ("mutex, another thread waking up", Other::Nothing, &locked),
        (
            "mutex, another thread walking through a hundredth",
            Other::Walks(&mutexed),
            &locked,
        ),
    ];
    let mut times = runs.map(|_| Vec::new());
    let purged_before = cache.0.stats().purged;
    for _ in 0..rounds {
        for (times, (_, other, insert)) in times.iter_mut().zip(runs) {
            times.push(tail_ns(&mut next, other, insert));
        }
    }
    assert!(cache.0.stats().purged > purged_before, "purges had work");
    for ((name, ..), times) in runs.iter().zip(&times) {
        let name = format!("1M: p99.9 of an insert, {name}");
        report.number(&name, "ns (wall clock)", median(times.clone()));
    }
    for (at, to, name) in [
        (2, 0, "qm-cache, purged to not"),
        (2, 1, "qm-cache, purged to an unrelated one purged"),
        (4, 3, "mutex, walked to not (control)"),
    ] {
        let by_round = times[at].iter().zip(&times[to]);
        let by_round = by_round.map(|(purging, other)| purging / other).collect();
        let name = format!("1M: p99.9 of an insert, {name}");
        report.number(&name, "x (wall clock)", median(by_round));
    }
}

/// The 99.9th percentile of wall-clock times of inserts, while another thread wakes up again and
/// again.
fn tail_ns(next: &mut u64, other: Other<'_>, insert: &dyn Fn(u64) -> bool) -> f64 {
    let done = AtomicBool::new(false);
    let first = *next;
    *next += 100_000;
    let at = AtomicU64::new(first);
    let mut times: Vec<u32> = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match other {
                    Other::Nothing => {}
                    Other::Purges(cache) => {
                        black_box(cache.0.purge(at.load(Ordering::Relaxed) * STEP_MS));
                    }
                    Other::Walks(set) => {
                        black_box(set.walk(10_000));
                    }
                }
                thread::sleep(PAUSE);
            }
        });
        let times = (first..*next)
            .map(|n| {
                at.store(n, Ordering::Relaxed);
                let start = Instant::now();
                black_box(insert(n));
                u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX)
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        times
    });
    times.sort_unstable();
    f64::from(times[times.len() / 1000 * 999])
}

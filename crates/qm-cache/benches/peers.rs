//! Compares the duplicate cache with what one would use instead, all in one run.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "peers/contenders.rs"]
mod contenders;

use std::hint::black_box;

use contenders::*;
use rustix::time::{ClockId, clock_gettime};

fn cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    (t.tv_sec * 1_000_000_000 + t.tv_nsec) as u64
}

fn unique<C: Contender>(cap: usize, count: u64) {
    let c = C::new(cap);
    for n in 0..cap as u64 { assert!(c.insert(Id::nth(n))); }
    let mut n = cap as u64;
    let t = cpu_ns();
    for _ in 0..count { black_box(c.insert(Id::nth(n))); n += 1; }
    let one = (cpu_ns() - t) as f64 / count as f64;
    let t = cpu_ns();
    for _ in 0..count / 16 {
        let keys: [Id; 16] = std::array::from_fn(|i| Id::nth(n + i as u64));
        black_box(c.insert_run(&keys)); n += 16;
    }
    let run = (cpu_ns() - t) as f64 / count as f64;
    // duplicates
    let mut x = 1u64;
    let lo = n - cap as u64;
    let t = cpu_ns();
    for _ in 0..count { x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        black_box(c.insert(Id::nth(lo + (x >> 33) % cap as u64))); }
    let dup = (cpu_ns() - t) as f64 / count as f64;
    let t = cpu_ns();
    for _ in 0..count/16 { 
        let keys: [Id; 16] = std::array::from_fn(|_| {x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); Id::nth(lo + (x >> 33) % cap as u64)});
        black_box(c.insert_run(&keys)); }
    let duprun = (cpu_ns() - t) as f64 / count as f64;
    let forgot = (n - cap as u64..n).filter(|k| !c.holds(Id::nth(*k))).count();
    println!("{:35} {cap:9} one {one:7.1} run {run:7.1}  dup {dup:7.1} duprun {duprun:7.1} forgotten {forgot}", C::NAME);
}

fn main() {
    if std::env::var("P").is_ok() { unique::<OursBatched>(1_000_000, 20_000_000); return; }
    for (cap, count) in [(10_000, 2_000_000), (1_000_000, 2_000_000)] {
        unique::<OursBatched>(cap, count);unique::<OursTwoPhase>(cap, count);
        unique::<Mutexed>(cap, count);
    }
}

//! What reading and writing a message costs, beside a plain copy of the same bytes, bincode and
//! postcard as one would first use them, and a layout read in place.
//!
//! `cargo bench -p qm-wire` prints nanoseconds of processor time, the median of rounds in which all
//! take turns; `-- --instructions` adds instructions, counted by Valgrind, which the load of the
//! machine does not change. `-- --quick` takes a fifth of the time.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "codec/cases.rs"]
mod cases;
#[path = "codec/naive.rs"]
mod naive;

use std::process::Command;

use cases::{Case, cases};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--run", size, name, times] = *words {
        return run_one(size, name, times.parse().expect("a number of times"));
    }
    let quick = words.contains(&"--quick");
    let instructions = words.contains(&"--instructions");
    println!("CPU time per message, median of {ROUNDS} rounds\n");
    for (size, about, mut list) in cases() {
        println!("{size}: {about}");
        let mut times = vec![Vec::new(); list.len()];
        let laps = if quick { 4_000 } else { 20_000 };
        for round in 0..=ROUNDS {
            for (case, times) in list.iter_mut().zip(&mut times) {
                let laps = (laps / case.messages).max(1);
                let start = now_ns();
                for _ in 0..laps {
                    (case.run)();
                }
                let took = now_ns().saturating_sub(start);
                // The first round warms up.
                if round > 0 {
                    times.push(took as f64 / (laps * case.messages) as f64);
                }
            }
        }
        for (case, mut times) in list.iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let median = times[ROUNDS / 2];
            let counted = if instructions {
                count(size, case).map_or_else(|| "-".to_owned(), |n| format!("{n:.0}"))
            } else {
                String::new()
            };
            println!("  {:<44} {median:>9.1} ns {counted:>9}", case.name);
        }
        println!();
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanoseconds
}

/// One case alone, so many times: what Valgrind looks at.
fn run_one(size: &str, name: &str, times: usize) {
    for (this, _, list) in cases() {
        for mut case in list {
            if this == size && case.name == name {
                for _ in 0..times {
                    (case.run)();
                }
            }
        }
    }
}

/// Instructions per message: the difference between many times and few, without what starts up.
fn count(size: &str, case: &Case) -> Option<f64> {
    let run = |times: usize| -> Option<f64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args(["--run", size, case.name, &times.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, count) = said.split_once("Collected : ")?;
        count.split_whitespace().next()?.parse().ok()
    };
    let times = 2_000_usize.div_ceil(case.messages);
    Some((run(times * 2)? - run(times)?) / (times * case.messages) as f64)
}

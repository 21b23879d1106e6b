//! Compares the duplicate cache with what one would use instead, all in one run.
//!
//! `cargo bench -p qm-cache` prints tables and leaves them as JSON and as a plot beside the build.
//! Times are processor time of the calling thread unless they say otherwise. All contenders of a
//! size take turns in many short rounds; times are medians of the rounds, and ratios are medians
//! of the ratios within each round, so that a load that comes and goes falls on all alike.
//!
//! | argument | |
//! |---|---|
//! | `--quick` | a third of the rounds |
//! | `--instructions` | also counts instructions, with Valgrind |
//! | `--only-instructions` | nothing but these, which no load changes, of one size (1M) |
//! | `--size 10k\|1M\|10M` | one size alone |
//! | `--only TEXT` | only contenders whose name contains the text, and nothing else |
//! | `--routes` | only the ack-route cache |
//! | `--threads` | only what needs two threads: scaling, purges, latencies |

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "peers/contenders.rs"]
mod contenders;
#[path = "peers/lanes.rs"]
mod lanes;
#[path = "peers/report.rs"]
mod report;
#[path = "peers/routes.rs"]
mod routes;
#[path = "peers/threads.rs"]
mod threads;

use std::process::Command;

use contenders::{Contender, Ours};
use lanes::{Lane, cold_load, lanes, median};
use report::{Report, Row};

/// Sizes, and the keys of one round.
const SIZES: [(&str, usize, u64); 3] = [
    ("10k", 10_000, 300_000),
    ("1M", 1_000_000, 300_000),
    ("10M", 10_000_000, 100_000),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--run", size, name, what, count] = *words {
        return run_one(size, name, what, count.parse().expect("a number of keys"));
    }
    let after = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + 1).copied()
    };
    let (only, size) = (after("--only"), after("--size"));
    let threads_only = words.contains(&"--threads");
    let quick = words.contains(&"--quick");
    let instructions = words.contains(&"--instructions");
    let rounds = if quick { 11 } else { 31 };

    let mut report = Report::default();
    if words.contains(&"--routes") {
        routes::compare(&mut report, rounds);
        return report.finish();
    }
    if words.contains(&"--only-instructions") {
        return count_alone(size.unwrap_or("1M"), only.unwrap_or(""));
    }
    for (name, capacity, count) in SIZES {
        if !threads_only && size.is_none_or(|size| size == name) {
            let mut lanes = lanes(capacity, |name| only.is_none_or(|only| name.contains(only)));
            compare(&mut report, name, count, rounds, &mut lanes, instructions);
            drop(lanes);
            let limit = cold_load(capacity, count, rounds);
            report.number(&format!("{name}: cold load + two atomics"), "ns", limit);
            report.limit(name, limit);
        }
    }
    if size.is_none() && only.is_none() {
        for (name, capacity, _) in SIZES {
            let bytes = Ours::new(capacity).0.stats().heap_bytes as f64 / capacity as f64;
            report.number(&format!("{name}: bytes an entry"), "B", bytes);
        }
        routes::compare(&mut report, rounds);
        threads::scaling(&mut report, rounds);
        threads::purge(&mut report, rounds.min(11));
        threads::tails(&mut report, rounds.min(11));
    }
    report.finish();
}

/// One size: every contender, round after round.
fn compare(
    report: &mut Report,
    size: &str,
    count: u64,
    rounds: usize,
    lanes: &mut [Box<dyn Lane>],
    instructions: bool,
) {
    let mut unique = vec![Vec::new(); lanes.len()];
    let mut duplicate = vec![Vec::new(); lanes.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (lane, times) in lanes.iter_mut().zip(&mut unique) {
            let time = lane.unique(count);
            if round > 0 {
                times.push(time);
            }
        }
    }
    let forgotten: Vec<usize> = lanes.iter().map(|lane| lane.forgotten()).collect();
    for round in 0..=rounds {
        for (lane, times) in lanes.iter_mut().zip(&mut duplicate) {
            let time = lane.duplicate(count);
            if round > 0 {
                times.push(time);
            }
        }
    }
    let names: Vec<String> = lanes.iter().map(|lane| lane.name()).collect();
    // How many times as long as contender `at` another takes, in the median round.
    let ratio = |times: &[Vec<f64>], at: usize, other: &str| {
        let other = names.iter().position(|name| name == other)?;
        let by_round = times[other].iter().zip(&times[at]);
        Some(median(by_round.map(|(other, this)| other / this).collect()))
    };
    let rows = (0..names.len()).map(|at| {
        let count = |what| instructions.then(|| instructions_of(size, &names[at], what));
        Row {
            name: names[at].clone(),
            new_ns: median(unique[at].clone()),
            new_by: ["mutex + set + deque", "papaya + queue", "moka"]
                .map(|other| ratio(&unique, at, other)),
            known_ns: median(duplicate[at].clone()),
            known_by_mutex: ratio(&duplicate, at, "mutex + set + deque"),
            forgotten: forgotten[at],
            new_instructions: count("new").flatten(),
            known_instructions: count("known").flatten(),
        }
    });
    report.table(size, rows.collect());
}

/// One contender alone: what Valgrind looks at.
fn run_one(size: &str, name: &str, what: &str, count: u64) {
    let known = SIZES.iter().find(|(known, ..)| *known == size);
    let (_, capacity, _) = known.expect("a size of the table");
    for mut lane in lanes(*capacity, |title| title == name) {
        lane.without_clock(what == "new", count);
    }
}

/// Instructions for a key: the difference between many keys and few, without what fills the cache.
fn instructions_of(size: &str, name: &str, what: &str) -> Option<f64> {
    let run = |count: u64| -> Option<f64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args(["--run", size, name, what, &count.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (_, count) = said.split_once("Collected : ")?;
        count.split_whitespace().next()?.parse().ok()
    };
    Some((run(64_000)? - run(32_000)?) / 32_000.0)
}

/// Instructions for a new and for a known key, of the contenders with the names wanted.
fn count_alone(size: &str, only: &str) {
    let known = SIZES.iter().find(|(known, ..)| *known == size);
    let (_, capacity, _) = known.expect("a size of the table");
    println!("| {size}, full | instructions: new | known |\n|---|---|---|");
    // Filled once only for their names.
    let names: Vec<_> = lanes(*capacity, |name| name.contains(only))
        .iter()
        .map(|lane| lane.name())
        .collect();
    for name in names {
        let count = |what| {
            instructions_of(size, &name, what).map_or_else(|| "–".to_owned(), |n| format!("{n:.0}"))
        };
        println!("| {name} | {} | {} |", count("new"), count("known"));
    }
}

//! Runs seeds: `qm-sim --seed N [--trace]` or `qm-sim --seeds A..B`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use qm_sim::{Report, Scenario, run, run_traced};

const USAGE: &str = "usage: qm-sim [--mode fast|quinn] (--seed N [--trace] | --seeds A..B)";

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (quinn, words) = match words.as_slice() {
        ["--mode", "quinn", rest @ ..] => (true, rest),
        ["--mode", "fast", rest @ ..] | rest => (false, rest),
    };
    let (first, last, trace) = match words {
        ["--seed", seed] => (seed.parse().ok(), None, false),
        ["--seed", seed, "--trace"] => (seed.parse().ok(), None, true),
        ["--seeds", range] => match range.split_once("..") {
            Some((first, last)) => (first.parse().ok(), last.parse::<u64>().ok(), false),
            None => (None, None, false),
        },
        _ => (None, None, false),
    };
    let Some(first) = first else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let last: u64 = last.unwrap_or(first + 1);
    let began = Instant::now();
    let mut sum = Report::default();
    let mut failed = 0_u64;
    for seed in first..last {
        let scenario = if quinn {
            Scenario::quinn_from_seed(seed)
        } else {
            Scenario::from_seed(seed)
        };
        match if trace {
            run_traced(scenario)
        } else {
            run(scenario)
        } {
            Ok(report) => add(&mut sum, &report),
            Err(failure) => {
                failed += 1;
                println!("{failure}");
            }
        }
    }
    let runs = last.saturating_sub(first);
    println!("{sum:#?}");
    println!("{:.1} s", began.elapsed().as_secs_f64());
    println!("{} passed, {failed} failed", runs - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

fn add(sum: &mut Report, report: &Report) {
    sum.accepted += report.accepted;
    sum.consumed += report.consumed;
    sum.refused += report.refused;
    sum.deaths += report.deaths;
    sum.deaths_in_commit += report.deaths_in_commit;
    sum.broken_links += report.broken_links;
    sum.lost_buffers += report.lost_buffers;
    sum.full_batches += report.full_batches;
    sum.duplicates += report.duplicates;
    sum.routed_acks += report.routed_acks;
    sum.queried += report.queried;
    sum.datagrams += report.datagrams;
    sum.lost_datagrams += report.lost_datagrams;
    sum.damaged_datagrams += report.damaged_datagrams;
    sum.virtual_ms += report.virtual_ms;
    sum.drain_ms = sum.drain_ms.max(report.drain_ms);
    sum.steps += report.steps;
    sum.trace_hash ^= report.trace_hash;
}

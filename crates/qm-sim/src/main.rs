//! Runs seeds, on all processors, and shrinks what fails.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qm_sim::{
    Breaks, Case, Failure, Reach, Report, Scenario, regressions, run, run_traced, shrink,
};

const USAGE: &str = "usage: qm-sim [--mode fast|streams|quinn|clones [--scenario NAME]] [--break RULE] (--seed N [--trace] | --seeds A..B) [--shrink] | qm-sim --regressions";
/// Events spent on making one failure simpler.
const SHRINK_STEPS: u64 = 3_000_000;
/// Failures of a range that are shrunk; the others are only listed.
const SHRUNK_MAX: usize = 2;

/// What to do.
#[derive(Default)]
struct Arguments {
    quinn: bool,
    streams: bool,
    clones: bool,
    case: Option<Case>,
    broken: Option<Breaks>,
    seeds: Option<(u64, u64)>,
    trace: bool,
    shrink: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--regressions"] {
        return once_failed();
    }
    let Some(arguments) = read(&words) else {
        eprintln!("{USAGE}");
        eprintln!("rules that can be broken: {}", Breaks::NAMES.join(", "));
        let cases: Vec<&str> = Case::ALL.iter().map(|case| case.name()).collect();
        eprintln!("scenarios of copied machines: {}", cases.join(", "));
        return ExitCode::from(2);
    };
    match arguments.seeds {
        Some((first, last)) if last - first == 1 => one(&arguments, first),
        Some((first, last)) => range(&arguments, first, last),
        None => ExitCode::from(2),
    }
}

fn read(words: &[String]) -> Option<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--mode" => match words.next()? {
                "fast" => (),
                "streams" => arguments.streams = true,
                "quinn" => arguments.quinn = true,
                "clones" => arguments.clones = true,
                _ => return None,
            },
            "--scenario" => arguments.case = Some(Case::named(words.next()?)?),
            "--break" => arguments.broken = Some(Breaks::named(words.next()?)?),
            "--seed" => {
                let seed = words.next()?.parse().ok()?;
                arguments.seeds = Some((seed, seed.checked_add(1)?));
            }
            "--seeds" => {
                let (first, last) = words.next()?.split_once("..")?;
                let (first, last) = (first.parse().ok()?, last.parse().ok()?);
                (first < last).then_some(())?;
                arguments.seeds = Some((first, last));
            }
            "--trace" => arguments.trace = true,
            "--shrink" => arguments.shrink = true,
            _ => return None,
        }
    }
    let modes = [arguments.quinn, arguments.streams, arguments.clones];
    let one = modes.iter().filter(|mode| **mode).count() <= 1;
    let fits = arguments.case.is_none() || arguments.clones;
    (arguments.seeds.is_some() && one && fits).then_some(arguments)
}

fn scenario(arguments: &Arguments, seed: u64) -> Scenario {
    let mut scenario = if arguments.clones {
        Scenario::clones_from_seed(seed, arguments.case)
    } else if arguments.quinn {
        Scenario::quinn_from_seed(seed)
    } else if arguments.streams {
        Scenario::streams_from_seed(seed)
    } else {
        Scenario::from_seed(seed)
    };
    scenario.breaks = arguments.broken.unwrap_or_default();
    scenario
}

fn one(arguments: &Arguments, seed: u64) -> ExitCode {
    let scenario = scenario(arguments, seed);
    let outcome = if arguments.trace && !arguments.shrink {
        run_traced(scenario.clone())
    } else {
        run(scenario.clone())
    };
    match outcome {
        Ok(report) => {
            println!("{report:#?}");
            println!("seed {seed} keeps every rule");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            if arguments.shrink {
                explain(&scenario, failure, arguments.trace);
            }
            ExitCode::from(1)
        }
    }
}

/// Makes a failure simpler and tells what is left of it.
fn explain(scenario: &Scenario, failure: Box<Failure>, trace: bool) {
    let shrunk = shrink(scenario, failure, SHRINK_STEPS);
    println!("--- shrunk in {} runs ---", shrunk.runs);
    println!("{}", shrunk.summary());
    println!("{}", shrunk.failure.text);
    if trace {
        drop(run_traced(shrunk.scenario));
    } else {
        for line in &shrunk.failure.tail {
            println!("  {line}");
        }
    }
}

/// Runs what once failed.
fn once_failed() -> ExitCode {
    let runs = match regressions() {
        Ok(runs) => runs,
        Err(text) => {
            eprintln!("the lists of regressions: {text}");
            return ExitCode::from(2);
        }
    };
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(scenario) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Err(failure) = run(scenario.clone()) else {
                        continue;
                    };
                    println!("{failure}");
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(failure.seed);
                    }
                }
            });
        }
    });
    let Ok(failures) = failures.into_inner() else {
        return ExitCode::from(1);
    };
    if failures.is_empty() {
        println!("{} runs that once failed keep every rule", runs.len());
        return ExitCode::SUCCESS;
    }
    println!("failed again: {failures:?}");
    ExitCode::from(1)
}

fn range(arguments: &Arguments, first: u64, last: u64) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let sum = Mutex::new((Report::default(), Vec::new(), Instant::now()));
    // What runs on tokio's clock has threads of its own to share.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    let outcome = run(scenario(arguments, seed));
                    let Ok(mut sum) = sum.lock() else { return };
                    match outcome {
                        Ok(report) => sum.0.add(&report),
                        Err(failure) => {
                            println!("{failure}");
                            sum.1.push(failure);
                        }
                    }
                    if sum.2.elapsed() > Duration::from_secs(10) {
                        sum.2 = Instant::now();
                        let done = seed - first;
                        eprintln!("{done} seeds, {}", pace(done, began));
                    }
                }
            });
        }
    });
    let Ok((report, mut failures, _)) = sum.into_inner() else {
        return ExitCode::from(1);
    };
    failures.sort_by_key(|failure| failure.seed);
    tell(&report);
    let runs = last - first;
    println!("{runs} seeds, {}", pace(runs, began));
    let shrunk = if arguments.shrink { SHRUNK_MAX } else { 0 };
    for failure in failures.iter().take(shrunk) {
        println!();
        explain(
            &scenario(arguments, failure.seed),
            Box::new(Failure::clone(failure)),
            false,
        );
    }
    if failures.is_empty() {
        println!("all keep every rule");
        return ExitCode::SUCCESS;
    }
    println!();
    println!("{} failed:", failures.len());
    for failure in &failures {
        let text: String = failure.text.chars().take(100).collect();
        println!("  seed {}: {text}", failure.seed);
    }
    ExitCode::from(1)
}

fn pace(done: u64, began: Instant) -> String {
    let seconds = began.elapsed().as_secs_f64();
    format!(
        "{seconds:.1} s, {:.0} a minute",
        done as f64 * 60.0 / seconds.max(0.001)
    )
}

/// What happened, then how often each rare branch was taken.
fn tell(report: &Report) {
    println!("{report:#?}");
    println!("rare branches:");
    for what in Reach::ALL {
        println!("{:>10} {what:?}", report.reached.count(*what));
    }
}

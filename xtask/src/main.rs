//! Everything that is done to this repository, as commands: `cargo xtask help`.
//!
//! The same commands run on a developer's machine and in CI; `.ci/run` only prepares the machine
//! and calls `cargo xtask ci`.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a command line tool reports on standard output"
)]
#![expect(
    clippy::print_stderr,
    reason = "a command line tool complains on standard error"
)]

mod ci;
mod delivery;
mod deny;
mod fuzz;
mod limits;
mod loom;
mod money;
mod portable;
mod repo;
mod sim;
mod spec;
mod store;
mod tidy;
mod torture;

use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::repo::cargo;

const HELP: &str = "\
cargo xtask COMMAND

  ci [STEP ...]                 every check that must pass before a change lands, or the named steps
  tidy                          house rules that neither rustfmt nor clippy knows
  spec                          requirements of SPEC.md against code and tests
  deny [--advisories]           licences, bans and sources of both workspaces; with known advisories
  vectors [--bless]             check the golden vectors, or write them anew
  portable                      the wire crate without bincode, and for WebAssembly
  fuzz [TARGET] [--seconds N]   search with libFuzzer (10 seconds a target without N)
  fuzz-replay                   run the checked-in inputs of every target, without libFuzzer
  hostile                       attacks on a node, and what a good peer keeps of its throughput
  sim --seed N                  one simulated run
  sim --seeds A..B              a range of simulated runs, B excluded
  sim --mode quinn ...          the same with QUIC between the nodes
  sim --mode clones ...         with a machine that is copied or restored; --scenario NAME
  sim ... --shrink              what fails, made as simple as it fails
  sim --break RULE ...          with a rule of the engine switched off, which must fail
  store-faults [--full]         the store under every fault at every operation, with a table; then
                                with each of its rules broken
  loom [MODEL]                  explore the interleavings of the lock-free caches
  loom --faults [FAULT ...]     build one fault after the other into them: a model must fail
  models                        every state of small worlds, one by one, and how many there are;
                                QM_MODEL_STATES=N looks at N of each world at least
  torture [--seconds N] [--seed N]
                                real processes killed, stopped, cut off and out of disk for five
                                minutes; every message is accounted for
  money [--seconds N] [--seed N]
                                transactions between two nodes that are killed and cut off for
                                five minutes; every coin is in one place
  bench                         the node on loopback, then every crate's benchmark

Steps of ci, in order:";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> anyhow::Result<()> {
    std::env::set_current_dir(repo::root()).context("entering the repository")?;
    match *arguments {
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            for step in ci::STEPS {
                println!("  {:<13} {}", step.name, step.about);
            }
            Ok(())
        }
        ["ci", ref steps @ ..] => ci::run(steps),
        ["tidy"] => tidy::run(),
        ["spec"] => spec::run(),
        ["deny"] => deny::run(false),
        ["deny", "--advisories"] => deny::run(true),
        ["vectors"] => cargo(["test", "-p", "qm-wire", "--test", "it", "vectors"]).run(),
        ["vectors", "--bless"] => cargo(["test", "-p", "qm-wire", "--test", "it", "vectors"])
            .env("QM_BLESS", "1")
            .run(),
        ["portable"] => portable::run(),
        ["fuzz", ref rest @ ..] => fuzz::search(rest),
        ["hostile"] => cargo(["test", "--release", "-p", "qm-tests", "--test", "it"])
            .args(["hostile", "--", "--nocapture"])
            .env("QM_SLOW_TESTS", "1")
            .run(),
        ["fuzz-replay"] => fuzz::replay().run(),
        ["sim", ref rest @ ..] => sim::command(rest).run(),
        ["store-faults", ref rest @ ..] => store::faults(rest),
        ["loom"] => loom::explore(None).run(),
        ["loom", "--faults", ref names @ ..] => loom::find_faults_anywhere(names),
        ["loom", model] => loom::explore(Some(model)).run(),
        ["models"] => models(),
        ["torture", ref rest @ ..] => torture::run(rest),
        ["money", ref rest @ ..] => money::run(rest),
        ["bench"] => bench(),
        _ => bail!(
            "no such command: {}; see cargo xtask help",
            arguments.join(" ")
        ),
    }
}

/// With the counts that the documents tell.
fn models() -> anyhow::Result<()> {
    let engine = ["test", "--release", "-p", "qm-engine"];
    cargo(engine)
        .args(["--lib", "--", "--nocapture", "model::"])
        .run()?;
    cargo(engine)
        .args(["--test", "stream_model", "--test", "receiver_model"])
        .args(["--", "--nocapture"])
        .run()
}

fn bench() -> anyhow::Result<()> {
    cargo(["run", "--release", "-p", "qm-node", "--", "bench"]).run()?;
    cargo(["bench", "--workspace", "--bench", "*"]).run()
}

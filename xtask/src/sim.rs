//! Runs of the simulated network.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::repo::{Program, cargo};

/// How many seeds a range that nobody chose has.
const FRESH_SEEDS: u64 = 100;

/// The simulator with these arguments.
pub(crate) fn command(arguments: &[&str]) -> Program {
    let fixed = ["run", "--quiet", "--release", "-p", "qm-sim", "--"];
    cargo(fixed.iter().chain(arguments))
}

/// A range of seeds of a mode that no earlier run has seen; the output names it, so it can be run
/// again.
pub(crate) fn fresh(mode: &str) -> anyhow::Result<Program> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock of this machine is set before 1970")?;
    // Millions apart from one second to the next, so ranges of neighbouring runs do not meet.
    let first = now.as_secs() * 1_000_003;
    let range = format!("{first}..{}", first + FRESH_SEEDS);
    println!("fresh seeds; to repeat: cargo xtask sim --mode {mode} --seeds {range}");
    Ok(command(&["--mode", mode, "--seeds", &range, "--shrink"]))
}

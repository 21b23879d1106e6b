//! Money between two nodes under kill -9, for longer than the ordinary tests take.

use anyhow::bail;

use crate::repo::cargo;

/// How long faults last unless told.
const SECONDS: &str = "300";

/// `[--seconds N] [--seed N]`
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let (mut seconds, mut seed) = (SECONDS, None);
    let mut rest = arguments;
    while let [name, value, more @ ..] = rest {
        match *name {
            "--seconds" => seconds = value,
            "--seed" => seed = Some(*value),
            _ => break,
        }
        rest = more;
    }
    if !rest.is_empty() {
        bail!("usage: cargo xtask money [--seconds N] [--seed N]");
    }
    let test = ["test", "--release", "-p", "qm-tests", "--test", "it"];
    let mut program = cargo(test)
        .args(["money", "--", "--nocapture"])
        .env("QM_MONEY_SECONDS", seconds);
    if let Some(seed) = seed {
        program = program.env("QM_MONEY_SEED", seed);
    }
    program.run()
}

//! The store under every fault at every operation.

use anyhow::bail;

use crate::repo::{Program, cargo};

/// Prints which faults were tried on which workloads and what came of it, then which broken rules
/// were noticed. Without `--full` a part of the operations is left out.
pub(crate) fn faults(arguments: &[&str]) -> anyhow::Result<()> {
    let extent = match *arguments {
        [] => "some",
        ["--full"] => "full",
        _ => bail!("write: cargo xtask store-faults [--full]"),
    };
    test(
        &["--release"],
        &["campaign::", "--nocapture", "--test-threads", "1"],
    )
    .env("QM_STORE_FAULTS", extent)
    .run()?;
    let damage = ["check::", "damage::", "--nocapture"];
    let damage = test(&["--release"], &damage);
    if extent == "full" {
        damage.env("QM_SLOW_TESTS", "1").run()?;
    } else {
        damage.run()?;
    }
    mutants(&["--release"]).run()
}

/// Breaks each rule of the store in turn; fails when nothing notices one of them.
pub(crate) fn mutants(arguments: &[&str]) -> Program {
    test(arguments, &["mutants::", "--nocapture"])
}

fn test(arguments: &[&str], filter: &[&str]) -> Program {
    cargo([
        "test",
        "-p",
        "qm-store",
        "--features",
        "__breaks",
        "--test",
        "it",
    ])
    .args(arguments)
    .args(["--"])
    .args(filter)
}

//! Interleavings of the lock-free caches, explored by loom.

use std::path::Path;

use crate::repo::{Program, cargo, target_dir};

/// Explores the models of `crates/qm-cache/tests/loom.rs`, or those whose name contains `model`.
///
/// `LOOM_MAX_PREEMPTIONS` deepens or shortens the search. `crates/qm-cache/loom.sh` also builds
/// faults into the crate and demands that the models find them.
pub(crate) fn explore(model: Option<&str>) -> Program {
    // A folder of its own: the flag would make cargo build everything else again.
    cargo(["test", "--release", "-p", "qm-cache", "--test", "loom"])
        .args([Path::new("--target-dir"), &target_dir("loom")])
        .args(model)
        .env("RUSTFLAGS", "--cfg loom")
}

//! Interleavings of the lock-free caches, explored by loom, and the faults that the models find.

use std::path::Path;

use anyhow::bail;

use crate::repo::{Program, cargo, target_dir};

/// Faults that are built in one after the other in every run of the checks, and a model that finds
/// each within a second. `cargo xtask loom --faults` tries all faults on all models.
const FAULTS: &[(&str, &str)] = &[
    ("no_order", "of_a_committer_and_an_inserter_one_wins"),
    ("no_rescan", "of_a_committer_and_an_inserter_one_wins"),
    ("no_second_look", "of_a_committer_and_an_inserter_one_wins"),
    ("no_rivals", "of_a_reserver_and_an_inserter_one_wins"),
    ("release_first", "a_commit_is_never_missed"),
    ("no_confirm", "of_two_reservers_one_wins"),
    ("tentative_counts", "what_gives_way_was_never_a_duplicate"),
    ("torn_read", "a_torn_read_is_noticed"),
    ("torn_rival", "a_torn_rival_is_noticed"),
    ("no_busy", "a_slot_has_one_writer"),
    ("any_order", "the_window_is_kept_whole"),
    ("blind_retry", "of_a_committer_and_an_inserter_one_wins"),
    ("late_tail", "a_purge_spares_what_is_inserted_meanwhile"),
    ("run_returns", "a_mark_spares_what_takes_a_place_given_back"),
    ("turned_over", "a_reservation_outlives_the_window"),
    ("gone_committed", "an_abort_is_never_taken_for_a_commit"),
    ("judged_only", "routes::a_route_that_was_seen_is_held"),
    ("blind_see", "routes::a_route_that_failed_is_gone"),
    (
        "stale_row",
        "routes::two_routes_learned_at_once_are_a_conflict",
    ),
    ("unsigned_rows", "routes::a_cache_with_room_refuses_nobody"),
];

/// Explores the models of `crates/qm-cache/tests/loom.rs`, or those whose name contains `model`.
///
/// `LOOM_MAX_PREEMPTIONS` deepens or shortens the search.
pub(crate) fn explore(model: Option<&str>) -> Program {
    // A folder of its own: the flag would make cargo build everything else again.
    cargo(["test", "--release", "-p", "qm-cache", "--test", "loom"])
        .args([Path::new("--target-dir"), &target_dir("loom")])
        .args(model)
        .env("RUSTFLAGS", "--cfg loom")
}

/// Builds faults into the caches and demands that the models find each.
pub(crate) fn find_faults() -> anyhow::Result<()> {
    for (fault, model) in FAULTS {
        let (_, said) = explore(Some(model)).env("QM_MUTANT", fault).output()?;
        if !failed(&said).contains(model) {
            bail!("{model} does not find the fault {fault}:\n{said}");
        }
        println!("fault {fault}: found by {model}");
    }
    Ok(())
}

/// Builds these faults, or all, into the caches, tries each on all models, and tells which of
/// these find it.
pub(crate) fn find_faults_anywhere(names: &[&str]) -> anyhow::Result<()> {
    let known = |name: &&str| FAULTS.iter().any(|(fault, _)| fault == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        bail!("there is no fault {unknown}");
    }
    let mut survive = Vec::new();
    for (fault, _) in FAULTS {
        if !names.is_empty() && !names.contains(fault) {
            continue;
        }
        let (_, said) = explore(None).env("QM_MUTANT", fault).output()?;
        let found_by = failed(&said);
        if found_by.is_empty() {
            println!("fault {fault}: NOT FOUND\n{said}");
            survive.push(*fault);
        } else {
            println!("fault {fault}: found by {}", found_by.join(" "));
        }
    }
    if !survive.is_empty() {
        bail!("no model fails with {}", survive.join(", "));
    }
    Ok(())
}

/// The tests that ran and failed. What cannot be built, or dies, is none.
fn failed(said: &str) -> Vec<&str> {
    let tests = said.lines().filter_map(|line| line.strip_prefix("test "));
    tests
        .filter_map(|line| line.strip_suffix(" ... FAILED"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_failed_finds_a_fault() {
        let said = "\nrunning 3 tests\ntest one ... FAILED\ntest two ... ok\n\
                    test routes::three ... FAILED\n\ntest result: FAILED. 1 passed; 2 failed";
        assert_eq!(failed(said), ["one", "routes::three"]);
        let unbuilt = "error: could not compile `qm-cache` (test \"loom\") due to 1 error";
        assert!(failed(unbuilt).is_empty());
        let died = "running 1 test\nerror: test failed, to rerun pass `--test loom`";
        assert!(failed(died).is_empty());
    }
}

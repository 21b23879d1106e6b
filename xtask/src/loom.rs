//! Interleavings of the lock-free caches, explored by loom, and the faults that the models find.

use std::path::Path;

use anyhow::bail;

use crate::repo::{Program, cargo, target_dir};

/// Faults that are built in one after the other in every run of the checks, and a model that finds
/// each within a second. `crates/qm-cache/loom.sh` tries all faults on all models.
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
        let failed = format!("{model} ... FAILED");
        if !said.lines().any(|line| line.ends_with(&failed)) {
            bail!("{model} does not find the fault {fault}:\n{said}");
        }
        println!("fault {fault}: found by {model}");
    }
    Ok(())
}

//! Seeds with transactional queues that must pass, and rules of streams that are switched off.

use qm_sim::{Breaks, Reach, Report, Scenario, run};

/// Seeds of `--mode streams` that once failed, and why.
/// Branches of streams that a short range takes.
const TAKEN: &[Reach] = &[
    Reach::OrderAckApplied,
    Reach::LeftStream,
    Reach::SkipTaken,
    Reach::AnsweredSkipped,
    Reach::SkipConfirmed,
    Reach::NeedSent,
    Reach::NeedMet,
    Reach::AnsweredFromStream,
];

#[test]
fn a_range_of_seeds_with_transactional_queues_keeps_every_rule() {
    let mut sum = Report::default();
    for seed in 0..16 {
        match run(Scenario::streams_from_seed(seed)) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    let missed: Vec<_> = TAKEN
        .iter()
        .filter(|what| sum.reached.count(**what) == 0)
        .collect();
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

/// Each rule that is switched off, a seed that notices, and which rules of the oracle may.
const NOTICED: &[(&str, u64, &[&str])] = &[
    ("order_ack_from_start", 0, &["rule 2"]),
    (
        "position_apart",
        2,
        &["rule 2", "rule 3", "rule 4", "rule 7"],
    ),
    ("number_for_link", 0, &["rule 2"]),
    ("ack_before_durable", 0, &["rule 2"]),
    (
        "no_skip",
        0,
        &["rule 2", "rule 4", "rule 6", "rule 7", "rule 9"],
    ),
];

#[test]
fn rules_of_streams_that_are_switched_off_are_noticed() {
    for (name, known, rules) in NOTICED {
        let failure = core::iter::once(*known)
            .chain(0..40)
            .find_map(|seed| {
                run(Scenario {
                    breaks: Breaks::named(name).expect("a rule of this name"),
                    ..Scenario::streams_from_seed(seed)
                })
                .err()
            })
            .unwrap_or_else(|| panic!("the oracle must notice {name}"));
        assert!(rules.contains(&failure.rule()), "{name}: {failure}");
    }
}

//! Seeds with copied machines that must pass, and rules of identity that are switched off.

use qm_sim::{Breaks, Case, Failure, Reach, Report, Scenario, run, shrink};

/// Seeds of `--mode clones` that once failed, and why.
/// Branches of identity that a short range takes.
const TAKEN: &[Reach] = &[
    Reach::StrangeTokenAsked,
    Reach::BranchedByToken,
    Reach::NewLife,
    Reach::OwnStoreWentBack,
    Reach::GivenByAnother,
    Reach::OneAnswered,
    Reach::BothAnswered,
    Reach::WordRelayed,
    Reach::ClaimVerified,
    Reach::ElectionLost,
    Reach::Reidentified,
    Reach::SetAside,
    Reach::IdentitySwitched,
    Reach::StreamBranched,
];

#[test]
fn every_scenario_keeps_every_rule() {
    let mut sum = Report::default();
    for case in Case::ALL {
        for seed in 0..2 {
            match run(Scenario::clones_from_seed(seed, Some(*case))) {
                Ok(report) => sum.add(&report),
                Err(failure) => panic!("{failure}"),
            }
        }
    }
    let missed: Vec<_> = TAKEN
        .iter()
        .filter(|what| sum.reached.count(**what) == 0)
        .collect();
    assert!(missed.is_empty(), "never taken: {missed:?}");
    assert!(sum.accepted > 0 && sum.copies > 0 && sum.restores > 0 && sum.lies > 0);
}

#[test]
fn the_same_seed_is_the_same_run_with_copies_of_memory_too() {
    for case in [Case::SnapshotResumedTwice, Case::RunningDiskCopied] {
        let scenario = Scenario::clones_from_seed(1, Some(case));
        let reports = [run(scenario.clone()), run(scenario)];
        let [one, other] = reports.map(|report| report.unwrap_or_else(|f| panic!("{f}")));
        assert_eq!(one, other, "{}", case.name());
        assert_eq!(one.copies, 1, "{}", case.name());
    }
}

/// Each rule that is switched off, in which scenario, a seed that notices, and which rules of the
/// oracle may.
const NOTICED: &[(&str, Option<Case>, u64, &[&str])] = &[
    (
        "ignore_tag",
        Some(Case::SnapshotResumedTwice),
        97,
        &["rule 2", "rule 3"],
    ),
    ("ack_by_position", None, 3, &["rule 2"]),
    // What one machine sent is acknowledged to the other one, which has its session.
    (
        "silent_not_held",
        Some(Case::SnapshotResumedTwice),
        25,
        &["rule 12"],
    ),
    ("believe_one_answer", None, 0, &["rule 11"]),
    (
        "confirm_before_stored",
        Some(Case::HandshakesCut),
        2,
        &["rule 11", "rule 7"],
    ),
    ("redraw_rank", None, 41, &["rule 7", "rule 8"]),
    // A node goes on from an old token, and takes the newer one of the other branch for the word
    // that its own disk went back.
    ("believe_strange_tokens", None, 1, &["rule 11"]),
    // What is new overtakes what waits under the former identity.
    ("no_barrier", None, 10, &["rule 6"]),
    // W-STR-6: two machines have different messages in one place of one stream.
    (
        "order_ack_by_number",
        Some(Case::MemoryCopiedInOrder),
        6,
        &["rule 2"],
    ),
    // W-USE-8: the destination dies, and a copy brings what it had promised never to take.
    (
        "void_in_memory",
        Some(Case::ExpiredAtOne),
        0,
        &["rule 8", "rule 9"],
    ),
    // Under another name it is delivered once more. That streams stand, and what never arrives
    // again, is seen in other seeds: the harm is this.
    ("relabel_queue", None, 2, &["rule 4"]),
];

/// The failure of a seed that is known to notice a break, or of the first one that does, by one of
/// these rules.
fn noticed(
    world: impl Fn(u64) -> Scenario,
    name: &str,
    known: u64,
    rules: &[&str],
) -> Box<Failure> {
    core::iter::once(known)
        .chain(0..300)
        .find_map(|seed| {
            run(Scenario {
                breaks: Breaks::named(name).expect("a rule of this name"),
                ..world(seed)
            })
            .err()
            .filter(|failure| rules.contains(&failure.rule()))
        })
        .unwrap_or_else(|| panic!("the oracle must notice {name}"))
}

/// Every mutant is noticed by its seed, or, when what the seed does has changed since, by one of
/// the first three hundred; by a rule that fits.
#[test]
fn rules_of_identity_that_are_switched_off_are_noticed() {
    for (name, case, known, rules) in NOTICED {
        noticed(
            |seed| Scenario::clones_from_seed(seed, *case),
            name,
            *known,
            rules,
        );
    }
}

/// A machine that is copied with messages in its queues, which nobody receives meanwhile.
fn waiting(seed: u64) -> Scenario {
    let mut scenario = Scenario::clones_from_seed(seed, Some(Case::StoppedDiskCopied));
    if let Some(clones) = &mut scenario.clones {
        (clones.receives, clones.nobody_receives) = (true, true);
    }
    scenario
}

/// A running machine is copied, and all messages are express: of two with one name one is dropped
/// as the other's duplicate where names are all that is looked at.
fn express(seed: u64) -> Scenario {
    Scenario {
        express_per_mille: 1_000,
        transactional_queues: 0,
        ..Scenario::clones_from_seed(seed, Some(Case::SnapshotResumedTwice))
    }
}

fn keeps_every_rule(world: impl Fn(u64) -> Scenario) -> Report {
    let mut sum = Report::default();
    for seed in 0..2 {
        match run(world(seed)) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    sum
}

#[test]
fn what_both_copies_hold_is_set_aside_at_one_and_nothing_else() {
    let report = keeps_every_rule(waiting);
    assert!(report.reached.count(Reach::SetAside) > 0);
    noticed(waiting, "quarantine_nothing", 0, &["rule 16"]);
    noticed(waiting, "quarantine_everything", 0, &["rule 16"]);
}

#[test]
fn an_express_message_is_not_taken_for_one_of_a_copy() {
    let report = keeps_every_rule(express);
    assert!(report.accepted > 0);
    let failure = noticed(express, "ignore_tag", 97, &["rule 2"]);
    assert!(failure.text.contains("has it not"), "{failure}");
}

/// How many copies there are, and what belongs to them, is taken out of a failure as well.
#[test]
fn a_failure_with_copies_is_made_simpler() {
    let broken = Scenario {
        breaks: Breaks::named("settle_on_transmit").expect("a rule of this name"),
        ..Scenario::clones_from_seed(0, Some(Case::ThreeCopies))
    };
    let copies = |scenario: &Scenario| scenario.clones.as_ref().map_or(0, |of| of.copies);
    assert_eq!(copies(&broken), 2);
    let failure = run(broken.clone()).expect_err("the oracle must notice");
    let rule = failure.rule().to_owned();
    let shrunk = shrink(&broken, failure, 30_000);
    assert_eq!(shrunk.failure.rule(), rule);
    assert!(
        shrunk.removed.contains(&"one copy is enough"),
        "{:?}",
        shrunk.removed
    );
    assert_eq!(copies(&shrunk.scenario), 1);
}

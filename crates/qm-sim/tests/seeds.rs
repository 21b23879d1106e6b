//! Seeds that must pass, breaks that must be noticed, and the sameness of a seed's run.

use qm_sim::{Breaks, Failure, Reach, Report, Scenario, run, shrink};

fn broken(name: &str, seed: u64) -> Scenario {
    Scenario {
        breaks: Breaks::named(name).expect("a rule of this name"),
        ..Scenario::from_seed(seed)
    }
}

/// The failure of a seed that is known to notice a break, or of the first one that does.
fn noticed(name: &str, known: u64) -> Box<Failure> {
    core::iter::once(known)
        .chain(0..80)
        .find_map(|seed| run(broken(name, seed)).err())
        .unwrap_or_else(|| panic!("the oracle must notice {name}"))
}

/// What happened in a range, in which nothing may fail.
fn range(seeds: impl Iterator<Item = u64>) -> Report {
    let mut sum = Report::default();
    for seed in seeds {
        match run(Scenario::from_seed(seed)) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    sum
}

/// Branches that a short range need not take; docs/simulation.md names those that no range took.
const RARE: &[Reach] = &[
    Reach::RefusalRepeated,
    Reach::SessionSuperseded,
    Reach::NotHeldSent,
    Reach::NotHeldReceived,
    Reach::AlternativeTried,
    Reach::DuplicateAcknowledged,
    Reach::DuplicateInFlight,
    Reach::DuplicateBeyondCache,
    Reach::QueueOverrun,
    Reach::KeyPending,
    Reach::KeyRepeated,
    Reach::ReportHeldBack,
    Reach::AckPaid,
    // Express messages fill what a machine that is short of memory has in worlds made for it.
    Reach::ExpressRefused,
    Reach::PeersPartFull,
    // These take a copied machine, a lost store or a history that is full.
    Reach::BranchedByToken,
    Reach::BranchedByTag,
    Reach::NewLife,
    Reach::OwnStoreWentBack,
    Reach::GivenByAnother,
    Reach::BothAnswered,
    Reach::WordRelayed,
    Reach::MetOwnCopy,
    Reach::ClaimVerified,
    Reach::ClaimForged,
    // Nothing is damaged on its way here.
    Reach::DamagedOnTheWay,
    Reach::RankTied,
    Reach::RankOutdated,
    Reach::ElectionLost,
    Reach::Reidentified,
    Reach::SetAside,
    Reach::IdentitySwitched,
    Reach::BarredByFormer,
    Reach::FormerDrained,
    Reach::OrderAckNotHeld,
    Reach::StreamBranched,
    Reach::StreamHeld,
    Reach::StreamRerooted,
    Reach::StreamBegunAgain,
    Reach::LinksForgotten,
    Reach::LetterUncertain,
    Reach::VoidedRefused,
    // A disk that is full takes what is small, and a final comes once more over a letter seldom.
    Reach::FinalRefused,
    Reach::FinalOverLetter,
    // A skip for what was delivered all the same.
    Reach::SkipCameLate,
    Reach::SkipDelivered,
    // A disk takes a mark and refuses the copy beside it, and then the message ends.
    Reach::LeftSettled,
];

#[test]
fn a_range_of_seeds_keeps_every_rule_and_takes_the_rare_branches() {
    let mut report = range(0..36);
    // Disks that fill up often, until one refuses a batch.
    for seed in 0..36 {
        let full = Scenario {
            disk_full_every_ms: 200,
            journal_per_mille: 500,
            ..Scenario::from_seed(seed)
        };
        match run(full) {
            Ok(full) => report.add(&full),
            Err(failure) => panic!("{failure}"),
        }
        let reached = |what| report.reached.count(what) > 0;
        if reached(Reach::BatchRefused) && reached(Reach::CopyHeldBack) {
            break;
        }
    }
    for seed in (0..6).chain([8, 12, 13]) {
        match run(Scenario::streams_from_seed(seed)) {
            Ok(streams) => report.add(&streams),
            Err(failure) => panic!("{failure}"),
        }
    }
    let missed: Vec<_> = Reach::ALL
        .iter()
        .filter(|what| !RARE.contains(what) && report.reached.count(**what) == 0)
        .collect();
    assert!(missed.is_empty(), "never taken: {missed:?}");
    for (what, count) in [
        ("deaths", report.deaths),
        ("deaths in a commit", report.deaths_in_commit),
        ("disk failures", report.disk_failures),
        ("stops", report.stops),
        ("broken links", report.broken_links),
        ("stalls", report.stalls),
        ("partitions", report.partitions),
        ("moves", report.moves),
        ("lost buffers", report.lost_buffers),
        ("repeated buffers", report.repeated_buffers),
        ("full batches", report.full_batches),
        ("slow disks", report.slow_disks),
        ("clock jumps", report.clock_jumps),
        ("machines short of memory", report.squeezes),
        ("client crashes", report.client_crashes),
        ("operations", report.operations),
        ("blocks", report.blocks),
        ("questions why", report.whys),
        ("fates told", report.fates_told),
    ] {
        assert!(count > 0, "no {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 5, 8] {
        let one = run(Scenario::from_seed(seed)).unwrap();
        let two = run(Scenario::from_seed(seed)).unwrap();
        assert_eq!(one, two, "seed {seed}");
    }
    let one = run(Scenario::from_seed(1)).unwrap();
    let two = run(Scenario::from_seed(2)).unwrap();
    assert_ne!(one.trace_hash, two.trace_hash);
}

/// Each rule that is switched off, a seed that notices, and which rules of the oracle may.
const NOTICED: &[(&str, u64, &[&str])] = &[
    // W-USE-2.
    ("ack_before_durable", 1, &["rule 2"]),
    ("remember_before_stored", 89, &["rule 2", "rule 3"]),
    // W-ACK-3 and W-USE-4: applied by name.
    ("ack_by_position", 0, &["rule 2"]),
    ("resend_blindly", 36, &["rule 9", "rule 6", "rule 4"]),
    ("settle_on_transmit", 0, &["rule 2"]),
    ("forget_doubt", 93, &["rule 9", "rule 6", "rule 4"]),
    ("expire_in_doubt", 13, &["rule 9"]),
    ("ignore_priority", 0, &["rule 6"]),
    ("ignore_credit", 0, &["rule 11", "rule 8"]),
    ("answer_apart", 1, &["rule 4", "rule 5"]),
    ("wall_clock", 16, &["rule 9"]),
    ("wall_clock", 33, &["rule 7"]),
    ("settle_before_durable", 17, &["rule 4"]),
    ("no_spill", 2, &["rule 3"]),
    ("overtake_doubt", 28, &["rule 6"]),
    ("forget_keys", 14, &["rule 5"]),
    // W-USE-5 and W-USE-6: questions heal it later, so only the frames tell.
    ("silent_not_held", 35, &["rule 12"]),
    ("silent_duplicates", 240, &["rule 12"]),
    ("ignore_memory", 1, &["rule 8"]),
    ("forget_recent", 25, &["rule 4"]),
    // W-USE-8.
    ("void_in_memory", 1, &["rule 8"]),
];

/// Seeds whose queues are small and whose senders are slow to learn that one is full.
fn tight(name: Option<&str>, seed: u64) -> Scenario {
    Scenario {
        breaks: name.map_or_else(Breaks::default, |name| {
            Breaks::named(name).expect("a rule of this name")
        }),
        quota_messages: 5,
        window_messages: 1,
        ..Scenario::from_seed(seed)
    }
}

#[test]
fn a_queue_over_its_quota_is_noticed() {
    for seed in 0..12 {
        run(tight(None, seed)).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let failure = (0..80)
        .find_map(|seed| run(tight(Some("ignore_quota"), seed)).err())
        .expect("the oracle must notice");
    assert_eq!(failure.rule(), "rule 8", "{failure}");
}

/// Queues come and go, the disk is slow and so is the network: what was refused is wanted later.
/// Nothing is lost with a machine, so that rule 9 has no exemption.
fn fickle(name: Option<&str>, seed: u64, link_break_every_ms: u64) -> Scenario {
    Scenario {
        breaks: name.map_or_else(Breaks::default, |name| {
            Breaks::named(name).expect("a rule of this name")
        }),
        nodes: 2,
        queues: 1,
        messages: 120,
        fault_ms: 20_000,
        link_break_every_ms,
        operator_every_ms: 100,
        slow_disk_every_ms: 1_000,
        delay_max_us: 200_000,
        commit_max_us: 60_000,
        express_per_mille: 0,
        dedup_capacity: 10_000,
        window_messages: 64,
        stall_every_ms: 0,
        partition_every_ms: 0,
        move_every_ms: 0,
        power_loss_every_ms: 0,
        kill_every_ms: 0,
        stop_every_ms: 0,
        sudden_death: 0,
        disk_full_every_ms: 0,
        disk_failure_every_ms: 0,
        block_every_ms: 0,
        squeeze_every_ms: 0,
        ..Scenario::from_seed(seed)
    }
}

/// W-USE-9, from both sides: a refusal holds on its session only, and there for every copy. Each
/// side covers for the other, so what is broken is both.
#[test]
fn refusals_that_come_late_are_noticed() {
    let name = "forget_refusals";
    for seed in 0..6 {
        run(fickle(None, seed, 0)).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let failure = (0..80)
        .find_map(|seed| run(fickle(Some(name), seed, 0)).err())
        .unwrap_or_else(|| panic!("the oracle must notice {name}"));
    assert_eq!(failure.rule(), "rule 9", "{name}: {failure}");
}

#[test]
fn rules_that_are_switched_off_are_noticed() {
    for (name, known, rules) in NOTICED {
        let failure = noticed(name, *known);
        assert!(rules.contains(&failure.rule()), "{name}: {failure}");
    }
}

#[test]
fn a_failure_is_made_simpler_and_still_fails() {
    let scenario = broken("settle_on_transmit", 1);
    let failure = run(scenario.clone()).unwrap_err();
    let rule = failure.rule().to_owned();
    let shrunk = shrink(&scenario, failure, 20_000);
    assert_eq!(shrunk.failure.rule(), rule);
    assert!(!shrunk.removed.is_empty(), "something can go");
    let again = run(shrunk.scenario.clone()).unwrap_err();
    assert_eq!(again.text, shrunk.failure.text);
    assert!(shrunk.summary().contains("machines"));
}

//! Seeds that must pass, breaks that must be noticed, and the sameness of a seed's run.

use qm_sim::{Breaks, Failure, Scenario, run};

/// The first seed of a range in which a scenario fails.
fn first_failure(range: core::ops::Range<u64>, breaks: Breaks) -> Option<Box<Failure>> {
    range
        .map(|seed| Scenario {
            breaks,
            ..Scenario::from_seed(seed)
        })
        .find_map(|s| run(s).err())
}

#[test]
fn a_range_of_seeds_keeps_every_rule() {
    if let Some(failure) = first_failure(0..60, Breaks::default()) {
        panic!("{failure}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 5, 8, 13, 21] {
        let one = run(Scenario::from_seed(seed)).unwrap();
        let two = run(Scenario::from_seed(seed)).unwrap();
        assert_eq!(one, two, "seed {seed}");
    }
    let one = run(Scenario::from_seed(1)).unwrap();
    let two = run(Scenario::from_seed(2)).unwrap();
    assert_ne!(one.trace_hash, two.trace_hash);
}

/// W-USE-2.
#[test]
fn an_ack_before_the_message_is_durable_is_noticed() {
    let breaks = Breaks {
        ack_before_durable: true,
        ..Breaks::default()
    };
    let failure = first_failure(0..100, breaks).expect("the oracle must notice");
    assert!(failure.text.starts_with("rule 2"), "{failure}");
}

#[test]
fn remembering_a_message_before_it_is_stored_is_noticed() {
    let breaks = Breaks {
        remember_before_stored: true,
        ..Breaks::default()
    };
    let failure = first_failure(0..300, breaks).expect("the oracle must notice");
    assert!(failure.text.starts_with("rule 2"), "{failure}");
}

/// W-ACK-3 and W-USE-4: applied by name.
#[test]
fn an_ack_applied_by_position_is_noticed() {
    let breaks = Breaks {
        ack_by_position: true,
        ..Breaks::default()
    };
    let failure = first_failure(0..100, breaks).expect("the oracle must notice");
    assert!(failure.text.starts_with("rule 2"), "{failure}");
}

//! Worlds whose machines speak QUIC: seeds that must pass, and the sameness of a seed's run.

use qm_sim::{Breaks, Packets, Scenario, run};

#[test]
fn a_range_of_seeds_keeps_every_rule() {
    let (mut lost, mut damaged, mut broken) = (0, 0, 0);
    for seed in 0..4 {
        match run(Scenario::quinn_from_seed(seed)) {
            Ok(report) => {
                lost += report.lost_datagrams;
                damaged += report.damaged_datagrams;
                broken += report.broken_links;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(lost > 0 && damaged > 0 && broken > 0, "nothing went wrong");
}

/// Every byte of every datagram enters the hash.
#[test]
fn the_same_seed_gives_the_same_run() {
    let one = run(Scenario::quinn_from_seed(1)).unwrap();
    let two = run(Scenario::quinn_from_seed(1)).unwrap();
    assert_eq!(one, two);
    // Nothing but the luck of the packets differs.
    let other = Scenario {
        packets: Some(Packets {
            loss_per_mille: 77,
            ..Packets::from_seed(1)
        }),
        ..Scenario::from_seed(1)
    };
    assert_ne!(run(other).unwrap().trace_hash, one.trace_hash);
}

/// W-USE-2. The oracle sees through QUIC.
#[test]
fn an_ack_before_the_message_is_durable_is_noticed() {
    let breaks = Breaks {
        ack_before_durable: true,
        ..Breaks::default()
    };
    let failure = (0..40)
        .map(|seed| Scenario {
            breaks,
            ..Scenario::quinn_from_seed(seed)
        })
        .find_map(|scenario| run(scenario).err())
        .expect("the oracle must notice");
    assert!(failure.text.starts_with("rule 2"), "{failure}");
    assert!(failure.to_string().contains("--mode quinn"), "{failure}");
}

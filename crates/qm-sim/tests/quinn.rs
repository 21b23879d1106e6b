//! Worlds whose machines speak QUIC: seeds that must pass, and the sameness of a seed's run.

use qm_sim::{Breaks, Packets, Report, Scenario, run, shrink};

#[test]
fn a_range_of_seeds_keeps_every_rule() {
    let mut sum = Report::default();
    // Together they have every trouble.
    for seed in [0, 3, 5, 7] {
        match run(Scenario::quinn_from_seed(seed)) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    for (what, count) in [
        ("lost datagrams", sum.lost_datagrams),
        ("damaged datagrams", sum.damaged_datagrams),
        ("repeated datagrams", sum.repeated_datagrams),
        ("overtaken datagrams", sum.overtaken_datagrams),
        ("strange datagrams", sum.strange_datagrams),
        ("broken links", sum.broken_links),
        ("partitions", sum.partitions),
        ("one-way partitions", sum.one_way_partitions),
        ("isolations", sum.isolations),
        ("black holes", sum.black_holes),
        ("lossy paths", sum.lossy_paths),
        ("narrow paths", sum.narrow_paths),
        ("rebinds", sum.rebinds),
        ("freezes", sum.freezes),
        ("stalls", sum.stalls),
    ] {
        assert!(count > 0, "no {what}");
    }
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

/// What happens to datagrams is taken out of a failure like everything else.
#[test]
fn a_failure_on_bad_paths_is_made_simpler() {
    let broken = Scenario {
        nodes: 2,
        messages: 20,
        breaks: Breaks::named("settle_on_transmit").expect("a rule of this name"),
        packets: Some(Packets {
            loss_per_mille: 50,
            duplicate_per_mille: 50,
            reorder_per_mille: 50,
            corrupt_per_mille: 20,
            trouble_ms: 300,
            ..Packets::from_seed(0)
        }),
        ..Scenario::quinn_from_seed(0)
    };
    let failure = run(broken.clone()).expect_err("the oracle must notice");
    let rule = failure.rule().to_owned();
    let shrunk = shrink(&broken, failure, 30_000);
    assert_eq!(shrunk.failure.rule(), rule);
    for what in [
        "troubles of paths",
        "datagrams are lost",
        "datagrams come twice",
        "datagrams are overtaken",
        "datagrams are damaged",
    ] {
        assert!(shrunk.removed.contains(&what), "{what}: {shrunk:?}");
    }
    let packets = shrunk.scenario.packets.expect("it is still on QUIC");
    assert_eq!((packets.loss_per_mille, packets.trouble_ms), (0, 0));
}

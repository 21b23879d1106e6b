//! Worlds made so that one rule matters, which worlds drawn at random seldom are: they keep every
//! rule, and when that one is switched off, the oracle notices.

use core::ops::Range;

use qm_sim::{Breaks, Failure, Reach, Report, Scenario, run, shrink};

/// A small world in which nothing goes wrong but what a test adds.
fn calm(seed: u64) -> Scenario {
    Scenario {
        nodes: 2,
        senders: 1,
        queues: 1,
        messages: 120,
        fault_ms: 20_000,
        stall_every_ms: 0,
        partition_every_ms: 0,
        move_every_ms: 0,
        power_loss_every_ms: 0,
        kill_every_ms: 0,
        stop_every_ms: 0,
        sudden_death: 0,
        client_crash_every_ms: 0,
        disk_full_every_ms: 0,
        disk_failure_every_ms: 0,
        clock_jump_every_ms: 0,
        squeeze_every_ms: 0,
        operator_every_ms: 0,
        block_every_ms: 0,
        misaddressed_per_mille: 0,
        oversized_per_mille: 0,
        careless_per_mille: 0,
        nat: false,
        approval: false,
        window_messages: 64,
        quota_messages: u64::MAX,
        express_bytes_max: 64 << 20,
        store_bytes_max: 64 << 30,
        dedup_capacity: 10_000,
        wishes_per_mille: 0,
        journal_per_mille: 0,
        ..Scenario::from_seed(seed)
    }
}

/// Express messages with little time, acks that are lost, destinations that die and forget.
fn forgetful(seed: u64) -> Scenario {
    Scenario {
        express_per_mille: 1_000,
        hasty_per_mille: 1_000,
        lost_buffers_per_mille: 300,
        kill_every_ms: 1_500,
        link_break_every_ms: 1_000,
        delay_max_us: 20_000,
        ..calm(seed)
    }
}

/// Queues come and go, links too, and the disk is slow: what was refused on one session is taken on
/// the next, and acknowledged late.
fn hesitant(seed: u64) -> Scenario {
    Scenario {
        senders: 4,
        link_break_every_ms: 500,
        operator_every_ms: 150,
        slow_disk_every_ms: 200,
        delay_max_us: 500,
        commit_max_us: 60_000,
        express_per_mille: 0,
        ..calm(seed)
    }
}

/// Many tokens on the move between machines that lose power all the time.
fn trading(seed: u64) -> Scenario {
    Scenario {
        messages: 5,
        transactional_queues: 1,
        movers: 2,
        tokens: 8,
        power_loss_every_ms: 300,
        delay_max_us: 500,
        commit_max_us: 60_000,
        ..calm(seed)
    }
}

/// Machines that are apart most of the time, by separations that follow each other, and that grant
/// little credit.
fn parted(seed: u64) -> Scenario {
    Scenario {
        fault_ms: 60_000,
        partition_every_ms: 2_000,
        link_break_every_ms: 0,
        express_per_mille: 0,
        window_messages: 1,
        delay_max_us: 200_000,
        ..calm(seed)
    }
}

/// Applications that wish to hear how everything ends, and that keep copies; messages that run out
/// of time, come back and are rejected; machines that lose power and links that break all the time.
fn telling(seed: u64) -> Scenario {
    Scenario {
        messages: 60,
        fault_ms: 10_000,
        wishes_per_mille: 1_000,
        journal_per_mille: 500,
        hasty_per_mille: 500,
        give_back_per_mille: 200,
        express_per_mille: 200,
        link_break_every_ms: 500,
        power_loss_every_ms: 300,
        operator_every_ms: 500,
        commit_max_us: 60_000,
        ..calm(seed)
    }
}

fn keeps_every_rule(world: impl Fn(u64) -> Scenario, seeds: Range<u64>) -> Report {
    let mut sum = Report::default();
    for seed in seeds {
        match run(world(seed)) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    sum
}

/// The failure of a seed that is known to notice a break, or of the first one that does, by one of
/// these rules.
fn noticed(
    world: impl Fn(u64) -> Scenario,
    name: &str,
    known: u64,
    rules: &[&str],
) -> Box<Failure> {
    core::iter::once(known)
        .chain(0..200)
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

/// W-FIN-1, W-FIN-3, W-ENV-5, W-ENV-6.
#[test]
fn an_end_is_told_as_it_was_and_a_copy_kept_of_what_left() {
    let report = keeps_every_rule(telling, 0..4);
    for (what, count) in [
        ("ends", report.finals),
        ("ends heard", report.ends_heard),
        ("reports", report.reports_read),
        ("copies", report.copies_read),
    ] {
        assert!(count > 0, "no {what}");
    }
    for (name, known) in [
        ("final_in_memory", 0),
        ("final_before_durable", 0),
        ("received_for_expired", 12),
        ("wait_in_memory", 0),
        ("report_apart", 0),
    ] {
        // Who is never told waits until the network should have drained.
        noticed(telling, name, known, &["rule 14", "rule 7"]);
    }
    noticed(telling, "copy_apart", 1, &["rule 15"]);
}

/// What these worlds found: a wait that was written over the end that was heard with the ack of a
/// message that wished a copy; an application that was told what became of the copy of its message;
/// and silence about a message whose time to be received ran out on its way.
#[test]
fn worlds_that_once_told_ends_wrong_keep_every_rule() {
    for (seed, wishes_per_mille, journal_per_mille) in [(22, 330, 348), (110, 0, 499), (7, 889, 96)]
    {
        let world = Scenario {
            wishes_per_mille,
            journal_per_mille,
            ..Scenario::from_seed(seed)
        };
        run(world).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// W-FIN-2.
#[test]
fn the_word_of_a_destination_that_forgot_is_not_believed() {
    keeps_every_rule(forgetful, 0..4);
    let failure = noticed(forgetful, "trust_any_void", 0, &["rule 9"]);
    assert!(failure.text.contains("confirmed dead"), "{failure}");
}

/// W-USE-9.
#[test]
fn a_refusal_that_comes_late_is_not_believed() {
    keeps_every_rule(hesitant, 0..3);
    noticed(hesitant, "late_refusals", 34, &["rule 9"]);
}

/// W-LOC-7, W-LOC-8.
#[test]
fn transactions_over_several_machines_are_whole_or_nothing() {
    let report = keeps_every_rule(trading, 0..4);
    for (what, count) in [
        ("committed", report.committed),
        ("aborted", report.aborted),
        ("tokens moved", report.tokens_moved),
        ("deaths in a commit", report.deaths_in_commit),
    ] {
        assert!(count > 0, "no {what}");
    }
    noticed(trading, "taken_in_memory", 0, &["rule 4", "rule 13"]);
    noticed(trading, "commit_in_parts", 0, &["rule 13"]);
    noticed(trading, "answer_apart", 4, &["rule 13"]);
}

/// An application that lost its memory never hears of its last transaction, and still nothing is
/// lost or doubled.
#[test]
fn a_transaction_whose_end_nobody_hears_of_is_whole_or_nothing() {
    let forgetting = |seed| Scenario {
        client_crash_every_ms: 200,
        client_break_every_ms: 200,
        ..trading(seed)
    };
    let report = keeps_every_rule(forgetting, 0..4);
    assert!(report.ends_unknown > 0, "every end was heard of");
}

/// A sender without credit has nothing in flight by which it would notice that a way is cut; its
/// link is given up all the same, also when two separations make one long silence (seed 17).
#[test]
fn no_credit_is_not_the_cause_where_nothing_gets_through() {
    let report = keeps_every_rule(parted, 12..22);
    assert!(report.whys > 100 && report.partitions > 50, "{report:?}");
}

/// Machines that have less memory for a while, again and again, and more to keep than fits.
fn squeezed(seed: u64) -> Scenario {
    Scenario {
        senders: 3,
        squeeze_every_ms: 700,
        express_per_mille: 700,
        body_bytes_max: 3_000,
        resident_bytes_max: 1 << 20,
        delay_max_us: 200_000,
        commit_max_us: 60_000,
        ..calm(seed)
    }
}

/// What is durable stays on disk when memory is short, and what is express is refused, or its
/// senders get no credit.
#[test]
fn memory_that_runs_short_costs_time_and_no_message() {
    let report = keeps_every_rule(squeezed, 0..6);
    assert!(report.squeezes > 20, "{report:?}");
    for what in [
        Reach::LeftOnDisk,
        Reach::ReadBack,
        Reach::ExpressSpilled,
        Reach::ExpressRefused,
    ] {
        assert!(report.reached.count(what) > 0, "never taken: {what:?}");
    }
}

/// Where memory is enough but for that, a node that keeps everything in memory is noticed by it
/// alone, and a shrunk failure still has it.
#[test]
fn a_failure_for_want_of_memory_keeps_that_when_it_is_made_simpler() {
    let broken = Scenario {
        breaks: Breaks::named("ignore_memory").expect("a rule of this name"),
        ..squeezed(0)
    };
    let calm = Scenario {
        squeeze_every_ms: 0,
        ..broken.clone()
    };
    run(calm).unwrap_or_else(|failure| panic!("{failure}"));
    let failure = run(broken.clone()).expect_err("the oracle must notice");
    assert_eq!(failure.rule(), "rule 8", "{failure}");
    let shrunk = shrink(&broken, failure, 60_000);
    assert!(!shrunk.removed.is_empty() && !shrunk.removed.contains(&"memory runs short"));
    assert!(
        shrunk.summary().contains("memory runs short"),
        "{}",
        shrunk.summary()
    );
}

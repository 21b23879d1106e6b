//! When nobody can tell any more.

use qm_wire::{Class, Outcome};

use super::support::{carry, carry_but, connect};
use super::{CLASSES, LINK, NEXT, awaited_of, fates, finals_of, is_final, met, put};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A wait is over 30 days after the message must have ended; without such a time, after it arrived.
#[test]
fn a_wait_ends_when_its_destination_has_forgotten() {
    for (time_ms, days) in [(None, 30), (Some(20 * DAY_MS), 50)] {
        let (mut a, mut b) = met(Class::Recoverable);
        a.put("qm://b/orders", "1", |put| {
            put.class = Class::Recoverable;
            put.follow = qm_wire::local::Follow::Received;
            put.time_to_be_received_ms = time_ms;
        });
        carry(&mut a, &mut b, LINK);
        a.lose_link(LINK);
        a.wait((days - 1) * DAY_MS);
        a.wait(60_000);
        assert_eq!(fates(&mut a), [Outcome::REACHED_QUEUE], "{time_ms:?}");
        let mut a = a;
        a.wait(DAY_MS);
        a.wait(60_000);
        assert_eq!(fates(&mut a), [Outcome::END_UNKNOWN], "{time_ms:?}");
        assert_eq!((awaited_of(&a), a.engine.counters().finals_unknown), (0, 1));
    }
}

#[test]
fn a_destination_keeps_a_final_for_30_days() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        carry(&mut a, &mut b, LINK);
        assert_eq!(b.receive("orders"), ["1"]);
        carry_but(&mut a, &mut b, LINK, is_final);
        b.lose_link(LINK);
        b.wait(29 * DAY_MS);
        b.wait(60_000);
        assert_eq!(finals_of(&b), 1);
        let mut b = b.crash();
        b.wait(DAY_MS);
        b.wait(60_000);
        assert_eq!(
            (finals_of(&b), b.engine.counters().finals_forgotten),
            (0, 1)
        );
    }
}

/// A crash of the node that holds an express message costs it, and nobody ever receives it.
#[test]
fn of_an_express_message_that_its_destination_lost_nobody_can_tell() {
    let (mut a, mut b) = met(Class::Express);
    put(&mut a, Class::Express, "1");
    carry(&mut a, &mut b, LINK);
    assert_eq!(fates(&mut a), [Outcome::REACHED_QUEUE]);
    let mut b = b.crash();
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(fates(&mut a), [Outcome::END_UNKNOWN]);
    assert_eq!(awaited_of(&a), 0);
}

/// An end that it had is on disk, whatever the class of the message was.
#[test]
fn the_end_of_an_express_message_survives_a_crash() {
    let (mut a, mut b) = met(Class::Express);
    put(&mut a, Class::Express, "1");
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["1"]);
    carry_but(&mut a, &mut b, LINK, is_final);
    let mut b = b.crash();
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(fates(&mut a), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
}

/// A restart forgets in its caches what lies in its queues; that is no end.
#[test]
fn unknown_ends_no_wait_for_a_message_on_disk() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        carry(&mut a, &mut b, LINK);
        let mut b = b.crash();
        a.lose_link(LINK);
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        assert_eq!(
            (awaited_of(&a), fates(&mut a)),
            (1, vec![Outcome::REACHED_QUEUE])
        );
        assert_eq!(b.receive("orders"), ["1"]);
        carry(&mut a, &mut b, NEXT);
        assert_eq!(fates(&mut a), [Outcome::RECEIVED]);
    }
}

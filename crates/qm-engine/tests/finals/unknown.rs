//! When nobody can tell any more.

use qm_wire::{Answer, Class, Known, Outcome, PeerFrame};

use super::support::{Node, carry, carry_but, connect, plug};
use super::{CLASSES, LINK, NEXT, awaited_of, consumed, finals_of, is_final, met, put};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A wait is over 30 days after the message must have ended; without such a time, after it arrived.
#[test]
fn a_wait_ends_when_its_destination_has_forgotten() {
    for class in CLASSES {
        for (time_ms, days) in [(None, 30), (Some(20 * DAY_MS), 50)] {
            let (mut a, mut b) = met(class);
            a.put("qm://b/orders", "1", |put| {
                put.class = class;
                put.follow = qm_wire::local::Follow::Received;
                put.time_to_be_received_ms = time_ms;
            });
            carry(&mut a, &mut b, LINK);
            a.lose_link(LINK);
            a.wait((days - 1) * DAY_MS);
            a.wait(60_000);
            assert_eq!(a.fates(), [Outcome::REACHED_QUEUE], "{time_ms:?}");
            let mut a = a;
            a.wait(DAY_MS);
            a.wait(60_000);
            assert_eq!(a.fates(), [Outcome::END_UNKNOWN], "{time_ms:?}");
            assert_eq!((awaited_of(&a), a.engine.counters().finals_unknown), (0, 1));
        }
    }
}

#[test]
fn a_destination_keeps_a_final_for_30_days() {
    for class in CLASSES {
        let (mut a, mut b) = consumed(class);
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

/// An express message that arrived, and the next life of its destination, which knows nothing.
fn lost_by_its_destination() -> (Node, Node) {
    let (mut a, mut b) = met(Class::Express);
    put(&mut a, Class::Express, "1");
    carry(&mut a, &mut b, LINK);
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
    let b = b.crash();
    a.lose_link(LINK);
    a.wait(60_000);
    (a, b)
}

/// A crash of the node that holds an express message costs it, and nobody ever receives it.
#[test]
fn of_an_express_message_that_its_destination_lost_nobody_can_tell() {
    let (mut a, mut b) = lost_by_its_destination();
    connect(&mut a, &mut b, NEXT);
    assert_eq!(a.fates(), [Outcome::END_UNKNOWN]);
    assert_eq!(awaited_of(&a), 0);
}

/// An end that it had is on disk, whatever the class of the message was.
#[test]
fn the_end_of_an_express_message_survives_a_crash() {
    let (mut a, mut b) = consumed(Class::Express);
    carry_but(&mut a, &mut b, LINK, is_final);
    let mut b = b.crash();
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
}

/// Its destination may have forgotten that it arrived, and have it all the same.
#[test]
fn unknown_ends_no_wait_for_a_message_on_disk() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        carry(&mut a, &mut b, LINK);
        let mut b = b.crash();
        a.lose_link(LINK);
        a.wait(60_000);
        let mut asked = Vec::new();
        plug(&mut a, &mut b, NEXT);
        carry_but(&mut a, &mut b, NEXT, |frame| {
            if let PeerFrame::Query(query) = frame {
                asked.extend(query.entries.iter().copied());
            }
            matches!(frame, PeerFrame::Answer(_))
        });
        assert_eq!(asked.len(), 1);
        for known in [Known::Unknown, Known::InFlight, Known::Delivered] {
            let source = a.identity.qm;
            let entries = vec![(asked[0], known)];
            a.hear(NEXT, &PeerFrame::Answer(Answer { source, entries }));
            assert_eq!(awaited_of(&a), 1, "{known:?}");
        }
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
        assert_eq!(b.receive("orders"), ["1"]);
        carry(&mut a, &mut b, NEXT);
        assert_eq!(a.fates(), [Outcome::RECEIVED]);
    }
}

/// A new life of its destination that has forgotten it says so after its end was told.
#[test]
fn unknown_takes_no_end_back_that_was_told() {
    let (mut a, mut b) = consumed(Class::Express);
    carry_but(&mut a, &mut b, LINK, is_final);
    let mut b = b.crash();
    a.lose_link(LINK);
    a.wait(60_000);
    plug(&mut a, &mut b, NEXT);
    let mut told = Vec::new();
    carry_but(&mut a, &mut b, NEXT, |frame| {
        if let PeerFrame::Final(end) = frame {
            told.extend(end.entries.iter().map(|(entry, _)| *entry));
        }
        false
    });
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
    let source = a.identity.qm;
    let entries = vec![(told[0], Known::Unknown)];
    a.hear(NEXT, &PeerFrame::Answer(Answer { source, entries }));
    assert_eq!((a.fates(), a.engine.counters().finals_unknown), (vec![], 0));
}

/// After a crash the message would be asked for again, and its end might be told after all.
#[test]
fn that_nobody_can_tell_is_told_when_the_wait_is_gone_from_the_disk() {
    let (mut a, mut b) = lost_by_its_destination();
    plug(&mut a, &mut b, NEXT);
    let mut asked = Vec::new();
    carry_but(&mut a, &mut b, NEXT, |frame| {
        if let PeerFrame::Query(query) = frame {
            asked.extend(query.entries.iter().copied());
        }
        matches!(frame, PeerFrame::Answer(_))
    });
    a.hold_disk = true;
    let source = a.identity.qm;
    let entries = vec![(asked[0], Known::Unknown)];
    a.hear(NEXT, &PeerFrame::Answer(Answer { source, entries }));
    assert_eq!(a.fates(), []);
    a.release_disk(0);
    assert_eq!(a.fates(), [Outcome::END_UNKNOWN]);
}

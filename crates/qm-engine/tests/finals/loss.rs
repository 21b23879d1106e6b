//! Whatever is lost on the way: it is told again, and asked for.

use qm_wire::{Class, Outcome, PeerFrame};

use super::support::{carry, carry_but, connect, plug, reconnect};
use super::{
    CLASSES, LATER, LINK, NEXT, awaited_of, consumed, finals_of, is_confirm, is_final, met, put,
};

const fn is_answer(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::Answer(_))
}

#[test]
fn a_final_that_is_lost_is_told_again_on_the_next_session() {
    for class in CLASSES {
        let (mut a, mut b) = consumed(class);
        carry_but(&mut a, &mut b, LINK, is_final);
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
        a.lose_link(LINK);
        b.lose_link(LINK);
        a.dials.clear();
        a.wait(60_000);
        assert_eq!(
            a.dials.len(),
            1,
            "it dials, although nothing waits to be sent"
        );
        plug(&mut a, &mut b, NEXT);
        carry_but(&mut a, &mut b, NEXT, is_answer);
        assert_eq!(a.fates(), [Outcome::RECEIVED]);
        assert_eq!(finals_of(&b), 0);
    }
}

#[test]
fn a_sender_asks_on_every_session_that_opens() {
    for class in CLASSES {
        let (mut a, mut b) = consumed(class);
        carry_but(&mut a, &mut b, LINK, is_final);
        a.lose_link(LINK);
        b.lose_link(LINK);
        a.wait(60_000);
        plug(&mut a, &mut b, NEXT);
        carry_but(&mut a, &mut b, NEXT, is_final);
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
        assert_eq!(finals_of(&b), 0, "it is confirmed like one that was told");
    }
}

/// What is received when the session has gone is told where its sender said that it listens: the
/// destination dials.
#[test]
fn a_final_goes_where_its_sender_was_last_heard_of() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        carry(&mut a, &mut b, LINK);
        a.lose_link(LINK);
        b.lose_link(LINK);
        assert_eq!(b.dials, [], "nothing is to be told");
        assert_eq!(b.receive("orders"), ["1"]);
        assert_eq!(b.dials.len(), 1, "{class:?}");
        plug(&mut b, &mut a, NEXT);
        carry(&mut b, &mut a, NEXT);
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
        assert_eq!(finals_of(&b), 0, "{class:?}");
    }
}

/// On a session that stays, after four minutes; and a session stays while something is awaited.
#[test]
fn a_sender_asks_from_time_to_time() {
    for class in CLASSES {
        const MINUTE_MS: u64 = 60_000;
        let (mut a, mut b) = consumed(class);
        carry_but(&mut a, &mut b, LINK, is_final);
        let asks = |frame: &PeerFrame| match frame {
            PeerFrame::Query(query) => query.entries.iter().any(|entry| entry.id.sequence == 2),
            _ => false,
        };
        let mut asked = Vec::new();
        for minute in 1..=21 {
            a.wait(MINUTE_MS);
            b.wait(MINUTE_MS);
            carry_but(&mut a, &mut b, LINK, |frame| {
                if asks(frame) {
                    asked.push(minute);
                }
                is_answer(frame)
            });
        }
        assert_eq!(asked, [4, 8, 12, 16, 20]);
        a.wait(3 * MINUTE_MS);
        b.wait(3 * MINUTE_MS);
        carry(&mut a, &mut b, LINK);
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
    }
}

/// The destination tells it again, and it is confirmed again; whoever waits hears it once.
#[test]
fn a_confirmation_that_is_lost_is_repeated_and_nobody_hears_anything_twice() {
    for class in CLASSES {
        let (mut a, mut b) = consumed(class);
        carry_but(&mut a, &mut b, LINK, is_confirm);
        assert_eq!(finals_of(&b), 1);
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert_eq!(finals_of(&b), 0);
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
        assert_eq!(a.engine.counters().finals_heard, 1);
    }
}

/// The disk refuses to write the end down, and takes what stands behind that.
#[test]
fn an_end_that_the_disk_refused_is_not_confirmed() {
    for class in CLASSES {
        let (mut a, mut b) = consumed(class);
        let told: Vec<_> = b.sent_on(LINK).into_iter().filter(is_final).collect();
        assert_eq!(told.len(), 1);
        a.hold_disk = true;
        a.hear(LINK, &told[0]);
        a.hear(LINK, &told[0]);
        a.answer_one(false);
        a.release_disk(0);
        assert!(!a.sent_on(LINK).iter().any(is_confirm));
        // It is told again, and stands then.
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert_eq!(a.fates().last(), Some(&Outcome::RECEIVED));
        assert_eq!((awaited_of(&a), finals_of(&b)), (1, 0));
    }
}

/// What ended at its destination had arrived there.
#[test]
fn a_final_settles_a_message_whose_ack_is_lost() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        let acks =
            |frame: &PeerFrame| matches!(frame, PeerFrame::SessionAck(_) | PeerFrame::OrderAck(_));
        carry_but(&mut a, &mut b, LINK, acks);
        assert_eq!(b.receive("orders"), ["1"]);
        carry_but(&mut a, &mut b, LINK, acks);
        assert_eq!(
            a.fates(),
            [Outcome::REACHED_QUEUE, Outcome::RECEIVED],
            "{class:?}"
        );
        assert_eq!((awaited_of(&a), finals_of(&b)), (1, 0), "{class:?}");
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert!(b.receive("orders").is_empty(), "{class:?}");
    }
}

/// It is a dead letter at its sender, which hears that it had arrived, and how it ended.
#[test]
fn what_ended_on_both_sides_ended_at_its_destination() {
    for class in CLASSES {
        for received_first in [false, true] {
            let what = format!("{class:?} {received_first}");
            let (mut a, mut b) = met(class);
            put(&mut a, class, "1");
            carry_but(&mut a, &mut b, LINK, |frame| {
                matches!(frame, PeerFrame::SessionAck(_) | PeerFrame::OrderAck(_))
            });
            a.lose_link(LINK);
            b.lose_link(LINK);
            a.ask(qm_engine::admin::AdminRequest::OutgoingPurge {
                which: qm_engine::admin::Selector::All,
                discard: false,
            });
            if class != Class::Transactional {
                let letters = a.dead();
                assert!(letters.len() == 1 && letters[0].unconfirmed, "{what}");
            }
            if received_first {
                assert_eq!(b.receive("orders"), ["1"], "{what}");
            }
            let mut a = if class == Class::Express {
                a
            } else {
                a.crash()
            };
            a.wait(60_000);
            connect(&mut a, &mut b, LATER);
            assert!(a.dead().is_empty(), "{what}");
            if !received_first {
                assert_eq!(
                    (awaited_of(&a), a.engine.counters().finals_heard),
                    (1, 0),
                    "{what}"
                );
                assert_eq!(b.receive("orders"), ["1"], "{what}");
                carry(&mut a, &mut b, LATER);
            }
            assert_eq!(a.engine.counters().finals_heard, 1, "{what}");
            assert_eq!(finals_of(&b), 0, "{what}");
        }
    }
}

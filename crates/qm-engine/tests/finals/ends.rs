//! Every end of a message at its destination, for every class.

use qm_engine::admin::{AdminReply, AdminRequest, Cause};
use qm_wire::local::Verdict;
use qm_wire::{AckWishes, Class, MessageId, Outcome};

use super::support::{Node, carry, carry_but};
use super::{CLASSES, LINK, awaited_of, consumed, finals_of, is_confirm, is_final, met, put, wish};

/// How a message can end in its queue.
#[derive(Clone, Copy, Debug)]
enum End {
    Received,
    Expired,
    Purged,
    Deleted,
    Rejected,
    Poison,
}

const ENDS: [(End, Outcome); 6] = [
    (End::Received, Outcome::RECEIVED),
    (End::Expired, Outcome::RECEIVE_EXPIRED),
    (End::Purged, Outcome::QUEUE_PURGED),
    (End::Deleted, Outcome::QUEUE_DELETED),
    (End::Rejected, Outcome::REJECTED_BY_RECEIVER),
    (End::Poison, Outcome::REJECTED_BY_RECEIVER),
];

fn bring_about(b: &mut Node, end: End, discard: bool) {
    let name = || "orders".parse().unwrap();
    match end {
        End::Received => assert_eq!(b.receive("orders").len(), 1),
        End::Expired => b.wait(10_001),
        End::Purged => {
            b.ask(AdminRequest::QueuePurge {
                name: name(),
                discard,
            });
        }
        End::Deleted => {
            b.ask(AdminRequest::QueueDelete {
                name: name(),
                force: true,
                discard,
            });
        }
        End::Rejected => {
            let lookup = b.take("orders", 1, None)[0].lookup;
            b.settle("orders", lookup, Verdict::Reject);
        }
        End::Poison => {
            for _ in 0..2 {
                let lookup = b.take("orders", 1, None)[0].lookup;
                b.settle("orders", lookup, Verdict::GiveBack);
            }
        }
    }
}

/// W-FIN-1.
#[test]
fn every_end_is_kept_until_its_sender_has_written_it_down() {
    for class in CLASSES {
        for (end, outcome) in ENDS {
            for letter in [false, true] {
                let what = format!("{class:?} {end:?} {letter}");
                let (mut a, mut b) = met(class);
                a.put("qm://b/orders", "1", |put| {
                    put.class = class;
                    put.follow = qm_wire::local::Follow::Received;
                    put.time_to_be_received_ms = Some(10_000);
                    if !letter {
                        put.flags = qm_wire::MessageFlags::NONE;
                    }
                });
                carry(&mut a, &mut b, LINK);
                assert_eq!(a.fates(), [Outcome::REACHED_QUEUE], "{what}");
                assert_eq!((awaited_of(&a), finals_of(&b)), (1, 0), "{what}");
                bring_about(&mut b, end, !letter);
                assert_eq!(finals_of(&b), 1, "{what}");
                let mut confirmed = 0;
                carry_but(&mut a, &mut b, LINK, |frame| {
                    confirmed += usize::from(is_confirm(frame));
                    false
                });
                assert_eq!(a.fates(), [outcome], "{what}");
                assert_eq!((confirmed, finals_of(&b)), (1, 0), "{what}");
                assert_eq!(b.engine.counters().finals_confirmed, 1, "{what}");
                assert_eq!(a.engine.counters().finals_heard, 1, "{what}");
            }
        }
    }
}

/// Whichever end is wished for, the other one ends the wait; who wishes none is told nothing.
#[test]
fn only_who_wishes_it_is_told_and_then_of_any_end() {
    for (wishes, told) in [
        (AckWishes::NONE, 0),
        (AckWishes::POSITIVE_ARRIVAL, 0),
        (AckWishes::NEGATIVE_ARRIVAL, 0),
        (AckWishes::POSITIVE_RECEIVE, 1),
        (AckWishes::NEGATIVE_RECEIVE, 1),
    ] {
        let (mut a, mut b) = met(Class::Recoverable);
        wish(&mut a, Class::Recoverable, wishes);
        carry(&mut a, &mut b, LINK);
        assert_eq!(b.receive("orders"), ["wish"]);
        carry(&mut a, &mut b, LINK);
        let (kept, heard) = (b.engine.counters().finals, a.engine.counters().finals_heard);
        assert_eq!((kept, heard), (told, told), "{wishes:?}");
    }
}

/// What a message ended as does not change when a copy of it ends elsewhere.
#[test]
fn what_is_received_from_the_poison_subqueue_or_the_dead_letters_was_rejected() {
    for class in CLASSES {
        for (end, queue) in [(End::Poison, "orders:poison"), (End::Rejected, "dead$")] {
            let (mut a, mut b) = met(class);
            put(&mut a, class, "1");
            carry(&mut a, &mut b, LINK);
            bring_about(&mut b, end, false);
            carry(&mut a, &mut b, LINK);
            assert_eq!(b.receive(queue), ["1"]);
            carry(&mut a, &mut b, LINK);
            assert_eq!(
                a.fates(),
                [Outcome::REACHED_QUEUE, Outcome::REJECTED_BY_RECEIVER]
            );
            assert_eq!(b.engine.counters().finals, 1);
        }
    }
}

#[test]
fn a_final_leaves_when_it_is_on_disk_and_not_before() {
    let (mut a, mut b) = met(Class::Recoverable);
    put(&mut a, Class::Recoverable, "1");
    carry(&mut a, &mut b, LINK);
    let lookup = b.take("orders", 1, None)[0].lookup;
    b.hold_disk = true;
    b.settle("orders", lookup, Verdict::Consume);
    assert!(!b.sent_on(LINK).iter().any(is_final));
    b.release_disk(0);
    assert!(b.sent_on(LINK).iter().any(is_final));
}

/// W-FIN-3.
#[test]
fn a_final_is_confirmed_when_its_sender_has_it_on_disk_and_not_before() {
    let (mut a, mut b) = consumed(Class::Recoverable);
    a.hold_disk = true;
    for frame in b.sent_on(LINK) {
        a.hear(LINK, &frame);
    }
    assert!(!a.sent_on(LINK).iter().any(is_confirm));
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
    a.release_disk(0);
    assert!(a.sent_on(LINK).iter().any(is_confirm));
    assert_eq!(a.fates(), [Outcome::RECEIVED]);
}

/// The commit of a transaction speaks for what it received.
#[test]
fn what_a_transaction_received_is_told_when_it_is_committed() {
    for class in CLASSES {
        for commit in [false, true] {
            let (mut a, mut b) = met(class);
            put(&mut a, class, "1");
            carry(&mut a, &mut b, LINK);
            super::crashes::transact(&mut b, commit);
            carry(&mut a, &mut b, LINK);
            let told = if commit {
                vec![Outcome::REACHED_QUEUE, Outcome::RECEIVED]
            } else {
                vec![Outcome::REACHED_QUEUE]
            };
            assert_eq!(a.fates(), told, "{class:?} {commit}");
            assert_eq!(finals_of(&b), 0);
        }
    }
}

fn why(a: &mut Node, id: MessageId) -> Cause {
    let subject = id.to_string();
    match a.ask(AdminRequest::Why { subject }) {
        AdminReply::Why(view) => view.code,
        other => panic!("{other:?}"),
    }
}

fn trace(a: &mut Node, id: MessageId) -> &'static str {
    let subject = id.to_string();
    match a.ask(AdminRequest::Trace { subject }) {
        AdminReply::Trace(view) => view.state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn trace_and_why_tell_what_is_awaited_and_how_it_ended() {
    let (mut a, mut b) = met(Class::Recoverable);
    put(&mut a, Class::Recoverable, "1");
    carry(&mut a, &mut b, LINK);
    let id = MessageId {
        incarnation: a.engine.incarnation(),
        sequence: 2,
    };
    assert_eq!(why(&mut a, id), Cause::AwaitingEnd);
    assert_eq!(trace(&mut a, id), "awaiting_end");
    let mut a = a.crash();
    assert_eq!(why(&mut a, id), Cause::AwaitingEnd, "over a crash");
    a.wait(60_000);
    b.lose_link(LINK);
    bring_about(&mut b, End::Purged, false);
    super::connect(&mut a, &mut b, super::NEXT);
    assert_eq!(why(&mut a, id), Cause::Purged);
    assert_eq!(trace(&mut a, id), "ended_there");
}

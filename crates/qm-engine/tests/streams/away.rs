//! Messages end while their destination is away, whether they were transmitted or not. It has the
//! last word on each when it is back.

use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_wire::{Class, MessageFlags, Outcome, PeerFrame};

use super::support::*;
use super::{LINK, NEXT, is_answer, is_quiet, met};

const TIME_MS: u64 = 5_000;

fn send(a: &mut Node, bodies: impl IntoIterator<Item = usize>) {
    for body in bodies {
        a.put("qm://b/orders", &body.to_string(), |put| {
            put.time_to_reach_queue_ms = Some(TIME_MS);
        });
    }
}

fn purge(a: &mut Node) -> AdminReply {
    a.ask(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    })
}

/// Three messages were transmitted, and nothing was heard of them, when the link was lost, or their
/// sender died.
fn in_doubt(arrived: bool, dies: bool) -> (Node, Node) {
    let (mut a, mut b) = met();
    send(&mut a, 1..=3);
    carry_but(&mut a, &mut b, LINK, |frame| {
        is_answer(frame) || !arrived && matches!(frame, PeerFrame::Data(_))
    });
    b.lose_link(LINK);
    if dies {
        return (a.crash(), b);
    }
    a.lose_link(LINK);
    (a, b)
}

#[test]
fn what_may_have_arrived_ends_while_its_destination_is_away() {
    for (dies, expires, arrived) in [false, true].into_iter().flat_map(|dies| {
        let both = [(false, false), (false, true), (true, false), (true, true)];
        both.map(|(expires, arrived)| (dies, expires, arrived))
    }) {
        let what = format!("dies {dies}, expires {expires}, arrived {arrived}");
        let (mut a, mut b) = in_doubt(arrived, dies);
        let outcome = if expires {
            a.wait(TIME_MS);
            Outcome::REACH_QUEUE_EXPIRED
        } else {
            let AdminReply::Purged(tally) = purge(&mut a) else {
                panic!("{what}");
            };
            assert_eq!((tally.messages, tally.uncertain), (3, 3), "{what}");
            assert_eq!(tally.left, 0, "{what}");
            Outcome::PURGED_IN_TRANSIT
        };
        a.send([4]);
        let letters = a.dead();
        assert_eq!(letters.len(), 3, "{what}");
        assert!(letters.iter().all(|l| l.unconfirmed && !l.uncertain));
        assert!(letters.iter().all(|l| l.outcome == outcome), "{what}");

        let mut a = a.crash();
        assert!(a.dead().iter().all(|l| l.unconfirmed), "over a crash");
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        if arrived {
            assert_eq!(b.receive("orders"), numbers(1..=4), "delivered wins");
            assert!(a.dead().is_empty(), "{what}");
        } else {
            assert_eq!(b.receive("orders"), ["4"], "{what}");
            let letters = a.dead();
            assert_eq!(letters.len(), 3, "{what}");
            assert!(letters.iter().all(|l| !l.unconfirmed && !l.uncertain));
        }
        is_quiet(&mut a);
    }
}

/// It may be on its way there, and what is behind it as well.
#[test]
fn a_destination_that_is_there_judges_what_it_may_have() {
    let (mut a, mut b) = in_doubt(true, true);
    plug(&mut a, &mut b, NEXT);
    carry_but(&mut a, &mut b, NEXT, |frame| {
        is_answer(frame) || matches!(frame, PeerFrame::Answer(_))
    });
    a.wait(TIME_MS);
    assert!(a.dead().is_empty());
    let AdminReply::Purged(tally) = purge(&mut a) else {
        panic!("it is purged");
    };
    assert_eq!((tally.messages, tally.left), (0, 3));
}

/// Each skip that is not answered for takes memory, which the backlog itself does not.
#[test]
fn only_so_many_leave_before_a_destination_has_answered() {
    for expires in [false, true] {
        let few = |config: &mut qm_engine::EngineConfig| config.skips_max = 3;
        let (mut a, mut b) = (Node::with(1, few), Node::new(2));
        b.create("orders", |_| {});
        if expires {
            send(&mut a, 1..=5);
            a.wait(TIME_MS);
        } else {
            a.send(1..=5);
            let AdminReply::Failed { outcome, cause, .. } = purge(&mut a) else {
                panic!("it can't be purged whole");
            };
            assert_eq!(outcome, Outcome::BUSY, "{cause}");
        }
        assert_eq!(a.dead().len(), 3);
        a.wait(60_000);
        assert_eq!(a.dead().len(), 3, "none of the others");
        connect(&mut a, &mut b, LINK);
        if expires {
            assert!(b.receive("orders").is_empty());
            assert_eq!(a.dead().len(), 5);
        } else {
            assert_eq!(b.receive("orders"), numbers(4..=5));
        }
        assert!(a.dead().iter().all(|letter| !letter.unconfirmed));
        is_quiet(&mut a);
    }
}

/// The bound is about skips: what leaves none is not held back by it.
#[test]
fn a_message_that_leaves_no_skip_is_purged_however_many_there_are() {
    let none = |config: &mut qm_engine::EngineConfig| config.skips_max = 0;
    let (mut a, mut b) = (Node::with(1, none), Node::new(2));
    b.create("plain", |settings| settings.transactional = false);
    a.put("qm://b/plain", "1", |put| put.class = Class::Recoverable);
    connect(&mut a, &mut b, LINK);
    a.put("qm://b/plain", "2", |put| put.class = Class::Recoverable);
    let _lost = a.sent_on(LINK);
    a.lose_link(LINK);
    let AdminReply::Purged(tally) = purge(&mut a) else {
        panic!("it leaves no skip");
    };
    assert_eq!((tally.messages, tally.left), (1, 0));
}

/// What waits behind a session that is gone does not pass the bound when its time is over.
#[test]
fn only_so_many_leave_while_others_are_in_flight_on_another_session() {
    let few = |config: &mut qm_engine::EngineConfig| config.skips_max = 3;
    let (mut a, mut b) = (Node::with(1, few), Node::new(2));
    b.create("orders", |_| {});
    a.send([0]);
    plug(&mut a, &mut b, LINK);
    carry_but(&mut a, &mut b, LINK, |frame| {
        matches!(frame, PeerFrame::Data(_))
    });
    // The destination dials, too.
    b.put("qm://a/orders", "1", |_| {});
    plug(&mut b, &mut a, NEXT);
    carry_but(&mut b, &mut a, NEXT, |frame| {
        matches!(frame, PeerFrame::Query(_))
    });
    send(&mut a, 1..=5);
    assert_eq!(a.engine.counters().transmitted, 1, "the others wait for it");
    a.wait(TIME_MS);
    assert_eq!(a.dead().len(), 3);
}

/// Without dead letters, too, very many leave in batches that the disk takes.
#[test]
fn what_leaves_without_a_letter_leaves_in_batches_that_a_segment_takes() {
    const MANY: usize = 150;
    for purges in [false, true] {
        let small = |config: &mut qm_engine::EngineConfig| config.batch_bytes_max = 2 << 10;
        let mut a = Node::with(1, small);
        for body in 1..=MANY {
            a.put("qm://b/orders", &body.to_string(), |put| {
                put.time_to_reach_queue_ms = Some(TIME_MS);
                put.flags = MessageFlags::default();
            });
        }
        a.batch_max = 8 << 10;
        if purges {
            let AdminReply::Purged(tally) = purge(&mut a) else {
                panic!("it is purged");
            };
            assert_eq!((tally.messages, tally.discarded), (150, 150));
        } else {
            a.wait(TIME_MS);
        }
        let a = a.crash();
        assert!(a.disk.records.is_empty(), "{purges}");
        let skips = a.disk.state.keys().filter(|key| key.starts_with(b"skip/"));
        assert_eq!(skips.count(), MANY, "{purges}");
    }
}

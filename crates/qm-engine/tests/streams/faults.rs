//! What crashes, full disks, restored backups, clones and lost stores do to a stream.

use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::limits::SKIPS_OPEN_MAX;
use qm_engine::{Event, LinkId, StoreOp};
use qm_wire::{Class, Hold, Outcome, PeerFrame, Skip};

use super::support::*;
use super::{LINK, NEXT, is_answer, is_quiet, met, pair};

const LATER: LinkId = LinkId(3);

fn held(node: &Node) -> usize {
    let held = |event: &&Event| matches!(event, Event::StreamHeld { .. });
    node.events.iter().filter(held).count()
}

#[test]
fn a_receiver_that_dies_before_its_commit_has_taken_nothing() {
    let (mut a, mut b) = met();
    b.hold_disk = true;
    a.send(1..=5);
    carry(&mut a, &mut b, LINK);
    let mut b = b.die_with(|_| false);
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(1..=5));
    is_quiet(&mut a);
}

#[test]
fn a_receiver_that_dies_behind_its_commit_has_taken_all() {
    let (mut a, mut b) = met();
    b.hold_disk = true;
    a.send(1..=5);
    carry(&mut a, &mut b, LINK);
    let mut b = b.die_with(|_| true);
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(1..=5));
    assert_eq!(b.engine.counters().delivered, 0, "of this life");
    assert_eq!(b.engine.counters().stream_duplicates, 0);
    is_quiet(&mut a);
}

/// Each prefix of the batches that were at the disk when it died.
#[test]
fn a_sender_that_dies_between_its_batches_derives_the_same_links() {
    for reached in 0..8 {
        let (mut a, mut b) = met();
        a.hold_disk = true;
        a.send(1..=3);
        let mut a = a.die_with(|n| n < reached);
        a.send(4..=5);
        a.wait(60_000);
        b.lose_link(LINK);
        connect(&mut a, &mut b, NEXT);
        a.hold_disk = true;
        a.send(6..=7);
        carry(&mut a, &mut b, NEXT);
        // It dies with what was acknowledged, and with what was not.
        let mut a = a.die_with(|n| n < reached);
        a.wait(60_000);
        b.lose_link(NEXT);
        connect(&mut a, &mut b, LATER);
        a.send(8..=9);
        carry(&mut a, &mut b, LATER);
        let got = b.receive("orders");
        let mut order = got.clone();
        order.sort_unstable();
        assert_eq!(got, order, "after {reached} batches");
        for n in [4, 5, 8, 9] {
            assert!(got.contains(&n.to_string()), "{n} after {reached} batches");
        }
        assert_eq!(held(&a) + held(&b), 0);
        is_quiet(&mut a);
    }
}

#[test]
fn a_full_disk_of_the_receiver_takes_no_part_of_a_run() {
    for refused in 1..=3 {
        let (mut a, mut b) = met();
        b.hold_disk = true;
        for n in 1..=4 {
            a.send([n]);
            carry(&mut a, &mut b, LINK);
        }
        b.release_disk(refused);
        carry(&mut a, &mut b, LINK);
        b.wait(2_000);
        reconnect(&mut a, &mut b, LINK, NEXT);
        a.send(5..=6);
        carry(&mut a, &mut b, NEXT);
        assert_eq!(b.receive("orders"), numbers(1..=6), "{refused} refused");
        is_quiet(&mut a);
        let mut b = b.crash();
        reconnect(&mut a, &mut b, NEXT, LATER);
        a.send(7..=8);
        carry(&mut a, &mut b, LATER);
        assert_eq!(b.receive("orders"), numbers(7..=8));
    }
}

/// A first message was refused with the identity of its stream, which is written with the next one:
/// what was acknowledged since that came must be in it.
#[test]
fn what_is_written_of_a_stream_with_a_message_is_not_older_than_its_marks() {
    let (mut a, mut b) = met();
    a.send(1..=2);
    let there = a.sent_on(LINK);
    b.hear_all(LINK, &there);
    let acks = b.sent_on(LINK);
    a.hold_disk = true;
    a.send([3]);
    a.release_disk(1);
    a.wait(2_000);
    a.gathers = true;
    a.send([4]);
    a.hear_all(LINK, &acks);
    a.gathers = false;
    a.hold_disk = true;
    a.wait(1);
    let batches = a.waiting.iter().flat_map(|(_, ops)| ops);
    let values = batches.filter_map(|op| match op {
        StoreOp::Set { key, value } if key.starts_with(b"s/") => Some(value),
        _ => None,
    });
    let values: Vec<_> = values.collect();
    assert!(
        values.len() > 1 && values.iter().all(|value| *value == values[0]),
        "{values:?}"
    );
    a.release_disk(0);
    // It dies, and knows only what it wrote.
    let mut a = a.crash();
    a.wait(60_000);
    b.lose_link(LINK);
    connect(&mut a, &mut b, NEXT);
    a.send([5]);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), ["1", "2", "4", "5"]);
    assert_eq!(held(&a) + held(&b), 0);
    is_quiet(&mut a);
}

/// A batch behind a refused one reached the disk, and the node died before it took it out again.
#[test]
fn what_a_later_batch_left_on_a_full_disk_is_no_part_of_the_stream() {
    let (mut a, mut b) = met();
    b.hold_disk = true;
    for n in 1..=3 {
        a.send([n]);
        carry(&mut a, &mut b, LINK);
    }
    // The batch of message 1 is refused, those of 2 and 3 are done, and it dies.
    let mut b = b.die_on_a_full_disk();
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    a.send([4]);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(1..=4));
    is_quiet(&mut a);
}

#[test]
fn a_full_disk_of_the_sender_leaves_no_gap_in_the_chain() {
    for refused in 1..=3 {
        let (mut a, mut b) = met();
        a.hold_disk = true;
        for n in 1..=4 {
            a.send([n]);
        }
        a.release_disk(refused);
        a.wait(2_000);
        a.send(5..=6);
        carry(&mut a, &mut b, LINK);
        let got = b.receive("orders");
        assert!(got.ends_with(&numbers(5..=6)), "{got:?}");
        assert_eq!(held(&a), 0);
        is_quiet(&mut a);
    }
}

#[test]
fn a_sender_that_went_back_to_a_backup_sends_nothing_twice() {
    let (mut a, mut b) = met();
    a.send(1..=3);
    let backup = a.disk.clone();
    carry(&mut a, &mut b, LINK);
    a.send(4..=6);
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), numbers(1..=6));
    // 4 to 6 are gone with the disk; 1 to 3 are there again.
    let mut a = a.over_disk(backup);
    b.lose_link(LINK);
    a.send(7..=8);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(7..=8));
    assert_eq!(b.engine.counters().streams_branched, 1);
    assert_eq!(b.engine.counters().stream_duplicates, 0);
    is_quiet(&mut a);
    let mut b = b.crash();
    reconnect(&mut a, &mut b, NEXT, LATER);
    a.send([9]);
    carry(&mut a, &mut b, LATER);
    assert_eq!(b.receive("orders"), ["9"]);
}

#[test]
fn both_copies_of_a_cloned_sender_deliver_the_tail_once_and_then_each_its_own() {
    let (mut a, mut b) = met();
    a.send(1..=3);
    let mut clone = Node::clone_of(&a, 77);
    carry(&mut a, &mut b, LINK);
    a.send([4]);
    carry(&mut a, &mut b, LINK);
    clone.send([14]);
    clone.wait(60_000);
    connect(&mut clone, &mut b, NEXT);
    a.send([5]);
    carry(&mut a, &mut b, LINK);
    clone.send([15]);
    carry(&mut clone, &mut b, NEXT);
    assert_eq!(b.receive("orders"), ["1", "2", "3", "4", "14", "5", "15"]);
    is_quiet(&mut a);
    is_quiet(&mut clone);
}

#[test]
fn a_receiver_that_went_back_holds_the_stream_until_its_operator_decides() {
    let (mut a, mut b) = met();
    let backup = b.disk.clone();
    a.send(1..=3);
    carry(&mut a, &mut b, LINK);
    let mut b = b.over_disk(backup);
    a.send(4..=5);
    reconnect(&mut a, &mut b, LINK, NEXT);
    assert!(
        b.receive("orders").is_empty(),
        "1 to 3 were acknowledged and are lost"
    );
    assert_eq!((held(&a), held(&b)), (1, 1), "both sides say so");
    let why = a.ask(AdminRequest::Why {
        subject: "qm://b:1801/orders".to_owned(),
    });
    let AdminReply::Why(why) = why else {
        panic!("{why:?}")
    };
    assert_eq!(why.code.name(), "stream_held");
    assert!(why.fix.unwrap().contains("stream rebase"));
    let rebase = |dry_run| AdminRequest::StreamRebase {
        which: Selector::Name("qm://b:1801/orders".to_owned()),
        dry_run,
    };
    for dry_run in [true, false] {
        let reply = a.ask(rebase(dry_run));
        let AdminReply::Rebased {
            streams, messages, ..
        } = reply
        else {
            panic!("{reply:?}")
        };
        assert_eq!((streams, messages), (1, 2));
    }
    carry(&mut a, &mut b, NEXT);
    a.wait(60_000);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(4..=5));
    is_quiet(&mut a);
    // It stays so over crashes of both.
    let (mut a, mut b) = (a.crash(), b.crash());
    a.send([6]);
    a.wait(60_000);
    connect(&mut a, &mut b, LATER);
    assert_eq!(b.receive("orders"), ["6"]);
}

#[test]
fn a_receiver_with_a_new_store_gets_what_is_not_settled_and_both_are_told() {
    let (mut a, mut b) = met();
    a.send(1..=3);
    carry(&mut a, &mut b, LINK);
    a.send(4..=6);
    carry_but(&mut a, &mut b, LINK, |frame| {
        is_answer(frame) || matches!(frame, PeerFrame::Data(_))
    });
    b.identity.store_id = [99; 16];
    let mut b = b.over_disk(Disk::default());
    b.create("orders", |_| {});
    reconnect(&mut a, &mut b, LINK, NEXT);
    a.send([7]);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(4..=7));
    let rerooted = |event: &&Event| matches!(event, Event::StreamRerooted { .. });
    assert_eq!(a.events.iter().filter(rerooted).count(), 1);
    is_quiet(&mut a);
    let mut a = a.crash();
    a.send([8]);
    b.lose_link(NEXT);
    a.wait(60_000);
    connect(&mut a, &mut b, LATER);
    assert_eq!(b.receive("orders"), ["8"]);
    is_quiet(&mut a);
}

/// What was in doubt when it was purged: its destination has the last word.
#[test]
fn a_purged_message_in_doubt_is_unconfirmed_until_its_destination_has_answered() {
    for arrived in [false, true] {
        let (mut a, mut b) = met();
        a.send(1..=3);
        carry_but(&mut a, &mut b, LINK, |frame| {
            is_answer(frame) || !arrived && matches!(frame, PeerFrame::Data(_))
        });
        // An earlier life may have transmitted it.
        let mut a = a.crash();
        b.lose_link(LINK);
        let purge = AdminRequest::OutgoingPurge {
            which: Selector::All,
            discard: false,
        };
        a.ask(purge);
        a.send([4]);
        let letters = a.dead();
        assert_eq!(letters.len(), 3);
        assert!(letters.iter().all(|l| l.unconfirmed && !l.uncertain));
        assert_eq!(a.engine.counters().letters_unconfirmed, 3);
        // Over another crash.
        let mut a = a.crash();
        assert!(a.dead().iter().all(|letter| letter.unconfirmed));
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        let got = b.receive("orders");
        if arrived {
            assert_eq!(got, numbers(1..=4), "delivered wins");
            assert!(a.dead().is_empty());
            assert_eq!(a.engine.counters().letters_withdrawn, 3);
        } else {
            assert_eq!(got, ["4"]);
            let letters = a.dead();
            assert_eq!(letters.len(), 3);
            assert!(letters.iter().all(|l| !l.unconfirmed && !l.uncertain));
            assert!(
                letters
                    .iter()
                    .all(|l| l.outcome == Outcome::PURGED_IN_TRANSIT)
            );
            assert_eq!(a.engine.counters().letters_confirmed, 3);
        }
        is_quiet(&mut a);
    }
}

#[test]
fn a_letter_whose_destination_lost_its_store_stays_uncertain_and_is_resent_by_force_only() {
    let (mut a, mut b) = met();
    a.send([1]);
    carry_but(&mut a, &mut b, LINK, is_answer);
    let mut a = a.crash();
    let purge = AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    };
    a.ask(purge);
    b.identity.store_id = [99; 16];
    let mut b = b.over_disk(Disk::default());
    b.create("orders", |_| {});
    a.send([2]);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    let letters = a.dead();
    assert!(letters[0].uncertain && !letters[0].unconfirmed);
    assert_eq!(a.engine.counters().letters_uncertain, 1);
    let positions = vec![letters[0].position];
    for force in [false, true] {
        let reply = a.ask(AdminRequest::DeadResend {
            positions: positions.clone(),
            force,
            to: None,
        });
        let AdminReply::LetterFates(fates) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(fates[0].resent_as.is_some(), force);
    }
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), ["2", "1"]);
}

/// W-STR-5.
#[test]
fn skips_pass_a_full_queue() {
    let (mut a, mut b) = pair();
    b.create("small", |settings| settings.quota_messages = 2);
    a.put("qm://b/small", "1", |_| {});
    a.put("qm://b/small", "2", |_| {});
    connect(&mut a, &mut b, LINK);
    a.put("qm://b/small", "3", |_| {});
    carry(&mut a, &mut b, LINK);
    // 3 was taken: it was under way before the queue's state. What follows waits.
    a.put("qm://b/small", "4", |_| {});
    carry(&mut a, &mut b, LINK);
    let (mut a, before) = (a.crash(), b.engine.counters().delivered);
    a.ask(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
    b.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.engine.counters().delivered, before);
    assert_eq!(a.engine.counters().letters_confirmed, 1);
    is_quiet(&mut a);
    a.put("qm://b/small", "5", |_| {});
    carry(&mut a, &mut b, NEXT);
    let mut got = b.receive("small");
    carry(&mut a, &mut b, NEXT);
    got.extend(b.receive("small"));
    assert_eq!(got, ["1", "2", "3", "5"]);
}

/// Whatever expires behind messages that stay takes its place behind theirs.
#[test]
fn what_expires_behind_many_that_stay_leaves_the_stream_whole() {
    let (mut a, mut b) = met();
    a.lose_link(LINK);
    b.lose_link(LINK);
    for n in 1..=60 {
        a.put("qm://b/orders", &n.to_string(), |put| {
            put.class = Class::Transactional;
            put.time_to_reach_queue_ms = (n % 3 == 0).then_some(1_000);
        });
    }
    a.wait(2_000);
    assert_eq!(a.dead().len(), 20);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    carry(&mut a, &mut b, NEXT);
    let stay = (1..=60).filter(|n| n % 3 != 0);
    assert_eq!(b.receive("orders"), numbers(stay));
    assert_eq!(held(&a) + held(&b), 0);
}

/// A sender that gave up so many messages for these queues, all of an earlier life, and its
/// destination, whose disk does nothing any more; a session is open, and the queues are paused.
fn gave_up(queues: &[(&str, usize)]) -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.gathers = true;
    for (queue, messages) in queues {
        b.create(queue, |_| {});
        for n in 0..*messages {
            a.put(&format!("qm://b/{queue}"), &n.to_string(), |_| {});
        }
    }
    a.gathers = false;
    a.wait(1);
    // Of an earlier life each may have been transmitted.
    let mut a = a.crash();
    (a.audits, b.audits) = (false, false);
    pause(&mut a, true);
    a.ask(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
    a.wait(1_000);
    let all = queues.iter().map(|(_, messages)| *messages as u64).sum();
    assert_eq!(a.engine.counters().letters_unconfirmed, all);
    connect(&mut a, &mut b, LINK);
    b.hold_disk = true;
    (a, b)
}

fn pause(node: &mut Node, paused: bool) {
    let which = Selector::All;
    node.ask(AdminRequest::OutgoingPause { which, paused });
}

/// Carries everything; returns the skips, by their queues.
fn carried_skips(a: &mut Node, b: &mut Node) -> Vec<Skip> {
    let mut skips = Vec::new();
    carry_but(a, b, LINK, |frame| {
        if let PeerFrame::Skip(skip) = frame {
            skips.push(skip.clone());
        }
        false
    });
    skips
}

/// No credit bounds skips: a sender leaves a window of them unanswered.
#[test]
fn no_more_skips_are_under_way_than_a_window() {
    let all = 2 * SKIPS_OPEN_MAX + 100;
    let (mut a, mut b) = gave_up(&[("bills", all - 3), ("orders", 3)]);
    pause(&mut a, false);
    assert_eq!(carried_skips(&mut a, &mut b).len(), SKIPS_OPEN_MAX);
    b.release_batches(usize::MAX, 0);
    b.hold_disk = true;
    assert_eq!(carried_skips(&mut a, &mut b).len(), SKIPS_OPEN_MAX);
    // On another session they are sent again, and no more than there.
    b.lose_link(LINK);
    a.lose_link(LINK);
    b.release_disk(0);
    a.wait(60_000);
    connect(&mut a, &mut b, LinkId(2));
    assert_eq!(b.engine.counters().misbehaved, 0);
    assert_eq!(a.engine.counters().letters_confirmed, all as u64);
}

/// Whoever holds a stream does not answer for its skips any more: other streams go on.
#[test]
fn the_skips_of_a_held_stream_keep_no_others_back() {
    let (mut a, mut b) = gave_up(&[("bills", SKIPS_OPEN_MAX), ("orders", 3)]);
    pause(&mut a, false);
    let skips = carried_skips(&mut a, &mut b);
    assert_eq!(skips.len(), SKIPS_OPEN_MAX);
    let of = |skips: &[Skip], queue: &str| {
        let of = |skip: &&Skip| skip.queue.to_string() == queue;
        skips.iter().filter(of).count()
    };
    let first = skips[0].queue.to_string();
    assert_eq!((first.as_str(), of(&skips, "orders")), ("bills", 0));
    let hold = Hold {
        stream: skips[0].place.stream,
        position: skips[0].place.position,
        previous: skips[0].place.previous,
        outcome: Outcome::BUSY,
        text: "for good".into(),
    };
    a.hear(LINK, &PeerFrame::Hold(hold));
    a.wait(1_000);
    assert_eq!(of(&carried_skips(&mut a, &mut b), "orders"), 3);
}

#[test]
fn a_peer_that_leaves_more_skips_to_write_down_than_it_may_is_no_good_peer() {
    use qm_wire::{Entry, Incarnation, Link, MessageId, Place, StreamId, Tag};
    let (a, mut b) = met();
    b.hold_disk = true;
    let (stream, queue) = (StreamId([9; 16]), "orders".parse().unwrap());
    let mut previous = Link::start(&a.identity.qm, &stream, &queue);
    let mut skip = |position| {
        let skip = Skip {
            place: Place {
                stream,
                position,
                low: 1,
                previous,
            },
            entry: Entry {
                id: MessageId {
                    incarnation: Incarnation(1),
                    sequence: position,
                },
                tag: Tag([1; 8]),
            },
            outcome: Outcome::PURGED_IN_TRANSIT,
            queue: queue.clone(),
        };
        previous = skip.link();
        PeerFrame::Skip(skip)
    };
    let most = 2 * SKIPS_OPEN_MAX as u64;
    for first in [1, most + 1] {
        // What is on disk does not count any more.
        b.release_batches(usize::MAX, 0);
        let frames: Vec<_> = (first..first + most).map(&mut skip).collect();
        b.hear_all(LINK, &frames);
        assert_eq!(b.engine.counters().misbehaved, 0);
    }
    b.hear(LINK, &skip(2 * most + 1));
    assert_eq!(b.engine.counters().misbehaved, 1);
}

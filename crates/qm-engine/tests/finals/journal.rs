//! Copies of what has left, in the journal queue of its source.

use qm_engine::StoreOp;
use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_wire::local::{Follow, NodeFrame, Verdict};
use qm_wire::{AckWishes, Class, Entry, MessageFlags, Outcome, PeerFrame};

use super::support::{Node, carry, carry_but, connect, plug};
use super::{CLASSES, LINK, NEXT, is_final, met};

fn put(a: &mut Node, class: Class, body: &str) {
    a.put("qm://b/orders", body, |put| {
        put.class = class;
        put.flags = MessageFlags::JOURNAL.with(MessageFlags::DEAD_LETTER);
        put.follow = Follow::Received;
    });
}

/// A message that wishes a copy, and acknowledgements in the queue "acks".
fn wished(class: Class) -> (Node, Node) {
    let (mut a, b) = met(class);
    a.create("acks", |settings| settings.transactional = false);
    a.put("qm://b/orders", "1", |put| {
        put.class = class;
        put.flags = MessageFlags::JOURNAL;
        put.ack_wishes = AckWishes::POSITIVE_ARRIVAL.with(AckWishes::POSITIVE_RECEIVE);
        put.admin_queue = "acks".into();
    });
    (a, b)
}

/// Messages of this node that wait to leave, on its disk.
fn waiting(a: &mut Node) -> u64 {
    match a.ask(AdminRequest::Outgoing) {
        AdminReply::Outgoing(all) => all.iter().map(|out| out.waiting + out.unacknowledged).sum(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_lies_in_the_journal_when_a_message_has_left_and_not_before() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        a.put("qm://b/orders", "without", |put| put.class = class);
        assert!(a.take("journal$", 9, None).is_empty(), "{class:?}");
        carry(&mut a, &mut b, LINK);
        assert_eq!(waiting(&mut a), 0, "{class:?}");
        assert_eq!(a.engine.counters().journalled, 1, "{class:?}");
        let copies = a.take("journal$", 9, None);
        assert_eq!(copies.len(), 1, "{class:?}");
        assert_eq!(copies[0].body, "1");
        assert_eq!(copies[0].open().unwrap().class, class);
        assert_eq!(b.receive("orders"), ["1", "without"], "{class:?}");
    }
}

#[test]
fn a_node_that_dies_at_any_commit_makes_one_copy() {
    for class in [Class::Recoverable, Class::Transactional] {
        for reached in 0..6 {
            let what = format!("{class:?} {reached}");
            let (mut a, mut b) = wished(class);
            a.hold_disk = true;
            carry_but(&mut a, &mut b, LINK, is_final);
            let mut a = a.die_with(|n| n < reached);
            b.lose_link(LINK);
            a.wait(60_000);
            connect(&mut a, &mut b, NEXT);
            assert_eq!(b.receive("orders"), ["1"], "{what}");
            carry(&mut a, &mut b, NEXT);
            assert_eq!(waiting(&mut a), 0, "{what}");
            assert_eq!(a.receive("journal$"), ["1"], "{what}");
            assert_eq!(a.receive("acks").len(), 2, "{what}");
            let mut a = a.crash();
            assert!(a.receive("journal$").is_empty(), "{what}");
        }
    }
}

/// It keeps the message until it takes the copy, and others that wish one wait meanwhile.
#[test]
fn a_full_disk_makes_what_wishes_a_copy_wait() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        a.hold_disk = true;
        carry_but(&mut a, &mut b, LINK, is_final);
        let puts = |ops: &[StoreOp]| ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
        assert!(a.waiting.iter().any(|(_, ops)| puts(ops)), "{class:?}");
        a.release_disk(1);
        assert_eq!(a.engine.counters().journalled, 0, "{class:?}");
        assert!(a.receive("journal$").is_empty(), "{class:?}");
        a.wait(2_000);
        carry(&mut a, &mut b, LINK);
        assert_eq!(a.receive("journal$"), ["1"], "{class:?}");
        assert_eq!(b.receive("orders"), ["1"], "{class:?}");
        carry(&mut a, &mut b, LINK);
        assert_eq!(a.fates().last(), Some(&Outcome::RECEIVED), "{class:?}");
    }
}

/// Its place is settled, on disk, although its copy is not: whatever is to become of it, it
/// arrived.
#[test]
fn a_message_whose_copy_was_refused_is_no_dead_letter() {
    for expires in [false, true] {
        let (mut a, mut b) = met(Class::Transactional);
        a.put("qm://b/orders", "1", |put| {
            put.class = Class::Transactional;
            put.flags = MessageFlags::JOURNAL.with(MessageFlags::DEAD_LETTER);
            put.time_to_reach_queue_ms = expires.then_some(5_000);
        });
        a.hold_disk = true;
        carry_but(&mut a, &mut b, LINK, is_final);
        let mut a = a.die_on_a_full_disk();
        b.lose_link(LINK);
        if expires {
            a.wait(5_000);
        } else {
            a.ask(AdminRequest::OutgoingPurge {
                which: Selector::All,
                discard: false,
            });
        }
        assert!(a.dead().is_empty());
        assert_eq!(waiting(&mut a), 0);
        assert_eq!(a.receive("journal$"), ["1"]);
        assert_eq!(b.receive("orders"), ["1"]);
    }
}

/// The copy and the wait for the end are written in one batch, the end that was heard behind it.
#[test]
fn an_end_that_was_heard_before_the_ack_stays_heard() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        let acks =
            |frame: &PeerFrame| matches!(frame, PeerFrame::SessionAck(_) | PeerFrame::OrderAck(_));
        carry_but(&mut a, &mut b, LINK, acks);
        assert_eq!(b.receive("orders"), ["1"]);
        carry_but(&mut a, &mut b, LINK, acks);
        assert_eq!(a.fates().last(), Some(&Outcome::RECEIVED), "{class:?}");
        let mut a = a.crash();
        assert_eq!(a.receive("journal$"), ["1"], "{class:?}");
        b.lose_link(LINK);
        a.put("qm://b/orders", "2", |put| put.class = class);
        plug(&mut a, &mut b, NEXT);
        let mut asked = 0;
        carry_but(&mut a, &mut b, NEXT, |frame| {
            if let PeerFrame::Query(query) = frame {
                let of = |entry: &&Entry| entry.id.sequence == 2;
                asked += query.entries.iter().filter(of).count();
            }
            false
        });
        assert_eq!(asked, 0, "{class:?}");
        assert_eq!(b.receive("orders"), ["2"], "{class:?}");
    }
}

/// That it arrived and how it ended are heard at once: the report of the end is written in one
/// batch with the end itself, which is behind the one with the copy.
#[test]
fn an_end_that_is_heard_with_the_arrival_is_reported_once_whenever_its_node_dies() {
    let is_word = |frame: &PeerFrame| {
        let acks = matches!(frame, PeerFrame::SessionAck(_) | PeerFrame::OrderAck(_));
        acks || is_final(frame)
    };
    for class in [Class::Recoverable, Class::Transactional] {
        for reached in 0..6 {
            let what = format!("{class:?} {reached}");
            let (mut a, mut b) = wished(class);
            let mut words = Vec::new();
            let mut keep = |frame: &PeerFrame| {
                words.extend(is_word(frame).then(|| frame.clone()));
                is_word(frame)
            };
            carry_but(&mut a, &mut b, LINK, &mut keep);
            assert_eq!(b.receive("orders"), ["1"], "{what}");
            carry_but(&mut a, &mut b, LINK, &mut keep);
            assert!(words.iter().any(is_final), "{what}");
            (a.hold_disk, a.gathers) = (true, true);
            for word in &words {
                a.hear(LINK, word);
            }
            a.gathers = false;
            a.wait(0);
            let mut a = a.die_with(|n| n < reached);
            b.lose_link(LINK);
            a.wait(60_000);
            connect(&mut a, &mut b, NEXT);
            carry(&mut a, &mut b, NEXT);
            assert_eq!(waiting(&mut a), 0, "{what}");
            assert_eq!(a.receive("journal$"), ["1"], "{what}");
            assert_eq!(a.receive("acks").len(), 2, "{what}");
        }
    }
}

/// A full disk takes what was heard of the end, and not the copy with the removal: a crash brings
/// the message back beside its end.
#[test]
fn what_is_still_there_although_its_end_was_heard_leaves() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = wished(class);
        a.hold_disk = true;
        carry(&mut a, &mut b, LINK);
        assert_eq!(b.receive("orders"), ["1"]);
        carry(&mut a, &mut b, LINK);
        a.release_disk(1);
        let mut a = a.crash();
        assert_eq!(waiting(&mut a), 1, "{class:?}");
        b.lose_link(LINK);
        a.put("qm://b/orders", "2", |put| put.class = class);
        connect(&mut a, &mut b, NEXT);
        assert_eq!(b.receive("orders"), ["2"], "{class:?}");
        assert_eq!(waiting(&mut a), 0, "{class:?}");
        assert_eq!(a.receive("journal$"), ["1"], "{class:?}");
        assert_eq!(a.receive("acks").len(), 2, "{class:?}");
    }
}

/// A copy is no message any more: what becomes of it says nothing of that.
#[test]
fn what_becomes_of_a_copy_says_nothing_of_its_message() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        carry(&mut a, &mut b, LINK);
        a.told.clear();
        for verdict in [Verdict::Reject, Verdict::Consume] {
            let copy = a.take("journal$", 1, None)[0].lookup;
            a.settle("journal$", copy, verdict);
        }
        assert_eq!(a.fates(), []);
        assert!(a.dead().is_empty() && a.receive("journal$").is_empty());
        put(&mut a, class, "2");
        carry(&mut a, &mut b, LINK);
        a.ask(AdminRequest::QueuePurge {
            name: "journal$".parse().unwrap(),
            discard: false,
        });
        assert!(a.dead().is_empty() && a.receive("journal$").is_empty());
        assert_eq!(b.receive("orders"), ["1", "2"]);
        carry(&mut a, &mut b, LINK);
        assert_eq!(a.engine.counters().finals_heard, 2);
    }
}

#[test]
fn a_journal_at_its_quota_refuses_wishes_for_copies() {
    let (mut a, mut b) = met(Class::Recoverable);
    put(&mut a, Class::Recoverable, "1");
    carry(&mut a, &mut b, LINK);
    let mut settings = qm_engine::LocalSettings::new("journal$".parse().unwrap());
    settings.quota_messages = 1;
    let reply = a.ask(AdminRequest::QueueSet(settings));
    assert!(matches!(reply, AdminReply::Done { .. }), "{reply:?}");
    a.told.clear();
    put(&mut a, Class::Recoverable, "2");
    let refused = |frame: &NodeFrame| match frame {
        NodeFrame::Refused(refused) => refused.outcome == Outcome::QUOTA_EXCEEDED,
        _ => false,
    };
    assert!(a.told.iter().any(refused));
    a.put("qm://b/orders", "3", |put| put.class = Class::Recoverable);
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["1", "3"]);
}

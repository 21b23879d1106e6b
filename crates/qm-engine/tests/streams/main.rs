//! Transactional messages between two nodes: exactly once and in order, whatever happens to either.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod anew;
mod away;
mod copies;
mod faults;
mod followed;
mod forgotten;
mod late;
mod letters;
mod support;

use qm_engine::LinkId;

use qm_wire::{Outcome, PeerFrame};
use support::*;

const LINK: LinkId = LinkId(1);
const NEXT: LinkId = LinkId(2);

fn pair() -> (Node, Node) {
    let (a, mut b) = (Node::new(1), Node::new(2));
    b.create("orders", |_| {});
    (a, b)
}

/// The same, met: a session is open, and one message went.
fn met() -> (Node, Node) {
    let (mut a, mut b) = pair();
    a.send([0]);
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["0"]);
    (a, b)
}

fn is_answer(frame: &PeerFrame) -> bool {
    matches!(
        frame,
        PeerFrame::OrderAck(_) | PeerFrame::Skipped(_) | PeerFrame::Need(_)
    )
}

/// Nothing is left of a conversation but what must stay.
fn is_quiet(a: &mut Node) {
    let view = a.streams().into_iter().find(|view| !view.incoming).unwrap();
    assert_eq!((view.unsettled, view.skips), (0, 0), "{view:?}");
    assert_eq!(view.low, view.position + 1);
    let skips = a.disk.state.keys().filter(|key| key.starts_with(b"skip/"));
    assert_eq!(skips.count(), 0);
    let mut orders = a.disk.records.keys().map(|(stream, _)| stream.priority());
    assert!(orders.all(|priority| priority == 0));
}

#[test]
fn messages_arrive_in_order_and_are_acknowledged_by_their_link() {
    let (mut a, mut b) = pair();
    a.send(1..=50);
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), numbers(1..=50));
    assert_eq!(a.engine.counters().acknowledged, 50);
    assert_eq!(b.engine.counters().delivered, 50);
    is_quiet(&mut a);
    assert!(a.disk.records.is_empty());
    assert_eq!(
        b.engine.dedup_cache().stats().len,
        0,
        "the cache has no part in it"
    );
}

#[test]
fn nothing_is_acknowledged_before_message_and_link_are_on_disk() {
    let (mut a, mut b) = met();
    b.hold_disk = true;
    a.send(1..=3);
    carry(&mut a, &mut b, LINK);
    assert_eq!(a.engine.counters().acknowledged, 1);
    b.release_disk(0);
    carry(&mut a, &mut b, LINK);
    assert_eq!(a.engine.counters().acknowledged, 4);
}

/// W-STR-3: the receiver reckons the links itself, none came with the messages.
#[test]
fn what_was_taken_is_recognised_by_its_link_after_a_crash_of_either_end() {
    let (mut a, mut b) = met();
    a.send(1..=10);
    carry_but(&mut a, &mut b, LINK, is_answer);
    assert_eq!(b.receive("orders"), numbers(1..=10));
    let (mut a, mut b) = (a.crash(), b.crash());
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    a.send(11..=12);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(11..=12));
    assert_eq!(
        b.engine.counters().stream_duplicates,
        0,
        "they were asked for"
    );
    is_quiet(&mut a);
}

#[test]
fn a_copy_that_comes_again_is_acknowledged_again_and_not_taken() {
    let (mut a, mut b) = met();
    a.send(1..=3);
    let sent = a.sent_on(LINK);
    for frame in sent.iter().chain(&sent) {
        b.hear(LINK, frame);
    }
    assert_eq!(b.engine.counters().stream_duplicates, 3);
    let acks = b.sent_on(LINK);
    let again = acks.iter().filter_map(|frame| match frame {
        PeerFrame::OrderAck(ack) if ack.duplicate => Some((ack.runs[0].first, ack.runs[0].last)),
        _ => None,
    });
    // Exactly the delivered run from the sender's oldest unsettled position to the link.
    assert_eq!(again.collect::<Vec<_>>(), [(2, 2), (2, 3), (2, 4)]);
    for frame in &acks {
        a.hear(LINK, frame);
    }
    assert_eq!(b.receive("orders"), numbers(1..=3));
    is_quiet(&mut a);
}

/// W-STR-8.
#[test]
fn a_gap_is_filled_from_the_leaf_that_the_receiver_has() {
    let (mut a, mut b) = met();
    a.send(1..=2);
    carry(&mut a, &mut b, LINK);
    a.send(3..=8);
    let mut lost = 0;
    carry_but(&mut a, &mut b, LINK, |frame| {
        let data = matches!(frame, PeerFrame::Data(_));
        lost += usize::from(data);
        data && lost <= 2
    });
    assert_eq!(b.receive("orders"), numbers(1..=8));
    assert_eq!(b.engine.counters().needs_sent, 1);
    is_quiet(&mut a);
}

/// W-STR-5, W-STR-7.
#[test]
fn a_refused_message_becomes_a_skip_and_nothing_behind_it_waits() {
    let (mut a, mut b) = pair();
    b.create("small", |settings| settings.quota_bytes = 1_000);
    for n in 1..=5 {
        let body = if n == 3 {
            "x".repeat(2_000)
        } else {
            n.to_string()
        };
        a.put("qm://b/small", &body, |_| {});
    }
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("small"), ["1", "2", "4", "5"]);
    let dead = a.dead();
    assert_eq!(dead.len(), 1);
    let letter = &dead[0];
    assert_eq!(letter.outcome, Outcome::QUOTA_EXCEEDED);
    assert!(
        !letter.uncertain && !letter.unconfirmed,
        "the skip was answered"
    );
    assert_eq!(a.engine.counters().letters_confirmed, 1);
    is_quiet(&mut a);
}

#[test]
fn transactional_queues_take_transactional_messages_and_others_none() {
    let (mut a, mut b) = pair();
    b.create("plain", |settings| settings.transactional = false);
    a.put("qm://b/plain", "t", |_| {});
    a.put("qm://b/orders", "r", |put| {
        put.class = qm_wire::Class::Recoverable;
    });
    connect(&mut a, &mut b, LINK);
    let mut outcomes: Vec<_> = a.dead().iter().map(|letter| letter.outcome).collect();
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        [
            Outcome::NOT_TRANSACTIONAL_QUEUE,
            Outcome::NOT_TRANSACTIONAL_MESSAGE
        ]
    );
    let (orders, plain) = (b.receive("orders"), b.receive("plain"));
    assert!(orders.is_empty() && plain.is_empty());
}

#[test]
fn a_window_of_refusals_costs_one_transmission_each() {
    let (mut a, mut b) = pair();
    for n in 1..=200 {
        a.put("qm://b/nowhere", &n.to_string(), |_| {});
    }
    connect(&mut a, &mut b, LINK);
    assert_eq!(a.dead().len(), 200);
    assert_eq!(a.engine.counters().transmitted, 200);
    assert_eq!(a.engine.counters().skips_sent, 200);
    is_quiet(&mut a);
}

/// What is refused and what is needed because of that come in one answer: the refusal first.
#[test]
fn a_refusal_is_heard_before_what_is_needed_because_of_it() {
    let (mut a, mut b) = met();
    b.create("small", |settings| settings.quota_bytes = 1_000);
    for body in ["1", &"x".repeat(2_000), "2", "3"] {
        a.put("qm://b/small", body, |_| {});
    }
    let sent = a.sent_on(LINK);
    b.hear_all(LINK, &sent);
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive("small"), numbers(1..=3));
    // The first message of the pair, four of these, and two again behind the skip.
    assert_eq!(a.engine.counters().transmitted, 1 + 4 + 2);
    assert_eq!(a.dead()[0].outcome, Outcome::QUOTA_EXCEEDED);
    is_quiet(&mut a);
}

//! What must end although something unusual was done to it.

use qm_engine::admin::{AdminReply, AdminRequest, DeadFilter, Selector};
use qm_engine::{Input, LinkId, Trust};
use qm_wire::{Class, Outcome};

use crate::support::{Node, carry, config, connect, reply};

const LINK: LinkId = LinkId(1);

/// The sender of a message that was deleted with its queue may not have heard that it arrived. It
/// asks, also after a restart of its destination, which must not take it into a new queue of that
/// name.
#[test]
fn what_was_deleted_with_its_queue_does_not_come_again() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive_all("orders"), ["x"]);
    a.put("qm://b/orders", b"y", |_| {});
    for frames in a.sent_on(LINK) {
        b.give(0, Input::Received { link: LINK, frames });
    }
    // The ack is lost.
    b.sent.clear();
    let (name, force, discard) = ("orders".parse().unwrap(), true, true);
    let delete = AdminRequest::QueueDelete {
        name,
        force,
        discard,
    };
    assert!(matches!(b.admin(delete), AdminReply::Purged(_)));
    let text = "lost".to_owned();
    a.give(0, Input::Closed { link: LINK, text });
    let mut b = b.restart(Trust::Any);
    b.create("orders");
    connect(&mut a, &mut b, LinkId(2));
    b.hello();
    assert!(b.receive_all("orders").is_empty());
    assert_eq!(a.engine.sizes().flights + a.engine.sizes().doubts, 0);
    assert!(a.disk.records.is_empty(), "it is settled");
}

/// An orderly stop writes express messages down, beyond what applications may put into the store.
#[test]
fn two_nodes_that_are_full_of_messages_for_each_other_go_on() {
    let mut nodes = [1, 2].map(|seed| {
        let mut node = Node::new(seed, Trust::Any);
        node.create("orders");
        let other = if seed == 1 { "b" } else { "a" };
        for _ in 0..5 {
            let to = format!("qm://{other}/orders");
            node.put(&to, &[b'x'; 3_000], |put| put.class = Class::Express);
        }
        node.give(0, Input::Stop);
        let mut small = config(Trust::Any);
        small.store_bytes_max = 10_000;
        node.restart_with(small)
    });
    let [a, b] = &mut nodes;
    // Each dials the other, and learns who that is.
    for node in [&mut *a, &mut *b] {
        node.give(1, Input::Tick);
    }
    connect(a, b, LINK);
    connect(b, a, LinkId(2));
    for link in [LINK, LinkId(2), LINK] {
        carry(a, b, link);
    }
    for node in [&mut *a, &mut *b] {
        node.hello();
    }
    assert_eq!(b.receive_all("orders").len(), 5);
    assert_eq!(a.receive_all("orders").len(), 5);
}

/// An express message waits behind a recoverable one that is not on disk yet; its queue is emptied,
/// and then the node stops. Written down it would be behind what is emptied.
#[test]
fn what_an_orderly_stop_writes_down_is_emptied_with_its_queue() {
    for deletes in [true, false] {
        let mut b = Node::new(2, Trust::Any);
        b.create("orders");
        b.mute = true;
        b.put("orders", b"recoverable", |_| {});
        b.put("orders", b"express", |put| put.class = Class::Express);
        let (name, discard) = ("orders".parse().unwrap(), false);
        b.ask(if deletes {
            let force = true;
            AdminRequest::QueueDelete {
                name,
                force,
                discard,
            }
        } else {
            AdminRequest::QueuePurge { name, discard }
        });
        b.put("orders", b"later", |put| put.class = Class::Express);
        b.give(0, Input::Stop);
        while !b.owed.is_empty() {
            reply(&mut b, 0, false);
        }
        assert!(
            matches!(&b.admin, Some(AdminReply::Purged(tally)) if tally.dead_letters == 2),
            "{:?}",
            b.admin
        );
        let mut b = b.restart(Trust::Any);
        let letters = AdminRequest::DeadList {
            filter: DeadFilter::default(),
            after: None,
        };
        let expected = if deletes {
            Outcome::QUEUE_DELETED
        } else {
            Outcome::QUEUE_PURGED
        };
        match b.admin(letters) {
            AdminReply::DeadLetters { letters, .. } => {
                let outcomes: Vec<_> = letters.iter().map(|letter| letter.outcome).collect();
                assert_eq!(outcomes, [expected; 2]);
            }
            other => panic!("{other:?}"),
        }
        b.hello();
        let left = b.receive_all("orders");
        assert_eq!(left, if deletes { vec![] } else { vec!["later"] });
    }
}

/// The same of an outgoing queue.
#[test]
fn what_an_orderly_stop_writes_down_is_purged_with_its_outgoing_queue() {
    let mut a = Node::new(1, Trust::Any);
    a.mute = true;
    a.put("qm://b/orders", b"recoverable", |_| {});
    a.put("qm://b/orders", b"express", |put| {
        put.class = Class::Express;
    });
    let (which, discard) = (Selector::All, false);
    a.ask(AdminRequest::OutgoingPurge { which, discard });
    a.give(0, Input::Stop);
    while !a.owed.is_empty() {
        reply(&mut a, 0, false);
    }
    assert!(
        matches!(&a.admin, Some(AdminReply::Purged(tally)) if tally.dead_letters == 2),
        "{:?}",
        a.admin
    );
}

/// What is under way takes nothing of what may wait. When it comes back the peer's credit may be
/// used up by what was put in its place.
#[test]
fn two_nodes_to_which_more_came_back_than_they_may_hold_go_on() {
    let mut nodes = [1, 2].map(|seed| {
        let mut small = config(Trust::Any);
        small.express_bytes_max = 10_000;
        small.window_messages = 4;
        let mut node = Node::new(seed, Trust::Any).restart_with(small);
        node.create("orders");
        node.create("others");
        node.put("orders", b"", |_| {});
        assert_eq!(node.receive_all("orders").len(), 1);
        node
    });
    let [a, b] = &mut nodes;
    let express = |node: &mut Node, to: &str, body: &'static [u8]| {
        let to = format!("qm://{to}");
        node.put(&to, body, |put| put.class = Class::Express);
    };
    // Each dials the other, and learns who that is.
    express(a, "b/others", b"first");
    express(b, "a/others", b"first");
    connect(a, b, LINK);
    connect(b, a, LinkId(2));
    carry(a, b, LINK);
    for node in [&mut *a, &mut *b] {
        assert_eq!(node.receive_all("others").len(), 1);
    }
    carry(a, b, LINK);
    carry(a, b, LinkId(2));
    for (node, to) in [(&mut *a, "b/orders"), (&mut *b, "a/orders")] {
        for _ in 0..4 {
            express(node, to, &[b'x'; 3_000]);
        }
        assert!(node.engine.sizes().flights >= 3);
        node.sent.clear();
    }
    for (node, to) in [(&mut *a, "b/others"), (&mut *b, "a/others")] {
        for link in [LINK, LinkId(2)] {
            let text = "lost".to_owned();
            node.give(1, Input::Closed { link, text });
        }
        for _ in 0..4 {
            express(node, to, b"in their place");
        }
    }
    connect(a, b, LinkId(3));
    for node in [&mut *a, &mut *b] {
        assert!(node.engine.sizes().express_bytes > 10_000);
        assert_eq!(node.receive_all("others").len(), 4);
    }
    carry(a, b, LinkId(3));
    for node in [&mut *a, &mut *b] {
        assert_eq!(node.receive_all("orders").len(), 4);
    }
}

/// What an application holds stays when its queue is emptied, also when the node stops before the
/// disk has confirmed that.
#[test]
fn what_is_held_while_its_queue_is_emptied_is_written_down_by_an_orderly_stop() {
    for discard in [false, true] {
        let mut b = Node::new(2, Trust::Any);
        b.create("orders");
        b.put("orders", b"held", |put| put.class = Class::Express);
        b.hold("orders");
        b.mute = true;
        b.put("orders", b"recoverable", |_| {});
        let name = "orders".parse().unwrap();
        b.ask(AdminRequest::QueuePurge { name, discard });
        b.give(0, Input::Stop);
        while !b.owed.is_empty() {
            reply(&mut b, 0, false);
        }
        match &b.admin {
            Some(AdminReply::Purged(tally)) => assert_eq!((tally.messages, tally.left), (1, 1)),
            other => panic!("{other:?}"),
        }
        let mut b = b.restart(Trust::Any);
        b.hello();
        assert_eq!(b.receive_all("orders"), ["held"], "{discard}");
        let dead: &[&str] = if discard { &[] } else { &["recoverable"] };
        assert_eq!(b.receive_all("dead$"), dead);
    }
}

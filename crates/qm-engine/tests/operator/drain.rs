//! What must end although something unusual was done to it.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{Input, LinkId, Trust};
use qm_wire::Class;

use crate::support::{Node, carry, config, connect};

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

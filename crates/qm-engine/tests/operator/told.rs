//! Who asked hears that it is done when it is on disk, and not before.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{Input, LocalSettings, StoreOp, Trust};
use qm_wire::Outcome;

use crate::support::{Node, reply};

fn create(node: &mut Node) {
    let settings = LocalSettings::new("orders".parse().unwrap());
    node.ask(AdminRequest::QueueCreate(settings));
}

#[test]
fn an_operator_hears_of_a_queue_when_it_is_on_disk() {
    let mut node = Node::new(1, Trust::Any);
    node.mute = true;
    create(&mut node);
    assert_eq!(node.owed.len(), 1);
    assert!(node.admin.is_none(), "a crash would take the queue away");
    reply(&mut node, 0, false);
    assert!(matches!(node.admin, Some(AdminReply::Done { count: 1 })));
    // What changes nothing waits for nothing, nor does a refusal.
    node.admin = None;
    create(&mut node);
    assert!(matches!(node.admin, Some(AdminReply::Failed { .. })));
    assert!(matches!(
        node.admin(AdminRequest::Queues),
        AdminReply::Queues(queues) if queues.len() == 1
    ));
}

#[test]
fn an_operator_hears_when_the_disk_refused_a_queue() {
    let mut node = Node::new(1, Trust::Any);
    node.mute = true;
    create(&mut node);
    reply(&mut node, 0, true);
    assert!(
        matches!(
            &node.admin,
            Some(AdminReply::Failed { outcome, .. }) if *outcome == Outcome::STORE_FULL
        ),
        "{:?}",
        node.admin
    );
}

#[test]
fn an_operator_hears_that_a_queue_is_deleted_when_a_crash_does_not_bring_it_back() {
    let mut node = Node::new(1, Trust::Any);
    node.create("orders");
    node.put("orders", b"apples", |_| ());
    node.mute = true;
    node.admin = None;
    node.ask(AdminRequest::QueueDelete {
        name: "orders".parse().unwrap(),
        force: true,
        discard: false,
    });
    while !node.owed.is_empty() {
        let gone = |op: &StoreOp| matches!(op, StoreOp::Unset { key } if key.starts_with(b"q/"));
        let unsets = node.owed.iter().any(|(_, ops)| ops.iter().any(gone));
        assert!(node.admin.is_none(), "the queue would come back");
        reply(&mut node, 0, false);
        assert_eq!(node.admin.is_some(), unsets && node.owed.is_empty());
    }
    assert!(matches!(&node.admin, Some(AdminReply::Purged(tally)) if tally.messages == 1));
}

#[test]
fn an_operator_hears_that_messages_are_discarded_when_a_disk_that_refused_takes_it() {
    let mut node = Node::new(1, Trust::Any);
    node.create("orders");
    node.put("orders", b"apples", |_| ());
    node.mute = true;
    node.admin = None;
    node.ask(AdminRequest::QueuePurge {
        name: "orders".parse().unwrap(),
        discard: true,
    });
    let batches = node.owed.len();
    for batch in 0..batches {
        reply(&mut node, 0, batch == 0);
    }
    assert!(node.admin.is_none(), "a crash brings the message back");
    node.mute = false;
    node.give(2_000, Input::Tick);
    while !node.owed.is_empty() {
        reply(&mut node, 2_000, false);
    }
    assert!(matches!(&node.admin, Some(AdminReply::Purged(tally)) if tally.messages == 1));
    assert!(node.receive_all("orders").is_empty());
}

/// What is consumed is not shown again, so its removal is tried until the disk takes it.
#[test]
fn an_application_hears_that_it_consumed_when_a_disk_that_refused_takes_it() {
    let mut node = Node::new(1, Trust::Any);
    node.create("orders");
    node.put("orders", b"apples", |_| ());
    let held = node.hold("orders");
    node.mute = true;
    node.consume("orders", held);
    while !node.owed.is_empty() {
        reply(&mut node, 0, true);
    }
    assert_eq!(node.settled(), None, "it is still there after a crash");
    node.mute = false;
    node.give(5_000, Input::Tick);
    assert_eq!(node.settled(), Some((1, None)));
    let mut node = node.restart(Trust::Any);
    node.hello();
    assert_eq!(node.receive_all("orders").len(), 0);
}

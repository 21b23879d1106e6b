//! Outgoing queues that nobody uses any more.

use qm_engine::LinkId;
use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_wire::Class;

use super::support::{Node, carry, connect};

const LINK: LinkId = LinkId(1);
const NEXT: LinkId = LinkId(2);
const MINUTE_MS: u64 = 60_000;

fn outgoing(a: &mut Node) -> Vec<String> {
    match a.ask(AdminRequest::Outgoing) {
        AdminReply::Outgoing(all) => all.iter().map(|out| out.queue.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

fn put(a: &mut Node, queue: &str, class: Class) {
    a.put(&format!("qm://b/{queue}"), queue, |put| put.class = class);
}

fn pass(a: &mut Node, minutes: u64) {
    for _ in 0..minutes {
        a.wait(MINUTE_MS);
    }
}

/// Of those without work the last one of a destination stays, and what has work, is paused, or
/// knows of transactional messages.
#[test]
fn outgoing_queues_without_work_go_after_a_while() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    for queue in ["one", "two", "paused", "late"] {
        b.create(queue, |settings| settings.transactional = false);
    }
    b.create("orders", |_| {});
    for queue in ["one", "two", "paused"] {
        put(&mut a, queue, Class::Recoverable);
    }
    put(&mut a, "orders", Class::Transactional);
    connect(&mut a, &mut b, LINK);
    let paused = a.ask(AdminRequest::OutgoingPause {
        which: Selector::Name("paused".into()),
        paused: true,
    });
    assert!(
        matches!(paused, AdminReply::Done { count: 1 }),
        "{paused:?}"
    );
    assert_eq!(outgoing(&mut a).len(), 4);
    a.lose_link(LINK);
    b.lose_link(LINK);
    put(&mut a, "late", Class::Recoverable);
    pass(&mut a, 9);
    assert_eq!(outgoing(&mut a).len(), 5);
    pass(&mut a, 3);
    let mut left = outgoing(&mut a);
    left.sort_unstable();
    assert_eq!(left, ["late", "orders", "paused"]);
    // Also on disk; and one that is wanted again is made again.
    let mut a = a.crash();
    assert_eq!(outgoing(&mut a).len(), 3);
    put(&mut a, "one", Class::Recoverable);
    a.wait(MINUTE_MS);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("one"), ["one", "one"]);
    assert_eq!(b.receive("late"), ["late"]);
}

#[test]
fn the_last_outgoing_queue_of_a_destination_stays() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    for queue in ["one", "two"] {
        b.create(queue, |settings| settings.transactional = false);
        put(&mut a, queue, Class::Recoverable);
    }
    connect(&mut a, &mut b, LINK);
    pass(&mut a, 30);
    assert_eq!(outgoing(&mut a).len(), 1);
}

/// The way back lives as long as the session does, however long that is, and whether anything comes
/// on it or not; behind it the address that the peer listens at does for its lifetime.
#[test]
fn the_way_back_is_fresh_while_the_session_is_open() {
    for busy in [true, false] {
        let stays = |config: &mut qm_engine::EngineConfig| config.idle_session_ms = 1 << 40;
        let (mut a, mut b) = (Node::with(1, stays), Node::with(2, stays));
        b.create("one", |settings| settings.transactional = false);
        put(&mut a, "one", Class::Recoverable);
        connect(&mut a, &mut b, LINK);
        for _ in 0..25 {
            if busy {
                put(&mut a, "one", Class::Recoverable);
            }
            a.wait(MINUTE_MS);
            b.wait(MINUTE_MS);
            carry(&mut a, &mut b, LINK);
        }
        let ways = |b: &mut Node| match b.ask(AdminRequest::Routes) {
            AdminReply::Routes { rows, stats } => (rows[0].candidates.clone(), stats.rows),
            other => panic!("{other:?}"),
        };
        assert_eq!(ways(&mut b).0.len(), 1, "{busy}");
        b.lose_link(LINK);
        assert_eq!(b.engine.sizes().routes, 1, "its address");
        pass(&mut b, 12);
        assert_eq!(b.engine.sizes().routes, 0);
    }
}

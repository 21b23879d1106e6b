//! What arrived is remembered over restarts, also when the log has forgotten it.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::limits::RECALLED_MAX;
use qm_engine::{Input, LinkId, Trust};
use qm_wire::local::{ClientFrame, NodeFrame, Settle, Verdict};

use crate::support::{LINK, Node, carry, config, connect};

/// Consumes everything that waits, and lets the log forget it: what a full disk makes it do.
fn consume(node: &mut Node, queue: &str) -> usize {
    let bodies = node.receive_all(queue);
    let ranges: Vec<_> = node
        .told
        .iter()
        .filter_map(|frame| match frame {
            NodeFrame::Delivery(delivery) => Some((delivery.lookup, delivery.lookup)),
            _ => None,
        })
        .collect();
    node.client(ClientFrame::Settle(Settle {
        request: 900 + node.next_request,
        queue: queue.parse().unwrap(),
        verdict: Verdict::Consume,
        ranges,
    }));
    node.log.clear();
    bodies.len()
}

fn remembered(node: &mut Node) -> usize {
    match node.admin(AdminRequest::Dedup) {
        AdminReply::Dedup(stats) => stats.len,
        other => panic!("{other:?}"),
    }
}

/// The receiver acknowledges, and nothing of it comes back.
fn carry_there(a: &mut Node, b: &mut Node) {
    for frames in a.sent_on(LINK) {
        b.give(0, Input::Received { link: LINK, frames });
    }
    b.sent.clear();
}

#[test]
fn a_consumed_message_that_the_log_forgot_is_not_stored_again_after_a_restart() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    b.create("orders");
    a.put("qm://b/orders", b"0", |_| {});
    connect(&mut a, &mut b, LINK);
    for _ in 0..3 {
        a.put("qm://b/orders", b"x", |_| {});
        carry_there(&mut a, &mut b);
    }
    assert_eq!(consume(&mut b, "orders"), 4);
    assert!(b.disk.records.is_empty());
    let mut b = b.restart(Trust::Any);
    let text = "it died".to_owned();
    a.give(0, Input::Closed { link: LINK, text });
    for node in [&mut a, &mut b] {
        node.clock_ms = 2_000;
        node.give(2_000, Input::Tick);
    }
    connect(&mut a, &mut b, LinkId(2));
    assert_eq!(b.receive_all("orders"), [""; 0]);
    assert!(
        a.disk.records.is_empty(),
        "the sender heard that they arrived"
    );
}

/// Nothing but the list is left of the older half, and the log tells of the younger: a restart
/// remembers both, and the next one still does.
#[test]
fn restarts_do_not_shorten_the_memory() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    let mut settings = config(Trust::Any);
    settings.dedup_capacity = 160;
    for _ in 1..80 {
        a.put("qm://b/orders", b"x", |_| {});
        carry(&mut a, &mut b, LINK);
    }
    assert_eq!(consume(&mut b, "orders"), 80);
    for _ in 80..160 {
        a.put("qm://b/orders", b"x", |_| {});
        carry(&mut a, &mut b, LINK);
    }
    for _ in 0..4 {
        b = b.restart_with(settings.clone());
        assert_eq!(remembered(&mut b), 160);
    }
    // Smaller than what is listed: the newest.
    settings.dedup_capacity = 50;
    b = b.restart_with(settings.clone());
    assert_eq!(remembered(&mut b), 50);
    b.log.clear();
    b = b.restart_with(settings.clone());
    assert_eq!(remembered(&mut b), 50);
    // None at all: nothing is listed either.
    settings.dedup_capacity = 0;
    b = b.restart_with(settings);
    assert_eq!(remembered(&mut b), 0);
    assert!(
        b.disk
            .state
            .keys()
            .all(|key| !key.starts_with(b"arrivals/"))
    );
}

/// The list is as long as its limit says, not as long as the node lives.
#[test]
fn the_list_of_arrivals_is_bounded() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    (a.audits, b.audits) = (false, false);
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    let mut all = 1;
    while all < RECALLED_MAX + 2_000 {
        for _ in 0..500 {
            a.put("qm://b/orders", b"x", |_| {});
        }
        carry(&mut a, &mut b, LINK);
        all += 500;
        let mut consumed = 0;
        while consumed < 500 {
            let more = consume(&mut b, "orders");
            assert!(more > 0, "{all}");
            consumed += more;
        }
        let listed = b
            .disk
            .state
            .iter()
            .filter(|(key, _)| key.starts_with(b"arrivals/"));
        let keys: usize = listed.map(|(_, value)| value.len() / 40).sum();
        assert!(
            keys >= all.min(RECALLED_MAX) && keys <= RECALLED_MAX + 2 * 32,
            "{keys} of {all}"
        );
    }
    a.engine.audit().unwrap();
    b.engine.audit().unwrap();
    b = b.restart(Trust::Any);
    assert_eq!(remembered(&mut b), 10_000, "as many as the cache holds");
}

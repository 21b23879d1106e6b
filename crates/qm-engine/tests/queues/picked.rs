//! Applications that wait for messages of their choice.

use bytes::Bytes;
use qm_wire::Class;
use qm_wire::local::{ReceiveMode, Verdict};

use super::support::Node;

const WAIT_MS: u64 = 30_000;

fn node() -> Node {
    let mut a = Node::new(1);
    a.create("replies", |settings| settings.transactional = false);
    a
}

/// A node that keeps no more than one message in memory.
fn on_disk() -> Node {
    let mut a = Node::with(1, |config| config.resident_bytes_max = 0);
    a.create("replies", |settings| settings.transactional = false);
    a
}

fn reply(a: &mut Node, class: Class, correlation: &'static str) {
    a.put("replies", correlation, |put| {
        put.class = class;
        put.correlation_id = Bytes::from_static(correlation.as_bytes());
    });
}

fn wait_for(a: &mut Node, correlation: &'static str) -> u64 {
    a.ask_for("replies", |receive| {
        receive.correlation_id = Bytes::from_static(correlation.as_bytes());
        receive.wait_ms = WAIT_MS;
    })
}

#[test]
fn who_waits_for_a_correlation_id_is_handed_the_message_when_it_comes() {
    for class in [Class::Express, Class::Recoverable] {
        let mut a = node();
        reply(&mut a, class, "earlier");
        let first = wait_for(&mut a, "one");
        let second = wait_for(&mut a, "two");
        assert!(!a.is_done(first) && !a.is_done(second), "{class:?}");
        reply(&mut a, class, "other");
        reply(&mut a, class, "two");
        assert_eq!(a.handed(second), ["two"], "{class:?}");
        assert!(a.is_done(second) && !a.is_done(first), "{class:?}");
        reply(&mut a, class, "one");
        assert_eq!(a.handed(first), ["one"], "{class:?}");
        assert_eq!(a.receive("replies"), ["earlier", "other"], "{class:?}");
    }
}

#[test]
fn who_waits_for_a_correlation_id_hears_when_the_time_is_over() {
    let mut a = node();
    let waits = wait_for(&mut a, "one");
    a.wait(WAIT_MS - 1);
    assert!(!a.is_done(waits));
    a.wait(1);
    assert!(a.is_done(waits));
    reply(&mut a, Class::Recoverable, "one");
    assert!(a.handed(waits).is_empty());
}

#[test]
fn who_stops_waiting_is_handed_nothing() {
    let mut a = node();
    let waits = wait_for(&mut a, "one");
    a.stop_waiting("replies", waits);
    assert!(a.is_done(waits));
    reply(&mut a, Class::Recoverable, "one");
    assert!(a.handed(waits).is_empty());
    assert_eq!(a.receive("replies"), ["one"]);
}

/// One that is in another application's hands comes back.
#[test]
fn who_waits_is_handed_what_comes_back() {
    let mut a = node();
    for correlation in ["one", "two", "three"] {
        reply(&mut a, Class::Recoverable, correlation);
    }
    let held = a.take("replies", 2, None);
    let by_correlation = wait_for(&mut a, "one");
    let by_lookup = a.ask_for("replies", |receive| {
        receive.lookup = Some(held[1].lookup);
        receive.wait_ms = WAIT_MS;
    });
    assert!(!a.is_done(by_correlation) && !a.is_done(by_lookup));
    for delivery in held {
        a.settle("replies", delivery.lookup, Verdict::GiveBack);
    }
    assert_eq!(a.handed(by_correlation), ["one"]);
    assert_eq!(a.handed(by_lookup), ["two"]);
}

/// Also while its messages lie on disk only.
#[test]
fn who_waits_is_handed_what_lies_on_disk() {
    let mut a = on_disk();
    for _ in 0..600 {
        reply(&mut a, Class::Recoverable, "other");
    }
    let waits = wait_for(&mut a, "one");
    assert!(!a.is_done(waits));
    reply(&mut a, Class::Recoverable, "one");
    assert_eq!(a.handed(waits), ["one"]);
}

#[test]
fn what_is_taken_behind_a_message_comes_from_behind_it() {
    let mut a = node();
    for correlation in ["one", "two", "three"] {
        reply(&mut a, Class::Recoverable, correlation);
    }
    let shown = a.ask_for("replies", |receive| {
        receive.mode = ReceiveMode::Peek;
        receive.messages_max = 1;
    });
    let first = a.lookups(shown)[0];
    let behind = a.ask_for("replies", |receive| receive.after = Some(first));
    assert_eq!(a.handed(behind), ["two", "three"]);
}

/// Of a page that is read at once, the last message is not the last one of the queue.
#[test]
fn large_messages_hide_none_behind_them() {
    let mut a = on_disk();
    let large = "x".repeat(600 << 10);
    for _ in 0..4 {
        a.put("replies", &large, |put| put.class = Class::Recoverable);
    }
    reply(&mut a, Class::Recoverable, "one");
    let shown = a.ask_for("replies", |receive| receive.mode = ReceiveMode::Peek);
    assert_eq!(a.handed(shown).len(), 5);
    let picked = a.ask_for("replies", |receive| {
        receive.correlation_id = Bytes::from_static(b"one");
    });
    assert_eq!(a.handed(picked), ["one"]);
}

/// Its time was over while it lay on disk only, where nobody looked.
#[test]
fn what_is_overdue_is_not_picked_out() {
    let mut a = on_disk();
    reply(&mut a, Class::Recoverable, "before");
    a.put("replies", "one", |put| {
        put.class = Class::Recoverable;
        put.correlation_id = Bytes::from_static(b"one");
        put.time_to_be_received_ms = Some(5_000);
    });
    a.wait(5_001);
    let waits = wait_for(&mut a, "one");
    assert!(a.handed(waits).is_empty());
    assert_eq!(a.receive("replies"), ["before"]);
    assert_eq!(a.dead().len(), 1);
}

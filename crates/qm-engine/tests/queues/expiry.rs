//! The time of what comes back into its queue still runs out.

use qm_engine::StoreOp;
use qm_wire::local::Verdict;
use qm_wire::{Class, MessageFlags, Outcome};

use super::support::Node;

const TTL_MS: u64 = 5_000;

fn put(a: &mut Node, to: &str, class: Class) {
    a.put(to, "1", |put| {
        put.class = class;
        put.flags = MessageFlags::DEAD_LETTER;
        put.time_to_be_received_ms = Some(TTL_MS);
        put.time_to_reach_queue_ms = Some(TTL_MS);
    });
}

#[test]
fn what_is_given_back_after_its_time_ends() {
    for class in [Class::Express, Class::Recoverable] {
        let mut a = Node::new(1);
        a.create("here", |settings| settings.transactional = false);
        put(&mut a, "here", class);
        let held = a.take("here", 1, None);
        a.wait(TTL_MS + 1);
        a.settle("here", held[0].lookup, Verdict::GiveBack);
        a.wait(1_000);
        let ends: Vec<_> = a.dead().iter().map(|letter| letter.outcome).collect();
        assert_eq!(ends, [Outcome::RECEIVE_EXPIRED], "{class:?}");
    }
}

/// The letter comes when there is room, for a message of this node and for one that never left.
#[test]
fn what_a_full_disk_puts_back_ends_when_there_is_room() {
    for to in ["here", "qm://nobody/orders"] {
        let mut a = Node::new(1);
        a.create("here", |settings| settings.transactional = false);
        put(&mut a, to, Class::Recoverable);
        a.hold_disk = true;
        a.wait(TTL_MS + 1);
        let puts = |ops: &[StoreOp]| ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
        assert!(a.waiting.iter().any(|(_, ops)| puts(ops)), "{to}");
        a.release_disk(1);
        for _ in 0..5 {
            a.wait(1_000);
        }
        assert_eq!(a.dead().len(), 1, "{to}");
    }
}

/// Whoever waits for ever is handed what could not be moved to the poison queue.
#[test]
fn what_a_full_disk_puts_back_is_handed_to_who_waits() {
    let mut a = Node::new(1);
    a.create("here", |settings| {
        settings.transactional = false;
        settings.aborts_max = 1;
    });
    a.put("here", "1", |put| put.class = Class::Recoverable);
    let held = a.take("here", 1, None);
    a.hold_disk = true;
    a.settle("here", held[0].lookup, Verdict::GiveBack);
    let waits = a.ask_for("here", |receive| receive.wait_ms = qm_wire::INFINITE_MS);
    a.release_disk(1);
    assert_eq!(a.handed(waits), ["1"]);
}

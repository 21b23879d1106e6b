//! What a full disk undoes leaves no trace, also over a restart. The disks here take what is behind
//! a refused batch, which a store must not: the engine keeps the order all the same.

use bytes::Bytes;
use qm_engine::{Input, LinkId, Now, StoreOp, Trust};
use qm_wire::local::{ClientFrame, NodeFrame, Put, Receive, Settle, Verdict};
use qm_wire::{Class, Outcome};

use crate::support::{APPLICATION, LINK, Node, carry, connect};

/// Answers for the disk in order, what the engine asks for meanwhile last; no more than `most`
/// answers. Of the batches with messages it has no room for those whose numbers, from one, are in
/// `no_room`, and room for everything else.
fn answer(node: &mut Node, at_ms: u64, most: usize, no_room: &[usize]) {
    let mut number = 0;
    for _ in 0..most {
        if node.owed.is_empty() {
            return;
        }
        let (ticket, ops) = node.owed.remove(0);
        let puts = ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
        number += usize::from(puts);
        if puts && no_room.contains(&number) {
            node.give(
                at_ms,
                Input::PersistRefused {
                    ticket,
                    ops,
                    limited: false,
                },
            );
        } else {
            node.apply(ops);
            node.give(at_ms, Input::Persisted { ticket });
        }
    }
}

fn refusals(node: &Node) -> usize {
    let full = |frame: &&NodeFrame| match frame {
        NodeFrame::Refused(refused) => refused.outcome == Outcome::STORE_FULL,
        _ => false,
    };
    node.told.iter().filter(full).count()
}

#[test]
fn an_arrival_that_was_undone_is_not_taken_for_delivered_after_a_restart() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    b.create("orders");
    a.put("qm://b/orders", b"0", |_| {});
    connect(&mut a, &mut b, LINK);
    b.mute = true;
    for body in [&b"1"[..], b"2"] {
        a.put("qm://b/orders", body, |_| {});
        carry(&mut a, &mut b, LINK);
    }
    answer(&mut b, 0, usize::MAX, &[1]);
    carry(&mut a, &mut b, LINK);
    // It is restarted before the messages come again, twice: the second start must know too.
    let b = b.restart(Trust::Any);
    let mut b = b.restart(Trust::Any);
    for node in [&mut a, &mut b] {
        node.clock_ms = 2_000;
        node.give(2_000, Input::Tick);
    }
    connect(&mut a, &mut b, LinkId(2));
    assert_eq!(b.receive_all("orders"), ["0", "1", "2"]);
    // What arrived in the end is remembered like everything else that did.
    let mut b = b.restart(Trust::Any);
    assert_eq!(b.receive_all("orders"), ["0", "1", "2"]);
    assert!(b.disk.state.keys().all(|key| !key.starts_with(b"undone/")));
}

#[test]
fn a_request_that_was_undone_is_not_answered_as_accepted_after_a_restart() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"short", |put| {
        put.time_to_be_received_ms = Some(1_000);
    });
    a.mute = true;
    for body in [&b"1"[..], b"2"] {
        a.put("here", body, |_| {});
    }
    // The second is undone at the moment at which another message expires, and the disk has no
    // room for its dead letter.
    let is_put = |op: &StoreOp| matches!(op, StoreOp::Put { .. });
    let first = a.owed.iter().position(|(_, ops)| ops.iter().any(is_put));
    answer(&mut a, 0, first.unwrap() + 2, &[1]);
    answer(&mut a, 2_000, usize::MAX, &[2]);
    let sequence = a.next_sequence - 1;
    let mut a = a.restart(Trust::Any);
    a.hello();
    a.next_sequence = sequence;
    a.put("here", b"2", |_| {});
    assert!(a.receive_all("here").iter().any(|body| body == "2"));
}

#[test]
fn nobody_hears_of_a_refusal_before_nothing_can_be_left_of_the_message() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.hello();
    a.mute = true;
    a.next_sequence = 2;
    for body in [&b"1"[..], b"2"] {
        a.put("here", body, |_| {});
    }
    let puts = a.owed.len();
    answer(&mut a, 0, puts, &[1]);
    // The second is on disk and would be there after a crash.
    assert!(!a.disk.records.is_empty());
    assert_eq!(refusals(&a), 1);
    // Asked again, the node owes the answer still.
    a.next_sequence = 3;
    a.put("here", b"2", |_| {});
    assert_eq!(refusals(&a), 1);
    answer(&mut a, 0, usize::MAX, &[]);
    assert!(a.disk.records.is_empty());
    assert_eq!(refusals(&a), 2);
}

#[test]
fn what_was_gathered_when_the_refusal_came_does_not_overtake_either() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.hello();
    a.mute = true;
    a.next_sequence = 2;
    a.put("here", b"1", |_| {});
    let is_put = |op: &StoreOp| matches!(op, StoreOp::Put { .. });
    let first = a.owed.iter().position(|(_, ops)| ops.iter().any(is_put));
    answer(&mut a, 0, first.unwrap(), &[]);
    // The next one is taken in, and the disk answers before the engine is asked what follows.
    let mut put = Put::new(3, "here", Bytes::from_static(b"2"));
    put.class = Class::Recoverable;
    let (conn, frame) = (APPLICATION, ClientFrame::Put(put));
    a.engine
        .handle(Now::default(), Input::Client { conn, frame });
    answer(&mut a, 0, usize::MAX, &[1]);
    assert_eq!(refusals(&a), 2, "{:?}", a.told);
    a.mute = false;
    assert!(a.disk.records.is_empty());
    assert!(a.receive_all("here").is_empty());
}

#[test]
fn what_comes_while_something_is_being_undone_does_not_overtake_it() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.hello();
    a.mute = true;
    a.next_sequence = 2;
    for body in [&b"1"[..], b"2"] {
        a.put("here", body, |_| {});
    }
    let is_put = |op: &StoreOp| matches!(op, StoreOp::Put { .. });
    let first = a.owed.iter().position(|(_, ops)| ops.iter().any(is_put));
    answer(&mut a, 0, first.unwrap() + 1, &[1]);
    // The disk is slow: there may be room again, and the second is not decided yet.
    a.clock_ms = 2_000;
    a.give(2_000, Input::Tick);
    a.put("here", b"3", |_| {});
    answer(&mut a, 2_000, usize::MAX, &[]);
    assert_eq!(refusals(&a), 3, "{:?}", a.told);
    assert!(a.disk.records.is_empty());
}

#[test]
fn what_a_stop_saved_is_not_consumed_beside_its_copy() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |put| put.class = Class::Express);
    a.put("here", b"y", |_| {});
    assert_eq!(a.receive_all("here"), ["x", "y"]);
    let deliveries = a.told.iter().filter_map(|frame| match frame {
        NodeFrame::Delivery(delivery) => Some((delivery.lookup, delivery.lookup)),
        _ => None,
    });
    let ranges: Vec<_> = deliveries.collect();
    a.give(0, Input::Stop);
    a.told.clear();
    // Whoever asks now gets nothing of what was saved, or it would be out twice.
    let mut receive = Receive::new(900, "here".parse().unwrap());
    receive.messages_max = 100;
    a.client(ClientFrame::Receive(receive));
    let delivered = |frame: &NodeFrame| matches!(frame, NodeFrame::Delivery(_));
    assert!(!a.told.iter().any(delivered), "{:?}", a.told);
    a.client(ClientFrame::Settle(Settle {
        request: 901,
        queue: "here".parse().unwrap(),
        verdict: Verdict::Consume,
        ranges: ranges.clone(),
    }));
    let settled = a.told.iter().find_map(|frame| match frame {
        NodeFrame::Settled(settled) => Some(settled.clone()),
        _ => None,
    });
    let settled = settled.unwrap();
    assert_eq!(settled.messages, 1);
    assert_eq!(
        (settled.outcome, settled.lost),
        (Some(Outcome::LEASE_LOST), vec![ranges[0]])
    );
    let mut a = a.restart(Trust::Any);
    assert_eq!(
        a.receive_all("here"),
        ["x"],
        "told that it is not consumed, and not lost"
    );
}

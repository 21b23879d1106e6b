//! Answers for a copy of this machine, which reach this one.

use qm_engine::{EngineConfig, LinkId};
use qm_wire::PeerFrame;

use crate::support::*;
use crate::{LINK, NEXT};

const LATER: LinkId = LinkId(3);

/// Two copies of a machine put each its own message in the same place of the stream; the one that
/// arrived is acknowledged to the other machine. What arrives in the end.
fn acknowledged_to_the_other(configure: fn(&mut EngineConfig)) -> Vec<String> {
    let (mut a, mut b) = (Node::with(1, configure), Node::new(2));
    b.create("orders", |_| {});
    a.send(1..=2);
    connect(&mut a, &mut b, LINK);
    let mut copy = Node::clone_of(&a, 77);
    a.send([3]);
    let lost = a.sent_on(LINK);
    let data = |frame: &&PeerFrame| matches!(frame, PeerFrame::Data(_));
    assert_eq!(lost.iter().filter(data).count(), 1);
    copy.send([13]);
    copy.wait(60_000);
    plug(&mut copy, &mut b, NEXT);
    let mut acks = Vec::new();
    carry_but(&mut copy, &mut b, NEXT, |frame| {
        if let PeerFrame::OrderAck(_) = frame {
            acks.push(frame.clone());
        }
        false
    });
    assert!(!acks.is_empty());
    for ack in &acks {
        a.hear(LINK, ack);
    }
    reconnect(&mut a, &mut b, LINK, LATER);
    b.receive("orders")
}

/// W-STR-6.
#[test]
fn an_order_ack_for_a_copys_message_settles_nothing_here() {
    assert_eq!(acknowledged_to_the_other(|_| {}), ["1", "2", "13", "3"]);
}

#[cfg(feature = "__breaks")]
#[test]
fn an_order_ack_that_counts_by_its_numbers_is_noticed() {
    let arrived = acknowledged_to_the_other(|c| c.breaks.order_ack_by_number = true);
    assert_eq!(arrived, ["1", "2", "13"], "one is settled and lost");
}

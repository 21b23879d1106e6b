//! What the operator says stands over a disk that has no room even for that.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{Input, Trust};

use crate::support::{LINK, Node, connect, reply};

/// Whether this node has blocked the other, as it stands on the disk.
fn is_blocked_after_restart(node: Node, who: &str) -> (Node, bool) {
    let mut node = node.restart(Trust::Any);
    node.hello();
    let AdminReply::Peers(views) = node.admin(AdminRequest::Peers) else {
        panic!("{:?}", node.admin)
    };
    let view = views
        .iter()
        .find(|view| view.qm.is_some_and(|qm| qm.to_string() == who));
    let blocked = view.unwrap().approval == "blocked";
    (node, blocked)
}

#[test]
fn what_the_operator_said_of_a_peer_outlives_a_disk_that_refused_it() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    connect(&mut a, &mut b, LINK);
    let who = b.identity.qm.to_string();
    // It is written again when there is room.
    a.mute = true;
    a.ask(AdminRequest::PeerBlock { who: who.clone() });
    while !a.owed.is_empty() {
        reply(&mut a, 0, true);
    }
    a.mute = false;
    a.give(5_000, Input::Tick);
    let (mut a, blocked) = is_blocked_after_restart(a, &who);
    assert!(blocked);
    // But not over what was said after it.
    a.mute = true;
    let approve = || AdminRequest::PeerApprove {
        who: who.clone(),
        name: None,
    };
    a.ask(approve());
    a.ask(AdminRequest::PeerBlock { who: who.clone() });
    a.ask(approve());
    assert!(a.owed.len() >= 3, "{:?}", a.owed);
    while a.owed.len() > 1 {
        reply(&mut a, 0, true);
    }
    reply(&mut a, 0, false);
    a.mute = false;
    a.give(20_000, Input::Tick);
    let (_, blocked) = is_blocked_after_restart(a, &who);
    assert!(!blocked);
}

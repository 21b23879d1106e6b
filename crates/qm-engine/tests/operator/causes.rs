//! Causes that `why` names in situations that are rarer than a peer that is away, each with what is
//! to be done about it.

use qm_engine::admin::{AdminReply, AdminRequest, Cause};
use qm_engine::{Input, LinkId, LocalSettings, Trust};

use crate::support::{LINK, Node, carry, config, connect, meet, reply};

impl Node {
    /// The cause, and what is to be done.
    fn says(&mut self, subject: &str) -> (Cause, Option<String>) {
        let view = self.why(subject);
        (view.code, view.fix)
    }

    /// What is done about a cause, which it must be.
    fn cure(&mut self, subject: &str, cause: Cause) -> String {
        let view = self.why(subject);
        assert_eq!(view.code, cause, "{view:?}");
        view.fix.unwrap()
    }

    /// Time passed, and what was due is done.
    fn wait(&mut self, ms: u64) {
        self.clock_ms += ms;
        self.give(self.clock_ms, Input::Tick);
    }
}

#[test]
fn why_names_a_network_that_is_not_there_and_blames_no_peer() {
    let mut a = Node::new(1, Trust::Any);
    a.put("qm://b/orders", b"x", |_| {});
    assert_eq!(a.why("orders").code, Cause::Connecting);
    let failed = Some("10.0.0.1:1801: the address is not there".to_owned());
    a.give(0, Input::Network { failed });
    let fix = a.cure("orders", Cause::NetworkFailed);
    assert!(fix.starts_with("bring the address up"), "{fix}");
    let view = a.why("qm://b:1801");
    assert_eq!(view.code, Cause::NetworkFailed);
    assert!(view.cause.contains("10.0.0.1:1801"), "{}", view.cause);
    a.give(0, Input::Network { failed: None });
    assert_eq!(a.says("orders"), (Cause::Connecting, None));
}

#[test]
fn why_names_a_peer_whose_address_nobody_told() {
    let (mut a, b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    a.put(&format!("qm:{}/orders", b.identity.qm), b"x", |_| {});
    assert!(a.dials.is_empty());
    let fix = a.cure("orders", Cause::NoAddress);
    assert!(fix.contains("qm-node peers add NAME HOST[:PORT]"), "{fix}");
    assert!(fix.contains(&b.identity.qm.to_string()), "{fix}");
}

#[test]
fn why_names_a_peer_at_which_too_many_await_approval() {
    let mut config = config(Trust::Approve);
    config.pending_peers_max = 1;
    let mut b = Node::new(2, Trust::Approve).restart_with(config);
    let mut before = Node::new(3, Trust::Any);
    connect(&mut before, &mut b, LinkId(9));
    let mut a = Node::new(1, Trust::Any);
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    let text = "too many peers await approval".to_owned();
    a.give(0, Input::Closed { link: LINK, text });
    let fix = a.cure("orders", Cause::PeerBusy);
    let command = format!("qm-node peers approve {}", a.identity.qm);
    assert!(fix.contains(&command), "{fix}");
}

#[test]
fn why_names_a_message_that_its_destination_is_asked_for() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    a.put("qm://b/orders", b"y", |_| {});
    let id = format!("{}-2", a.engine.incarnation());
    // It is on its way when the connection is lost.
    a.sent.clear();
    for node in [&mut a, &mut b] {
        let text = "lost".to_owned();
        node.give(0, Input::Closed { link: LINK, text });
    }
    a.wait(1_000);
    let link = LinkId(2);
    meet(&mut a, &mut b, link);
    let mut named = false;
    loop {
        let (to_b, to_a) = (a.sent_on(link), b.sent_on(link));
        if to_b.is_empty() && to_a.is_empty() {
            break;
        }
        for frames in to_b {
            b.give(1_000, Input::Received { link, frames });
        }
        for frames in to_a {
            a.give(1_000, Input::Received { link, frames });
            let view = a.why("orders");
            if view.code == Cause::InDoubt {
                named = true;
                assert!(view.cause.contains("which of 1 messages"), "{view:?}");
                assert_eq!(view.fix, None, "it is asked by itself");
                assert_eq!(a.says(&id), (Cause::InDoubt, None));
            }
        }
    }
    assert!(named, "between the session and the answer");
    assert_eq!(a.why("orders").code, Cause::Idle);
    assert_eq!(b.receive_all("orders"), ["x", "y"]);
}

#[test]
fn why_names_records_that_no_read_brings() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |_| {});
    a.put("qm://b/orders", b"y", |_| {});
    let mut a = a.restart(Trust::Any);
    // The index knows of them, and nothing is there.
    a.disk.records.clear();
    a.give(0, Input::Tick);
    for subject in ["here", "orders"] {
        let fix = a.cure(subject, Cause::Damaged);
        assert_eq!(fix, "stop the node, then: qm-node store check");
    }
    let view = a.why("here");
    assert!(view.cause.starts_with("1 records"), "{}", view.cause);
}

#[test]
fn why_names_a_queue_that_is_being_deleted() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |_| {});
    a.mute = true;
    a.ask(AdminRequest::QueueDelete {
        name: "here".parse().unwrap(),
        force: true,
        discard: false,
    });
    assert!(a.admin.is_none(), "the letter is not on disk");
    let view = a.why("here");
    assert_eq!((view.code, view.fix), (Cause::Deleting, None));
    assert!(view.cause.contains("dead letters"), "{}", view.cause);
    let again = LocalSettings::new("here".parse().unwrap());
    let refused = a.admin(AdminRequest::QueueCreate(again));
    assert!(matches!(refused, AdminReply::Failed { .. }), "{refused:?}");
    while !a.owed.is_empty() {
        reply(&mut a, 0, false);
    }
    assert_eq!(a.why("here").code, Cause::Unknown);
    a.mute = false;
    a.create("here");
}

#[test]
fn why_names_what_is_settled_and_where_it_went_on() {
    // Its letter was sent again under another name.
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    a.put("qm://b/nowhere", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    let id = format!("{}-1", a.engine.incarnation());
    assert_eq!(a.why(&id).code, Cause::UnknownQueue);
    b.create("nowhere");
    let letter = a.all_letters().remove(0).position;
    let AdminReply::LetterFates(fates) = a.admin(AdminRequest::DeadResend {
        positions: vec![letter],
        force: false,
        to: None,
    }) else {
        panic!("the fates of letters");
    };
    let new = fates[0].resent_as.unwrap();
    assert_eq!(
        a.cure(&id, Cause::Settled),
        format!("qm-node why {new}"),
        "the message that goes on"
    );
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive_all("nowhere"), ["x"]);

    // How it was settled is forgotten.
    let mut config = config(Trust::Any);
    config.history_events_max = 1;
    let mut a = Node::new(1, Trust::Any).restart_with(config);
    a.create("here");
    a.put("here", b"x", |_| {});
    let id = format!("{}-1", a.engine.incarnation());
    let lookup = a.hold("here");
    a.consume("here", lookup);
    assert_eq!(a.why(&id).code, Cause::Received);
    a.put("here", b"y", |_| {});
    let fix = a.cure(&id, Cause::Settled);
    assert_eq!(fix, format!("qm-node trace {id}"));
}

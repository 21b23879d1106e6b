//! Purges come to an end, and each is answered.

use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::{Input, Trust};
use qm_wire::Outcome;

use crate::support::{APPLICATION, LINK, Node, connect, meet, reply};

#[test]
fn a_purge_does_not_wait_for_a_peer_that_owes_answers() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    for _ in 0..2_500 {
        a.put("qm://b/orders", b"x", |_| {});
    }
    let mut a = a.restart(Trust::Any);
    a.give(0, Input::Tick);
    meet(&mut a, &mut b, LINK);
    // The peer greets and grants credit; its answers do not come any more.
    for _ in 0..2 {
        for frames in a.sent_on(LINK) {
            b.give(0, Input::Received { link: LINK, frames });
        }
        for frames in b.sent_on(LINK) {
            a.give(0, Input::Received { link: LINK, frames });
        }
    }
    let text = "gone".to_owned();
    a.give(0, Input::Closed { link: LINK, text });
    a.admin = None;
    let AdminReply::Purged(tally) = a.admin(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: true,
    }) else {
        panic!("a tally");
    };
    // What was in doubt goes with the rest; its destination will be asked.
    assert_eq!(
        (tally.messages, tally.uncertain, tally.left),
        (2_500, 2_500, 0)
    );
}

#[test]
fn a_second_purge_of_a_queue_is_turned_away_and_the_first_is_answered() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |_| {});
    a.put("qm://b/orders", b"x", |_| {});
    a.mute = true;
    let here = || AdminRequest::QueuePurge {
        name: "here".parse().unwrap(),
        discard: false,
    };
    let there = || AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    };
    let ask = |a: &mut Node, what| {
        let conn = APPLICATION;
        let request = 1;
        a.give(
            0,
            Input::Admin {
                conn,
                request,
                what,
            },
        );
        a.admin.take()
    };
    let delete = AdminRequest::QueueDelete {
        name: "here".parse().unwrap(),
        force: true,
        discard: false,
    };
    for (first, again) in [(here(), vec![here(), delete]), (there(), vec![there()])] {
        assert!(ask(&mut a, first).is_none(), "the disk has not confirmed");
        for what in again {
            match ask(&mut a, what) {
                Some(AdminReply::Failed { outcome, .. }) => assert_eq!(outcome, Outcome::BUSY),
                other => panic!("{other:?}"),
            }
        }
        let mut answered = None;
        while !a.owed.is_empty() {
            reply(&mut a, 0, false);
            answered = answered.or_else(|| a.admin.take());
        }
        match answered {
            Some(AdminReply::Purged(tally)) => assert_eq!(tally.messages, 1),
            other => panic!("{other:?}"),
        }
    }
}

/// The queue stays, and so does what applications hold of it.
#[test]
fn a_deletion_for_which_a_full_disk_has_no_room_takes_nothing_from_anybody() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"held", |_| {});
    let held = a.hold("here");
    a.full = true;
    a.put("here", b"refused", |_| {});
    let reply = a.admin(AdminRequest::QueueDelete {
        name: "here".parse().unwrap(),
        force: true,
        discard: false,
    });
    assert!(
        matches!(&reply, AdminReply::Failed { outcome, .. } if *outcome == Outcome::STORE_FULL),
        "{reply:?}"
    );
    a.consume("here", held);
    assert_eq!(a.settled(), Some((1, None)));
}

/// What may have arrived goes with the rest, and the disk has no room for its letter: it is in
/// doubt as before, and nobody is told that it was purged.
#[test]
fn a_purge_whose_letters_the_disk_refuses_is_not_done() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::new(2, Trust::Any));
    b.create("orders");
    a.put("qm://b/orders", b"first", |_| {});
    connect(&mut a, &mut b, LINK);
    a.put("qm://b/orders", b"second", |_| {});
    // It is lost on its way.
    assert!(!a.sent_on(LINK).is_empty());
    let text = "lost".to_owned();
    a.give(0, Input::Closed { link: LINK, text });
    a.full = true;
    let reply = a.admin(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
    assert!(
        matches!(&reply, AdminReply::Failed { outcome, .. } if *outcome == Outcome::STORE_FULL),
        "{reply:?}"
    );
    assert_eq!(a.engine.sizes().doubts, 1);
    // Without letters it needs no room.
    let reply = a.admin(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: true,
    });
    assert!(
        matches!(&reply, AdminReply::Purged(tally) if tally.messages == 1),
        "{reply:?}"
    );
    assert!(a.disk.records.is_empty());
}

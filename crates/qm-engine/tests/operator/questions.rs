//! Questions and deeds, one rule a test.

use bytes::Bytes;
use qm_engine::admin::{
    AdminReply, AdminRequest, Cause, DeadFilter, DeadLetterView, LetterFate, PurgeTally, QueueView,
    Selector, TraceView, WhyView,
};
use qm_engine::{
    DialFailure, Event, FullBy, Input, LinkId, LocalSettings, StoreOp, StoredMessage, Trust,
};
use qm_wire::local::{ClientFrame, Follow, NodeFrame, Settle, Verdict};
use qm_wire::{MessageFlags, Outcome};

use crate::support::{APPLICATION, LINK, Node, carry, connect, reply};

impl Node {
    fn letters(&mut self, filter: DeadFilter) -> Vec<DeadLetterView> {
        match self.admin(AdminRequest::DeadList {
            filter,
            after: None,
        }) {
            AdminReply::DeadLetters { letters, .. } => letters,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn all_letters(&mut self) -> Vec<DeadLetterView> {
        self.letters(DeadFilter::default())
    }

    fn fates(&mut self, what: AdminRequest) -> Vec<LetterFate> {
        match self.admin(what) {
            AdminReply::LetterFates(fates) => fates,
            other => panic!("{other:?}"),
        }
    }

    fn resend(&mut self, position: u64, force: bool) -> LetterFate {
        let positions = vec![position];
        self.fates(AdminRequest::DeadResend {
            positions,
            force,
            to: None,
        })
        .remove(0)
    }

    fn purged(&mut self, what: AdminRequest) -> PurgeTally {
        match self.admin(what) {
            AdminReply::Purged(tally) => tally,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn why(&mut self, subject: &str) -> WhyView {
        let subject = subject.to_owned();
        match self.admin(AdminRequest::Why { subject }) {
            AdminReply::Why(view) => view,
            other => panic!("{other:?}"),
        }
    }

    fn cause(&mut self, subject: &str) -> Cause {
        self.why(subject).code
    }

    fn trace(&mut self, subject: &str) -> TraceView {
        let subject = subject.to_owned();
        match self.admin(AdminRequest::Trace { subject }) {
            AdminReply::Trace(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    fn queue(&mut self, name: &str) -> Option<QueueView> {
        match self.admin(AdminRequest::Queues) {
            AdminReply::Queues(views) => views
                .into_iter()
                .find(|view| view.settings.name.as_str() == name),
            other => panic!("{other:?}"),
        }
    }

    /// Id of the message that was accepted last.
    fn last_id(&self) -> String {
        let id = self.told.iter().rev().find_map(|frame| match frame {
            NodeFrame::Accepted(accepted) => Some(accepted.first_id),
            _ => None,
        });
        id.unwrap().to_string()
    }

    /// Settles everything that the last receive brought.
    fn settle_all(&mut self, queue: &str, verdict: Verdict) {
        let ranges: Vec<_> = self
            .told
            .iter()
            .filter_map(|frame| match frame {
                NodeFrame::Delivery(delivery) => Some((delivery.lookup, delivery.lookup)),
                _ => None,
            })
            .collect();
        let queue = queue.parse().unwrap();
        self.client(ClientFrame::Settle(Settle {
            request: 900,
            queue,
            verdict,
            ranges,
        }));
    }

    fn dial_fails(&mut self, failure: DialFailure) {
        let dial = self.dials.pop().unwrap();
        self.give(
            self.clock_ms,
            Input::DialFailed {
                dial,
                failure,
                text: "said the test".to_owned(),
            },
        );
    }

    fn lost(&mut self, link: LinkId) {
        self.give(
            self.clock_ms,
            Input::Closed {
                link,
                text: "lost".to_owned(),
            },
        );
    }

    fn fate_told(&self) -> Option<Outcome> {
        self.told.iter().rev().find_map(|frame| match frame {
            NodeFrame::Fate(fate) => fate.runs.last().map(|(_, _, outcome)| *outcome),
            _ => None,
        })
    }
}

fn nodes() -> (Node, Node) {
    (Node::new(1, Trust::Any), Node::new(2, Trust::Any))
}

/// A node with one dead letter that its destination refused, and that destination.
fn with_letter() -> (Node, Node) {
    let (mut a, mut b) = nodes();
    a.put("qm://b/nowhere", b"x", |put| put.label = "first".into());
    connect(&mut a, &mut b, LINK);
    (a, b)
}

#[test]
fn a_dead_letter_is_listed_with_all_that_is_known_of_it() {
    let (mut a, b) = with_letter();
    let letters = a.all_letters();
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}");
    };
    assert_eq!(letter.outcome, Outcome::BAD_DESTINATION_QUEUE);
    assert_eq!(letter.destination, "qm://b/nowhere");
    assert_eq!(letter.by, Some(b.identity.qm));
    assert_eq!((letter.label.as_str(), letter.body_bytes), ("first", 1));
    assert_eq!(letter.id.to_string(), a.last_id());
    assert!(!letter.uncertain);
    let with = |set: fn(&mut DeadFilter)| {
        let mut filter = DeadFilter::default();
        set(&mut filter);
        filter
    };
    for (filter, found) in [
        (
            with(|f| f.outcome = Some(Outcome::BAD_DESTINATION_QUEUE)),
            1,
        ),
        (with(|f| f.outcome = Some(Outcome::ACCESS_DENIED)), 0),
        (
            with(|f| f.destination = Some("qm://b/nowhere".to_owned())),
            1,
        ),
        (with(|f| f.destination = Some("qm://b".to_owned())), 1),
        (with(|f| f.destination = Some("nowhere".to_owned())), 1),
        (with(|f| f.destination = Some("qm://b/now".to_owned())), 0),
        (with(|f| f.older_than_ms = Some(0)), 1),
        (with(|f| f.older_than_ms = Some(1)), 0),
        (with(|f| f.id = Some("zz".to_owned())), 0),
    ] {
        assert_eq!(a.letters(filter.clone()).len(), found, "{filter:?}");
    }
    let id = Some(a.last_id().get(..5).unwrap().to_owned());
    let filter = DeadFilter {
        id,
        ..DeadFilter::default()
    };
    assert_eq!(a.letters(filter).len(), 1);
}

#[test]
fn a_destination_may_be_named_as_the_address_book_does() {
    let (mut a, _) = with_letter();
    a.admin(AdminRequest::PeerAdd {
        name: "hub".to_owned(),
        address: Some("b:1801".to_owned()),
        qm: None,
        keep_connected: false,
    });
    for (name, found) in [("hub", 1), ("HUB/nowhere", 1), ("hub/orders", 0), ("hu", 0)] {
        let filter = DeadFilter {
            destination: Some(name.to_owned()),
            ..DeadFilter::default()
        };
        assert_eq!(a.letters(filter).len(), found, "{name}");
    }
}

#[test]
fn a_letter_is_sent_again_in_one_commit_with_its_removal() {
    let (mut a, mut b) = with_letter();
    b.create("nowhere");
    let letter = a.all_letters().remove(0);
    a.batches.clear();
    let fate = a.resend(letter.position, false);
    assert_eq!((fate.id, fate.outcome), (Some(letter.id), None));
    let new = fate.resent_as.unwrap();
    assert_ne!(new, letter.id);
    let both = a.batches.iter().any(|ops| {
        let put = ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
        let removed = ops.iter().any(|op| {
            matches!(op, StoreOp::Remove { first, last, .. }
                if first == last && *first == letter.position)
        });
        put && removed
    });
    assert!(
        both,
        "a crash between the two would lose or double it: {:?}",
        a.batches
    );
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive_all("nowhere"), ["x"]);
    assert!(a.all_letters().is_empty());
    let arrived = b
        .disk
        .records
        .values()
        .find_map(|record| StoredMessage::read(&record.head))
        .unwrap();
    let from = arrived.envelope.properties.get("qm.resent-from").unwrap();
    assert_eq!(
        from,
        format!("{}/{}", a.identity.qm, letter.id).as_bytes(),
        "provenance travels with the message"
    );
    assert_eq!(arrived.envelope.id, new);
    assert_eq!(arrived.envelope.label.as_str(), "first");
    assert_eq!(a.engine.counters().resent, 1);
    assert!(
        a.events
            .iter()
            .any(|event| matches!(event, Event::Resent { .. }))
    );
    let again = a.resend(letter.position, false);
    assert_eq!(again.outcome, Some(Outcome::NOT_FOUND), "it is gone");
}

#[test]
fn a_resend_that_the_disk_refuses_leaves_the_letter() {
    let (mut a, mut b) = with_letter();
    b.create("nowhere");
    let letter = a.all_letters().remove(0);
    a.full = true;
    let fate = a.resend(letter.position, false);
    assert_eq!(
        (fate.outcome, fate.resent_as),
        (Some(Outcome::STORE_FULL), None)
    );
    assert_eq!(a.all_letters(), std::slice::from_ref(&letter));
    a.full = false;
    a.clock_ms = 2_000;
    a.give(2_000, Input::Tick);
    assert_eq!(a.resend(letter.position, false).outcome, None);
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive_all("nowhere"), ["x"], "once");
    assert!(a.all_letters().is_empty());
}

#[test]
fn a_letter_that_may_have_arrived_is_sent_again_only_with_force() {
    let mut a = Node::new(1, Trust::Any);
    a.put("qm://b/orders", b"x", |_| {});
    // The next life cannot know whether the last one transmitted it.
    let mut a = a.restart(Trust::Any);
    let tally = a.purged(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
    assert_eq!(
        (tally.messages, tally.dead_letters, tally.uncertain),
        (1, 1, 1)
    );
    let letter = a.all_letters().remove(0);
    assert_eq!(
        (letter.outcome, letter.unconfirmed),
        (Outcome::PURGED_IN_TRANSIT, true)
    );
    let fate = a.resend(letter.position, false);
    assert!(
        fate.outcome.is_some() && fate.text.contains("--force"),
        "{fate:?}"
    );
    assert_eq!(a.resend(letter.position, true).outcome, None);
}

#[test]
fn letters_are_dropped_for_good() {
    let (mut a, _) = with_letter();
    let position = a.all_letters()[0].position;
    let positions = vec![position, position + 7];
    let fates = a.fates(AdminRequest::DeadDrop { positions });
    assert_eq!(fates[0].outcome, None);
    assert_eq!(fates[1].outcome, Some(Outcome::NOT_FOUND));
    assert!(a.all_letters().is_empty());
    let mut a = a.restart(Trust::Any);
    assert!(a.all_letters().is_empty());
}

#[test]
fn purged_messages_end_with_a_typed_outcome() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"kept", |put| put.follow = Follow::Received);
    a.put("here", b"unwished", |put| put.flags = MessageFlags::NONE);
    a.put("here", b"held", |_| {});
    a.told.clear();
    let name = || "here".parse().unwrap();
    let tally = a.purged(AdminRequest::QueuePurge {
        name: name(),
        discard: false,
    });
    assert_eq!(
        (tally.messages, tally.dead_letters, tally.discarded),
        (3, 2, 1)
    );
    assert_eq!(a.fate_told(), Some(Outcome::QUEUE_PURGED));
    let outcomes: Vec<_> = a
        .all_letters()
        .iter()
        .map(|letter| letter.outcome)
        .collect();
    assert_eq!(outcomes, [Outcome::QUEUE_PURGED; 2]);
    assert_eq!(a.all_letters()[0].destination, "here");
    a.put("here", b"again", |_| {});
    let tally = a.purged(AdminRequest::QueuePurge {
        name: name(),
        discard: true,
    });
    assert_eq!(
        (tally.messages, tally.dead_letters, tally.discarded),
        (1, 0, 1)
    );
    assert_eq!(a.all_letters().len(), 2);
    assert_eq!(a.engine.counters().purged, 4);
    // Dead letters are not buried again.
    let dead = "dead$".parse().unwrap();
    let tally = a.purged(AdminRequest::QueuePurge {
        name: dead,
        discard: false,
    });
    assert_eq!((tally.messages, tally.discarded), (2, 2));
    assert!(a.disk.records.is_empty());
}

#[test]
fn what_applications_hold_survives_a_purge() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"held", |_| {});
    assert_eq!(a.receive_all("here"), ["held"]);
    let name = "here".parse().unwrap();
    let tally = a.purged(AdminRequest::QueuePurge {
        name,
        discard: true,
    });
    assert_eq!((tally.messages, tally.left), (0, 1));
    a.settle_all("here", Verdict::GiveBack);
    assert_eq!(a.receive_all("here"), ["held"]);
}

#[test]
fn a_deleted_queue_tells_what_became_of_everything_in_it() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"held", |_| {});
    assert_eq!(a.receive_all("here"), ["held"]);
    a.put("here", b"waiting", |_| {});
    let name = || "here".parse().unwrap();
    let tally = a.purged(AdminRequest::QueueDelete {
        name: name(),
        force: true,
        discard: false,
    });
    assert_eq!(
        (tally.messages, tally.dead_letters, tally.uncertain),
        (2, 2, 1)
    );
    assert!(a.queue("here").is_none());
    let letters = a.all_letters();
    assert!(
        letters
            .iter()
            .all(|letter| letter.outcome == Outcome::QUEUE_DELETED)
    );
    assert!(letters[0].uncertain, "an application may have acted on it");
    assert!(!letters[1].uncertain);
    // Nothing of the old queue comes back with a new one of its name, also after a restart.
    let mut a = a.restart(Trust::Any);
    a.create("here");
    assert!(a.receive_all("here").is_empty());
    let position = a.all_letters()[1].position;
    assert_eq!(a.resend(position, false).outcome, None);
    assert_eq!(a.receive_all("here"), ["waiting"]);
}

#[test]
fn a_full_disk_stops_a_purge_that_keeps_letters_and_loses_nothing() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |put| put.follow = Follow::Received);
    a.full = true;
    for what in [
        AdminRequest::QueuePurge {
            name: "here".parse().unwrap(),
            discard: false,
        },
        AdminRequest::QueueDelete {
            name: "here".parse().unwrap(),
            force: true,
            discard: false,
        },
    ] {
        match a.admin(what) {
            AdminReply::Failed { outcome, .. } => assert_eq!(outcome, Outcome::STORE_FULL),
            other => panic!("{other:?}"),
        }
    }
    // Nobody was told that it is dead.
    assert_eq!(a.fate_told(), Some(Outcome::REACHED_QUEUE));
    assert_eq!(a.engine.counters().dead_letters, 0);
    a.full = false;
    assert_eq!(a.receive_all("here"), ["x"]);
}

#[test]
fn a_message_that_comes_back_too_often_is_moved_aside_and_does_not_block() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"poison", |_| {});
    let settings = LocalSettings {
        aborts_max: 2,
        ..LocalSettings::new("here".parse().unwrap())
    };
    a.admin(AdminRequest::QueueSet(settings));
    assert_eq!(a.queue("here").unwrap().settings.aborts_max, 2);
    for _ in 0..2 {
        assert!(a.queue("here:poison").is_none());
        assert_eq!(a.receive_all("here"), ["poison"]);
        a.settle_all("here", Verdict::GiveBack);
    }
    a.put("here", b"good", |_| {});
    assert_eq!(a.receive_all("here"), ["good"]);
    assert_eq!(a.queue("here:poison").unwrap().messages, 1);
    assert_eq!(a.receive_all("here:poison"), ["poison"]);
    assert_eq!(a.engine.counters().poisoned, 1);
}

#[test]
fn a_trace_tells_the_life_of_a_message_on_both_sides() {
    let (mut a, mut b) = nodes();
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    let id = a.last_id();
    let events = |view: &TraceView| view.events.iter().map(|e| e.event).collect::<Vec<_>>();
    let view = a.trace(&id);
    assert_eq!((view.state, view.complete), ("waiting", true));
    connect(&mut a, &mut b, LINK);
    let view = a.trace(&id);
    assert_eq!(view.state, "delivered");
    assert_eq!(events(&view), ["accepted", "transmitted", "acknowledged"]);
    assert!(
        view.ask
            .iter()
            .any(|ask| ask.contains(&format!("qm-node trace {id}")))
    );
    let view = b.trace(&id);
    assert_eq!((view.state, events(&view)), ("in_queue", vec!["arrived"]));
    assert_eq!(view.source, Some(a.identity.qm));
    b.receive_all("orders");
    assert_eq!(b.trace(&id).state, "leased");
    b.settle_all("orders", Verdict::Consume);
    let view = b.trace(&id);
    assert_eq!(view.state, "received");
    assert_eq!(events(&view), ["arrived", "handed_out", "received"]);
}

#[test]
fn a_trace_says_when_it_no_longer_knows() {
    let (mut a, mut b) = nodes();
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    let id = a.last_id();
    connect(&mut a, &mut b, LINK);
    let mut a = a.restart(Trust::Any);
    let view = a.trace(&id);
    assert_eq!((view.state, view.complete), ("settled", false));
    assert!(view.events.is_empty() && !view.ask.is_empty());
    match a.admin(AdminRequest::Trace {
        subject: "orders".to_owned(),
    }) {
        AdminReply::Failed { outcome, .. } => assert_eq!(outcome, Outcome::BAD_REQUEST),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_on_disk_is_found_by_its_id() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |_| {});
    let id = a.last_id();
    let (b, c) = with_letter();
    let dead = b.last_id();
    drop(c);
    // After a start everything is on disk first; more than fits memory stays there.
    let mut a = a.restart(Trust::Any);
    assert_eq!(a.trace(&id).state, "in_queue");
    let mut b = b.restart(Trust::Any);
    let view = b.trace(&dead);
    assert_eq!(view.state, "dead");
    assert!(view.now.contains("8000"), "{}", view.now);
    assert_eq!(b.cause(&dead), Cause::UnknownQueue);
    assert!(b.why(&dead).fix.unwrap().contains("dead resend"));
}

fn sending() -> Node {
    let mut a = Node::new(1, Trust::Any);
    a.put("qm://b/orders", b"x", |_| {});
    a
}

#[test]
fn why_names_the_failure_of_a_dial() {
    for (failure, cause) in [
        (DialFailure::Unresolved, Cause::Unresolved),
        (DialFailure::Refused, Cause::Refused),
        (DialFailure::Unreachable, Cause::Unreachable),
        (DialFailure::WrongIdentity, Cause::WrongIdentity),
        (DialFailure::Handshake, Cause::Handshake),
        (DialFailure::Version, Cause::Version),
    ] {
        let mut a = sending();
        assert_eq!(a.cause("qm://b:1801/orders"), Cause::Connecting);
        a.dial_fails(failure);
        let id = a.last_id();
        for subject in ["qm://b:1801/orders", "qm://b:1801", "orders", id.as_str()] {
            let view = a.why(subject);
            assert_eq!(view.code, cause, "{subject}");
            assert!(view.fix.is_some(), "{view:?}");
            assert!(
                view.evidence
                    .iter()
                    .any(|line| line.contains("said the test"))
            );
        }
    }
}

#[test]
fn why_names_what_the_other_node_says() {
    let approving = || (sending(), Node::new(2, Trust::Approve));
    let (mut a, mut b) = approving();
    b.create("orders");
    connect(&mut a, &mut b, LINK);
    let view = a.why("orders");
    assert_eq!(view.code, Cause::PendingApproval);
    let command = format!("qm-node peers approve {}", a.identity.qm);
    assert!(view.fix.unwrap().contains(&command));
    // Here it is the peer that waits.
    let who = a.identity.qm.to_string();
    assert_eq!(b.cause(&who), Cause::PendingApproval);
    b.admin(AdminRequest::PeerBlock { who });
    carry(&mut a, &mut b, LINK);
    a.lost(LINK);
    assert_eq!(a.cause("orders"), Cause::Blocked);
    // A blocked peer that comes again is told so, not left to guess.
    a.clock_ms = 1_000;
    a.give(1_000, Input::Tick);
    connect(&mut a, &mut b, LinkId(2));
    a.lost(LinkId(2));
    assert_eq!(a.cause("orders"), Cause::Blocked);

    let (mut a, mut b) = (sending(), Node::new(2, Trust::Any));
    b.create("orders");
    connect(&mut a, &mut b, LINK);
    b.give(0, Input::Stop);
    a.put("qm://b/orders", b"y", |_| {});
    carry(&mut a, &mut b, LINK);
    assert_eq!(a.cause("orders"), Cause::PeerStopping);
}

#[test]
fn why_names_the_full_queue_there_and_the_quota_here() {
    let (mut a, mut b) = nodes();
    let settings = LocalSettings {
        quota_messages: 1,
        ..LocalSettings::new("orders".parse().unwrap())
    };
    b.admin(AdminRequest::QueueCreate(settings));
    for body in [&b"1"[..], b"2", b"3"] {
        a.put("qm://b/orders", body, |_| {});
    }
    connect(&mut a, &mut b, LINK);
    a.put("qm://b/orders", b"4", |_| {});
    assert_eq!(a.cause("orders"), Cause::QueueFull);
    assert_eq!(b.cause("orders"), Cause::QuotaHere);
}

/// A queue here and one elsewhere have the same name: the name alone is that of the one here.
#[test]
fn why_answers_for_the_queue_here_and_not_for_its_namesake() {
    let (mut a, _) = nodes();
    a.put("qm://b/orders", b"waits", |_| {});
    let elsewhere = a.cause("orders");
    let settings = LocalSettings {
        quota_messages: 1,
        ..LocalSettings::new("orders".parse().unwrap())
    };
    a.admin(AdminRequest::QueueCreate(settings));
    a.put("orders", b"fills it", |_| {});
    assert_eq!(a.cause("orders"), Cause::QuotaHere);
    assert_eq!(a.cause("qm://b:1801/orders"), elsewhere);
}

#[test]
fn why_names_a_peer_that_fell_silent_and_not_its_credit() {
    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::narrow(2));
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    // The peer is killed: the window fills, and no ack comes.
    for _ in 0..20 {
        a.put("qm://b/orders", b"y", |_| {});
    }
    a.sent.clear();
    assert_ne!(
        a.cause("orders"),
        Cause::NoCredit,
        "nothing says that of the peer"
    );
    a.clock_ms = 700;
    let view = a.why("orders");
    assert_eq!(view.code, Cause::WaitingForAck);
    assert!(view.cause.contains("700 ms"), "{}", view.cause);
    let flying = format!("{}-5", a.engine.incarnation());
    assert_eq!(a.cause(&flying), Cause::WaitingForAck);
    // The connection is given up: what was in flight is in doubt.
    a.lost(LINK);
    assert_eq!(a.cause("orders"), Cause::Disconnected);
    let view = a.why(&flying);
    assert!(
        view.evidence[0].contains("may have been transmitted"),
        "{view:?}"
    );
}

#[test]
fn why_names_a_peer_that_grants_no_credit() {
    let (mut a, mut b) = nodes();
    b.create("orders");
    // A disk that is full from the start takes nothing.
    b.full = true;
    b.put("orders", b"fills it", |_| {});
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    assert_eq!(a.cause("orders"), Cause::NoCredit);
    assert_eq!(b.cause("orders"), Cause::StoreFull);
}

#[test]
fn why_names_what_operators_did() {
    let mut a = sending();
    a.admin(AdminRequest::OutgoingPause {
        which: Selector::All,
        paused: true,
    });
    assert_eq!(a.cause("orders"), Cause::Paused);
    a.create("here");
    assert_eq!(a.cause("here"), Cause::Empty);
    a.put("here", b"x", |_| {});
    assert_eq!(a.cause("here"), Cause::NoReceiver);
    a.admin(AdminRequest::QueuePause {
        name: "here".parse().unwrap(),
        paused: true,
    });
    assert_eq!(a.cause("here"), Cause::QueuePaused);
    a.give(0, Input::Stop);
    assert_eq!(a.cause("here"), Cause::Stopping);
    assert_eq!(a.cause("orders"), Cause::Stopping);

    let (mut a, mut b) = nodes();
    connect(&mut b, &mut a, LINK);
    let who = b.identity.qm.to_string();
    a.admin(AdminRequest::PeerBlock { who: who.clone() });
    a.put(&format!("qm:{who}/orders"), b"x", |_| {});
    assert_eq!(a.cause("orders"), Cause::BlockedHere);
    assert_eq!(a.cause(&who), Cause::BlockedHere);
}

#[test]
fn why_names_who_holds_a_message_and_what_is_before_it() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"first", |_| {});
    let first = a.last_id();
    assert_eq!(a.receive_all("here"), ["first"]);
    a.clock_ms = 4_000;
    let view = a.why(&first);
    assert_eq!(view.code, Cause::Leased);
    assert!(
        view.cause.contains("\"test\"") && view.cause.contains("for 4s"),
        "{view:?}"
    );
    assert_eq!(a.cause("here"), Cause::Leased);

    let (mut a, mut b) = (Node::new(1, Trust::Any), Node::narrow(2));
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    connect(&mut a, &mut b, LINK);
    // More than the window: the last one waits behind the others.
    for _ in 0..20 {
        a.put("qm://b/orders", b"y", |_| {});
    }
    let last = a.last_id();
    let view = a.why(&last);
    assert_eq!(view.code, Cause::Behind, "{view:?}");
    assert_eq!(a.cause("orders"), Cause::Moving);
}

#[test]
fn why_names_the_disk() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.mute = true;
    a.put("here", b"x", |_| {});
    a.clock_ms = 3_000;
    assert_eq!(a.cause("here"), Cause::DiskSlow);

    // A record that cannot be read is passed over, and waits for ever.
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    a.put("here", b"x", |_| {});
    let mut a = {
        let mut records = a.disk.records.clone();
        for record in records.values_mut() {
            record.head = Bytes::from_static(b"?");
        }
        a.disk.records = records;
        a.restart(Trust::Any)
    };
    a.give(0, Input::Tick);
    assert_eq!(a.engine.counters().unreadable, 1);
}

#[test]
fn why_tells_where_a_message_went() {
    let (mut a, mut b) = nodes();
    b.create("orders");
    a.put("qm://b/orders", b"x", |_| {});
    let id = a.last_id();
    connect(&mut a, &mut b, LINK);
    assert_eq!(a.cause(&id), Cause::Delivered);
    b.receive_all("orders");
    b.settle_all("orders", Verdict::Consume);
    assert_eq!(b.cause(&id), Cause::Received);
    a.put("qm://b/orders", b"late", |put| {
        put.time_to_reach_queue_ms = Some(0);
    });
    a.give(0, Input::Tick);
    let late = a.last_id();
    assert_eq!(a.cause(&late), Cause::Expired);
    assert_eq!(a.cause("nobody"), Cause::Unknown);
    assert_eq!(a.cause("0000000000000001-1"), Cause::Unknown);
    assert_eq!(a.cause("orders"), Cause::Idle);
    let position = a.all_letters()[0].position;
    a.fates(AdminRequest::DeadDrop {
        positions: vec![position],
    });
    assert_eq!(a.cause(&late), Cause::Purged);
}

#[test]
fn connections_are_remembered_with_their_cause() {
    let mut a = sending();
    a.dial_fails(DialFailure::Refused);
    a.clock_ms = 1_000;
    a.give(1_000, Input::Tick);
    let mut b = Node::new(2, Trust::Any);
    connect(&mut a, &mut b, LINK);
    a.lost(LINK);
    let AdminReply::Outgoing(views) = a.admin(AdminRequest::Outgoing) else {
        panic!("a list");
    };
    let events: Vec<_> = views[0].connections.iter().map(|e| e.event).collect();
    assert_eq!(events, ["dial_failed", "opened", "closed"]);
    let AdminReply::Peers(views) = a.admin(AdminRequest::Peers) else {
        panic!("a list");
    };
    assert_eq!(views[0].connections.len(), 3);
    assert!(views[0].connections[0].text.contains("refused"));
}

#[test]
fn what_comes_behind_a_refused_batch_is_refused_with_it() {
    let (mut a, mut b) = nodes();
    a.create("here");
    b.create("orders");
    a.put("here", b"0", |_| {});
    a.told.clear();
    let before = a.disk.records.len();
    a.mute = true;
    for body in [&b"1"[..], b"2", b"3"] {
        a.put("here", body, |_| {});
    }
    // The disk has no room for the first, and makes room before it sees the others. It answers in
    // order, what the engine asks for meanwhile last.
    let mut first = true;
    while !a.owed.is_empty() {
        let mut ops = a.owed[0].1.iter();
        let puts = ops.any(|op| matches!(op, StoreOp::Put { .. }));
        reply(&mut a, 0, puts && std::mem::take(&mut first));
    }
    let full = Outcome::STORE_FULL;
    let is_refused =
        |frame: &&NodeFrame| matches!(frame, NodeFrame::Refused(r) if r.outcome == full);
    let refused = a.told.iter().filter(is_refused);
    assert_eq!(refused.count(), 3, "{:?}", a.told);
    a.mute = false;
    assert_eq!(
        a.disk.records.len(),
        before,
        "nothing of them is left on disk"
    );
    a.clock_ms = 2_000;
    a.give(2_000, Input::Tick);
    for body in [&b"1"[..], b"2", b"3"] {
        a.put("here", body, |_| {});
    }
    assert_eq!(a.receive_all("here"), ["0", "1", "2", "3"]);
    let mut a = a.restart(Trust::Any);
    assert_eq!(a.receive_all("here"), ["0", "1", "2", "3"]);
}

#[test]
fn a_peer_that_met_a_full_disk_keeps_its_order() {
    let (mut a, mut b) = nodes();
    b.create("orders");
    a.put("qm://b/orders", b"0", |_| {});
    connect(&mut a, &mut b, LINK);
    a.put("qm://b/orders", b"1", |_| {});
    b.full = true;
    carry(&mut a, &mut b, LINK);
    b.full = false;
    // The session is over, so what comes later cannot be taken before what was refused.
    assert_eq!(b.closed, [Outcome::STORE_FULL]);
    a.put("qm://b/orders", b"2", |_| {});
    for node in [&mut a, &mut b] {
        node.clock_ms = 2_000;
        node.give(2_000, Input::Tick);
    }
    connect(&mut a, &mut b, LinkId(2));
    assert_eq!(b.receive_all("orders"), ["0", "1", "2"]);
}

#[test]
fn a_numbered_key_is_not_taken_for_other_content() {
    use qm_wire::local::IdempotencyKey;
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    let key = |number| {
        Some(IdempotencyKey {
            key: Bytes::from_static(b"monday"),
            number: Some(number),
        })
    };
    for number in 0..3 {
        a.put("here", b"line", |put| put.idempotency = key(number));
    }
    for _ in 0..2 {
        a.told.clear();
        a.put("here", b"line", |put| put.idempotency = key(1));
        let repeated = |frame: &NodeFrame| matches!(frame, NodeFrame::Accepted(a) if a.repeated);
        assert!(a.told.iter().any(repeated), "{:?}", a.told);
        a.put("here", b"other", |put| put.idempotency = key(1));
        let conflict = Outcome::IDEMPOTENCY_CONFLICT;
        assert!(
            matches!(a.told.last(), Some(NodeFrame::Refused(r)) if r.outcome == conflict),
            "{:?}",
            a.told
        );
        let sequence = a.next_sequence;
        a = a.restart(Trust::Any);
        a.hello();
        a.next_sequence = sequence;
    }
    assert_eq!(a.queue("here").unwrap().messages, 3);
}

#[test]
fn a_repeated_request_hears_what_became_of_its_message() {
    let (mut a, mut b) = nodes();
    b.create("orders");
    let delivered = |put: &mut qm_wire::local::Put| put.follow = Follow::Delivered;
    a.put("qm://b/orders", b"x", delivered);
    connect(&mut a, &mut b, LINK);
    // Something else waits, so that the node as a whole is not at rest.
    a.put("qm://c/orders", b"y", |_| {});
    let again = |node: &mut Node| {
        let conn = APPLICATION;
        node.give(0, Input::ClientClosed { conn });
        node.told.clear();
        node.next_sequence = 1;
        node.put("qm://b/orders", b"x", delivered);
        node.fate_told()
    };
    assert_eq!(again(&mut a), Some(Outcome::REACHED_QUEUE));
    // A later life no longer remembers how, but that it is settled.
    let mut a = a.restart(Trust::Any);
    a.give(0, Input::Tick);
    assert_eq!(again(&mut a), Some(Outcome::NOT_FOUND));
    // One that waits is followed to its end.
    let mut c = Node::new(1, Trust::Any);
    c.put("qm://b/orders", b"x", delivered);
    assert_eq!(again(&mut c), None);
    connect(&mut c, &mut b, LinkId(3));
    assert_eq!(c.fate_told(), Some(Outcome::REACHED_QUEUE));
}

#[test]
fn a_limit_that_is_reached_is_named_until_there_is_room() {
    let full_by = |node: &mut Node| {
        let AdminReply::Status(view) = node.admin(AdminRequest::Status) else {
            panic!("a status");
        };
        view.full_by
    };
    let mut a = Node::new(1, Trust::Any);
    a.limit(10_000);
    a.create("here");
    assert_eq!(full_by(&mut a), None);
    for _ in 0..3 {
        a.put("here", &[7; 4_000], |_| {});
    }
    assert_eq!(full_by(&mut a), Some(FullBy::Stored));
    let view = a.why("here");
    assert_eq!(view.code, Cause::StoreFull);
    assert!(view.cause.contains("limits.store_bytes"), "{view:?}");
    let told = |full| Event::StoreFull {
        full,
        by: FullBy::Stored,
    };
    assert_eq!(a.events.iter().filter(|e| **e == told(true)).count(), 1);
    // As soon as receivers have made room; operators hear it from the timer.
    assert_eq!(a.receive_all("here").len(), 2);
    a.settle_all("here", Verdict::Consume);
    assert_eq!(full_by(&mut a), None);
    assert!(!a.events.contains(&told(false)));
    a.put("here", &[7; 4_000], |_| {});
    assert_eq!(a.receive_all("here").len(), 1);
    a.settle_all("here", Verdict::Consume);
    a.clock_ms = 1_500;
    a.give(1_500, Input::Tick);
    assert!(a.events.contains(&told(false)));
    // What never fits does not make it full.
    a.put("here", &[7; 10_001], |_| {});
    assert_eq!(full_by(&mut a), None);
}

#[test]
fn a_disk_that_says_it_has_room_is_used_soon() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    let count = |a: &mut Node| {
        a.put("here", b"x", |_| {});
        a.disk.records.len()
    };
    let before = count(&mut a);
    a.full = true;
    assert_eq!(count(&mut a), before);
    a.full = false;
    assert_eq!(count(&mut a), before, "nobody knows yet");
    a.give(0, Input::DiskHasRoom);
    assert_eq!(count(&mut a), before, "what is under way does not overtake");
    a.clock_ms = 60;
    a.give(60, Input::Tick);
    assert_eq!(count(&mut a), before + 1);
    // Without a word it is tried again; a try that fails leaves it full.
    a.full = true;
    assert_eq!(count(&mut a), before + 1);
    a.clock_ms = 2_500;
    a.give(2_500, Input::Tick);
    let AdminReply::Status(view) = a.admin(AdminRequest::Status) else {
        panic!("a status");
    };
    assert_eq!(view.full_by, Some(FullBy::Disk), "nothing has come since");
    a.full = false;
    assert_eq!(count(&mut a), before + 2);
}

/// A node that was added to its own address book would approve itself and dial itself for ever.
#[test]
fn the_identity_of_the_node_itself_is_no_peer() {
    let mut a = Node::new(1, Trust::Approve);
    let own = a.identity.qm;
    let reply = a.admin(AdminRequest::PeerAdd {
        name: "me".to_owned(),
        address: Some("10.0.0.1:1801".to_owned()),
        qm: Some(own),
        keep_connected: false,
    });
    assert!(matches!(reply, AdminReply::Failed { .. }), "{reply:?}");
    let AdminReply::Peers(views) = a.admin(AdminRequest::Peers) else {
        panic!("{:?}", a.admin)
    };
    assert!(views.is_empty(), "{views:?}");
}

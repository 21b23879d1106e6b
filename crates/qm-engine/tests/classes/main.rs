//! The table of docs/delivery.md: what happens to a message of each class under each fault. Every
//! row is a test here, and every cell one of its rounds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../streams/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of streams, which use all of it"
)]
mod support;

mod schedules;

use qm_engine::{EngineConfig, LinkId};
use qm_wire::{Class, Outcome, PeerFrame, Query};
use support::{Disk, Node, carry, carry_but, connect, numbers, plug, reconnect};

const LINK: LinkId = LinkId(1);
const NEXT: LinkId = LinkId(2);
const CLASSES: [Class; 3] = [Class::Express, Class::Recoverable, Class::Transactional];

/// Two nodes that have met; the second has the queue.
fn met(class: Class) -> (Node, Node) {
    met_with(class, |_| {})
}

/// The same, with settings of the second.
fn met_with(class: Class, configure: fn(&mut EngineConfig)) -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::with(2, configure));
    b.create("orders", |settings| {
        settings.transactional = class == Class::Transactional;
    });
    send(&mut a, class, [0]);
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["0"]);
    (a, b)
}

fn send(a: &mut Node, class: Class, bodies: impl IntoIterator<Item = usize>) {
    for body in bodies {
        a.put("qm://b/orders", &body.to_string(), |put| put.class = class);
    }
}

const fn is_data(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::Data(_))
}

const fn is_ack(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::SessionAck(_) | PeerFrame::OrderAck(_))
}

/// Whether a node asks for these before it sends them again.
fn asks(frames: &[PeerFrame], entries: usize) -> bool {
    let query = frames.iter().position(|frame| match frame {
        PeerFrame::Query(Query { entries: all, .. }) => all.len() == entries,
        _ => false,
    });
    let data = frames.iter().position(is_data);
    query.is_some_and(|query| data.is_none_or(|data| query < data))
}

/// What is left at the sender when all is told.
fn is_settled(a: &mut Node) -> bool {
    a.dead().is_empty() && {
        use qm_engine::admin::{AdminReply, AdminRequest};
        match a.ask(AdminRequest::Outgoing) {
            AdminReply::Outgoing(all) => {
                all.iter().all(|out| out.waiting + out.unacknowledged == 0)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_link_is_lost() {
    for class in CLASSES {
        for arrived in [false, true] {
            let (mut a, mut b) = met(class);
            send(&mut a, class, 1..=2);
            carry_but(&mut a, &mut b, LINK, |frame| {
                is_ack(frame) || !arrived && is_data(frame)
            });
            a.lose_link(LINK);
            b.lose_link(LINK);
            a.wait(60_000);
            plug(&mut a, &mut b, NEXT);
            let mut said = Vec::new();
            carry_but(&mut a, &mut b, NEXT, |frame| {
                said.push(frame.clone());
                false
            });
            assert!(
                asks(&said, 2),
                "{class:?} {arrived}: asked for, not sent blindly"
            );
            assert_eq!(b.receive("orders"), numbers(1..=2), "{class:?} {arrived}");
            assert!(is_settled(&mut a), "{class:?} {arrived}");
        }
    }
}

/// A message arrives and is received, and a copy of it comes.
fn send_twice(a: &mut Node, b: &mut Node, class: Class) {
    send(a, class, [1]);
    let sent = a.sent_on(LINK);
    b.hear_all(LINK, &sent);
    carry(a, b, LINK);
    assert_eq!(b.receive("orders"), ["1"]);
    let mut copy = sent.into_iter().find(is_data).unwrap();
    if let PeerFrame::Data(data) = &mut copy {
        data.number += 1;
    }
    b.hear(LINK, &copy);
}

#[test]
fn a_copy_comes_again() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        send_twice(&mut a, &mut b, class);
        assert!(
            b.sent_on(LINK).iter().any(is_ack),
            "{class:?}: acknowledged again"
        );
        assert!(b.receive("orders").is_empty(), "{class:?}");
    }
}

/// Without a cache nothing recognises what belongs to no stream.
#[test]
fn a_copy_comes_again_and_no_cache_remembers_it() {
    for class in CLASSES {
        let (mut a, mut b) = met_with(class, |config| config.dedup_capacity = 0);
        send_twice(&mut a, &mut b, class);
        assert!(b.sent_on(LINK).iter().any(is_ack), "{class:?}");
        let again = usize::from(class != Class::Transactional);
        assert_eq!(b.receive("orders").len(), again, "{class:?}");
    }
}

#[test]
fn the_sender_dies() {
    for class in CLASSES {
        for transmitted in [false, true] {
            let (mut a, mut b) = met(class);
            send(&mut a, class, 1..=2);
            if transmitted {
                carry_but(&mut a, &mut b, LINK, is_ack);
            }
            let mut a = a.crash();
            b.lose_link(LINK);
            a.wait(60_000);
            // So that it dials, whatever it has.
            send(&mut a, class, [3]);
            plug(&mut a, &mut b, NEXT);
            let mut said = Vec::new();
            carry_but(&mut a, &mut b, NEXT, |frame| {
                said.push(frame.clone());
                false
            });
            let asked = class != Class::Express;
            assert_eq!(asks(&said, 2), asked, "{class:?} {transmitted}");
            let lost = class == Class::Express && !transmitted;
            let expected = if lost { numbers([3]) } else { numbers(1..=3) };
            assert_eq!(b.receive("orders"), expected, "{class:?} {transmitted}");
            assert!(is_settled(&mut a), "{class:?} {transmitted}");
        }
    }
}

#[test]
fn the_destination_dies_before_its_commit() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        send(&mut a, class, 1..=2);
        b.hold_disk = true;
        carry(&mut a, &mut b, LINK);
        let mut b = b.die_with(|_| false);
        a.lose_link(LINK);
        a.wait(60_000);
        send(&mut a, class, [3]);
        connect(&mut a, &mut b, NEXT);
        let lost = class == Class::Express;
        let expected = if lost { numbers([3]) } else { numbers(1..=3) };
        assert_eq!(b.receive("orders"), expected, "{class:?}");
    }
}

#[test]
fn the_destination_dies_behind_its_commit() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        send(&mut a, class, 1..=2);
        carry_but(&mut a, &mut b, LINK, is_ack);
        let mut b = b.crash();
        a.lose_link(LINK);
        a.wait(60_000);
        send(&mut a, class, [3]);
        connect(&mut a, &mut b, NEXT);
        // An express message is sent again while its sender has no ack for it.
        assert_eq!(b.receive("orders"), numbers(1..=3), "{class:?}");
        assert!(is_settled(&mut a), "{class:?}");
        // One that was acknowledged is lost.
        send(&mut a, class, [4]);
        carry(&mut a, &mut b, NEXT);
        let mut b = b.crash();
        let expected = if class == Class::Express {
            vec![]
        } else {
            numbers([4])
        };
        assert_eq!(b.receive("orders"), expected, "{class:?}");
    }
}

#[test]
fn the_destination_has_a_full_disk() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        send(&mut a, class, 1..=2);
        b.hold_disk = true;
        carry(&mut a, &mut b, LINK);
        if class == Class::Express {
            // It needs no disk.
            assert_eq!(b.take("orders", 9, None).len(), 2);
            continue;
        }
        b.release_disk(1);
        assert!(b.receive("orders").is_empty(), "{class:?}");
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert_eq!(b.receive("orders"), numbers(1..=2), "{class:?}");
        assert!(is_settled(&mut a), "{class:?}");
    }
}

#[test]
fn the_queue_is_full() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        let mut settings = qm_engine::LocalSettings::new("orders".parse().unwrap());
        settings.transactional = class == Class::Transactional;
        settings.quota_messages = 1;
        b.ask(qm_engine::admin::AdminRequest::QueueSet(settings));
        for n in 1..=3 {
            send(&mut a, class, [n]);
            carry(&mut a, &mut b, LINK);
        }
        assert!(a.dead().is_empty() && !is_settled(&mut a), "{class:?}");
        let mut all = Vec::new();
        for _ in 0..3 {
            all.extend(b.receive("orders"));
            carry(&mut a, &mut b, LINK);
        }
        assert_eq!(all, numbers(1..=3), "{class:?}");
        assert!(is_settled(&mut a), "{class:?}");
    }
}

/// Too large, for a queue that is not there, for one of the other kind: what is behind it arrives.
#[test]
fn one_does_not_fit_its_destination() {
    for class in CLASSES {
        for (queue, body, outcome) in [
            ("orders", "larger than it takes", Outcome::BODY_TOO_LARGE),
            ("nowhere", "x", Outcome::BAD_DESTINATION_QUEUE),
            (
                "other",
                "x",
                if class == Class::Transactional {
                    Outcome::NOT_TRANSACTIONAL_QUEUE
                } else {
                    Outcome::NOT_TRANSACTIONAL_MESSAGE
                },
            ),
        ] {
            let (mut a, mut b) = met_with(class, |config| config.body_bytes_max = 10);
            b.create("other", |settings| {
                settings.transactional = class != Class::Transactional;
            });
            send(&mut a, class, [1]);
            a.put(&format!("qm://b/{queue}"), body, |put| put.class = class);
            send(&mut a, class, [2]);
            carry(&mut a, &mut b, LINK);
            assert_eq!(b.receive("orders"), numbers(1..=2), "{class:?} {queue}");
            let letters = a.dead();
            assert_eq!(letters.len(), 1, "{class:?} {queue}");
            assert_eq!(letters[0].outcome, outcome, "{class:?} {queue}");
            assert!(!letters[0].unconfirmed && !letters[0].uncertain);
        }
    }
}

#[test]
fn one_is_refused() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        send(&mut a, class, [1]);
        a.put("qm://b/orders", "refused", |put| {
            put.class = class;
            put.time_to_be_received_ms = Some(1_000);
        });
        send(&mut a, class, [2]);
        // On its way for longer than its time.
        let mut sent = a.sent_on(LINK);
        for frame in &mut sent {
            if let PeerFrame::Data(data) = frame
                && data.body == "refused"
            {
                data.transit.be_received_left_ms = 0;
            }
        }
        b.hear_all(LINK, &sent);
        carry(&mut a, &mut b, LINK);
        assert_eq!(b.receive("orders"), numbers(1..=2), "{class:?}");
        let letters = a.dead();
        assert_eq!(letters.len(), 1, "{class:?}");
        assert_eq!(letters[0].outcome, Outcome::REACH_QUEUE_EXPIRED);
        assert!(
            !letters[0].unconfirmed && !letters[0].uncertain,
            "{class:?}"
        );
    }
}

#[test]
fn the_sender_goes_back_to_a_backup() {
    for (class, remembers) in [
        (Class::Recoverable, true),
        (Class::Recoverable, false),
        (Class::Transactional, true),
        (Class::Transactional, false),
    ] {
        let no_cache = |config: &mut EngineConfig| config.dedup_capacity = 0;
        let (mut a, mut b) = if remembers {
            met(class)
        } else {
            met_with(class, no_cache)
        };
        send(&mut a, class, 1..=2);
        let backup = a.disk.clone();
        carry(&mut a, &mut b, LINK);
        send(&mut a, class, [3]);
        carry(&mut a, &mut b, LINK);
        let mut a = a.over_disk(backup);
        send(&mut a, class, [4]);
        reconnect(&mut a, &mut b, LINK, NEXT);
        // 1 and 2 it has again. They are known, by the stream or by the cache.
        let mut expected = numbers(1..=4);
        if !remembers && class == Class::Recoverable {
            expected = numbers([1, 2, 3, 1, 2, 4]);
        }
        assert_eq!(b.receive("orders"), expected, "{class:?} {remembers}");
        assert!(is_settled(&mut a), "{class:?}");
    }
}

#[test]
fn the_sender_is_cloned() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        send(&mut a, class, 1..=2);
        let mut clone = Node::clone_of(&a, 77);
        carry(&mut a, &mut b, LINK);
        send(&mut clone, class, [14]);
        clone.wait(60_000);
        connect(&mut clone, &mut b, NEXT);
        send(&mut a, class, [5]);
        carry(&mut a, &mut b, LINK);
        let mut all = b.receive("orders");
        all.sort_by_key(|body| body.parse::<usize>().unwrap());
        assert_eq!(all, numbers([1, 2, 5, 14]), "{class:?}");
    }
}

#[test]
fn the_destination_goes_back_to_a_backup() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        let backup = b.disk.clone();
        send(&mut a, class, [1]);
        carry(&mut a, &mut b, LINK);
        let mut b = b.over_disk(backup);
        send(&mut a, class, [2]);
        reconnect(&mut a, &mut b, LINK, NEXT);
        let stands = class == Class::Transactional;
        let expected = if stands { vec![] } else { numbers([2]) };
        assert_eq!(b.receive("orders"), expected, "{class:?}: 1 is lost");
        assert_eq!(is_settled(&mut a), !stands, "{class:?}");
    }
}

#[test]
fn the_destination_has_a_new_store() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        send(&mut a, class, [1]);
        carry(&mut a, &mut b, LINK);
        send(&mut a, class, 2..=3);
        let _lost = a.sent_on(LINK);
        b.identity.store_id = [99; 16];
        let mut b = b.over_disk(Disk::default());
        b.create("orders", |settings| {
            settings.transactional = class == Class::Transactional;
        });
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert_eq!(b.receive("orders"), numbers(2..=3), "{class:?}");
        assert!(is_settled(&mut a), "{class:?}");
    }
}

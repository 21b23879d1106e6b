//! Who may speak, and what is no end.

use qm_engine::Event;
use qm_wire::{
    Class, Entry, Final, FinalConfirm, Known, Outcome, PeerFrame, Query, Succession, Tag,
};

use super::support::{Node, carry_but, connect};
use super::{CLASSES, LINK, NEXT, consumed, finals_of, is_final};

/// The entry of what a node tells of.
fn told(b: &mut Node) -> Entry {
    let sent = b.sent_on(LINK);
    let told = sent.iter().find_map(|frame| match frame {
        PeerFrame::Final(told) => Some(told.entries[0].0),
        _ => None,
    });
    told.unwrap()
}

fn misbehaved(node: &Node) -> bool {
    let misbehaved = |event: &Event| matches!(event, Event::PeerMisbehaved { .. });
    node.events.iter().any(misbehaved)
}

/// W-USE-1, W-FIN-1: only the queue manager that a message was sent to is heard about its end.
#[test]
fn nobody_but_the_destination_is_heard_about_an_end() {
    for class in CLASSES {
        let (mut a, mut b) = consumed(class);
        let entry = told(&mut b);
        let mut c = Node::new(3);
        a.put("qm://c/other", "x", |put| put.class = class);
        connect(&mut a, &mut c, NEXT);
        let source = a.identity.qm;
        let lie = PeerFrame::Final(Final {
            source,
            entries: vec![(entry, Outcome::QUEUE_PURGED)],
        });
        a.hear(NEXT, &lie);
        let not_held = |frame: &PeerFrame| match frame {
            PeerFrame::NotHeld(not_held) => not_held.entries == [(entry, true)],
            _ => false,
        };
        assert!(a.sent_on(NEXT).iter().any(not_held));
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
        // The same from the right one, with another tag.
        let other = Entry {
            tag: Tag([9; 8]),
            ..entry
        };
        a.hear(
            LINK,
            &PeerFrame::Final(Final {
                source,
                entries: vec![(other, Outcome::QUEUE_PURGED)],
            }),
        );
        assert_eq!(a.fates(), []);
        a.hear(
            LINK,
            &PeerFrame::Final(Final {
                source,
                entries: vec![(entry, Outcome::RECEIVED)],
            }),
        );
        assert_eq!(a.fates(), [Outcome::RECEIVED]);
    }
}

#[test]
fn a_final_that_is_no_end_is_a_breach_of_the_protocol() {
    for outcome in [
        Outcome(0),
        Outcome::REACHED_QUEUE,
        Outcome::QUOTA_EXCEEDED,
        Outcome::VOIDED,
    ] {
        let (mut a, mut b) = consumed(Class::Recoverable);
        let entry = told(&mut b);
        let source = a.identity.qm;
        let entries = vec![(entry, outcome)];
        a.hear(LINK, &PeerFrame::Final(Final { source, entries }));
        assert!(misbehaved(&a), "{outcome}");
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE], "{outcome}");
    }
    // One of a later version that is of this kind is passed on.
    let (mut a, mut b) = consumed(Class::Recoverable);
    let entry = told(&mut b);
    let source = a.identity.qm;
    let entries = vec![(entry, Outcome(0xC0FE))];
    a.hear(LINK, &PeerFrame::Final(Final { source, entries }));
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome(0xC0FE)]);
}

#[test]
fn a_peer_confirms_and_asks_for_nothing_but_its_own() {
    let (a, mut b) = consumed(Class::Recoverable);
    let entry = told(&mut b);
    for asks in [false, true] {
        let mut c = Node::new(3);
        c.put("qm://b/orders", "x", |put| put.class = Class::Recoverable);
        connect(&mut c, &mut b, NEXT);
        let (source, entries) = (a.identity.qm, vec![entry]);
        let frame = if asks {
            let void = false;
            PeerFrame::Query(Query {
                source,
                void,
                entries,
            })
        } else {
            PeerFrame::FinalConfirm(FinalConfirm { source, entries })
        };
        b.events.clear();
        b.hear(NEXT, &frame);
        assert!(misbehaved(&b), "{asks}");
        assert_eq!(finals_of(&b), 1, "{asks}");
        b.wait(120_000);
    }
    // In its own name it touches nothing of others.
    let mut c = Node::new(3);
    c.put("qm://b/orders", "x", |put| put.class = Class::Recoverable);
    connect(&mut c, &mut b, NEXT);
    let (source, entries) = (c.identity.qm, vec![entry]);
    b.hear(
        NEXT,
        &PeerFrame::FinalConfirm(FinalConfirm { source, entries }),
    );
    assert_eq!(finals_of(&b), 1);
}

/// Whoever says that he does not hold it settles nothing: he may be a copy of the sender.
#[test]
fn not_held_ends_no_final_and_is_not_told_without_end() {
    let (mut a, mut b) = consumed(Class::Recoverable);
    let entry = told(&mut b);
    for _ in 0..10 {
        b.hear(
            LINK,
            &PeerFrame::NotHeld(qm_wire::NotHeld {
                source: a.identity.qm,
                entries: vec![(entry, true)],
            }),
        );
        let sent = b.sent_on(LINK);
        assert!(!sent.iter().any(is_final), "{sent:?}");
    }
    assert_eq!(finals_of(&b), 1);
    a.lose_link(LINK);
    b.lose_link(LINK);
    a.wait(60_000);
    super::support::plug(&mut a, &mut b, NEXT);
    let mut told = 0;
    carry_but(&mut a, &mut b, NEXT, |frame| {
        told += usize::from(is_final(frame));
        false
    });
    assert_eq!(told, 0, "its sender asks");
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
}

/// That one node is another from now on, with signatures that are believed.
fn succession(old: &Node, new: &Node) -> PeerFrame {
    PeerFrame::Succession(Succession {
        old_key: old.identity.public_key,
        new_key: new.identity.public_key,
        old_signature: [1; 64],
        new_signature: [2; 64],
    })
}

/// W-FIN-4: a sender that has another identity by now asks for what it sent under the former one.
#[test]
fn a_sender_hears_of_its_ends_also_under_another_identity() {
    let (a, mut b) = consumed(Class::Recoverable);
    let entry = told(&mut b);
    let (source, entries) = (a.identity.qm, vec![entry]);
    let mut heir = Node::new(4);
    heir.put("qm://b/orders", "x", |put| put.class = Class::Recoverable);
    connect(&mut heir, &mut b, NEXT);
    b.believes = true;
    b.hear(NEXT, &succession(&a, &heir));
    let void = false;
    b.hear(
        NEXT,
        &PeerFrame::Query(Query {
            source,
            void,
            entries: entries.clone(),
        }),
    );
    let answered = |frame: &PeerFrame| match frame {
        PeerFrame::Answer(answer) => {
            answer.source == source
                && answer.entries == [(entry, Known::Outcome(Outcome::RECEIVED))]
        }
        _ => false,
    };
    assert!(b.sent_on(NEXT).iter().any(answered));
    b.hear(
        NEXT,
        &PeerFrame::FinalConfirm(FinalConfirm {
            source,
            entries: entries.clone(),
        }),
    );
    assert_eq!(finals_of(&b), 0);
    assert!(!misbehaved(&b));
    let void = true;
    b.hear(
        NEXT,
        &PeerFrame::Query(Query {
            source,
            void,
            entries,
        }),
    );
    assert!(misbehaved(&b), "it voids nothing of the former one");
}

/// W-USE-1: whoever the destination has become may speak for it.
#[test]
fn a_successor_of_the_destination_is_heard_about_an_end() {
    for proven in [false, true] {
        let (mut a, mut b) = consumed(Class::Recoverable);
        let entry = told(&mut b);
        let mut heir = Node::new(4);
        a.put("qm://c/other", "x", |put| put.class = Class::Recoverable);
        connect(&mut a, &mut heir, NEXT);
        a.believes = true;
        if proven {
            a.hear(NEXT, &succession(&b, &heir));
        }
        let (source, entries) = (a.identity.qm, vec![(entry, Outcome::RECEIVED)]);
        a.hear(NEXT, &PeerFrame::Final(Final { source, entries }));
        let told = a.fates().last().copied();
        assert_eq!(told == Some(Outcome::RECEIVED), proven);
    }
}

//! When the word of a destination is certain, and when it can no longer know (W-FIN-2).

use qm_engine::admin::{AdminReply, AdminRequest, DeadLetterView};
use qm_wire::{Class, Evicted, Outcome, PeerFrame};

use super::support::{Node, carry, carry_but, connect, plug, reconnect};
use super::{CLASSES, LATER, LINK, NEXT, asks_of, met, purge, put};

/// A message whose transmission is lost and whose time runs out, asked for on a new session.
fn expire_in_doubt(a: &mut Node, b: &mut Node) -> DeadLetterView {
    put(a, Class::Recoverable, "1", Some(5_000));
    let _lost = a.sent_on(LINK);
    reconnect(a, b, LINK, NEXT);
    assert_eq!(asks_of(a), 0);
    a.dead().remove(0)
}

fn resend(a: &mut Node, letter: &DeadLetterView, force: bool) -> Option<Outcome> {
    let reply = a.ask(AdminRequest::DeadResend {
        positions: vec![letter.position],
        force,
        to: None,
    });
    let AdminReply::LetterFates(fates) = reply else {
        panic!("{reply:?}")
    };
    fates[0].outcome
}

#[test]
fn a_letter_is_certain_while_the_destination_is_in_the_life_that_was_known() {
    let (mut a, mut b) = met();
    let letter = expire_in_doubt(&mut a, &mut b);
    assert!(!letter.unconfirmed && !letter.uncertain);
    assert_eq!(resend(&mut a, &letter, false), None);
}

/// It may have taken it in its earlier life, whose cache is gone.
#[test]
fn a_destination_that_restarted_leaves_the_letter_uncertain() {
    for class in CLASSES {
        let (mut a, b) = met();
        put(&mut a, class, "1", Some(5_000));
        let _lost = a.sent_on(LINK);
        a.lose_link(LINK);
        let mut b = b_restarted(&b);
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        let letter = a.dead().remove(0);
        assert!(letter.uncertain && !letter.unconfirmed, "{class:?}");
        assert_eq!(a.engine.counters().uncertain_by_restart, 1);
        assert_eq!(resend(&mut a, &letter, false), Some(Outcome::BAD_REQUEST));
        assert_eq!(resend(&mut a, &letter, true), None);
        carry(&mut a, &mut b, NEXT);
        assert_eq!(b.receive("orders"), ["1"]);
        // What is minted knowing its new life is certain again.
        put(&mut a, class, "2", Some(5_000));
        let _lost = a.sent_on(NEXT);
        reconnect(&mut a, &mut b, NEXT, LATER);
        let letter = a.dead().remove(0);
        assert!(!letter.uncertain && !letter.unconfirmed, "{class:?}");
    }
}

fn b_restarted(b: &Node) -> Node {
    Node::clone_of(b, 9)
}

#[test]
fn which_life_was_known_is_remembered_over_restarts_of_the_sender() {
    let (mut a, mut b) = met();
    // It is written with the next message.
    put(&mut a, Class::Recoverable, "0", None);
    carry(&mut a, &mut b, LINK);
    let mut a = a.crash();
    b.lose_link(LINK);
    put(&mut a, Class::Recoverable, "never met since", Some(80_000));
    let mut a = a.crash();
    a.wait(1_000);
    plug(&mut a, &mut b, NEXT);
    carry_but(&mut a, &mut b, NEXT, |frame| {
        matches!(frame, PeerFrame::Data(_) | PeerFrame::Answer(_))
    });
    a.wait(80_000);
    reconnect(&mut a, &mut b, NEXT, LATER);
    let letter = a.dead().remove(0);
    assert!(!letter.uncertain && !letter.unconfirmed);
}

#[test]
fn what_was_minted_before_the_destination_was_ever_met_is_uncertain() {
    for class in CLASSES {
        let (mut a, mut b) = (Node::new(1), Node::new(2));
        b.create("orders", |settings| settings.transactional = false);
        put(&mut a, class, "1", Some(5_000));
        plug(&mut a, &mut b, LINK);
        carry_but(&mut a, &mut b, LINK, |frame| {
            matches!(frame, PeerFrame::Data(_))
        });
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert!(a.dead()[0].uncertain);
    }
}

/// The destination tells up to where it may have forgotten, and below that nothing is certain.
#[test]
fn below_what_the_destination_may_have_forgotten_a_letter_is_uncertain() {
    for class in CLASSES {
        let small = |config: &mut qm_engine::EngineConfig| config.dedup_capacity = 4;
        let (mut a, mut b) = (Node::new(1), Node::with(2, small));
        b.create("orders", |settings| settings.transactional = false);
        put(&mut a, class, "0", None);
        connect(&mut a, &mut b, LINK);
        // Lost on the way, while later ones arrive and push out what was before.
        put(&mut a, class, "lost", Some(100_000));
        let _lost = a.sent_on(LINK);
        for n in 0..6 {
            put(&mut a, class, &n.to_string(), None);
        }
        carry(&mut a, &mut b, LINK);
        a.lose_link(LINK);
        b.lose_link(LINK);
        put(&mut a, class, "newest", None);
        a.wait(100_000);
        // Of the one that was never transmitted nothing is asked.
        purge(&mut a);
        let unconfirmed = a.dead().iter().filter(|l| l.unconfirmed).count();
        assert_eq!(unconfirmed, 1);
        b.wait(100_000);
        let mut evicted = Vec::new();
        put(&mut a, class, "dials", None);
        plug(&mut a, &mut b, NEXT);
        carry_but(&mut a, &mut b, NEXT, |frame| {
            if let PeerFrame::Evicted(Evicted { marks, .. }) = frame {
                evicted.extend(marks.iter().map(|(_, mark)| *mark));
            }
            false
        });
        assert_eq!(evicted, [4], "0, lost, 0, 1 of 1 to 8");
        let letters = a.dead();
        let lost = letters.iter().find(|l| l.body_bytes == 4).unwrap();
        assert!(lost.uncertain && !lost.unconfirmed, "{lost:?}");
        assert_eq!(a.engine.counters().uncertain_by_forgetting, 1);
    }
}

#[test]
fn a_refusal_of_what_was_transmitted_before_is_asked_about() {
    for class in CLASSES {
        let (mut a, mut b) = met();
        put(&mut a, class, "1", None);
        a.put("qm://b/nowhere", "2", |put| put.class = class);
        carry_but(&mut a, &mut b, LINK, |frame| {
            matches!(frame, PeerFrame::Data(_))
        });
        a.lose_link(LINK);
        b.lose_link(LINK);
        a.wait(60_000);
        plug(&mut a, &mut b, NEXT);
        let mut voids = 0;
        carry_but(&mut a, &mut b, NEXT, |frame| {
            voids += usize::from(matches!(frame, PeerFrame::Query(query) if query.void));
            false
        });
        assert_eq!(
            voids, 1,
            "the refusal alone says nothing of the first transmission"
        );
        assert_eq!(b.receive("orders"), ["1"]);
        let letter = a.dead().remove(0);
        assert_eq!(letter.outcome, Outcome::BAD_DESTINATION_QUEUE);
        assert!(!letter.unconfirmed && !letter.uncertain);
    }
}

/// Whoever is refused as a sender may have been let in before: nobody can be asked any more.
#[test]
fn a_denied_message_is_uncertain_when_it_was_transmitted_before() {
    for class in CLASSES {
        for again in [false, true] {
            let (mut a, mut b) = met();
            // Looked at, it is there.
            b.dead();
            a.put("qm://b/dead$", "1", |put| put.class = class);
            if again {
                let _lost = a.sent_on(LINK);
                reconnect(&mut a, &mut b, LINK, NEXT);
            } else {
                carry(&mut a, &mut b, LINK);
            }
            let letter = a.dead().remove(0);
            assert_eq!(letter.outcome, Outcome::ACCESS_DENIED);
            assert_eq!((letter.uncertain, letter.unconfirmed), (again, false));
            let counted = a.engine.counters().uncertain_by_refusal;
            assert_eq!(counted, u64::from(again));
        }
    }
}

//! The word of a destination that comes at a moment when nothing can be done with it.

use qm_engine::admin::AdminRequest;
use qm_engine::{ConnId, Input};
use qm_wire::local::{Follow, NodeFrame, Verdict};
use qm_wire::{Answer, Class, Entry, Known, Outcome, PeerFrame};

use super::support::{Node, carry, carry_but, plug};
use super::{CLASSES, LINK, NEXT, asks_of, is_answer, met};

/// A message that arrived, although its sender did not hear so. Its sender has met the destination
/// again, and what this would say of the message is kept back and returned.
fn arrived_unheard(class: Class) -> (Node, Node, Vec<(Entry, Known)>) {
    these_arrived_unheard(class, 1, Follow::Delivered)
}

/// The same of some messages that are followed so.
fn these_arrived_unheard(
    class: Class,
    messages: usize,
    follow: Follow,
) -> (Node, Node, Vec<(Entry, Known)>) {
    let (mut a, mut b) = met();
    for n in 1..=messages {
        a.put("qm://b/orders", &n.to_string(), |put| {
            put.class = class;
            put.time_to_reach_queue_ms = Some(5_000);
            put.follow = follow;
        });
    }
    carry_but(&mut a, &mut b, LINK, is_answer);
    a.lose_link(LINK);
    b.lose_link(LINK);
    a.wait(1_000);
    plug(&mut a, &mut b, NEXT);
    let mut words: Vec<(Entry, Known)> = Vec::new();
    carry_but(&mut a, &mut b, NEXT, |frame| match frame {
        PeerFrame::Answer(answer) => {
            words.extend(answer.entries.iter().filter(|(e, _)| e.id.sequence > 0));
            true
        }
        _ => false,
    });
    assert_eq!(words.len(), messages);
    assert!(words.iter().all(|(_, known)| *known == Known::Delivered));
    (a, b, words)
}

fn say(a: &mut Node, entries: &[(Entry, Known)]) {
    let source = a.identity.qm;
    let entries = entries.to_vec();
    a.hear(NEXT, &PeerFrame::Answer(Answer { source, entries }));
}

#[test]
fn what_is_heard_before_the_letter_is_on_disk_withdraws_it_then() {
    for class in CLASSES {
        for refused in [0, 1] {
            let (mut a, mut b, words) = arrived_unheard(class);
            a.hold_disk = true;
            a.wait(5_000);
            say(&mut a, &words);
            a.release_disk(refused);
            carry(&mut a, &mut b, NEXT);
            if refused > 0 {
                // The message was where it was, and its time was out once more.
                a.wait(60_000);
                carry(&mut a, &mut b, NEXT);
            }
            assert_eq!(a.dead().len(), 0, "{refused}");
            assert_eq!(asks_of(&a), 0, "{refused}");
            assert_eq!(a.crash().dead().len(), 0, "{refused}");
            assert_eq!(b.receive("orders"), ["1"]);
        }
    }
}

/// Nothing may be ended before what began it is on disk: the end would be written first.
#[test]
fn no_word_before_the_letter_is_on_disk_leaves_it_open() {
    let (mut a, mut b, mut words) = arrived_unheard(Class::Recoverable);
    a.hold_disk = true;
    a.wait(5_000);
    words[0].1 = Known::Outcome(Outcome::VOIDED);
    say(&mut a, &words);
    a.release_disk(0);
    carry(&mut a, &mut b, NEXT);
    assert_eq!((a.dead().len(), asks_of(&a)), (0, 0));
}

/// The letter is in an application's hands when its destination says that it has the message.
#[test]
fn a_letter_that_is_held_goes_when_it_is_settled() {
    for class in CLASSES {
        for (verdict, crash) in [
            (Verdict::GiveBack, false),
            (Verdict::Consume, false),
            (Verdict::GiveBack, true),
        ] {
            let (mut a, mut b, words) = arrived_unheard(class);
            a.wait(5_000);
            let held = a.take("dead$", 1, None);
            assert_eq!(held.len(), 1);
            say(&mut a, &words);
            assert!(a.dead()[0].unconfirmed && a.dead()[0].leased);
            if crash {
                a = a.crash();
                b.lose_link(NEXT);
                a.wait(60_000);
                super::support::connect(&mut a, &mut b, super::LATER);
            } else {
                a.settle("dead$", held[0].lookup, verdict);
            }
            assert_eq!(a.dead().len(), 0, "{verdict:?} {crash}");
            assert_eq!(asks_of(&a), 0, "{verdict:?} {crash}");
            let notes = |key: &&bytes::Bytes| key.starts_with(b"letter/");
            assert_eq!(a.disk.state.keys().filter(notes).count(), 0);
            assert_eq!(a.crash().dead().len(), 0);
        }
    }
}

#[test]
fn what_is_being_stored_there_is_asked_again_after_a_second() {
    let (mut a, _b, mut words) = arrived_unheard(Class::Recoverable);
    a.wait(5_000);
    words[0].1 = Known::InFlight;
    let queries = |a: &mut Node| {
        let sent = a.sent_on(NEXT);
        sent.iter()
            .filter(|frame| matches!(frame, PeerFrame::Query(query) if query.void))
            .count()
    };
    assert_eq!(queries(&mut a), 1);
    for _ in 0..10 {
        say(&mut a, &words);
    }
    assert_eq!(queries(&mut a), 0, "asked although no time passed");
    a.wait(999);
    assert_eq!(queries(&mut a), 0);
    a.wait(1);
    assert_eq!(queries(&mut a), 1);
}

/// A crash brings the question back, and its next answer may be another one.
#[test]
fn a_death_is_told_when_it_is_on_disk_that_the_question_has_ended() {
    let (mut a, _b, mut words) = arrived_unheard(Class::Recoverable);
    a.wait(5_000);
    words[0].1 = Known::Outcome(Outcome::VOIDED);
    a.hold_disk = true;
    say(&mut a, &words);
    let fates = |a: &mut Node| {
        let told = std::mem::take(&mut a.told).into_iter();
        let fates = told.filter_map(|frame| match frame {
            NodeFrame::Fate(fate) => Some(fate.runs),
            _ => None,
        });
        fates.flatten().map(|run| run.2).collect::<Vec<_>>()
    };
    assert_eq!(fates(&mut a), []);
    a.release_disk(0);
    assert_eq!(fates(&mut a), [Outcome::REACH_QUEUE_EXPIRED]);
}

/// An operator sends the letter again when its destination says that it has the message, and the
/// disk takes or refuses what is sent.
#[test]
fn a_letter_that_is_being_sent_again_goes_whatever_the_disk_makes_of_it() {
    for class in CLASSES {
        for refused in [0, 1] {
            let (mut a, mut b, words) = arrived_unheard(class);
            a.wait(5_000);
            let positions = vec![a.dead()[0].position];
            a.hold_disk = true;
            a.give(Input::Admin {
                conn: ConnId(1),
                request: 1,
                what: AdminRequest::DeadResend {
                    positions,
                    force: true,
                    to: None,
                },
            });
            assert_eq!(a.waiting.len(), 1);
            say(&mut a, &words);
            a.release_disk(refused);
            let notes = |a: &Node| {
                let note = |key: &&bytes::Bytes| key.starts_with(b"letter/");
                a.disk.state.keys().filter(note).count()
            };
            assert_eq!((a.dead().len(), asks_of(&a), notes(&a)), (0, 0, 0));
            carry(&mut a, &mut b, NEXT);
            assert_eq!(b.receive("orders").len(), 2 - refused);
            assert_eq!(a.crash().dead().len(), 0);
        }
    }
}

/// One question about all of them: each costs a look at all that are open.
#[test]
fn of_many_that_had_arrived_it_is_asked_once_how_they_ended() {
    let (mut a, _b, words) = these_arrived_unheard(Class::Recoverable, 20, Follow::Received);
    a.wait(5_000);
    assert_eq!(a.dead().len(), 20);
    a.sent_on(NEXT);
    say(&mut a, &words);
    let sent = a.sent_on(NEXT);
    let asked = sent.iter().filter_map(|frame| match frame {
        PeerFrame::Query(query) => Some((query.void, query.entries.len())),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [(false, 20)]);
}

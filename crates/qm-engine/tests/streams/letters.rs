//! Dead letters of what left its stream: the word of the destination withdraws them, also when it
//! comes at a moment when nothing can be done with it.

use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::{Input, LinkId};
use qm_wire::local::{Follow, Verdict};
use qm_wire::{Known, LinkAt, MessageFlags, Outcome, PeerFrame, Refusal, Reject, Skipped};

use super::anew::{begins_anew_behind_a_letter, rebase};
use super::support::*;
use super::{LINK, NEXT, is_answer, is_quiet, met};

const LATER: LinkId = LinkId(3);

const fn purge() -> AdminRequest {
    AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    }
}

fn notes(a: &Node) -> usize {
    let notes = |key: &&bytes::Bytes| key.starts_with(b"letter/");
    a.disk.state.keys().filter(notes).count()
}

/// Nothing is left of a letter whose message was delivered.
fn is_withdrawn(mut a: Node) {
    for _ in 0..2 {
        assert_eq!((a.dead().len(), notes(&a)), (0, 0));
        is_quiet(&mut a);
        a = a.crash();
    }
}

/// The dead letter of a message that arrived, in an application's hands while its node meets the
/// destination again; its lookup id.
fn held_letter() -> (Node, Node, u64) {
    let (mut a, mut b) = met();
    a.send([1]);
    carry_but(&mut a, &mut b, LINK, is_answer);
    b.lose_link(LINK);
    // An earlier life may have transmitted it.
    let mut a = a.crash();
    a.ask(purge());
    let held = a.take("dead$", 1, None);
    assert_eq!(held.len(), 1);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    (a, b, held[0].lookup)
}

/// The letter is in an application's hands when its destination says that it has the message.
#[test]
fn a_letter_that_is_held_goes_when_it_is_settled() {
    for (verdict, crash) in [
        (Verdict::GiveBack, false),
        (Verdict::Consume, false),
        (Verdict::GiveBack, true),
    ] {
        let (mut a, mut b, held) = held_letter();
        assert!(a.dead()[0].unconfirmed && a.dead()[0].leased);
        a.send([2]);
        carry(&mut a, &mut b, NEXT);
        if crash {
            a = a.crash();
            b.lose_link(NEXT);
            a.wait(60_000);
            connect(&mut a, &mut b, LATER);
        } else {
            a.settle("dead$", held, verdict);
            assert_eq!(a.engine.counters().letters_withdrawn, 1, "{verdict:?}");
        }
        assert_eq!(b.receive("orders"), numbers(1..=2));
        is_withdrawn(a);
    }
}

/// Whoever holds it does not learn that its stream began anew.
#[test]
fn a_letter_that_is_held_while_its_stream_begins_anew_stays_uncertain() {
    let (mut a, mut b, held) = held_letter();
    let reply = a.ask(rebase());
    assert!(matches!(reply, AdminReply::Rebased { .. }), "{reply:?}");
    // The second has its place in the new stream.
    a.send(2..=3);
    carry_but(&mut a, &mut b, NEXT, is_answer);
    a.settle("dead$", held, Verdict::GiveBack);
    let letter = a.dead().remove(0);
    assert!(letter.uncertain && !letter.unconfirmed, "{letter:?}");
    assert_eq!(a.engine.counters().acknowledged, 0);
}

/// Its time to be received runs out on its way: its destination refuses it, and does not say to a
/// question that comes late that it had arrived, whatever the skip says of it.
#[test]
fn what_came_too_late_to_be_received_never_arrived() {
    for outcome in [Outcome::REACH_QUEUE_EXPIRED, Outcome::RECEIVE_EXPIRED] {
        let (mut a, mut b) = met();
        a.send([1]);
        a.sent_on(LINK);
        b.lose_link(LINK);
        // An earlier life may have transmitted it: its destination is asked.
        let mut a = a.crash();
        plug(&mut a, &mut b, NEXT);
        let (mut asked, mut skips) = (Vec::new(), 0);
        for _ in 0..10 {
            if skips > 0 {
                break;
            }
            for mut frame in a.sent_on(NEXT) {
                match &mut frame {
                    PeerFrame::Data(data) => data.transit.be_received_left_ms = 0,
                    PeerFrame::Query(_) => asked.push(frame.clone()),
                    PeerFrame::Skip(skip) => {
                        assert_eq!(skip.outcome, Outcome::REACH_QUEUE_EXPIRED);
                        (skip.outcome, skips) = (outcome, 1);
                    }
                    _ => {}
                }
                b.hear(NEXT, &frame);
            }
            a.hear_all(NEXT, &b.sent_on(NEXT));
        }
        assert_eq!((asked.len(), skips), (1, 1));
        b.hear_all(NEXT, &asked);
        let said = b.sent_on(NEXT);
        let PeerFrame::Answer(answer) = &said[0] else {
            panic!("{said:?}");
        };
        let known: Vec<_> = answer.entries.iter().map(|(_, known)| *known).collect();
        let instead = match outcome {
            Outcome::RECEIVE_EXPIRED => Outcome::VOIDED,
            other => other,
        };
        assert_eq!(known, [Known::Outcome(instead)]);
        a.hear_all(NEXT, &said);
        assert_eq!(a.dead().len(), 1);
        assert_eq!(a.engine.counters().acknowledged, 0);
        assert!(b.receive("orders").is_empty());
    }
}

/// One message, which arrives, and how its destination would refuse it. What it says is kept back
/// and returned.
fn taken_and_refused(a: &mut Node, b: &mut Node) -> (Vec<PeerFrame>, PeerFrame) {
    a.put("qm://b/orders", "1", |put| put.follow = Follow::Delivered);
    let (mut words, mut refusals) = (Vec::new(), Vec::new());
    carry_but(a, b, LINK, |frame| {
        if let PeerFrame::Data(data) = frame {
            refusals.push(Refusal {
                number: data.number,
                tag: data.tag,
                outcome: Outcome::BAD_DESTINATION_QUEUE,
            });
        } else if is_answer(frame) {
            words.push(frame.clone());
        }
        is_answer(frame)
    });
    assert_eq!((words.len(), refusals.len()), (1, 1));
    (words, PeerFrame::Reject(Reject { refusals }))
}

/// What is said of a place whose skip another copy of the sender sent.
fn skipped_instead(words: &mut [PeerFrame]) {
    for word in words {
        if let PeerFrame::OrderAck(ack) = word {
            let links = ack.runs.iter().map(|run| LinkAt {
                stream: run.stream,
                position: run.last,
                link: run.link,
            });
            let links = links.collect();
            *word = PeerFrame::Skipped(Skipped { links });
        }
    }
}

/// A copy of the destination has the message, or a skip, and this one refuses it: its sender hears
/// both, the one while what it keeps because of the other is on its way to the disk, or is not even
/// closed.
#[test]
fn what_is_heard_before_the_letter_is_on_disk_is_asked_again_behind_it() {
    let cases = [(false, 0), (false, 1), (true, 0), (true, 1)];
    let cases =
        cases.map(|(gathered, refused)| [false, true].map(|as_skip| (gathered, refused, as_skip)));
    for (gathered, refused, as_skip) in cases.into_iter().flatten() {
        let (mut a, mut b) = met();
        let (mut words, refusal) = taken_and_refused(&mut a, &mut b);
        if as_skip {
            skipped_instead(&mut words);
        }
        a.hold_disk = true;
        if gathered {
            words.insert(0, refusal);
        } else {
            a.hear(LINK, &refusal);
        }
        a.hear_all(LINK, &words);
        a.release_disk(refused);
        carry(&mut a, &mut b, LINK);
        reconnect(&mut a, &mut b, LINK, NEXT);
        assert_eq!(b.receive("orders"), ["1"]);
        assert_eq!(
            a.engine.counters().acknowledged,
            2,
            "{gathered} {refused} {as_skip}"
        );
        is_withdrawn(a);
    }
}

/// A message leaves its stream and the stream begins anew, before either is handed to the disk.
#[test]
fn what_left_a_stream_that_begins_anew_in_the_same_batch_does_not_come_back() {
    let (mut a, mut b) = met();
    let (_, refusal) = taken_and_refused(&mut a, &mut b);
    a.gathers = true;
    a.hear(LINK, &refusal);
    a.give(Input::Admin {
        conn: APPLICATION,
        request: 1,
        what: rebase(),
    });
    a.gathers = false;
    a.give(Input::Tick);
    assert_eq!(a.fates(), [Outcome::BAD_DESTINATION_QUEUE]);
    let letter = a.dead().remove(0);
    assert!(letter.uncertain && !letter.unconfirmed);
    b.lose_link(LINK);
    let mut a = a.crash();
    let letter = a.dead().remove(0);
    assert!(letter.uncertain && !letter.unconfirmed, "{letter:?}");
    a.send([2]);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(1..=2));
    assert_eq!(b.engine.counters().needs_sent, 0);
    is_quiet(&mut a);
}

/// A copy of the sender let go of a message that is still here. The disk has no room for the dead
/// letter that it becomes: it is where it was.
#[test]
fn what_a_copy_let_go_of_stays_until_its_letter_is_on_disk() {
    for refused in [0, 1] {
        let (mut a, mut b) = met();
        a.put("qm://b/orders", "1", |put| {
            put.flags = MessageFlags::JOURNAL.with(MessageFlags::DEAD_LETTER);
        });
        let mut links = Vec::new();
        carry_but(&mut a, &mut b, LINK, |frame| {
            let PeerFrame::Data(data) = frame else {
                return false;
            };
            let place = data.transit.place.unwrap();
            links.push(LinkAt {
                stream: place.stream,
                position: place.position,
                link: place.previous.next(data.tag, place.position),
            });
            true
        });
        assert_eq!(links.len(), 1);
        a.hold_disk = true;
        a.hear(LINK, &PeerFrame::Skipped(Skipped { links }));
        a.release_disk(refused);
        a.wait(2_000);
        carry(&mut a, &mut b, LINK);
        let dead = a.dead();
        // What was said here is not so: it is sent again.
        assert_eq!(b.receive("orders"), numbers(1..=refused), "{refused}");
        assert_eq!(a.take("journal$", 9, None).len(), refused, "{refused}");
        assert_eq!(dead.len(), 1 - refused, "{refused}");
        assert!(dead.iter().all(|letter| !letter.unconfirmed));
        is_quiet(&mut a);
    }
}

/// A full disk refuses the letter after the stream began anew, and what was behind the message has
/// a place there: it is linked behind its place once more, or it would count as settled.
#[test]
fn a_letter_that_is_refused_after_its_stream_began_anew_loses_no_message() {
    let (mut a, mut b) = met();
    a.put("qm://b/orders", "1", |put| put.follow = Follow::Delivered);
    a.send([2]);
    begins_anew_behind_a_letter(&mut a);
    a.release_disk(1);
    let reply = a.admin.take();
    assert!(
        matches!(reply, Some(AdminReply::Rebased { .. })),
        "{reply:?}"
    );
    assert!(a.dead().is_empty());
    assert_eq!(a.fates(), [], "it may arrive yet");
    reconnect(&mut a, &mut b, LINK, NEXT);
    a.wait(60_000);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(1..=2));
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
    is_quiet(&mut a);
}

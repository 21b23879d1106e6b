//! Asking, voiding, and keeping what was promised.

use qm_engine::{EngineConfig, Event};
use qm_wire::{Answer, Class, Entry, Known, Outcome, PeerFrame, Query};

use super::support::{Node, carry, carry_but, connect, reconnect};
use super::{CLASSES, LATER, LINK, NEXT, asks_of, is_answer, met, met_with, purge, put, voids_of};

/// What a node asks to be voided.
fn voiding(frames: &[PeerFrame]) -> Vec<Entry> {
    let queries = frames.iter().filter_map(|frame| match frame {
        PeerFrame::Query(query) if query.void => Some(query.entries.clone()),
        _ => None,
    });
    queries.flatten().collect()
}

fn hear_void(a: &Node, b: &mut Node, entry: Entry) {
    b.hear(
        NEXT,
        &PeerFrame::Query(Query {
            source: a.identity.qm,
            void: true,
            entries: vec![entry],
        }),
    );
}

/// Two nodes that met, and a message with 5 s to arrive that was lost with their session.
fn in_doubt(class: Class) -> (Node, Node) {
    let (mut a, mut b) = met();
    put(&mut a, class, "1", Some(5_000));
    let _lost = a.sent_on(LINK);
    a.lose_link(LINK);
    b.lose_link(LINK);
    (a, b)
}

#[test]
fn an_expired_message_in_doubt_is_unconfirmed_until_its_destination_has_answered() {
    for class in CLASSES {
        for arrived in [false, true] {
            let (mut a, mut b) = met();
            put(&mut a, class, "1", Some(5_000));
            carry_but(&mut a, &mut b, LINK, |frame| {
                is_answer(frame) || !arrived && matches!(frame, PeerFrame::Data(_))
            });
            a.lose_link(LINK);
            b.lose_link(LINK);
            a.wait(5_000);
            // At once, although nobody could be asked yet.
            let letters = a.dead();
            assert_eq!(letters.len(), 1, "{class:?}");
            assert!(letters[0].unconfirmed && !letters[0].uncertain);
            assert_eq!(letters[0].outcome, Outcome::REACH_QUEUE_EXPIRED);
            assert_eq!(asks_of(&a), 1);
            let mut a = a.crash();
            assert!(a.dead()[0].unconfirmed, "over a crash");
            a.wait(60_000);
            connect(&mut a, &mut b, NEXT);
            assert_eq!(asks_of(&a), 0);
            if arrived {
                assert_eq!(b.receive("orders"), ["1"], "delivered wins");
                assert!(a.dead().is_empty());
                assert_eq!(a.engine.counters().letters_withdrawn, 1);
                assert_eq!(voids_of(&b), 0);
            } else {
                assert!(b.receive("orders").is_empty());
                let letters = a.dead();
                assert!(!letters[0].unconfirmed && !letters[0].uncertain);
                assert_eq!(a.engine.counters().letters_confirmed, 1);
                assert_eq!((voids_of(&b), b.engine.counters().voids), (1, 1));
            }
        }
    }
}

#[test]
fn what_was_purged_in_doubt_is_asked_for_whether_it_waits_or_was_transmitted() {
    for class in CLASSES {
        let (mut a, mut b) = met();
        put(&mut a, class, "transmitted", None);
        carry_but(&mut a, &mut b, LINK, |frame| {
            is_answer(frame) || matches!(frame, PeerFrame::Data(_))
        });
        a.lose_link(LINK);
        b.lose_link(LINK);
        put(&mut a, class, "never", None);
        purge(&mut a);
        let open: Vec<_> = a.dead().iter().map(|letter| letter.unconfirmed).collect();
        assert_eq!(open.iter().filter(|open| **open).count(), 1, "{open:?}");
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        assert!(a.dead().iter().all(|letter| !letter.unconfirmed));
        assert!(b.receive("orders").is_empty());
        if class == Class::Express {
            assert_eq!(voids_of(&b), 1);
            continue;
        }
        // Of an earlier life it may have been transmitted, too.
        put(&mut a, class, "late", None);
        let _lost = a.sent_on(NEXT);
        let mut a = a.crash();
        b.lose_link(NEXT);
        purge(&mut a);
        assert_eq!(a.dead().iter().filter(|l| l.unconfirmed).count(), 1);
        a.wait(60_000);
        connect(&mut a, &mut b, LATER);
        assert!(a.dead().iter().all(|letter| !letter.unconfirmed));
        assert!(b.receive("orders").is_empty());
        assert_eq!(voids_of(&b), 2);
    }
}

/// A message is voided, its destination dies, and a copy of the sender, or what was under way,
/// brings it nevertheless. Whether it is refused, and what is in the queue.
fn voided_and_brought(class: Class, configure: fn(&mut EngineConfig)) -> (bool, Vec<String>) {
    let (mut a, mut b) = met_with(configure);
    put(&mut a, class, "1", Some(5_000));
    let frames = a.sent_on(LINK);
    let data: Vec<_> = frames
        .into_iter()
        .filter(|frame| matches!(frame, PeerFrame::Data(_)))
        .collect();
    assert_eq!(data.len(), 1);
    reconnect(&mut a, &mut b, LINK, NEXT);
    assert_eq!(a.engine.counters().letters_confirmed, 1);
    let mut b = b.crash();
    a.wait(60_000);
    reconnect(&mut a, &mut b, NEXT, LATER);
    b.hear(LATER, &data[0]);
    let refused = |frame: &PeerFrame| match frame {
        PeerFrame::Reject(reject) => reject.refusals[0].outcome == Outcome::VOIDED,
        _ => false,
    };
    let refused = b.sent_on(LATER).iter().any(refused);
    (refused, b.receive("orders"))
}

#[test]
fn what_was_voided_is_refused_when_it_comes_later_also_over_a_crash() {
    for class in CLASSES {
        assert_eq!(voided_and_brought(class, |_| {}), (true, Vec::new()));
    }
}

#[cfg(feature = "__breaks")]
#[test]
fn a_void_that_a_crash_forgets_is_noticed() {
    let (refused, queue) = voided_and_brought(Class::Recoverable, |config| {
        config.breaks.void_in_memory = true;
    });
    assert!(!refused);
    assert_eq!(queue, ["1"], "confirmed dead, and delivered");
}

#[test]
fn an_unknown_ends_no_doubt_and_is_asked_again() {
    for class in CLASSES {
        let (mut a, mut b) = in_doubt(class);
        a.wait(60_000);
        super::support::plug(&mut a, &mut b, NEXT);
        // All but the answer.
        carry_but(&mut a, &mut b, NEXT, |frame| {
            matches!(frame, PeerFrame::Query(_))
        });
        a.wait(30_000);
        let asked = voiding(&a.sent_on(NEXT));
        assert_eq!(asked.len(), 1, "asked again after the interval");
        for known in [Known::Unknown, Known::InFlight] {
            a.hear(
                NEXT,
                &PeerFrame::Answer(Answer {
                    source: a.identity.qm,
                    entries: vec![(asked[0], known)],
                }),
            );
            assert!(a.dead()[0].unconfirmed, "{known:?}");
            assert_eq!(asks_of(&a), 1);
        }
        a.wait(30_000);
        carry(&mut a, &mut b, NEXT);
        assert!(!a.dead()[0].unconfirmed);
    }
}

/// Its answer leaves only when the disk has the promise.
#[test]
fn a_void_is_answered_when_it_is_on_disk_and_not_before() {
    let (mut a, mut b) = in_doubt(Class::Recoverable);
    a.wait(60_000);
    b.hold_disk = true;
    connect(&mut a, &mut b, NEXT);
    assert!(a.dead()[0].unconfirmed);
    b.release_disk(0);
    carry(&mut a, &mut b, NEXT);
    assert!(!a.dead()[0].unconfirmed);
}

/// A later ack is heard: delivered wins over the letter as long as nothing was confirmed.
#[test]
fn a_routed_ack_withdraws_a_letter_that_is_not_confirmed() {
    let (mut a, mut b) = met();
    put(&mut a, Class::Recoverable, "1", Some(5_000));
    b.hold_disk = true;
    carry(&mut a, &mut b, LINK);
    a.lose_link(LINK);
    b.lose_link(LINK);
    a.wait(60_000);
    assert!(a.dead()[0].unconfirmed);
    b.release_disk(0);
    super::support::plug(&mut a, &mut b, NEXT);
    carry_but(&mut a, &mut b, NEXT, |frame| {
        matches!(frame, PeerFrame::Answer(_))
    });
    assert!(a.dead().is_empty());
    assert_eq!(a.engine.counters().letters_withdrawn, 1);
    let told = |event: &&Event| matches!(event, Event::AckNotHeld { .. });
    assert_eq!(a.events.iter().filter(told).count(), 0);
}

#[test]
fn a_full_disk_leaves_the_message_in_doubt_and_asks_for_nothing() {
    for class in CLASSES {
        let (mut a, mut b) = in_doubt(class);
        a.hold_disk = true;
        a.wait(5_000);
        a.release_disk(1);
        assert!(a.dead().is_empty());
        assert_eq!(asks_of(&a), 0);
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        assert_eq!(a.dead().len(), 1);
        assert!(!a.dead()[0].unconfirmed);
        assert!(b.receive("orders").is_empty());
    }
}

#[test]
fn voids_are_forgotten_by_age_unless_their_messages_may_be_under_way() {
    const DAYS: u64 = 24 * 60 * 60 * 1_000;
    let (mut a, mut b) = met();
    put(&mut a, Class::Recoverable, "1", Some(5_000));
    let _lost = a.sent_on(LINK);
    reconnect(&mut a, &mut b, LINK, NEXT);
    assert_eq!(voids_of(&b), 1);
    b.now_ms += 30 * DAYS;
    // The session stays: only what its peer sent on it counts.
    let before = b.engine.counters().misbehaved;
    b.lose_link(NEXT);
    b.wait(60_000);
    b.wait(60_000);
    assert_eq!(voids_of(&b), 0);
    assert_eq!(b.engine.counters().misbehaved, before);
}

#[test]
fn a_sender_may_have_so_many_voids_and_those_under_way_are_never_forgotten() {
    use qm_engine::limits::VOIDS_PER_PEER_MAX;
    use qm_wire::{Incarnation, MessageId, Tag};
    let (a, mut b) = met();
    let entry = |sequence: usize| Entry {
        id: MessageId {
            incarnation: Incarnation(1),
            sequence: sequence as u64,
        },
        tag: Tag([1; 8]),
    };
    let all: Vec<_> = (1..=VOIDS_PER_PEER_MAX).map(entry).collect();
    for entries in all.chunks(4_096) {
        b.hear(
            LINK,
            &PeerFrame::Query(Query {
                source: a.identity.qm,
                void: true,
                entries: entries.to_vec(),
            }),
        );
    }
    let _answers = b.sent_on(LINK);
    let known = |frames: Vec<PeerFrame>| match frames.as_slice() {
        [PeerFrame::Answer(answer)] => answer.entries[0].1,
        other => panic!("{other:?}"),
    };
    let one_more = PeerFrame::Query(Query {
        source: a.identity.qm,
        void: true,
        entries: vec![entry(VOIDS_PER_PEER_MAX + 1)],
    });
    b.hear(LINK, &one_more);
    assert_eq!(known(b.sent_on(LINK)), Known::Unknown, "it goes on asking");
    b.lose_link(LINK);
    let (mut a, mut b) = (a, b);
    b.wait(60_000);
    a.lose_link(LINK);
    a.wait(60_000);
    put(&mut a, Class::Recoverable, "2", None);
    connect(&mut a, &mut b, NEXT);
    let _settled = b.sent_on(NEXT);
    hear_void(&a, &mut b, entry(VOIDS_PER_PEER_MAX + 1));
    assert_eq!(
        known(b.sent_on(NEXT)),
        Known::Outcome(Outcome::VOIDED),
        "the oldest made room"
    );
    assert_eq!(voids_of(&b), VOIDS_PER_PEER_MAX);
}

/// A crash would otherwise send a message again whose death its destination has confirmed.
#[test]
fn a_destination_is_asked_only_about_letters_that_are_on_disk() {
    let (mut a, mut b) = in_doubt(Class::Recoverable);
    a.hold_disk = true;
    a.wait(5_000);
    super::support::plug(&mut a, &mut b, NEXT);
    let mut asked = 0;
    carry_but(&mut a, &mut b, NEXT, |frame| {
        asked += voiding(std::slice::from_ref(frame)).len();
        false
    });
    assert_eq!(asked, 0);
    a.release_disk(0);
    assert_eq!(voiding(&a.sent_on(NEXT)).len(), 1);
}

/// A crash would forget the promise that was spoken of.
#[test]
fn of_a_void_that_is_not_on_disk_nothing_is_said() {
    let (mut a, mut b) = met();
    put(&mut a, Class::Recoverable, "1", None);
    let data = a.sent_on(LINK);
    let entry = data.iter().find_map(|frame| match frame {
        PeerFrame::Data(data) => data.view().ok().map(|view| Entry {
            id: view.id,
            tag: data.tag,
        }),
        _ => None,
    });
    let query = |void| {
        PeerFrame::Query(Query {
            source: a.identity.qm,
            void,
            entries: vec![entry.unwrap()],
        })
    };
    b.hold_disk = true;
    b.hear(LINK, &query(true));
    assert_eq!(b.sent_on(LINK), []);
    b.hear_all(LINK, &data);
    assert_eq!(b.sent_on(LINK), [], "it would be refused for good");
    for void in [false, true] {
        b.hear(LINK, &query(void));
        let sent = b.sent_on(LINK);
        let [PeerFrame::Answer(answer)] = sent.as_slice() else {
            panic!("{sent:?}")
        };
        assert_eq!(answer.entries[0].1, Known::InFlight, "{void}");
    }
    b.release_disk(0);
    let voided = Known::Outcome(Outcome::VOIDED);
    let answers = b.sent_on(LINK);
    assert!(
        matches!(answers.as_slice(), [PeerFrame::Answer(answer)] if answer.entries[0].1 == voided),
        "{answers:?}"
    );
    b.hear_all(LINK, &data);
    let refused = b.sent_on(LINK);
    assert!(matches!(refused.as_slice(), [PeerFrame::Reject(_)]));
}

#[test]
fn many_voids_are_forgotten_in_several_batches() {
    use qm_engine::StoreOp;
    use qm_wire::{Incarnation, MessageId, Tag};
    const MONTH_MS: u64 = 31 * 24 * 60 * 60 * 1_000;
    let small = |config: &mut EngineConfig| config.batch_bytes_max = 16 << 10;
    let (mut a, mut b) = (Node::new(1), Node::with(2, small));
    b.create("orders", |settings| settings.transactional = false);
    put(&mut a, Class::Express, "first", None);
    connect(&mut a, &mut b, LINK);
    let entry = |sequence| Entry {
        id: MessageId {
            incarnation: Incarnation(1),
            sequence,
        },
        tag: Tag([1; 8]),
    };
    let query = Query {
        source: a.identity.qm,
        void: true,
        entries: (1..=1_000).map(entry).collect(),
    };
    b.hear(LINK, &PeerFrame::Query(query));
    assert_eq!(voids_of(&b), 1_000);
    b.lose_link(LINK);
    b.hold_disk = true;
    b.wait(MONTH_MS);
    let unset = |op: &&StoreOp| matches!(op, StoreOp::Unset { .. });
    let batches = b.waiting.iter();
    let most = batches.map(|(_, ops)| ops.iter().filter(unset).count());
    // A name takes some fifty bytes, and the store's own.
    assert!(most.max().unwrap() <= (16 << 10) / 50);
    b.release_disk(0);
    assert_eq!(voids_of(&b), 0);
}

//! A rejection is answered when it stands.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{Input, StoreOp};
use qm_wire::local::{NodeFrame, Verdict};
use qm_wire::{Class, MessageFlags, Outcome};

use super::support::{APPLICATION, Node};

fn rejected(class: Class, flags: MessageFlags) -> Node {
    let mut a = Node::new(1);
    a.create("here", |settings| settings.transactional = false);
    a.put("here", "1", |put| {
        put.class = class;
        put.flags = flags;
    });
    let held = a.take("here", 1, None);
    a.hold_disk = true;
    a.settle("here", held[0].lookup, Verdict::Reject);
    a
}

fn settled(a: &Node) -> Vec<Option<Outcome>> {
    let told = a.told.iter();
    told.filter_map(|frame| match frame {
        NodeFrame::Settled(settled) => Some(settled.outcome),
        _ => None,
    })
    .collect()
}

#[test]
fn a_rejection_is_answered_when_its_letter_or_its_removal_is_on_disk() {
    for flags in [MessageFlags::DEAD_LETTER, MessageFlags::NONE] {
        let mut a = rejected(Class::Recoverable, flags);
        assert_eq!(settled(&a), [], "{flags:?}");
        a.release_disk(0);
        assert_eq!(settled(&a), [None], "{flags:?}");
    }
    let mut a = rejected(Class::Express, MessageFlags::DEAD_LETTER);
    assert_eq!(settled(&a), []);
    a.release_disk(0);
    assert_eq!(settled(&a), [None]);
    let a = rejected(Class::Express, MessageFlags::NONE);
    assert_eq!(settled(&a), [None]);
}

#[test]
fn a_rejection_that_a_full_disk_refuses_says_so_and_the_message_is_there() {
    let mut a = rejected(Class::Recoverable, MessageFlags::DEAD_LETTER);
    a.release_disk(1);
    assert_eq!(settled(&a), [Some(Outcome::STORE_FULL)]);
    assert_eq!(a.receive("here"), ["1"]);
}

#[test]
fn a_letter_is_sent_again_to_no_queue_of_the_wrong_kind() {
    let mut a = rejected(Class::Recoverable, MessageFlags::DEAD_LETTER);
    a.release_disk(0);
    a.create("strict", |settings| settings.transactional = true);
    let position = a.dead()[0].position;
    let reply = a.ask(AdminRequest::DeadResend {
        positions: vec![position],
        force: false,
        to: Some("strict".into()),
    });
    match reply {
        AdminReply::LetterFates(fates) => {
            assert_eq!(fates[0].outcome, Some(Outcome::NOT_TRANSACTIONAL_MESSAGE));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(a.dead().len(), 1);
    assert!(a.receive("strict").is_empty());
}

/// Rejects many messages in one request whose letters take several batches, of which the disk
/// refuses these; returns how many are said to be settled, the outcome, and how many are back.
fn rejected_in_batches(refuses: impl Fn(usize, usize) -> bool) -> (u32, Option<Outcome>, usize) {
    const MESSAGES: u32 = 200;
    let mut a = Node::with(1, |config| config.batch_bytes_max = 8 << 10);
    a.create("here", |settings| settings.transactional = false);
    for n in 0..MESSAGES {
        a.put("here", &n.to_string(), |put| {
            put.class = Class::Recoverable;
            put.flags = MessageFlags::DEAD_LETTER;
        });
    }
    let held = a.take("here", MESSAGES, None);
    assert_eq!(held.len(), MESSAGES as usize);
    a.hold_disk = true;
    a.told.clear();
    a.reject_all("here", (held[0].lookup, held[held.len() - 1].lookup));
    let puts = |ops: &[StoreOp]| ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
    let batches = a.waiting.iter().filter(|(_, ops)| puts(ops)).count();
    assert!(batches > 2, "{batches}");
    let mut at = 0;
    while let Some((_, ops)) = a.waiting.first() {
        let putting = puts(ops);
        let refused = usize::from(putting && refuses(at, batches));
        at += usize::from(putting);
        a.release_batches(1, refused);
    }
    a.hold_disk = false;
    let settled = a.told.iter().find_map(|frame| match frame {
        NodeFrame::Settled(settled) => Some((settled.messages, settled.outcome)),
        _ => None,
    });
    let (messages, outcome) = settled.unwrap();
    a.wait(2_000);
    (messages, outcome, a.receive("here").len())
}

#[test]
fn rejections_over_several_batches_are_answered_as_a_whole() {
    assert_eq!(rejected_in_batches(|_, _| false), (200, None, 0));
    let full = Some(Outcome::STORE_FULL);
    // What is behind a refused one is refused with it.
    assert_eq!(rejected_in_batches(|at, _| at == 0), (0, full, 200));
    let second = rejected_in_batches(|at, _| at == 1);
    let last = rejected_in_batches(|at, batches| at + 1 == batches);
    for (messages, outcome, back) in [second, last] {
        assert_eq!(outcome, full);
        assert!(messages > 0 && back > 0, "{messages} settled, {back} back");
        assert_eq!(messages as usize + back, 200);
    }
}

/// The disk has no room for what gives room back either, and this node dies on it.
fn dies_full(mut a: Node) -> Node {
    let batches = a.waiting.len();
    assert!(batches >= 2);
    for _ in 0..batches {
        a.answer_one(false);
    }
    assert_eq!(settled(&a), []);
    assert!(a.admin.is_none());
    a.crash()
}

/// One of them leaves a letter, which the disk refuses; the other is removed in another batch.
#[test]
fn a_rejection_is_not_answered_before_what_it_removes_is_on_disk() {
    for dies in [true, false] {
        let mut a = Node::new(1);
        a.create("here", |settings| settings.transactional = false);
        for (body, flags) in [("1", MessageFlags::NONE), ("2", MessageFlags::DEAD_LETTER)] {
            a.put("here", body, |put| {
                put.class = Class::Recoverable;
                put.flags = flags;
            });
        }
        let held = a.take("here", 2, None);
        a.hold_disk = true;
        a.reject_all("here", (held[0].lookup, held[1].lookup));
        if dies {
            let mut a = dies_full(a);
            assert_eq!(a.receive("here"), ["1", "2"]);
            continue;
        }
        a.answer_one(false);
        a.release_batches(1, 1);
        assert_eq!(settled(&a), []);
        a.release_disk(0);
        a.wait(10_000);
        assert_eq!(settled(&a), [Some(Outcome::STORE_FULL)]);
        assert_eq!(a.crash().receive("here"), ["2"]);
    }
}

#[test]
fn a_purge_is_not_answered_before_what_it_removes_is_on_disk() {
    for dies in [true, false] {
        let mut a = Node::new(1);
        a.create("here", |settings| settings.transactional = false);
        for body in ["1", "2"] {
            a.put("here", body, |put| {
                put.class = Class::Recoverable;
                put.flags = MessageFlags::NONE;
            });
        }
        a.hold_disk = true;
        a.give(Input::Admin {
            conn: APPLICATION,
            request: 1,
            what: AdminRequest::QueuePurge {
                name: "here".parse().unwrap(),
                discard: false,
            },
        });
        if dies {
            let mut a = dies_full(a);
            assert_eq!(a.receive("here"), ["1", "2"]);
            continue;
        }
        a.answer_one(false);
        a.release_batches(1, 0);
        assert!(a.admin.is_none());
        a.release_disk(0);
        a.wait(10_000);
        match a.admin.take() {
            Some(AdminReply::Purged(tally)) => assert_eq!(tally.messages, 2),
            other => panic!("{other:?}"),
        }
        assert!(a.crash().receive("here").is_empty());
    }
}

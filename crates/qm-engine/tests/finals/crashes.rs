//! A crash at every commit, of either node.

use qm_engine::{ConnId, Input, StoreOp};
use qm_wire::local::{ClientFrame, EndTransaction, Receive, Verdict};
use qm_wire::{Class, Outcome};

use super::support::{Node, carry, carry_but, connect};
use super::{CLASSES, LINK, NEXT, awaited_of, finals_of, is_confirm, is_final, met, put};

/// Classes that a crash of their destination spares.
const DURABLE: [Class; 2] = [Class::Recoverable, Class::Transactional];

/// Receives in a transaction, and ends it.
pub(crate) fn transact(b: &mut Node, commit: bool) {
    let conn = ConnId(1);
    let mut receive = Receive::new(b.next_request, "orders".parse().unwrap());
    b.next_request += 1;
    receive.messages_max = 10;
    receive.bytes_max = u32::MAX;
    receive.wait_ms = 0;
    receive.transaction = Some(1);
    // The hello of an application.
    b.put("elsewhere", "nothing", |_| {});
    let frame = ClientFrame::Receive(receive);
    b.give(Input::Client { conn, frame });
    let end = EndTransaction {
        sequence: 100,
        transaction: 1,
        commit,
    };
    let frame = ClientFrame::EndTransaction(end);
    b.give(Input::Client { conn, frame });
}

/// The message lies in its queue, or its sender will hear how it ended: never neither, never both.
#[test]
fn a_destination_that_dies_at_any_commit_has_the_message_or_its_final() {
    for class in DURABLE {
        for way in ["consume", "reject", "transaction"] {
            for reached in 0.. {
                let what = format!("{class:?} {way}, {reached} batches");
                let (mut a, mut b) = met(class);
                put(&mut a, class, "1");
                carry(&mut a, &mut b, LINK);
                if way == "transaction" {
                    // The hello of the application.
                    b.put("elsewhere", "nothing", |_| {});
                    b.hold_disk = true;
                    transact(&mut b, true);
                } else {
                    let lookup = b.take("orders", 1, None)[0].lookup;
                    b.hold_disk = true;
                    let verdict = if way == "consume" {
                        Verdict::Consume
                    } else {
                        Verdict::Reject
                    };
                    b.settle("orders", lookup, verdict);
                }
                let batches = b.waiting.len();
                assert!(batches > 0, "{what}");
                let mut b = b.die_with(|n| n < reached);
                let told = finals_of(&b);
                // Whatever was left is consumed now; its sender hears of it once.
                let left = b.receive("orders").len();
                assert_eq!(left + told, 1, "{what}");
                a.lose_link(LINK);
                a.wait(60_000);
                connect(&mut a, &mut b, NEXT);
                assert_eq!(a.engine.counters().finals_heard, 1, "{what}");
                assert_eq!((awaited_of(&a), finals_of(&b)), (1, 0), "{what}");
                if reached >= batches {
                    break;
                }
            }
        }
    }
}

/// From the ack to the confirmation: whenever it dies, it hears of the end, and the destination may
/// forget it.
#[test]
fn a_sender_that_dies_at_any_commit_hears_of_the_end() {
    for class in DURABLE {
        for reached in 0..8 {
            for heard in [false, true] {
                let what = format!("{class:?}, {reached} batches, {heard}");
                let (mut a, mut b) = met(class);
                put(&mut a, class, "1");
                if heard {
                    carry(&mut a, &mut b, LINK);
                    assert_eq!(b.receive("orders"), ["1"]);
                    a.hold_disk = true;
                    carry_but(&mut a, &mut b, LINK, is_confirm);
                } else {
                    a.hold_disk = true;
                    carry_but(&mut a, &mut b, LINK, is_final);
                    assert_eq!(b.receive("orders"), ["1"]);
                    carry_but(&mut a, &mut b, LINK, is_final);
                }
                let mut a = a.die_with(|n| n < reached);
                b.lose_link(LINK);
                a.wait(60_000);
                b.wait(60_000);
                connect(&mut a, &mut b, NEXT);
                let ended = a.disk.state.iter();
                let ended = ended.filter(|(name, _)| name.starts_with(b"await/"));
                let ended: Vec<_> = ended
                    .map(|(_, value)| value[value.len() - 3] & 0xf)
                    .collect();
                assert_eq!(ended, [2], "{what}");
                assert_eq!(finals_of(&b), 0, "{what}");
                assert!(b.receive("orders").is_empty(), "{what}");
            }
        }
    }
}

/// A dead letter that finds no room stays a message, and has no final.
#[test]
fn a_full_disk_of_the_destination_ends_nothing() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, class, "1");
        carry(&mut a, &mut b, LINK);
        let lookup = b.take("orders", 1, None)[0].lookup;
        b.hold_disk = true;
        b.settle("orders", lookup, Verdict::Reject);
        b.release_disk(1);
        carry(&mut a, &mut b, LINK);
        assert_eq!((finals_of(&b), a.engine.counters().finals_heard), (0, 0));
        assert_eq!(b.receive("orders"), ["1"]);
        carry(&mut a, &mut b, LINK);
        assert_eq!(a.fates(), [Outcome::REACHED_QUEUE, Outcome::RECEIVED]);
    }
}

/// What a disk refused, or took behind what it had refused, is as if it had not been.
#[test]
fn a_transaction_that_the_disk_does_not_take_ends_nothing() {
    for overtakes in [false, true] {
        let (mut a, mut b) = met(Class::Recoverable);
        b.create("other", |settings| settings.transactional = false);
        put(&mut a, Class::Recoverable, "1");
        carry(&mut a, &mut b, LINK);
        b.put("elsewhere", "the hello of the application", |_| {});
        b.hold_disk = true;
        b.put("other", "refused", |put| put.class = Class::Recoverable);
        transact(&mut b, true);
        refuse(&mut b, overtakes, b"final/");
        b.wait(2_000);
        carry(&mut a, &mut b, LINK);
        assert_eq!(
            (finals_of(&b), b.engine.counters().finals),
            (0, 0),
            "{overtakes}"
        );
        assert_eq!(b.receive("orders"), ["1"], "{overtakes}");
        carry(&mut a, &mut b, LINK);
        assert_eq!(a.engine.counters().finals_heard, 1, "{overtakes}");
    }
}

/// The disk refuses the first batch that puts, when `first`, and takes what overtakes that; else it
/// refuses the batch that sets a value of this kind.
pub(crate) fn refuse(node: &mut Node, first: bool, kind: &[u8]) {
    let mut refused = false;
    while !node.waiting.is_empty() {
        let concerns = |op: &StoreOp| match op {
            StoreOp::Put { .. } => first,
            StoreOp::Set { key, .. } => !first && key.starts_with(kind),
            _ => false,
        };
        let has_room = refused || !node.waiting[0].1.iter().any(concerns);
        refused |= !has_room;
        node.answer_one(has_room);
    }
    assert!(refused);
    node.hold_disk = false;
}

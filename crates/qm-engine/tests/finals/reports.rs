//! Administration messages: exactly one for each outcome that was wished, whoever crashes
//! (W-ENV-6).

use qm_engine::StoreOp;
use qm_engine::admin::{AdminRequest, Selector};
use qm_wire::local::{ClientFrame, EndTransaction, NodeFrame, Receive, Verdict};
use qm_wire::{AckWishes, Class, MessageFlags, Outcome};

use super::support::{Node, carry, carry_but, connect};
use super::{CLASSES, LINK, NEXT, is_confirm, is_final, met};

const ALL: AckWishes = AckWishes::POSITIVE_ARRIVAL
    .with(AckWishes::POSITIVE_RECEIVE)
    .with(AckWishes::NEGATIVE_ARRIVAL)
    .with(AckWishes::NEGATIVE_RECEIVE);

/// Puts a message that wishes to be told in the queue `acks`, which is made.
fn put(a: &mut Node, to: &str, class: Class, wishes: AckWishes, time_ms: Option<u64>) {
    a.create("acks", |settings| settings.transactional = false);
    a.put(to, "1", |put| {
        put.class = class;
        put.label = "apples".into();
        put.ack_wishes = wishes;
        put.admin_queue = "acks".into();
        put.time_to_reach_queue_ms = time_ms;
    });
}

/// The outcomes that were reported, in order of arrival; they are consumed.
fn reports(a: &mut Node) -> Vec<Outcome> {
    let mut all = Vec::new();
    loop {
        // What waits on disk comes behind what is in memory.
        let deliveries = a.take("acks", 100, None);
        if deliveries.is_empty() {
            return all;
        }
        for delivery in deliveries {
            let envelope = delivery.open().unwrap();
            let correlation = std::str::from_utf8(&envelope.correlation_id).unwrap();
            let sequence = correlation.rsplit_once('-').unwrap().1;
            assert!(["1", "2", "4"].contains(&sequence), "{correlation}");
            assert_eq!(envelope.label.as_str(), "apples");
            assert_eq!(envelope.flags, MessageFlags::NONE);
            all.push(envelope.report.unwrap());
            a.settle("acks", delivery.lookup, Verdict::Consume);
        }
    }
}

fn refusal(a: &mut Node) -> Option<Outcome> {
    let told = std::mem::take(&mut a.told).into_iter();
    told.filter_map(|frame| match frame {
        NodeFrame::Refused(refused) => Some(refused.outcome),
        _ => None,
    })
    .last()
}

#[test]
fn a_message_that_is_received_elsewhere_is_reported_as_was_wished() {
    for class in CLASSES {
        for wishes in [
            AckWishes::POSITIVE_ARRIVAL,
            AckWishes::POSITIVE_RECEIVE,
            AckWishes::NEGATIVE_ARRIVAL,
            AckWishes::NEGATIVE_RECEIVE,
            ALL,
        ] {
            for received in [false, true] {
                let what = format!("{class:?} {wishes:?} {received}");
                let (mut a, mut b) = met(class);
                put(&mut a, "qm://b/orders", class, wishes, None);
                assert_eq!(reports(&mut a), [], "{what}");
                carry(&mut a, &mut b, LINK);
                let arrived: &[_] = if wishes.contains(AckWishes::POSITIVE_ARRIVAL) {
                    &[Outcome::REACHED_QUEUE]
                } else {
                    &[]
                };
                assert_eq!(reports(&mut a), arrived, "{what}");
                let (wish, end) = if received {
                    assert_eq!(b.receive("orders"), ["1"]);
                    (AckWishes::POSITIVE_RECEIVE, Outcome::RECEIVED)
                } else {
                    b.ask(AdminRequest::QueuePurge {
                        name: "orders".parse().unwrap(),
                        discard: false,
                    });
                    (AckWishes::NEGATIVE_RECEIVE, Outcome::QUEUE_PURGED)
                };
                carry(&mut a, &mut b, LINK);
                let ended: &[_] = if wishes.contains(wish) { &[end] } else { &[] };
                assert_eq!(reports(&mut a), ended, "{what}");
                assert_eq!(a.engine.counters().reports_lost, 0);
            }
        }
    }
}

#[test]
fn a_message_that_does_not_arrive_is_reported_when_that_is_certain() {
    for class in CLASSES {
        for wishes in [
            ALL,
            AckWishes::POSITIVE_ARRIVAL.with(AckWishes::NEGATIVE_RECEIVE),
        ] {
            let wished = wishes.contains(AckWishes::NEGATIVE_ARRIVAL);
            let told = |outcome: Outcome| if wished { vec![outcome] } else { vec![] };
            // There is no such queue.
            let (mut a, mut b) = met(class);
            put(&mut a, "qm://b/nowhere", class, wishes, None);
            carry(&mut a, &mut b, LINK);
            assert_eq!(
                reports(&mut a),
                told(Outcome::BAD_DESTINATION_QUEUE),
                "{class:?}"
            );
            // Its time runs out before it ever left, or behind that.
            for transmitted in [false, true] {
                let (mut a, mut b) = met(class);
                if transmitted {
                    put(&mut a, "qm://b/orders", class, wishes, Some(5_000));
                    let _lost = a.sent_on(LINK);
                }
                a.lose_link(LINK);
                b.lose_link(LINK);
                if !transmitted {
                    put(&mut a, "qm://b/orders", class, wishes, Some(5_000));
                }
                a.wait(5_000);
                a.wait(60_000);
                // A copy of this node may have transmitted what is in a stream.
                if transmitted || class == Class::Transactional {
                    assert_eq!(reports(&mut a), [], "{class:?}: it may have arrived");
                    connect(&mut a, &mut b, NEXT);
                }
                let outcome = Outcome::REACH_QUEUE_EXPIRED;
                assert_eq!(reports(&mut a), told(outcome), "{class:?} {transmitted}");
            }
        }
    }
}

/// It had arrived all the same: that is what is reported, and then how it ended.
#[test]
fn a_purged_message_that_had_arrived_is_reported_as_arrived() {
    for class in CLASSES {
        for wishes in [
            ALL,
            AckWishes::POSITIVE_ARRIVAL.with(AckWishes::NEGATIVE_ARRIVAL),
        ] {
            let (mut a, mut b) = met(class);
            put(&mut a, "qm://b/orders", class, wishes, None);
            carry_but(&mut a, &mut b, LINK, |frame| {
                use qm_wire::PeerFrame;
                matches!(frame, PeerFrame::SessionAck(_) | PeerFrame::OrderAck(_))
            });
            a.lose_link(LINK);
            b.lose_link(LINK);
            a.ask(AdminRequest::OutgoingPurge {
                which: Selector::All,
                discard: false,
            });
            a.wait(60_000);
            assert_eq!(reports(&mut a), []);
            connect(&mut a, &mut b, NEXT);
            assert_eq!(reports(&mut a), [Outcome::REACHED_QUEUE], "{class:?}");
            assert_eq!(b.receive("orders"), ["1"]);
            carry(&mut a, &mut b, NEXT);
            let ended: &[_] = if wishes == ALL {
                &[Outcome::RECEIVED]
            } else {
                &[]
            };
            assert_eq!(reports(&mut a), ended, "{class:?}");
        }
    }
}

#[test]
fn messages_of_this_node_are_reported_too() {
    for class in CLASSES {
        for way in ["received", "rejected", "transaction"] {
            let mut a = Node::new(1);
            a.create("orders", |settings| {
                settings.transactional = class == Class::Transactional;
            });
            put(&mut a, "orders", class, ALL, None);
            assert_eq!(reports(&mut a), [Outcome::REACHED_QUEUE], "{class:?}");
            let end = match way {
                "received" => {
                    assert_eq!(a.receive("orders"), ["1"]);
                    Outcome::RECEIVED
                }
                "rejected" => {
                    let lookup = a.take("orders", 1, None)[0].lookup;
                    a.settle("orders", lookup, Verdict::Reject);
                    assert_eq!(a.receive("dead$"), ["1"]);
                    Outcome::REJECTED_BY_RECEIVER
                }
                _ => {
                    super::crashes::transact(&mut a, true);
                    Outcome::RECEIVED
                }
            };
            assert_eq!(reports(&mut a), [end], "{class:?} {way}");
        }
    }
}

/// From the acceptance to the last report: each is there once, wherever it dies.
#[test]
fn a_node_that_dies_at_any_commit_reports_each_outcome_once() {
    for class in [Class::Recoverable, Class::Transactional] {
        for reached in 0..12 {
            for from in ["start", "ack", "final"] {
                let what = format!("{class:?} {reached} {from}");
                let (mut a, mut b) = met(class);
                a.create("acks", |settings| settings.transactional = false);
                a.hold_disk = from == "start";
                put_to_acks(&mut a, class);
                if from == "start" {
                    let batches = a.waiting.len();
                    a = a.die_with(|n| n < reached);
                    b.lose_link(LINK);
                    if reached < batches {
                        continue;
                    }
                    a.wait(60_000);
                    connect(&mut a, &mut b, NEXT);
                } else {
                    a.hold_disk = from == "ack";
                    carry_but(&mut a, &mut b, LINK, is_final);
                }
                if from == "ack" {
                    a = a.die_with(|n| n < reached);
                    b.lose_link(LINK);
                    a.wait(60_000);
                    connect(&mut a, &mut b, NEXT);
                }
                assert_eq!(b.receive("orders"), ["1"], "{what}");
                if from == "final" {
                    a.hold_disk = true;
                    carry_but(&mut a, &mut b, LINK, is_confirm);
                    // What it makes of it comes behind, batch by batch.
                    a.release_batches(reached, 0);
                    a = a.die_with(|_| false);
                    b.lose_link(LINK);
                    a.wait(60_000);
                    connect(&mut a, &mut b, NEXT);
                }
                carry(&mut a, &mut b, NEXT);
                let both = [Outcome::REACHED_QUEUE, Outcome::RECEIVED];
                assert_eq!(reports(&mut a), both, "{what}");
            }
        }
    }
}

fn put_to_acks(a: &mut Node, class: Class) {
    a.put("qm://b/orders", "1", |put| {
        put.class = class;
        put.label = "apples".into();
        put.ack_wishes = ALL;
        put.admin_queue = "acks".into();
    });
}

#[test]
fn a_full_disk_holds_a_report_back_and_makes_no_second_one() {
    for class in [Class::Recoverable, Class::Transactional] {
        let (mut a, mut b) = met(class);
        put(&mut a, "qm://b/orders", class, ALL, None);
        a.hold_disk = true;
        carry(&mut a, &mut b, LINK);
        a.release_disk(1);
        assert_eq!(reports(&mut a), []);
        a.wait(2_000);
        assert_eq!(reports(&mut a), [Outcome::REACHED_QUEUE]);
        assert_eq!(b.receive("orders"), ["1"]);
        carry(&mut a, &mut b, LINK);
        assert_eq!(reports(&mut a), [Outcome::RECEIVED]);
        assert_eq!(a.engine.counters().reports, 2);
    }
}

#[test]
fn an_administration_queue_is_here_and_takes_ordinary_messages() {
    let mut a = Node::new(1);
    a.create("orders", |settings| settings.transactional = false);
    a.create("strict", |_| {});
    for (queue, outcome) in [
        ("nowhere", Outcome::BAD_DESTINATION_QUEUE),
        ("strict", Outcome::NOT_TRANSACTIONAL_MESSAGE),
        ("qm://b/acks", Outcome::BAD_REQUEST),
    ] {
        a.put("orders", "1", |put| {
            put.class = Class::Recoverable;
            put.ack_wishes = ALL;
            put.admin_queue = queue.into();
        });
        assert_eq!(refusal(&mut a), Some(outcome), "{queue}");
    }
}

#[test]
fn a_report_whose_queue_is_gone_is_counted_as_lost() {
    for class in CLASSES {
        let (mut a, mut b) = met(class);
        put(&mut a, "qm://b/orders", class, ALL, None);
        a.ask(AdminRequest::QueueDelete {
            name: "acks".parse().unwrap(),
            force: true,
            discard: true,
        });
        carry(&mut a, &mut b, LINK);
        assert_eq!(
            (
                a.engine.counters().reports,
                a.engine.counters().reports_lost
            ),
            (0, 1)
        );
        let left = a.disk.state.keys();
        assert_eq!(left.filter(|name| name.starts_with(b"report/")).count(), 0);
    }
}

/// What a disk refused, or took behind what it had refused, is not reported.
#[test]
fn what_the_disk_does_not_take_is_not_reported() {
    let reports_on_disk = |a: &Node| {
        let names = a.disk.state.keys();
        names.filter(|name| name.starts_with(b"report/")).count()
    };
    for overtakes in [false, true] {
        // The acceptance of a message.
        let mut a = Node::new(1);
        for queue in ["orders", "other", "acks"] {
            a.create(queue, |settings| settings.transactional = false);
        }
        a.hold_disk = true;
        if overtakes {
            a.put("other", "refused", |put| put.class = Class::Recoverable);
        }
        a.put("orders", "1", |put| {
            put.class = Class::Recoverable;
            put.ack_wishes = ALL;
            put.admin_queue = "acks".into();
        });
        super::crashes::refuse(&mut a, overtakes, b"report/");
        assert_eq!(reports_on_disk(&a), 0, "{overtakes}");
        assert_eq!(reports(&mut a), [], "{overtakes}");
        assert!(a.receive("orders").is_empty(), "{overtakes}");
        // That it was received in a transaction.
        let mut a = Node::new(1);
        for queue in ["orders", "other"] {
            a.create(queue, |settings| settings.transactional = false);
        }
        put(
            &mut a,
            "orders",
            Class::Recoverable,
            AckWishes::POSITIVE_RECEIVE,
            None,
        );
        a.hold_disk = true;
        if overtakes {
            a.put("other", "refused", |put| put.class = Class::Recoverable);
        }
        super::crashes::transact(&mut a, true);
        super::crashes::refuse(&mut a, overtakes, b"report/");
        a.wait(2_000);
        assert_eq!(reports_on_disk(&a), 0, "{overtakes}");
        assert_eq!(reports(&mut a), [], "{overtakes}");
        assert_eq!(a.receive("orders"), ["1"], "{overtakes}");
        assert_eq!(reports(&mut a), [Outcome::RECEIVED], "{overtakes}");
    }
}

/// A dead letter that is sent again is another message, with the same wishes.
#[test]
fn a_letter_that_is_sent_again_is_reported_anew() {
    let mut a = Node::new(1);
    a.create("orders", |settings| settings.transactional = false);
    put(&mut a, "orders", Class::Recoverable, ALL, None);
    let lookup = a.take("orders", 1, None)[0].lookup;
    a.settle("orders", lookup, Verdict::Reject);
    let both = [Outcome::REACHED_QUEUE, Outcome::REJECTED_BY_RECEIVER];
    assert_eq!(reports(&mut a), both);
    let positions = a.dead().iter().map(|letter| letter.position).collect();
    a.ask(AdminRequest::DeadResend {
        positions,
        force: false,
        to: None,
    });
    assert_eq!(a.receive("orders"), ["1"]);
    let both = [Outcome::REACHED_QUEUE, Outcome::RECEIVED];
    assert_eq!(reports(&mut a), both);
}

/// What a transaction received is removed in one batch with the note of what it took, however many
/// batches its reports fill: a disk that refuses the one must not take the other.
#[test]
fn what_a_commit_took_goes_in_the_batch_in_which_its_removal_is() {
    let mut a = Node::with(1, |config| config.batch_bytes_max = 600);
    for queue in ["here", "acks"] {
        a.create(queue, |settings| settings.transactional = false);
    }
    for body in ["1", "2", "3"] {
        a.put("here", body, |put| {
            put.class = Class::Recoverable;
            put.ack_wishes = AckWishes::POSITIVE_RECEIVE;
            put.admin_queue = "acks".into();
            put.label = "a label of some length, which its report repeats "
                .repeat(4)
                .into();
        });
    }
    let mut receive = Receive::new(700, "here".parse().unwrap());
    receive.messages_max = 3;
    receive.bytes_max = u32::MAX;
    receive.wait_ms = 0;
    receive.transaction = Some(1);
    a.client(ClientFrame::Receive(receive));
    a.hold_disk = true;
    a.client(ClientFrame::EndTransaction(EndTransaction {
        sequence: 1_000,
        transaction: 1,
        commit: true,
    }));
    let sets = |op: &StoreOp| matches!(op, StoreOp::Set { key, .. } if key.starts_with(b"taken/"));
    while a.waiting.iter().any(|(_, ops)| ops.iter().any(sets)) {
        a.release_batches(1, 0);
    }
    let unsets = |op: &StoreOp| matches!(op, StoreOp::Unset { key } if key.starts_with(b"taken/"));
    let removes = |op: &StoreOp| matches!(op, StoreOp::Remove { .. });
    assert!(a.waiting.len() > 2, "its reports fill several");
    let noted = a.waiting.iter().find(|(_, ops)| ops.iter().any(unsets));
    assert!(noted.unwrap().1.iter().any(removes), "{noted:?}");
}

//! Whoever follows a message hears of its end when no crash can undo it any more.

use qm_wire::local::{Follow, Verdict};
use qm_wire::{Class, MessageFlags, Outcome};

use super::support::Node;

/// A message without a dead letter is followed and handed out; the disk confirms nothing from now
/// on.
fn handed_out(class: Class) -> (Node, u64) {
    let mut a = Node::new(1);
    a.create("here", |settings| settings.transactional = false);
    a.put("here", "1", |put| {
        put.class = class;
        put.flags = MessageFlags::NONE;
        put.follow = Follow::Received;
    });
    let held = a.take("here", 1, None);
    a.hold_disk = true;
    (a, held[0].lookup)
}

#[test]
fn of_an_end_is_told_when_the_removal_is_on_disk() {
    for (verdict, outcome) in [
        (Verdict::Consume, Outcome::RECEIVED),
        (Verdict::Reject, Outcome::REJECTED_BY_RECEIVER),
    ] {
        let (mut a, lookup) = handed_out(Class::Recoverable);
        a.settle("here", lookup, verdict);
        assert_eq!(a.fates(), [], "{verdict:?}");
        a.release_disk(0);
        assert_eq!(a.fates(), [outcome], "{verdict:?}");
    }
}

#[test]
fn a_request_that_is_repeated_meanwhile_hears_it_no_earlier() {
    let (mut a, lookup) = handed_out(Class::Recoverable);
    a.settle("here", lookup, Verdict::Consume);
    a.put("here", "1", |put| {
        put.sequence = 1;
        put.class = Class::Recoverable;
        put.flags = MessageFlags::NONE;
        put.follow = Follow::Received;
    });
    assert_eq!(a.fates(), []);
    a.release_disk(0);
    let told = a.fates();
    assert!(!told.is_empty() && told.iter().all(|end| *end == Outcome::RECEIVED));
}

#[test]
fn of_the_end_of_an_express_message_is_told_at_once() {
    let (mut a, lookup) = handed_out(Class::Express);
    a.settle("here", lookup, Verdict::Consume);
    assert_eq!(a.fates(), [Outcome::RECEIVED]);
}

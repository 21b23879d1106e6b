//! The books themselves: what they must take for a fault, and what they must not.

use qm_engine::StreamId;
use qm_wire::{Incarnation, MessageId, Outcome, QmId};

use super::*;

const PUT: Put = Put {
    application: 0,
    number: 1,
};
const STREAM: StreamId = StreamId(8);

fn source() -> QmId {
    QmId::from_ed25519_public_key(&[1; 32])
}

fn id(life: u64, sequence: u64) -> MessageId {
    MessageId {
        incarnation: Incarnation(life),
        sequence,
    }
}

/// A put at node 0 for node 1.
fn books(durable: bool) -> Oracle {
    let mut oracle = Oracle::new(2);
    let fate = Fate {
        durable,
        towards: (1, 0),
        ..Fate::default()
    };
    oracle.fates.insert(PUT, fate);
    oracle
}

fn dies(oracle: &mut Oracle, id: MessageId) -> Result<(), String> {
    oracle.names.insert(id, PUT);
    let end = Ended {
        node: 0,
        now: 0,
        outcome: Outcome::PURGED_IN_TRANSIT,
        uncertain: false,
    };
    oracle.died(id, end, |_, _| true)
}

fn arrives(oracle: &mut Oracle, id: MessageId) -> Result<(), String> {
    oracle.stored(1, 1, source(), id, Some(PUT))
}

/// As a batch does it that a full disk should not have taken.
fn arrives_untold(oracle: &mut Oracle, id: MessageId, position: u64) -> Result<(), String> {
    let before = oracle.before(1, source(), id, PUT);
    oracle.flushed(1, source(), id);
    arrives(oracle, id)?;
    oracle.untold(1, STREAM, position, before);
    Ok(())
}

fn rule(result: &Result<(), String>) -> Option<&str> {
    result.as_ref().err().map(|text| &text[..6])
}

#[test]
fn one_message_is_not_dead_and_delivered() {
    for durable in [true, false] {
        let mut oracle = books(durable);
        assert_eq!(dies(&mut oracle, id(1, 1)), Ok(()));
        assert_eq!(rule(&arrives(&mut oracle, id(1, 1))), Some("rule 9"));
        let mut oracle = books(durable);
        assert_eq!(arrives(&mut oracle, id(1, 1)), Ok(()));
        assert_eq!(rule(&dies(&mut oracle, id(1, 1))), Some("rule 9"));
    }
}

#[test]
fn an_express_put_is_another_message_in_the_next_life_of_its_node_only() {
    // By its class and the lives: what comes of the second message.
    let cases = [
        (false, 2, None),
        (false, 1, Some("rule 9")),
        (true, 2, Some("rule 9")),
    ];
    for (durable, life, expected) in cases {
        let mut oracle = books(durable);
        assert_eq!(dies(&mut oracle, id(1, 1)), Ok(()));
        assert_eq!(rule(&arrives(&mut oracle, id(life, 2))), expected);
        let mut oracle = books(durable);
        assert_eq!(arrives(&mut oracle, id(1, 1)), Ok(()));
        assert_eq!(rule(&dies(&mut oracle, id(life, 2))), expected);
    }
    let mut oracle = books(false);
    assert_eq!(oracle.accepted(PUT, 0, source(), id(1, 1)), Ok(()));
    assert_eq!(oracle.accepted(PUT, 0, source(), id(2, 1)), Ok(()));
    let again = oracle.accepted(PUT, 0, source(), id(2, 2));
    assert_eq!(rule(&again), Some("rule 5"));
}

#[test]
fn what_was_taken_out_untold_did_not_arrive() {
    let mut oracle = books(true);
    assert_eq!(arrives_untold(&mut oracle, id(1, 1), 5), Ok(()));
    oracle.removed(1, STREAM, 5, 5);
    assert_eq!(oracle.undone, 1);
    // A sender that is told of it all the same is told a lie.
    let told = oracle.acknowledged(source(), id(1, 1));
    assert_eq!(rule(&told), Some("rule 2"));
    assert_eq!(arrives_untold(&mut oracle, id(1, 1), 6), Ok(()));
    assert_eq!(oracle.acknowledged(source(), id(1, 1)), Ok(()));
}

#[test]
fn what_was_told_stays_in_the_books() {
    let mut oracle = books(true);
    assert_eq!(arrives_untold(&mut oracle, id(1, 1), 5), Ok(()));
    oracle.told(1, source(), id(1, 1));
    oracle.removed(1, STREAM, 0, u64::MAX);
    assert_eq!(oracle.undone, 0);
    let again = arrives_untold(&mut oracle, id(1, 1), 6);
    assert_eq!(rule(&again), Some("rule 4"));
    // Nor does it matter that another stream loses this position.
    let mut oracle = books(true);
    assert_eq!(arrives_untold(&mut oracle, id(1, 1), 5), Ok(()));
    oracle.removed(1, StreamId(9), 0, u64::MAX);
    let again = arrives_untold(&mut oracle, id(1, 1), 6);
    assert_eq!(rule(&again), Some("rule 4"));
}

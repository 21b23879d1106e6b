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
    let text = result.as_ref().err()?;
    text.split(':').next()
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

/// Two puts of one application at node 0 for node 1; the second arrives first.
fn second_first(fails_when_full: bool) -> Oracle {
    let mut oracle = Oracle::new(2);
    for number in [1, 2] {
        let fate = Fate {
            durable: true,
            towards: (1, 0),
            fails_when_full,
            ..Fate::default()
        };
        oracle.fates.insert(Put { number, ..PUT }, fate);
        oracle.names.insert(id(1, number), Put { number, ..PUT });
    }
    oracle
}

fn arrives_as(oracle: &mut Oracle, number: u64) -> Result<(), String> {
    let put = Put { number, ..PUT };
    oracle.stored(1, 1, source(), id(1, number), Some(put))
}

#[test]
fn only_what_its_queue_turned_away_may_come_late() {
    // Whether it wishes to fail when its queue is full, and whether it did.
    for (wishes, refused) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut oracle = second_first(wishes);
        if refused {
            oracle.turned_away(id(1, 1), false);
        }
        assert_eq!(arrives_as(&mut oracle, 2), Ok(()));
        let late = arrives_as(&mut oracle, 1);
        let expected = (!(wishes && refused)).then_some("rule 6");
        assert_eq!(rule(&late), expected, "{wishes} {refused}");
    }
    // Nobody wishes that a queue is deleted, and made again before the message behind.
    let mut oracle = second_first(false);
    oracle.turned_away(id(1, 1), true);
    for (number, expected) in [(2, None), (1, None)] {
        assert_eq!(rule(&arrives_as(&mut oracle, number)), expected, "{number}");
    }
    // Those behind it keep their order among themselves.
    let mut oracle = second_first(true);
    let fate = oracle.fates[&PUT].clone();
    oracle.fates.insert(Put { number: 3, ..PUT }, fate);
    oracle.turned_away(id(1, 1), false);
    for (number, expected) in [(3, None), (1, None), (2, Some("rule 6"))] {
        let arrives = arrives_as(&mut oracle, number);
        assert_eq!(rule(&arrives), expected, "{number}");
    }
}

/// An application at node 0 puts a token for node 1, in a transaction that took nothing.
fn minting(oracle: &mut Oracle, number: u64) -> usize {
    let deal = oracle.deal_begins();
    put_in(oracle, deal, number, number);
    deal
}

fn put_in(oracle: &mut Oracle, deal: usize, number: u64, token: u64) {
    let fate = Fate {
        durable: true,
        transactional: true,
        towards: (1, 0),
        ..Fate::default()
    };
    let put = Put { number, ..PUT };
    let token = Token {
        application: 0,
        number: token,
    };
    oracle.deal_puts(deal, put, token, fate);
}

fn take_in(oracle: &mut Oracle, number: u64, token: u64) -> usize {
    let deal = oracle.deal_begins();
    let token = Token {
        application: 0,
        number: token,
    };
    oracle.deal_takes(deal, Put { number, ..PUT }, token);
    deal
}

fn commit(oracle: &mut Oracle, deal: usize, ids: &[u64]) -> Result<(), String> {
    oracle.deal_asked(deal);
    for sequence in ids {
        oracle.flushed(0, source(), id(1, *sequence));
    }
    let ids = ids.iter().map(|sequence| id(1, *sequence));
    oracle.deal_committed(deal, 0, source(), ids)
}

#[test]
fn a_token_carries_its_put_and_itself() {
    let token = Token {
        application: 3,
        number: 7,
    };
    let body = token.to_body(PUT);
    assert_eq!(Put::from_body(&body), Some(PUT));
    assert_eq!(Token::from_body(&body), Some(token));
    assert_eq!(Token::from_body(&PUT.to_body(30)), None);
}

#[test]
fn nothing_of_a_transaction_is_seen_before_its_commit_or_after_its_abort() {
    let mut oracle = Oracle::new(2);
    let deal = minting(&mut oracle, 1);
    assert_eq!(rule(&oracle.deal_stored(PUT)), Some("rule 13"));
    assert_eq!(rule(&arrives_as(&mut oracle, 1)), Some("rule 13"));
    oracle.deal_asked(deal);
    assert_eq!(oracle.deal_stored(PUT), Ok(()));
    assert_eq!(oracle.deal_aborted(deal), Ok(()));
    assert_eq!(rule(&arrives_as(&mut oracle, 1)), Some("rule 13"));

    let mut oracle = Oracle::new(2);
    let deal = minting(&mut oracle, 1);
    oracle.deal_asked(deal);
    assert_eq!(arrives_as(&mut oracle, 1), Ok(()));
    let aborted = oracle.deal_aborted(deal);
    assert_eq!(rule(&aborted), Some("rule 13"), "it was seen");

    let mut oracle = Oracle::new(2);
    let deal = minting(&mut oracle, 1);
    let committed = oracle.deal_committed(deal, 0, source(), [id(1, 1)].into_iter());
    assert_eq!(rule(&committed), Some("rule 13"), "nobody asked");
}

#[test]
fn a_transaction_happens_as_a_whole() {
    // Of two messages one arrives; the application never hears of the end.
    let mut oracle = Oracle::new(2);
    let deal = minting(&mut oracle, 1);
    put_in(&mut oracle, deal, 2, 2);
    oracle.deal_asked(deal);
    assert_eq!(oracle.finish(), Ok(()), "it did not happen");
    assert_eq!(arrives_as(&mut oracle, 1), Ok(()));
    assert_eq!(oracle.open(), 2);
    let last = take_in(&mut oracle, 1, 1);
    assert_eq!(commit(&mut oracle, last, &[]), Ok(()));
    assert_eq!(oracle.open(), 1);
    assert_eq!(rule(&oracle.finish()), Some("rule 13"));
    assert_eq!(arrives_as(&mut oracle, 2), Ok(()));
    let last = take_in(&mut oracle, 2, 2);
    assert_eq!(commit(&mut oracle, last, &[]), Ok(()));
    assert_eq!((oracle.finish(), oracle.open()), (Ok(()), 0));
}

#[test]
fn what_a_transaction_took_does_not_come_back_and_no_token_is_doubled() {
    let mut oracle = Oracle::new(2);
    let deal = minting(&mut oracle, 1);
    assert_eq!(commit(&mut oracle, deal, &[1]), Ok(()));
    assert_eq!(arrives_as(&mut oracle, 1), Ok(()));
    let moved = take_in(&mut oracle, 1, 1);
    put_in(&mut oracle, moved, 2, 1);
    oracle.deal_asked(moved);
    assert_eq!(oracle.handed_out(PUT), Ok(()), "it did not happen yet");
    assert_eq!(arrives_as(&mut oracle, 2), Ok(()));
    assert_eq!(rule(&oracle.handed_out(PUT)), Some("rule 4"));

    // Two transactions took it, and both put it elsewhere.
    let mut oracle = Oracle::new(2);
    let deal = minting(&mut oracle, 1);
    assert_eq!(commit(&mut oracle, deal, &[1]), Ok(()));
    for number in [2, 3] {
        let moved = take_in(&mut oracle, 1, 1);
        put_in(&mut oracle, moved, number, 1);
        let done = commit(&mut oracle, moved, &[number]);
        assert_eq!(rule(&done), (number == 3).then_some("rule 4"));
    }

    // It left the world twice, under names that no rule compares.
    let mut oracle = Oracle::new(2);
    for number in [1, 2] {
        let deal = minting(&mut oracle, number);
        assert_eq!(commit(&mut oracle, deal, &[number]), Ok(()));
        let last = take_in(&mut oracle, number, 1);
        assert_eq!(commit(&mut oracle, last, &[]), Ok(()));
    }
    assert_eq!(rule(&oracle.finish()), Some("rule 13"));
}

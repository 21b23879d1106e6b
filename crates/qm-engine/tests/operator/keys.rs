//! Numbers of idempotency keys: all are answered, what is written with a message is bounded, and so
//! is what is kept.

use bytes::Bytes;
use qm_engine::limits::KEY_BLOCKS_MAX;
use qm_engine::{StoreOp, Trust};
use qm_wire::local::{IdempotencyKey, NodeFrame};
use qm_wire::{Class, MessageId, Outcome};

use crate::support::Node;

fn send(node: &mut Node, number: u64) {
    node.told.clear();
    node.batches.clear();
    node.put("here", b"line", |put| {
        put.class = Class::Recoverable;
        put.idempotency = Some(IdempotencyKey {
            key: Bytes::from_static(b"monday"),
            number: Some(number),
        });
    });
}

/// How the last one was answered.
fn answer(node: &Node) -> Result<(MessageId, bool), Outcome> {
    match node.told.last() {
        Some(NodeFrame::Accepted(accepted)) => Ok((accepted.first_id, accepted.repeated)),
        Some(NodeFrame::Refused(refused)) => Err(refused.outcome),
        other => panic!("{other:?}"),
    }
}

/// Bytes of keys that the last batches wrote.
fn written(node: &Node) -> usize {
    let ops = node.batches.iter().flatten();
    let values = ops.filter_map(|op| match op {
        StoreOp::Set { key, value } if key.starts_with(b"idem/") => Some(value.len()),
        _ => None,
    });
    values.sum()
}

fn again(node: Node) -> Node {
    let sequence = node.next_sequence;
    let mut node = node.restart(Trust::Any);
    node.hello();
    node.next_sequence = sequence;
    node
}

#[test]
fn a_batch_writes_little_however_many_numbers_came_under_a_key() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    let (mut ids, mut most) = (Vec::new(), 0);
    for number in 0..2_000 {
        send(&mut a, number);
        ids.push(answer(&a).unwrap().0);
        most = most.max(written(&a));
        // Another application takes its turn: no two numbers make one run.
        a.put("here", b"other", |_| {});
    }
    assert!((1..=17 << 10).contains(&most), "{most}");
    for _ in 0..2 {
        for number in (0..2_000).step_by(97) {
            send(&mut a, number);
            assert_eq!(
                answer(&a),
                Ok((ids[usize::try_from(number).unwrap()], true)),
                "{number}"
            );
        }
        a = again(a);
    }
    send(&mut a, 2_000);
    assert!(!answer(&a).unwrap().1);
}

#[test]
fn of_a_key_with_very_many_numbers_the_lowest_are_refused_when_they_come_again() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    let far = 512u64;
    let highest = (KEY_BLOCKS_MAX as u64 + 20) * far;
    for number in (0..=highest).step_by(512) {
        send(&mut a, number);
        assert!(!answer(&a).unwrap().1, "{number}");
    }
    for _ in 0..2 {
        let stored = a.disk.state.keys().filter(|key| key.starts_with(b"idem/"));
        assert!((KEY_BLOCKS_MAX..=KEY_BLOCKS_MAX + 1).contains(&stored.count()));
        let before = a.disk.records.len();
        for number in [0, 1, far * 10] {
            send(&mut a, number);
            assert_eq!(answer(&a), Err(Outcome::BAD_REQUEST), "{number}");
        }
        for number in [far * 100, highest] {
            send(&mut a, number);
            assert!(answer(&a).unwrap().1, "{number}");
        }
        assert_eq!(a.disk.records.len(), before);
        a = again(a);
    }
}

/// What a version before wrote of a whole key is taken over, block by block.
#[test]
fn one_value_of_a_whole_key_is_read() {
    let mut a = Node::new(1, Trust::Any);
    a.create("here");
    send(&mut a, 0);
    let (first, _) = answer(&a).unwrap();
    let is_key = |key: &Bytes| key.starts_with(b"idem/");
    let (name, value) = a.disk.state.iter().find(|(key, _)| is_key(key)).unwrap();
    // One run of all of them: its last number stands behind version, time, digest and the first.
    let (name, mut value) = (name.clone(), value.to_vec());
    value[33..41].copy_from_slice(&1_500u64.to_le_bytes());
    a.disk.state.insert(name, value.into());
    a.disk.state.retain(|key, _| !key.starts_with(b"idemd/"));
    let mut a = again(a);
    for _ in 0..2 {
        for number in [0, 511, 512, 1_500] {
            send(&mut a, number);
            let id = MessageId {
                sequence: first.sequence + number,
                ..first
            };
            assert_eq!(answer(&a), Ok((id, true)), "{number}");
        }
        a = again(a);
        assert_eq!(a.disk.state.keys().filter(|key| is_key(key)).count(), 3);
    }
    send(&mut a, 1_501);
    assert!(!answer(&a).unwrap().1);
}

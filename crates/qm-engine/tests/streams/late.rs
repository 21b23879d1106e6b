//! A disk that has not even room for what gives room back: what belongs together reaches it
//! together, in its order, only later.

use core::ops::Range;
use std::collections::BTreeMap;

use bytes::Bytes;
use qm_engine::StreamId;
use qm_wire::local::{Follow, Verdict};
use qm_wire::{Class, Outcome};

use super::support::*;
use super::{LINK, met};

/// What a disk holds, but the time.
type Held = (Vec<(StreamId, u64)>, BTreeMap<Bytes, Bytes>);

fn held(node: &Node) -> Held {
    let mut state = node.disk.state.clone();
    state.remove(&b"clock"[..]);
    (node.disk.records.keys().copied().collect(), state)
}

/// A disk that refuses everything for a while.
struct Late {
    refused: Range<usize>,
    answers: usize,
    /// What it held after each answer.
    held: Vec<Held>,
}

impl Late {
    fn new(node: &mut Node, refused: Range<usize>) -> Self {
        node.hold_disk = true;
        Self {
            refused,
            answers: 0,
            held: vec![held(node)],
        }
    }

    /// Answers for everything that was handed over, in order.
    fn answer(&mut self, node: &mut Node) {
        while !node.waiting.is_empty() {
            let refused = self.refused.contains(&self.answers);
            self.answers += 1;
            node.answer_one(!refused);
            self.held.push(held(node));
        }
    }

    fn wait(&mut self, node: &mut Node) {
        for _ in 0..4 {
            node.wait(1_000);
            self.answer(node);
        }
    }
}

/// Whatever is refused, for however long: at each moment the disk holds what it held at some moment
/// of a run without refusals, and in the end the same.
fn stays_whole(run: impl Fn(Range<usize>) -> Late) {
    let whole = run(0..0);
    assert!(whole.answers >= 4, "{}", whole.answers);
    let last = whole.held.last().unwrap();
    for first in 0..whole.answers {
        for most in 1..=3 {
            let late = run(first..first + most);
            for (n, held) in late.held.iter().enumerate() {
                assert!(
                    whole.held.contains(held),
                    "{most} refused from {first}: {n} is no moment of the other run"
                );
            }
            assert_eq!(late.held.last(), Some(last), "{most} from {first}");
        }
    }
}

/// A message leaves with the mark of its place, and with the note that its end is awaited.
#[test]
fn what_is_delivered_leaves_whole() {
    stays_whole(|refused| {
        let (mut a, mut b) = met();
        for n in 0..4 {
            a.put("qm://b/orders", &n.to_string(), |put| {
                put.follow = Follow::Received;
            });
        }
        let mut answers = Vec::new();
        for frame in a.sent_on(LINK) {
            b.hear(LINK, &frame);
            answers.extend(b.sent_on(LINK));
        }
        let mut late = Late::new(&mut a, refused);
        for answer in answers {
            a.hear(LINK, &answer);
            late.answer(&mut a);
        }
        late.wait(&mut a);
        late
    });
}

/// What is consumed leaves with the list of arrivals that knows it, and with its end for who waits.
#[test]
fn what_is_received_leaves_whole() {
    stays_whole(|refused| {
        let (mut a, mut b) = met();
        b.create("plain", |settings| settings.transactional = false);
        for n in 0..4 {
            a.put("qm://b/plain", &n.to_string(), |put| {
                put.class = Class::Recoverable;
                put.follow = Follow::Received;
            });
        }
        carry(&mut a, &mut b, LINK);
        b.lose_link(LINK);
        let taken = b.take("plain", 10, None);
        assert_eq!(taken.len(), 4);
        let mut late = Late::new(&mut b, refused);
        for delivery in taken {
            b.settle("plain", delivery.lookup, Verdict::Consume);
            late.answer(&mut b);
        }
        late.wait(&mut b);
        late
    });
}

/// Who waits for the end of a message hears it when its removal is on disk, also when a later batch
/// got there before.
#[test]
fn nobody_hears_of_an_end_that_a_crash_would_undo() {
    let (mut a, _) = met();
    a.create("here", |settings| settings.transactional = false);
    for n in 0..2 {
        a.put("here", &n.to_string(), |put| {
            put.class = Class::Recoverable;
            put.follow = Follow::Received;
        });
    }
    let taken = a.take("here", 10, None);
    assert_eq!(taken.len(), 2);
    a.fates();
    a.hold_disk = true;
    for delivery in taken {
        a.settle("here", delivery.lookup, Verdict::Consume);
    }
    // The first is refused, the second was on its way and is taken.
    a.answer_one(false);
    let behind = a.waiting.len();
    a.release_batches(behind, 0);
    assert_eq!(a.fates(), []);
    a.wait(1_000);
    a.release_disk(0);
    assert_eq!(a.fates(), [Outcome::RECEIVED; 2]);
    let mut a = a.crash();
    assert!(a.receive("here").is_empty());
}

//! How a destination is asked about what may have been transmitted before.

use std::collections::BTreeSet;

use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{Class, Credit, Entry, PeerFrame};

use super::support::{Node, carry_but, plug};
use super::{LINK, is_data};

const QUEUES: usize = 12;
const MESSAGES: usize = 600;
const ALL: usize = QUEUES * MESSAGES;
const _: () = assert!(ALL > ENTRIES_MAX && ALL < 2 * ENTRIES_MAX);

/// A sender whose earlier life left this, and its destination.
fn inherited() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.gathers = true;
    for queue in 0..QUEUES {
        b.create(&format!("q{queue}"), |settings| {
            settings.transactional = false;
        });
        for n in 0..MESSAGES {
            a.put(&format!("qm://b/q{queue}"), &n.to_string(), |put| {
                put.class = Class::Recoverable;
            });
        }
    }
    a.gathers = false;
    a.wait(1);
    let mut a = a.crash();
    (a.audits, b.audits) = (false, false);
    (a, b)
}

fn asked(frame: &PeerFrame) -> &[Entry] {
    match frame {
        PeerFrame::Query(query) if !query.void => &query.entries,
        _ => &[],
    }
}

/// W-USE-7.
#[test]
fn no_more_is_asked_about_at_a_time_than_one_query_takes() {
    let (mut a, mut b) = inherited();
    plug(&mut a, &mut b, LINK);
    let (mut open, mut most, mut total) = (0, 0, 0);
    carry_but(&mut a, &mut b, LINK, |frame| {
        open += asked(frame).len();
        total += asked(frame).len();
        most = most.max(open);
        if let PeerFrame::Answer(answer) = frame {
            open -= answer.entries.len();
        }
        false
    });
    assert_eq!(total, ALL, "each once");
    assert!(most <= ENTRIES_MAX, "{most} at a time");
    assert_eq!(b.engine.counters().delivered, ALL as u64);
    a.engine.audit().unwrap();
}

#[test]
fn a_destination_that_does_not_answer_is_asked_about_all_by_turns() {
    let (mut a, mut b) = inherited();
    plug(&mut a, &mut b, LINK);
    let mut seen: Vec<BTreeSet<Entry>> = Vec::new();
    for _ in 0..2 {
        let mut these = BTreeSet::new();
        // Something is heard, but no answer.
        for n in 0..6 {
            carry_but(&mut a, &mut b, LINK, |frame| {
                these.extend(asked(frame).iter().copied());
                !asked(frame).is_empty() || is_data(frame)
            });
            let sign = Credit {
                messages: 4_096,
                bytes: 1 << 20,
            };
            a.hear(LINK, &PeerFrame::Credit(sign));
            a.wait(if n < 5 { 5_000 } else { 5_100 });
        }
        assert_eq!(these.len(), ENTRIES_MAX);
        seen.push(these);
    }
    assert_eq!(seen[0].union(&seen[1]).count(), ALL);
}

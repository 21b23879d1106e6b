use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use qm_wire::local::ClientFrame;
use qm_wire::{Incarnation, QmId, Text};

use super::*;

/// What may happen to a client.
#[derive(Clone, Debug)]
enum Event {
    Push,
    Write,
    Accept { first: u64, count: u32 },
    Refuse { sequence: u64 },
    Lose,
    Restart,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Push),
        4 => Just(Event::Write),
        3 => (0_u64..12, 1_u32..6).prop_map(|(first, count)| Event::Accept { first, count }),
        1 => (0_u64..12).prop_map(|sequence| Event::Refuse { sequence }),
        1 => Just(Event::Lose),
        1 => Just(Event::Restart),
    ]
}

fn node(window_messages: u32, window_bytes: u32) -> NodeHello {
    NodeHello {
        protocol: 1,
        node: QmId::from_bytes([1; 16]),
        incarnation: Incarnation(1),
        name: Text::EMPTY,
        body_bytes_max: 1 << 20,
        window_messages,
        window_bytes,
    }
}

fn sequence_of(frame: BytesMut) -> u64 {
    let frame = ClientFrame::next(&mut frame.freeze(), 1 << 20)
        .unwrap()
        .unwrap();
    let ClientFrame::Put(put) = frame else {
        panic!("a put was written")
    };
    put.sequence
}

fn run(first_sequence: u64, count: u32) -> Accepted {
    Accepted {
        first_sequence,
        count,
        first_id: MessageId {
            incarnation: Incarnation(1),
            sequence: first_sequence,
        },
        repeated: false,
    }
}

proptest! {
    /// Every put is answered once; each connection carries the unanswered ones in order, none
    /// twice, within the node's window; what is released is what was reserved.
    #[test]
    fn puts_keep_their_promises(
        window in 1_u32..5,
        window_bytes in 1_u32..400,
        events in proptest::collection::vec(any_event(), 1..200),
    ) {
        let node = node(window, window_bytes);
        let mut puts = Puts::new();
        let mut answers = Vec::new();
        // Model: unanswered sequences with their bytes, and those this connection carried.
        let mut unanswered: BTreeMap<u64, u64> = BTreeMap::new();
        let mut carried = BTreeSet::new();
        let mut ever_carried = BTreeSet::new();
        let (mut reserved, mut released) = (Freed::default(), Freed::default());
        for event in events {
            match event {
                Event::Push => {
                    let (answer, ticket) = oneshot::channel();
                    let mut put = Put::new(0, "q", Bytes::new());
                    // Every third is express, which a restart forgets.
                    if answers.len() % 3 == 2 {
                        put.class = Class::Express;
                    }
                    let bytes = 100;
                    let sequence = puts.push(put, bytes, answer);
                    answers.push(ticket);
                    prop_assert_eq!(sequence, answers.len() as u64);
                    unanswered.insert(sequence, bytes);
                    reserved.messages += 1;
                    reserved.bytes += bytes;
                }
                Event::Write => {
                    let mut frame = BytesMut::new();
                    let expected = unanswered.keys().find(|s| !carried.contains(*s)).copied();
                    let in_flight: u64 = carried.iter().map(|s| unanswered[s]).sum();
                    let fits = carried.is_empty()
                        || ((carried.len() as u64) < u64::from(window)
                            && in_flight + 100 <= u64::from(window_bytes));
                    let written = puts.write_next(&node, &mut frame);
                    prop_assert_eq!(written, fits && expected.is_some());
                    if written {
                        let sequence = sequence_of(frame);
                        prop_assert_eq!(Some(sequence), expected);
                        carried.insert(sequence);
                        ever_carried.insert(sequence);
                    }
                }
                Event::Accept { first, count } => {
                    let base = unanswered.keys().next().copied().unwrap_or(1);
                    let first = (base + first).saturating_sub(3).max(1);
                    let last = first + u64::from(count) - 1;
                    let known = puts.on_accepted(&run(first, count));
                    // An answer to what this connection did not carry is a violation.
                    let all = unanswered.range(first..=last).all(|(s, _)| carried.contains(s));
                    prop_assert!(all || known.is_err());
                    prop_assert!(!carried.contains(&last) || known.is_ok());
                    if known.is_ok() {
                        for sequence in first..=last {
                            unanswered.remove(&sequence);
                            carried.remove(&sequence);
                        }
                    }
                }
                Event::Refuse { sequence } => {
                    let base = unanswered.keys().next().copied().unwrap_or(1);
                    let sequence = (base + sequence).saturating_sub(3).max(1);
                    let refused = Refused {
                        sequence,
                        outcome: Outcome::BUSY,
                        text: Text::EMPTY,
                    };
                    if puts.on_refused(&refused).is_ok() {
                        unanswered.remove(&sequence);
                        carried.remove(&sequence);
                    }
                }
                Event::Lose => {
                    puts.on_lost(&ClientError::Closed);
                    carried.clear();
                }
                Event::Restart => {
                    puts.on_lost(&ClientError::Closed);
                    carried.clear();
                    puts.on_restarted(&ClientError::Closed);
                    unanswered.retain(|s, _| !(ever_carried.contains(s) && s % 3 == 0));
                }
            }
            let freed = puts.take_freed();
            released.messages += freed.messages;
            released.bytes += freed.bytes;
            prop_assert_eq!(released.messages, reserved.messages - unanswered.len());
            prop_assert_eq!(released.bytes, reserved.bytes - unanswered.values().sum::<u64>());
            prop_assert_eq!(puts.is_idle(), unanswered.is_empty());
            for (sequence, ticket) in (1_u64..).zip(&mut answers) {
                let open = unanswered.contains_key(&sequence);
                let waiting = matches!(
                    ticket.try_recv(),
                    Err(oneshot::error::TryRecvError::Empty)
                );
                prop_assert_eq!(waiting, open, "put {}", sequence);
            }
        }
        puts.fail_all(&ClientError::Closed);
        prop_assert!(puts.is_idle());
        for (sequence, mut ticket) in (1_u64..).zip(answers) {
            if unanswered.contains_key(&sequence) {
                let unknown = matches!(ticket.try_recv(), Ok(Err(SendError::OutcomeUnknown(_))));
                prop_assert_eq!(unknown, ever_carried.contains(&sequence));
            }
        }
    }
}

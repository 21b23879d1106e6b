use bytes::{BufMut, Bytes, BytesMut};

use super::*;
use crate::envelope::{AckWishes, Class, Envelope, INFINITE_MS, MessageFlags, Priority};
use crate::id::{ClientId, Incarnation, MessageId, QmId, Salt, Tag};
use crate::limits::{
    ACK_RANGES_MAX, ADMIN_BYTES_MAX, CONTROL_BYTES_MAX, FATE_RUNS_MAX, FRAME_HEADER_BYTES,
};
use crate::outcome::Outcome;
use crate::properties::Properties;
use crate::text::Text;

const LIMIT: usize = crate::limits::FRAME_BODY_BYTES_DEFAULT;

fn id(sequence: u64) -> MessageId {
    MessageId {
        incarnation: Incarnation(5),
        sequence,
    }
}

fn full_put() -> Put {
    Put {
        class: Class::Express,
        priority: Priority::new(7).unwrap(),
        flags: MessageFlags::DEAD_LETTER.with(MessageFlags::JOURNAL),
        ack_wishes: AckWishes::POSITIVE_ARRIVAL,
        follow: Follow::Received,
        time_to_reach_queue_ms: Some(1),
        time_to_be_received_ms: Some(INFINITE_MS),
        idempotency: Some(IdempotencyKey {
            key: "run-1".into(),
            number: Some(3),
        }),
        label: "label".into(),
        correlation_id: "c".into(),
        response_queue: "answers".into(),
        admin_queue: "acks".into(),
        content_type: "text/plain".into(),
        trace_context: "00-1".into(),
        properties: Properties::new([("k", b"v")]).unwrap(),
        ..Put::new(9, "qm://host/orders", "body".into())
    }
}

fn client_frames() -> Vec<ClientFrame> {
    let queue: crate::QueueName = "orders:poison".parse().unwrap();
    vec![
        ClientFrame::Hello(ClientHello {
            protocol: 1,
            client: ClientId([3; 16]),
            program: "till".into(),
        }),
        ClientFrame::Put(Put::new(1, "orders", Bytes::new())),
        ClientFrame::Put(full_put()),
        ClientFrame::Put(Put {
            time_to_reach_queue_ms: None,
            idempotency: Some(IdempotencyKey {
                key: "only a key".into(),
                number: None,
            }),
            ..full_put()
        }),
        ClientFrame::Receive(Receive::new(1, queue.clone())),
        ClientFrame::Receive(Receive {
            mode: ReceiveMode::Peek,
            after: Some(7),
            lookup: Some(8),
            correlation_id: "c".into(),
            ..Receive::new(2, queue.clone())
        }),
        ClientFrame::Settle(Settle {
            request: 3,
            queue,
            verdict: Verdict::Reject,
            ranges: vec![(0, 0), (2, u64::MAX)],
        }),
        ClientFrame::Admin(Admin {
            request: 4,
            json: "{}".into(),
        }),
    ]
}

fn delivery() -> Delivery {
    let mut envelope = Envelope::new(
        QmId::from_bytes([1; 16]),
        id(1),
        Salt([2; 16]),
        Class::Recoverable,
        "orders".parse().unwrap(),
    );
    envelope.body_bytes = 4;
    let mut encoded = BytesMut::new();
    envelope.encode(&mut encoded).unwrap();
    let body = Bytes::from_static(b"body");
    Delivery {
        request: 1,
        lookup: 2,
        arrived_at_us: 3,
        abort_count: 4,
        be_received_left_ms: 5,
        tag: Tag::compute(&encoded, &envelope.salt, &body),
        envelope: encoded.freeze(),
        body,
    }
}

fn node_frames() -> Vec<NodeFrame> {
    vec![
        NodeFrame::Hello(NodeHello {
            protocol: 1,
            node: QmId::from_bytes([1; 16]),
            incarnation: Incarnation(5),
            name: "node".into(),
            body_bytes_max: 4 << 20,
            window_messages: 256,
            window_bytes: 1 << 20,
        }),
        NodeFrame::Accepted(Accepted {
            first_sequence: 3,
            count: 2,
            first_id: id(70),
            repeated: true,
        }),
        NodeFrame::Refused(Refused {
            sequence: 5,
            outcome: Outcome::BODY_TOO_LARGE,
            text: "too large".into(),
        }),
        NodeFrame::Fate(Fate {
            runs: vec![
                (1, 3, Outcome::REACHED_QUEUE),
                (4, u64::MAX, Outcome::RECEIVED),
            ],
        }),
        NodeFrame::Delivery(delivery()),
        NodeFrame::ReceiveDone(ReceiveDone {
            request: 1,
            messages: 1,
            outcome: None,
            text: Text::EMPTY,
        }),
        NodeFrame::Settled(Settled {
            request: 3,
            messages: 0,
            outcome: Some(Outcome(0)),
            text: "gone".into(),
            lost: vec![(1, 2), (5, 5)],
        }),
        NodeFrame::AdminReply(AdminReply {
            request: 4,
            ok: false,
            json: "{}".into(),
        }),
    ]
}

#[test]
fn every_frame_reads_back_and_no_prefix_does() {
    let mut wire = BytesMut::new();
    for frame in client_frames() {
        wire.clear();
        frame.encode(&mut wire);
        if let ClientFrame::Put(put) = &frame {
            assert_eq!(put.encoded_len(), wire.len());
        }
        let whole = wire.clone().freeze();
        assert_eq!(
            ClientFrame::next(&mut whole.clone(), LIMIT),
            Ok(Some(frame))
        );
        for n in 0..whole.len() {
            assert_eq!(
                ClientFrame::next(&mut whole.slice(..n), LIMIT),
                Ok(None),
                "{n}"
            );
        }
    }
    for frame in node_frames() {
        wire.clear();
        frame.encode(&mut wire);
        let whole = wire.clone().freeze();
        assert_eq!(NodeFrame::next(&mut whole.clone(), LIMIT), Ok(Some(frame)));
        for n in 0..whole.len() {
            assert_eq!(
                NodeFrame::next(&mut whole.slice(..n), LIMIT),
                Ok(None),
                "{n}"
            );
        }
    }
}

/// Every flipped bit is noticed: by the header's rules, by the checksum, or, in a message body,
/// by the tag (a put has none yet: its body is guarded by the socket of one machine).
#[test]
fn every_flipped_bit_is_noticed() {
    let mut wire = BytesMut::new();
    for frame in node_frames() {
        wire.clear();
        frame.encode(&mut wire);
        for at in 0..wire.len() {
            for bit in 0..8 {
                let mut bytes = wire.clone();
                *bytes.get_mut(at).unwrap() ^= 1 << bit;
                match NodeFrame::next(&mut bytes.freeze(), LIMIT) {
                    Err(_) | Ok(None) => {}
                    Ok(Some(NodeFrame::Delivery(delivery))) => {
                        assert!(delivery.open().is_err(), "byte {at} bit {bit}");
                    }
                    Ok(Some(other)) => panic!("byte {at} bit {bit} of {frame:?}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn frames_of_the_other_direction_are_refused() {
    let mut wire = BytesMut::new();
    for frame in client_frames() {
        wire.clear();
        frame.encode(&mut wire);
        let found = NodeFrame::next(&mut wire.clone().freeze(), LIMIT);
        assert!(found.is_err(), "{frame:?}");
    }
    for frame in node_frames() {
        wire.clear();
        frame.encode(&mut wire);
        let found = ClientFrame::next(&mut wire.clone().freeze(), LIMIT);
        assert!(found.is_err(), "{frame:?}");
    }
}

#[test]
fn a_put_over_a_limit_is_refused_by_check_and_by_the_decoder() {
    let long = |n: usize| Text::from("x".repeat(n));
    let puts = [
        Put {
            sequence: 0,
            ..full_put()
        },
        Put {
            destination: Text::EMPTY,
            ..full_put()
        },
        Put {
            destination: long(1025),
            ..full_put()
        },
        Put {
            destination: long(70_000),
            ..full_put()
        },
        Put {
            label: long(250),
            ..full_put()
        },
        Put {
            label: "a\r".into(),
            ..full_put()
        },
        Put {
            destination: "a\nb".into(),
            ..full_put()
        },
        Put {
            content_type: "a\tb".into(),
            ..full_put()
        },
        Put {
            correlation_id: vec![0; 257].into(),
            ..full_put()
        },
        Put {
            response_queue: long(1025),
            ..full_put()
        },
        Put {
            admin_queue: long(1025),
            ..full_put()
        },
        Put {
            content_type: long(256),
            ..full_put()
        },
        Put {
            trace_context: long(641),
            ..full_put()
        },
        Put {
            class: Class::Transactional,
            ..full_put()
        },
        Put {
            idempotency: Some(IdempotencyKey {
                key: Bytes::new(),
                number: None,
            }),
            ..full_put()
        },
        Put {
            idempotency: Some(IdempotencyKey {
                key: vec![0; 129].into(),
                number: None,
            }),
            ..full_put()
        },
    ];
    for put in puts {
        assert!(put.check().is_err(), "{put:?}");
        let mut wire = BytesMut::new();
        put.encode(&mut wire);
        assert!(
            ClientFrame::next(&mut wire.freeze(), LIMIT).is_err(),
            "{put:?}"
        );
    }
}

#[test]
fn an_idempotency_number_without_a_key_is_refused() {
    let mut wire = BytesMut::new();
    put_frame(&mut wire, FrameKind::Put, 8, &[], |to| to.put_bytes(0, 64));
    assert!(ClientFrame::next(&mut wire.freeze(), LIMIT).is_err());
}

#[test]
fn settle_ranges_have_one_form() {
    let settle = |ranges: Vec<(u64, u64)>| Settle {
        request: 1,
        queue: "q".parse().unwrap(),
        verdict: Verdict::Consume,
        ranges,
    };
    for wrong in [
        vec![],
        vec![(2, 1)],
        vec![(1, 2), (3, 4)],
        vec![(5, 6), (1, 2)],
        vec![(1, u64::MAX), (0, 0)],
        (0..=ACK_RANGES_MAX as u64)
            .map(|n| (2 * n, 2 * n))
            .collect(),
    ] {
        let settle = settle(wrong);
        assert!(settle.check().is_err());
        let mut wire = BytesMut::new();
        ClientFrame::Settle(settle).encode(&mut wire);
        assert!(ClientFrame::next(&mut wire.freeze(), LIMIT).is_err());
    }
    assert_eq!(settle(vec![(1, 2), (4, u64::MAX)]).check(), Ok(()));
}

#[test]
fn an_accepted_run_maps_its_sequences_and_cannot_overflow() {
    let run = Accepted {
        first_sequence: 3,
        count: 2,
        first_id: id(70),
        repeated: false,
    };
    assert_eq!(run.last_sequence(), 4);
    assert_eq!(
        [2, 3, 4, 5].map(|s| run.id_of(s)),
        [None, Some(id(70)), Some(id(71)), None]
    );
    for wrong in [
        Accepted { count: 0, ..run },
        Accepted {
            first_sequence: 0,
            ..run
        },
        Accepted {
            first_sequence: u64::MAX,
            ..run
        },
        Accepted {
            first_id: id(u64::MAX),
            ..run
        },
    ] {
        let mut wire = BytesMut::new();
        NodeFrame::Accepted(wrong).encode(&mut wire);
        assert!(
            NodeFrame::next(&mut wire.freeze(), LIMIT).is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn the_largest_frames_fit_their_limits() {
    let runs = vec![(1, 2, Outcome::RECEIVED); FATE_RUNS_MAX + 1];
    let mut wire = BytesMut::new();
    NodeFrame::Fate(Fate { runs }).encode(&mut wire);
    let mut wire = wire.freeze();
    let mut counts = Vec::new();
    while let Some(frame) = NodeFrame::next(&mut wire, 0).unwrap() {
        let NodeFrame::Fate(fate) = frame else {
            panic!("only fates were sent")
        };
        counts.push(fate.runs.len());
    }
    assert_eq!(counts, [FATE_RUNS_MAX, 1]);
    const { assert!(FATE_RUNS_MAX * 18 + 2 <= CONTROL_BYTES_MAX) };

    let admin = |n: usize| AdminReply {
        request: 1,
        ok: true,
        json: vec![b' '; n].into(),
    };
    for (bytes, fine) in [(ADMIN_BYTES_MAX, true), (ADMIN_BYTES_MAX + 1, false)] {
        let mut wire = BytesMut::new();
        NodeFrame::AdminReply(admin(bytes)).encode(&mut wire);
        assert_eq!(admin(bytes).check().is_ok(), fine);
        assert_eq!(NodeFrame::next(&mut wire.freeze(), 0).is_ok(), fine);
    }
}

/// A node gives `data_frame_bytes(body)` as the limit; the widest put and delivery must fit.
#[test]
fn the_widest_put_and_delivery_fit_the_limit_of_data_frames() {
    let text = |n: usize| Text::from("x".repeat(n));
    let put = Put {
        destination: text(1024),
        idempotency: Some(IdempotencyKey {
            key: vec![0; 128].into(),
            number: Some(1),
        }),
        label: Text::from("\u{10FFFD}".repeat(249)),
        correlation_id: vec![0; 256].into(),
        response_queue: text(1024),
        admin_queue: text(1024),
        content_type: text(255),
        trace_context: text(640),
        properties: Properties::new([("k", vec![0; (32 << 10) - 4])]).unwrap(),
        ..full_put()
    };
    assert_eq!(put.check(), Ok(()));
    let delivery = Delivery {
        envelope: vec![0; usize::from(u16::MAX)].into(),
        ..delivery()
    };
    let limit = crate::limits::data_frame_bytes(put.body.len());
    let mut wire = BytesMut::new();
    put.encode(&mut wire);
    assert!(wire.len() - FRAME_HEADER_BYTES <= limit);
    wire.clear();
    delivery.encode(&mut wire);
    assert!(wire.len() - FRAME_HEADER_BYTES <= limit);
}

#[test]
fn text_for_people_is_cut_at_a_character() {
    let refused = Refused {
        sequence: 1,
        outcome: Outcome::BUSY,
        text: "ö".repeat(300).into(),
    };
    let mut wire = BytesMut::new();
    NodeFrame::Refused(refused).encode(&mut wire);
    let Ok(Some(NodeFrame::Refused(found))) = NodeFrame::next(&mut wire.freeze(), 0) else {
        panic!("a refusal was sent")
    };
    assert_eq!(&*found.text, "ö".repeat(256));
}

#[test]
fn later_kinds_may_be_skipped_from_the_ignorable_range_on() {
    for (kind, fine) in [(0x80_u8, true), (0x4D, false)] {
        let mut wire = BytesMut::new();
        put_frame(&mut wire, FrameKind::Admin, 0, &[], |to| to.put_u64_le(1));
        *wire.get_mut(3).unwrap() = kind;
        let (head, _) = wire.split_at(12);
        let checksum = crate::crc::crc32c(crate::crc::crc32c(0, head), &1_u64.to_le_bytes());
        wire.get_mut(12..16)
            .unwrap()
            .copy_from_slice(&checksum.to_le_bytes());
        let found = NodeFrame::next(&mut wire.freeze(), 0);
        if fine {
            assert_eq!(found, Ok(Some(NodeFrame::Ignored { kind })));
        } else {
            assert_eq!(found, Err(DecodeError::UnknownKind { kind }));
        }
    }
}

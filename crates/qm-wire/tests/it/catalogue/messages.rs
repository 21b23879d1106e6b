//! Vectors of streams, large bodies, finals, forwarded messages, transactions and remote requests.

use bytes::Bytes;
use qm_wire::limits::{BODY_BYTES_MAX, LEAVES_MAX};
use qm_wire::local::{
    Admin, AdminReply, ClientFrame, Delivery, EndTransaction, NodeFrame, Receive, ReceiveDone,
    Settle, Settled, TransactionEnded, Verdict,
};
use qm_wire::{
    Announce, BodyPart, BodyWanted, Envelope, Evicted, Final, FinalConfirm, Hold, Incarnation,
    Link, LinkAt, MessageFlags, Need, OrderAck, Outcome, PeerFrame, RemoteAnswer, RemoteAsk,
    RemoteReply, RemoteRequest, Route, Run, Skip, Skipped, StreamId, Text, Wanted,
};

use super::{
    Invalid, Reader, Valid, Value, data_of, entry, envelope_with, frame, full_envelope, le16,
    minimal_envelope, place, source,
};

const STREAM: StreamId = StreamId([0x57; 16]);
const LINK: Link = Link([0x4c; 16]);

/// What a queue manager says to an administration queue.
fn report() -> Envelope {
    let mut e = minimal_envelope();
    e.flags = MessageFlags::NONE;
    e.report = Some(Outcome::RECEIVED);
    e.correlation_id = Bytes::from_static(b"the entry of the message");
    e
}

pub(super) fn valid(list: &mut Vec<Valid>) {
    let mut add = |name, about, value| list.push(Valid { name, about, value });
    let peer = Value::Peer;
    add(
        "envelope_report",
        "an administration message: the message was received",
        Value::Envelope(report()),
    );
    let mut long = full_envelope();
    long.label = "\u{1f4e6}".repeat(249).as_str().into();
    let items = (0..10).map(|n| (format!("property {n}"), [0xa0 + n; 120]));
    long.properties = qm_wire::Properties::new(items).unwrap();
    add(
        "data_long_envelope",
        "a label of 249 characters in 996 bytes and 10 properties: the tag is over more than 1 KiB",
        peer(PeerFrame::Data(data_of(long, b"hello", false))),
    );
    let mut forwarded = data_of(full_envelope(), b"hello", false);
    forwarded.transit.hops = 1;
    forwarded.transit.route = Some(Route {
        previous_hop: source(),
        destination: "qm://hub/orders".into(),
    });
    let (mut both, mut transactional) = (forwarded.clone(), minimal_envelope());
    transactional.class = qm_wire::Class::Transactional;
    transactional.priority = qm_wire::Priority::LOWEST;
    let linked = data_of(transactional, b"hello", true);
    (both.envelope, both.tag) = (linked.envelope, linked.tag);
    both.transit.place = linked.transit.place;
    add(
        "data_forwarded",
        "on its second hop",
        peer(PeerFrame::Data(forwarded)),
    );
    add(
        "announce",
        "a transactional message of 5 bytes, forwarded, whose body follows in parts",
        peer(PeerFrame::Announce(Announce {
            number: both.number,
            tag: both.tag,
            transit: both.transit,
            envelope: both.envelope,
        })),
    );
    for (name, about, wanted) in [
        ("body_wanted", "the rest of it", Wanted::From(2)),
        ("body_wanted_have", "nothing more", Wanted::Have),
        ("body_wanted_wait", "not yet", Wanted::Wait),
    ] {
        let entry = entry(1);
        add(
            name,
            about,
            peer(PeerFrame::BodyWanted(BodyWanted { entry, wanted })),
        );
    }
    add(
        "body_part",
        "from byte 2 on",
        peer(PeerFrame::BodyPart(BodyPart {
            entry: entry(1),
            offset: 2,
            part: Bytes::from_static(b"llo"),
        })),
    );
    add(
        "skip",
        "an expired message stays in its chain",
        peer(PeerFrame::Skip(Skip {
            place: place(),
            entry: entry(9),
            outcome: Outcome::REACH_QUEUE_EXPIRED,
            queue: "Orders".parse().unwrap(),
        })),
    );
    add(
        "order_ack",
        "two streams",
        peer(PeerFrame::OrderAck(OrderAck {
            duplicate: false,
            runs: vec![
                Run {
                    stream: STREAM,
                    first: 3,
                    last: 7,
                    link: LINK,
                },
                Run {
                    stream: StreamId([1; 16]),
                    first: 1,
                    last: 1,
                    link: Link([2; 16]),
                },
            ],
        })),
    );
    let at = LinkAt {
        stream: STREAM,
        position: 7,
        link: LINK,
    };
    add(
        "skipped",
        "a skip was taken",
        peer(PeerFrame::Skipped(Skipped { links: vec![at] })),
    );
    let need = |leaves| {
        peer(PeerFrame::Need(Need {
            stream: STREAM,
            leaves,
            queue: "Orders".parse().unwrap(),
        }))
    };
    add("need_nothing_known", "from the start", need(Vec::new()));
    add(
        "need_two_branches",
        "behind either of two",
        need(vec![(6, LINK), (4, Link([2; 16]))]),
    );
    add(
        "hold",
        "the receiver does not know where to go on",
        peer(PeerFrame::Hold(Hold {
            stream: STREAM,
            position: 8,
            previous: LINK,
            outcome: Outcome::NOT_FOUND,
            text: "restored from a backup?".into(),
        })),
    );
    add(
        "final",
        "one received, one expired",
        peer(PeerFrame::Final(Final {
            source: source(),
            entries: vec![
                (entry(1), Outcome::RECEIVED),
                (entry(2), Outcome::RECEIVE_EXPIRED),
            ],
        })),
    );
    add(
        "final_confirm",
        "both noted",
        peer(PeerFrame::FinalConfirm(FinalConfirm {
            source: source(),
            entries: vec![entry(1), entry(2)],
        })),
    );
    add(
        "evicted",
        "two lives",
        peer(PeerFrame::Evicted(Evicted {
            source: source(),
            marks: vec![(Incarnation(0x50), 10_000), (Incarnation(0x51), 0)],
        })),
    );
    remote(&mut add);
    transactions(&mut add);
}

fn remote(add: &mut impl FnMut(&'static str, &'static str, Value)) {
    let request = |ask| Value::Peer(PeerFrame::RemoteRequest(RemoteRequest { channel: 5, ask }));
    let answer = |reply| Value::Peer(PeerFrame::RemoteAnswer(RemoteAnswer { channel: 5, reply }));
    let queue = || "Orders".parse().unwrap();
    add(
        "remote_receive",
        "hand me a message of your queue",
        request(RemoteAsk::Receive(Receive::new(3, queue()))),
    );
    add(
        "remote_settle",
        "it is dealt with",
        request(RemoteAsk::Settle(Settle {
            request: 4,
            queue: queue(),
            verdict: Verdict::Consume,
            ranges: vec![(17, 17)],
        })),
    );
    add(
        "remote_admin",
        "an administrative request",
        request(RemoteAsk::Admin(Admin {
            request: 5,
            json: Bytes::from_static(b"{}"),
        })),
    );
    let message = data_of(full_envelope(), b"hello", false);
    add(
        "remote_delivery",
        "a message; the checksum covers its body here",
        answer(RemoteReply::Delivery(Delivery {
            request: 3,
            lookup: 17,
            arrived_at_us: 1_790_000_001_000_000,
            abort_count: 0,
            be_received_left_ms: 59_000,
            tag: message.tag,
            envelope: message.envelope,
            body: message.body,
        })),
    );
    add(
        "remote_receive_done",
        "the only one",
        answer(RemoteReply::ReceiveDone(ReceiveDone {
            request: 3,
            messages: 1,
            outcome: None,
            text: Text::EMPTY,
        })),
    );
    add(
        "remote_settled",
        "done",
        answer(RemoteReply::Settled(Settled {
            request: 4,
            messages: 1,
            outcome: None,
            text: Text::EMPTY,
            lost: Vec::new(),
        })),
    );
    add(
        "remote_admin_reply",
        "not for you",
        answer(RemoteReply::AdminReply(AdminReply {
            request: 5,
            ok: false,
            json: Bytes::from_static(b"{}"),
        })),
    );
}

fn transactions(add: &mut impl FnMut(&'static str, &'static str, Value)) {
    for (name, about, commit) in [
        ("end_transaction_commit", "all of it", true),
        ("end_transaction_abort", "none of it", false),
    ] {
        add(
            name,
            about,
            Value::Client(ClientFrame::EndTransaction(EndTransaction {
                sequence: 9,
                transaction: 3,
                commit,
            })),
        );
    }
    let ended = TransactionEnded {
        sequence: 9,
        transaction: 3,
        committed: Some(qm_wire::MessageId {
            incarnation: Incarnation(0x19d2_f1c5_5fd1_a3b0),
            sequence: 21,
        }),
        repeated: true,
        outcome: None,
        text: Text::EMPTY,
    };
    add(
        "transaction_committed",
        "said before",
        Value::Node(NodeFrame::TransactionEnded(ended.clone())),
    );
    add(
        "transaction_aborted",
        "by the node",
        Value::Node(NodeFrame::TransactionEnded(TransactionEnded {
            committed: None,
            repeated: false,
            outcome: Some(Outcome::STORE_FULL),
            text: "no room for 3 messages".into(),
            ..ended
        })),
    );
}

pub(super) fn invalid(list: &mut Vec<Invalid>) {
    let mut add = |name, requirement, about, reader, bytes| {
        list.push(Invalid {
            name,
            about,
            requirement,
            reader,
            bytes,
        });
    };
    use Reader::{Client, Node, Peer};

    add(
        "envelope_report_with_wishes",
        "W-ENV-5",
        "an administration message that wants a dead letter of itself",
        Reader::Envelope,
        envelope_with(81, &[2, 0]),
    );
    let data = |flags: u16, extra: &[u8]| {
        let envelope = crate::layout::envelope(&minimal_envelope()).bytes();
        let mut body = 1_u64.to_le_bytes().to_vec();
        body.extend([0xa0; 8]);
        body.extend([0xff; 16]);
        body.extend([0, 0]);
        body.extend(le16(envelope.len()));
        body.extend(extra);
        body.extend(envelope);
        frame(0x10, flags, &body)
    };
    let place_at = |position: u64, low: u64| {
        let mut bytes = vec![0x57; 16];
        bytes.extend(position.to_le_bytes());
        bytes.extend(low.to_le_bytes());
        bytes.extend([0x4c; 16]);
        bytes
    };
    for (name, about, position, low) in [
        ("data_position_zero", "positions begin at 1", 0, 0),
        ("data_low_zero", "positions begin at 1", 1, 0),
        (
            "data_low_over_position",
            "unsettled before it was sent",
            1,
            2,
        ),
    ] {
        add(
            name,
            "W-STR-1",
            about,
            Peer,
            data(1, &place_at(position, low)),
        );
    }
    add(
        "data_no_final_destination",
        "W-DAT-7",
        "forwarded to nowhere",
        Peer,
        data(2, &[0; 18]),
    );
    add(
        "announce_with_body",
        "W-BIG-3",
        "one byte behind the envelope",
        Peer,
        {
            let mut bytes = data(0, &[]);
            bytes.push(0);
            frame(0x12, 0, &bytes[16..])
        },
    );
    add(
        "announce_number_zero",
        "W-DAT-2",
        "message numbers begin at 1",
        Peer,
        {
            let mut bytes = data(0, &[]);
            bytes[16] = 0;
            frame(0x12, 0, &bytes[16..])
        },
    );
    let wanted = |answer: u8, offset: u64| {
        let mut body = vec![0; 24];
        body.push(answer);
        body.extend(offset.to_le_bytes());
        frame(0x13, 0, &body)
    };
    add(
        "body_wanted_four",
        "W-BIG-1",
        "an answer of code 4",
        Peer,
        wanted(4, 0),
    );
    add(
        "body_wanted_have_from",
        "W-BIG-1",
        "an offset where none belongs",
        Peer,
        wanted(2, 1),
    );
    add(
        "body_wanted_past_limit",
        "W-BIG-1",
        "behind the largest body",
        Peer,
        wanted(1, u64::from(BODY_BYTES_MAX) + 1),
    );
    let part = |offset: u64, part: &[u8]| {
        let mut body = vec![0; 24];
        body.extend(offset.to_le_bytes());
        body.extend(part);
        frame(0x14, 0, &body)
    };
    add("body_part_empty", "W-BIG-2", "no byte", Peer, part(0, b""));
    add(
        "body_part_past_limit",
        "W-BIG-2",
        "one byte behind the largest body",
        Peer,
        part(u64::from(BODY_BYTES_MAX), b"x"),
    );
    let run = |first: u64, last: u64| {
        let mut body = vec![0, 1, 0];
        body.extend([0; 16]);
        body.extend(first.to_le_bytes());
        body.extend(last.to_le_bytes());
        body.extend([0; 16]);
        frame(0x26, 0, &body)
    };
    add(
        "order_ack_zero",
        "W-STR-6",
        "positions begin at 1",
        Peer,
        run(0, 1),
    );
    add(
        "order_ack_reversed",
        "W-STR-6",
        "last before first",
        Peer,
        run(2, 1),
    );
    add(
        "order_ack_empty",
        "W-ACK-4",
        "no run",
        Peer,
        frame(0x26, 0, &[0; 3]),
    );
    add("skip_low_zero", "W-STR-1", "positions begin at 1", Peer, {
        let mut body = place_at(1, 0);
        body.extend([0; 26]);
        body.extend([1, 0, b'q']);
        frame(0x11, 0, &body)
    });
    add("skipped_zero", "W-STR-6", "positions begin at 1", Peer, {
        let mut body = vec![1, 0];
        body.extend([0; 40]);
        frame(0x28, 0, &body)
    });
    add("need_leaves_over_limit", "W-LIM-1", "9 leaves", Peer, {
        let mut body = vec![0; 16];
        body.extend(le16(LEAVES_MAX + 1));
        body.extend([1; 9 * 24]);
        body.extend([1, 0, b'q']);
        frame(0x27, 0, &body)
    });
    add(
        "hold_zero",
        "W-STR-6",
        "positions begin at 1",
        Peer,
        frame(0x29, 0, &[0; 44]),
    );
    add(
        "final_empty",
        "W-ACK-4",
        "no entry",
        Peer,
        frame(0x2a, 0, &[0; 18]),
    );
    add(
        "evicted_empty",
        "W-ACK-4",
        "no mark",
        Peer,
        frame(0x2c, 0, &[0; 18]),
    );
    add(
        "remote_request_of_a_put",
        "W-RMT-1",
        "a kind that no other node is asked",
        Peer,
        frame(0x30, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 0x42]),
    );
    add(
        "remote_answer_of_a_request",
        "W-RMT-1",
        "a kind that is no answer",
        Peer,
        frame(0x31, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 0x46]),
    );
    add(
        "remote_receive_no_message",
        "W-RMT-1",
        "what is inside follows its own rules: at most 0 messages",
        Peer,
        {
            let inside = Value::Client(ClientFrame::Receive(Receive {
                messages_max: 0,
                ..Receive::new(1, "q".parse().unwrap())
            }))
            .encode();
            let mut body = vec![0; 8];
            body.push(0x46);
            body.extend(&inside[16..]);
            frame(0x30, 0, &body)
        },
    );
    let end = |sequence: u64, transaction: u64, verdict: u8| {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend(transaction.to_le_bytes());
        body.push(verdict);
        frame(0x4d, 0, &body)
    };
    add(
        "end_transaction_zero",
        "W-LOC-7",
        "transactions begin at 1",
        Client,
        end(1, 0, 0),
    );
    add(
        "end_transaction_verdict",
        "W-FRM-7",
        "a verdict of 2",
        Client,
        end(1, 1, 2),
    );
    add(
        "transaction_committed_with_outcome",
        "W-LOC-7",
        "it happened, and why it did not",
        Node,
        {
            let mut body = 1_u64.to_le_bytes().to_vec();
            body.extend(1_u64.to_le_bytes());
            body.push(1);
            body.extend([0; 16]);
            body.extend([0, 1, 0, 0, 0, 0]);
            frame(0x4e, 0, &body)
        },
    );
}

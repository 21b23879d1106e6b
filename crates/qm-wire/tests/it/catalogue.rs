//! The golden vectors: what is valid and what each rule refuses.

use bytes::{Bytes, BytesMut};
use qm_wire::limits::{
    ACK_RANGES_MAX, BODY_BYTES_MAX, CONTROL_BYTES_MAX, ENTRIES_MAX, LABEL_CHARS_MAX,
    PRIOR_INCARNATIONS_MAX, PROPERTIES_MAX,
};
use qm_wire::local::{
    Accepted, Admin, AdminReply, ClientFrame, ClientHello, Delivery, Fate, Follow, IdempotencyKey,
    NodeFrame, NodeHello, Put, Receive, ReceiveDone, ReceiveMode, Refused, Settle, Settled,
    Verdict,
};
use qm_wire::{
    AckWishes, Answer, Class, ClientId, Credit, Data, Entry, Envelope, Goodbye, Hello, HelloFlags,
    INFINITE_MS, Incarnation, Known, Link, MessageFlags, MessageId, NotHeld, Outcome, PeerFrame,
    Place, Priority, Properties, QmId, Query, QueueState, Refusal, Reject, RoutedAck, Salt,
    SessionAck, StreamId, Tag, Transit, Welcome, WelcomeFlags, tag_hash,
};

use crate::layout::{self, Rows, sealed};

pub(crate) mod identity;
mod limits;
mod messages;

/// Whose decoder a vector is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Peer,
    Client,
    Node,
    Envelope,
    /// A data frame whose message is opened as well.
    Open,
}

/// What a valid vector means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Peer(PeerFrame),
    Client(ClientFrame),
    Node(NodeFrame),
    Envelope(Envelope),
}

impl Value {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        match self {
            Self::Peer(frame) => frame.encode(&mut to),
            Self::Client(frame) => frame.encode(&mut to),
            Self::Node(frame) => frame.encode(&mut to),
            Self::Envelope(envelope) => envelope.encode(&mut to).unwrap(),
        }
        to.freeze()
    }

    pub(crate) fn rows(&self) -> Rows {
        match self {
            Self::Peer(frame) => layout::peer(frame),
            Self::Client(frame) => layout::client(frame),
            Self::Node(frame) => layout::node(frame),
            Self::Envelope(envelope) => layout::envelope(envelope),
        }
    }

    pub(crate) const fn reader(&self) -> Reader {
        match self {
            Self::Peer(_) => Reader::Peer,
            Self::Client(_) => Reader::Client,
            Self::Node(_) => Reader::Node,
            Self::Envelope(_) => Reader::Envelope,
        }
    }
}

pub(crate) struct Valid {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) value: Value,
}

pub(crate) struct Invalid {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) requirement: &'static str,
    pub(crate) reader: Reader,
    pub(crate) bytes: Vec<u8>,
}

fn source() -> QmId {
    QmId::from_ed25519_public_key(&[7; 32])
}

fn entry(sequence: u64) -> Entry {
    let id = MessageId {
        incarnation: Incarnation(0x0123_4567_89ab_cdef),
        sequence,
    };
    let tag = Tag([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7]);
    Entry { id, tag }
}

pub(crate) fn minimal_envelope() -> Envelope {
    let queue = "q".parse().unwrap();
    Envelope::new(source(), entry(1).id, Salt([9; 16]), Class::Express, queue)
}

pub(crate) fn full_envelope() -> Envelope {
    let queue = "Größe:poison".parse().unwrap();
    let salt = Salt(*b"sixteen salt byt");
    let mut e = Envelope::new(source(), entry(42).id, salt, Class::Recoverable, queue);
    e.priority = Priority::new(7).unwrap();
    e.flags = MessageFlags::DEAD_LETTER
        .with(MessageFlags::JOURNAL)
        .with(MessageFlags::FAIL_WHEN_FULL);
    e.ack_wishes = AckWishes::POSITIVE_ARRIVAL.with(AckWishes::NEGATIVE_RECEIVE);
    e.sent_at_us = 1_790_000_000_000_000;
    e.time_to_reach_queue_ms = 345_600_000;
    e.time_to_be_received_ms = 60_000;
    e.body_bytes = 5;
    e.label = "two\nlines".into();
    e.correlation_id = Bytes::from_static(&[0, 1, 2, 0xff]);
    e.response_queue = "qm://hub/answers".into();
    e.admin_queue = "admin".into();
    e.content_type = "text/plain".into();
    e.trace_context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nvendor=1".into();
    e.properties = Properties::new([("empty", &b""[..]), ("a", b"1"), ("é", b"\x00")]).unwrap();
    e
}

pub(crate) fn data_of(mut envelope: Envelope, body: &'static [u8], linked: bool) -> Data {
    envelope.body_bytes = u32::try_from(body.len()).unwrap();
    let encoded = Value::Envelope(envelope.clone()).encode();
    Data {
        number: 1,
        tag: Tag::compute(&encoded, &envelope.salt, body),
        transit: Transit {
            reach_queue_left_ms: envelope.time_to_reach_queue_ms,
            be_received_left_ms: INFINITE_MS,
            hops: u8::from(linked),
            place: linked.then(place),
            route: None,
        },
        envelope: encoded,
        body: Bytes::from_static(body),
    }
}

fn place() -> Place {
    Place {
        stream: StreamId([0x57; 16]),
        position: 7,
        low: 3,
        previous: Link([0x4c; 16]),
    }
}

fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        incarnation: Incarnation(0x51),
        prior_incarnations: Vec::new(),
        attempt: 1,
        token: Bytes::new(),
        listen_port: 0,
        body_bytes_max: 4 << 20,
        flags: HelloFlags::NONE,
        enrolment: Bytes::new(),
        name: "".into(),
        host: "".into(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        flags: WelcomeFlags::NONE,
        protocol: 1,
        incarnation: Incarnation(0x52),
        attempt: 1,
        nonce: [0xee; 16],
        store_id: [0x5d; 16],
        token: Bytes::from_static(b"token"),
    }
}

fn put() -> Put {
    Put::new(1, "orders", Bytes::from_static(b"hello"))
}

/// Every valid vector.
pub(crate) fn valid() -> Vec<Valid> {
    let mut transactional = minimal_envelope();
    transactional.class = Class::Transactional;
    transactional.priority = Priority::LOWEST;
    let tags = [Tag([1; 8]), Tag([2; 8]), Tag([3; 8])];
    let full_put = Put {
        class: Class::Express,
        priority: Priority::LOWEST,
        follow: Follow::Received,
        time_to_reach_queue_ms: Some(1000),
        time_to_be_received_ms: Some(INFINITE_MS),
        idempotency: Some(IdempotencyKey {
            key: Bytes::from_static(b"import-7"),
            number: Some(12),
        }),
        label: "l".into(),
        correlation_id: Bytes::from_static(b"c"),
        response_queue: "r".into(),
        admin_queue: "a".into(),
        content_type: "text/plain".into(),
        trace_context: "t".into(),
        properties: Properties::new([("k", b"v")]).unwrap(),
        transaction: Some(3),
        ..put()
    };
    let delivered = data_of(full_envelope(), b"hello", false);
    let mut list = Vec::new();
    let mut add = |name, about, value| list.push(Valid { name, about, value });
    let peer = Value::Peer;
    add(
        "envelope_minimal",
        "an express message with nothing optional",
        Value::Envelope(minimal_envelope()),
    );
    add(
        "envelope_full",
        "every field in use",
        Value::Envelope(full_envelope()),
    );
    add(
        "hello_minimal",
        "first contact, nothing held",
        peer(PeerFrame::Hello(hello())),
    );
    add(
        "hello_full",
        "earlier lives, a token, a listener and names",
        peer(PeerFrame::Hello(Hello {
            prior_incarnations: vec![Incarnation(0x50), Incarnation(u64::MAX)],
            attempt: 9,
            token: Bytes::from_static(b"token"),
            flags: HelloFlags::DRAINING.with(HelloFlags::MOVED),
            enrolment: Bytes::from_static(b"grant"),
            listen_port: 1801,
            name: "till 3".into(),
            host: "till3.example".into(),
            ..hello()
        })),
    );
    add(
        "welcome",
        "the usual answer",
        peer(PeerFrame::Welcome(welcome())),
    );
    add(
        "welcome_pending_branched",
        "both flags, no ledger",
        peer(PeerFrame::Welcome(Welcome {
            flags: WelcomeFlags::PENDING.with(WelcomeFlags::BRANCHED),
            token: Bytes::new(),
            ..welcome()
        })),
    );
    add(
        "credit",
        "absolute totals",
        peer(PeerFrame::Credit(Credit {
            messages: 4096,
            bytes: 1 << 20,
        })),
    );
    add(
        "queue_state_closed",
        "a queue that is full",
        peer(PeerFrame::QueueState(QueueState {
            queue: "Orders".parse().unwrap(),
            open: false,
        })),
    );
    add(
        "queue_state_open",
        "and has room again",
        peer(PeerFrame::QueueState(QueueState {
            queue: "Orders".parse().unwrap(),
            open: true,
        })),
    );
    add(
        "goodbye",
        "the node stops",
        peer(PeerFrame::Goodbye(Goodbye {
            reason: Outcome::STOPPING,
            text: "back in a minute".into(),
        })),
    );
    add(
        "data_express_empty",
        "a message without body",
        peer(PeerFrame::Data(data_of(minimal_envelope(), b"", false))),
    );
    add(
        "data_recoverable_full",
        "every field in use",
        peer(PeerFrame::Data(data_of(full_envelope(), b"hello", false))),
    );
    add(
        "data_transactional_linked",
        "with its previous link, one hop behind",
        peer(PeerFrame::Data(data_of(transactional, b"x", true))),
    );
    add(
        "session_ack_one",
        "one message",
        peer(PeerFrame::SessionAck(SessionAck {
            duplicate: false,
            tag_hash: tag_hash([tags[0]]),
            ranges: vec![(1, 1)],
        })),
    );
    add(
        "session_ack_ranges",
        "messages 1, 2 and 4 again; the tags are 01.., 02.., 03..",
        peer(PeerFrame::SessionAck(SessionAck {
            duplicate: true,
            tag_hash: tag_hash(tags),
            ranges: vec![(1, 2), (4, 4)],
        })),
    );
    add(
        "routed_ack",
        "off the session",
        peer(PeerFrame::RoutedAck(RoutedAck {
            source: source(),
            duplicate: false,
            entries: vec![entry(1), entry(7)],
        })),
    );
    add(
        "not_held",
        "one of a life that was never this node's",
        peer(PeerFrame::NotHeld(NotHeld {
            source: source(),
            entries: vec![(entry(1), true), (entry(7), false)],
        })),
    );
    add(
        "query",
        "what became of it?",
        peer(PeerFrame::Query(Query {
            source: source(),
            void: false,
            entries: vec![entry(1)],
        })),
    );
    add(
        "query_void",
        "and refuse it if you do not have it",
        peer(PeerFrame::Query(Query {
            source: source(),
            void: true,
            entries: vec![entry(1), entry(2)],
        })),
    );
    add(
        "answer",
        "every kind of answer",
        peer(PeerFrame::Answer(Answer {
            source: source(),
            entries: vec![
                (entry(1), Known::Delivered),
                (entry(2), Known::InFlight),
                (entry(3), Known::Unknown),
                (entry(4), Known::Outcome(Outcome::RECEIVED)),
                (entry(5), Known::Outcome(Outcome(0x7777))),
            ],
        })),
    );
    add(
        "reject",
        "two refusals",
        peer(PeerFrame::Reject(Reject {
            refusals: vec![
                Refusal {
                    number: 3,
                    tag: tags[0],
                    outcome: Outcome::BAD_DESTINATION_QUEUE,
                },
                Refusal {
                    number: 2,
                    tag: tags[1],
                    outcome: Outcome::DAMAGED,
                },
            ],
        })),
    );
    add(
        "client_hello",
        "an application",
        Value::Client(ClientFrame::Hello(ClientHello {
            protocol: 1,
            client: ClientId([0xc1; 16]),
            program: "till".into(),
        })),
    );
    add(
        "put_minimal",
        "a recoverable message",
        Value::Client(ClientFrame::Put(put())),
    );
    add(
        "put_full",
        "every field in use",
        Value::Client(ClientFrame::Put(full_put)),
    );
    let receive = Receive::new(3, "Orders".parse().unwrap());
    add(
        "receive_take",
        "one message, however long it takes",
        Value::Client(ClientFrame::Receive(receive.clone())),
    );
    add(
        "receive_peek",
        "a page behind lookup id 16",
        Value::Client(ClientFrame::Receive(Receive {
            mode: ReceiveMode::Peek,
            messages_max: 100,
            bytes_max: 1 << 20,
            wait_ms: 0,
            after: Some(16),
            lookup: Some(17),
            correlation_id: Bytes::from_static(b"c"),
            transaction: Some(3),
            ..receive
        })),
    );
    add(
        "settle",
        "two ranges given back",
        Value::Client(ClientFrame::Settle(Settle {
            request: 4,
            queue: "Orders".parse().unwrap(),
            verdict: Verdict::GiveBack,
            ranges: vec![(1, 2), (4, 4)],
        })),
    );
    add(
        "admin",
        "an administrative request",
        Value::Client(ClientFrame::Admin(Admin {
            request: 5,
            json: Bytes::from_static(b"{}"),
        })),
    );
    add(
        "node_hello",
        "the node's answer",
        Value::Node(NodeFrame::Hello(NodeHello {
            protocol: 1,
            node: source(),
            incarnation: Incarnation(0x51),
            name: "hub".into(),
            body_bytes_max: 4 << 20,
            window_messages: 256,
            window_bytes: 1 << 20,
        })),
    );
    add(
        "accepted",
        "three in a run",
        Value::Node(NodeFrame::Accepted(Accepted {
            first_sequence: 1,
            count: 3,
            first_id: entry(9).id,
            repeated: false,
        })),
    );
    add(
        "refused",
        "too large",
        Value::Node(NodeFrame::Refused(Refused {
            sequence: 4,
            outcome: Outcome::BODY_TOO_LARGE,
            text: "5 MiB over 4 MiB".into(),
        })),
    );
    add(
        "fate",
        "two runs",
        Value::Node(NodeFrame::Fate(Fate {
            runs: vec![(1, 2, Outcome::REACHED_QUEUE), (3, 3, Outcome::RECEIVED)],
        })),
    );
    add(
        "delivery",
        "a message for the application",
        Value::Node(NodeFrame::Delivery(Delivery {
            request: 3,
            lookup: 17,
            arrived_at_us: 1_790_000_001_000_000,
            abort_count: 1,
            be_received_left_ms: 59_000,
            tag: delivered.tag,
            envelope: delivered.envelope,
            body: delivered.body,
        })),
    );
    add(
        "receive_done",
        "all went well",
        Value::Node(NodeFrame::ReceiveDone(ReceiveDone {
            request: 3,
            messages: 1,
            outcome: None,
            text: "".into(),
        })),
    );
    add(
        "settled_lease_lost",
        "fewer than named",
        Value::Node(NodeFrame::Settled(Settled {
            request: 4,
            messages: 2,
            outcome: Some(Outcome::LEASE_LOST),
            text: "1 of 3 was given back".into(),
            lost: vec![(2, 2)],
        })),
    );
    add(
        "admin_reply",
        "done",
        Value::Node(NodeFrame::AdminReply(AdminReply {
            request: 5,
            ok: true,
            json: Bytes::from_static(b"{\"schema\":\"qm.status/1\"}"),
        })),
    );
    identity::valid(&mut list);
    messages::valid(&mut list);
    list
}

/// Frames that are read for what the reader knows of them, and never written.
pub(crate) fn ignorable() -> Vec<(Valid, Vec<u8>)> {
    let credit = PeerFrame::Credit(Credit {
        messages: 1,
        bytes: 2,
    });
    let of = |name, about, frame| Valid {
        name,
        about,
        value: Value::Peer(frame),
    };
    let sixteen = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    vec![
        (
            of(
                "ignored_kind",
                "a kind of a later version that is skipped",
                PeerFrame::Ignored { kind: 0x80 },
            ),
            frame(0x80, 0xffff, b"anything"),
        ),
        (
            of(
                "ignored_flags",
                "flags of a later version that are skipped",
                credit,
            ),
            frame(0x06, 0xff00, &sixteen),
        ),
    ]
}

/// Fields of a body as they are, without names.
fn rows(bytes: &[u8]) -> Rows {
    let mut rows = Rows::default();
    rows.raw(bytes);
    rows
}

/// A frame with its header and checksum right around a body that need not be.
fn frame(kind: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    sealed(kind, flags, rows(body), &[]).bytes()
}

fn le16(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap().to_le_bytes()
}

/// The envelope's encoding with `bytes` at `at`.
fn envelope_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = layout::envelope(&minimal_envelope()).bytes();
    encoded.splice(at..at + bytes.len(), bytes.iter().copied());
    encoded
}

/// An envelope whose last eight fields are these.
fn envelope_fields(fields: [&[u8]; 8]) -> Vec<u8> {
    let mut encoded = layout::envelope(&minimal_envelope()).bytes();
    encoded.truncate(ENVELOPE_TEXTS_AT);
    for field in fields {
        encoded.extend(le16(field.len()));
        encoded.extend(field);
    }
    encoded
}

/// Offset of the queue name's length in an envelope.
const ENVELOPE_TEXTS_AT: usize = 83;

/// One field of an envelope replaced: 0 is the queue name, 7 the properties.
fn envelope_field(which: usize, bytes: &[u8]) -> Vec<u8> {
    let mut fields: [&[u8]; 8] = [b"q", b"", b"", b"", b"", b"", b"", b""];
    fields[which] = bytes;
    envelope_fields(fields)
}

fn data_frame(number: u64, hops: u8, reserved: u8, envelope_bytes: usize, flags: u16) -> Vec<u8> {
    let envelope = layout::envelope(&minimal_envelope()).bytes();
    let mut body = number.to_le_bytes().to_vec();
    body.extend([0xa0; 8]);
    body.extend([0xff; 16]);
    body.extend([hops, reserved]);
    body.extend(le16(envelope_bytes));
    body.extend(envelope);
    frame(0x10, flags, &body)
}

fn session_ack(duplicate: u8, ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut body = vec![duplicate];
    body.extend([0; 8]);
    body.extend(le16(ranges.len()));
    for (first, last) in ranges {
        body.extend(first.to_le_bytes());
        body.extend(last.to_le_bytes());
    }
    frame(0x20, 0, &body)
}

/// The header of a credit frame.
fn credit_header() -> Vec<u8> {
    frame(0x06, 0, &[0; 16])[..16].to_vec()
}

fn property(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(name.len()).unwrap()];
    bytes.extend(name);
    bytes.extend(le16(value.len()));
    bytes.extend(value);
    bytes
}

/// Every invalid vector.
pub(crate) fn invalid() -> Vec<Invalid> {
    let mut list = Vec::new();
    let mut add = |name, requirement, about, reader, bytes| {
        list.push(Invalid {
            name,
            about,
            requirement,
            reader,
            bytes,
        });
    };
    let credit = Value::Peer(PeerFrame::Credit(Credit {
        messages: 1,
        bytes: 2,
    }))
    .encode()
    .to_vec();
    let with = |at: usize, byte: u8| {
        let mut bytes = credit.clone();
        bytes[at] = byte;
        bytes
    };

    // The header.
    add(
        "magic",
        "W-FRM-2",
        "the second byte is not M: refused before more arrives",
        Reader::Peer,
        b"QX".to_vec(),
    );
    add(
        "header_version",
        "W-FRM-2",
        "an unknown header version: refused before more arrives",
        Reader::Peer,
        b"QM\x02".to_vec(),
    );
    add(
        "header_reserved",
        "W-FRM-3",
        "the reserved field is not zero",
        Reader::Peer,
        with(6, 1),
    );
    add(
        "length_over_control_limit",
        "W-FRM-4",
        "the header alone announces one byte too many",
        Reader::Peer,
        {
            let mut bytes = credit[..16].to_vec();
            bytes[8..12]
                .copy_from_slice(&u32::try_from(CONTROL_BYTES_MAX + 1).unwrap().to_le_bytes());
            bytes
        },
    );
    add(
        "length_over_data_limit",
        "W-FRM-4",
        "a data frame over the limit that the reader set",
        Reader::Peer,
        {
            let mut bytes = credit[..16].to_vec();
            bytes[3] = 0x10;
            bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
            bytes
        },
    );
    add(
        "checksum_header",
        "W-FRM-5",
        "one bit of the checksum is wrong",
        Reader::Peer,
        with(12, credit[12] ^ 1),
    );
    add(
        "checksum_body",
        "W-FRM-5",
        "one bit of the body is wrong",
        Reader::Peer,
        with(16, credit[16] ^ 1),
    );
    add(
        "checksum_ignorable_kind",
        "W-VER-3",
        "a frame that may be skipped is checked first",
        Reader::Peer,
        with(3, 0x86),
    );
    add(
        "kind_unknown",
        "W-VER-3",
        "an unknown kind below 80",
        Reader::Peer,
        frame(0x7f, 0, &[]),
    );
    add(
        "kind_of_the_local_socket",
        "W-FRM-8",
        "an application's frame from a peer",
        Reader::Peer,
        frame(0x40, 0, &[]),
    );
    add(
        "kind_of_the_peers",
        "W-FRM-8",
        "a peer's frame from an application",
        Reader::Client,
        frame(0x01, 0, &[]),
    );
    add(
        "flag_unknown",
        "W-VER-4",
        "an unknown flag that must not be ignored",
        Reader::Peer,
        frame(0x06, 0x0002, &[0; 16]),
    );
    add(
        "data_flag_unknown",
        "W-VER-4",
        "the same on a data frame",
        Reader::Peer,
        data_frame(1, 0, 0, 100, 0x0080),
    );
    add(
        "body_truncated",
        "W-FRM-6",
        "a credit of 15 bytes",
        Reader::Peer,
        frame(0x06, 0, &[0; 15]),
    );
    add(
        "body_trailing",
        "W-FRM-6",
        "a credit of 17 bytes",
        Reader::Peer,
        frame(0x06, 0, &[0; 17]),
    );

    // Governing frames.
    add(
        "hello_versions_reversed",
        "W-VER-1",
        "lowest version over the highest",
        Reader::Peer,
        frame(0x01, 0, &[2, 0, 1, 0]),
    );
    add(
        "hello_too_many_lives",
        "W-LIM-1",
        "257 prior incarnations announced",
        Reader::Peer,
        {
            let mut body = vec![1, 0, 1, 0];
            body.extend([0; 23]);
            body.extend(le16(PRIOR_INCARNATIONS_MAX + 1));
            frame(0x01, 0, &body)
        },
    );
    add(
        "hello_token_over_limit",
        "W-LIM-1",
        "a token of 129 bytes",
        Reader::Peer,
        {
            let mut body = vec![1, 0, 1, 0];
            body.extend([0; 25]);
            body.extend(le16(129));
            body.extend([0; 133]);
            frame(0x01, 0, &body)
        },
    );
    add(
        "hello_name_with_tab",
        "W-TXT-3",
        "a node name with a tab",
        Reader::Peer,
        {
            let mut body = vec![1, 0, 1, 0];
            body.extend([0; 29]);
            body.extend([3, 0]);
            body.extend(*b"a\tb");
            body.extend([0, 0]);
            frame(0x01, 0, &body)
        },
    );
    add(
        "welcome_flag_unknown",
        "W-SES-2",
        "a third welcome flag",
        Reader::Peer,
        frame(0x02, 0, &[4; 60]),
    );
    add(
        "queue_state_two",
        "W-SES-4",
        "neither open nor closed",
        Reader::Peer,
        frame(0x07, 0, &[2, 1, 0, b'q']),
    );
    add(
        "goodbye_not_utf8",
        "W-TXT-1",
        "bytes that are no text",
        Reader::Peer,
        frame(0x08, 0, &[0, 0, 1, 0, 0xff]),
    );

    // Data.
    add(
        "data_number_zero",
        "W-DAT-2",
        "message numbers begin at 1",
        Reader::Peer,
        data_frame(0, 0, 0, 100, 0),
    );
    add(
        "data_hops",
        "W-DAT-3",
        "16 hops",
        Reader::Peer,
        data_frame(1, 16, 0, 100, 0),
    );
    add(
        "data_reserved",
        "W-DAT-4",
        "the reserved byte is not zero",
        Reader::Peer,
        data_frame(1, 0, 1, 100, 0),
    );
    add(
        "data_envelope_past_end",
        "W-FRM-6",
        "the envelope is longer than the frame",
        Reader::Peer,
        data_frame(1, 0, 0, 1000, 0),
    );
    let whole = Value::Peer(PeerFrame::Data(data_of(full_envelope(), b"hello", false))).encode();
    add(
        "damaged_body",
        "W-TAG-2",
        "the last bit of the body is wrong; the frame itself is sound",
        Reader::Open,
        {
            let mut bytes = whole.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        },
    );
    add(
        "damaged_length",
        "W-TAG-2",
        "the tag is right, but the body is shorter than the envelope says",
        Reader::Open,
        {
            let mut data = data_of(full_envelope(), b"hello", false);
            data.body.truncate(4);
            data.tag = Tag::compute(&data.envelope, &full_envelope().salt, &data.body);
            Value::Peer(PeerFrame::Data(data)).encode().to_vec()
        },
    );

    // Acknowledgements.
    add(
        "ack_flag",
        "W-FRM-7",
        "a truth value of 2",
        Reader::Peer,
        session_ack(2, &[(1, 1)]),
    );
    add(
        "ack_empty",
        "W-ACK-1",
        "no range",
        Reader::Peer,
        session_ack(0, &[]),
    );
    add(
        "ack_zero",
        "W-ACK-1",
        "message number 0",
        Reader::Peer,
        session_ack(0, &[(0, 1)]),
    );
    add(
        "ack_reversed",
        "W-ACK-1",
        "last before first",
        Reader::Peer,
        session_ack(0, &[(2, 1)]),
    );
    add(
        "ack_touching",
        "W-ACK-1",
        "two ranges that are one",
        Reader::Peer,
        session_ack(0, &[(1, 2), (3, 3)]),
    );
    add(
        "ack_descending",
        "W-ACK-1",
        "ranges out of order",
        Reader::Peer,
        session_ack(0, &[(5, 5), (1, 1)]),
    );
    add(
        "ack_span",
        "W-ACK-2",
        "wider than a window",
        Reader::Peer,
        session_ack(0, &[(1, 1), (4097, 4097)]),
    );
    add(
        "ack_span_overflow",
        "W-ACK-2",
        "every number there is",
        Reader::Peer,
        session_ack(0, &[(1, u64::MAX)]),
    );
    add(
        "ack_count_over_limit",
        "W-LIM-1",
        "1025 ranges announced, none there",
        Reader::Peer,
        {
            let mut body = vec![0; 9];
            body.extend(le16(ACK_RANGES_MAX + 1));
            frame(0x20, 0, &body)
        },
    );
    add(
        "ack_count_past_end",
        "W-LIM-1",
        "1024 ranges announced, one there",
        Reader::Peer,
        {
            let mut body = vec![0; 9];
            body.extend(le16(ACK_RANGES_MAX));
            body.extend([1; 16]);
            frame(0x20, 0, &body)
        },
    );
    add(
        "routed_ack_over_limit",
        "W-LIM-1",
        "4097 entries announced",
        Reader::Peer,
        {
            let mut body = vec![0; 17];
            body.extend(le16(ENTRIES_MAX + 1));
            frame(0x21, 0, &body)
        },
    );
    add(
        "not_held_empty",
        "W-ACK-4",
        "no entry",
        Reader::Peer,
        frame(0x22, 0, &[0; 18]),
    );
    add(
        "query_void_flag",
        "W-FRM-7",
        "a truth value of 255",
        Reader::Peer,
        {
            let mut body = vec![0; 16];
            body.extend([255, 1, 0]);
            body.extend([0; 24]);
            frame(0x23, 0, &body)
        },
    );
    let answer = |known: u8, outcome: u8| {
        let mut body = vec![0; 16];
        body.extend([1, 0]);
        body.extend([0; 24]);
        body.extend([known, outcome, 0]);
        frame(0x24, 0, &body)
    };
    add(
        "answer_unknown_code",
        "W-ACK-6",
        "an answer of code 5",
        Reader::Peer,
        answer(5, 0),
    );
    add(
        "answer_outcome_without_code",
        "W-ACK-6",
        "delivered, with an outcome beside it",
        Reader::Peer,
        answer(1, 2),
    );
    add(
        "reject_number_zero",
        "W-DAT-2",
        "message numbers begin at 1",
        Reader::Peer,
        {
            let mut body = vec![1, 0];
            body.extend([0; 18]);
            frame(0x25, 0, &body)
        },
    );

    // The envelope.
    add(
        "envelope_empty",
        "W-FRM-6",
        "nothing at all",
        Reader::Envelope,
        Vec::new(),
    );
    add(
        "envelope_version",
        "W-ENV-2",
        "another layout",
        Reader::Envelope,
        envelope_with(0, &[2]),
    );
    add(
        "envelope_class",
        "W-ENV-3",
        "a fourth class",
        Reader::Envelope,
        envelope_with(1, &[3]),
    );
    add(
        "envelope_priority",
        "W-ENV-3",
        "priority 8",
        Reader::Envelope,
        envelope_with(2, &[8]),
    );
    add(
        "envelope_transactional_priority",
        "W-ENV-4",
        "a transactional message of priority 3",
        Reader::Envelope,
        envelope_with(1, &[2]),
    );
    add(
        "envelope_flags",
        "W-ENV-3",
        "an unknown message flag",
        Reader::Envelope,
        envelope_with(3, &[8]),
    );
    add(
        "envelope_wishes",
        "W-ENV-3",
        "an unknown ack wish",
        Reader::Envelope,
        envelope_with(80, &[16]),
    );
    add(
        "envelope_body_over_limit",
        "W-LIM-1",
        "a body of 1 GiB and one byte",
        Reader::Envelope,
        envelope_with(76, &(BODY_BYTES_MAX + 1).to_le_bytes()),
    );
    add(
        "envelope_trailing",
        "W-FRM-6",
        "one byte too many",
        Reader::Envelope,
        {
            let mut bytes = envelope_field(0, b"q");
            bytes.push(0);
            bytes
        },
    );
    add(
        "envelope_truncated",
        "W-FRM-6",
        "the last length is half there",
        Reader::Envelope,
        {
            let mut bytes = envelope_field(0, b"q");
            bytes.pop();
            bytes
        },
    );
    for (name, requirement, about, queue) in [
        ("queue_empty", "W-QUE-1", "no queue name", ""),
        (
            "queue_subqueue_empty",
            "W-QUE-1",
            "nothing behind the colon",
            "q:",
        ),
        (
            "queue_two_colons",
            "W-QUE-2",
            "a subqueue of a subqueue",
            "q:a:b",
        ),
        ("queue_slash", "W-QUE-2", "a reserved character", "a/b"),
        ("queue_control", "W-QUE-2", "a line feed", "a\nb"),
        ("queue_space_at_end", "W-QUE-3", "a space at the end", "q "),
    ] {
        add(
            name,
            requirement,
            about,
            Reader::Envelope,
            envelope_field(0, queue.as_bytes()),
        );
    }
    add(
        "queue_over_limit",
        "W-QUE-1",
        "125 characters",
        Reader::Envelope,
        envelope_field(0, "x".repeat(125).as_bytes()),
    );
    add(
        "queue_not_utf8",
        "W-TXT-1",
        "bytes that are no text",
        Reader::Envelope,
        envelope_field(0, b"\xc3"),
    );
    add(
        "label_characters",
        "W-LIM-1",
        "250 characters",
        Reader::Envelope,
        envelope_field(1, "x".repeat(LABEL_CHARS_MAX + 1).as_bytes()),
    );
    add(
        "label_bytes",
        "W-LIM-1",
        "997 bytes",
        Reader::Envelope,
        envelope_field(1, "x".repeat(997).as_bytes()),
    );
    add(
        "label_escape",
        "W-TXT-2",
        "a terminal's escape character",
        Reader::Envelope,
        envelope_field(1, b"\x1b[2J"),
    );
    add(
        "label_c1_control",
        "W-TXT-2",
        "U+0085",
        Reader::Envelope,
        envelope_field(1, "\u{85}".as_bytes()),
    );
    add(
        "correlation_over_limit",
        "W-LIM-1",
        "257 bytes",
        Reader::Envelope,
        envelope_field(2, &[0; 257]),
    );
    add(
        "response_queue_line_feed",
        "W-TXT-3",
        "an address of two lines",
        Reader::Envelope,
        envelope_field(3, b"a\nb"),
    );
    add(
        "admin_queue_over_limit",
        "W-LIM-1",
        "1025 bytes",
        Reader::Envelope,
        envelope_field(4, &[b'a'; 1025]),
    );
    add(
        "content_type_not_utf8",
        "W-TXT-1",
        "an overlong slash",
        Reader::Envelope,
        envelope_field(5, b"text\xc0\xafplain"),
    );
    add(
        "trace_context_over_limit",
        "W-LIM-1",
        "641 bytes",
        Reader::Envelope,
        envelope_field(6, &[b'a'; 641]),
    );
    add(
        "properties_order",
        "W-PRP-1",
        "b before a",
        Reader::Envelope,
        envelope_field(7, &[property(b"b", b""), property(b"a", b"")].concat()),
    );
    add(
        "properties_twice",
        "W-PRP-1",
        "the same name twice",
        Reader::Envelope,
        envelope_field(7, &[property(b"a", b"1"), property(b"a", b"2")].concat()),
    );
    add(
        "properties_no_name",
        "W-PRP-1",
        "an empty name",
        Reader::Envelope,
        envelope_field(7, &property(b"", b"1")),
    );
    add(
        "properties_name_control",
        "W-TXT-3",
        "a name with a line feed",
        Reader::Envelope,
        envelope_field(7, &property(b"a\n", b"1")),
    );
    add(
        "properties_truncated",
        "W-FRM-6",
        "a value longer than the properties",
        Reader::Envelope,
        envelope_field(7, b"\x01a\x05\x00b"),
    );
    add(
        "properties_too_many",
        "W-LIM-1",
        "65 properties",
        Reader::Envelope,
        {
            let many: Vec<u8> = (0..=PROPERTIES_MAX)
                .flat_map(|n| property(format!("{n:02}").as_bytes(), b""))
                .collect();
            envelope_field(7, &many)
        },
    );

    // The local socket.
    add(
        "put_sequence_zero",
        "W-LOC-2",
        "client sequences begin at 1",
        Reader::Client,
        Value::Client(ClientFrame::Put(Put {
            sequence: 0,
            ..put()
        }))
        .encode()
        .to_vec(),
    );
    add(
        "put_no_destination",
        "W-LOC-2",
        "nowhere to go",
        Reader::Client,
        Value::Client(ClientFrame::Put(Put {
            destination: "".into(),
            ..put()
        }))
        .encode()
        .to_vec(),
    );
    add(
        "receive_no_message",
        "W-LOC-3",
        "at most 0 messages",
        Reader::Client,
        Value::Client(ClientFrame::Receive(Receive {
            messages_max: 0,
            ..Receive::new(1, "q".parse().unwrap())
        }))
        .encode()
        .to_vec(),
    );
    add(
        "settle_empty",
        "W-LOC-4",
        "no range",
        Reader::Client,
        Value::Client(ClientFrame::Settle(Settle {
            request: 1,
            queue: "q".parse().unwrap(),
            verdict: Verdict::Consume,
            ranges: vec![],
        }))
        .encode()
        .to_vec(),
    );
    add(
        "settle_touching",
        "W-LOC-4",
        "two ranges that are one",
        Reader::Client,
        Value::Client(ClientFrame::Settle(Settle {
            request: 1,
            queue: "q".parse().unwrap(),
            verdict: Verdict::Consume,
            ranges: vec![(1, 1), (2, 2)],
        }))
        .encode()
        .to_vec(),
    );
    add(
        "node_hello_no_window",
        "W-LOC-1",
        "a window of 0 messages",
        Reader::Node,
        frame(0x41, 0, &[0; 40]),
    );
    add(
        "accepted_none",
        "W-LOC-2",
        "a run of 0",
        Reader::Node,
        Value::Node(NodeFrame::Accepted(Accepted {
            first_sequence: 1,
            count: 0,
            first_id: entry(1).id,
            repeated: false,
        }))
        .encode()
        .to_vec(),
    );
    add(
        "fate_reversed",
        "W-LOC-2",
        "last before first",
        Reader::Node,
        Value::Node(NodeFrame::Fate(Fate {
            runs: vec![(2, 1, Outcome::RECEIVED)],
        }))
        .encode()
        .to_vec(),
    );
    identity::invalid(&mut list);
    limits::invalid(&mut list);
    messages::invalid(&mut list);
    list
}

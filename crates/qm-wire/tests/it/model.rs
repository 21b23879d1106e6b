//! Properties that hold for every frame and for every sequence of bytes.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use qm_wire::limits::{
    ACK_RANGES_MAX, ADMIN_BYTES_MAX, ENTRIES_MAX, PROPERTIES_BYTES_MAX, WINDOW_MESSAGES_MAX,
};
use qm_wire::local::{Admin, AdminReply, ClientFrame, NodeFrame};
use qm_wire::{
    DecodeError, Entry, Envelope, Goodbye, Hello, Link, MessageKey, OpenError, Outcome, PeerFrame,
    Place, Properties, Query, QueueName, QueueState, RemoteAsk, RemoteReply, RoutedAck, SessionAck,
    StreamId, Tag, Text, tag_hash,
};

use crate::catalogue::{Reader, Value, data_of, full_envelope, minimal_envelope, valid};
use crate::strategies::{arrivals, client_frame, data, envelope, frame, node_frame};

const BODY_LIMIT: usize = 1 << 20;

fn written(frame: &PeerFrame) -> Bytes {
    Value::Peer(frame.clone()).encode()
}

/// Every frame of `bytes`, and how it ends.
fn read_all(mut bytes: Bytes) -> (Vec<PeerFrame>, Result<usize, DecodeError>) {
    let mut frames = Vec::new();
    loop {
        match PeerFrame::next(&mut bytes, BODY_LIMIT) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(bytes.len())),
            Err(wrong) => return (frames, Err(wrong)),
        }
    }
}

fn read(reader: Reader, bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    let mut from = Bytes::copy_from_slice(bytes);
    Ok(match reader {
        Reader::Client => ClientFrame::next(&mut from, BODY_LIMIT)?.map(Value::Client),
        Reader::Node => NodeFrame::next(&mut from, BODY_LIMIT)?.map(Value::Node),
        _ => PeerFrame::next(&mut from, BODY_LIMIT)?.map(Value::Peer),
    })
}

/// Reads a frame with any kind, flags and body behind a header and checksum that are right.
fn read_sealed(reader: Reader, kind: u8, flags: u16, body: &[u8]) -> Option<(Bytes, Value)> {
    let mut frame = vec![b'Q', b'M', 1, kind];
    frame.extend(flags.to_le_bytes());
    frame.extend([0, 0]);
    frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(body);
    if let Err(DecodeError::Checksum { expected, .. }) = read(reader, &frame) {
        frame[12..16].copy_from_slice(&expected.to_le_bytes());
    }
    let value = read(reader, &frame).ok()??;
    Some((frame.into(), value))
}

/// Bytes at the end of a request that are there to the end of the frame.
fn open_end(ask: &RemoteAsk) -> usize {
    match ask {
        RemoteAsk::Admin(admin) => admin.json.len(),
        _ => 0,
    }
}

fn open_end_of_answer(reply: &RemoteReply) -> usize {
    match reply {
        RemoteReply::Delivery(delivery) => delivery.body.len(),
        RemoteReply::AdminReply(reply) => reply.json.len(),
        _ => 0,
    }
}

/// Whether damage shows: in an error, in a frame that waits for more, or in a message that does
/// not open.
fn is_noticed(bytes: Vec<u8>) -> bool {
    match PeerFrame::next(&mut Bytes::from(bytes), BODY_LIMIT) {
        Ok(Some(PeerFrame::Data(data))) => data.open().is_err(),
        Ok(Some(_)) => false,
        Ok(None) | Err(_) => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]

    /// W-FRM-1, W-FRM-7.
    #[test]
    fn a_frame_is_read_back_as_it_was(frame in frame()) {
        let mut rest = written(&frame);
        let read = PeerFrame::next(&mut rest, BODY_LIMIT);
        prop_assert_eq!(read, Ok(Some(frame)));
        prop_assert!(rest.is_empty());
    }

    /// W-FRM-1, W-FRM-7: the same between an application and its node.
    #[test]
    fn a_local_frame_is_read_back_as_it_was(client in client_frame(), node in node_frame()) {
        for value in [Value::Client(client), Value::Node(node)] {
            let bytes = value.encode();
            let read = read(value.reader(), &bytes);
            prop_assert_eq!(read, Ok(Some(value.clone())));
            for end in [0, 1, 15, 16, bytes.len() - 1] {
                prop_assert_eq!(self::read(value.reader(), &bytes[..end]), Ok(None));
            }
        }
    }

    /// W-FRM-4, W-FRM-6: a prefix is a frame that is not all there, never another one.
    #[test]
    fn every_prefix_waits_for_more(frame in frame()) {
        let bytes = written(&frame);
        for end in 0..bytes.len() {
            prop_assert_eq!(PeerFrame::next(&mut bytes.slice(..end), BODY_LIMIT), Ok(None));
        }
    }

    /// W-FRM-6: a body cut anywhere is refused, though its header and checksum are right.
    #[test]
    fn every_shortened_body_is_refused(frame in frame()) {
        let bytes = written(&frame);
        // What is cut off the end of a data frame is body, which the tag covers.
        let whole = match &frame {
            PeerFrame::Data(data) => bytes.len() - data.body.len(),
            // A part and what a remote frame carries to its end may be shorter.
            PeerFrame::BodyPart(part) => bytes.len() - part.part.len() + 1,
            PeerFrame::RemoteRequest(request) => bytes.len() - open_end(&request.ask),
            PeerFrame::RemoteAnswer(answer) => bytes.len() - open_end_of_answer(&answer.reply),
            _ => bytes.len(),
        };
        for end in 16..whole {
            let flags = u16::from_le_bytes([bytes[4], bytes[5]]);
            let read = read_sealed(Reader::Peer, bytes[3], flags, &bytes[16..end]);
            prop_assert!(read.is_none(), "{} of {} bytes: {:?}", end, bytes.len(), read);
        }
    }

    /// W-FRM-5, W-TAG-2.
    #[test]
    fn a_flipped_bit_is_noticed(frame in frame(), at: prop::sample::Index, bit in 0..8_u8) {
        let mut bytes = written(&frame).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(is_noticed(bytes), "byte {} bit {} of {:?}", at, bit, frame);
    }

    /// W-FRM-9.
    #[test]
    fn a_stream_reads_the_same_however_it_is_cut(
        frames in vec(frame(), 0..6),
        damage in option::of((any::<prop::sample::Index>(), 1..=255_u8)),
        sizes in vec(1..200_usize, 1..20),
    ) {
        let mut stream = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut stream));
        if let (Some((at, flip)), false) = (damage, stream.is_empty()) {
            let at = at.index(stream.len());
            stream[at] ^= flip;
        }
        let (expected, end) = read_all(stream.clone().freeze());
        if damage.is_none() {
            prop_assert_eq!(&expected, &frames);
            prop_assert_eq!(end, Ok(0));
        }
        let (mut arrived, mut found, mut broken) = (BytesMut::new(), Vec::new(), None);
        for size in sizes.iter().cycle() {
            let chunk = stream.split_to((*size).min(stream.len()));
            arrived.extend_from_slice(&chunk);
            let (more, left) = read_all(arrived.clone().freeze());
            found.extend(more);
            match left {
                Ok(left) => drop(arrived.split_to(arrived.len() - left)),
                Err(wrong) => broken = Some(wrong),
            }
            if stream.is_empty() || broken.is_some() {
                break;
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(broken, end.err());
    }

    /// W-LIM-1: no input panics, whoever reads it.
    #[test]
    fn arbitrary_bytes_do_not_panic(kind: u8, flags: u16, body in vec(any::<u8>(), 0..300)) {
        let bare = Bytes::from(body.clone());
        let _wrong = Envelope::decode(&bare);
        let _wrong = Properties::from_encoded(bare.clone());
        let _wrong = QueueName::from_bytes(bare.clone());
        let _wrong = read_all(bare);
        for reader in [Reader::Peer, Reader::Client, Reader::Node] {
            // W-FRM-7: whatever is accepted has no other encoding, but for ignored flags.
            if let Some((sealed, value)) = read_sealed(reader, kind, flags, &body) {
                let again = value.encode();
                if flags < 0x100 && !again.is_empty() {
                    prop_assert_eq!(again, sealed);
                }
            }
        }
    }

    /// W-FRM-7 for valid frames with a few bytes changed and the checksum put right, which come
    /// closer to acceptance than arbitrary bytes.
    #[test]
    fn what_is_accepted_after_damage_is_canonical(
        vector in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let vectors = valid();
        let vector = &vectors[vector.index(vectors.len())];
        let mut bytes = vector.value.encode().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if vector.value.reader() == Reader::Envelope {
            let bytes = Bytes::from(bytes);
            if let Ok(envelope) = Envelope::decode(&bytes) {
                prop_assert_eq!(Value::Envelope(envelope).encode(), bytes);
            }
            return Ok(());
        }
        if bytes.len() < 16 {
            return Ok(());
        }
        let flags = u16::from(bytes[4]);
        let read = read_sealed(vector.value.reader(), bytes[3], flags, &bytes[16..]);
        if let Some((sealed, value)) = read {
            let again = value.encode();
            if !again.is_empty() {
                prop_assert_eq!(again, sealed);
            }
        }
    }

    /// W-ENV-1: the encoding is what a message is stored and resent as.
    #[test]
    fn an_envelope_has_one_encoding(envelope in envelope()) {
        let bytes = Value::Envelope(envelope.clone()).encode();
        prop_assert_eq!(bytes.len(), envelope.encoded_len());
        let read = Envelope::decode(&bytes).unwrap();
        prop_assert_eq!(&Value::Envelope(read.clone()).encode(), &bytes);
        prop_assert_eq!(Envelope::peek_ack_wishes(&bytes), envelope.ack_wishes);
        prop_assert_eq!(read, envelope);
        for end in 0..bytes.len() {
            prop_assert!(Envelope::decode(&bytes.slice(..end)).is_err());
        }
    }

    /// W-TAG-1: every part of a message is covered.
    #[test]
    fn the_tag_covers_every_bit(data in data(), at: prop::sample::Index, bit in 0..8_u8) {
        let whole = data.envelope.len() + data.body.len();
        let at = at.index(whole);
        let mut changed = data.clone();
        let flip = |bytes: &Bytes, at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << bit;
            Bytes::from(bytes)
        };
        match at.checked_sub(data.envelope.len()) {
            Some(at) => changed.body = flip(&data.body, at),
            None => changed.envelope = flip(&data.envelope, at),
        }
        prop_assert!(data.open().is_ok());
        prop_assert!(changed.open().is_err());
    }

    /// W-ACK-1, W-ACK-2, W-ACK-3: acks that cover any arrivals keep every limit and name each
    /// arrival once.
    #[test]
    fn acks_cover_what_arrived(arrivals in arrivals(), stretch in 1..2000_u64, duplicate: bool) {
        let arrivals: Vec<_> = arrivals
            .into_iter()
            .scan(0_u64, |number, (at, tag)| {
                *number = number.checked_add(1 + at % stretch)?;
                Some((*number, tag))
            })
            .collect();
        let acks = SessionAck::cover(duplicate, arrivals.iter().copied());
        let mut left = arrivals.as_slice();
        for ack in &acks {
            prop_assert_eq!(read_all(written(&PeerFrame::SessionAck(ack.clone()))).0.len(), 1);
            let numbers: Vec<u64> = ack.numbers().collect();
            let (mine, after) = left.split_at(numbers.len());
            prop_assert!(mine.iter().map(|(number, _)| number).eq(&numbers));
            prop_assert_eq!(ack.tag_hash, tag_hash(mine.iter().map(|(_, tag)| *tag)));
            left = after;
        }
        prop_assert!(left.is_empty());
    }

    /// W-TXT-2, W-LIM-3: texts for people go out so that the peer accepts them.
    #[test]
    fn any_name_can_be_sent(name in any::<String>(), long in "\\PC{0,300}é{0,300}") {
        let hello = valid().into_iter().find_map(|vector| match vector.value {
            Value::Peer(frame @ PeerFrame::Hello(_)) => Some(frame),
            _ => None,
        });
        let Some(PeerFrame::Hello(sent)) = hello else {
            panic!("there is a hello among the vectors");
        };
        let sent = PeerFrame::Hello(Hello { name: name.into(), host: long.into(), ..sent });
        let (frames, end) = read_all(written(&sent));
        prop_assert_eq!((frames.len(), end), (1, Ok(0)));
    }
}

/// W-FRM-5, W-TAG-2: every bit of every vector, one after the other.
#[test]
fn every_flipped_bit_of_every_vector_is_noticed() {
    for vector in valid() {
        let Value::Peer(_) = vector.value else {
            continue;
        };
        let bytes = vector.value.encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(is_noticed(bytes), "bit {bit} of {}", vector.name);
        }
    }
}

/// W-LIM-3: what exceeds a frame goes out in several, and nothing as none.
#[test]
fn long_lists_are_split_and_empty_ones_not_sent() {
    let entry = Entry {
        id: minimal_envelope().id,
        tag: Tag([1; 8]),
    };
    let query = |entries| {
        PeerFrame::Query(Query {
            source: minimal_envelope().source,
            void: true,
            entries,
        })
    };
    let (frames, end) = read_all(written(&query(vec![entry; ENTRIES_MAX + 1])));
    assert_eq!(
        frames,
        [query(vec![entry; ENTRIES_MAX]), query(vec![entry])]
    );
    assert_eq!(end, Ok(0));
    assert!(written(&query(Vec::new())).is_empty());
    let nothing = SessionAck {
        duplicate: false,
        tag_hash: 0,
        ranges: Vec::new(),
    };
    assert!(written(&PeerFrame::SessionAck(nothing)).is_empty());
}

/// W-LIM-3: an ack of every other message of a full window takes two frames.
#[test]
fn an_ack_keeps_the_limit_of_ranges_and_the_window() {
    let every_other = (1..=WINDOW_MESSAGES_MAX)
        .step_by(2)
        .map(|number| (number, Tag([1; 8])));
    let acks = SessionAck::cover(false, every_other);
    assert_eq!(
        acks.iter().map(|ack| ack.ranges.len()).collect::<Vec<_>>(),
        [ACK_RANGES_MAX; 2]
    );
    let whole = (1..=WINDOW_MESSAGES_MAX + 1).map(|number| (number, Tag([1; 8])));
    let acks = SessionAck::cover(false, whole);
    let ranges: Vec<_> = acks.into_iter().flat_map(|ack| ack.ranges).collect();
    assert_eq!(
        ranges,
        [
            (1, WINDOW_MESSAGES_MAX),
            (WINDOW_MESSAGES_MAX + 1, WINDOW_MESSAGES_MAX + 1)
        ]
    );
    let disorder = [(2, Tag([1; 8])), (1, Tag([2; 8])), (2, Tag([3; 8]))];
    assert_eq!(SessionAck::cover(true, disorder).len(), 2);
}

/// W-TAG-2: what the format cannot carry is cut, and found damaged by the receiver.
#[test]
fn an_envelope_over_its_limit_does_not_panic() {
    let mut data = data_of(full_envelope(), b"hello", false);
    data.envelope = vec![1; 70_000].into();
    let frame = PeerFrame::Data(data);
    let (frames, end) = read_all(written(&frame));
    assert_eq!(end, Ok(0));
    let [PeerFrame::Data(data)] = frames.as_slice() else {
        panic!("one data frame: {frames:?}");
    };
    assert!(data.open().is_err());
}

/// W-DAT-1, W-DAT-5, W-DAT-6: a link on a message that has no stream; hops and times do not touch
/// the tag.
#[test]
fn a_link_belongs_to_a_transactional_message() {
    let mut data = data_of(full_envelope(), b"hello", false);
    data.transit.hops = 15;
    data.transit.reach_queue_left_ms = 0;
    assert!(data.open().is_ok());
    data.transit.place = Some(Place {
        stream: StreamId([1; 16]),
        position: 1,
        low: 1,
        previous: Link([1; 16]),
    });
    assert!(matches!(
        data.open(),
        Err(OpenError::Envelope(DecodeError::Invalid { .. }))
    ));
}

/// W-OUT-1, W-OUT-2: what a later version says is kept.
#[test]
fn an_unknown_outcome_survives() {
    let reason = Outcome(0xbeef);
    let text = Text::EMPTY;
    let goodbye = PeerFrame::Goodbye(Goodbye { reason, text });
    assert_eq!(read_all(written(&goodbye)).0, [goodbye]);
    assert!(!reason.is_positive());
}

/// W-PRP-2: the largest properties that fit, and one byte more.
#[test]
fn properties_are_limited_as_a_whole() {
    let fits = vec![0; PROPERTIES_BYTES_MAX - 4];
    assert!(Properties::new([("a", &fits)]).is_ok());
    let over = vec![0; PROPERTIES_BYTES_MAX - 3];
    assert!(matches!(
        Properties::new([("a", &over)]),
        Err(DecodeError::OverLimit { .. })
    ));
    assert!(Properties::new([("a".repeat(256), "")]).is_err());
}

/// W-TXT-2, W-TXT-3: an envelope that the peer would refuse is refused before it is stored.
#[test]
fn control_characters_are_reported_by_the_sender() {
    for (at, allowed) in [
        (0, "two\nlines\t."),
        (1, "one line"),
        (2, "one line"),
        (3, "one line"),
        (4, "a\nb"),
    ] {
        for (text, good) in [
            (allowed, true),
            ("\u{1b}", false),
            ("a\u{85}", false),
            ("a\nb", at == 0 || at == 4),
        ] {
            let mut envelope = minimal_envelope();
            let field = match at {
                0 => &mut envelope.label,
                1 => &mut envelope.response_queue,
                2 => &mut envelope.admin_queue,
                3 => &mut envelope.content_type,
                _ => &mut envelope.trace_context,
            };
            *field = text.into();
            let mut to = BytesMut::new();
            assert_eq!(envelope.encode(&mut to).is_ok(), good, "{at} {text:?}");
            assert_eq!(to.is_empty(), !good);
        }
    }
}

/// W-LIM-2, W-FRM-4: a reader that takes smaller messages refuses the header of a larger one; what
/// carries no message keeps its own limit.
#[test]
fn a_reader_may_set_smaller_limits() {
    let data = data_of(full_envelope(), b"hello", false);
    let frame = written(&PeerFrame::Data(data));
    let length = frame.len() - 16;
    for (limit, fits) in [(length, true), (length - 1, false)] {
        let read = PeerFrame::next(&mut frame.slice(..16), limit);
        assert_eq!(read.is_ok(), fits, "{read:?}");
    }
    let goodbye = PeerFrame::Goodbye(Goodbye {
        reason: Outcome::STOPPING,
        text: "x".into(),
    });
    assert_eq!(
        PeerFrame::next(&mut written(&goodbye), 0),
        Ok(Some(goodbye))
    );
}

/// W-LOC-6: JSON has a limit of its own, whatever the largest message is.
#[test]
fn an_administrative_page_has_a_limit() {
    for (bytes, fits) in [(ADMIN_BYTES_MAX, true), (ADMIN_BYTES_MAX + 1, false)] {
        let json = Bytes::from(vec![b' '; bytes]);
        let request = ClientFrame::Admin(Admin {
            request: 1,
            json: json.clone(),
        });
        let mut wire = Value::Client(request).encode();
        assert_eq!(ClientFrame::next(&mut wire, 8 << 20).is_ok(), fits);
        let reply = NodeFrame::AdminReply(AdminReply {
            request: 1,
            ok: true,
            json,
        });
        let mut wire = Value::Node(reply).encode();
        assert_eq!(NodeFrame::next(&mut wire, 8 << 20).is_ok(), fits);
    }
}

/// W-ID-5, W-ACK-5: two messages of two clones differ in the tag alone, and lists of entries say
/// each by its full name, in any order.
#[test]
fn entries_name_messages_in_full() {
    let id = minimal_envelope().id;
    let [one, other] = [1, 2].map(|byte| Entry {
        id,
        tag: Tag([byte; 8]),
    });
    let source = minimal_envelope().source;
    let key = |entry| MessageKey { source, entry };
    assert_ne!(key(one), key(other));
    let ack = PeerFrame::RoutedAck(RoutedAck {
        source,
        duplicate: false,
        entries: vec![other, one, other],
    });
    assert_eq!(read_all(written(&ack)).0, [ack]);
}

/// W-QUE-4, W-QUE-5: names keep their case on the wire and ignore it in comparison.
#[test]
fn queue_names_are_compared_without_case() {
    let state = |queue: &str| QueueState {
        queue: queue.parse().unwrap(),
        open: true,
    };
    let (given, other) = (state("Größe$"), state("GRÖßE$"));
    assert_eq!(given, other);
    assert!(given.queue.is_system());
    let [given, other] = [given, other].map(|state| written(&PeerFrame::QueueState(state)));
    assert_ne!(given, other);
}

/// W-TXT-4: an absent field is a length of 0 and nothing else.
#[test]
fn absent_fields_take_two_bytes_each() {
    let encoded = Value::Envelope(minimal_envelope()).encode();
    assert_eq!(encoded.len(), 83 + 2 + "q".len() + 7 * 2);
    let read = Envelope::decode(&encoded).unwrap();
    assert_eq!(
        (read.label, read.response_queue),
        (Text::EMPTY, Text::EMPTY)
    );
    assert!(read.correlation_id.is_empty() && read.properties.is_empty());
}

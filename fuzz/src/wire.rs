//! Targets of qm-wire.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use bytes::{Buf, Bytes, BytesMut};
use qm_wire::frame::{HEADER_VERSION, IGNORABLE_FLAGS, MAGIC, RawFrame, frame_len, split_frame};
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{
    AckWishes, Class, DecodeError, Destination, Envelope, FrameKind, Incarnation, MessageFlags,
    MessageId, PeerFrame, Priority, Properties, QmId, QueueName, Salt, Tag, Text, differential,
};

/// Largest body of a message frame in these targets.
const BODY_LIMIT: usize = 1 << 20;

/// Decodes a frame, once as it is and once with its checksum put right, or random bytes would
/// hardly ever get past it.
pub(crate) fn decode_sealed<T>(
    raw: &RawFrame,
    decode: impl Fn(&RawFrame) -> Result<T, DecodeError>,
) -> Option<(RawFrame, T)> {
    match decode(raw) {
        Ok(frame) => Some((raw.clone(), frame)),
        Err(DecodeError::Checksum { expected, .. }) => {
            let raw = RawFrame {
                checksum: expected,
                ..raw.clone()
            };
            match decode(&raw) {
                Ok(frame) => Some((raw, frame)),
                Err(DecodeError::Checksum { .. }) => panic!("the checksum was put right"),
                Err(_) => None,
            }
        }
        Err(_) => None,
    }
}

/// The bytes of a frame that was cut off a lane.
fn bytes_of(raw: &RawFrame) -> Vec<u8> {
    let length = u32::try_from(raw.body.len()).expect("cut from a shorter input");
    let mut bytes = Vec::from(MAGIC);
    bytes.extend([HEADER_VERSION, raw.kind]);
    bytes.extend(raw.flags.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(raw.checksum.to_le_bytes());
    bytes.extend(&raw.body);
    bytes
}

/// A value has one encoding, but for flags that a receiver ignores and does not keep.
fn assert_canonical(raw: &RawFrame, encode: impl FnOnce(&mut BytesMut)) {
    let mut again = BytesMut::new();
    encode(&mut again);
    if raw.flags & IGNORABLE_FLAGS == 0 && !again.is_empty() {
        assert_eq!(
            again,
            bytes_of(raw),
            "another encoding of a value was accepted"
        );
    }
}

fn peer(raw: &RawFrame) {
    let Some((raw, frame)) = decode_sealed(raw, PeerFrame::decode) else {
        return;
    };
    assert_canonical(&raw, |to| frame.encode(to));
    match frame {
        PeerFrame::Data(data) => {
            if let Ok(envelope) = data.open() {
                assert_eq!(envelope.body_bytes as usize, data.body.len());
            }
        }
        PeerFrame::SessionAck(ack) => {
            let mut last = 0;
            for number in ack.numbers() {
                assert!(number > last, "numbers of an ack ascend");
                last = number;
            }
        }
        _ => {}
    }
}

fn local(raw: &RawFrame) {
    if let Some((raw, frame)) = decode_sealed(raw, ClientFrame::decode) {
        assert_canonical(&raw, |to| frame.encode(to));
    }
    if let Some((raw, frame)) = decode_sealed(raw, NodeFrame::decode) {
        assert_canonical(&raw, |to| frame.encode(to));
        if let NodeFrame::Delivery(delivery) = frame
            && let Ok(envelope) = delivery.open()
        {
            assert_eq!(envelope.body_bytes as usize, delivery.body.len());
        }
    }
}

/// Both readings of an input: a whole frame with its header, and flags and kind before a body.
fn raw_frames(data: &[u8]) -> impl Iterator<Item = RawFrame> {
    let mut whole = Bytes::copy_from_slice(data);
    let whole = split_frame(&mut whole, BODY_LIMIT).ok().flatten();
    whole.into_iter().chain(bare_frame(data))
}

/// A frame as its decoder gets it: kind, flags and body, without the header that hardly any change
/// of an input leaves right.
fn bare_frame(data: &[u8]) -> Option<RawFrame> {
    let ([kind, f0, f1], body) = data.split_first_chunk()?;
    Some(RawFrame {
        kind: *kind,
        flags: u16::from_le_bytes([*f0, *f1]),
        checksum: 0,
        body: Bytes::copy_from_slice(body),
    })
}

/// Every decoder of a frame's body: the first byte is the kind, two are flags, the rest is the
/// body, whose checksum is put right. No panic; one encoding per value; cut short or made longer,
/// a body whose fields have an end is no longer one.
pub fn decode_body(data: &[u8]) {
    let Some(raw) = bare_frame(data) else { return };
    peer(&raw);
    local(&raw);
    if kind_of_body(data).is_some_and(ends_by_itself) {
        let longer = [data, &[0]].concat();
        assert_eq!(kind_of_body(&longer), None, "bytes behind the last field");
        let (_, shorter) = data.split_last().expect("a kind was read");
        assert_eq!(kind_of_body(shorter), None, "the last field lacks a byte");
    }
}

/// The kind that [`decode_body`] read in an input; `None` for one that was refused.
pub fn kind_of_body(data: &[u8]) -> Option<FrameKind> {
    let raw = bare_frame(data)?;
    let peer = decode_sealed(&raw, PeerFrame::decode).and_then(|(_, frame)| frame.kind());
    let client = || decode_sealed(&raw, ClientFrame::decode).and_then(|(_, frame)| frame.kind());
    let node = || decode_sealed(&raw, NodeFrame::decode).and_then(|(_, frame)| frame.kind());
    peer.or_else(client).or_else(node)
}

/// Kinds whose bodies do not end in bytes that go on to the end of the frame.
fn ends_by_itself(kind: FrameKind) -> bool {
    !kind.carries_message()
        && !matches!(
            kind,
            FrameKind::Announce
                | FrameKind::BodyPart
                | FrameKind::Admin
                | FrameKind::AdminReply
                | FrameKind::RemoteRequest
                | FrameKind::RemoteAnswer
        )
}

/// Frames between nodes: no panic, one encoding per value, messages as long as they say.
pub fn decode_peer_frame(data: &[u8]) {
    raw_frames(data).for_each(|raw| peer(&raw));
}

/// Frames between an application and its node, in both directions.
pub fn decode_local_frame(data: &[u8]) {
    raw_frames(data).for_each(|raw| local(&raw));
}

/// A stream of frames gives the same frames and the same error however it is cut, on each of the
/// three links. The first byte chooses the link and seeds the sizes of the chunks.
pub fn frame_stream(data: &[u8]) {
    let Some((seed, stream)) = data.split_first() else {
        return;
    };
    match seed % 3 {
        0 => cut_anywhere(*seed, stream, PeerFrame::next),
        1 => cut_anywhere(*seed, stream, ClientFrame::next),
        _ => cut_anywhere(*seed, stream, NodeFrame::next),
    }
}

fn cut_anywhere<T: Debug + PartialEq>(
    seed: u8,
    stream: &[u8],
    next: impl Fn(&mut Bytes, usize) -> Result<Option<T>, DecodeError>,
) {
    let mut whole = Bytes::copy_from_slice(stream);
    let mut expected = Vec::new();
    let expected_end = loop {
        match next(&mut whole, BODY_LIMIT) {
            Ok(Some(frame)) => expected.push(frame),
            Ok(None) => break None,
            Err(wrong) => break Some(wrong),
        }
    };
    let (mut found, mut end) = (Vec::new(), None);
    let (mut arrived, mut rest) = (BytesMut::new(), stream);
    let mut size = usize::from(seed);
    while end.is_none() {
        size = (size * 31 + 7) % 61;
        let (chunk, after) = rest.split_at(size.clamp(1, rest.len().max(1)).min(rest.len()));
        rest = after;
        arrived.extend_from_slice(chunk);
        loop {
            let mut front = arrived.clone().freeze();
            let before = front.len();
            match next(&mut front, BODY_LIMIT) {
                Ok(Some(frame)) => {
                    found.push(frame);
                    let _front = arrived.split_to(before - front.len());
                }
                Ok(None) => break,
                Err(wrong) => {
                    end = Some(wrong);
                    break;
                }
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(found, expected);
    assert_eq!(end, expected_end);
}

/// Cuts values off an input; zeros when it is used up.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        for (to, from) in array.iter_mut().zip(head) {
            *to = *from;
        }
        self.0 = rest;
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn bytes(&mut self) -> &'a [u8] {
        let n = usize::from(u16::from_le_bytes(self.array())) % 1200;
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    fn text(&mut self) -> Text {
        String::from_utf8_lossy(self.bytes()).into_owned().into()
    }
}

/// An envelope that is not necessarily within the limits.
fn build_envelope(cut: &mut Cut<'_>) -> Option<Envelope> {
    let queue: QueueName = String::from_utf8_lossy(cut.bytes()).parse().ok()?;
    let class = Class::from_code(cut.byte() % 3).ok()?;
    let id = MessageId {
        incarnation: Incarnation(cut.number()),
        sequence: cut.number(),
    };
    let source = QmId::from_bytes(cut.array());
    let mut envelope = Envelope::new(source, id, Salt(cut.array()), class, queue);
    envelope.priority = Priority::new(cut.byte() % 8).ok()?;
    envelope.flags = MessageFlags::from_bits(cut.byte() % 8).ok()?;
    envelope.ack_wishes = AckWishes::from_bits(cut.byte() % 16).ok()?;
    envelope.sent_at_us = cut.number();
    envelope.time_to_reach_queue_ms = cut.number();
    envelope.time_to_be_received_ms = cut.number();
    envelope.body_bytes = u32::from_le_bytes(cut.array());
    envelope.label = cut.text();
    envelope.correlation_id = Bytes::copy_from_slice(cut.bytes());
    envelope.response_queue = cut.text();
    envelope.admin_queue = cut.text();
    envelope.content_type = cut.text();
    envelope.trace_context = cut.text();
    let mut items = Vec::new();
    while !cut.0.is_empty() {
        items.push((String::from_utf8_lossy(cut.bytes()), cut.bytes()));
    }
    envelope.properties = Properties::new(items).ok()?;
    Some(envelope)
}

/// Bytes that are an envelope have no other encoding; an envelope that passes its own check is
/// read back as it was, and no other one is written.
pub fn envelope_round_trip(data: &[u8]) {
    let encoded = Bytes::copy_from_slice(data);
    if let Ok(envelope) = Envelope::decode(&encoded) {
        let mut again = BytesMut::new();
        envelope
            .encode(&mut again)
            .expect("what was accepted passes its own check");
        assert_eq!(
            again, encoded,
            "another encoding of an envelope was accepted"
        );
    }
    let Some(envelope) = build_envelope(&mut Cut(data)) else {
        return;
    };
    let mut written = BytesMut::new();
    let checked = envelope.check();
    assert_eq!(envelope.encode(&mut written), checked);
    if checked.is_ok() {
        assert_eq!(written.len(), envelope.encoded_len());
        assert_eq!(Envelope::decode(&written.freeze()), Ok(envelope));
    } else {
        assert!(written.is_empty());
    }
}

/// bincode and the codec by hand accept the same bytes and write the same bytes.
pub fn envelope_differential(data: &[u8]) {
    let encoded = Bytes::copy_from_slice(data);
    let (ours, theirs) = differential::decode(&encoded);
    assert_eq!(ours.as_ref().ok(), theirs.as_ref());
    assert_eq!(ours, Envelope::decode(&encoded));
    let built = build_envelope(&mut Cut(data)).filter(|envelope| envelope.check().is_ok());
    for envelope in ours.ok().into_iter().chain(built) {
        let (ours, theirs) = differential::encode(&envelope);
        assert_eq!(ours, theirs);
    }
}

/// Whatever is understood as a destination is printed in a form that is read back as the same,
/// and printed the same again.
pub fn address_parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Destination>() {
        Ok(to) => {
            let printed = to.to_string();
            let again = printed.parse::<Destination>();
            assert_eq!(again.as_ref(), Ok(&to), "printed as {printed:?}");
            assert_eq!(again.map(|to| to.to_string()), Ok(printed));
            assert!(QueueName::from_bytes(to.queue().as_bytes().clone()).is_ok());
        }
        Err(wrong) => assert!(!wrong.to_string().is_empty()),
    }
}

/// Whatever is understood is printed in a form that is read back as the same.
fn printed_again<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let printed = value.to_string();
        assert_eq!(
            printed.parse::<T>().ok(),
            Some(value),
            "printed as {printed:?}"
        );
    }
}

/// What frames are made of, by itself: texts, queue names, properties, frame headers, printed
/// identities and names of outcomes. The first byte chooses.
pub fn decode_part(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    match what % 5 {
        0 => {
            let Ok(properties) = Properties::from_encoded(bytes.clone()) else {
                return;
            };
            assert_eq!(Properties::new(properties.iter()).as_ref(), Ok(&properties));
            for (name, value) in properties.iter() {
                assert_eq!(properties.get(name), Some(value));
            }
        }
        1 => {
            let Ok(name) = QueueName::from_bytes(bytes.clone()) else {
                return;
            };
            assert_eq!(name.as_bytes(), &bytes, "a name travels as it was given");
            let folded = name.as_str().to_uppercase().parse::<QueueName>();
            if name.as_str().is_ascii() {
                assert_eq!(folded, Ok(name));
            }
        }
        2 => {
            let line = Text::line_from_utf8(bytes.clone(), "line");
            let text = Text::from_utf8(bytes, "text");
            assert!(line.is_err() || line == text, "a line is a text");
            if let Ok(text) = text {
                assert_eq!(text.as_str().as_bytes(), rest);
            }
        }
        3 => match frame_len(rest, BODY_LIMIT) {
            Ok(Some(len)) => {
                assert!(len <= (2 << 20) && rest.len() >= 16);
                let mut bytes = bytes;
                let raw = split_frame(&mut bytes, BODY_LIMIT).expect("its header is right");
                assert_eq!(raw.is_some(), rest.len() >= len);
                assert_eq!(bytes.remaining(), rest.len() - raw.map_or(0, |_| len));
            }
            Ok(None) => assert!(rest.len() < 16),
            Err(wrong) => {
                // What follows cannot make it right.
                let longer = [rest, &[0; 16]].concat();
                assert_eq!(frame_len(&longer, BODY_LIMIT), Err(wrong));
            }
        },
        _ => {
            let text = String::from_utf8_lossy(rest);
            printed_again::<QmId>(&text);
            printed_again::<Incarnation>(&text);
            printed_again::<MessageId>(&text);
            printed_again::<Tag>(&text);
            if let Some(outcome) = qm_wire::Outcome::from_name(&text) {
                let name = outcome.name().map(str::to_owned);
                let name = name.unwrap_or_else(|| format!("{:04x}", outcome.0));
                assert_eq!(qm_wire::Outcome::from_name(&name), Some(outcome));
            }
        }
    }
}

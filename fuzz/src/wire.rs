//! Targets of qm-wire.

use bytes::{Bytes, BytesMut};
use qm_wire::frame::{HEADER_VERSION, IGNORABLE_FLAGS, MAGIC, RawFrame, split_frame};
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{
    AckWishes, Class, DecodeError, Destination, Envelope, Incarnation, MessageFlags, MessageId,
    PeerFrame, Priority, Properties, QmId, QueueName, Salt, Text, differential,
};

/// Largest body of a message frame in these targets.
const BODY_LIMIT: usize = 1 << 20;

/// Decodes a frame, once as it is and once with its checksum put right, or random bytes would
/// hardly ever get past it.
fn decode_sealed<T>(
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
    let bare = data
        .split_first_chunk()
        .map(|([kind, f0, f1], body)| RawFrame {
            kind: *kind,
            flags: u16::from_le_bytes([*f0, *f1]),
            checksum: 0,
            body: Bytes::copy_from_slice(body),
        });
    whole.into_iter().chain(bare)
}

/// Frames between nodes: no panic, one encoding per value, messages as long as they say.
pub fn decode_peer_frame(data: &[u8]) {
    raw_frames(data).for_each(|raw| peer(&raw));
}

/// Frames between an application and its node, in both directions.
pub fn decode_local_frame(data: &[u8]) {
    raw_frames(data).for_each(|raw| local(&raw));
}

/// A stream of frames gives the same frames and the same error however it is cut. The first byte
/// seeds the sizes of the chunks.
pub fn frame_stream(data: &[u8]) {
    let Some((seed, stream)) = data.split_first() else {
        return;
    };
    let mut whole = Bytes::copy_from_slice(stream);
    let mut expected = Vec::new();
    let expected_end = loop {
        match PeerFrame::next(&mut whole, BODY_LIMIT) {
            Ok(Some(frame)) => expected.push(frame),
            Ok(None) => break None,
            Err(wrong) => break Some(wrong),
        }
    };
    let (mut found, mut end) = (Vec::new(), None);
    let (mut arrived, mut rest) = (BytesMut::new(), stream);
    let mut size = usize::from(*seed);
    while end.is_none() {
        size = (size * 31 + 7) % 61;
        let (chunk, after) = rest.split_at(size.clamp(1, rest.len().max(1)).min(rest.len()));
        rest = after;
        arrived.extend_from_slice(chunk);
        loop {
            let mut front = arrived.clone().freeze();
            let before = front.len();
            match PeerFrame::next(&mut front, BODY_LIMIT) {
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

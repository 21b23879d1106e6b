//! The same message as one would first write it down, for general serializers and for a layout
//! that is read where it lies.

use bytes::{Bytes, BytesMut};
use qm_wire::Envelope;

/// Owned fields, one for each of the envelope's; the body is one of them.
#[derive(
    bincode::Encode, bincode::Decode, serde::Serialize, serde::Deserialize, PartialEq, Debug,
)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) tag: [u8; 8],
    pub(crate) reach_queue_left_ms: u64,
    pub(crate) be_received_left_ms: u64,
    pub(crate) source: [u8; 16],
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
    pub(crate) salt: [u8; 16],
    pub(crate) class: u8,
    pub(crate) priority: u8,
    pub(crate) flags: u8,
    pub(crate) ack_wishes: u8,
    pub(crate) sent_at_us: u64,
    pub(crate) time_to_reach_queue_ms: Option<u64>,
    pub(crate) time_to_be_received_ms: Option<u64>,
    pub(crate) queue: String,
    pub(crate) label: Option<String>,
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) response_queue: Option<String>,
    pub(crate) admin_queue: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) trace_context: Option<String>,
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn new(envelope: &Envelope, tag: [u8; 8], body: &[u8]) -> Self {
        let text = |text: &qm_wire::Text| (!text.is_empty()).then(|| text.as_str().to_owned());
        let time = |ms| (ms != qm_wire::INFINITE_MS).then_some(ms);
        Self {
            number: 1,
            tag,
            reach_queue_left_ms: 1000,
            be_received_left_ms: 1000,
            source: *envelope.source.as_bytes(),
            incarnation: envelope.id.incarnation.0,
            sequence: envelope.id.sequence,
            salt: envelope.salt.0,
            class: envelope.class.code(),
            priority: envelope.priority.get(),
            flags: envelope.flags.bits(),
            ack_wishes: envelope.ack_wishes.bits(),
            sent_at_us: envelope.sent_at_us,
            time_to_reach_queue_ms: time(envelope.time_to_reach_queue_ms),
            time_to_be_received_ms: time(envelope.time_to_be_received_ms),
            queue: envelope.queue.as_str().to_owned(),
            label: text(&envelope.label),
            correlation_id: (!envelope.correlation_id.is_empty())
                .then(|| envelope.correlation_id.to_vec()),
            response_queue: text(&envelope.response_queue),
            admin_queue: text(&envelope.admin_queue),
            content_type: text(&envelope.content_type),
            trace_context: text(&envelope.trace_context),
            properties: envelope
                .properties
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_vec()))
                .collect(),
            body: body.to_vec(),
        }
    }
}

/// What a layout read in place costs: nothing is checked but that the bytes are there, nothing is
/// moved, and every field is looked at once. Not safe to believe; a floor to compare with.
pub(crate) fn look(frame: &[u8]) -> Option<u64> {
    let body = frame.get(16..)?;
    let envelope_bytes = usize::from(u16::from_le_bytes(*body.get(34..)?.first_chunk()?));
    let envelope = body.get(36..)?.get(..envelope_bytes)?;
    let number = |at: usize| Some(u64::from_le_bytes(*envelope.get(at..)?.first_chunk()?));
    let mut sum = 0_u64;
    for at in [4, 12, 20, 28, 36, 44, 52, 60, 68] {
        sum = sum.wrapping_add(number(at)?);
    }
    let mut rest = envelope.get(83..)?;
    for _ in 0..8 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (field, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        sum = sum.wrapping_add(field.first().copied().map_or(0, u64::from));
        rest = after;
    }
    Some(sum)
}

pub(crate) fn bincode_encode(message: &Message, to: &mut Vec<u8>) {
    bincode::encode_into_std_write(message, to, bincode::config::standard()).expect("it fits");
}

pub(crate) fn bincode_decode(bytes: &[u8]) -> Message {
    let (message, _) =
        bincode::decode_from_slice(bytes, bincode::config::standard()).expect("its own bytes");
    message
}

pub(crate) fn postcard_encode(message: &Message, to: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(message, to).expect("it fits")
}

pub(crate) fn postcard_decode(bytes: &[u8]) -> Message {
    postcard::from_bytes(bytes).expect("its own bytes")
}

pub(crate) fn copy(bytes: &Bytes, to: &mut BytesMut) {
    to.extend_from_slice(bytes);
}

//! The envelope through bincode: the one module that knows it.
//!
//! Rules that keep a general serializer safe on hostile bytes: fixed-width little-endian integers
//! only, so that a value has one form; a byte limit in the configuration; every variable part in
//! a newtype of our own with a 16-bit length and its own limit, borrowed and never allocated; no
//! sequences, maps or strings of bincode's; the input must be consumed to its end.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::de::read::BorrowReader;
use bincode::de::{BorrowDecode, BorrowDecoder, Decode};
use bincode::enc::write::Writer as _;
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use bytes::BytesMut;

use super::view::EnvelopeView;
use super::{ENVELOPE_VERSION, Envelope, by_hand};
use crate::class::{AckWishes, Class, MessageFlags, Priority};
use crate::id::{Incarnation, MessageId, QmId, Salt};
use crate::limits::{
    ADDRESS_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, CORRELATION_BYTES_MAX, ENVELOPE_BYTES_MAX,
    LABEL_BYTES_MAX, PROPERTIES_BYTES_MAX, QUEUE_NAME_BYTES_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::properties::Properties;
use crate::queue_name::{QueueNameView, check_name};
use crate::text::{TextView, check_text};

type Config = Configuration<LittleEndian, Fixint, Limit<ENVELOPE_BYTES_MAX>>;

const CONFIG: Config = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_limit::<ENVELOPE_BYTES_MAX>();

/// The fields in the order in which they travel.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct Layout<'a> {
    version: u8,
    class: u8,
    priority: u8,
    flags: u8,
    source: [u8; 16],
    incarnation: u64,
    sequence: u64,
    salt: [u8; 16],
    sent_at_us: u64,
    time_to_reach_queue_ms: u64,
    time_to_be_received_ms: u64,
    body_bytes: u32,
    ack_wishes: u8,
    report: u16,
    queue: Short<'a, QUEUE_NAME_BYTES_MAX>,
    label: Short<'a, LABEL_BYTES_MAX>,
    correlation_id: Short<'a, CORRELATION_BYTES_MAX>,
    response_queue: Short<'a, ADDRESS_BYTES_MAX>,
    admin_queue: Short<'a, ADDRESS_BYTES_MAX>,
    content_type: Short<'a, CONTENT_TYPE_BYTES_MAX>,
    trace_context: Short<'a, TRACE_CONTEXT_BYTES_MAX>,
    properties: Short<'a, PROPERTIES_BYTES_MAX>,
}

/// Bytes behind a 16-bit length of at most `LIMIT`.
struct Short<'a, const LIMIT: usize>(&'a [u8]);

impl<const LIMIT: usize> Encode for Short<'_, LIMIT> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let over = EncodeError::Other("a field over its limit");
        u16::try_from(self.0.len())
            .map_err(|_over| over)?
            .encode(encoder)?;
        encoder.writer().write(self.0)
    }
}

impl<'a, 'de: 'a, C, const LIMIT: usize> BorrowDecode<'de, C> for Short<'a, LIMIT> {
    #[inline]
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let n = usize::from(u16::decode(decoder)?);
        if n > LIMIT {
            return Err(DecodeError::LimitExceeded);
        }
        decoder.claim_bytes_read(n)?;
        Ok(Self(decoder.borrow_reader().take_bytes(n)?))
    }
}

/// Appends an envelope that was checked.
pub(crate) fn encode(envelope: &Envelope, to: &mut BytesMut) {
    let layout = Layout {
        version: ENVELOPE_VERSION,
        class: envelope.class.code(),
        priority: envelope.priority.get(),
        flags: envelope.flags.bits(),
        source: *envelope.source.as_bytes(),
        incarnation: envelope.id.incarnation.0,
        sequence: envelope.id.sequence,
        salt: envelope.salt.0,
        sent_at_us: envelope.sent_at_us,
        time_to_reach_queue_ms: envelope.time_to_reach_queue_ms,
        time_to_be_received_ms: envelope.time_to_be_received_ms,
        body_bytes: envelope.body_bytes,
        ack_wishes: envelope.ack_wishes.bits(),
        report: envelope.report.map_or(0, |report| report.0),
        queue: Short(envelope.queue.as_bytes()),
        label: Short(envelope.label.as_bytes()),
        correlation_id: Short(&envelope.correlation_id),
        response_queue: Short(envelope.response_queue.as_bytes()),
        admin_queue: Short(envelope.admin_queue.as_bytes()),
        content_type: Short(envelope.content_type.as_bytes()),
        trace_context: Short(envelope.trace_context.as_bytes()),
        properties: Short(envelope.properties.as_encoded()),
    };
    // Into room of the right size: a growing buffer would be asked for room field by field.
    let start = to.len();
    to.resize(start.saturating_add(envelope.encoded_len()), 0);
    let room = to.get_mut(start..).unwrap_or_default();
    bincode::encode_into_slice(layout, room, CONFIG)
        .expect("a checked envelope has no field over its limit, and its length is known");
}

/// Reads an envelope.
///
/// bincode's errors name no field, so the codec by hand says what is wrong. That it refuses
/// whatever [`read`] refuses is what the differential tests prove.
#[inline]
pub(crate) fn view(encoded: &[u8]) -> Result<EnvelopeView<'_>, crate::DecodeError> {
    match read(encoded) {
        Some(view) => Ok(view),
        None => Err(refusal(encoded)),
    }
}

#[cold]
fn refusal(encoded: &[u8]) -> crate::DecodeError {
    let wrong = by_hand::view(encoded).err();
    wrong.unwrap_or(crate::DecodeError::NotCanonical { what: "envelope" })
}

/// Reads an envelope; `None` when any rule is broken.
#[inline]
pub(crate) fn read(encoded: &[u8]) -> Option<EnvelopeView<'_>> {
    let (layout, consumed) =
        bincode::borrow_decode_from_slice::<Layout<'_>, Config>(encoded, CONFIG).ok()?;
    if consumed != encoded.len() || layout.version != ENVELOPE_VERSION {
        return None;
    }
    let text = |bytes, breaks_allowed| {
        check_text(bytes, breaks_allowed, "text").ok()?;
        Some(TextView::trusted(bytes))
    };
    let line = |bytes| text(bytes, false);
    check_name(layout.queue.0).ok()?;
    let view = EnvelopeView {
        source: QmId::from_bytes(layout.source),
        id: MessageId {
            incarnation: Incarnation(layout.incarnation),
            sequence: layout.sequence,
        },
        salt: Salt(layout.salt),
        class: Class::from_code(layout.class).ok()?,
        priority: Priority::new(layout.priority).ok()?,
        flags: MessageFlags::from_bits(layout.flags).ok()?,
        ack_wishes: AckWishes::from_bits(layout.ack_wishes).ok()?,
        report: match layout.report {
            0 => None,
            report => Some(Outcome(report)),
        },
        sent_at_us: layout.sent_at_us,
        time_to_reach_queue_ms: layout.time_to_reach_queue_ms,
        time_to_be_received_ms: layout.time_to_be_received_ms,
        body_bytes: layout.body_bytes,
        queue: QueueNameView::trusted(layout.queue.0),
        label: text(layout.label.0, true)?,
        correlation_id: layout.correlation_id.0,
        response_queue: line(layout.response_queue.0)?,
        admin_queue: line(layout.admin_queue.0)?,
        content_type: line(layout.content_type.0)?,
        trace_context: text(layout.trace_context.0, true)?,
        properties: layout.properties.0,
    };
    Properties::check(view.properties).ok()?;
    view.check().ok()?;
    Some(view)
}

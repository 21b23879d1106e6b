//! The envelope's codec without a serializer: the normative reading of SPEC.md, section 6.

use bytes::Bytes;
#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
use bytes::{BufMut, BytesMut};

use super::{ENVELOPE_VERSION, Envelope};
use crate::class::{AckWishes, Class, MessageFlags, Priority};
#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
use crate::codec::put_short;
use crate::codec::{DecodeError, Reader};
use crate::id::{Incarnation, MessageId, QmId, Salt};
use crate::limits::{
    ADDRESS_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, CORRELATION_BYTES_MAX, ENVELOPE_BYTES_MAX,
    LABEL_BYTES_MAX, PROPERTIES_BYTES_MAX, QUEUE_NAME_BYTES_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::properties::Properties;
use crate::queue_name::QueueName;
use crate::text::Text;

/// Appends an envelope that was checked.
#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
pub(crate) fn encode(envelope: &Envelope, to: &mut BytesMut) {
    to.put_u8(ENVELOPE_VERSION);
    to.put_u8(envelope.class.code());
    to.put_u8(envelope.priority.get());
    to.put_u8(envelope.flags.bits());
    to.put_slice(envelope.source.as_bytes());
    to.put_u64_le(envelope.id.incarnation.0);
    to.put_u64_le(envelope.id.sequence);
    to.put_slice(&envelope.salt.0);
    to.put_u64_le(envelope.sent_at_us);
    to.put_u64_le(envelope.time_to_reach_queue_ms);
    to.put_u64_le(envelope.time_to_be_received_ms);
    to.put_u32_le(envelope.body_bytes);
    to.put_u8(envelope.ack_wishes.bits());
    to.put_u16_le(envelope.report.map_or(0, |report| report.0));
    put_short(to, envelope.queue.as_bytes());
    put_short(to, envelope.label.as_bytes());
    put_short(to, &envelope.correlation_id);
    put_short(to, envelope.response_queue.as_bytes());
    put_short(to, envelope.admin_queue.as_bytes());
    put_short(to, envelope.content_type.as_bytes());
    put_short(to, envelope.trace_context.as_bytes());
    put_short(to, envelope.properties.as_encoded());
}

/// Reads an envelope, reporting the first broken rule in the order of the bytes.
pub(crate) fn decode(encoded: &Bytes) -> Result<Envelope, DecodeError> {
    if encoded.len() > ENVELOPE_BYTES_MAX {
        let (value, limit) = (encoded.len() as u64, ENVELOPE_BYTES_MAX as u64);
        return Err(DecodeError::OverLimit {
            what: "envelope",
            value,
            limit,
        });
    }
    let mut r = Reader::new(encoded);
    let version = r.u8("envelope version")?;
    if version != ENVELOPE_VERSION {
        let value = u64::from(version);
        return Err(DecodeError::Invalid {
            what: "envelope version",
            value,
        });
    }
    let class = Class::from_code(r.u8("delivery class")?)?;
    let priority = Priority::new(r.u8("priority")?)?;
    let flags = MessageFlags::from_bits(r.u8("message flags")?)?;
    let source = QmId::from_bytes(r.array("source")?);
    let id = MessageId {
        incarnation: Incarnation(r.u64("incarnation")?),
        sequence: r.u64("sequence")?,
    };
    let salt = Salt(r.array("salt")?);
    let sent_at_us = r.u64("time sent")?;
    let time_to_reach_queue_ms = r.u64("time to reach queue")?;
    let time_to_be_received_ms = r.u64("time to be received")?;
    let body_bytes = r.u32("body length")?;
    let ack_wishes = AckWishes::from_bits(r.u8("ack wishes")?)?;
    let report = Some(Outcome(r.u16("report")?)).filter(|report| report.0 != 0);
    let queue = QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?;
    let label = Text::from_utf8(r.short(LABEL_BYTES_MAX, "label")?, "label")?;
    let correlation_id = r.short(CORRELATION_BYTES_MAX, "correlation id")?;
    let mut line = |limit, what| Text::line_from_utf8(r.short(limit, what)?, what);
    let response_queue = line(ADDRESS_BYTES_MAX, "response queue")?;
    let admin_queue = line(ADDRESS_BYTES_MAX, "administration queue")?;
    let content_type = line(CONTENT_TYPE_BYTES_MAX, "content type")?;
    let trace_context = r.short(TRACE_CONTEXT_BYTES_MAX, "trace context")?;
    let trace_context = Text::from_utf8(trace_context, "trace context")?;
    let properties = r.short(PROPERTIES_BYTES_MAX, "application properties")?;
    let properties = Properties::from_encoded(properties)?;
    r.finish("envelope")?;
    let envelope = Envelope {
        source,
        id,
        salt,
        class,
        priority,
        flags,
        ack_wishes,
        report,
        sent_at_us,
        time_to_reach_queue_ms,
        time_to_be_received_ms,
        body_bytes,
        queue,
        label,
        correlation_id,
        response_queue,
        admin_queue,
        content_type,
        trace_context,
        properties,
    };
    envelope.check_limits()?;
    Ok(envelope)
}

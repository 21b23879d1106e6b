//! The envelope's codec without a serializer: the normative reading of SPEC.md, section 6.

#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
use bytes::{BufMut, BytesMut};

use super::ENVELOPE_VERSION;
use super::view::EnvelopeView;
#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
use super::{ENVELOPE_HEAD_BYTES, Envelope};
use crate::class::{AckWishes, Class, MessageFlags, Priority};
#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
use crate::codec::put_short;
use crate::codec::{DecodeError, over};
use crate::id::{Incarnation, MessageId, QmId, Salt};
use crate::limits::{
    ADDRESS_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, CORRELATION_BYTES_MAX, ENVELOPE_BYTES_MAX,
    LABEL_BYTES_MAX, PROPERTIES_BYTES_MAX, QUEUE_NAME_BYTES_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::properties::Properties;
use crate::queue_name::{QueueNameView, check_name};
use crate::text::{TextView, check_text};

/// Appends an envelope that was checked.
#[cfg(any(test, not(feature = "bincode"), feature = "__differential"))]
pub(crate) fn encode(envelope: &Envelope, to: &mut BytesMut) {
    to.reserve(envelope.encoded_len());
    // In one piece: each separate write asks for room again.
    let mut head = [0; ENVELOPE_HEAD_BYTES];
    let mut rest = head.as_mut_slice();
    rest.put_u8(ENVELOPE_VERSION);
    rest.put_u8(envelope.class.code());
    rest.put_u8(envelope.priority.get());
    rest.put_u8(envelope.flags.bits());
    rest.put_slice(envelope.source.as_bytes());
    rest.put_u64_le(envelope.id.incarnation.0);
    rest.put_u64_le(envelope.id.sequence);
    rest.put_slice(&envelope.salt.0);
    rest.put_u64_le(envelope.sent_at_us);
    rest.put_u64_le(envelope.time_to_reach_queue_ms);
    rest.put_u64_le(envelope.time_to_be_received_ms);
    rest.put_u32_le(envelope.body_bytes);
    rest.put_u8(envelope.ack_wishes.bits());
    rest.put_u16_le(envelope.report.map_or(0, |report| report.0));
    to.put_slice(&head);
    put_short(to, envelope.queue.as_bytes());
    put_short(to, envelope.label.as_bytes());
    put_short(to, &envelope.correlation_id);
    put_short(to, envelope.response_queue.as_bytes());
    put_short(to, envelope.admin_queue.as_bytes());
    put_short(to, envelope.content_type.as_bytes());
    put_short(to, envelope.trace_context.as_bytes());
    put_short(to, envelope.properties.as_encoded());
}

/// What is left of an envelope.
struct Rest<'a> {
    bytes: &'a [u8],
    /// Bytes of all of it, for the offsets in errors.
    len: usize,
}

impl<'a> Rest<'a> {
    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(self.truncated(what, N));
        };
        self.bytes = rest;
        Ok(*head)
    }

    #[inline]
    fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    #[inline]
    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array(what).map(u8::from_le_bytes)
    }

    /// Bytes behind a 16-bit length.
    #[inline]
    fn short(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let n = usize::from(u16::from_le_bytes(self.array(what)?));
        over(what, n, limit)?;
        let Some((head, rest)) = self.bytes.split_at_checked(n) else {
            return Err(self.truncated(what, n));
        };
        self.bytes = rest;
        Ok(head)
    }

    #[inline]
    fn text(
        &mut self,
        limit: usize,
        breaks_allowed: bool,
        what: &'static str,
    ) -> Result<TextView<'a>, DecodeError> {
        let bytes = self.short(limit, what)?;
        check_text(bytes, breaks_allowed, what)?;
        Ok(TextView::trusted(bytes))
    }

    fn queue(&mut self) -> Result<QueueNameView<'a>, DecodeError> {
        let bytes = self.short(QUEUE_NAME_BYTES_MAX, "queue name")?;
        check_name(bytes)?;
        Ok(QueueNameView::trusted(bytes))
    }

    #[cold]
    fn truncated(&self, what: &'static str, needed: usize) -> DecodeError {
        DecodeError::Truncated {
            what,
            offset: self.len.saturating_sub(self.bytes.len()),
            needed,
            had: self.bytes.len(),
        }
    }
}

/// Reads an envelope, reporting the first broken rule in the order of the bytes.
pub(crate) fn view(encoded: &[u8]) -> Result<EnvelopeView<'_>, DecodeError> {
    over("envelope", encoded.len(), ENVELOPE_BYTES_MAX)?;
    let len = encoded.len();
    let mut r = Rest {
        bytes: encoded,
        len,
    };
    let version = r.u8("envelope version")?;
    if version != ENVELOPE_VERSION {
        return Err(DecodeError::Invalid {
            what: "envelope version",
            value: u64::from(version),
        });
    }
    let envelope = EnvelopeView {
        class: Class::from_code(r.u8("delivery class")?)?,
        priority: Priority::new(r.u8("priority")?)?,
        flags: MessageFlags::from_bits(r.u8("message flags")?)?,
        source: QmId::from_bytes(r.array("source")?),
        id: MessageId {
            incarnation: Incarnation(r.u64("incarnation")?),
            sequence: r.u64("sequence")?,
        },
        salt: Salt(r.array("salt")?),
        sent_at_us: r.u64("time sent")?,
        time_to_reach_queue_ms: r.u64("time to reach queue")?,
        time_to_be_received_ms: r.u64("time to be received")?,
        body_bytes: u32::from_le_bytes(r.array("body length")?),
        ack_wishes: AckWishes::from_bits(r.u8("ack wishes")?)?,
        report: match u16::from_le_bytes(r.array("report")?) {
            0 => None,
            report => Some(Outcome(report)),
        },
        queue: r.queue()?,
        label: r.text(LABEL_BYTES_MAX, true, "label")?,
        correlation_id: r.short(CORRELATION_BYTES_MAX, "correlation id")?,
        response_queue: r.text(ADDRESS_BYTES_MAX, false, "response queue")?,
        admin_queue: r.text(ADDRESS_BYTES_MAX, false, "administration queue")?,
        content_type: r.text(CONTENT_TYPE_BYTES_MAX, false, "content type")?,
        trace_context: r.text(TRACE_CONTEXT_BYTES_MAX, true, "trace context")?,
        properties: r.short(PROPERTIES_BYTES_MAX, "application properties")?,
    };
    Properties::check(envelope.properties)?;
    match r.bytes.len() {
        0 => envelope.check().map(|()| envelope),
        extra => Err(DecodeError::Trailing {
            what: "envelope",
            extra,
        }),
    }
}

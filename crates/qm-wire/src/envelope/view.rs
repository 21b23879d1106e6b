//! An envelope where it lies: every rule checked, nothing copied and no share counted.

use bytes::Bytes;

use super::Envelope;
use crate::class::{AckWishes, Class, MessageFlags, Priority};
use crate::codec::{DecodeError, over};
use crate::id::{MessageId, QmId, Salt};
use crate::limits::{BODY_BYTES_MAX, LABEL_CHARS_MAX};
use crate::outcome::Outcome;
use crate::properties::{self, Properties};
use crate::queue_name::{QueueName, QueueNameView};
use crate::text::{Text, TextView};

/// The fields of an [`Envelope`], borrowed from its encoding; see there for what they mean.
///
/// ```
/// # use bytes::BytesMut;
/// # use qm_wire::*;
/// # let id = MessageId { incarnation: Incarnation(1), sequence: 1 };
/// # let queue = "orders".parse().unwrap();
/// # let envelope =
/// #     Envelope::new(QmId::from_bytes([1; 16]), id, Salt([2; 16]), Class::Express, queue);
/// # let mut encoded = BytesMut::new();
/// # envelope.encode(&mut encoded).unwrap();
/// let view = Envelope::view(&encoded).unwrap();
/// assert_eq!(view.queue, "orders");
/// assert_eq!(view.properties().count(), 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "each means what the field of the envelope means"
)]
pub struct EnvelopeView<'a> {
    pub source: QmId,
    pub id: MessageId,
    pub salt: Salt,
    pub class: Class,
    pub priority: Priority,
    pub flags: MessageFlags,
    pub ack_wishes: AckWishes,
    pub report: Option<Outcome>,
    pub sent_at_us: u64,
    pub time_to_reach_queue_ms: u64,
    pub time_to_be_received_ms: u64,
    pub body_bytes: u32,
    pub queue: QueueNameView<'a>,
    pub label: TextView<'a>,
    pub correlation_id: &'a [u8],
    pub response_queue: TextView<'a>,
    pub admin_queue: TextView<'a>,
    pub content_type: TextView<'a>,
    pub trace_context: TextView<'a>,
    pub(super) properties: &'a [u8],
}

impl<'a> EnvelopeView<'a> {
    /// Names and values of the application properties.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        properties::iterate(self.properties)
    }

    /// The rules between fields, and those that a field's own length does not tell.
    #[inline]
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        over("body", self.body_bytes as usize, BODY_BYTES_MAX as usize)?;
        // Only a label of more bytes can have too many characters.
        if self.label.as_bytes().len() > LABEL_CHARS_MAX {
            over(
                "label",
                self.label.as_str().chars().count(),
                LABEL_CHARS_MAX,
            )?;
        }
        check_class(self.class, self.priority)?;
        let asks = self.ack_wishes != AckWishes::NONE
            || self.flags != MessageFlags::NONE
            || !self.admin_queue.is_empty();
        check_report(self.report, asks)
    }

    /// The same with fields that share `encoded`, from which this was read.
    #[inline]
    pub(crate) fn shared(&self, encoded: &Bytes) -> Envelope {
        let slice = |bytes: &[u8]| {
            if bytes.is_empty() {
                Bytes::new()
            } else {
                encoded.slice_ref(bytes)
            }
        };
        let text = |text: TextView<'_>| Text::trusted(slice(text.as_bytes()));
        Envelope {
            source: self.source,
            id: self.id,
            salt: self.salt,
            class: self.class,
            priority: self.priority,
            flags: self.flags,
            ack_wishes: self.ack_wishes,
            report: self.report,
            sent_at_us: self.sent_at_us,
            time_to_reach_queue_ms: self.time_to_reach_queue_ms,
            time_to_be_received_ms: self.time_to_be_received_ms,
            body_bytes: self.body_bytes,
            queue: QueueName::trusted(slice(self.queue.as_bytes())),
            label: text(self.label),
            correlation_id: slice(self.correlation_id),
            response_queue: text(self.response_queue),
            admin_queue: text(self.admin_queue),
            content_type: text(self.content_type),
            trace_context: text(self.trace_context),
            properties: Properties::trusted(slice(self.properties)),
        }
    }
}

/// W-ENV-4.
pub(super) fn check_class(class: Class, priority: Priority) -> Result<(), DecodeError> {
    if class == Class::Transactional && priority != Priority::LOWEST {
        return Err(DecodeError::Invalid {
            what: "priority of a transactional message",
            value: u64::from(priority.get()),
        });
    }
    Ok(())
}

/// W-ENV-5: what reports asks for nothing itself, or reports would report each other.
pub(super) fn check_report(report: Option<Outcome>, asks: bool) -> Result<(), DecodeError> {
    match report {
        Some(report) if asks || report.0 == 0 => Err(DecodeError::Invalid {
            what: "administration message that asks for something",
            value: u64::from(report.0),
        }),
        _ => Ok(()),
    }
}

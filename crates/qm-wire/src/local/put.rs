//! The put: a message handed to the node.

use bytes::{BufMut, Bytes, BytesMut};

use super::request::check_transaction;
use crate::codec::{DecodeError, Reader, over, put_short};
use crate::envelope::{AckWishes, Class, MessageFlags, Priority};
use crate::frame::{Cut, FrameKind, put_frame};
use crate::limits::{
    ADDRESS_BYTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, CORRELATION_BYTES_MAX,
    FRAME_HEADER_BYTES, IDEMPOTENCY_KEY_BYTES_MAX, LABEL_BYTES_MAX, LABEL_CHARS_MAX,
    PROPERTIES_BYTES_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::properties::Properties;
use crate::text::Text;

/// How far the node reports what becomes of an accepted message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Follow {
    /// Not at all beyond accepted.
    #[default]
    None,
    /// Until the destination node has it to its class, or why it never will.
    Delivered,
    /// Until an application has received it, or why none will.
    Received,
}

/// The application's own name of a message, so that it may send the message again after it lost
/// the answer and its client's memory: the node accepts one message per key within its window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Chosen by the application, 1 to 128 bytes.
    pub key: Bytes,
    /// Position in a series that shares the key, such as a line number.
    pub number: Option<u64>,
}

/// Accept this message. The body travels last and outside the frame's checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Number of this put of this client, from 1 and rising; one that was skipped is never used
    /// later.
    pub sequence: u64,
    /// Where to: see [`Destination`](crate::Destination).
    pub destination: Text,
    /// Delivery class.
    pub class: Class,
    /// Priority; 0 for transactional messages.
    pub priority: Priority,
    /// Dead-letter, journal and other wishes.
    pub flags: MessageFlags,
    /// Administration messages wanted.
    pub ack_wishes: AckWishes,
    /// What to report.
    pub follow: Follow,
    /// Time to reach the queue, milliseconds or [`INFINITE_MS`](crate::INFINITE_MS); `None` is the
    /// node's default.
    pub time_to_reach_queue_ms: Option<u64>,
    /// Time to be received, milliseconds or [`INFINITE_MS`](crate::INFINITE_MS); `None` is the
    /// node's default.
    pub time_to_be_received_ms: Option<u64>,
    /// The application's own name of the message.
    pub idempotency: Option<IdempotencyKey>,
    /// The transaction it belongs to, from 1 (W-LOC-7, W-LOC-8).
    pub transaction: Option<u64>,
    /// What the application calls it.
    pub label: Text,
    /// What it answers.
    pub correlation_id: Bytes,
    /// Where answers should go.
    pub response_queue: Text,
    /// Where administration messages should go.
    pub admin_queue: Text,
    /// Media type of the body.
    pub content_type: Text,
    /// W3C trace context: `traceparent`, then optionally a line feed and `tracestate`.
    pub trace_context: Text,
    /// Application properties.
    pub properties: Properties,
    /// The body.
    pub body: Bytes,
}

/// Header flags of a put: which optional fields are there.
const FLAG_REACH_QUEUE: u16 = 1;
const FLAG_BE_RECEIVED: u16 = 2;
const FLAG_IDEMPOTENCY: u16 = 4;
const FLAG_IDEMPOTENCY_NUMBER: u16 = 8;
const FLAG_TRANSACTION: u16 = 16;
const PUT_FLAGS: u16 = FLAG_REACH_QUEUE
    | FLAG_BE_RECEIVED
    | FLAG_IDEMPOTENCY
    | FLAG_IDEMPOTENCY_NUMBER
    | FLAG_TRANSACTION;

impl Follow {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Delivered => 1,
            Self::Received => 2,
        }
    }

    const fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Delivered),
            2 => Ok(Self::Received),
            _ => Err(DecodeError::Invalid {
                what: "follow wish",
                value: code as u64,
            }),
        }
    }
}

impl Put {
    /// A recoverable message with default properties.
    #[must_use]
    pub fn new(sequence: u64, destination: impl Into<Text>, body: Bytes) -> Self {
        Self {
            sequence,
            destination: destination.into(),
            class: Class::Recoverable,
            priority: Priority::DEFAULT,
            flags: MessageFlags::DEAD_LETTER,
            ack_wishes: AckWishes::NONE,
            follow: Follow::None,
            time_to_reach_queue_ms: None,
            time_to_be_received_ms: None,
            idempotency: None,
            transaction: None,
            label: Text::EMPTY,
            correlation_id: Bytes::new(),
            response_queue: Text::EMPTY,
            admin_queue: Text::EMPTY,
            content_type: Text::EMPTY,
            trace_context: Text::EMPTY,
            properties: Properties::EMPTY,
            body,
        }
    }

    /// Checks every rule that a field's type does not already keep.
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.destination.check_line("destination")?;
        self.label.check("label")?;
        self.response_queue.check_line("response queue")?;
        self.admin_queue.check_line("administration queue")?;
        self.content_type.check_line("content type")?;
        self.trace_context.check("trace context")?;
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), DecodeError> {
        if self.sequence == 0 {
            return Err(DecodeError::Invalid {
                what: "client sequence",
                value: 0,
            });
        }
        let destination = self.destination.as_bytes().len();
        over("destination", destination, ADDRESS_BYTES_MAX)?;
        if destination == 0 {
            return Err(DecodeError::Invalid {
                what: "destination",
                value: 0,
            });
        }
        check_transaction(self.transaction)?;
        if let Some(idempotency) = &self.idempotency {
            let bytes = idempotency.key.len();
            over("idempotency key", bytes, IDEMPOTENCY_KEY_BYTES_MAX)?;
            if bytes == 0 {
                return Err(DecodeError::Invalid {
                    what: "idempotency key",
                    value: 0,
                });
            }
        }
        for (what, text, limit) in self.texts() {
            over(what, text.as_bytes().len(), limit)?;
        }
        over("label", self.label.chars().count(), LABEL_CHARS_MAX)?;
        over(
            "correlation id",
            self.correlation_id.len(),
            CORRELATION_BYTES_MAX,
        )?;
        over("body", self.body.len(), BODY_BYTES_MAX as usize)?;
        if self.class == Class::Transactional && self.priority != Priority::LOWEST {
            let value = u64::from(self.priority.get());
            return Err(DecodeError::Invalid {
                what: "priority of a transactional message",
                value,
            });
        }
        Ok(())
    }

    fn texts(&self) -> [(&'static str, &Text, usize); 5] {
        [
            ("label", &self.label, LABEL_BYTES_MAX),
            ("response queue", &self.response_queue, ADDRESS_BYTES_MAX),
            ("administration queue", &self.admin_queue, ADDRESS_BYTES_MAX),
            ("content type", &self.content_type, CONTENT_TYPE_BYTES_MAX),
            (
                "trace context",
                &self.trace_context,
                TRACE_CONTEXT_BYTES_MAX,
            ),
        ]
    }

    /// Bytes of the whole frame: what counts against
    /// [`NodeHello::window_bytes`](super::NodeHello::window_bytes).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        const FIXED: usize = FRAME_HEADER_BYTES + 8 + 5 + 2 * 8;
        let times = [self.time_to_reach_queue_ms, self.time_to_be_received_ms];
        let numbers = times.iter().chain([&self.transaction]);
        let numbers = numbers.flatten().count().saturating_mul(8);
        let idempotency = self.idempotency.as_ref().map_or(0, |idempotency| {
            let number = if idempotency.number.is_some() { 8 } else { 0 };
            idempotency
                .key
                .len()
                .saturating_add(2)
                .saturating_add(number)
        });
        let texts = self.texts().iter().fold(0_usize, |sum, (_, text, _)| {
            sum.saturating_add(text.as_bytes().len())
        });
        [
            numbers,
            idempotency,
            texts,
            self.destination.as_bytes().len(),
            self.correlation_id.len(),
            self.properties.as_encoded().len(),
            self.body.len(),
        ]
        .iter()
        .fold(FIXED, |sum, n| sum.saturating_add(*n))
    }

    /// Appends the frame. One that [`Put::check`] refuses is refused by the node as well, and
    /// costs the connection.
    pub fn encode(&self, to: &mut BytesMut) {
        let mut flags = 0;
        if self.time_to_reach_queue_ms.is_some() {
            flags |= FLAG_REACH_QUEUE;
        }
        if self.time_to_be_received_ms.is_some() {
            flags |= FLAG_BE_RECEIVED;
        }
        if let Some(idempotency) = &self.idempotency {
            flags |= FLAG_IDEMPOTENCY;
            if idempotency.number.is_some() {
                flags |= FLAG_IDEMPOTENCY_NUMBER;
            }
        }
        if self.transaction.is_some() {
            flags |= FLAG_TRANSACTION;
        }
        put_frame(to, FrameKind::Put, flags, &self.body, |to| self.write(to));
    }

    fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.sequence);
        to.put_u8(self.class.code());
        to.put_u8(self.priority.get());
        to.put_u8(self.flags.bits());
        to.put_u8(self.ack_wishes.bits());
        to.put_u8(self.follow.code());
        for value in [self.time_to_reach_queue_ms, self.time_to_be_received_ms]
            .into_iter()
            .flatten()
        {
            to.put_u64_le(value);
        }
        if let Some(idempotency) = &self.idempotency {
            if let Some(number) = idempotency.number {
                to.put_u64_le(number);
            }
            put_short(to, &idempotency.key);
        }
        if let Some(transaction) = self.transaction {
            to.put_u64_le(transaction);
        }
        put_short(to, self.destination.as_bytes());
        put_short(to, self.label.as_bytes());
        put_short(to, &self.correlation_id);
        put_short(to, self.response_queue.as_bytes());
        put_short(to, self.admin_queue.as_bytes());
        put_short(to, self.content_type.as_bytes());
        put_short(to, self.trace_context.as_bytes());
        put_short(to, self.properties.as_encoded());
    }

    pub(super) fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        raw.check_flags(PUT_FLAGS)?;
        let has = |flag: u16| raw.flags & flag != 0;
        if has(FLAG_IDEMPOTENCY_NUMBER) && !has(FLAG_IDEMPOTENCY) {
            return Err(DecodeError::Invalid {
                what: "frame flags",
                value: u64::from(raw.flags),
            });
        }
        let mut r = raw.reader();
        let r = &mut r;
        let optional = |r: &mut Reader<'_>, flag, what| {
            if has(flag) {
                r.u64(what).map(Some)
            } else {
                Ok(None)
            }
        };
        let sequence = r.u64("client sequence")?;
        let class = Class::from_code(r.u8("delivery class")?)?;
        let priority = Priority::new(r.u8("priority")?)?;
        let flags = MessageFlags::from_bits(r.u8("message flags")?)?;
        let ack_wishes = AckWishes::from_bits(r.u8("ack wishes")?)?;
        let follow = Follow::from_code(r.u8("follow wish")?)?;
        let time_to_reach_queue_ms = optional(r, FLAG_REACH_QUEUE, "time to reach queue")?;
        let time_to_be_received_ms = optional(r, FLAG_BE_RECEIVED, "time to be received")?;
        let number = optional(r, FLAG_IDEMPOTENCY_NUMBER, "idempotency number")?;
        let idempotency = if has(FLAG_IDEMPOTENCY) {
            let key = r.short(IDEMPOTENCY_KEY_BYTES_MAX, "idempotency key")?;
            Some(IdempotencyKey { key, number })
        } else {
            None
        };
        let transaction = optional(r, FLAG_TRANSACTION, "transaction")?;
        let destination = r.line(ADDRESS_BYTES_MAX, "destination")?;
        let label = Text::from_utf8(r.short(LABEL_BYTES_MAX, "label")?, "label")?;
        let correlation_id = r.short(CORRELATION_BYTES_MAX, "correlation id")?;
        let response_queue = r.line(ADDRESS_BYTES_MAX, "response queue")?;
        let admin_queue = r.line(ADDRESS_BYTES_MAX, "administration queue")?;
        let content_type = r.line(CONTENT_TYPE_BYTES_MAX, "content type")?;
        let trace_context = r.short(TRACE_CONTEXT_BYTES_MAX, "trace context")?;
        let trace_context = Text::from_utf8(trace_context, "trace context")?;
        let properties = r.short(PROPERTIES_BYTES_MAX, "application properties")?;
        raw.verify(r.offset())?;
        let put = Self {
            sequence,
            destination,
            class,
            priority,
            flags,
            ack_wishes,
            follow,
            time_to_reach_queue_ms,
            time_to_be_received_ms,
            idempotency,
            transaction,
            label,
            correlation_id,
            response_queue,
            admin_queue,
            content_type,
            trace_context,
            properties: Properties::from_encoded(properties)?,
            body: r.rest(),
        };
        put.check_limits()?;
        Ok(put)
    }
}

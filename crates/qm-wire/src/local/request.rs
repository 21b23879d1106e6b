//! What an application says to its node.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_count, put_line, put_short};
use crate::envelope::{AckWishes, Class, INFINITE_MS, MessageFlags, Priority};
use crate::frame::{FrameKind, RawFrame, put_frame};
use crate::id::ClientId;
use crate::limits::{
    ACK_RANGES_MAX, ADDRESS_BYTES_MAX, ADMIN_BYTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX,
    CORRELATION_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, LABEL_BYTES_MAX, LABEL_CHARS_MAX,
    NAME_BYTES_MAX, PROPERTIES_BYTES_MAX, QUEUE_NAME_BYTES_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::properties::Properties;
use crate::queue_name::QueueName;
use crate::text::Text;

/// First frame of an application on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Version of the local protocol it speaks.
    pub protocol: u16,
    /// Who it is; the same on every connection of one client, so that repeats are recognised.
    pub client: ClientId,
    /// Name of the program, for operators; cut at
    /// [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX) bytes.
    pub program: Text,
}

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
    /// Number of this put of this client, from 1.
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
    /// Time to reach the queue, milliseconds or [`INFINITE_MS`]; `None` is the node's default.
    pub time_to_reach_queue_ms: Option<u64>,
    /// Time to be received, milliseconds or [`INFINITE_MS`]; `None` is the node's default.
    pub time_to_be_received_ms: Option<u64>,
    /// The application's own name of the message.
    pub idempotency: Option<IdempotencyKey>,
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

/// Whether a receive request takes messages or only looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReceiveMode {
    /// Lease them to this connection until they are settled.
    #[default]
    Take,
    /// Show them; nothing changes and nothing is to be settled.
    Peek,
}

/// Hand me messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Number of the request.
    pub request: u64,
    /// The queue on this node.
    pub queue: QueueName,
    /// Take or look.
    pub mode: ReceiveMode,
    /// Most messages to deliver, at least 1.
    pub messages_max: u32,
    /// Most bytes of envelopes and bodies to deliver; the first message comes whatever its size.
    pub bytes_max: u32,
    /// How long to wait for the first message, milliseconds or [`INFINITE_MS`].
    pub wait_ms: u64,
    /// Only messages behind this lookup id: the next page of a peek.
    pub after: Option<u64>,
    /// Only the message with this lookup id.
    pub lookup: Option<u64>,
    /// Only messages with this correlation id; empty for any.
    pub correlation_id: Bytes,
}

/// What shall become of delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// They are dealt with: remove them.
    Consume,
    /// Put them back in their place; their abort count rises.
    GiveBack,
    /// They cannot be dealt with: end them as rejected by the receiver.
    Reject,
}

/// Deliveries of this connection are consumed, given back or rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Number of the request.
    pub request: u64,
    /// The queue they came from.
    pub queue: QueueName,
    /// What shall become of them.
    pub verdict: Verdict,
    /// First and last lookup id of each range, ascending, not touching, at least one range. Ids
    /// in a range that are not leased to this connection are left alone.
    pub ranges: Vec<(u64, u64)>,
}

/// An administrative request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Number of the request.
    pub request: u64,
    /// What is asked, in JSON.
    pub json: Bytes,
}

/// Header flags of a put: which optional fields are there.
const FLAG_REACH_QUEUE: u16 = 1;
const FLAG_BE_RECEIVED: u16 = 2;
const FLAG_IDEMPOTENCY: u16 = 4;
const FLAG_IDEMPOTENCY_NUMBER: u16 = 8;
const PUT_FLAGS: u16 =
    FLAG_REACH_QUEUE | FLAG_BE_RECEIVED | FLAG_IDEMPOTENCY | FLAG_IDEMPOTENCY_NUMBER;

pub(super) fn over(what: &'static str, value: usize, limit: usize) -> Result<(), DecodeError> {
    if value > limit {
        let (value, limit) = (value as u64, limit as u64);
        return Err(DecodeError::OverLimit { what, value, limit });
    }
    Ok(())
}

pub(super) fn read_text(
    r: &mut Reader<'_>,
    limit: usize,
    what: &'static str,
) -> Result<Text, DecodeError> {
    Text::from_utf8(r.short(limit, what)?, what)
}

pub(super) fn read_line(
    r: &mut Reader<'_>,
    limit: usize,
    what: &'static str,
) -> Result<Text, DecodeError> {
    Text::line_from_utf8(r.short(limit, what)?, what)
}

/// A value behind a byte that says whether it is there.
fn put_optional(to: &mut BytesMut, value: Option<u64>) {
    to.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        to.put_u64_le(value);
    }
}

fn read_optional(r: &mut Reader<'_>, what: &'static str) -> Result<Option<u64>, DecodeError> {
    match r.u8(what)? {
        0 => Ok(None),
        1 => Ok(Some(r.u64(what)?)),
        other => Err(DecodeError::Invalid {
            what,
            value: u64::from(other),
        }),
    }
}

impl ClientHello {
    pub(super) fn write(&self, to: &mut BytesMut) {
        to.put_u16_le(self.protocol);
        to.put_slice(&self.client.0);
        put_line(to, &self.program, NAME_BYTES_MAX);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol: r.u16("protocol version")?,
            client: ClientId(r.array("client id")?),
            program: read_line(r, NAME_BYTES_MAX, "program name")?,
        })
    }
}

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

    /// Checks every limit that a field's type does not already keep.
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
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
        put_short(to, self.destination.as_bytes());
        put_short(to, self.label.as_bytes());
        put_short(to, &self.correlation_id);
        put_short(to, self.response_queue.as_bytes());
        put_short(to, self.admin_queue.as_bytes());
        put_short(to, self.content_type.as_bytes());
        put_short(to, self.trace_context.as_bytes());
        put_short(to, self.properties.as_encoded());
    }

    pub(super) fn read(raw: &RawFrame) -> Result<Self, DecodeError> {
        raw.check_flags(PUT_FLAGS)?;
        let has = |flag: u16| raw.flags & flag != 0;
        if has(FLAG_IDEMPOTENCY_NUMBER) && !has(FLAG_IDEMPOTENCY) {
            return Err(DecodeError::Invalid {
                what: "frame flags",
                value: u64::from(raw.flags),
            });
        }
        let mut r = Reader::new(&raw.body);
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
        let destination = read_text(r, ADDRESS_BYTES_MAX, "destination")?;
        let label = read_text(r, LABEL_BYTES_MAX, "label")?;
        let correlation_id = r.short(CORRELATION_BYTES_MAX, "correlation id")?;
        let response_queue = read_text(r, ADDRESS_BYTES_MAX, "response queue")?;
        let admin_queue = read_text(r, ADDRESS_BYTES_MAX, "administration queue")?;
        let content_type = read_text(r, CONTENT_TYPE_BYTES_MAX, "content type")?;
        let trace_context = read_text(r, TRACE_CONTEXT_BYTES_MAX, "trace context")?;
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
            label,
            correlation_id,
            response_queue,
            admin_queue,
            content_type,
            trace_context,
            properties: Properties::from_encoded(properties)?,
            body: r.rest(),
        };
        put.check()?;
        Ok(put)
    }
}

impl Receive {
    /// Take one message of `queue`, waiting for it without limit.
    #[must_use]
    pub const fn new(request: u64, queue: QueueName) -> Self {
        Self {
            request,
            queue,
            mode: ReceiveMode::Take,
            messages_max: 1,
            bytes_max: u32::MAX,
            wait_ms: INFINITE_MS,
            after: None,
            lookup: None,
            correlation_id: Bytes::new(),
        }
    }

    /// Checks every limit that a field's type does not already keep.
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.messages_max == 0 {
            return Err(DecodeError::Invalid {
                what: "most messages",
                value: 0,
            });
        }
        over(
            "correlation id",
            self.correlation_id.len(),
            CORRELATION_BYTES_MAX,
        )
    }

    pub(super) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_u8(match self.mode {
            ReceiveMode::Take => 0,
            ReceiveMode::Peek => 1,
        });
        to.put_u32_le(self.messages_max);
        to.put_u32_le(self.bytes_max);
        to.put_u64_le(self.wait_ms);
        put_optional(to, self.after);
        put_optional(to, self.lookup);
        put_short(to, self.queue.as_bytes());
        put_short(to, &self.correlation_id);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let request = r.u64("request number")?;
        let mode = match r.u8("receive mode")? {
            0 => ReceiveMode::Take,
            1 => ReceiveMode::Peek,
            other => {
                let value = u64::from(other);
                return Err(DecodeError::Invalid {
                    what: "receive mode",
                    value,
                });
            }
        };
        let receive = Self {
            request,
            mode,
            messages_max: r.u32("most messages")?,
            bytes_max: r.u32("most bytes")?,
            wait_ms: r.u64("time to wait")?,
            after: read_optional(r, "lookup id to start after")?,
            lookup: read_optional(r, "lookup id")?,
            queue: QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?,
            correlation_id: r.short(CORRELATION_BYTES_MAX, "correlation id")?,
        };
        receive.check()?;
        Ok(receive)
    }
}

impl Settle {
    /// Checks the rules of [`Settle::ranges`].
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        const WHAT: &str = "settled range";
        over("settled ranges", self.ranges.len(), ACK_RANGES_MAX)?;
        let mut end: Option<u64> = None;
        for (first, last) in &self.ranges {
            if first > last {
                let value = *first;
                return Err(DecodeError::Invalid { what: WHAT, value });
            }
            // Touching ranges have a shorter form, so they are not canonical.
            if end.is_some_and(|end| *first <= end.saturating_add(1)) {
                return Err(DecodeError::NotCanonical { what: WHAT });
            }
            end = Some(*last);
        }
        if end.is_none() {
            return Err(DecodeError::Invalid {
                what: "number of settled ranges",
                value: 0,
            });
        }
        Ok(())
    }

    pub(super) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_u8(match self.verdict {
            Verdict::Consume => 0,
            Verdict::GiveBack => 1,
            Verdict::Reject => 2,
        });
        put_short(to, self.queue.as_bytes());
        put_count(to, self.ranges.len());
        for (first, last) in &self.ranges {
            to.put_u64_le(*first);
            to.put_u64_le(*last);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let request = r.u64("request number")?;
        let verdict = match r.u8("verdict")? {
            0 => Verdict::Consume,
            1 => Verdict::GiveBack,
            2 => Verdict::Reject,
            other => {
                let value = u64::from(other);
                return Err(DecodeError::Invalid {
                    what: "verdict",
                    value,
                });
            }
        };
        let queue = QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?;
        let n = r.count(ACK_RANGES_MAX, 16, "settled ranges")?;
        let mut ranges = Vec::with_capacity(n);
        for _ in 0..n {
            ranges.push((r.u64("settled range")?, r.u64("settled range")?));
        }
        let settle = Self {
            request,
            queue,
            verdict,
            ranges,
        };
        settle.check()?;
        Ok(settle)
    }
}

impl Admin {
    /// Checks the length of the JSON.
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        over("administrative request", self.json.len(), ADMIN_BYTES_MAX)
    }

    pub(super) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_slice(&self.json);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let admin = Self {
            request: r.u64("request number")?,
            json: r.rest(),
        };
        admin.check()?;
        Ok(admin)
    }
}

//! The immutable part of a message: encoded once when the send is accepted, stored and resent
//! byte for byte, covered by the tag.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_short};
use crate::id::{Incarnation, MessageId, QmId, Salt, Tag};
use crate::limits::{
    ADDRESS_BYTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, CORRELATION_BYTES_MAX,
    ENVELOPE_BYTES_MAX, LABEL_BYTES_MAX, LABEL_CHARS_MAX, PROPERTIES_BYTES_MAX,
    QUEUE_NAME_BYTES_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::properties::Properties;
use crate::queue_name::QueueName;
use crate::text::Text;

/// Layout version of the envelope; a change of layout is a change of protocol version.
pub(crate) const ENVELOPE_VERSION: u8 = 1;

/// A duration of `u64::MAX` milliseconds: no limit.
pub const INFINITE_MS: u64 = u64::MAX;

/// Delivery class: what *accepted* and *delivered* promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// In memory at both ends: survives a lost link, not a crash of the node that holds it.
    Express,
    /// On disk at both ends before it is accepted and before it is acknowledged.
    Recoverable,
    /// Recoverable, exactly once and in order per sender and destination queue.
    Transactional,
}

impl Class {
    /// The byte that travels.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Express => 0,
            Self::Recoverable => 1,
            Self::Transactional => 2,
        }
    }

    /// The class of a byte.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for any other byte.
    pub const fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Express),
            1 => Ok(Self::Recoverable),
            2 => Ok(Self::Transactional),
            _ => Err(DecodeError::Invalid {
                what: "delivery class",
                value: code as u64,
            }),
        }
    }

    /// The word used in commands and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Express => "express",
            Self::Recoverable => "recoverable",
            Self::Transactional => "transactional",
        }
    }

    /// Whether an ack may leave only after the message is on disk.
    #[must_use]
    pub const fn is_durable(self) -> bool {
        !matches!(self, Self::Express)
    }
}

/// Priority 0 (lowest) to 7; 3 unless said otherwise, 0 for transactional messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The default, 3.
    pub const DEFAULT: Self = Self(3);
    /// The lowest, 0: also what transactional messages carry.
    pub const LOWEST: Self = Self(0);
    /// How many there are.
    pub const COUNT: usize = 8;

    /// A priority from 0 to 7.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] above 7.
    pub const fn new(priority: u8) -> Result<Self, DecodeError> {
        if priority < 8 {
            Ok(Self(priority))
        } else {
            Err(DecodeError::Invalid {
                what: "priority",
                value: priority as u64,
            })
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

macro_rules! bit_set {
    ($(#[$meta:meta])* $name:ident, $what:literal, { $($(#[$doc:meta])* $flag:ident = $bit:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(u8);

        impl $name {
            /// No bit set.
            pub const NONE: Self = Self(0);
            $($(#[$doc])* pub const $flag: Self = Self($bit);)*
            const KNOWN: u8 = 0 $(| $bit)*;

            /// The set with these bits.
            ///
            /// # Errors
            /// [`DecodeError::Invalid`] when a bit is not defined.
            pub const fn from_bits(bits: u8) -> Result<Self, DecodeError> {
                if bits & !Self::KNOWN == 0 {
                    Ok(Self(bits))
                } else {
                    Err(DecodeError::Invalid { what: $what, value: bits as u64 })
                }
            }

            /// The byte that travels.
            #[must_use]
            pub const fn bits(self) -> u8 {
                self.0
            }

            /// Whether every bit of `other` is set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Both sets together.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}
pub(crate) use bit_set;

bit_set! {
    /// Wishes of the sender that concern its own node and the destination's.
    MessageFlags, "message flags", {
        /// Keep an undeliverable message in the dead-letter queue (the default).
        DEAD_LETTER = 1,
        /// Keep a copy in the sender's journal queue.
        JOURNAL = 2,
        /// Be rejected by a full queue instead of waiting.
        FAIL_WHEN_FULL = 4,
    }
}

bit_set! {
    /// Which administration messages the sender wants, with MSMQ's values
    /// (MS-MQMQ, `PROPID_M_ACKNOWLEDGE`).
    AckWishes, "ack wishes", {
        /// The message reached its queue.
        POSITIVE_ARRIVAL = 1,
        /// An application received it.
        POSITIVE_RECEIVE = 2,
        /// It did not reach its queue.
        NEGATIVE_ARRIVAL = 4,
        /// It was not received.
        NEGATIVE_RECEIVE = 8,
    }
}

/// The immutable part of a message.
///
/// Optional texts are absent when empty. Build it with [`Envelope::new`], which fills the
/// defaults; [`Envelope::encode`] refuses nothing that [`Envelope::check`] accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The queue manager that accepted the message.
    pub source: QmId,
    /// Its id there.
    pub id: MessageId,
    /// Randomness of the batch in which it was accepted.
    pub salt: Salt,
    /// Delivery class.
    pub class: Class,
    /// Priority; 0 for transactional messages.
    pub priority: Priority,
    /// Dead-letter, journal and other wishes.
    pub flags: MessageFlags,
    /// Administration messages wanted.
    pub ack_wishes: AckWishes,
    /// Wall-clock time of acceptance, microseconds since the Unix epoch; for people only.
    pub sent_at_us: u64,
    /// Time to reach the queue counted from acceptance, milliseconds or [`INFINITE_MS`].
    pub time_to_reach_queue_ms: u64,
    /// Time to be received counted from acceptance, milliseconds or [`INFINITE_MS`].
    pub time_to_be_received_ms: u64,
    /// Bytes of the body that follows.
    pub body_bytes: u32,
    /// Destination queue on the destination node.
    pub queue: QueueName,
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
}

impl Envelope {
    /// An envelope with default properties; infinite times.
    #[must_use]
    pub fn new(source: QmId, id: MessageId, salt: Salt, class: Class, queue: QueueName) -> Self {
        Self {
            source,
            id,
            salt,
            class,
            priority: match class {
                Class::Transactional => Priority::LOWEST,
                Class::Express | Class::Recoverable => Priority::DEFAULT,
            },
            flags: MessageFlags::DEAD_LETTER,
            ack_wishes: AckWishes::NONE,
            sent_at_us: 0,
            time_to_reach_queue_ms: INFINITE_MS,
            time_to_be_received_ms: INFINITE_MS,
            body_bytes: 0,
            queue,
            label: Text::EMPTY,
            correlation_id: Bytes::new(),
            response_queue: Text::EMPTY,
            admin_queue: Text::EMPTY,
            content_type: Text::EMPTY,
            trace_context: Text::EMPTY,
            properties: Properties::EMPTY,
        }
    }

    /// Checks every limit that a field's type does not already keep.
    ///
    /// # Errors
    /// The same [`DecodeError`] a receiver would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        let over = |what, value: usize, limit: usize| {
            if value > limit {
                Err(DecodeError::OverLimit {
                    what,
                    value: value as u64,
                    limit: limit as u64,
                })
            } else {
                Ok(())
            }
        };
        over("body", self.body_bytes as usize, BODY_BYTES_MAX as usize)?;
        over("label", self.label.as_bytes().len(), LABEL_BYTES_MAX)?;
        over("label", self.label.chars().count(), LABEL_CHARS_MAX)?;
        over(
            "correlation id",
            self.correlation_id.len(),
            CORRELATION_BYTES_MAX,
        )?;
        over(
            "response queue",
            self.response_queue.len(),
            ADDRESS_BYTES_MAX,
        )?;
        over(
            "administration queue",
            self.admin_queue.len(),
            ADDRESS_BYTES_MAX,
        )?;
        over(
            "content type",
            self.content_type.len(),
            CONTENT_TYPE_BYTES_MAX,
        )?;
        over(
            "trace context",
            self.trace_context.len(),
            TRACE_CONTEXT_BYTES_MAX,
        )?;
        if self.class == Class::Transactional && self.priority != Priority::LOWEST {
            let value = u64::from(self.priority.get());
            return Err(DecodeError::Invalid {
                what: "priority of a transactional message",
                value,
            });
        }
        over("envelope", self.encoded_len(), ENVELOPE_BYTES_MAX)
    }

    /// Bytes of the encoded form.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        [
            self.queue.as_bytes().len(),
            self.label.as_bytes().len(),
            self.correlation_id.len(),
            self.response_queue.as_bytes().len(),
            self.admin_queue.as_bytes().len(),
            self.content_type.as_bytes().len(),
            self.trace_context.as_bytes().len(),
            self.properties.as_encoded().len(),
        ]
        .iter()
        .fold(ENVELOPE_FIXED_BYTES, |sum, n| sum.saturating_add(*n))
    }

    /// Appends the one canonical encoding.
    ///
    /// # Errors
    /// What [`Envelope::check`] reports; nothing is written then.
    pub fn encode(&self, to: &mut BytesMut) -> Result<(), DecodeError> {
        self.check()?;
        to.reserve(self.encoded_len());
        to.put_u8(ENVELOPE_VERSION);
        to.put_u8(self.class.code());
        to.put_u8(self.priority.get());
        to.put_u8(self.flags.bits());
        to.put_slice(self.source.as_bytes());
        to.put_u64_le(self.id.incarnation.0);
        to.put_u64_le(self.id.sequence);
        to.put_slice(&self.salt.0);
        to.put_u64_le(self.sent_at_us);
        to.put_u64_le(self.time_to_reach_queue_ms);
        to.put_u64_le(self.time_to_be_received_ms);
        to.put_u32_le(self.body_bytes);
        to.put_u8(self.ack_wishes.bits());
        put_short(to, self.queue.as_bytes());
        put_short(to, self.label.as_bytes());
        put_short(to, &self.correlation_id);
        put_short(to, self.response_queue.as_bytes());
        put_short(to, self.admin_queue.as_bytes());
        put_short(to, self.content_type.as_bytes());
        put_short(to, self.trace_context.as_bytes());
        put_short(to, self.properties.as_encoded());
        Ok(())
    }

    /// Reads an envelope; texts and properties point into `encoded`.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule that is broken.
    pub fn decode(encoded: &Bytes) -> Result<Self, DecodeError> {
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
        let incarnation = Incarnation(r.u64("incarnation")?);
        let sequence = r.u64("sequence")?;
        let salt = Salt(r.array("salt")?);
        let sent_at_us = r.u64("time sent")?;
        let time_to_reach_queue_ms = r.u64("time to reach queue")?;
        let time_to_be_received_ms = r.u64("time to be received")?;
        let body_bytes = r.u32("body length")?;
        let ack_wishes = AckWishes::from_bits(r.u8("ack wishes")?)?;
        let queue = QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?;
        let mut text = |limit, what| Text::from_utf8(r.short(limit, what)?, what);
        let label = text(LABEL_BYTES_MAX, "label")?;
        let correlation_id = r.short(CORRELATION_BYTES_MAX, "correlation id")?;
        let mut text = |limit, what| Text::from_utf8(r.short(limit, what)?, what);
        let response_queue = text(ADDRESS_BYTES_MAX, "response queue")?;
        let admin_queue = text(ADDRESS_BYTES_MAX, "administration queue")?;
        let content_type = text(CONTENT_TYPE_BYTES_MAX, "content type")?;
        let trace_context = text(TRACE_CONTEXT_BYTES_MAX, "trace context")?;
        let properties =
            Properties::from_encoded(r.short(PROPERTIES_BYTES_MAX, "application properties")?)?;
        r.finish("envelope")?;
        let envelope = Self {
            source,
            id: MessageId {
                incarnation,
                sequence,
            },
            salt,
            class,
            priority,
            flags,
            ack_wishes,
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
        envelope.check()?;
        Ok(envelope)
    }
}

/// Bytes of an envelope whose texts are all absent.
pub(crate) const ENVELOPE_FIXED_BYTES: usize = 4 + 16 + 8 + 8 + 16 + 8 + 8 + 8 + 4 + 1 + 8 * 2;

impl Tag {
    /// The tag of a message: the first 8 bytes of
    /// `BLAKE3("qm-tag" ‖ encoded envelope ‖ body length ‖ xxh3-128(body, seed from the salt))`.
    ///
    /// The envelope carries QMId, incarnation, sequence, salt and destination, so two different
    /// messages minted under one id by two clones get different tags. The salt seeds the body's
    /// hash because it is drawn after the body was accepted: nobody can aim at a collision of the
    /// fast hash.
    #[must_use]
    pub fn compute(encoded_envelope: &[u8], salt: &Salt, body: &[u8]) -> Self {
        let mut seed = [0_u8; 8];
        for (to, from) in seed.iter_mut().zip(salt.0) {
            *to = from;
        }
        let body_hash = xxhash_rust::xxh3::xxh3_128_with_seed(body, u64::from_le_bytes(seed));
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"qm-tag");
        hasher.update(encoded_envelope);
        hasher.update(&(body.len() as u64).to_le_bytes());
        hasher.update(&body_hash.to_le_bytes());
        let mut tag = [0_u8; 8];
        hasher.finalize_xof().fill(&mut tag);
        Self(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Envelope {
        let id = MessageId {
            incarnation: Incarnation(7),
            sequence: 9,
        };
        let mut e = Envelope::new(
            QmId::from_bytes([1; 16]),
            id,
            Salt([2; 16]),
            Class::Recoverable,
            "Orders".parse().unwrap(),
        );
        e.label = "a label".into();
        e.body_bytes = 3;
        e.properties = Properties::new([("k", b"v")]).unwrap();
        e
    }

    #[test]
    fn round_trip_and_trailing_byte() {
        let mut to = BytesMut::new();
        sample().encode(&mut to).unwrap();
        assert_eq!(to.len(), sample().encoded_len());
        let mut bytes = to.clone().freeze();
        assert_eq!(Envelope::decode(&bytes).unwrap(), sample());
        to.put_u8(0);
        bytes = to.freeze();
        let wrong = Envelope::decode(&bytes);
        assert_eq!(
            wrong,
            Err(DecodeError::Trailing {
                what: "envelope",
                extra: 1
            })
        );
    }

    #[test]
    fn tag_depends_on_envelope_salt_and_body() {
        let mut to = BytesMut::new();
        sample().encode(&mut to).unwrap();
        let tag = Tag::compute(&to, &Salt([2; 16]), b"abc");
        assert_ne!(tag, Tag::compute(&to, &Salt([2; 16]), b"abd"));
        assert_ne!(tag, Tag::compute(&to, &Salt([3; 16]), b"abc"));
        assert_ne!(tag, Tag::compute(&to[1..], &Salt([2; 16]), b"abc"));
    }
}

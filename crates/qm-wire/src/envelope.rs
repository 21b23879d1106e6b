//! The immutable part of a message: encoded once when the send is accepted, stored and resent
//! byte for byte, covered by the tag.

pub(crate) mod by_hand;
#[cfg(feature = "bincode")]
pub(crate) mod compact;
mod view;

use bytes::{Bytes, BytesMut};

#[cfg(not(feature = "bincode"))]
use self::by_hand as codec;
#[cfg(feature = "bincode")]
use self::compact as codec;
pub use self::view::EnvelopeView;
pub(crate) use crate::class::bit_set;
pub use crate::class::{AckWishes, Class, MessageFlags, Priority};
use crate::codec::{DecodeError, over};
use crate::id::{MessageId, QmId, Salt, Tag};
use crate::limits::{
    ADDRESS_BYTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, CORRELATION_BYTES_MAX,
    ENVELOPE_BYTES_MAX, LABEL_BYTES_MAX, LABEL_CHARS_MAX, TRACE_CONTEXT_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::properties::Properties;
use crate::queue_name::QueueName;
use crate::siphash::{sip_64, words_of};
use crate::text::Text;

/// Layout version of the envelope (W-ENV-2); a change of layout is a change of protocol version.
pub(crate) const ENVELOPE_VERSION: u8 = 1;

/// A duration of `u64::MAX` milliseconds: no limit.
pub const INFINITE_MS: u64 = u64::MAX;

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
    /// In an administration message, made by a queue manager, what it reports of the message that
    /// its correlation id names; `None` in a message of an application (W-ENV-5).
    pub report: Option<Outcome>,
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
            report: None,
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

    /// Checks every rule that a field's type does not already keep.
    ///
    /// # Errors
    /// The same [`DecodeError`] a receiver would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.label.check("label")?;
        self.response_queue.check_line("response queue")?;
        self.admin_queue.check_line("administration queue")?;
        self.content_type.check_line("content type")?;
        self.trace_context.check("trace context")?;
        self.check_limits()
    }

    /// Checks what is left when every text is one.
    fn check_limits(&self) -> Result<(), DecodeError> {
        for (what, bytes, limit) in [
            ("label", self.label.as_bytes(), LABEL_BYTES_MAX),
            (
                "correlation id",
                &self.correlation_id,
                CORRELATION_BYTES_MAX,
            ),
            (
                "response queue",
                self.response_queue.as_bytes(),
                ADDRESS_BYTES_MAX,
            ),
            (
                "administration queue",
                self.admin_queue.as_bytes(),
                ADDRESS_BYTES_MAX,
            ),
            (
                "content type",
                self.content_type.as_bytes(),
                CONTENT_TYPE_BYTES_MAX,
            ),
            (
                "trace context",
                self.trace_context.as_bytes(),
                TRACE_CONTEXT_BYTES_MAX,
            ),
        ] {
            over(what, bytes.len(), limit)?;
        }
        over("body", self.body_bytes as usize, BODY_BYTES_MAX as usize)?;
        // Only a label of more bytes can have too many characters.
        if self.label.as_bytes().len() > LABEL_CHARS_MAX {
            over("label", self.label.chars().count(), LABEL_CHARS_MAX)?;
        }
        view::check_class(self.class, self.priority)?;
        let asks = self.ack_wishes != AckWishes::NONE
            || self.flags != MessageFlags::NONE
            || !self.admin_queue.as_bytes().is_empty();
        view::check_report(self.report, asks)?;
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

    /// Appends the one canonical encoding (W-ENV-1).
    ///
    /// # Errors
    /// What [`Envelope::check`] reports; nothing is written then.
    pub fn encode(&self, to: &mut BytesMut) -> Result<(), DecodeError> {
        self.check()?;
        codec::encode(self, to);
        Ok(())
    }

    /// Reads an envelope; texts and properties point into `encoded`.
    ///
    /// # Errors
    /// [`DecodeError`] naming the first rule that is broken.
    pub fn decode(encoded: &Bytes) -> Result<Self, DecodeError> {
        Ok(codec::view(encoded)?.shared(encoded))
    }

    /// Reads an envelope without counting a share of its buffer for each field: for whoever looks
    /// at a message and hands on its bytes.
    ///
    /// # Errors
    /// As [`Envelope::decode`].
    pub fn view(encoded: &[u8]) -> Result<EnvelopeView<'_>, DecodeError> {
        codec::view(encoded)
    }

    /// The ack wishes of an encoded envelope that was checked before; nothing else of it is looked
    /// at. None when these bytes are no envelope.
    #[must_use]
    pub fn peek_ack_wishes(encoded: &[u8]) -> AckWishes {
        let bits = encoded.get(ACK_WISHES_AT).copied().unwrap_or(0);
        AckWishes::from_bits(bits).unwrap_or_default()
    }
}

/// Where the ack wishes stand: before the report, at the end of the head.
const ACK_WISHES_AT: usize = ENVELOPE_HEAD_BYTES - 3;

/// Bytes of an envelope whose texts are all absent.
pub(crate) const ENVELOPE_FIXED_BYTES: usize = ENVELOPE_HEAD_BYTES + 8 * 2;

/// Bytes of an envelope before its first text.
pub(crate) const ENVELOPE_HEAD_BYTES: usize = 4 + 16 + 8 + 8 + 16 + 8 + 8 + 8 + 4 + 1 + 2;

impl Tag {
    /// The tag of a message (W-TAG-1): `SipHash-1-3`, keyed with the salt, of
    /// `body length ‖ xxh3-128(body, seed from the salt) ‖ encoded envelope`.
    ///
    /// The envelope carries QMId, incarnation, sequence and destination, so two different messages
    /// minted under one id by two clones get different tags. Nobody can aim at one: a salt is drawn
    /// when nobody can learn it any more before what it covers is settled (W-TAG-4). Whoever knows
    /// the salt can, so a tag is no signature.
    #[must_use]
    pub fn compute(encoded_envelope: &[u8], salt: &Salt, body: &[u8]) -> Self {
        let [seed, _] = words_of(salt.0);
        let body_hash = xxhash_rust::xxh3::xxh3_128_with_seed(body, seed);
        let [low, high] = words_of(body_hash.to_le_bytes());
        let words = [body.len() as u64, low, high];
        Self(sip_64(salt.0, words, encoded_envelope).to_le_bytes())
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::id::Incarnation;

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
        // What is at the end of one part is not at the beginning of the next.
        let longer = [&to[..], &[0]].concat();
        assert_ne!(tag, Tag::compute(&longer, &Salt([2; 16]), b"abc"));
    }

    /// W-TAG-4: two bodies of which the fast hash is the same under one seed, as everybody can make
    /// them who knows it. Where the seed meets a word of the body, the words of two places are
    /// exchanged, with the difference of what the hash adds to them there.
    #[test]
    fn who_knows_the_salt_can_aim_and_nobody_else() {
        // The first and third word of the secret of XXH3, for the first lane of the first and third
        // stripe.
        let secret = [0xbe4b_a423_396c_feb8_u64, 0xdb97_9083_e96d_d4de];
        let known = Salt([0x51; 16]);
        let [seed, _] = words_of(known.0);
        let [one, three] = secret.map(|word| word.wrapping_add(seed));
        let difference = one ^ three;
        let (x, y) = (0, !difference);
        let body = |first: u64, third: u64| {
            let mut body = [0x2a; 1_000];
            body[..8].copy_from_slice(&first.to_le_bytes());
            body[128..136].copy_from_slice(&(third ^ difference).to_le_bytes());
            body
        };
        let (ours, theirs) = (body(x, y), body(y, x));
        assert_ne!(ours, theirs);
        let tags = |salt| [ours, theirs].map(|body| Tag::compute(b"envelope", &salt, &body));
        let [ours_tag, theirs_tag] = tags(known);
        assert_eq!(
            ours_tag, theirs_tag,
            "the limit that the specification names"
        );
        for other in 0..=0xff_u8 {
            let [ours_tag, theirs_tag] = tags(Salt([other; 16]));
            assert!(ours_tag != theirs_tag || other == 0x51, "{other}");
        }
    }

    mod tags {
        use proptest::collection::vec;
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// One bit elsewhere, in whatever is covered: another tag.
            #[test]
            fn other_content_has_another_tag(
                envelope in vec(any::<u8>(), 1..300),
                salt: [u8; 16],
                body in vec(any::<u8>(), 1..1_500),
                at: prop::sample::Index,
                bit in 0..8_u32,
            ) {
                let tag = Tag::compute(&envelope, &Salt(salt), &body);
                let turned = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    let at = at.index(bytes.len());
                    bytes[at] ^= 1 << bit;
                    bytes
                };
                let salted = Salt(turned(&salt).try_into().unwrap());
                prop_assert_ne!(tag, Tag::compute(&turned(&envelope), &Salt(salt), &body));
                prop_assert_ne!(tag, Tag::compute(&envelope, &salted, &body));
                prop_assert_ne!(tag, Tag::compute(&envelope, &Salt(salt), &turned(&body)));
                let (_, shorter) = body.split_last().unwrap();
                prop_assert_ne!(tag, Tag::compute(&envelope, &Salt(salt), shorter));
                let (_, shorter) = envelope.split_last().unwrap();
                prop_assert_ne!(tag, Tag::compute(shorter, &Salt(salt), &body));
            }
        }
    }

    #[cfg(feature = "bincode")]
    mod twins {
        use proptest::collection::vec;
        use proptest::prelude::*;

        use super::*;

        /// Both codecs read `bytes` to the same value or refuse them, and what either accepts both
        /// write to the same bytes.
        fn agree(bytes: &Bytes) -> Result<(), TestCaseError> {
            let ours = by_hand::view(bytes);
            prop_assert_eq!(ours.ok(), compact::read(bytes));
            let ours = ours.map(|view| view.shared(bytes));
            prop_assert_eq!(&Envelope::decode(bytes), &ours);
            if let Ok(envelope) = ours {
                let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
                by_hand::encode(&envelope, &mut ours);
                compact::encode(&envelope, &mut theirs);
                prop_assert_eq!(&ours, bytes);
                prop_assert_eq!(&theirs, bytes);
            }
            Ok(())
        }

        fn encoded(texts: &[String; 5], blob: &[u8], numbers: [u64; 3]) -> Option<Bytes> {
            let mut envelope = sample();
            let [label, response, admin, content, trace] = texts;
            envelope.label = label.as_str().into();
            envelope.response_queue = response.as_str().into();
            envelope.admin_queue = admin.as_str().into();
            envelope.content_type = content.as_str().into();
            envelope.trace_context = trace.as_str().into();
            envelope.correlation_id = Bytes::copy_from_slice(blob);
            [
                envelope.id.sequence,
                envelope.time_to_reach_queue_ms,
                envelope.sent_at_us,
            ] = numbers;
            let mut to = BytesMut::new();
            envelope.encode(&mut to).ok()?;
            Some(to.freeze())
        }

        proptest! {
            #[test]
            fn on_arbitrary_bytes(bytes in vec(any::<u8>(), 0..400)) {
                agree(&Bytes::from(bytes))?;
            }

            #[test]
            fn on_envelopes_damaged_or_not(
                texts in proptest::array::uniform5("\\PC{0,40}"),
                blob in vec(any::<u8>(), 0..300),
                numbers: [u64; 3],
                damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
                cut in proptest::option::of(any::<prop::sample::Index>()),
                extra in vec(any::<u8>(), 0..3),
            ) {
                let Some(bytes) = encoded(&texts, &blob, numbers) else {
                    return Ok(());
                };
                let mut bytes = bytes.to_vec();
                for (at, byte) in damage {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                bytes.extend(extra);
                agree(&Bytes::from(bytes))?;
            }

            /// Lengths are what a serializer trips over.
            #[test]
            fn on_any_length_in_any_field(field in 0..8_usize, length: u16) {
                let mut bytes = encoded(&Default::default(), &[], [1; 3]).unwrap().to_vec();
                bytes.truncate(ENVELOPE_FIXED_BYTES - 16);
                for each in 0..8 {
                    let length = if each == field { length } else { u16::from(each == 0) };
                    bytes.extend(length.to_le_bytes());
                    bytes.extend(core::iter::repeat_n(b'a', usize::from(length)));
                }
                agree(&Bytes::from(bytes))?;
            }
        }
    }
}

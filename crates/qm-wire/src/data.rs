//! A message on its way: the transit part that changes at every hop, the envelope and body that
//! never do.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_count};
use crate::envelope::{Class, Envelope};
use crate::frame::{FrameKind, RawFrame, put_frame};
use crate::id::Tag;
use crate::limits::{ENVELOPE_BYTES_MAX, HOPS_MAX};

/// Header flag of a data frame: the previous link of a transactional stream follows.
const FLAG_LINKED: u16 = 1;

/// Link of a transactional stream: 16 bytes of a hash over its predecessor and the message's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub [u8; 16]);

/// The part of a message that is rewritten at each transmission and not covered by the tag
/// (W-DAT-1, W-DAT-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit {
    /// What is left of the time to reach the queue, milliseconds or
    /// [`INFINITE_MS`](crate::INFINITE_MS).
    pub reach_queue_left_ms: u64,
    /// What is left of the time to be received, milliseconds or
    /// [`INFINITE_MS`](crate::INFINITE_MS).
    pub be_received_left_ms: u64,
    /// Nodes that forwarded the message before the sender of this frame (W-DAT-3).
    pub hops: u8,
    /// Previous link, for transactional messages.
    pub previous: Option<Link>,
}

/// One transmission of one message. Everything points into the receive buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The session's own message number: 1, 2, 3 … over all lanes (W-DAT-2).
    pub number: u64,
    /// The message's tag as its sender stored it.
    pub tag: Tag,
    /// The transit part.
    pub transit: Transit,
    /// The encoded envelope, see [`Envelope::decode`].
    pub envelope: Bytes,
    /// The body.
    pub body: Bytes,
}

impl Data {
    /// Appends the frame. An envelope or body over [`ENVELOPE_BYTES_MAX`] or
    /// [`BODY_BYTES_MAX`](crate::limits::BODY_BYTES_MAX), which no [`Envelope`] describes, is cut:
    /// the receiver finds the message damaged.
    pub fn encode(&self, to: &mut BytesMut) {
        let envelope = self.envelope.get(..ENVELOPE_BYTES_MAX);
        let envelope = envelope.unwrap_or(&self.envelope);
        let flags = if self.transit.previous.is_some() {
            FLAG_LINKED
        } else {
            0
        };
        put_frame(to, FrameKind::Data, flags, &self.body, |to| {
            to.put_u64_le(self.number);
            to.put_slice(&self.tag.0);
            to.put_u64_le(self.transit.reach_queue_left_ms);
            to.put_u64_le(self.transit.be_received_left_ms);
            to.put_u8(self.transit.hops);
            to.put_u8(0);
            put_count(to, envelope.len());
            if let Some(previous) = &self.transit.previous {
                to.put_slice(&previous.0);
            }
            to.put_slice(envelope);
        });
    }

    /// Bytes that count against the byte credit.
    #[must_use]
    pub const fn credit_bytes(&self) -> u64 {
        credit_bytes(self.envelope.len(), self.body.len())
    }

    pub(crate) fn read(raw: &RawFrame) -> Result<Self, DecodeError> {
        raw.check_flags(FLAG_LINKED)?;
        let mut r = Reader::new(&raw.body);
        let number = r.u64("message number")?;
        let tag = Tag(r.array("tag")?);
        let reach_queue_left_ms = r.u64("time left to reach the queue")?;
        let be_received_left_ms = r.u64("time left to be received")?;
        let hops = r.u8("hops")?;
        let reserved = r.u8("reserved byte")?;
        let envelope_bytes = usize::from(r.u16("envelope length")?);
        let previous = if raw.flags & FLAG_LINKED != 0 {
            Some(Link(r.array("previous link")?))
        } else {
            None
        };
        let envelope = r.bytes(envelope_bytes, "envelope")?;
        raw.verify(r.offset())?;
        if number == 0 {
            return Err(DecodeError::Invalid {
                what: "message number",
                value: 0,
            });
        }
        if hops > HOPS_MAX {
            return Err(DecodeError::OverLimit {
                what: "hops",
                value: u64::from(hops),
                limit: u64::from(HOPS_MAX),
            });
        }
        // W-DAT-4.
        if reserved != 0 {
            return Err(DecodeError::Invalid {
                what: "reserved byte",
                value: u64::from(reserved),
            });
        }
        let body = r.rest();
        let transit = Transit {
            reach_queue_left_ms,
            be_received_left_ms,
            hops,
            previous,
        };
        Ok(Self {
            number,
            tag,
            transit,
            envelope,
            body,
        })
    }

    /// Decodes the envelope and checks that the message is whole (W-TAG-2).
    ///
    /// # Errors
    /// [`OpenError::Envelope`] for bytes that are no envelope and for a link on a message that is
    /// not transactional (W-DAT-5), [`OpenError::Damaged`] when tag or
    /// length does not match: the message must be rejected as damaged, never stored.
    pub fn open(&self) -> Result<Envelope, OpenError> {
        let envelope = Envelope::decode(&self.envelope).map_err(OpenError::Envelope)?;
        if envelope.body_bytes as usize != self.body.len()
            || Tag::compute(&self.envelope, &envelope.salt, &self.body) != self.tag
        {
            return Err(OpenError::Damaged(Box::new(envelope)));
        }
        if self.transit.previous.is_some() && envelope.class != Class::Transactional {
            return Err(OpenError::Envelope(DecodeError::Invalid {
                what: "delivery class of a linked message",
                value: u64::from(envelope.class.code()),
            }));
        }
        Ok(envelope)
    }
}

/// Bytes that a message counts against the byte credit of a session.
#[must_use]
pub const fn credit_bytes(envelope_bytes: usize, body_bytes: usize) -> u64 {
    (envelope_bytes as u64).saturating_add(body_bytes as u64)
}

/// Why a transmitted message is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The envelope breaks a rule of the format.
    #[error("the envelope is malformed: {0}")]
    Envelope(DecodeError),
    /// The tag does not match the content.
    #[error("message {} does not match its tag", .0.id)]
    Damaged(Box<Envelope>),
}

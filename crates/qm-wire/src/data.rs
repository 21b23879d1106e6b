//! A message on its way: the transit part that changes at every hop, the envelope and body that
//! never do.

use alloc::boxed::Box;
use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_short};
use crate::envelope::{Class, Envelope, EnvelopeView};
use crate::frame::{Cut, FrameKind, put_frame};
use crate::id::{QmId, Tag};
use crate::limits::{ADDRESS_BYTES_MAX, ENVELOPE_BYTES_MAX, HOPS_MAX};
use crate::stream::Place;
use crate::text::Text;

/// Header flag of a data frame: a place in a transactional stream follows (W-DAT-5).
const FLAG_LINKED: u16 = 1;
/// Header flag of a data frame: previous hop and final destination follow (W-DAT-7).
const FLAG_FORWARDED: u16 = 2;

/// The way of a message over more than one hop (W-DAT-7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The node before the sender of the frame.
    pub previous_hop: QmId,
    /// Where the message goes in the end: see [`Destination`](crate::Destination).
    pub destination: Text,
}

/// The part of a message that is rewritten at each transmission and not covered by the tag
/// (W-DAT-1, W-DAT-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transit {
    /// What is left of the time to reach the queue, milliseconds or
    /// [`INFINITE_MS`](crate::INFINITE_MS).
    pub reach_queue_left_ms: u64,
    /// What is left of the time to be received, milliseconds or
    /// [`INFINITE_MS`](crate::INFINITE_MS).
    pub be_received_left_ms: u64,
    /// Nodes that forwarded the message before the sender of this frame (W-DAT-3).
    pub hops: u8,
    /// Place in its stream, for transactional messages.
    pub place: Option<Place>,
    /// Where from and where to, for messages that go over several hops.
    pub route: Option<Route>,
}

impl Transit {
    /// Whether the message's time ran out on its way. Also when it was the time to be received, it
    /// ran out before the message reached its queue, and is refused with
    /// [`Outcome::REACH_QUEUE_EXPIRED`](crate::Outcome::REACH_QUEUE_EXPIRED), as in MSMQ.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.reach_queue_left_ms == 0 || self.be_received_left_ms == 0
    }

    /// From the source to its neighbour, of no stream.
    #[must_use]
    pub const fn direct(reach_queue_left_ms: u64, be_received_left_ms: u64) -> Self {
        Self {
            reach_queue_left_ms,
            be_received_left_ms,
            hops: 0,
            place: None,
            route: None,
        }
    }

    pub(crate) const fn flags(&self) -> u16 {
        let linked = if self.place.is_some() { FLAG_LINKED } else { 0 };
        let forwarded = if self.route.is_some() {
            FLAG_FORWARDED
        } else {
            0
        };
        linked | forwarded
    }
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
        put_frame(
            to,
            FrameKind::Data,
            self.transit.flags(),
            &self.body,
            |to| write_data(to, self.number, self.tag, &self.transit, &self.envelope),
        );
    }

    /// Bytes that count against the byte credit.
    #[must_use]
    pub const fn credit_bytes(&self) -> u64 {
        credit_bytes(self.envelope.len(), self.body.len())
    }

    #[inline]
    pub(crate) fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        let (fixed, mut r) = read_data(raw)?;
        raw.verify(r.offset())?;
        fixed.check()?;
        let body = r.rest();
        Ok(Self {
            number: fixed.number,
            tag: fixed.tag,
            transit: fixed.transit,
            envelope: fixed.envelope,
            body,
        })
    }

    /// Decodes the envelope and checks that the message is whole (W-TAG-2); the fields may be kept.
    ///
    /// # Errors
    /// As for [`Data::view`].
    pub fn open(&self) -> Result<Envelope, OpenError> {
        Ok(self.view()?.shared(&self.envelope))
    }

    /// Looks at the envelope where it lies and checks that the message is whole (W-TAG-2): for
    /// whoever keeps the message as it is. Nothing is allocated and no share counted, unless the
    /// message is damaged.
    ///
    /// # Errors
    /// [`OpenError::Envelope`] for bytes that are no envelope and for a link on a message that is
    /// not transactional (W-DAT-5), [`OpenError::Damaged`] when tag or
    /// length does not match: the message must be rejected as damaged, never stored.
    pub fn view(&self) -> Result<EnvelopeView<'_>, OpenError> {
        let envelope = Envelope::view(&self.envelope).map_err(OpenError::Envelope)?;
        if envelope.body_bytes as usize != self.body.len()
            || Tag::compute(&self.envelope, &envelope.salt, &self.body) != self.tag
        {
            let envelope = envelope.shared(&self.envelope);
            return Err(OpenError::Damaged(Box::new(envelope)));
        }
        if self.transit.place.is_some() && envelope.class != Class::Transactional {
            return Err(OpenError::Envelope(DecodeError::Invalid {
                what: "delivery class of a linked message",
                value: u64::from(envelope.class.code()),
            }));
        }
        Ok(envelope)
    }
}

/// What stands before the message body in a data frame, and is all of an announce.
pub(crate) struct Fixed {
    pub(crate) number: u64,
    pub(crate) tag: Tag,
    pub(crate) transit: Transit,
    pub(crate) envelope: Bytes,
    reserved: u8,
}

impl Fixed {
    /// The rules that one byte string can break while its checksum is right; compared after the
    /// checksum, so that damage is called damage.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        if self.number == 0 {
            return Err(DecodeError::Invalid {
                what: "message number",
                value: 0,
            });
        }
        if self.transit.hops > HOPS_MAX {
            return Err(DecodeError::OverLimit {
                what: "hops",
                value: u64::from(self.transit.hops),
                limit: u64::from(HOPS_MAX),
            });
        }
        if let Some(place) = &self.transit.place {
            place.check()?;
        }
        // W-DAT-4.
        if self.reserved != 0 {
            return Err(DecodeError::Invalid {
                what: "reserved byte",
                value: u64::from(self.reserved),
            });
        }
        Ok(())
    }
}

/// Bytes of a data frame's body that are always there.
const HEAD_BYTES: usize = 36;

pub(crate) fn write_data(
    to: &mut BytesMut,
    number: u64,
    tag: Tag,
    transit: &Transit,
    envelope: &Bytes,
) {
    let envelope = envelope.get(..ENVELOPE_BYTES_MAX).unwrap_or(envelope);
    // In one piece: each separate write asks for room again.
    let mut head = [0; HEAD_BYTES];
    let mut rest = head.as_mut_slice();
    rest.put_u64_le(number);
    rest.put_slice(&tag.0);
    rest.put_u64_le(transit.reach_queue_left_ms);
    rest.put_u64_le(transit.be_received_left_ms);
    rest.put_u8(transit.hops);
    rest.put_u8(0);
    rest.put_u16_le(u16::try_from(envelope.len()).unwrap_or(u16::MAX));
    to.put_slice(&head);
    if let Some(place) = &transit.place {
        place.write(to);
    }
    if let Some(route) = &transit.route {
        to.put_slice(route.previous_hop.as_bytes());
        put_short(to, route.destination.as_bytes());
    }
    to.put_slice(envelope);
}

/// Reads a data frame or an announce up to its message body.
#[inline]
pub(crate) fn read_data<'a>(raw: &Cut<'a>) -> Result<(Fixed, Reader<'a>), DecodeError> {
    raw.check_flags(FLAG_LINKED | FLAG_FORWARDED)?;
    let mut r = raw.reader();
    let number = r.u64("message number")?;
    let tag = Tag(r.array("tag")?);
    let reach_queue_left_ms = r.u64("time left to reach the queue")?;
    let be_received_left_ms = r.u64("time left to be received")?;
    let hops = r.u8("hops")?;
    let reserved = r.u8("reserved byte")?;
    let envelope_bytes = usize::from(r.u16("envelope length")?);
    let place = if raw.flags & FLAG_LINKED != 0 {
        Some(Place::read(&mut r)?)
    } else {
        None
    };
    let route = if raw.flags & FLAG_FORWARDED != 0 {
        Some(Route::read(&mut r)?)
    } else {
        None
    };
    let envelope = r.bytes(envelope_bytes, "envelope")?;
    let transit = Transit {
        reach_queue_left_ms,
        be_received_left_ms,
        hops,
        place,
        route,
    };
    let fixed = Fixed {
        number,
        tag,
        transit,
        envelope,
        reserved,
    };
    Ok((fixed, r))
}

impl Route {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let previous_hop = QmId::from_bytes(r.array("previous hop")?);
        let destination = r.line(ADDRESS_BYTES_MAX, "final destination")?;
        // W-DAT-7.
        if destination.as_bytes().is_empty() {
            return Err(DecodeError::Invalid {
                what: "final destination",
                value: 0,
            });
        }
        Ok(Self {
            previous_hop,
            destination,
        })
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

//! Large bodies beside the lanes: announced first, asked for, sent in parts from where an earlier
//! attempt ended.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ack::{put_entry, read_entry};
use crate::codec::{DecodeError, Reader, over};
use crate::data::{Transit, read_data, write_data};
use crate::frame::{Cut, FrameKind, put_frame};
use crate::id::{Entry, Tag};
use crate::limits::{BODY_BYTES_MAX, BODY_PART_BYTES_MAX};

/// A message whose body follows in parts: a data frame without it (W-BIG-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The session's own message number.
    pub number: u64,
    /// The message's tag as its sender stored it.
    pub tag: Tag,
    /// The transit part.
    pub transit: Transit,
    /// The encoded envelope, which tells the length of the body.
    pub envelope: Bytes,
}

/// What of an announced body is wanted (W-BIG-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Everything from this offset on.
    From(u32),
    /// Nothing: the body is whole here.
    Have,
    /// Nothing yet: there is no room at present, and another answer follows.
    Wait,
}

/// Answer to an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyWanted {
    /// The message.
    pub entry: Entry,
    /// What of its body is wanted.
    pub wanted: Wanted,
}

/// A part of a large body (W-BIG-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyPart {
    /// The message.
    pub entry: Entry,
    /// Offset of the part in the body.
    pub offset: u32,
    /// The part, 1 to [`BODY_PART_BYTES_MAX`] bytes; a slice of the receive buffer.
    pub part: Bytes,
}

impl Announce {
    pub(crate) fn encode(&self, to: &mut BytesMut) {
        put_frame(to, FrameKind::Announce, self.transit.flags(), &[], |to| {
            write_data(to, self.number, self.tag, &self.transit, &self.envelope);
        });
    }

    pub(crate) fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        raw.verify(raw.body.len())?;
        let (fixed, r) = read_data(raw)?;
        r.finish("frame body")?;
        fixed.check()?;
        Ok(Self {
            number: fixed.number,
            tag: fixed.tag,
            transit: fixed.transit,
            envelope: fixed.envelope,
        })
    }
}

impl BodyWanted {
    pub(crate) fn write(self, to: &mut BytesMut) {
        put_entry(to, &self.entry);
        let (answer, offset) = match self.wanted {
            Wanted::From(offset) => (1, offset),
            Wanted::Have => (2, 0),
            Wanted::Wait => (3, 0),
        };
        to.put_u8(answer);
        to.put_u64_le(u64::from(offset));
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let entry = read_entry(r)?;
        let answer = r.u8("answer to an announce")?;
        let offset = read_offset(r)?;
        let wanted = match (answer, offset) {
            (1, offset) => Wanted::From(offset),
            (2, 0) => Wanted::Have,
            (3, 0) => Wanted::Wait,
            _ => {
                return Err(DecodeError::Invalid {
                    what: "answer to an announce",
                    value: u64::from(answer),
                });
            }
        };
        Ok(Self { entry, wanted })
    }
}

/// An offset in a body; 64 bits on the wire, within the largest body.
fn read_offset(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let value = r.u64("offset in a body")?;
    u32::try_from(value)
        .ok()
        .filter(|offset| *offset <= BODY_BYTES_MAX)
        .ok_or_else(|| DecodeError::OverLimit {
            what: "offset in a body",
            value,
            limit: u64::from(BODY_BYTES_MAX),
        })
}

impl BodyPart {
    /// Checks the rules of its length (W-BIG-2).
    ///
    /// # Errors
    /// The same [`DecodeError`] a receiver would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        const WHAT: &str = "part of a body";
        if self.part.is_empty() {
            return Err(DecodeError::Invalid {
                what: WHAT,
                value: 0,
            });
        }
        over(WHAT, self.part.len(), BODY_PART_BYTES_MAX)?;
        let end = (self.offset as usize).saturating_add(self.part.len());
        over("end of a part of a body", end, BODY_BYTES_MAX as usize)
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        put_entry(to, &self.entry);
        to.put_u64_le(u64::from(self.offset));
        to.put_slice(&self.part);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let part = Self {
            entry: read_entry(r)?,
            offset: read_offset(r)?,
            part: r.rest(),
        };
        part.check()?;
        Ok(part)
    }
}

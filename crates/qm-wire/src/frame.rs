//! One unit on a lane: a fixed header, then a body whose length was checked first (W-FRM-1).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader};
use crate::crc::crc32c;
use crate::limits::{
    ADMIN_BYTES_MAX, ADMIN_FIXED_BYTES, BODY_BYTES_MAX, BODY_PART_BYTES_MAX, BODY_PART_FIXED_BYTES,
    CONTROL_BYTES_MAX, FRAME_HEADER_BYTES, REMOTE_FIXED_BYTES,
};

/// First two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"QM";

/// Version of the frame header.
pub const HEADER_VERSION: u8 = 1;

/// Kinds from here on may be skipped by a receiver that does not know them (W-VER-3).
pub const FIRST_IGNORABLE_KIND: u8 = 0x80;

/// Flags that a receiver that does not know them ignores; any other unknown flag is refused
/// (W-VER-4).
pub const IGNORABLE_FLAGS: u16 = 0xFF00;

/// What a frame is; the numbers are SPEC.md's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum FrameKind {
    /// Who I am, which life, what I speak: the first frame of each side.
    Hello = 0x01,
    /// Answer to a hello.
    Welcome = 0x02,
    /// The token of a welcome was stored.
    Confirm = 0x03,
    /// Give a sign of life on this session.
    Challenge = 0x04,
    /// The sign of life.
    ChallengeOk = 0x05,
    /// How much the peer may transmit.
    Credit = 0x06,
    /// A destination queue accepts messages again, or no longer.
    QueueState = 0x07,
    /// The session ends.
    Goodbye = 0x08,
    /// Another live session speaks with the same identity.
    Twin = 0x09,
    /// To the other copy of one identity: prove that you live.
    Ask = 0x0A,
    /// The proof.
    Claim = 0x0B,
    /// Where the histories of two copies parted.
    ForkPoints = 0x0C,
    /// An identity is succeeded by another one.
    Succession = 0x0D,
    /// A machine left an identity to another machine.
    Parted = 0x0E,
    /// A message.
    Data = 0x10,
    /// A message that left its stream otherwise than by delivery.
    Skip = 0x11,
    /// A message whose large body follows on a stream of its own.
    Announce = 0x12,
    /// What of an announced body is wanted.
    BodyWanted = 0x13,
    /// A part of a large body.
    BodyPart = 0x14,
    /// Messages of this session arrived to their class.
    SessionAck = 0x20,
    /// The same, off the session they came on.
    RoutedAck = 0x21,
    /// A routed ack named messages this node does not hold.
    NotHeld = 0x22,
    /// What became of these messages?
    Query = 0x23,
    /// Answer to a query.
    Answer = 0x24,
    /// Messages of this session are refused.
    Reject = 0x25,
    /// Transactional messages are stored in order up to a link.
    OrderAck = 0x26,
    /// The link before a transactional message is not known.
    Need = 0x27,
    /// Links that were taken as skips.
    Skipped = 0x28,
    /// A stream stands until an operator decides.
    Hold = 0x29,
    /// What became of messages after they had arrived.
    Final = 0x2A,
    /// Finals were noted.
    FinalConfirm = 0x2B,
    /// Up to where arrivals may have been forgotten.
    Evicted = 0x2C,
    /// An application's request to another node than its own.
    RemoteRequest = 0x30,
    /// Its answer.
    RemoteAnswer = 0x31,
    /// Application to node: who I am.
    ClientHello = 0x40,
    /// Node to application: who I am.
    NodeHello = 0x41,
    /// Application to node: accept this message.
    Put = 0x42,
    /// Node to application: messages were accepted.
    Accepted = 0x43,
    /// Node to application: a message was refused.
    Refused = 0x44,
    /// Node to application: the fate of messages it asked to follow.
    Fate = 0x45,
    /// Application to node: hand me messages.
    Receive = 0x46,
    /// Node to application: a message.
    Delivery = 0x47,
    /// Node to application: a receive request is answered.
    ReceiveDone = 0x48,
    /// Application to node: these deliveries are consumed, given back or rejected.
    Settle = 0x49,
    /// Node to application: a settle request is done.
    Settled = 0x4A,
    /// Application to node: an administrative request in JSON.
    Admin = 0x4B,
    /// Node to application: its answer in JSON.
    AdminReply = 0x4C,
    /// Application to node: commit or abort a transaction.
    EndTransaction = 0x4D,
    /// Node to application: a transaction is ended.
    TransactionEnded = 0x4E,
}

impl FrameKind {
    /// Every kind this version knows.
    pub const ALL: &'static [Self] = &[
        Self::Hello,
        Self::Welcome,
        Self::Confirm,
        Self::Challenge,
        Self::ChallengeOk,
        Self::Credit,
        Self::QueueState,
        Self::Goodbye,
        Self::Twin,
        Self::Ask,
        Self::Claim,
        Self::ForkPoints,
        Self::Succession,
        Self::Parted,
        Self::Data,
        Self::Skip,
        Self::Announce,
        Self::BodyWanted,
        Self::BodyPart,
        Self::SessionAck,
        Self::RoutedAck,
        Self::NotHeld,
        Self::Query,
        Self::Answer,
        Self::Reject,
        Self::OrderAck,
        Self::Need,
        Self::Skipped,
        Self::Hold,
        Self::Final,
        Self::FinalConfirm,
        Self::Evicted,
        Self::RemoteRequest,
        Self::RemoteAnswer,
        Self::ClientHello,
        Self::NodeHello,
        Self::Put,
        Self::Accepted,
        Self::Refused,
        Self::Fate,
        Self::Receive,
        Self::Delivery,
        Self::ReceiveDone,
        Self::Settle,
        Self::Settled,
        Self::Admin,
        Self::AdminReply,
        Self::EndTransaction,
        Self::TransactionEnded,
    ];

    /// The byte that travels.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        BY_CODE.get(usize::from(code)).copied().flatten()
    }

    /// Whether the kind belongs on a link between two queue managers, not on a local socket.
    #[must_use]
    pub const fn is_between_nodes(self) -> bool {
        self.code() < Self::ClientHello.code()
    }

    /// Kinds whose body ends in a message body that the checksum leaves to the tag.
    #[must_use]
    pub const fn carries_message(self) -> bool {
        matches!(self, Self::Data | Self::Put | Self::Delivery)
    }
}

/// The kind of every byte: a search through all of them would be the dearest part of a small frame.
const BY_CODE: [Option<FrameKind>; 256] = {
    let mut by_code = [None; 256];
    let mut kinds = FrameKind::ALL;
    while let Some((kind, others)) = kinds.split_first() {
        let (_, from) = by_code.split_at_mut(kind.code() as usize);
        if let Some((place, _)) = from.split_first_mut() {
            *place = Some(*kind);
        }
        kinds = others;
    }
    by_code
};

/// A frame as cut off a lane: header checked, body not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// Kind as it travelled; may be unknown.
    pub kind: u8,
    /// Flags; their meaning depends on the kind.
    pub flags: u16,
    /// The checksum of the header, checked when the body is decoded.
    pub checksum: u32,
    /// The body.
    pub body: Bytes,
}

/// Bytes of the whole frame that starts at the front of `bytes`, `None` while its header is
/// incomplete. `body_limit` bounds frames that carry a message; others are bounded by
/// [`CONTROL_BYTES_MAX`] and, for administrative ones, [`ADMIN_BYTES_MAX`].
///
/// # Errors
/// [`DecodeError`] when these bytes cannot start a frame; the lane is lost then.
pub fn frame_len(bytes: &[u8], body_limit: usize) -> Result<Option<usize>, DecodeError> {
    // W-FRM-2: a wrong first byte is an error at once, not only when sixteen bytes are there.
    for (at, want) in MAGIC.iter().chain(&[HEADER_VERSION]).enumerate() {
        match bytes.get(at) {
            Some(found) if found == want => {}
            Some(found) => {
                let what = if at < 2 {
                    "frame magic"
                } else {
                    "frame version"
                };
                return Err(DecodeError::Invalid {
                    what,
                    value: u64::from(*found),
                });
            }
            None => return Ok(None),
        }
    }
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(None);
    };
    let [_, _, _, kind, _, _, r0, r1, l0, l1, l2, l3, _, _, _, _] = *header;
    // W-FRM-3.
    if (r0, r1) != (0, 0) {
        let value = u64::from(u16::from_le_bytes([r0, r1]));
        return Err(DecodeError::Invalid {
            what: "reserved header field",
            value,
        });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    // W-FRM-4.
    let limit = length_limit(kind, body_limit);
    if length > limit {
        let (value, limit) = (length as u64, limit as u64);
        return Err(DecodeError::OverLimit {
            what: "frame length",
            value,
            limit,
        });
    }
    Ok(Some(length.saturating_add(FRAME_HEADER_BYTES)))
}

/// Largest body of a frame of a kind (W-FRM-4).
const fn length_limit(kind: u8, body_limit: usize) -> usize {
    const ADMIN: usize = ADMIN_FIXED_BYTES + ADMIN_BYTES_MAX;
    const REMOTE: usize = REMOTE_FIXED_BYTES + ADMIN;
    const DATA: u8 = FrameKind::Data.code();
    const PUT: u8 = FrameKind::Put.code();
    const DELIVERY: u8 = FrameKind::Delivery.code();
    const BODY_PART: u8 = FrameKind::BodyPart.code();
    const ADMIN_REQUEST: u8 = FrameKind::Admin.code();
    const ADMIN_REPLY: u8 = FrameKind::AdminReply.code();
    const REMOTE_REQUEST: u8 = FrameKind::RemoteRequest.code();
    const REMOTE_ANSWER: u8 = FrameKind::RemoteAnswer.code();
    match kind {
        DATA | PUT | DELIVERY => body_limit,
        BODY_PART => BODY_PART_FIXED_BYTES + BODY_PART_BYTES_MAX,
        ADMIN_REQUEST | ADMIN_REPLY => ADMIN,
        REMOTE_REQUEST => REMOTE,
        REMOTE_ANSWER if body_limit > REMOTE => body_limit,
        REMOTE_ANSWER => REMOTE,
        _ => CONTROL_BYTES_MAX,
    }
}

/// Cuts one whole frame off the front of `from`; `None` when it is not all there yet. However the
/// bytes came in chunks, the frames are the same (W-FRM-9).
///
/// # Errors
/// As [`frame_len`].
pub fn split_frame(from: &mut Bytes, body_limit: usize) -> Result<Option<RawFrame>, DecodeError> {
    let Some(cut) = Cut::first(from, body_limit)? else {
        return Ok(None);
    };
    let raw = RawFrame {
        kind: cut.kind,
        flags: cut.flags,
        checksum: cut.checksum,
        body: from.slice_ref(cut.body),
    };
    from.advance(cut.len());
    Ok(Some(raw))
}

impl RawFrame {
    pub(crate) fn cut(&self) -> Cut<'_> {
        let length = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        Cut {
            kind: self.kind,
            flags: self.flags,
            checksum: self.checksum,
            head: header_bytes(self.kind, self.flags, length),
            all: &self.body,
            body: &self.body,
        }
    }
}

/// A frame where it lies, header checked: nothing is counted as shared before its fields are.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    checksum: u32,
    /// What the checksum covers of the header.
    head: [u8; 12],
    /// The buffer that slices share.
    pub(crate) all: &'a Bytes,
    pub(crate) body: &'a [u8],
}

impl<'a> Cut<'a> {
    /// The whole frame at the front of `from`, which is not changed.
    pub(crate) fn first(from: &'a Bytes, body_limit: usize) -> Result<Option<Self>, DecodeError> {
        let Some(len) = frame_len(from, body_limit)? else {
            return Ok(None);
        };
        let Some((header, body)) = from
            .get(..len)
            .and_then(|frame| frame.split_first_chunk::<FRAME_HEADER_BYTES>())
        else {
            return Ok(None);
        };
        let (head, _) = header.split_first_chunk().unwrap_or((&[0; 12], &[]));
        let [_, _, _, kind, f0, f1, _, _, _, _, _, _, c0, c1, c2, c3] = *header;
        Ok(Some(Self {
            kind,
            flags: u16::from_le_bytes([f0, f1]),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
            head: *head,
            all: from,
            body,
        }))
    }

    /// Bytes of the frame with its header.
    pub(crate) const fn len(&self) -> usize {
        self.body.len().saturating_add(FRAME_HEADER_BYTES)
    }

    pub(crate) fn reader(&self) -> Reader<'a> {
        Reader::new(self.all, self.body)
    }

    /// Compares the checksum, CRC32C over the first 12 header bytes and the first
    /// `covered` bytes of the body (W-FRM-5).
    ///
    /// # Errors
    /// [`DecodeError::Checksum`].
    pub(crate) fn verify(&self, covered: usize) -> Result<(), DecodeError> {
        let covered = self.body.get(..covered).unwrap_or(self.body);
        let expected = checksum(&self.head, covered);
        if expected == self.checksum {
            Ok(())
        } else {
            Err(DecodeError::Checksum {
                expected,
                found: self.checksum,
            })
        }
    }

    /// Refuses flags that are neither in `known` nor ignorable.
    pub(crate) fn check_flags(&self, known: u16) -> Result<(), DecodeError> {
        let unknown = self.flags & !(known | IGNORABLE_FLAGS);
        if unknown == 0 {
            Ok(())
        } else {
            Err(DecodeError::Invalid {
                what: "frame flags",
                value: u64::from(unknown),
            })
        }
    }
}

fn checksum(head: &[u8; 12], covered: &[u8]) -> u32 {
    crc32c(crc32c(0, head), covered)
}

fn header_bytes(kind: u8, flags: u16, length: u32) -> [u8; 12] {
    let [m0, m1] = MAGIC;
    let [f0, f1] = flags.to_le_bytes();
    let [l0, l1, l2, l3] = length.to_le_bytes();
    [m0, m1, HEADER_VERSION, kind, f0, f1, 0, 0, l0, l1, l2, l3]
}

/// Bytes of header and fields of a usual frame, reserved at once.
const USUAL_BYTES: usize = 512;

/// Writes one frame: header, what `meta` writes, then `body` untouched by the checksum and cut to
/// [`BODY_BYTES_MAX`].
pub(crate) fn put_frame(
    to: &mut BytesMut,
    kind: FrameKind,
    flags: u16,
    body: &[u8],
    meta: impl FnOnce(&mut BytesMut),
) {
    let body = body.get(..BODY_BYTES_MAX as usize).unwrap_or(body);
    let start = to.len();
    // Most of what precedes a body fits; the rest grows as it must.
    to.reserve(body.len().saturating_add(USUAL_BYTES));
    to.put_bytes(0, FRAME_HEADER_BYTES);
    meta(to);
    let meta_start = start.saturating_add(FRAME_HEADER_BYTES);
    let meta_len = to.len().saturating_sub(meta_start);
    // Every kind's parts are limited far below 4 GiB.
    let length = u32::try_from(meta_len.saturating_add(body.len())).unwrap_or(u32::MAX);
    let header = header_bytes(kind.code(), flags, length);
    let written = to.get(meta_start..).unwrap_or_default();
    let checksum = checksum(&header, written);
    if let Some(place) = to.get_mut(start..meta_start) {
        let (head, tail) = place.split_at_mut(header.len());
        head.copy_from_slice(&header);
        tail.copy_from_slice(&checksum.to_le_bytes());
    }
    to.put_slice(body);
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_unique_and_found_by_code() {
        for kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_code(kind.code()), Some(*kind));
            assert!(kind.code() < FIRST_IGNORABLE_KIND);
        }
        let known = (0..=u8::MAX).filter_map(FrameKind::from_code).count();
        assert_eq!(known, FrameKind::ALL.len());
    }

    #[test]
    fn an_announced_length_is_refused_before_the_body_arrives() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, FrameKind::Hello, 0, &[], |to| {
            to.put_bytes(0, 10);
        });
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            frame_len(&bytes, 1 << 20),
            Err(DecodeError::OverLimit { .. })
        ));
        assert_eq!(frame_len(b"QM", 10).unwrap(), None);
        assert!(frame_len(b"GE", 10).is_err());
    }
}

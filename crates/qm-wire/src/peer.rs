//! The frames two queue managers exchange, as one type.

use bytes::{Bytes, BytesMut};

use crate::ack::{Answer, NotHeld, Query, Reject, RoutedAck, SessionAck};
use crate::codec::{DecodeError, Reader};
use crate::data::Data;
use crate::frame::{FIRST_IGNORABLE_KIND, FrameKind, RawFrame, put_frame, split_frame};
use crate::hello::{Credit, Goodbye, Hello, QueueState, Welcome};
use crate::limits::ENTRIES_MAX;

/// A frame between two queue managers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFrame {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Credit`].
    Credit(Credit),
    /// See [`QueueState`].
    QueueState(QueueState),
    /// See [`Goodbye`].
    Goodbye(Goodbye),
    /// See [`Data`].
    Data(Data),
    /// See [`SessionAck`].
    SessionAck(SessionAck),
    /// See [`RoutedAck`].
    RoutedAck(RoutedAck),
    /// See [`NotHeld`].
    NotHeld(NotHeld),
    /// See [`Query`].
    Query(Query),
    /// See [`Answer`].
    Answer(Answer),
    /// See [`Reject`].
    Reject(Reject),
    /// A kind of a later version that may be skipped.
    Ignored {
        /// Its kind, at least [`FIRST_IGNORABLE_KIND`].
        kind: u8,
    },
}

impl PeerFrame {
    /// The frame's kind; `None` for one that was skipped.
    #[must_use]
    pub const fn kind(&self) -> Option<FrameKind> {
        Some(match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Welcome(_) => FrameKind::Welcome,
            Self::Credit(_) => FrameKind::Credit,
            Self::QueueState(_) => FrameKind::QueueState,
            Self::Goodbye(_) => FrameKind::Goodbye,
            Self::Data(_) => FrameKind::Data,
            Self::SessionAck(_) => FrameKind::SessionAck,
            Self::RoutedAck(_) => FrameKind::RoutedAck,
            Self::NotHeld(_) => FrameKind::NotHeld,
            Self::Query(_) => FrameKind::Query,
            Self::Answer(_) => FrameKind::Answer,
            Self::Reject(_) => FrameKind::Reject,
            Self::Ignored { .. } => return None,
        })
    }

    /// Appends the frame so that the peer accepts it, whatever its size.
    ///
    /// W-LIM-3: a list of more than [`ENTRIES_MAX`] entries goes out as several frames, an empty
    /// one as none; a text over its limit is cut. A skipped frame appends nothing. See
    /// [`SessionAck::cover`] for acks of many ranges.
    pub fn encode(&self, to: &mut BytesMut) {
        let Some(kind) = self.kind() else { return };
        match self {
            Self::Hello(frame) => put_frame(to, kind, 0, &[], |to| frame.write(to)),
            Self::Welcome(frame) => put_frame(to, kind, 0, &[], |to| frame.write(to)),
            Self::Credit(frame) => put_frame(to, kind, 0, &[], |to| frame.write(to)),
            Self::QueueState(frame) => put_frame(to, kind, 0, &[], |to| frame.write(to)),
            Self::Goodbye(frame) => put_frame(to, kind, 0, &[], |to| frame.write(to)),
            Self::Data(frame) => frame.encode(to),
            Self::SessionAck(frame) if frame.ranges.is_empty() => {}
            Self::SessionAck(frame) => put_frame(to, kind, 0, &[], |to| frame.write(to)),
            Self::RoutedAck(frame) => {
                put_parts(to, kind, &frame.entries, |to, part| frame.write(to, part));
            }
            Self::NotHeld(frame) => {
                put_parts(to, kind, &frame.entries, |to, part| frame.write(to, part));
            }
            Self::Query(frame) => {
                put_parts(to, kind, &frame.entries, |to, part| frame.write(to, part));
            }
            Self::Answer(frame) => {
                put_parts(to, kind, &frame.entries, |to, part| frame.write(to, part));
            }
            Self::Reject(frame) => put_parts(to, kind, &frame.refusals, Reject::write),
            Self::Ignored { .. } => {}
        }
    }

    /// Understands a frame cut off a lane.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule that is broken; the session ends then.
    pub fn decode(raw: &RawFrame) -> Result<Self, DecodeError> {
        let Some(kind) = FrameKind::from_code(raw.kind) else {
            if raw.kind < FIRST_IGNORABLE_KIND {
                return Err(DecodeError::UnknownKind { kind: raw.kind });
            }
            // W-VER-3: without this, one flipped bit would turn a message into a frame to be
            // skipped.
            raw.verify(raw.body.len())?;
            return Ok(Self::Ignored { kind: raw.kind });
        };
        // W-FRM-8.
        if !kind.is_between_nodes() {
            return Err(DecodeError::UnknownKind { kind: raw.kind });
        }
        if kind == FrameKind::Data {
            return Ok(Self::Data(Data::read(raw)?));
        }
        raw.verify(raw.body.len())?;
        raw.check_flags(0)?;
        let mut r = Reader::new(&raw.body);
        let frame = match kind {
            FrameKind::Hello => Self::Hello(Hello::read(&mut r)?),
            FrameKind::Welcome => Self::Welcome(Welcome::read(&mut r)?),
            FrameKind::Credit => Self::Credit(Credit::read(&mut r)?),
            FrameKind::QueueState => Self::QueueState(QueueState::read(&mut r)?),
            FrameKind::Goodbye => Self::Goodbye(Goodbye::read(&mut r)?),
            FrameKind::SessionAck => Self::SessionAck(SessionAck::read(&mut r)?),
            FrameKind::RoutedAck => Self::RoutedAck(RoutedAck::read(&mut r)?),
            FrameKind::NotHeld => Self::NotHeld(NotHeld::read(&mut r)?),
            FrameKind::Query => Self::Query(Query::read(&mut r)?),
            FrameKind::Answer => Self::Answer(Answer::read(&mut r)?),
            FrameKind::Reject => Self::Reject(Reject::read(&mut r)?),
            other => return Err(DecodeError::UnknownKind { kind: other.code() }),
        };
        r.finish("frame body")?;
        Ok(frame)
    }

    /// Cuts and decodes the next frame of `from`; `None` when no whole frame is there.
    ///
    /// # Errors
    /// As [`PeerFrame::decode`] and [`frame_len`](crate::frame::frame_len).
    pub fn next(from: &mut Bytes, body_limit: usize) -> Result<Option<Self>, DecodeError> {
        split_frame(from, body_limit)?
            .map(|raw| Self::decode(&raw))
            .transpose()
    }
}

/// Writes one frame for every [`ENTRIES_MAX`] items.
fn put_parts<T>(
    to: &mut BytesMut,
    kind: FrameKind,
    items: &[T],
    write: impl Fn(&mut BytesMut, &[T]),
) {
    for part in items.chunks(ENTRIES_MAX) {
        put_frame(to, kind, 0, &[], |to| write(to, part));
    }
}

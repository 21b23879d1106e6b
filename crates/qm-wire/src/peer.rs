//! The frames two queue managers exchange, as one type.

use bytes::{Buf, Bytes, BytesMut};

use crate::ack::{Answer, NotHeld, Query, Reject, RoutedAck, SessionAck};
use crate::codec::DecodeError;
use crate::data::Data;
use crate::finals::{Evicted, Final, FinalConfirm};
use crate::frame::{Cut, FIRST_IGNORABLE_KIND, FrameKind, RawFrame, put_frame};
use crate::handshake::{Challenge, Confirm};
use crate::hello::{Credit, Goodbye, Hello, QueueState, Welcome};
use crate::large::{Announce, BodyPart, BodyWanted};
use crate::limits::{ACK_RANGES_MAX, ENTRIES_MAX, EVICTED_MARKS_MAX};
use crate::remote::{RemoteAnswer, RemoteRequest};
use crate::stream::{Hold, Need, OrderAck, Skip, Skipped};
use crate::twin::{Ask, Claim, ForkPoints, Parted, Succession, Twin};

/// A frame between two queue managers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFrame {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Confirm`].
    Confirm(Confirm),
    /// See [`Challenge`].
    Challenge(Challenge),
    /// See [`Challenge`]; its answer.
    ChallengeOk(Challenge),
    /// See [`Credit`].
    Credit(Credit),
    /// See [`QueueState`].
    QueueState(QueueState),
    /// See [`Goodbye`].
    Goodbye(Goodbye),
    /// See [`Twin`].
    Twin(Twin),
    /// See [`Ask`].
    Ask(Ask),
    /// See [`Claim`].
    Claim(Claim),
    /// See [`ForkPoints`].
    ForkPoints(ForkPoints),
    /// See [`Succession`].
    Succession(Succession),
    /// See [`Parted`].
    Parted(Parted),
    /// See [`Data`].
    Data(Data),
    /// See [`Skip`].
    Skip(Skip),
    /// See [`Announce`].
    Announce(Announce),
    /// See [`BodyWanted`].
    BodyWanted(BodyWanted),
    /// See [`BodyPart`].
    BodyPart(BodyPart),
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
    /// See [`OrderAck`].
    OrderAck(OrderAck),
    /// See [`Need`].
    Need(Need),
    /// See [`Skipped`].
    Skipped(Skipped),
    /// See [`Hold`].
    Hold(Hold),
    /// See [`Final`].
    Final(Final),
    /// See [`FinalConfirm`].
    FinalConfirm(FinalConfirm),
    /// See [`Evicted`].
    Evicted(Evicted),
    /// See [`RemoteRequest`].
    RemoteRequest(RemoteRequest),
    /// See [`RemoteAnswer`].
    RemoteAnswer(RemoteAnswer),
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
            Self::Confirm(_) => FrameKind::Confirm,
            Self::Challenge(_) => FrameKind::Challenge,
            Self::ChallengeOk(_) => FrameKind::ChallengeOk,
            Self::Credit(_) => FrameKind::Credit,
            Self::QueueState(_) => FrameKind::QueueState,
            Self::Goodbye(_) => FrameKind::Goodbye,
            Self::Twin(_) => FrameKind::Twin,
            Self::Ask(_) => FrameKind::Ask,
            Self::Claim(_) => FrameKind::Claim,
            Self::ForkPoints(_) => FrameKind::ForkPoints,
            Self::Succession(_) => FrameKind::Succession,
            Self::Parted(_) => FrameKind::Parted,
            Self::Data(_) => FrameKind::Data,
            Self::Skip(_) => FrameKind::Skip,
            Self::Announce(_) => FrameKind::Announce,
            Self::BodyWanted(_) => FrameKind::BodyWanted,
            Self::BodyPart(_) => FrameKind::BodyPart,
            Self::SessionAck(_) => FrameKind::SessionAck,
            Self::RoutedAck(_) => FrameKind::RoutedAck,
            Self::NotHeld(_) => FrameKind::NotHeld,
            Self::Query(_) => FrameKind::Query,
            Self::Answer(_) => FrameKind::Answer,
            Self::Reject(_) => FrameKind::Reject,
            Self::OrderAck(_) => FrameKind::OrderAck,
            Self::Need(_) => FrameKind::Need,
            Self::Skipped(_) => FrameKind::Skipped,
            Self::Hold(_) => FrameKind::Hold,
            Self::Final(_) => FrameKind::Final,
            Self::FinalConfirm(_) => FrameKind::FinalConfirm,
            Self::Evicted(_) => FrameKind::Evicted,
            Self::RemoteRequest(_) => FrameKind::RemoteRequest,
            Self::RemoteAnswer(_) => FrameKind::RemoteAnswer,
            Self::Ignored { .. } => return None,
        })
    }

    /// Appends the frame so that the peer accepts it, whatever its size.
    ///
    /// W-LIM-3: a list of more entries than its limit goes out as several frames, an empty one as
    /// none; a text over its limit is cut. A skipped frame appends nothing. See
    /// [`SessionAck::cover`] for acks of many ranges. A frame whose type has a `check` that refuses
    /// it is refused by the peer as well.
    pub fn encode(&self, to: &mut BytesMut) {
        let Some(kind) = self.kind() else { return };
        match self {
            Self::Data(frame) => frame.encode(to),
            Self::Announce(frame) => frame.encode(to),
            Self::SessionAck(frame) if frame.ranges.is_empty() => {}
            Self::ForkPoints(frame) if frame.points.is_empty() => {}
            Self::RoutedAck(frame) => {
                put_parts(to, kind, &frame.entries, ENTRIES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::NotHeld(frame) => {
                put_parts(to, kind, &frame.entries, ENTRIES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::Query(frame) => {
                put_parts(to, kind, &frame.entries, ENTRIES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::Answer(frame) => {
                put_parts(to, kind, &frame.entries, ENTRIES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::Final(frame) => {
                put_parts(to, kind, &frame.entries, ENTRIES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::FinalConfirm(frame) => {
                put_parts(to, kind, &frame.entries, ENTRIES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::OrderAck(frame) => {
                put_parts(to, kind, &frame.runs, ACK_RANGES_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::Evicted(frame) => {
                put_parts(to, kind, &frame.marks, EVICTED_MARKS_MAX, |to, part| {
                    frame.write(to, part);
                });
            }
            Self::Reject(frame) => put_parts(to, kind, &frame.refusals, ENTRIES_MAX, Reject::write),
            Self::Skipped(frame) => put_parts(to, kind, &frame.links, ENTRIES_MAX, Skipped::write),
            _ => put_frame(to, kind, 0, &[], |to| self.write_plain(to)),
        }
    }

    /// The body of a frame that goes out as it is.
    fn write_plain(&self, to: &mut BytesMut) {
        match self {
            Self::Hello(frame) => frame.write(to),
            Self::Welcome(frame) => frame.write(to),
            Self::Confirm(frame) => frame.write(to),
            Self::Challenge(frame) => frame.write(to),
            Self::ChallengeOk(frame) => frame.write(to),
            Self::Credit(frame) => frame.write(to),
            Self::QueueState(frame) => frame.write(to),
            Self::Goodbye(frame) => frame.write(to),
            Self::Twin(frame) => frame.write(to),
            Self::Ask(frame) => frame.write(to),
            Self::Claim(frame) => frame.write(to),
            Self::ForkPoints(frame) => frame.write(to),
            Self::Succession(frame) => frame.write(to),
            Self::Parted(frame) => frame.write(to),
            Self::Skip(frame) => frame.write(to),
            Self::BodyWanted(frame) => frame.write(to),
            Self::BodyPart(frame) => frame.write(to),
            Self::SessionAck(frame) => frame.write(to),
            Self::Need(frame) => frame.write(to),
            Self::Hold(frame) => frame.write(to),
            Self::RemoteRequest(frame) => frame.write(to),
            Self::RemoteAnswer(frame) => frame.write(to),
            Self::Data(_)
            | Self::Announce(_)
            | Self::RoutedAck(_)
            | Self::NotHeld(_)
            | Self::Query(_)
            | Self::Answer(_)
            | Self::Reject(_)
            | Self::OrderAck(_)
            | Self::Skipped(_)
            | Self::Final(_)
            | Self::FinalConfirm(_)
            | Self::Evicted(_)
            | Self::Ignored { .. } => {}
        }
    }

    /// Understands a frame cut off a lane.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule that is broken; the session ends then.
    pub fn decode(raw: &RawFrame) -> Result<Self, DecodeError> {
        Self::read(&raw.cut())
    }

    #[inline]
    fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        // The frame that matters, apart from all others.
        if raw.kind == FrameKind::Data.code() {
            return Ok(Self::Data(Data::read(raw)?));
        }
        Self::read_other(raw)
    }

    fn read_other(raw: &Cut<'_>) -> Result<Self, DecodeError> {
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
        if kind == FrameKind::Announce {
            return Ok(Self::Announce(Announce::read(raw)?));
        }
        raw.verify(raw.body.len())?;
        raw.check_flags(0)?;
        let mut r = raw.reader();
        let frame = match kind {
            FrameKind::Hello => Self::Hello(Hello::read(&mut r)?),
            FrameKind::Welcome => Self::Welcome(Welcome::read(&mut r)?),
            FrameKind::Confirm => Self::Confirm(Confirm::read(&mut r)?),
            FrameKind::Challenge => Self::Challenge(Challenge::read(&mut r)?),
            FrameKind::ChallengeOk => Self::ChallengeOk(Challenge::read(&mut r)?),
            FrameKind::Credit => Self::Credit(Credit::read(&mut r)?),
            FrameKind::QueueState => Self::QueueState(QueueState::read(&mut r)?),
            FrameKind::Goodbye => Self::Goodbye(Goodbye::read(&mut r)?),
            FrameKind::Twin => Self::Twin(Twin::read(&mut r)?),
            FrameKind::Ask => Self::Ask(Ask::read(&mut r)?),
            FrameKind::Claim => Self::Claim(Claim::read(&mut r)?),
            FrameKind::ForkPoints => Self::ForkPoints(ForkPoints::read(&mut r)?),
            FrameKind::Succession => Self::Succession(Succession::read(&mut r)?),
            FrameKind::Parted => Self::Parted(Parted::read(&mut r)?),
            FrameKind::Skip => Self::Skip(Skip::read(&mut r)?),
            FrameKind::BodyWanted => Self::BodyWanted(BodyWanted::read(&mut r)?),
            FrameKind::BodyPart => Self::BodyPart(BodyPart::read(&mut r)?),
            FrameKind::SessionAck => Self::SessionAck(SessionAck::read(&mut r)?),
            FrameKind::RoutedAck => Self::RoutedAck(RoutedAck::read(&mut r)?),
            FrameKind::NotHeld => Self::NotHeld(NotHeld::read(&mut r)?),
            FrameKind::Query => Self::Query(Query::read(&mut r)?),
            FrameKind::Answer => Self::Answer(Answer::read(&mut r)?),
            FrameKind::Reject => Self::Reject(Reject::read(&mut r)?),
            FrameKind::OrderAck => Self::OrderAck(OrderAck::read(&mut r)?),
            FrameKind::Need => Self::Need(Need::read(&mut r)?),
            FrameKind::Skipped => Self::Skipped(Skipped::read(&mut r)?),
            FrameKind::Hold => Self::Hold(Hold::read(&mut r)?),
            FrameKind::Final => Self::Final(Final::read(&mut r)?),
            FrameKind::FinalConfirm => Self::FinalConfirm(FinalConfirm::read(&mut r)?),
            FrameKind::Evicted => Self::Evicted(Evicted::read(&mut r)?),
            FrameKind::RemoteRequest => Self::RemoteRequest(RemoteRequest::read(&mut r)?),
            FrameKind::RemoteAnswer => Self::RemoteAnswer(RemoteAnswer::read(&mut r)?),
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
        let Some(cut) = Cut::first(from, body_limit)? else {
            return Ok(None);
        };
        let (frame, len) = (Self::read(&cut)?, cut.len());
        from.advance(len);
        Ok(Some(frame))
    }
}

/// Writes one frame for every `limit` items.
fn put_parts<T>(
    to: &mut BytesMut,
    kind: FrameKind,
    items: &[T],
    limit: usize,
    write: impl Fn(&mut BytesMut, &[T]),
) {
    for part in items.chunks(limit) {
        put_frame(to, kind, 0, &[], |to| write(to, part));
    }
}

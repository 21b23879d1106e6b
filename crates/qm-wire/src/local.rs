//! Frames between an application and its own node, over a stream socket on one machine.
//!
//! The application opens with [`ClientHello`], the node answers with [`NodeHello`], then both
//! sides write as they like (W-LOC-1):
//!
//! * A [`Put`] is answered by [`Accepted`] or [`Refused`]. Its sequence counts 1, 2, 3 … per
//!   [`ClientId`](crate::ClientId) and over all connections of that client; a repeat of a sequence
//!   gets the first answer again and is not accepted a second time (W-LOC-2). At most
//!   [`window_messages`](NodeHello::window_messages) puts and
//!   [`window_bytes`](NodeHello::window_bytes) of their frames may be unanswered.
//! * A put that asked for it is followed: the node says its fate with [`Fate`], on the
//!   connection the client has then. It remembers whom to tell while it lives, so a client that
//!   comes back to another [`incarnation`](NodeHello::incarnation) hears no more of earlier puts.
//! * A [`Receive`] is answered by any number of [`Delivery`] frames and one [`ReceiveDone`]; a
//!   [`Settle`] by one [`Settled`]; an [`Admin`] by one [`AdminReply`]. Their request numbers
//!   are chosen by the application and belong to one connection; those of receives rise
//!   (W-LOC-3). At most [`CLIENT_REQUESTS_MAX`](crate::limits::CLIENT_REQUESTS_MAX) receives may
//!   be unanswered.
//! * Puts and receives may name a transaction, which an [`EndTransaction`] commits or aborts.
//! * What was delivered and not settled when the connection ends is given back to its queue
//!   (W-LOC-5).
//!
//! ```
//! use bytes::BytesMut;
//! use qm_wire::ClientId;
//! use qm_wire::local::{ClientFrame, ClientHello, Put};
//!
//! let mut wire = BytesMut::new();
//! let hello = ClientHello { protocol: 1, client: ClientId([7; 16]), program: "till".into() };
//! ClientFrame::Hello(hello).encode(&mut wire);
//! let put = Put::new(1, "orders", "hello".into());
//! put.check().unwrap();
//! ClientFrame::Put(put.clone()).encode(&mut wire);
//!
//! let mut arrived = wire.freeze();
//! let limit = qm_wire::limits::FRAME_BODY_BYTES_DEFAULT;
//! assert!(matches!(ClientFrame::next(&mut arrived, limit), Ok(Some(ClientFrame::Hello(_)))));
//! assert_eq!(ClientFrame::next(&mut arrived, limit), Ok(Some(ClientFrame::Put(put))));
//! assert_eq!(ClientFrame::next(&mut arrived, limit), Ok(None));
//! ```

mod answer;
mod put;
mod request;
mod transaction;

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::DecodeError;
use crate::frame::{Cut, FIRST_IGNORABLE_KIND, FrameKind, RawFrame, put_frame};
use crate::limits::FATE_RUNS_MAX;

pub use answer::{Accepted, AdminReply, Delivery, Fate, NodeHello, ReceiveDone, Refused, Settled};
pub use put::{Follow, IdempotencyKey, Put};
pub use request::{Admin, ClientHello, Receive, ReceiveMode, Settle, Verdict};
pub use transaction::{EndTransaction, TransactionEnded};

/// A frame from an application to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "puts are what travels; a box would cost an allocation for each"
)]
pub enum ClientFrame {
    /// See [`ClientHello`].
    Hello(ClientHello),
    /// See [`Put`].
    Put(Put),
    /// See [`Receive`].
    Receive(Receive),
    /// See [`Settle`].
    Settle(Settle),
    /// See [`Admin`].
    Admin(Admin),
    /// See [`EndTransaction`].
    EndTransaction(EndTransaction),
    /// A kind of a later version that may be skipped.
    Ignored {
        /// Its kind, at least [`FIRST_IGNORABLE_KIND`].
        kind: u8,
    },
}

/// A frame from a node to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeFrame {
    /// See [`NodeHello`].
    Hello(NodeHello),
    /// See [`Accepted`].
    Accepted(Accepted),
    /// See [`Refused`].
    Refused(Refused),
    /// See [`Fate`].
    Fate(Fate),
    /// See [`Delivery`].
    Delivery(Delivery),
    /// See [`ReceiveDone`].
    ReceiveDone(ReceiveDone),
    /// See [`Settled`].
    Settled(Settled),
    /// See [`AdminReply`].
    AdminReply(AdminReply),
    /// See [`TransactionEnded`].
    TransactionEnded(TransactionEnded),
    /// A kind of a later version that may be skipped.
    Ignored {
        /// Its kind, at least [`FIRST_IGNORABLE_KIND`].
        kind: u8,
    },
}

impl ClientFrame {
    /// The frame's kind; `None` for one that was skipped.
    #[must_use]
    pub const fn kind(&self) -> Option<FrameKind> {
        Some(match self {
            Self::Hello(_) => FrameKind::ClientHello,
            Self::Put(_) => FrameKind::Put,
            Self::Receive(_) => FrameKind::Receive,
            Self::Settle(_) => FrameKind::Settle,
            Self::Admin(_) => FrameKind::Admin,
            Self::EndTransaction(_) => FrameKind::EndTransaction,
            Self::Ignored { .. } => return None,
        })
    }

    /// Appends the frame; a skipped one appends nothing. One that its type's `check` refuses is
    /// refused by the node as well, and costs the connection.
    pub fn encode(&self, to: &mut BytesMut) {
        let Some(kind) = self.kind() else { return };
        if let Self::Put(put) = self {
            return put.encode(to);
        }
        let flags = match self {
            Self::Receive(frame) => frame.flags(),
            _ => 0,
        };
        put_frame(to, kind, flags, &[], |to| match self {
            Self::Hello(frame) => frame.write(to),
            Self::Receive(frame) => frame.write_with_transaction(to),
            Self::Settle(frame) => frame.write(to),
            Self::Admin(frame) => frame.write(to),
            Self::EndTransaction(frame) => frame.write(to),
            Self::Put(_) | Self::Ignored { .. } => {}
        });
    }

    /// Understands a frame cut off a stream.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule that is broken; the connection ends then.
    pub fn decode(raw: &RawFrame) -> Result<Self, DecodeError> {
        Self::read(&raw.cut())
    }

    fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        let Some(kind) = known_kind(raw)? else {
            return Ok(Self::Ignored { kind: raw.kind });
        };
        if kind == FrameKind::Put {
            return Ok(Self::Put(Put::read(raw)?));
        }
        raw.verify(raw.body.len())?;
        raw.check_flags(match kind {
            FrameKind::Receive => Receive::FLAGS,
            _ => 0,
        })?;
        let mut r = raw.reader();
        let frame = match kind {
            FrameKind::ClientHello => Self::Hello(ClientHello::read(&mut r)?),
            FrameKind::Receive => Self::Receive(Receive::read(&mut r, raw.flags)?),
            FrameKind::Settle => Self::Settle(Settle::read(&mut r)?),
            FrameKind::Admin => Self::Admin(Admin::read(&mut r)?),
            FrameKind::EndTransaction => Self::EndTransaction(EndTransaction::read(&mut r)?),
            other => return Err(DecodeError::UnknownKind { kind: other.code() }),
        };
        r.finish("frame body")?;
        Ok(frame)
    }

    /// Cuts and decodes the next frame of `from`; `None` when no whole frame is there.
    ///
    /// # Errors
    /// As [`ClientFrame::decode`] and [`frame_len`](crate::frame::frame_len).
    pub fn next(from: &mut Bytes, body_limit: usize) -> Result<Option<Self>, DecodeError> {
        let Some(cut) = Cut::first(from, body_limit)? else {
            return Ok(None);
        };
        let (frame, len) = (Self::read(&cut)?, cut.len());
        from.advance(len);
        Ok(Some(frame))
    }
}

impl NodeFrame {
    /// The frame's kind; `None` for one that was skipped.
    #[must_use]
    pub const fn kind(&self) -> Option<FrameKind> {
        Some(match self {
            Self::Hello(_) => FrameKind::NodeHello,
            Self::Accepted(_) => FrameKind::Accepted,
            Self::Refused(_) => FrameKind::Refused,
            Self::Fate(_) => FrameKind::Fate,
            Self::Delivery(_) => FrameKind::Delivery,
            Self::ReceiveDone(_) => FrameKind::ReceiveDone,
            Self::Settled(_) => FrameKind::Settled,
            Self::AdminReply(_) => FrameKind::AdminReply,
            Self::TransactionEnded(_) => FrameKind::TransactionEnded,
            Self::Ignored { .. } => return None,
        })
    }

    /// Appends the frame; a skipped one appends nothing. Texts for people are cut to their limit
    /// and a [`Fate`] of more than [`FATE_RUNS_MAX`] runs goes out as several frames. An
    /// [`AdminReply`] that its `check` refuses is refused by the application as well.
    pub fn encode(&self, to: &mut BytesMut) {
        let Some(kind) = self.kind() else { return };
        match self {
            Self::Delivery(delivery) => return delivery.encode(to),
            Self::Fate(fate) => {
                for runs in fate.runs.chunks(FATE_RUNS_MAX) {
                    put_frame(to, kind, 0, &[], |to| Fate::write(to, runs));
                }
                return;
            }
            _ => {}
        }
        put_frame(to, kind, 0, &[], |to| match self {
            Self::Hello(frame) => frame.write(to),
            Self::Accepted(frame) => frame.write(to),
            Self::Refused(frame) => frame.write(to),
            Self::ReceiveDone(frame) => frame.write(to),
            Self::Settled(frame) => frame.write(to),
            Self::AdminReply(frame) => frame.write(to),
            Self::TransactionEnded(frame) => frame.write(to),
            Self::Fate(_) | Self::Delivery(_) | Self::Ignored { .. } => {}
        });
    }

    /// Understands a frame cut off a stream.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule that is broken; the connection ends then.
    pub fn decode(raw: &RawFrame) -> Result<Self, DecodeError> {
        Self::read(&raw.cut())
    }

    fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        let Some(kind) = known_kind(raw)? else {
            return Ok(Self::Ignored { kind: raw.kind });
        };
        if kind == FrameKind::Delivery {
            return Ok(Self::Delivery(Delivery::read(raw)?));
        }
        verify_plain(raw)?;
        let mut r = raw.reader();
        let frame = match kind {
            FrameKind::NodeHello => Self::Hello(NodeHello::read(&mut r)?),
            FrameKind::Accepted => Self::Accepted(Accepted::read(&mut r)?),
            FrameKind::Refused => Self::Refused(Refused::read(&mut r)?),
            FrameKind::Fate => Self::Fate(Fate::read(&mut r)?),
            FrameKind::ReceiveDone => Self::ReceiveDone(ReceiveDone::read(&mut r)?),
            FrameKind::Settled => Self::Settled(Settled::read(&mut r)?),
            FrameKind::AdminReply => Self::AdminReply(AdminReply::read(&mut r)?),
            FrameKind::TransactionEnded => Self::TransactionEnded(TransactionEnded::read(&mut r)?),
            other => return Err(DecodeError::UnknownKind { kind: other.code() }),
        };
        r.finish("frame body")?;
        Ok(frame)
    }

    /// Cuts and decodes the next frame of `from`; `None` when no whole frame is there.
    ///
    /// # Errors
    /// As [`NodeFrame::decode`] and [`frame_len`](crate::frame::frame_len).
    pub fn next(from: &mut Bytes, body_limit: usize) -> Result<Option<Self>, DecodeError> {
        let Some(cut) = Cut::first(from, body_limit)? else {
            return Ok(None);
        };
        let (frame, len) = (Self::read(&cut)?, cut.len());
        from.advance(len);
        Ok(Some(frame))
    }
}

/// The kind of a frame, `None` for one that may be skipped.
fn known_kind(raw: &Cut<'_>) -> Result<Option<FrameKind>, DecodeError> {
    match FrameKind::from_code(raw.kind) {
        Some(kind) => Ok(Some(kind)),
        // Without this, one flipped bit would turn a message into a frame to be skipped.
        None if raw.kind >= FIRST_IGNORABLE_KIND => raw.verify(raw.body.len()).map(|()| None),
        None => Err(DecodeError::UnknownKind { kind: raw.kind }),
    }
}

/// Checks a frame whose checksum covers all of it and that has no flags.
fn verify_plain(raw: &Cut<'_>) -> Result<(), DecodeError> {
    raw.verify(raw.body.len())?;
    raw.check_flags(0)
}

#[cfg(test)]
mod tests;

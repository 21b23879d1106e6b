//! An application's request to another node than its own: a frame of the local link inside a frame
//! between nodes (W-RMT-1).

use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader};
use crate::frame::FrameKind;
use crate::local::{Admin, AdminReply, ClientFrame, Delivery, NodeFrame, Receive, ReceiveDone};
use crate::local::{Settle, Settled};

/// What may be asked of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteAsk {
    /// Hand out messages. Its transaction is not carried.
    Receive(Receive),
    /// What shall become of them.
    Settle(Settle),
    /// An administrative request.
    Admin(Admin),
}

/// A request on behalf of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRequest {
    /// The asking node's number for the application.
    pub channel: u64,
    /// What is asked.
    pub ask: RemoteAsk,
}

/// What another node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteReply {
    /// A message.
    Delivery(Delivery),
    /// A receive request is answered.
    ReceiveDone(ReceiveDone),
    /// A settle request is done.
    Settled(Settled),
    /// The answer to an administrative request.
    AdminReply(AdminReply),
}

/// An answer to an application at another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAnswer {
    /// The channel of the request.
    pub channel: u64,
    /// What is answered.
    pub reply: RemoteReply,
}

impl RemoteRequest {
    /// The request of an application's frame; `None` for a frame that no other node is asked.
    #[must_use]
    pub fn new(channel: u64, frame: ClientFrame) -> Option<Self> {
        let ask = match frame {
            ClientFrame::Receive(receive) => RemoteAsk::Receive(receive),
            ClientFrame::Settle(settle) => RemoteAsk::Settle(settle),
            ClientFrame::Admin(admin) => RemoteAsk::Admin(admin),
            _ => return None,
        };
        Some(Self { channel, ask })
    }

    /// The number of the request inside.
    #[must_use]
    pub const fn request(&self) -> u64 {
        match &self.ask {
            RemoteAsk::Receive(receive) => receive.request,
            RemoteAsk::Settle(settle) => settle.request,
            RemoteAsk::Admin(admin) => admin.request,
        }
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.channel);
        match &self.ask {
            RemoteAsk::Receive(receive) => {
                to.put_u8(FrameKind::Receive.code());
                receive.write(to);
            }
            RemoteAsk::Settle(settle) => {
                to.put_u8(FrameKind::Settle.code());
                settle.write(to);
            }
            RemoteAsk::Admin(admin) => {
                to.put_u8(FrameKind::Admin.code());
                admin.write(to);
            }
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let channel = r.u64("channel")?;
        let code = r.u8("kind of a remote request")?;
        let ask = match FrameKind::from_code(code) {
            Some(FrameKind::Receive) => RemoteAsk::Receive(Receive::read(r, 0)?),
            Some(FrameKind::Settle) => RemoteAsk::Settle(Settle::read(r)?),
            Some(FrameKind::Admin) => RemoteAsk::Admin(Admin::read(r)?),
            _ => {
                return Err(DecodeError::Invalid {
                    what: "kind of a remote request",
                    value: u64::from(code),
                });
            }
        };
        Ok(Self { channel, ask })
    }
}

impl RemoteAnswer {
    /// The answer of a node's frame; `None` for a frame that no other node gives.
    #[must_use]
    pub fn new(channel: u64, frame: NodeFrame) -> Option<Self> {
        let reply = match frame {
            NodeFrame::Delivery(delivery) => RemoteReply::Delivery(delivery),
            NodeFrame::ReceiveDone(done) => RemoteReply::ReceiveDone(done),
            NodeFrame::Settled(settled) => RemoteReply::Settled(settled),
            NodeFrame::AdminReply(reply) => RemoteReply::AdminReply(reply),
            _ => return None,
        };
        Some(Self { channel, reply })
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.channel);
        match &self.reply {
            RemoteReply::Delivery(delivery) => {
                to.put_u8(FrameKind::Delivery.code());
                delivery.write(to);
                to.put_slice(&delivery.body);
            }
            RemoteReply::ReceiveDone(done) => {
                to.put_u8(FrameKind::ReceiveDone.code());
                done.write(to);
            }
            RemoteReply::Settled(settled) => {
                to.put_u8(FrameKind::Settled.code());
                settled.write(to);
            }
            RemoteReply::AdminReply(reply) => {
                to.put_u8(FrameKind::AdminReply.code());
                reply.write(to);
            }
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let channel = r.u64("channel")?;
        let code = r.u8("kind of a remote answer")?;
        let reply = match FrameKind::from_code(code) {
            Some(FrameKind::Delivery) => RemoteReply::Delivery(Delivery::read_fields(r)?),
            Some(FrameKind::ReceiveDone) => RemoteReply::ReceiveDone(ReceiveDone::read(r)?),
            Some(FrameKind::Settled) => RemoteReply::Settled(Settled::read(r)?),
            Some(FrameKind::AdminReply) => RemoteReply::AdminReply(AdminReply::read(r)?),
            _ => {
                return Err(DecodeError::Invalid {
                    what: "kind of a remote answer",
                    value: u64::from(code),
                });
            }
        };
        Ok(Self { channel, reply })
    }
}

//! What an application links to talk to its queue manager: send, receive, peek.
#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("qm-client speaks over Unix domain sockets, which this platform does not offer");

pub mod blocking;
mod client;
mod delivery;
mod driver;
mod error;
mod message;
mod puts;
mod receive;
mod requests;
mod shared;
mod ticket;

pub use bytes::Bytes;
pub use client::{Builder, Client, NodeInfo};
pub use delivery::{Delivery, Received, Settling};
pub use error::{
    AdminError, ClientError, FateError, ReceiveError, SendError, SettleError, Violation,
};
pub use message::Message;
pub use qm_wire::local::{Follow, Verdict};
pub use qm_wire::{
    AckWishes, Class, ClientId, Destination, Envelope, Incarnation, MessageId, Outcome, Priority,
    QmId, QueueName, Tag, Text,
};
pub use receive::{Deliveries, ReceiveOptions};
pub use ticket::PutTicket;

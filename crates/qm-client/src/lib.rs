//! What an application links to talk to its queue manager: send, receive, peek, administer.
//!
//! It speaks to the node of its own machine over a Unix domain socket; the node stores messages
//! and carries them to other nodes. It is not a queue manager itself: it keeps nothing on disk
//! and reaches no other machine.
//!
//! ```no_run
//! use std::time::Duration;
//! use qm_client::{Client, Message, ReceiveOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("/run/qm/node.sock").await?;
//!
//! // On disk at this node when it returns.
//! let id = client.send(Message::new("hub/orders", "three apples").label("order 17")).await?;
//! println!("accepted as {id}");
//!
//! // Many at once: each ticket is a future of its message's id.
//! let tickets = [
//!     client.put(Message::new("hub/orders", "four pears")).await?,
//!     client.put(Message::new("hub/orders", "five plums")).await?,
//! ];
//! for ticket in tickets {
//!     ticket.await?;
//! }
//!
//! // A delivery that is dropped before it is consumed goes back to its queue.
//! let queue = "replies".parse()?;
//! let options = ReceiveOptions::new().wait(Duration::from_secs(5));
//! if let Some(delivery) = client.receive(&queue, &options).await? {
//!     println!("{}: {} bytes", delivery.label(), delivery.body().len());
//!     delivery.consume().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The few types to know
//!
//! * [`Client`]: connects, sends, receives. Clone it freely. [`blocking::Client`] is the same for
//!   programs without an async runtime.
//! * [`Message`]: what is sent; only destination and body are needed.
//! * [`PutTicket`]: tells when a message is accepted and, if it is followed, *delivered* (the
//!   destination node has it) and *received* (an application consumed it).
//! * [`Delivery`]: a received message under a lease; [`Deliveries`]: all of a queue as they come.
//! * [`Transaction`]: sends and receives that happen together or not at all.
//! * [`SendError`]: [`Rejected`](SendError::Rejected) and
//!   [`OutcomeUnknown`](SendError::OutcomeUnknown) are different things: after the second the
//!   message may have been accepted.
//!
//! # Transactions
//!
//! Take a message and send what follows from it, exactly once: the commit is one write to the
//! node's disk, and a crash on either side of it leaves all or nothing.
//!
//! ```no_run
//! # async fn example(client: qm_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use qm_client::{Class, Message, ReceiveOptions};
//!
//! let orders = "orders".parse()?;
//! let options = ReceiveOptions::new().wait(Duration::from_secs(5));
//! let mut transaction = client.begin();
//! if let Some(order) = transaction.receive(&orders, &options).await? {
//!     let invoice = Message::new("hub/invoices", order.body().clone());
//!     transaction.send(invoice.class(Class::Transactional))?;
//!     transaction.commit().await?;
//! }
//! // Dropped without a commit, the order is back in its queue.
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! * A message is accepted once, however often connection or node are lost while its answer is
//!   awaited: it is repeated under its number, and the node answers repeats with its first
//!   answer. Express messages are the exception after a restart of the node, which forgets them:
//!   their outcome is unknown then.
//! * When the node stays away for longer than [`Builder::reconnect_for`], waiting ends: what was
//!   handed over has an unknown outcome, what was not is known not to be sent.
//! * Messages of one task are accepted in the order of its calls.
//! * A transaction is committed once, however often the connection is lost while its answer is
//!   awaited, or not at all. After [`TransactionError::OutcomeUnknown`], and only then, nobody
//!   knows; idempotency keys make it safe to do it again.
//! * A delivery is settled on the connection it came on or not at all. One that is dropped, whose
//!   future is dropped, or whose process dies, goes back to its queue with a raised abort count.
//! * Memory is bounded: unanswered puts by the node's window, where [`Client::put`] waits;
//!   followed messages by [`Builder::followed_max`]; deliveries by the limits of what was asked.
//! * What the node sends is checked before it is believed. A node that breaks the protocol is
//!   left for good, with an error that says how.
//!
//! Every asynchronous method says whether it is cancel safe. All of them need tokio with I/O and
//! time enabled; [`Deliveries::poll_next`] makes a `Stream` of any kind from deliveries.
//!
//! # Features
//!
//! None. It builds on Unix only, because the node's local socket is a Unix domain socket.
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
mod transaction;

pub use bytes::Bytes;
pub use client::{Builder, Client, NodeInfo};
pub use delivery::{Delivery, Received, Settling};
pub use error::{
    AdminError, ClientError, FateError, ReceiveError, SendError, SettleError, TransactionError,
    Violation,
};
pub use message::Message;
pub use qm_wire::local::{Follow, Verdict};
pub use qm_wire::{
    AckWishes, Class, ClientId, DecodeError, Destination, Envelope, Incarnation, MessageId,
    OpenError, Outcome, Priority, Properties, QmId, QueueName, Tag, Text,
};
pub use receive::{Deliveries, ReceiveOptions};
pub use ticket::PutTicket;
pub use transaction::{Committed, Transaction};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

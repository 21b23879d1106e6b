//! The client for programs without an async runtime.
//!
//! A thread of its own serves the connection; the calling thread sleeps while it waits. Do not
//! use it inside an async runtime: there the asynchronous [`Client`](crate::Client) is right, and
//! waiting here panics.
//!
//! ```no_run
//! use qm_client::{Message, ReceiveOptions, blocking::Client};
//!
//! let client = Client::connect("/run/qm/node.sock")?;
//! client.send(Message::new("orders", "three apples"))?;
//! let queue = "orders".parse()?;
//! if let Some(delivery) = client.receive(&queue, &ReceiveOptions::new())? {
//!     println!("{} bytes", delivery.body().len());
//!     client.wait(delivery.consume())?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use qm_wire::local::Verdict;
use qm_wire::{MessageId, QueueName};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::client::{Builder, NodeInfo};
use crate::delivery::{Delivery, Received};
use crate::error::{
    AdminError, ClientError, ReceiveError, SendError, SettleError, TransactionError,
};
use crate::message::Message;
use crate::receive::ReceiveOptions;
use crate::ticket::PutTicket;
use crate::transaction::Committed;

/// A connection to the queue manager of this machine; see [`Client`](crate::Client) for what it
/// promises.
///
/// Cloning is cheap and shares the connection. When the last clone is dropped the connection
/// ends as by [`close`](Client::close); deliveries that are still held are given back by the node.
///
/// # Panics
/// Every method that waits panics when it is called within an async runtime.
#[derive(Clone, Debug)]
pub struct Client {
    // Before the thread, so that it is dropped first.
    client: crate::Client,
    service: Arc<Service>,
}

/// The thread that serves the connection.
#[derive(Debug)]
struct Service {
    client: crate::Client,
    handle: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Service {
    fn drop(&mut self) {
        // Within a runtime waiting would panic; then the node notices the end of the connection.
        if runtime::Handle::try_current().is_err() {
            self.handle.block_on(self.client.close());
        }
        // Both fail only when the thread is gone, which is what is wanted.
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(thread::JoinHandle::join);
    }
}

impl Client {
    /// Connects to the node that listens at `path`, with default settings.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::connect_with(crate::Client::builder(), path)
    }

    /// Connects to the node that listens at `path`.
    ///
    /// # Errors
    /// As [`Builder::connect`], and [`ClientError::System`] when no thread could be started.
    pub fn connect_with(builder: Builder, path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let no_thread = |error: std::io::Error| ClientError::System {
            what: "thread for the connection",
            reason: error.to_string().into(),
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(no_thread)?;
        let client = runtime.block_on(builder.connect(path))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || match runtime.block_on(stopped) {
            Ok(()) | Err(_) => {}
        };
        let thread = thread::Builder::new().name("qm-client".into()).spawn(serve);
        let thread = thread.map_err(no_thread)?;
        let service = Arc::new(Service {
            client: client.clone(),
            handle,
            stop: Some(stop),
            thread: Some(thread),
        });
        Ok(Self { client, service })
    }

    /// Waits for something asynchronous of this client: a [`PutTicket`], a
    /// [`Settling`](crate::Settling), or a method of the asynchronous [`Client`](crate::Client).
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.service.handle.block_on(future)
    }

    /// The asynchronous client behind this one.
    #[must_use]
    pub const fn as_async(&self) -> &crate::Client {
        &self.client
    }

    /// See [`Client::node`](crate::Client::node).
    #[must_use]
    pub fn node(&self) -> NodeInfo {
        self.client.node()
    }

    /// See [`Client::send`](crate::Client::send).
    ///
    /// # Errors
    /// [`SendError`] when the message is not accepted or nobody knows.
    pub fn send(&self, message: Message) -> Result<MessageId, SendError> {
        self.wait(self.client.send(message))
    }

    /// See [`Client::send_batch`](crate::Client::send_batch).
    pub fn send_batch(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<MessageId, SendError>> {
        self.wait(self.client.send_batch(messages))
    }

    /// See [`Client::put`](crate::Client::put); [`Client::wait`] for the ticket.
    ///
    /// # Errors
    /// [`SendError`] when the message cannot be sent at all.
    pub fn put(&self, message: Message) -> Result<PutTicket, SendError> {
        self.wait(self.client.put(message))
    }

    /// See [`Client::begin`](crate::Client::begin).
    pub fn begin(&self) -> Transaction {
        let transaction = self.client.begin();
        let client = self.clone();
        Transaction {
            transaction,
            client,
        }
    }

    /// See [`Client::receive`](crate::Client::receive).
    ///
    /// # Errors
    /// [`ReceiveError`] when the node refuses, or is away.
    pub fn receive(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Option<Delivery>, ReceiveError> {
        self.wait(self.client.receive(queue, options))
    }

    /// See [`Client::receive_batch`](crate::Client::receive_batch).
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub fn receive_batch(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Vec<Delivery>, ReceiveError> {
        self.wait(self.client.receive_batch(queue, options))
    }

    /// See [`Client::peek`](crate::Client::peek).
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub fn peek(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Vec<Received>, ReceiveError> {
        self.wait(self.client.peek(queue, options))
    }

    /// All messages of a queue as they come; ends once the client is closed. See
    /// [`Client::deliveries`](crate::Client::deliveries).
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`] when an option breaks a limit of the format.
    pub fn deliveries(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Deliveries, ReceiveError> {
        let deliveries = self.client.deliveries(queue, options)?;
        let client = self.clone();
        Ok(Deliveries { deliveries, client })
    }

    /// See [`Client::settle`](crate::Client::settle).
    pub fn settle(
        &self,
        deliveries: impl IntoIterator<Item = Delivery>,
        verdict: Verdict,
    ) -> Vec<Result<(), SettleError>> {
        self.wait(self.client.settle(deliveries, verdict))
    }

    /// See [`Client::admin`](crate::Client::admin).
    ///
    /// # Errors
    /// As there.
    pub fn admin(&self, json: impl Into<Bytes>) -> Result<Vec<u8>, AdminError> {
        self.wait(self.client.admin(json))
    }

    /// See [`Client::close`](crate::Client::close).
    pub fn close(&self) {
        self.wait(self.client.close());
    }
}

/// Sends and receives that happen together or not at all; see
/// [`Transaction`](crate::Transaction).
#[derive(Debug)]
#[must_use = "a dropped transaction is aborted"]
pub struct Transaction {
    transaction: crate::Transaction,
    client: Client,
}

impl Transaction {
    /// See [`Transaction::send`](crate::Transaction::send).
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, message: Message) -> Result<(), SendError> {
        self.transaction.send(message)
    }

    /// See [`Transaction::receive`](crate::Transaction::receive).
    ///
    /// # Errors
    /// As there.
    pub fn receive(
        &mut self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Option<Received>, ReceiveError> {
        self.client.wait(self.transaction.receive(queue, options))
    }

    /// See [`Transaction::receive_batch`](crate::Transaction::receive_batch).
    ///
    /// # Errors
    /// As there.
    pub fn receive_batch(
        &mut self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Vec<Received>, ReceiveError> {
        self.client
            .wait(self.transaction.receive_batch(queue, options))
    }

    /// See [`Transaction::commit`](crate::Transaction::commit).
    ///
    /// # Errors
    /// As there.
    pub fn commit(self) -> Result<Committed, TransactionError> {
        let Self {
            transaction,
            client,
        } = self;
        client.wait(transaction.commit())
    }

    /// See [`Transaction::abort`](crate::Transaction::abort).
    pub fn abort(self) {
        let Self {
            transaction,
            client,
        } = self;
        client.wait(transaction.abort());
    }
}

/// Messages of a queue as they come.
#[derive(Debug)]
pub struct Deliveries {
    deliveries: crate::Deliveries,
    client: Client,
}

impl Iterator for Deliveries {
    type Item = Result<Delivery, ReceiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.client.service.handle.block_on(self.deliveries.next())
    }
}

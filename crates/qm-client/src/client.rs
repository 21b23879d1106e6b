//! The connection to the node, as the application sees it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qm_wire::limits::ADMIN_BYTES_MAX;
use qm_wire::local::{Follow, Verdict};
use qm_wire::{ClientId, DecodeError, Incarnation, MessageId, QmId, QueueName, Text};
use tokio::sync::oneshot;

use crate::delivery::{Delivery, Received};
use crate::driver::{drive, greet};
use crate::error::{AdminError, ClientError, ReceiveError, SendError, SettleError};
use crate::message::Message;
use crate::receive::{Deliveries, ReceiveOptions, Receiver};
use crate::shared::{Handle, Phase, Settings, Shared};
use crate::ticket::{Fate, PutTicket};
use crate::transaction::Transaction;

/// A connection to the queue manager of this machine that survives the connection's loss.
///
/// Cloning is cheap and shares the connection. When the last clone is gone, and with it every
/// [`Delivery`], followed [`PutTicket`] and [`Deliveries`], the client closes as by
/// [`Client::close`], without anybody waiting for it.
///
/// When the connection is lost the client connects again by itself. Puts that the node has not
/// answered are repeated under their first number, so the node accepts each of them once, however
/// often it arrives. Receive requests are repeated too. What was delivered and not settled is
/// given back by the node.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id())
            .field("path", &self.shared().settings.path)
            .finish_non_exhaustive()
    }
}

/// Who answers at the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The queue manager.
    pub id: QmId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its display name.
    pub name: Text,
    /// Largest message body it accepts.
    pub body_bytes_max: u32,
}

/// How to connect; see [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    program: Option<Text>,
    handshake_timeout: Duration,
    reconnect_for: Duration,
    linger: Duration,
    followed_max: usize,
}

/// Unanswered puts are repeated for as long as the node remembers their answers, 24 hours; this
/// stays below.
const RECONNECT_FOR_MAX: Duration = Duration::from_secs(23 * 3600);

impl Builder {
    /// Name of the program in the node's lists; the executable's unless said otherwise.
    pub fn program(mut self, name: impl Into<Text>) -> Self {
        self.program = Some(name.into());
        self
    }

    /// How long whoever listens at the socket may take to answer the greeting; 10 s.
    pub const fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// For how long a lost connection is hidden from the application; 30 s. Then everything
    /// unanswered fails, and so does what is asked, until the node answers again: the client
    /// never stops trying. At most 23 hours, because the node remembers its answers for 24.
    pub fn reconnect_for(mut self, time: Duration) -> Self {
        self.reconnect_for = time.min(RECONNECT_FOR_MAX);
        self
    }

    /// How long a closing client waits for the answers to what is unanswered; 5 s.
    pub const fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// How many messages may be followed at once; 65536.
    pub const fn followed_max(mut self, messages: usize) -> Self {
        self.followed_max = messages;
        self
    }

    /// Connects to the node that listens at `path`. Must be called within a tokio runtime with
    /// I/O and time enabled, which also runs the connection from then on.
    ///
    /// Cancel safe: a connection half made is dropped.
    ///
    /// # Errors
    /// [`ClientError`] when nobody answers there, or not as a node does.
    pub async fn connect(self, path: impl AsRef<Path>) -> Result<Client, ClientError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| ClientError::System {
            what: "random bytes",
            reason: error.to_string().into(),
        })?;
        let settings = Settings {
            path: path.as_ref().to_owned(),
            client: ClientId(id),
            program: self.program.unwrap_or_else(program_name),
            handshake_timeout: self.handshake_timeout,
            reconnect_for: self.reconnect_for,
            linger: self.linger,
            followed_max: self.followed_max,
        };
        let connected = greet(&settings).await?;
        let shared = Arc::new(Shared::new(settings, connected.node.clone()));
        tokio::spawn(drive(Arc::clone(&shared), connected));
        let handle = Arc::new(Handle { shared });
        Ok(Client { handle })
    }
}

fn program_name() -> Text {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_name);
    name.map_or(Text::EMPTY, |name| {
        name.to_string_lossy().into_owned().into()
    })
}

impl Client {
    /// How to connect, to be changed before [`Builder::connect`].
    pub const fn builder() -> Builder {
        Builder {
            program: None,
            handshake_timeout: Duration::from_secs(10),
            reconnect_for: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            followed_max: 65_536,
        }
    }

    /// Connects to the node that listens at `path`, with default settings.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::builder().connect(path).await
    }

    /// Who answers at the socket, as of the newest connection.
    #[must_use]
    pub fn node(&self) -> NodeInfo {
        let state = self.shared().lock();
        NodeInfo {
            id: state.node.node,
            incarnation: state.node.incarnation,
            name: state.node.name.clone(),
            body_bytes_max: state.node.body_bytes_max,
        }
    }

    /// The identity under which the node knows this client.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.shared().settings.client
    }

    /// Hands a message to the node and waits until it is accepted to its class.
    ///
    /// Not cancel safe: when the future is dropped the message may or may not be accepted. Use
    /// [`Client::put`] to keep hold of it.
    ///
    /// # Errors
    /// [`SendError`] when it is not accepted or nobody knows.
    pub async fn send(&self, message: Message) -> Result<MessageId, SendError> {
        self.put(message).await?.await
    }

    /// Hands over many messages, in order and all under way together, and waits until each is
    /// accepted or not. The results are in the order of the messages.
    ///
    /// Not cancel safe, like [`Client::send`].
    pub async fn send_batch(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<MessageId, SendError>> {
        let mut tickets = Vec::new();
        for message in messages {
            tickets.push(self.put(message).await);
        }
        let mut results = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            results.push(match ticket {
                Ok(ticket) => ticket.await,
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Hands a message to the connection and returns at once with a ticket for the answer, so
    /// that many messages can be under way. Waits only while the node's window is full of
    /// unanswered puts; that is the back-pressure.
    ///
    /// Messages of one task are accepted in the order of its calls.
    ///
    /// Cancel safe: when the future is dropped before it returned, the message was not sent.
    ///
    /// # Errors
    /// [`SendError`] when it cannot be sent at all.
    pub async fn put(&self, message: Message) -> Result<PutTicket, SendError> {
        let shared = self.shared();
        let put = message.into_put()?;
        let length = put.encoded_len();
        // A put larger than the window takes all of it and goes alone.
        let bytes =
            u32::try_from(length).map_or(shared.window_bytes, |n| n.min(shared.window_bytes));
        let closed = |_closed| SendError::Disconnected(self.end_reason());
        let messages_room = shared.messages.acquire().await.map_err(closed)?;
        let bytes_room = shared.bytes.acquire_many(bytes).await.map_err(closed)?;
        let (answer, ticket) = oneshot::channel();
        let mut state = shared.lock();
        if let Some(reason) = state.refusal() {
            return Err(SendError::Disconnected(reason));
        }
        if put.body.len() > state.node.body_bytes_max as usize {
            return Err(SendError::TooLarge {
                bytes: put.body.len() as u64,
                limit: state.node.body_bytes_max,
            });
        }
        let until = put.follow;
        if until != Follow::None && state.puts.followed() >= shared.settings.followed_max {
            let limit = shared.settings.followed_max;
            return Err(SendError::TooManyFollowed { limit });
        }
        messages_room.forget();
        bytes_room.forget();
        let sequence = state.puts.push(put, u64::from(bytes), answer);
        let fate = (until != Follow::None).then(|| Fate {
            progress: state.puts.follow(sequence, until),
            sequence,
            handle: Arc::clone(&self.handle),
        });
        drop(state);
        shared.wake.notify_one();
        Ok(PutTicket::new(ticket, fate))
    }

    /// Begins a transaction: what it sends and receives happens with its commit, or not at all.
    /// The node hears of it with the first receive, or with the commit.
    pub fn begin(&self) -> Transaction {
        Transaction::new(&self.handle)
    }

    /// Takes the next message of a queue, waiting for it as the options say; `None` when none
    /// came in that time.
    ///
    /// Cancel safe: a message that arrives for a dropped future is given back.
    ///
    /// # Errors
    /// [`ReceiveError`] when the node refuses, or is away.
    pub async fn receive(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Option<Delivery>, ReceiveError> {
        let options = options.clone().limit(1);
        let receiver = Receiver::open(&self.handle, queue, &options)?;
        Ok(receiver.all().await?.pop())
    }

    /// Takes the messages that are there, up to the options' limits; waits only for the first.
    ///
    /// Cancel safe: messages that arrive for a dropped future are given back.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub async fn receive_batch(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Vec<Delivery>, ReceiveError> {
        Receiver::open(&self.handle, queue, options)?.all().await
    }

    /// Looks at messages without taking them: those that are there, up to the options' limits.
    /// [`ReceiveOptions::after`] continues behind the last one seen.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub async fn peek(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Vec<Received>, ReceiveError> {
        Receiver::open_peek(&self.handle, queue, options)?
            .all_seen()
            .await
    }

    /// All messages of a queue as they come. The options' limit says how many may be leased to
    /// this client ahead of the application; their wait is not used.
    ///
    /// # Errors
    /// [`ReceiveError::Invalid`] when an option breaks a limit of the format.
    pub fn deliveries(
        &self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Deliveries, ReceiveError> {
        Deliveries::new(&self.handle, queue, options)
    }

    /// Settles many deliveries together and waits for the answer. The results are in the order
    /// of the deliveries.
    ///
    /// Not cancel safe: dropping the future leaves the deliveries to be settled as said.
    pub async fn settle(
        &self,
        deliveries: impl IntoIterator<Item = Delivery>,
        verdict: Verdict,
    ) -> Vec<Result<(), SettleError>> {
        let under_way: Vec<_> = deliveries
            .into_iter()
            .map(|delivery| delivery.settle(verdict))
            .collect();
        let mut results = Vec::with_capacity(under_way.len());
        for settling in under_way {
            results.push(settling.await);
        }
        results
    }

    /// Asks the node for something administrative, in JSON, and returns its answer in JSON.
    ///
    /// Not cancel safe: what was asked may be done although the future is dropped.
    ///
    /// # Errors
    /// [`AdminError::Failed`] with the node's answer when it could not do it; other
    /// [`AdminError`]s when it was not asked or did not answer.
    pub async fn admin(&self, json: impl Into<Bytes>) -> Result<Vec<u8>, AdminError> {
        let json = json.into();
        if json.len() > ADMIN_BYTES_MAX {
            return Err(AdminError::Invalid(DecodeError::OverLimit {
                what: "administrative request",
                value: json.len() as u64,
                limit: ADMIN_BYTES_MAX as u64,
            }));
        }
        let (answer, waiting) = oneshot::channel();
        {
            let mut state = self.shared().lock();
            if let Some(reason) = state.refusal() {
                return Err(AdminError::Disconnected(reason));
            }
            state.requests.admin(json, answer);
        }
        self.shared().wake.notify_one();
        let closed = |_closed| Err(AdminError::OutcomeUnknown(ClientError::Closed));
        waiting.await.unwrap_or_else(closed)
    }

    /// Closes the client for all its clones: nothing more is taken in, what is unanswered is
    /// awaited for the time of [`Builder::linger`], then the connection ends.
    ///
    /// Cancel safe: the client closes whether anybody waits or not.
    pub async fn close(&self) {
        let shared = self.shared();
        shared.start_close();
        loop {
            let ended = shared.ended.notified();
            if matches!(shared.lock().phase, Phase::Ended(_)) {
                return;
            }
            ended.await;
        }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    fn end_reason(&self) -> ClientError {
        self.shared()
            .lock()
            .refusal()
            .unwrap_or(ClientError::Closed)
    }
}

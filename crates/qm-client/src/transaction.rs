//! Sends and receives that happen together or not at all.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;

use qm_wire::local::{Follow, Put};
use qm_wire::{MessageId, Outcome, QueueName};
use tokio::sync::oneshot;

use crate::delivery::Received;
use crate::error::{ClientError, ReceiveError, SendError, TransactionError};
use crate::message::Message;
use crate::puts::Ended;
use crate::receive::{ReceiveOptions, Receiver};
use crate::shared::Handle;

/// Bytes that the end of a transaction counts against the node's window.
const END_BYTES: u32 = 64;

/// Sends and receives that become one commit at the node, or nothing; see
/// [`Client::begin`](crate::Client::begin).
///
/// What is sent is kept in this process until the commit, then handed over at once; nobody sees it
/// before. What is received is leased to the transaction: nobody else gets it, and it goes back to
/// its queue, with a raised abort count, unless the transaction commits. Dropping a transaction
/// aborts it, and so does the loss of the connection once something was received.
///
/// ```no_run
/// # async fn example(client: qm_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use qm_client::{Message, ReceiveOptions};
///
/// let mut transaction = client.begin();
/// if let Some(order) = transaction.receive(&"orders".parse()?, &ReceiveOptions::new()).await? {
///     transaction.send(Message::new("hub/invoices", order.body().clone()))?;
///     transaction.send(Message::new("hub/parcels", order.body().clone()))?;
///     let committed = transaction.commit().await?;
///     println!("two messages instead of one: {:?}", committed.ids());
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a dropped transaction is aborted"]
pub struct Transaction {
    handle: Arc<Handle>,
    number: u64,
    puts: Vec<Put>,
    received: u64,
    /// A connection took with it what it had received.
    lost: bool,
    /// Nothing is left to be aborted.
    over: bool,
}

/// What a committed transaction became.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    ids: Vec<MessageId>,
    repeated: bool,
}

impl Committed {
    /// The ids of the messages that it sent, in the order of the sends.
    #[must_use]
    pub fn ids(&self) -> &[MessageId] {
        &self.ids
    }

    /// Whether the node had committed it before, under its idempotency keys or on a connection that
    /// broke, and only repeated its answer.
    #[must_use]
    pub const fn repeated(&self) -> bool {
        self.repeated
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("number", &self.number)
            .field("sent", &self.puts.len())
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new(handle: &Arc<Handle>) -> Self {
        let number = handle.shared.lock().puts.begin();
        Self {
            handle: Arc::clone(handle),
            number,
            puts: Vec::new(),
            received: 0,
            lost: false,
            over: false,
        }
    }

    /// Adds a message. It leaves with the commit, where the node says whether it takes it: a node
    /// takes at most 16384 messages and, of several, 8 MiB in one transaction, and no express ones.
    /// With an idempotency key on every message the transaction may be repeated by another process;
    /// such a transaction may not receive. A wish to follow it is not kept.
    ///
    /// # Errors
    /// [`SendError`] when the message breaks a limit of the format or of the node.
    pub fn send(&mut self, message: Message) -> Result<(), SendError> {
        let mut put = message.into_put()?;
        put.follow = Follow::None;
        let limit = self.handle.shared.lock().node.body_bytes_max;
        if put.body.len() > limit as usize {
            let bytes = put.body.len() as u64;
            return Err(SendError::TooLarge { bytes, limit });
        }
        self.puts.push(put);
        Ok(())
    }

    /// Messages that were sent so far.
    #[must_use]
    pub const fn sent(&self) -> usize {
        self.puts.len()
    }

    /// Messages that were received so far.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next message of a queue, waiting for it as the options say; `None` when none came
    /// in that time.
    ///
    /// Cancel safe: a message that arrives for a dropped future is given back, before a commit.
    ///
    /// # Errors
    /// [`ReceiveError`] when the node refuses, or is away, or a message is damaged, which is then
    /// given back with what came beside it. When the connection was lost since the transaction
    /// received first, the transaction is lost, too: it is refused with
    /// [`Outcome::TRANSACTION_ABORTED`].
    pub async fn receive(
        &mut self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Option<Received>, ReceiveError> {
        let options = options.clone().limit(1);
        Ok(self.receive_batch(queue, &options).await?.pop())
    }

    /// Takes the messages that are there, up to the options' limits; waits only for the first.
    ///
    /// Cancel safe: messages that arrive for a dropped future are given back, before a commit.
    ///
    /// # Errors
    /// As [`Transaction::receive`].
    pub async fn receive_batch(
        &mut self,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Vec<Received>, ReceiveError> {
        let mut begun_on = {
            let requests = &self.handle.shared.lock().requests;
            let begun_on = requests.begun_on(self.number);
            if self.lost || (begun_on.is_some() && begun_on != requests.connection()) {
                return Err(aborted());
            }
            begun_on
        };
        let receiver = Receiver::open_in(&self.handle, queue, options, self.number)?;
        let mut received = Vec::new();
        for (message, on) in receiver.all_in().await? {
            // The request may have been asked again on another connection.
            if *begun_on.get_or_insert(on) != on {
                // There it is another transaction, of which nothing may remain.
                let requests = &mut self.handle.shared.lock().requests;
                requests.begun_anew(self.number, on);
                self.lost = true;
                return Err(aborted());
            }
            received.push(message);
        }
        self.received = self.received.saturating_add(received.len() as u64);
        Ok(received)
    }

    /// Makes all of it happen: on the node's disk when this returns. After a receive that was
    /// cancelled it first waits for the node's answer to that.
    ///
    /// When the connection is lost meanwhile, the node is asked on the next one, and answers as it
    /// did first. A transaction that received nothing is handed over again when the node did not
    /// commit it.
    ///
    /// Not cancel safe: when the future is dropped, the transaction is committed or not.
    ///
    /// # Errors
    /// [`TransactionError`]; after all but [`TransactionError::OutcomeUnknown`] nothing happened.
    pub async fn commit(mut self) -> Result<Committed, TransactionError> {
        let messages = self.puts.len();
        // The node commits all that it handed out, also what nobody here has seen.
        poll_fn(|cx| {
            let requests = &mut self.handle.shared.lock().requests;
            requests.poll_abandoned(self.number, cx)
        })
        .await;
        if messages == 0 && self.begun_on().is_none() {
            self.over = true;
            return Ok(Committed {
                ids: Vec::new(),
                repeated: false,
            });
        }
        loop {
            let ended = self.end().await?;
            let repeatable = self.begun_on().is_none();
            let (refused, again) = match ended {
                Ended::Told { ended, again } if ended.committed.is_some() => {
                    self.over = true;
                    return Ok(Committed {
                        ids: ended.ids(messages).collect(),
                        repeated: ended.repeated || again,
                    });
                }
                Ended::Told { ended, again } => (
                    TransactionError::Aborted {
                        outcome: ended.outcome.unwrap_or(Outcome::TRANSACTION_ABORTED),
                        text: ended.text.detach(),
                    },
                    again && ended.outcome == Some(Outcome::TRANSACTION_ABORTED),
                ),
                Ended::NotSent(reason) => (TransactionError::Disconnected(reason), true),
                Ended::Unknown(reason) => {
                    self.over = true;
                    return Err(TransactionError::OutcomeUnknown(reason));
                }
            };
            // The connection took it with it; nothing of it happened.
            if !(again && repeatable) {
                self.over = true;
                return Err(refused);
            }
            self.number = self.handle.shared.lock().puts.begin();
        }
    }

    /// Undoes all of it: what was received is back in its queue, with a raised abort count, when
    /// this returns. A dropped transaction does the same without anybody waiting for it.
    ///
    /// Cancel safe: it is aborted whether anybody waits or not.
    pub async fn abort(mut self) {
        let (answer, waiting) = oneshot::channel();
        if self.push_abort(Some(answer)) {
            // Whatever the answer, and without one: nothing of it happens.
            let _answer = waiting.await;
        }
    }

    /// Tells the node to abort it, without waiting for room. Returns whether there was anything to
    /// be aborted.
    fn push_abort(&mut self, answer: Option<oneshot::Sender<Ended>>) -> bool {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        // Only what it received is anywhere else than in this process.
        let begun_on = state.requests.begun_on(self.number);
        let open = begun_on.is_some() && begun_on == state.requests.connection();
        if mem::replace(&mut self.over, true) || !open {
            return false;
        }
        let bytes = u64::from(END_BYTES.min(shared.window_bytes));
        state
            .puts
            .push_transaction(self.number, Vec::new(), false, bytes, answer);
        state.requests.aborted(self.number);
        drop(state);
        shared.wake.notify_one();
        true
    }

    /// The connection on which it received, which is the only one that can commit it.
    fn begun_on(&self) -> Option<u64> {
        self.handle.shared.lock().requests.begun_on(self.number)
    }

    /// Hands the puts and the end over.
    async fn end(&self) -> Result<Ended, TransactionError> {
        let shared = &self.handle.shared;
        let closed = |_closed| TransactionError::Disconnected(ClientError::Closed);
        let messages_room = shared.messages.acquire().await.map_err(closed)?;
        let bytes = END_BYTES.min(shared.window_bytes);
        let bytes_room = shared.bytes.acquire_many(bytes).await.map_err(closed)?;
        let (answer, waiting) = oneshot::channel();
        {
            let mut state = shared.lock();
            if let Some(reason) = state.refusal() {
                return Err(TransactionError::Disconnected(reason));
            }
            let begun_on = state.requests.begun_on(self.number);
            let other = begun_on != state.requests.connection();
            if self.lost || (begun_on.is_some() && other) {
                let path = shared.settings.path.clone();
                return Err(TransactionError::Disconnected(ClientError::HungUp { path }));
            }
            messages_room.forget();
            bytes_room.forget();
            let puts = self.puts.clone();
            let bytes = u64::from(bytes);
            state
                .puts
                .push_transaction(self.number, puts, true, bytes, Some(answer));
        }
        shared.wake.notify_one();
        let closed = |_closed| Ended::Unknown(ClientError::Closed);
        Ok(waiting.await.unwrap_or_else(closed))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.push_abort(None);
        let mut state = self.handle.shared.lock();
        state.requests.forget_begun(self.number);
    }
}

fn aborted() -> ReceiveError {
    ReceiveError::Refused {
        outcome: Outcome::TRANSACTION_ABORTED,
        text: "the connection to the queue manager was lost, and the transaction with it".into(),
    }
}

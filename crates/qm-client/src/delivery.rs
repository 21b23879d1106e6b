//! Messages that came from a queue.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use qm_wire::local::{self, Verdict};
use qm_wire::{Envelope, INFINITE_MS, MessageId, OpenError, Outcome, QmId, QueueName, Tag};
use tokio::sync::oneshot;

use crate::error::{ClientError, SettleError};
use crate::requests::SettleAnswer;
use crate::shared::Handle;

/// A message as it lies in a queue: what a peek shows, and what a [`Delivery`] carries.
#[derive(Clone)]
pub struct Received {
    envelope: Envelope,
    body: Bytes,
    tag: Tag,
    lookup: u64,
    arrived_at_us: u64,
    abort_count: u32,
    be_received_left_ms: u64,
}

impl Received {
    pub(crate) fn open(delivery: &local::Delivery) -> Result<Self, OpenError> {
        Ok(Self {
            envelope: delivery.open()?,
            body: delivery.body.clone(),
            tag: delivery.tag,
            lookup: delivery.lookup,
            arrived_at_us: delivery.arrived_at_us,
            abort_count: delivery.abort_count,
            be_received_left_ms: delivery.be_received_left_ms,
        })
    }

    /// Everything the sender said about the message.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The message's id at the queue manager that accepted it.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.envelope.id
    }

    /// The queue manager that accepted it.
    #[must_use]
    pub const fn source(&self) -> QmId {
        self.envelope.source
    }

    /// What the sender calls it, possibly empty.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.envelope.label
    }

    /// What became of one of this node's messages, when this is an acknowledgement that its
    /// application wished for; the correlation id is the id of that message, as it is written.
    #[must_use]
    pub const fn report(&self) -> Option<Outcome> {
        self.envelope.report
    }

    /// The value of an application property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.envelope.properties.get(name)
    }

    /// Its tag: with source and id it names the message among all that ever were.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Its number in its queue, rising in the order of arrival.
    #[must_use]
    pub const fn lookup_id(&self) -> u64 {
        self.lookup
    }

    /// Wall-clock time of arrival, microseconds since the Unix epoch; for people only.
    #[must_use]
    pub const fn arrived_at_us(&self) -> u64 {
        self.arrived_at_us
    }

    /// How often it was handed out before and came back. Above 0, whoever had it may have dealt
    /// with it in part.
    #[must_use]
    pub const fn abort_count(&self) -> u32 {
        self.abort_count
    }

    /// What was left of its time to be received when it was handed out; `None` is for ever.
    #[must_use]
    pub const fn time_to_be_received_left(&self) -> Option<Duration> {
        match self.be_received_left_ms {
            INFINITE_MS => None,
            left => Some(Duration::from_millis(left)),
        }
    }
}

/// Shows no body: bodies do not belong into logs.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("id", &self.id())
            .field("lookup", &self.lookup)
            .field("abort_count", &self.abort_count)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A message leased to this client until it is settled: read it through [`Received`], then
/// [`consume`](Delivery::consume) it. One that is dropped is given back to its queue.
#[derive(Debug)]
#[must_use = "a dropped delivery is given back to its queue"]
pub struct Delivery {
    received: Received,
    lease: Lease,
}

impl Delivery {
    pub(crate) const fn new(received: Received, lease: Lease) -> Self {
        Self { received, lease }
    }

    /// The queue it came from.
    #[must_use]
    pub const fn queue(&self) -> &QueueName {
        &self.lease.queue
    }

    /// The message is dealt with: it is removed from its queue.
    ///
    /// It is on its way when this returns; await the result to know that it arrived. Verdicts
    /// that are given while the connection is busy travel together.
    pub fn consume(self) -> Settling {
        self.settle(Verdict::Consume)
    }

    /// The message goes back to its place in the queue; its abort count rises.
    pub fn give_back(self) -> Settling {
        self.settle(Verdict::GiveBack)
    }

    /// The message cannot be dealt with, by nobody: it ends as rejected by its receiver.
    pub fn reject(self) -> Settling {
        self.settle(Verdict::Reject)
    }

    pub(crate) fn settle(self, verdict: Verdict) -> Settling {
        let mut lease = self.lease;
        let (answer, waiting) = oneshot::channel();
        lease.settle(verdict, Some(answer));
        Settling {
            queue: lease.queue.clone(),
            lookup: lease.lookup,
            waiting,
        }
    }
}

impl Deref for Delivery {
    type Target = Received;

    fn deref(&self) -> &Received {
        &self.received
    }
}

/// What a settled delivery returns before its answer is there.
///
/// # Cancel safety
/// The verdict is on its way already; dropping this only forgoes the answer.
#[derive(Debug)]
#[must_use = "the lease may have been lost; await the result to know"]
pub struct Settling {
    queue: QueueName,
    lookup: u64,
    waiting: oneshot::Receiver<SettleAnswer>,
}

impl Future for Settling {
    type Output = Result<(), SettleError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.waiting).poll(cx));
        // The channel closes unanswered only when the runtime of the client is torn down.
        Poll::Ready(answer.unwrap_or_else(|_closed| {
            Err(SettleError::OutcomeUnknown {
                queue: self.queue.clone(),
                lookup: self.lookup,
                reason: ClientError::Closed,
            })
        }))
    }
}

/// The right to settle a message.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) handle: Arc<Handle>,
    pub(crate) connection: u64,
    pub(crate) queue: QueueName,
    pub(crate) lookup: u64,
    pub(crate) settled: bool,
}

impl Lease {
    fn settle(&mut self, verdict: Verdict, answer: Option<oneshot::Sender<SettleAnswer>>) {
        self.settled = true;
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        let (connection, lookup) = (self.connection, self.lookup);
        state
            .requests
            .settle(connection, &self.queue, lookup, verdict, answer);
        drop(state);
        shared.wake.notify_one();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(Verdict::GiveBack, None);
        }
    }
}

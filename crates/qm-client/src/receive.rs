//! Asking for messages.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use qm_wire::limits::CLIENT_REQUESTS_MAX;
use qm_wire::local::{Receive, ReceiveMode, Verdict};
use qm_wire::{Outcome, QueueName};
use tokio::time::{Instant, sleep_until};

use crate::delivery::{Delivery, Lease, Received};
use crate::error::{ClientError, ReceiveError};
use crate::requests::HandedOut;
use crate::shared::Handle;

/// Which messages, how many, and how long to wait for the first.
///
/// ```
/// use std::time::Duration;
/// use qm_client::ReceiveOptions;
///
/// let options = ReceiveOptions::new().wait(Duration::from_secs(5)).limit(100);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ReceiveOptions {
    wait: Duration,
    messages_max: u32,
    bytes_max: u32,
    after: Option<u64>,
    lookup: Option<u64>,
    correlation_id: Bytes,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveOptions {
    /// At most 16 messages and 4 MiB of them, without waiting.
    pub const fn new() -> Self {
        Self {
            wait: Duration::ZERO,
            messages_max: 16,
            bytes_max: 4 << 20,
            after: None,
            lookup: None,
            correlation_id: Bytes::new(),
        }
    }

    /// How long to wait for the first message that matches; [`Duration::MAX`] is for ever. A peek
    /// does not wait.
    pub const fn wait(mut self, time: Duration) -> Self {
        self.wait = time;
        self
    }

    /// How many messages at most, at least 1.
    pub const fn limit(mut self, messages: u32) -> Self {
        self.messages_max = messages;
        self
    }

    /// How many bytes of envelopes and bodies at most; the first message comes whatever its size.
    pub const fn limit_bytes(mut self, bytes: u32) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Only messages that arrived behind the one with this lookup id.
    pub const fn after(mut self, lookup_id: u64) -> Self {
        self.after = Some(lookup_id);
        self
    }

    /// Only the message with this lookup id.
    pub const fn lookup(mut self, lookup_id: u64) -> Self {
        self.lookup = Some(lookup_id);
        self
    }

    /// Only messages with this correlation id, at most 256 bytes; empty for any.
    pub fn correlation_id(mut self, id: impl Into<Bytes>) -> Self {
        self.correlation_id = id.into();
        self
    }

    pub(crate) fn frame(
        &self,
        queue: &QueueName,
        mode: ReceiveMode,
    ) -> Result<Receive, ReceiveError> {
        let frame = Receive {
            mode,
            messages_max: self.messages_max,
            bytes_max: self.bytes_max,
            after: self.after,
            lookup: self.lookup,
            correlation_id: self.correlation_id.clone(),
            ..Receive::new(0, queue.clone())
        };
        frame.check()?;
        Ok(frame)
    }
}

/// One receive request; dropping it takes it back.
#[derive(Debug)]
pub(crate) struct Receiver {
    handle: Arc<Handle>,
    queue: QueueName,
    number: u64,
    deadline: Option<Instant>,
}

impl Receiver {
    pub(crate) fn open(
        handle: &Arc<Handle>,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Self, ReceiveError> {
        let frame = options.frame(queue, ReceiveMode::Take)?;
        Self::open_frame(handle, frame, Instant::now().checked_add(options.wait))
    }

    pub(crate) fn open_peek(
        handle: &Arc<Handle>,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Self, ReceiveError> {
        let frame = options.frame(queue, ReceiveMode::Peek)?;
        Self::open_frame(handle, frame, Instant::now().checked_add(options.wait))
    }

    /// Takes messages in a transaction. They are settled by its end.
    pub(crate) fn open_in(
        handle: &Arc<Handle>,
        queue: &QueueName,
        options: &ReceiveOptions,
        transaction: u64,
    ) -> Result<Self, ReceiveError> {
        let mut frame = options.frame(queue, ReceiveMode::Take)?;
        frame.transaction = Some(transaction);
        Self::open_frame(handle, frame, Instant::now().checked_add(options.wait))
    }

    /// Everything the request brings to a transaction, and on which connection. A damaged message
    /// is an error, and all of it is given back: nothing that nobody saw may be committed.
    pub(crate) async fn all_in(self) -> Result<Vec<(Received, u64)>, ReceiveError> {
        let got = self.ended().await?;
        let opened = got
            .iter()
            .map(|handed_out| Ok((self.received(handed_out)?, handed_out.connection)))
            .collect();
        if matches!(opened, Err(ReceiveError::Damaged { .. })) {
            let requests = &mut self.handle.shared.lock().requests;
            for handed_out in got {
                let (on, lookup) = (handed_out.connection, handed_out.delivery.lookup);
                requests.settle(on, &self.queue, lookup, Verdict::GiveBack, None);
            }
        }
        opened
    }

    fn open_frame(
        handle: &Arc<Handle>,
        frame: Receive,
        deadline: Option<Instant>,
    ) -> Result<Self, ReceiveError> {
        let queue = frame.queue.clone();
        let mut state = handle.shared.lock();
        if let Some(reason) = state.refusal() {
            return Err(ReceiveError::Disconnected(reason));
        }
        let number = state.requests.receive(frame, deadline);
        drop(state);
        handle.shared.wake.notify_one();
        Ok(Self {
            handle: Arc::clone(handle),
            queue,
            number,
            deadline,
        })
    }

    /// Everything the request brings, as deliveries.
    pub(crate) async fn all(self) -> Result<Vec<Delivery>, ReceiveError> {
        let got = self.ended().await?;
        sound_ones(got.into_iter().map(|handed_out| self.delivery(handed_out)))
    }

    /// Everything the request brings, to look at.
    pub(crate) async fn all_seen(self) -> Result<Vec<Received>, ReceiveError> {
        let got = self.ended().await?;
        sound_ones(got.iter().map(|handed_out| self.received(handed_out)))
    }

    async fn ended(&self) -> Result<Vec<HandedOut>, ReceiveError> {
        let ended = poll_fn(|cx| self.handle.shared.lock().requests.poll_all(self.number, cx));
        let Some(deadline) = self.deadline else {
            return ended.await.map(Vec::from);
        };
        tokio::pin!(ended);
        tokio::select! {
            biased;
            got = &mut ended => got.map(Vec::from),
            () = sleep_until(deadline) => {
                // A node that is there answers by itself; one that is away cannot.
                let (online, held_back) = {
                    let requests = &self.handle.shared.lock().requests;
                    (requests.is_online(), requests.is_held_back(self.number))
                };
                if online && held_back {
                    return Err(too_many());
                }
                if online {
                    return ended.await.map(Vec::from);
                }
                let path = self.handle.shared.settings.path.clone();
                Err(ReceiveError::Disconnected(ClientError::HungUp { path }))
            }
        }
    }

    /// Messages that are here and not yet taken.
    fn waiting(&self) -> usize {
        self.handle.shared.lock().requests.waiting(self.number)
    }

    fn poll_delivery(&self, cx: &Context<'_>) -> Poll<Option<Result<Delivery, ReceiveError>>> {
        let next = self
            .handle
            .shared
            .lock()
            .requests
            .poll_next(self.number, cx);
        let next = ready!(next);
        Poll::Ready(next.map(|handed_out| self.delivery(handed_out?)))
    }

    fn delivery(&self, handed_out: HandedOut) -> Result<Delivery, ReceiveError> {
        // First the lease, so that a message that cannot be opened is given back.
        let lease = Lease {
            handle: Arc::clone(&self.handle),
            connection: handed_out.connection,
            queue: self.queue.clone(),
            lookup: handed_out.delivery.lookup,
            settled: false,
        };
        Ok(Delivery::new(self.received(&handed_out)?, lease))
    }

    fn received(&self, handed_out: &HandedOut) -> Result<Received, ReceiveError> {
        Received::open(&handed_out.delivery).map_err(|reason| ReceiveError::Damaged {
            queue: self.queue.clone(),
            lookup: handed_out.delivery.lookup,
            reason: Arc::new(reason),
        })
    }
}

fn too_many() -> ReceiveError {
    let text = format!(
        "{CLIENT_REQUESTS_MAX} receive requests of this client wait for messages; use another client for more"
    );
    ReceiveError::Refused {
        outcome: Outcome::BUSY,
        text: text.into(),
    }
}

/// One damaged message must not keep the others back; it is reported when it comes alone.
fn sound_ones<T>(
    all: impl Iterator<Item = Result<T, ReceiveError>>,
) -> Result<Vec<T>, ReceiveError> {
    let (mut sound, mut damaged) = (Vec::new(), None);
    for one in all {
        match one {
            Ok(one) => sound.push(one),
            Err(error) => damaged = Some(error),
        }
    }
    match damaged {
        Some(error) if sound.is_empty() => Err(error),
        _ => Ok(sound),
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        shared.lock().requests.abandon(self.number);
        shared.wake.notify_one();
    }
}

/// All messages of a queue as they come; see [`Client::deliveries`](crate::Client::deliveries).
///
/// Dropping it gives back what was leased ahead and not taken.
#[derive(Debug)]
pub struct Deliveries {
    handle: Arc<Handle>,
    frame: Receive,
    /// Whether two requests may be open at once.
    may_ask_ahead: bool,
    /// The request whose messages are handed on now.
    present: Option<Receiver>,
    /// The one that follows, asked early so that the node need not wait for us.
    ahead: Option<Receiver>,
}

impl Deliveries {
    pub(crate) fn new(
        handle: &Arc<Handle>,
        queue: &QueueName,
        options: &ReceiveOptions,
    ) -> Result<Self, ReceiveError> {
        let mut frame = options.frame(queue, ReceiveMode::Take)?;
        let may_ask_ahead = frame.messages_max > 1;
        if may_ask_ahead {
            // Half for each of the two requests.
            frame.messages_max /= 2;
        }
        Ok(Self {
            handle: Arc::clone(handle),
            frame,
            may_ask_ahead,
            present: None,
            ahead: None,
        })
    }

    /// The next message; `None` once the client is closed. After an error the next call asks
    /// again; while the node is away it fails at once, so wait a little before it.
    ///
    /// Cancel safe: a message that came for a dropped future is handed out by the next call.
    pub async fn next(&mut self) -> Option<Result<Delivery, ReceiveError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Deliveries::next`], for those who write their own futures.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, ReceiveError>>> {
        loop {
            let present = match self.present.take().or_else(|| self.ahead.take()) {
                Some(present) => self.present.insert(present),
                None => match self.ask() {
                    Ok(receiver) => self.present.insert(receiver),
                    Err(error) => return Poll::Ready(ended_or(error)),
                },
            };
            match present.poll_delivery(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(delivery))) => {
                    let waiting = present.waiting();
                    self.ask_ahead(waiting);
                    return Poll::Ready(Some(Ok(delivery)));
                }
                Poll::Ready(Some(Err(error))) => {
                    // After a damaged message there are others to come.
                    if !matches!(error, ReceiveError::Damaged { .. }) {
                        self.present = None;
                    }
                    return Poll::Ready(ended_or(error));
                }
                Poll::Ready(None) => self.present = None,
            }
        }
    }

    fn ask_ahead(&mut self, waiting: usize) {
        let half = self.frame.messages_max as usize / 2;
        if self.may_ask_ahead && self.ahead.is_none() && waiting <= half {
            // What is wrong with asking now is told when it is asked in earnest.
            self.ahead = self.ask().ok();
        }
    }

    fn ask(&self) -> Result<Receiver, ReceiveError> {
        Receiver::open_frame(&self.handle, self.frame.clone(), None)
    }
}

/// A closed client is the end of the deliveries, not an error of theirs.
fn ended_or<T>(error: ReceiveError) -> Option<Result<T, ReceiveError>> {
    match error {
        ReceiveError::Disconnected(ClientError::Closed) => None,
        other => Some(Err(other)),
    }
}

//! What a put returns before its answer is there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use qm_wire::MessageId;
use tokio::sync::{oneshot, watch};

use crate::error::{ClientError, FateError, SendError};
use crate::puts::{Answer, Progress};
use crate::shared::Handle;

/// A message on its way to be accepted: a future of its id, and the place to ask for its fate.
///
/// Dropping the ticket neither recalls the message nor changes what becomes of it.
///
/// # Cancel safety
/// Every method, and the ticket itself as a future, may be dropped half way and asked again.
#[derive(Debug)]
#[must_use = "the message may still be refused; await the ticket to know"]
pub struct PutTicket {
    answer: Option<oneshot::Receiver<Answer>>,
    known: Option<Answer>,
    fate: Option<Fate>,
}

#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) sequence: u64,
    pub(crate) handle: Arc<Handle>,
}

impl PutTicket {
    pub(crate) const fn new(answer: oneshot::Receiver<Answer>, fate: Option<Fate>) -> Self {
        Self {
            answer: Some(answer),
            known: None,
            fate,
        }
    }

    /// Waits until the node has accepted the message to its class, and tells its id.
    ///
    /// # Errors
    /// [`SendError`] when the message was refused, or nobody knows.
    pub async fn accepted(&mut self) -> Result<MessageId, SendError> {
        std::future::poll_fn(|cx| self.poll_accepted(cx)).await
    }

    /// Whether the node had accepted the message before, under its idempotency key or on a
    /// connection that broke, and only repeated its answer; `None` until it is accepted.
    #[must_use]
    pub fn repeated(&self) -> Option<bool> {
        self.known
            .as_ref()?
            .as_ref()
            .ok()
            .map(|(_, repeated)| *repeated)
    }

    /// Waits until the destination node has the message to its class. The message must have been
    /// put with [`follow`](crate::Message::follow).
    ///
    /// # Errors
    /// [`FateError`] when it was not accepted, ended otherwise, or nothing more is reported.
    pub async fn delivered(&mut self) -> Result<MessageId, FateError> {
        let wanted = |progress| matches!(progress, Progress::Delivered | Progress::Received);
        self.until(wanted).await
    }

    /// Waits until an application has received the message. The message must have been put with
    /// [`Follow::Received`](crate::Follow::Received).
    ///
    /// # Errors
    /// As [`PutTicket::delivered`].
    pub async fn received(&mut self) -> Result<MessageId, FateError> {
        self.until(|progress| progress == Progress::Received).await
    }

    async fn until(&mut self, wanted: impl Fn(Progress) -> bool) -> Result<MessageId, FateError> {
        let id = self.accepted().await?;
        let Some(fate) = &mut self.fate else {
            return Err(FateError::NotFollowed);
        };
        loop {
            let progress = *fate.progress.borrow_and_update();
            match progress {
                _ if wanted(progress) => return Ok(id),
                Progress::Ended(outcome) => return Err(FateError::Ended { id, outcome }),
                Progress::Unknown => return Err(FateError::Unknown { id }),
                Progress::Waiting | Progress::Delivered | Progress::Received => {}
            }
            if fate.progress.changed().await.is_err() {
                // Reporting ended where the wish did, short of what is asked now.
                let last = *fate.progress.borrow();
                return match last {
                    _ if wanted(last) => Ok(id),
                    Progress::Ended(outcome) => Err(FateError::Ended { id, outcome }),
                    Progress::Delivered => Err(FateError::NotFollowed),
                    Progress::Waiting | Progress::Received | Progress::Unknown => {
                        Err(FateError::Unknown { id })
                    }
                };
            }
        }
    }

    fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<Result<MessageId, SendError>> {
        if let Some(answer) = &mut self.answer {
            let Poll::Ready(result) = Pin::new(answer).poll(cx) else {
                return Poll::Pending;
            };
            // The channel closes unanswered only when the runtime of the client is torn down.
            let unknown = |_closed| Err(SendError::OutcomeUnknown(ClientError::Closed));
            self.known = Some(result.unwrap_or_else(unknown));
            self.answer = None;
        }
        match &self.known {
            Some(known) => Poll::Ready(known.clone().map(|(id, _)| id)),
            None => Poll::Pending,
        }
    }
}

impl Future for PutTicket {
    type Output = Result<MessageId, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_accepted(cx)
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        self.handle.shared.lock().puts.unfollow(self.sequence);
    }
}

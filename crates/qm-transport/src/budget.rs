//! Back-pressure: how many received bytes the node may hold before a link's reading pauses.

use core::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What an event costs beside its frames: its place in the queue, and the buffer's bookkeeping.
/// Counted with them, or a peer that sends nothing but tiny frames would get many times its share.
const EVENT_BYTES: usize = 256;

/// Received bytes of one link that the node has not given back yet.
#[derive(Debug)]
pub(crate) struct Budget {
    held_bytes: AtomicUsize,
    limit_bytes: AtomicUsize,
    room: Notify,
}

impl Budget {
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            held_bytes: AtomicUsize::new(0),
            limit_bytes: AtomicUsize::new(limit_bytes),
            room: Notify::new(),
        })
    }

    /// Waits until less than the limit is held. One more read may then overshoot the limit.
    pub(crate) async fn room(&self) {
        while self.is_full() {
            let room = self.room.notified();
            // Asked again after registering, so that a release in between is not missed.
            if !self.is_full() {
                return;
            }
            room.await;
        }
    }

    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.held_bytes
            .fetch_add(bytes + EVENT_BYTES, Ordering::AcqRel);
        Held {
            budget: Arc::clone(self),
            bytes,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held_bytes.load(Ordering::Acquire) >= self.limit_bytes.load(Ordering::Acquire)
    }

    /// Raises the limit.
    pub(crate) fn raise(&self, limit_bytes: usize) {
        self.limit_bytes.fetch_max(limit_bytes, Ordering::AcqRel);
        self.room.notify_waiters();
    }
}

/// Proof that received bytes are still in the node's hands; dropping it gives them back.
///
/// Reading from a link pauses while as much as
/// [`received_bytes_max`](crate::EndpointConfig::received_bytes_max) of it is held, which in turn
/// stops the peer. Keep the value for as long as the frames occupy memory: drop it when they were
/// handled, or move it along with them into the next queue. It cannot be forgotten: an event that
/// is dropped gives its bytes back.
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    /// Bytes of frames this value stands for; 256 more are counted for every event.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let counted = self.bytes + EVENT_BYTES;
        let before = self.budget.held_bytes.fetch_sub(counted, Ordering::AcqRel);
        let limit = self.budget.limit_bytes.load(Ordering::Acquire);
        if before >= limit && before - counted < limit {
            self.budget.room.notify_waiters();
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_comes_back_with_the_last_holder_above_the_limit() {
        let budget = Budget::new(2 * (60 + EVENT_BYTES));
        let first = budget.hold(60);
        budget.room().await;
        let second = budget.hold(60);
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert_eq!(second.bytes(), 60);
    }
    #[test]
    fn whatever_was_held_is_given_back_in_full() {
        let budget = Budget::new(4 * EVENT_BYTES);
        for bytes in (0..1_000).map(|n| n % 7) {
            drop(budget.hold(bytes));
            assert_eq!(budget.held_bytes.load(Ordering::Acquire), 0);
        }
    }
}

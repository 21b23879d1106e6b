//! What the application's handles and the connection's task share.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use qm_wire::local::{NodeFrame, NodeHello};
use qm_wire::{ClientId, Text};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::error::{ClientError, Violation};
use crate::puts::Puts;
use crate::requests::Requests;

/// Enough for one write: larger ones gain nothing, smaller ones cost system calls.
const FLUSH_BYTES: usize = 64 << 10;

/// What the application chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) client: ClientId,
    pub(crate) program: Text,
    pub(crate) handshake_timeout: Duration,
    pub(crate) reconnect_for: Duration,
    pub(crate) linger: Duration,
    pub(crate) followed_max: usize,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Connected, or trying to connect again and confident.
    Working,
    /// Tried for too long; still trying, but whoever asks is told.
    Away(ClientError),
    /// Over.
    Ended(ClientError),
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    /// No more is taken in, and until then what is there is finished.
    pub(crate) closing_until: Option<Instant>,
    pub(crate) node: NodeHello,
    pub(crate) puts: Puts,
    pub(crate) requests: Requests,
}

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    state: Mutex<State>,
    /// There is something to write.
    pub(crate) wake: Notify,
    /// The client is to be closed.
    pub(crate) close: Notify,
    /// The connection's task is over.
    pub(crate) ended: Notify,
    /// Room for unanswered puts.
    pub(crate) messages: Semaphore,
    /// Room for their bytes.
    pub(crate) bytes: Semaphore,
    /// All the room for bytes that there is.
    pub(crate) window_bytes: u32,
}

/// Held by everything the application has in hands; when the last one goes, the client closes.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// Shows nothing of the state: bodies do not belong into logs.
impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.start_close();
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings, node: NodeHello) -> Self {
        let window_messages = usize::try_from(node.window_messages).unwrap_or(usize::MAX);
        let window_bytes = node.window_bytes.max(1);
        let bytes = usize::try_from(window_bytes).unwrap_or(usize::MAX);
        Self {
            settings,
            wake: Notify::new(),
            close: Notify::new(),
            ended: Notify::new(),
            messages: Semaphore::new(window_messages.min(Semaphore::MAX_PERMITS)),
            bytes: Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)),
            window_bytes,
            state: Mutex::new(State {
                phase: Phase::Working,
                closing_until: None,
                node,
                puts: Puts::new(),
                requests: Requests::new(),
            }),
        }
    }

    /// The state; held for a moment, never over an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start_close(&self) {
        let until = Instant::now().checked_add(self.settings.linger);
        let until = until.unwrap_or_else(Instant::now);
        self.lock().closing_until.get_or_insert(until);
        self.close.notify_one();
        self.wake.notify_one();
    }

    /// Whether the client is to be closed and nothing is left to be done for it.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.is_closing() && state.puts.is_idle() && state.requests.is_idle()
    }

    /// Appends frames until one write is full or nothing more may be sent.
    pub(crate) fn fill(&self, to: &mut BytesMut) {
        let mut state = self.lock();
        let State {
            node,
            puts,
            requests,
            ..
        } = &mut *state;
        let now = Instant::now();
        while to.len() < FLUSH_BYTES {
            if !requests.write_next(now, to) && !puts.write_next(node, to) {
                break;
            }
        }
    }

    pub(crate) fn on_frame(&self, frame: NodeFrame) -> Result<(), Violation> {
        let mut state = self.lock();
        match frame {
            NodeFrame::Hello(_) => return Err(Violation::SecondHello),
            NodeFrame::Accepted(run) => state.puts.on_accepted(&run)?,
            NodeFrame::Refused(refused) => state.puts.on_refused(&refused)?,
            NodeFrame::Fate(fate) => state.puts.on_fate(&fate),
            NodeFrame::Delivery(delivery) => state.requests.on_delivery(delivery)?,
            NodeFrame::ReceiveDone(done) => state.requests.on_receive_done(&done)?,
            NodeFrame::Settled(settled) => state.requests.on_settled(&settled)?,
            NodeFrame::AdminReply(reply) => state.requests.on_admin_reply(&reply)?,
            NodeFrame::TransactionEnded(ended) => state.puts.on_transaction_ended(ended)?,
            // A kind of a later version that may be skipped.
            _ => {}
        }
        self.release(&mut state);
        Ok(())
    }

    /// A connection is there.
    pub(crate) fn on_online(&self, node: NodeHello) {
        let path = &self.settings.path;
        let mut state = self.lock();
        if state.node.node != node.node {
            let reason = ClientError::other_node(path, &state.node, &node);
            state.puts.fail_all(&reason);
            state.puts.forget_followed();
        } else if state.node.incarnation != node.incarnation {
            let path = path.clone();
            state.puts.on_restarted(&ClientError::Restarted { path });
        } else {
            state.puts.on_reconnected();
        }
        state.node = node;
        state.phase = Phase::Working;
        state.requests.on_online();
        self.release(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    /// The connection is gone; another one may come.
    pub(crate) fn on_lost(&self, reason: &ClientError) {
        let mut state = self.lock();
        state.puts.on_lost(reason);
        state.requests.on_lost(reason);
        self.release(&mut state);
    }

    /// No connection came for too long.
    pub(crate) fn on_away(&self, reason: &ClientError) {
        let mut state = self.lock();
        state.phase = Phase::Away(reason.clone());
        state.puts.fail_all(reason);
        state.puts.forget_followed();
        state.requests.fail_all(reason);
        self.release(&mut state);
    }

    /// No connection will come any more.
    pub(crate) fn on_end(&self, reason: &ClientError) {
        let mut state = self.lock();
        state.phase = Phase::Ended(reason.clone());
        state.puts.on_lost(reason);
        state.requests.on_lost(reason);
        state.puts.fail_all(reason);
        state.puts.forget_followed();
        state.requests.fail_all(reason);
        self.release(&mut state);
        drop(state);
        self.messages.close();
        self.bytes.close();
        self.ended.notify_waiters();
    }

    fn release(&self, state: &mut State) {
        let freed = state.puts.take_freed();
        if state.requests.has_outgoing() {
            // An answer made room for a request, or brought what is to be given back.
            self.wake.notify_one();
        }
        if freed.messages > 0 {
            self.messages.add_permits(freed.messages);
            self.bytes
                .add_permits(usize::try_from(freed.bytes).unwrap_or(usize::MAX));
            // The node's window has room again for what waits here.
            self.wake.notify_one();
        }
    }
}

impl State {
    pub(crate) const fn is_closing(&self) -> bool {
        self.closing_until.is_some()
    }

    /// Why nothing can be asked now.
    pub(crate) fn refusal(&self) -> Option<ClientError> {
        match &self.phase {
            Phase::Working if self.is_closing() => Some(ClientError::Closed),
            Phase::Working => None,
            Phase::Away(reason) | Phase::Ended(reason) => Some(reason.clone()),
        }
    }
}

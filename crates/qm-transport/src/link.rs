//! One link: a supervisor, one writer per lane in use, one reader per lane the peer uses.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use qm_wire::QmId;
use quinn::{ConnectionError, VarInt};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use crate::budget::Budget;
use crate::config::EndpointConfig;
use crate::error::CloseReason;
use crate::event::{Event, LinkId};
use crate::framing::FramingError;
use crate::lane::{LANES, Lane};
use crate::quic::code;
use crate::stats::LinkStats;

mod reader;
mod writer;

use reader::read_lane;
use writer::{Writer, write_lane};

/// A peer that changes its address more often is told of less often: it must not fill the node's
/// queue of events.
const MOVES_MIN: Duration = Duration::from_secs(1);
/// A peer ends its lanes before it closes. When it is silent for so long after the first, the news
/// of its close was lost and the link is over here, too; QUIC's own probes take much longer.
const CLOSE_LOST: Duration = Duration::from_secs(2);
/// Longest text taken over from a peer.
const REASON_BYTES_MAX: usize = 1024;
/// What of a stranger is received and not handled.
const STRANGER_BYTES_MAX: usize = 512 << 10;
/// What a peer may leave unread of the control and ack lanes.
const STEERING_UNREAD_BYTES_MAX: u64 = 16 << 20;
/// The same for a stranger.
const STRANGER_UNREAD_BYTES_MAX: u64 = 1 << 20;

/// The shared half of a link.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: QmId,
    /// Whether this node dialled it.
    dialled: bool,
    pub(crate) connection: quinn::Connection,
    queued_bytes: AtomicU64,
    queued_steering_bytes: AtomicU64,
    state: Mutex<State>,
    /// The last writer has ended, or `state.ending` was set.
    changed: Notify,
    messages: Arc<Budget>,
    steering: Arc<Budget>,
    /// One bit per lane the peer has opened.
    opened: AtomicU32,
    remote: Mutex<Remote>,
    /// Whether message lanes are read.
    trusted: watch::Sender<bool>,
    max_frame_bytes: usize,
    connection_window: VarInt,
}

#[derive(Default)]
struct State {
    lanes: [Option<mpsc::UnboundedSender<Bytes>>; LANES],
    writers: usize,
    /// Why this side ends the link; the first reason counts.
    ending: Option<CloseReason>,
}

/// The peer's address as the node knows it.
struct Remote {
    address: SocketAddr,
    /// When the node was last told that it had changed.
    told: Option<Instant>,
}

impl Link {
    pub(crate) fn new(
        id: LinkId,
        peer: QmId,
        dialled: bool,
        connection: quinn::Connection,
        config: &EndpointConfig,
    ) -> Arc<Self> {
        let remote = Remote {
            address: connection.remote_address(),
            told: None,
        };
        Arc::new(Self {
            id,
            peer,
            dialled,
            connection,
            queued_bytes: AtomicU64::new(0),
            queued_steering_bytes: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Notify::new(),
            messages: Budget::new(config.received_bytes_max),
            steering: Budget::new(match config.stranger_window_bytes {
                Some(_) => config.steering_bytes_max.min(STRANGER_BYTES_MAX),
                None => config.steering_bytes_max,
            }),
            opened: AtomicU32::new(0),
            remote: Mutex::new(remote),
            trusted: watch::Sender::new(config.stranger_window_bytes.is_none()),
            max_frame_bytes: config.max_frame_bytes,
            connection_window: VarInt::from_u32(config.connection_window_bytes),
        })
    }

    /// Queues whole frames for a lane; drops them if the link is ending.
    pub(crate) fn send(self: &Arc<Self>, runtime: &Handle, lane: Lane, frames: Bytes) {
        if frames.is_empty() {
            return;
        }
        let mut state = self.state();
        if state.ending.is_some() {
            return;
        }
        let Some(place) = state.lanes.get_mut(usize::from(lane.index())) else {
            return;
        };
        self.queued_bytes
            .fetch_add(frames.len() as u64, Ordering::AcqRel);
        if lane.is_steering() {
            self.queued_steering_bytes
                .fetch_add(frames.len() as u64, Ordering::AcqRel);
        }
        let mut opened = None;
        let queue = place.get_or_insert_with(|| {
            let (sender, queue) = mpsc::unbounded_channel();
            opened = Some(queue);
            sender
        });
        if let Err(mpsc::error::SendError(frames)) = queue.send(frames) {
            // The writer has met the end of the connection; `Closed` is on its way.
            self.written(lane, frames.len() as u64);
        }
        if let Some(queue) = opened {
            state.writers += 1;
            // A runtime that is being torn down drops the writer at once, which takes the lock.
            drop(state);
            runtime.spawn(write_lane(Writer(Arc::clone(self)), lane, queue));
        }
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Acquire)
    }

    /// Stops taking frames and ends the link once the queued ones were acknowledged.
    pub(crate) fn end(&self, reason: CloseReason) {
        let mut state = self.state();
        if state.ending.is_none() {
            state.ending = Some(reason);
            // The writers end when their queues have run dry.
            state.lanes = Default::default();
        }
        drop(state);
        self.changed.notify_one();
    }

    /// How much has gathered unread, if it is more than may be. Whoever asks and does not read the
    /// answers makes only the steering lanes grow; messages are sent by this node's own will.
    pub(crate) fn unread_too_much(&self, config: &EndpointConfig) -> Option<u64> {
        let steering_max = if *self.trusted.borrow() || self.dialled {
            STEERING_UNREAD_BYTES_MAX
        } else {
            STRANGER_UNREAD_BYTES_MAX
        };
        let steering = self.queued_steering_bytes.load(Ordering::Acquire);
        let queued = self.queued_bytes();
        (queued > config.unread_bytes_max || steering > steering_max).then_some(queued)
    }

    /// Bytes of a lane were taken over by QUIC.
    fn written(&self, lane: Lane, bytes: u64) {
        self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if lane.is_steering() {
            self.queued_steering_bytes
                .fetch_sub(bytes, Ordering::AcqRel);
        }
    }

    /// Ends the link of a peer that does not read. What was queued is dropped with it.
    pub(crate) fn end_unread(&self, bytes: u64) {
        self.end_now(CloseReason::Unread { bytes });
    }

    /// Ends the link without waiting for anything.
    pub(crate) fn end_now(&self, reason: CloseReason) {
        self.end(reason);
        self.close_connection();
    }

    fn close_connection(&self) {
        let (code, text) = match &self.state().ending {
            Some(CloseReason::Local { code, reason }) => (u64::from(*code), reason.clone()),
            Some(reason @ CloseReason::Misbehaved(_)) => (code::MISBEHAVED, reason.to_string()),
            Some(reason @ CloseReason::Unread { .. }) => {
                (u64::from(qm_wire::Outcome::BUSY.0), reason.to_string())
            }
            _ => (code::SHUT_DOWN, String::new()),
        };
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        self.connection.close(code, truncated(&text).as_bytes());
    }

    fn is_flushed(&self) -> bool {
        let state = self.state();
        state.ending.is_some() && state.writers == 0
    }

    /// Opens the whole window, and lets the message lanes be read.
    pub(crate) fn trust(&self, config: &EndpointConfig) {
        self.steering.raise(config.steering_bytes_max);
        if !self.trusted.send_replace(true) {
            self.connection.set_receive_window(self.connection_window);
        }
    }

    /// Waits for `trust`; false if the link ends before.
    async fn until_trusted(&self) -> bool {
        let mut trusted = self.trusted.subscribe();
        tokio::select! {
            biased;
            trusted = trusted.wait_for(|trusted| *trusted) => trusted.is_ok(),
            _ = self.connection.closed() => false,
        }
    }

    pub(crate) fn stats(&self) -> LinkStats {
        LinkStats::new(self.peer, &self.connection, self.queued_bytes())
    }

    fn is_ending(&self) -> bool {
        self.state().ending.is_some()
    }

    /// Tells of the peer's new address, if it has one, at most once in [`MOVES_MIN`].
    fn tell_if_moved(&self, events: &mpsc::UnboundedSender<Event>) {
        let now = self.connection.remote_address();
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = remote.told.is_some_and(|told| told.elapsed() < MOVES_MIN);
        if remote.address != now && !recently {
            *remote = Remote {
                address: now,
                told: Some(Instant::now()),
            };
            // Told under the lock, so that of two readers' news the newer comes last.
            tell(
                events,
                Event::AddressChanged {
                    link: self.id,
                    remote: canonical(now),
                },
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// IPv4 addresses seen through a dual-stack socket, in their own form.
pub(crate) fn canonical(remote: SocketAddr) -> SocketAddr {
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

/// Runs a link from `Connected` (sent by the caller) to `Closed` (returned for it to send).
pub(crate) async fn run(
    link: &Arc<Link>,
    config: &EndpointConfig,
    events: &mpsc::UnboundedSender<Event>,
) -> CloseReason {
    let mut readers = JoinSet::new();
    let error = supervise(link, config, events, &mut readers).await;
    // What the peer sent before its end is still in QUIC's buffers, whole lanes perhaps of which
    // nobody has heard yet; it comes before `Closed`.
    if error != ConnectionError::LocallyClosed {
        while let Ok(stream) = link.connection.accept_uni().await {
            readers.spawn(read_lane(Arc::clone(link), stream, events.clone()));
        }
    }
    let mut misbehaved = None;
    while let Some(read) = readers.join_next().await {
        if let Err(reason) = lane_ended(read) {
            misbehaved.get_or_insert(reason);
        }
    }
    let ending = link.state().ending.clone();
    link.end(CloseReason::ShutDown);
    match (error, ending, misbehaved) {
        (ConnectionError::LocallyClosed, Some(reason), _) => reason,
        (ConnectionError::LocallyClosed, None, _) => CloseReason::ShutDown,
        (_, _, Some(reason)) => reason,
        (error, _, None) => close_reason(error),
    }
}

async fn supervise(
    link: &Arc<Link>,
    config: &EndpointConfig,
    events: &mpsc::UnboundedSender<Event>,
    readers: &mut JoinSet<Result<(), FramingError>>,
) -> ConnectionError {
    let closed = link.connection.closed();
    tokio::pin!(closed);
    let look = sleep(config.keep_alive);
    tokio::pin!(look);
    let give_up = sleep(config.flush_timeout);
    tokio::pin!(give_up);
    let mut ending = false;
    let peer_gone = sleep(Duration::ZERO);
    tokio::pin!(peer_gone);
    // Datagrams heard when it was last looked, once the peer ends.
    let mut peer_ending = None;
    let heard = || link.connection.stats().udp_rx.datagrams;
    loop {
        tokio::select! {
            biased;
            error = &mut closed => return error,
            Some(read) = readers.join_next(), if !readers.is_empty() => {
                match lane_ended(read) {
                    Err(reason) => link.end_now(reason),
                    Ok(()) if peer_ending.is_none() => {
                        // Lanes live as long as their link: the peer is about to close it.
                        peer_ending = Some(heard());
                        peer_gone.as_mut().reset(Instant::now() + CLOSE_LOST);
                    }
                    Ok(()) => {}
                }
            }
            () = &mut peer_gone, if peer_ending.is_some() => {
                // Its other lanes may have much to deliver yet.
                let now = heard();
                if peer_ending.replace(now) == Some(now) {
                    link.end_now(CloseReason::Reset);
                }
                peer_gone.as_mut().reset(Instant::now() + CLOSE_LOST);
            }
            () = link.changed.notified() => {
                if link.is_flushed() {
                    link.close_connection();
                } else if link.is_ending() && !ending {
                    ending = true;
                    give_up.as_mut().reset(Instant::now() + config.flush_timeout);
                }
            }
            () = &mut give_up, if ending => {
                ending = false;
                link.close_connection();
            }
            Ok(stream) = link.connection.accept_uni() => {
                readers.spawn(read_lane(Arc::clone(link), stream, events.clone()));
            }
            () = &mut look => {
                // QUIC does not tell of a new address; a quiet link is looked at now and then.
                link.tell_if_moved(events);
                look.as_mut().reset(Instant::now() + config.keep_alive);
            }
        }
    }
}

/// Whether the end of a reader must end the link.
fn lane_ended(read: Result<Result<(), FramingError>, JoinError>) -> Result<(), CloseReason> {
    match read {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(CloseReason::Misbehaved(error)),
        Err(error) => {
            // A lane that nobody reads must not look like a quiet one.
            tracing::error!(%error, "the reader of a lane failed");
            Err(CloseReason::Quic {
                reason: error.to_string(),
            })
        }
    }
}

/// The node may have stopped listening; then nobody is left to tell.
pub(crate) fn tell(events: &mpsc::UnboundedSender<Event>, event: Event) {
    drop(events.send(event));
}

/// Ends a connection that was not admitted, and tells the peer why.
pub(crate) fn refuse(connection: &quinn::Connection, limit: &'static str) {
    let code = VarInt::from_u64(code::TOO_MANY).unwrap_or(VarInt::MAX);
    connection.close(code, limit.as_bytes());
}

fn close_reason(error: ConnectionError) -> CloseReason {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = printable(&close.reason);
            match close.error_code.into_inner() {
                code::SHUT_DOWN => CloseReason::PeerShutDown,
                code::MISBEHAVED => CloseReason::Accused { reason },
                code::TOO_MANY => CloseReason::PeerTooMany { reason },
                code => match u32::try_from(code) {
                    Ok(code) => CloseReason::Peer { code, reason },
                    Err(_) => CloseReason::Quic {
                        reason: format!("close code {code}: {reason}"),
                    },
                },
            }
        }
        ConnectionError::TimedOut => CloseReason::TimedOut,
        ConnectionError::Reset => CloseReason::Reset,
        ConnectionError::LocallyClosed => CloseReason::ShutDown,
        error => CloseReason::Quic {
            reason: printable(error.to_string().as_bytes()),
        },
    }
}

/// A peer's text, bounded and without control characters that would act on a terminal.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.get(..REASON_BYTES_MAX).unwrap_or(bytes);
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `text` cut to what a peer takes over, at a character's border.
fn truncated(text: &str) -> &str {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_close_are_cut_in_both_directions() {
        let words = "x".repeat(REASON_BYTES_MAX - 1);
        for (text, kept) in [
            (format!("{words}y"), REASON_BYTES_MAX),
            (format!("{words}yz"), REASON_BYTES_MAX),
            (format!("{words}\u{e9}"), REASON_BYTES_MAX - 1),
        ] {
            assert_eq!(truncated(&text).len(), kept);
        }
        let long = vec![b'x'; REASON_BYTES_MAX + 1];
        assert_eq!(printable(&long).len(), REASON_BYTES_MAX);
    }
}

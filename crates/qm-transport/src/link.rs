//! One link: a supervisor, one writer per lane in use, one reader per lane the peer uses.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use qm_wire::QmId;
use qm_wire::limits::{CONTROL_BYTES_MAX, FRAME_HEADER_BYTES};
use quinn::{ConnectionError, ReadError, RecvStream, VarInt, WriteError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::config::EndpointConfig;
use crate::error::CloseReason;
use crate::event::{Event, LinkId};
use crate::framing::{FrameCutter, FramingError};
use crate::lane::{LANES, Lane};
use crate::quic::code;

/// What is queued for a lane goes to QUIC in pieces of about this size: its send buffer looks
/// through its pieces one by one, so that many small ones cost quadratic time.
const FLUSH_BYTES: usize = 64 << 10;
/// A piece of at least this size is not worth a copy to make it larger.
const LARGE_BYTES: usize = 16 << 10;
/// Chunks taken from QUIC at once; a chunk is one datagram's share, so this is about 64 KiB.
const CHUNKS: usize = 48;
/// Longest text taken over from a peer.
const REASON_BYTES_MAX: usize = 1024;

/// The shared half of a link.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: QmId,
    pub(crate) connection: quinn::Connection,
    queued_bytes: AtomicU64,
    state: Mutex<State>,
    /// The last writer has ended, or `state.ending` was set.
    changed: Notify,
    messages: Arc<Budget>,
    steering: Arc<Budget>,
    /// One bit per lane the peer has opened.
    opened: AtomicU32,
    remote: Mutex<SocketAddr>,
    max_frame_bytes: usize,
}

#[derive(Default)]
struct State {
    lanes: [Option<mpsc::UnboundedSender<Bytes>>; LANES],
    writers: usize,
    /// Why this side ends the link; the first reason counts.
    ending: Option<CloseReason>,
}

impl Link {
    pub(crate) fn new(
        id: LinkId,
        peer: QmId,
        connection: quinn::Connection,
        config: &EndpointConfig,
    ) -> Arc<Self> {
        let remote = Mutex::new(connection.remote_address());
        Arc::new(Self {
            id,
            peer,
            connection,
            queued_bytes: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Notify::new(),
            messages: Budget::new(config.received_bytes_max),
            steering: Budget::new(config.steering_bytes_max),
            opened: AtomicU32::new(0),
            remote,
            max_frame_bytes: config.max_frame_bytes,
        })
    }

    /// Queues whole frames for a lane; drops them if the link is ending.
    pub(crate) fn send(self: &Arc<Self>, runtime: &Handle, lane: Lane, frames: Bytes) {
        if frames.is_empty() {
            return;
        }
        let bytes = frames.len() as u64;
        let mut state = self.state();
        if state.ending.is_some() {
            return;
        }
        let index = usize::from(lane.index());
        if state.lanes.get(index).is_some_and(Option::is_none) {
            let (sender, queue) = mpsc::unbounded_channel();
            runtime.spawn(write_lane(Writer::new(self), lane, queue));
            state.writers += 1;
            if let Some(place) = state.lanes.get_mut(index) {
                *place = Some(sender);
            }
        }
        self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let sent = state
            .lanes
            .get(index)
            .and_then(Option::as_ref)
            .map(|lane| lane.send(frames));
        if !matches!(sent, Some(Ok(()))) {
            // The writer has met the end of the connection; `Closed` is on its way.
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
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

    /// Ends the link without waiting for anything.
    fn end_now(&self, reason: CloseReason) {
        self.end(reason);
        self.close_connection();
    }

    fn close_connection(&self) {
        let (code, text) = match &self.state().ending {
            Some(CloseReason::Local { code, reason }) => (u64::from(*code), reason.clone()),
            Some(reason @ CloseReason::Misbehaved(_)) => (code::MISBEHAVED, reason.to_string()),
            _ => (code::SHUT_DOWN, String::new()),
        };
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        self.connection.close(code, truncated(&text).as_bytes());
    }

    fn is_flushed(&self) -> bool {
        let state = self.state();
        state.ending.is_some() && state.writers == 0
    }

    fn is_ending(&self) -> bool {
        self.state().ending.is_some()
    }

    /// The peer's new address, if it has changed since the last call.
    fn moved(&self) -> Option<SocketAddr> {
        let now = self.connection.remote_address();
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        (core::mem::replace(&mut *remote, now) != now).then(|| canonical(now))
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
    // What the peer sent before its end is still in QUIC's buffers; it comes before `Closed`.
    let mut misbehaved = None;
    while let Some(read) = readers.join_next().await {
        if let Ok(Err(error)) = read {
            misbehaved.get_or_insert(error);
        }
    }
    let ending = link.state().ending.clone();
    link.end(CloseReason::ShutDown);
    match (error, ending, misbehaved) {
        (ConnectionError::LocallyClosed, Some(reason), _) => reason,
        (ConnectionError::LocallyClosed, None, _) => CloseReason::ShutDown,
        (_, _, Some(error)) => CloseReason::Misbehaved(error),
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
    let look = tokio::time::sleep(config.keep_alive);
    tokio::pin!(look);
    let give_up = tokio::time::sleep(config.flush_timeout);
    tokio::pin!(give_up);
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            error = &mut closed => return error,
            Some(read) = readers.join_next(), if !readers.is_empty() => {
                if let Ok(Err(error)) = read {
                    link.end_now(CloseReason::Misbehaved(error));
                }
            }
            () = link.changed.notified() => {
                if link.is_flushed() {
                    link.close_connection();
                } else if link.is_ending() && !ending {
                    ending = true;
                    give_up.as_mut().reset(tokio::time::Instant::now() + config.flush_timeout);
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
                if let Some(remote) = link.moved() {
                    tell(events, Event::AddressChanged { link: link.id, remote });
                }
                look.as_mut().reset(tokio::time::Instant::now() + config.keep_alive);
            }
        }
    }
}

/// Counts one writer among the link's writers for as long as it lives.
struct Writer(Arc<Link>);

impl Writer {
    fn new(link: &Arc<Link>) -> Self {
        Self(Arc::clone(link))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writers -= 1;
        let last = state.writers == 0;
        drop(state);
        if last {
            self.0.changed.notify_one();
        }
    }
}

/// Writes a lane until its queue is closed and the peer has everything, or the connection ends.
async fn write_lane(writer: Writer, lane: Lane, mut queue: mpsc::UnboundedReceiver<Bytes>) {
    let link = &writer.0;
    // The error is the connection's end, which the supervisor reports.
    let _ended: Result<(), WriteError> = async {
        let mut stream = link.connection.open_uni().await?;
        // The stream was opened a moment ago: it cannot be closed.
        stream
            .set_priority(lane.stream_priority())
            .map_err(|_e| WriteError::ClosedStream)?;
        let mut preamble = Some(lane.index());
        let mut next = None;
        while let Some(first) = match next.take() {
            Some(kept) => Some(kept),
            None => queue.recv().await,
        } {
            let (piece, kept) = gather(first, preamble.take(), &mut queue);
            next = kept;
            let bytes = piece.frame_bytes;
            for bytes in piece.chunks.into_iter().flatten() {
                stream.write_chunk(bytes).await?;
            }
            link.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
        stream.finish().map_err(|_e| WriteError::ClosedStream)?;
        // Resolves when the peer has acknowledged everything; `stopped` is the end of the lane.
        drop(stream.stopped().await);
        Ok(())
    }
    .await;
}

/// What goes to QUIC at once.
struct Piece {
    /// One chunk, or the lane's preamble before a large one.
    chunks: [Option<Bytes>; 2],
    /// Bytes of it that count as queued.
    frame_bytes: u64,
}

/// Puts what is queued into one piece, up to [`FLUSH_BYTES`]; also returns what did not fit.
fn gather(
    first: Bytes,
    preamble: Option<u8>,
    queue: &mut mpsc::UnboundedReceiver<Bytes>,
) -> (Piece, Option<Bytes>) {
    let mut frame_bytes = first.len();
    if frame_bytes >= LARGE_BYTES {
        let preamble = preamble.map(|index| Bytes::copy_from_slice(&[index]));
        return (
            Piece {
                chunks: [preamble, Some(first)],
                frame_bytes: frame_bytes as u64,
            },
            None,
        );
    }
    let mut kept = None;
    let mut more = queue.try_recv().ok();
    if more.is_none() && preamble.is_none() {
        return (
            Piece {
                chunks: [Some(first), None],
                frame_bytes: frame_bytes as u64,
            },
            None,
        );
    }
    let mut buffer = BytesMut::with_capacity(if more.is_some() {
        FLUSH_BYTES
    } else {
        1 + frame_bytes
    });
    buffer.extend(preamble);
    buffer.extend_from_slice(&first);
    while let Some(frames) = more {
        if frame_bytes + frames.len() > FLUSH_BYTES {
            kept = Some(frames);
            break;
        }
        frame_bytes += frames.len();
        buffer.extend_from_slice(&frames);
        more = queue.try_recv().ok();
    }
    (
        Piece {
            chunks: [Some(buffer.freeze()), None],
            frame_bytes: frame_bytes as u64,
        },
        kept,
    )
}

/// Reads a lane until it or the connection ends; an error is the peer's fault.
async fn read_lane(
    link: Arc<Link>,
    mut stream: RecvStream,
    events: mpsc::UnboundedSender<Event>,
) -> Result<(), FramingError> {
    let Some(lane) = open_lane(&link, &mut stream).await? else {
        return Ok(());
    };
    let (budget, body_limit) = if lane.is_steering() {
        (&link.steering, CONTROL_BYTES_MAX)
    } else {
        (
            &link.messages,
            link.max_frame_bytes.saturating_sub(FRAME_HEADER_BYTES),
        )
    };
    let mut cutter = FrameCutter::new(body_limit);
    let mut chunks: [Bytes; CHUNKS] = [const { Bytes::new() }; CHUNKS];
    loop {
        if budget.is_full() {
            tokio::select! {
                biased;
                () = budget.room() => {}
                // Nobody waits for the node to make room once the link is gone.
                _ = link.connection.closed() => return Ok(()),
            }
        }
        let read = match stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => chunks.get(..count).unwrap_or_default(),
            Ok(None) => return cutter.finish(),
            Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, link = link.id.0, "reading a lane failed");
                return Ok(());
            }
        };
        let run = cutter.push(read)?;
        chunks.fill(Bytes::new());
        if let Some(remote) = link.moved() {
            tell(
                &events,
                Event::AddressChanged {
                    link: link.id,
                    remote,
                },
            );
        }
        if let Some(frames) = run {
            let held = budget.hold(frames.len());
            tell(
                &events,
                Event::Received {
                    link: link.id,
                    lane,
                    frames,
                    held,
                },
            );
        }
    }
}

/// Reads the preamble. `None` if the lane or the connection ended before it.
async fn open_lane(link: &Link, stream: &mut RecvStream) -> Result<Option<Lane>, FramingError> {
    let Ok(Some(chunk)) = stream.read_chunk(1, true).await else {
        return Ok(None);
    };
    let Some(&index) = chunk.bytes.first() else {
        return Ok(None);
    };
    let lane = Lane::from_index(index).ok_or(FramingError::UnknownLane { found: index })?;
    let bit = 1_u32 << index;
    if link.opened.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
        return Err(FramingError::LaneTwice { index });
    }
    Ok(Some(lane))
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

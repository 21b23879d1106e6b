//! The task that owns the socket: greets, writes, reads, and connects again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use qm_wire::FrameKind;
use qm_wire::frame::frame_len;
use qm_wire::limits::{BODY_BYTES_MAX, data_frame_bytes};
use qm_wire::local::{ClientFrame, ClientHello, NodeFrame, NodeHello};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::error::{ClientError, Violation};
use crate::shared::{Settings, Shared};

/// Version of the local protocol that this library speaks.
pub(crate) const PROTOCOL: u16 = 1;

/// The node is on this machine and its queues decide what it hands out, so the format's own limit
/// holds; memory is taken as bytes arrive, not as they are announced.
const BODY_LIMIT: usize = data_frame_bytes(BODY_BYTES_MAX as usize);

const READ_BYTES: usize = 64 << 10;
const READ_STEP_BYTES: usize = 1 << 20;
const WRITE_BUFFER_BYTES_KEPT: usize = 1 << 20;

/// Deliveries below this size are copied out of the read buffer, so that one small message that
/// the application keeps does not keep the whole buffer.
const COPY_BELOW_BYTES: usize = 16 << 10;

const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_LAST: Duration = Duration::from_secs(2);

/// A connection after the greeting.
#[derive(Debug)]
pub(crate) struct Connected {
    stream: UnixStream,
    /// What was read beyond the greeting.
    read: BytesMut,
    pub(crate) node: NodeHello,
}

/// How a connection ended.
enum End {
    /// All is done and the application wants no more.
    Finished,
    Lost(ClientError),
    /// What was learned cannot be trusted; connecting again would only repeat it.
    Broken(Violation),
}

/// Connects and exchanges greetings.
pub(crate) async fn greet(settings: &Settings) -> Result<Connected, ClientError> {
    let path = &settings.path;
    let stream = UnixStream::connect(path);
    let stream = stream
        .await
        .map_err(|error| ClientError::from_connect(path, error))?;
    let after_ms = crate::message::millis(settings.handshake_timeout);
    let hello = ClientHello {
        protocol: PROTOCOL,
        client: settings.client,
        program: settings.program.clone(),
    };
    match timeout(
        settings.handshake_timeout,
        exchange_hello(stream, hello, path),
    )
    .await
    {
        Ok(connected) => connected,
        Err(_elapsed) => Err(ClientError::Timeout {
            path: path.clone(),
            after_ms,
        }),
    }
}

async fn exchange_hello(
    mut stream: UnixStream,
    hello: ClientHello,
    path: &Path,
) -> Result<Connected, ClientError> {
    let mut out = BytesMut::new();
    ClientFrame::Hello(hello).encode(&mut out);
    let wrong = |error| ClientError::from_io(path, error);
    stream.write_all(&out).await.map_err(wrong)?;
    let mut read = BytesMut::with_capacity(READ_BYTES);
    loop {
        match next_frame(&mut read) {
            Ok(None) => {}
            Ok(Some(NodeFrame::Hello(node))) if node.protocol == PROTOCOL => {
                return Ok(Connected { stream, read, node });
            }
            Ok(Some(NodeFrame::Hello(node))) => {
                return Err(ClientError::Version {
                    path: path.to_owned(),
                    node: node.protocol,
                    client: PROTOCOL,
                });
            }
            Ok(Some(_)) => return Err(ClientError::protocol(path, Violation::NoHello)),
            Err(error) => return Err(ClientError::protocol(path, error)),
        }
        if stream.read_buf(&mut read).await.map_err(wrong)? == 0 {
            return Err(ClientError::HungUp {
                path: path.to_owned(),
            });
        }
    }
}

/// Serves connections until the client is closed; `connected` is the first one.
pub(crate) async fn drive(shared: Arc<Shared>, connected: Connected) {
    let mut next = Some(connected);
    let mut over = Over {
        shared: Arc::clone(&shared),
        reason: ClientError::Closed,
    };
    while let Some(connected) = next.take() {
        shared.on_online(connected.node.clone());
        over.reason = ClientError::Closed;
        match serve(&shared, connected).await {
            End::Finished => {}
            End::Broken(violation) => {
                over.reason = ClientError::protocol(&shared.settings.path, violation);
            }
            End::Lost(error) => {
                shared.on_lost(&error);
                over.reason = error;
                next = reconnect(&shared).await;
            }
        }
    }
}

/// Tells everybody that it is over, also when the runtime is torn down around the task: nobody
/// may wait for ever.
struct Over {
    shared: Arc<Shared>,
    reason: ClientError,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.shared.on_end(&self.reason);
    }
}

/// Reads and writes until one of them ends; a blocked write never holds up reading.
async fn serve(shared: &Shared, connected: Connected) -> End {
    let Connected {
        mut stream, read, ..
    } = connected;
    let (reader, writer) = stream.split();
    let end = tokio::select! {
        biased;
        end = read_frames(shared, reader, read) => end,
        end = write_frames(shared, writer) => end,
        () = lingered(shared) => End::Finished,
    };
    match end {
        // Without this a lost read could hide that the node had all it needed.
        End::Lost(_) if shared.is_finished() => End::Finished,
        end => end,
    }
}

/// Ends when the application closed the client and what was unanswered then had its time.
async fn lingered(shared: &Shared) {
    loop {
        let until = shared.lock().closing_until;
        match until {
            Some(until) => return sleep_until(until).await,
            None => shared.close.notified().await,
        }
    }
}

async fn read_frames(
    shared: &Shared,
    mut reader: impl AsyncRead + Unpin,
    mut read: BytesMut,
) -> End {
    loop {
        loop {
            match next_frame(&mut read) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if let Err(violation) = shared.on_frame(frame) {
                        return End::Broken(violation);
                    }
                }
                Err(error) => return End::Broken(error.into()),
            }
        }
        if shared.lock().is_closing() {
            // The writer looks whether this was the last answer.
            shared.wake.notify_one();
        }
        match reader.read_buf(&mut read).await {
            Ok(0) => {
                let path = shared.settings.path.clone();
                return End::Lost(ClientError::HungUp { path });
            }
            Ok(_) => {}
            Err(error) => return End::Lost(ClientError::from_io(&shared.settings.path, error)),
        }
    }
}

/// Cuts the next frame off the front, or makes room for more of it.
fn next_frame(read: &mut BytesMut) -> Result<Option<NodeFrame>, qm_wire::DecodeError> {
    let length = frame_len(read, BODY_LIMIT)?;
    let Some(length) = length.filter(|length| *length <= read.len()) else {
        let missing = length.map_or(READ_BYTES, |length| length.saturating_sub(read.len()));
        read.reserve(missing.clamp(READ_BYTES, READ_STEP_BYTES));
        return Ok(None);
    };
    let is_delivery = read.get(3) == Some(&FrameKind::Delivery.code());
    let mut frame = if is_delivery && length < COPY_BELOW_BYTES {
        let frame = Bytes::copy_from_slice(read.get(..length).unwrap_or_default());
        read.advance(length);
        frame
    } else {
        read.split_to(length).freeze()
    };
    NodeFrame::next(&mut frame, BODY_LIMIT)
}

async fn write_frames(shared: &Shared, mut writer: impl AsyncWrite + Unpin) -> End {
    let mut out = BytesMut::new();
    loop {
        shared.fill(&mut out);
        if out.is_empty() {
            if shared.is_finished() {
                // The node sees an orderly end, not a reset.
                return match writer.shutdown().await {
                    Ok(()) | Err(_) => End::Finished,
                };
            }
            shared.wake.notified().await;
            // Whoever woke us may have more: let it go on, and write it all at once.
            tokio::task::yield_now().await;
            continue;
        }
        if let Err(error) = writer.write_all(&out).await {
            return End::Lost(ClientError::from_io(&shared.settings.path, error));
        }
        out.clear();
        if out.capacity() > WRITE_BUFFER_BYTES_KEPT {
            out = BytesMut::new();
        }
    }
}

/// Tries to connect again until it works or the application needs no connection any more.
async fn reconnect(shared: &Shared) -> Option<Connected> {
    tokio::select! {
        biased;
        connected = connect_again(shared) => connected,
        () = lingered(shared) => None,
    }
}

async fn connect_again(shared: &Shared) -> Option<Connected> {
    let since = Instant::now();
    let mut away = false;
    let mut pause = RECONNECT_FIRST;
    loop {
        if shared.is_finished() {
            return None;
        }
        let error = match greet(&shared.settings).await {
            Ok(connected) => return Some(connected),
            Err(error) => error,
        };
        if !away && since.elapsed() >= shared.settings.reconnect_for {
            shared.on_away(&error);
            away = true;
        }
        sleep_or_wake(shared, jittered(pause)).await;
        pause = pause.saturating_mul(2).min(RECONNECT_LAST);
    }
}

/// Sleeps, but not while there may be nothing left to connect for.
async fn sleep_or_wake(shared: &Shared, pause: Duration) {
    tokio::select! {
        biased;
        () = sleep(pause) => {}
        () = closed_and_finished(shared) => {}
    }
}

async fn closed_and_finished(shared: &Shared) {
    while !shared.is_finished() {
        shared.wake.notified().await;
    }
}

/// Between half of it and all of it, so that many clients of a restarted node do not come at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is whole, which is harmless.
    let spread = match getrandom::fill(&mut random) {
        Ok(()) => random.map(u32::from).iter().sum(),
        Err(_) => 0,
    };
    pause.saturating_sub(pause.saturating_mul(spread) / 512)
}

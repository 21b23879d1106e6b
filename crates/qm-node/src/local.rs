//! The local socket: where applications and the command line talk to their node.
//!
//! A connection can cost itself, never the process: its frames, its unanswered puts and what it
//! does not read are bounded, and whatever it breaks ends only the connection.

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use qm_engine::ConnId;
use qm_wire::DecodeError;
use qm_wire::frame::frame_len;
use qm_wire::local::{ClientFrame, NodeFrame};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::holder::{self, Holder};
use crate::log_rate;
use crate::run::somebody;

/// Bytes of a socket's path that every Unix can take; the system's address has room for 108, with
/// a terminating zero.
const PATH_BYTES_MAX: usize = 107;
/// Read at once from a connection.
const READ_BYTES: usize = 64 << 10;
/// Batches below this are copied out of the buffer they were read into.
const COPY_BYTES: usize = READ_BYTES / 2;
/// Frames of all connections that were read and not yet handled.
const READ_AHEAD_BYTES: usize = 16 << 20;
/// Batches of frames that were read and not yet handled.
const READ_AHEAD_BATCHES: usize = 256;
/// While all connections together wait for too much, each looks again this often.
const CROWDED_LOOK: Duration = Duration::from_millis(10);
/// An output buffer that grew beyond this is given back once it is empty.
const OUT_KEEP_BYTES: usize = 64 << 10;

/// Limits of the local socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LocalLimits {
    /// Connections at a time. Default 1024.
    pub connections: usize,
    /// A new connection that has not said its hello for this long is closed. Default 10 s.
    pub handshake_timeout: Duration,
    /// A connection that leaves more than this unread is closed. Default 64 MiB, and what the
    /// last frame has more. A node takes twice what an application may hold unsettled, and a
    /// frame, when this is less.
    pub unread_bytes_max: usize,
    /// All connections together may leave this much unread; above, one that leaves more than its
    /// share, a hundredth of it, is closed. Default 256 MiB, and at least what one may.
    pub unread_bytes_total_max: usize,
    /// Bytes of puts of all connections that have no answer; above, a connection with any waits for
    /// its answers before more is read from it. Default 256 MiB.
    pub unanswered_bytes_total_max: usize,
    /// Permission bits of the socket. Default `0o600`: its owner only.
    pub mode: u32,
}

impl Default for LocalLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake_timeout: Duration::from_secs(10),
            unread_bytes_max: 64 << 20,
            unread_bytes_total_max: 256 << 20,
            unanswered_bytes_total_max: 256 << 20,
            mode: 0o600,
        }
    }
}

/// Why the local socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The operating system's addresses of sockets are short.
    #[error(
        "the path of the local socket has {} bytes, operating systems take {PATH_BYTES_MAX}: {}",
        path.as_os_str().len(), path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody answers at the path.
    #[error("{} answers at the local socket {}", somebody(.holder.as_ref()), path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who, where the operating system tells.
        holder: Option<Holder>,
    },
    /// Something else than a socket lies there.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What applications did.
#[derive(Debug)]
pub(crate) enum LocalEvent {
    /// A connection has said its hello; the hello follows as its first frame.
    Opened(Arc<Conn>),
    /// Whole, well-formed frames.
    Frames {
        conn: ConnId,
        frames: Vec<ClientFrame>,
        bytes: usize,
        _room: OwnedSemaphorePermit,
    },
    /// The connection is gone; told once for every connection that was opened.
    Closed { conn: ConnId },
}

/// The bound socket. Removes its file when dropped.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// What a connection may have unanswered and how large its frames may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) frame_bytes_max: usize,
}

impl LocalSocket {
    /// Binds the path. Must be called inside the runtime.
    ///
    /// A file that an earlier process left is removed only after nobody answered there.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, LocalError> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(LocalError::PathTooLong {
                path: path.to_owned(),
            });
        }
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            made.map_err(io_error("create the directory", dir))?;
        }
        remove_stale(path)?;
        let listener = listen(path, mode).map_err(io_error("open the local socket", path))?;
        let meta = fs::symlink_metadata(path).map_err(io_error("read", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (meta.dev(), meta.ino()),
        })
    }

    /// Accepts connections until dropped.
    pub(crate) async fn serve(
        self,
        limits: LocalLimits,
        window: Window,
        next_conn: Arc<AtomicU64>,
        events: mpsc::Sender<LocalEvent>,
    ) {
        let room = Arc::new(Semaphore::new(READ_AHEAD_BYTES));
        let open = Arc::new(Semaphore::new(limits.connections));
        let totals = Arc::new(Totals::new(&limits));
        let (mut told_full, mut told_failed) = (false, false);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => {
                    told_failed = false;
                    stream
                }
                Err(error) => {
                    // Out of descriptors, mostly: those who are connected go on.
                    if !told_failed {
                        tracing::warn!(event = "local_accept_failed", %error, "no new connection");
                        told_failed = true;
                    }
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
                if !told_full {
                    let limit = limits.connections;
                    tracing::warn!(
                        event = "local_full",
                        limit,
                        "too many applications connected"
                    );
                    told_full = true;
                }
                continue;
            };
            told_full = false;
            let id = ConnId(next_conn.fetch_add(1, Ordering::Relaxed));
            let conn = Arc::new(Conn::new(
                id,
                stream,
                window,
                limits.unread_bytes_max,
                &totals,
            ));
            let (limits, room, events) = (limits.clone(), Arc::clone(&room), events.clone());
            tokio::spawn(async move {
                converse(&conn, &limits, room, events).await;
                drop(permit);
            });
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // Another node may have replaced the file.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the local socket's file stays");
        }
    }
}

/// Capacity of the channel that [`LocalSocket::serve`] fills.
pub(crate) fn channel() -> (mpsc::Sender<LocalEvent>, mpsc::Receiver<LocalEvent>) {
    mpsc::channel(READ_AHEAD_BATCHES)
}

/// What all connections hold together.
#[derive(Debug)]
struct Totals {
    unread: AtomicUsize,
    unread_max: usize,
    unanswered: AtomicUsize,
    unanswered_max: usize,
}

impl Totals {
    fn new(limits: &LocalLimits) -> Self {
        Self {
            unread: AtomicUsize::new(0),
            unread_max: limits.unread_bytes_total_max,
            unanswered: AtomicUsize::new(0),
            unanswered_max: limits.unanswered_bytes_total_max,
        }
    }

    fn unanswered_full(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= self.unanswered_max
    }
}

/// One connection; the node's loop writes to it, its own task reads from it.
#[derive(Debug)]
pub(crate) struct Conn {
    id: ConnId,
    stream: UnixStream,
    window: Window,
    unread_bytes_max: usize,
    totals: Arc<Totals>,
    /// Nothing further is read: what was read waits for its turn.
    held_back: AtomicBool,
    out: Mutex<Out>,
    wake_writer: Notify,
    unanswered: Mutex<Unanswered>,
    answered: Notify,
    end: Notify,
}

#[derive(Debug, Default)]
struct Out {
    buffer: BytesMut,
    /// Bytes of it that are part of the total.
    counted: usize,
    /// Once this is empty, nothing further is written.
    closing: bool,
}

/// Whether a frame counts towards the window until it is answered. Puts of a transaction do not:
/// its end is their answer, and a transaction has limits of its own (W-LOC-8).
const fn is_answered_alone(frame: &ClientFrame) -> bool {
    match frame {
        ClientFrame::Put(put) => put.transaction.is_none(),
        ClientFrame::EndTransaction(_) => true,
        _ => false,
    }
}

/// Puts that were read and have no answer yet, with the bytes of their frames.
#[derive(Debug, Default)]
struct Unanswered {
    bytes: usize,
    puts: VecDeque<usize>,
}

impl Unanswered {
    const fn fits(&self, window: Window) -> bool {
        self.bytes < window.bytes
    }
}

impl Conn {
    fn new(
        id: ConnId,
        stream: UnixStream,
        window: Window,
        unread_bytes_max: usize,
        totals: &Arc<Totals>,
    ) -> Self {
        Self {
            totals: Arc::clone(totals),
            held_back: AtomicBool::new(false),
            id,
            stream,
            window,
            unread_bytes_max,
            out: Mutex::default(),
            wake_writer: Notify::new(),
            unanswered: Mutex::default(),
            answered: Notify::new(),
            end: Notify::new(),
        }
    }

    /// Its number.
    pub(crate) const fn id(&self) -> ConnId {
        self.id
    }

    /// Appends a frame to what is to be written. `false` when the application has left too much
    /// unread; the connection is to be closed then.
    pub(crate) fn push(&self, frame: &NodeFrame) -> bool {
        match frame {
            NodeFrame::Accepted(accepted) => {
                self.forget_puts(usize::try_from(accepted.count).unwrap_or(usize::MAX));
            }
            NodeFrame::Refused(_) | NodeFrame::TransactionEnded(_) => self.forget_puts(1),
            _ => {}
        }
        let mut out = self.out();
        if out.closing {
            return true;
        }
        let unread = out.buffer.len();
        let crowded = self.totals.unread.load(Ordering::Relaxed) > self.totals.unread_max;
        if unread > self.unread_bytes_max || (crowded && unread > self.totals.unread_max / 100) {
            return false;
        }
        frame.encode(&mut out.buffer);
        self.count_unread(&mut out);
        true
    }

    /// Keeps the total right after the buffer has changed.
    fn count_unread(&self, out: &mut Out) {
        let now = out.buffer.len();
        let total = &self.totals.unread;
        if now > out.counted {
            total.fetch_add(now - out.counted, Ordering::Relaxed);
        } else {
            total.fetch_sub(out.counted - now, Ordering::Relaxed);
        }
        out.counted = now;
    }

    /// Reads nothing further from the application until this is taken back.
    pub(crate) fn hold_back(&self, hold: bool) {
        self.held_back.store(hold, Ordering::Release);
        if !hold {
            self.answered.notify_one();
        }
    }

    /// Writes what was pushed, as far as the socket takes it at once; the rest follows by itself.
    pub(crate) fn flush(&self) {
        let mut out = self.out();
        if !self.write_some(&mut out) {
            self.wake_writer.notify_one();
        }
    }

    /// Ends the connection after what was pushed is written.
    pub(crate) fn close(&self) {
        self.out().closing = true;
        self.wake_writer.notify_one();
        self.end.notify_one();
    }

    /// `false` when something is left to write or the connection is to be shut.
    fn write_some(&self, out: &mut Out) -> bool {
        while !out.buffer.is_empty() {
            match self.stream.try_write(&out.buffer) {
                Ok(written) => out.buffer.advance(written),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.count_unread(out);
                    return false;
                }
                Err(_) => {
                    // The reading side learns it, too, and tells.
                    out.buffer.clear();
                    out.closing = true;
                }
            }
        }
        self.count_unread(out);
        if out.buffer.capacity() > OUT_KEEP_BYTES {
            out.buffer = BytesMut::new();
        }
        !out.closing
    }

    /// Writes whatever the socket does not take at once, until the connection ends.
    async fn write_rest(&self) {
        loop {
            self.wake_writer.notified().await;
            loop {
                {
                    let mut out = self.out();
                    if self.write_some(&mut out) {
                        break;
                    }
                    if out.buffer.is_empty() {
                        return;
                    }
                }
                if self.stream.writable().await.is_err() {
                    return;
                }
            }
        }
    }

    fn remember_put(&self, frame_bytes: usize) {
        let mut unanswered = self.unanswered();
        unanswered.bytes += frame_bytes;
        unanswered.puts.push_back(frame_bytes);
        self.totals
            .unanswered
            .fetch_add(frame_bytes, Ordering::Relaxed);
    }

    /// Answers need not come in order; counting them from the front keeps the sums right.
    fn forget_puts(&self, count: usize) {
        let mut unanswered = self.unanswered();
        let count = count.min(unanswered.puts.len());
        let bytes: usize = unanswered.puts.drain(..count).sum();
        unanswered.bytes -= bytes;
        self.totals.unanswered.fetch_sub(bytes, Ordering::Relaxed);
        drop(unanswered);
        self.answered.notify_one();
    }

    /// Waits until the application may have further puts unanswered.
    async fn room(&self) {
        loop {
            let (fits, crowded) = {
                let unanswered = self.unanswered();
                let fits = unanswered.fits(self.window)
                    && unanswered.puts.len() < self.window.messages
                    && !self.held_back.load(Ordering::Acquire);
                let crowded = self.totals.unanswered_full() && !unanswered.puts.is_empty();
                (fits, crowded)
            };
            if fits && !crowded {
                return;
            }
            let answered = self.answered.notified();
            if crowded {
                // Others' answers make room, too, and wake nobody here.
                drop(timeout(CROWDED_LOOK, answered).await);
            } else {
                answered.await;
            }
        }
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unanswered(&self) -> MutexGuard<'_, Unanswered> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let unread = self.out().counted;
        self.totals.unread.fetch_sub(unread, Ordering::Relaxed);
        let unanswered = self.unanswered().bytes;
        self.totals
            .unanswered
            .fetch_sub(unanswered, Ordering::Relaxed);
    }
}

/// Why reading ended.
enum End {
    /// The application or the node closed it.
    Closed,
    /// It broke the protocol.
    Broken(String),
}

async fn converse(
    conn: &Arc<Conn>,
    limits: &LocalLimits,
    room: Arc<Semaphore>,
    events: mpsc::Sender<LocalEvent>,
) {
    let mut opened = false;
    let mut reader = Reader {
        conn,
        buffer: BytesMut::new(),
        room,
        events: &events,
    };
    let reading = async {
        let first = timeout(limits.handshake_timeout, reader.batch()).await;
        let first = match first {
            Ok(first) => first?,
            Err(_) => return Err(End::Broken("no hello in time".to_owned())),
        };
        if !matches!(first.0.first(), Some(ClientFrame::Hello(_))) {
            return Err(End::Broken("the first frame is not a hello".to_owned()));
        }
        if events
            .send(LocalEvent::Opened(Arc::clone(conn)))
            .await
            .is_err()
        {
            return Err(End::Closed);
        }
        opened = true;
        reader.hand_over(first).await?;
        loop {
            let batch = reader.batch().await?;
            reader.hand_over(batch).await?;
        }
    };
    let ended: Result<(), End> = tokio::select! {
        biased;
        () = conn.end.notified() => Err(End::Closed),
        ended = reading => ended,
        () = conn.write_rest() => Err(End::Closed),
    };
    if let Err(End::Broken(reason)) = ended
        && log_rate::admits("client_refused")
    {
        tracing::warn!(
            event = "client_refused",
            conn = conn.id.0,
            reason,
            "connection closed"
        );
    }
    // What was answered before the end still goes out, to whoever reads it soon.
    conn.close();
    if timeout(Duration::from_secs(1), conn.write_rest())
        .await
        .is_err()
    {
        tracing::debug!(
            conn = conn.id.0,
            "an application left its last answers unread"
        );
    }
    // The application shall see the end now, not when the node's loop forgets the connection.
    if let Err(error) = SockRef::from(&conn.stream).shutdown(Shutdown::Both) {
        tracing::trace!(conn = conn.id.0, %error, "the application was gone first");
    }
    if opened
        && events
            .send(LocalEvent::Closed { conn: conn.id })
            .await
            .is_err()
    {
        tracing::trace!(conn = conn.id.0, "the node stopped first");
    }
}

struct Reader<'a> {
    conn: &'a Conn,
    buffer: BytesMut,
    room: Arc<Semaphore>,
    events: &'a mpsc::Sender<LocalEvent>,
}

impl Reader<'_> {
    /// The whole frames that have arrived, at least one, and their bytes.
    async fn batch(&mut self) -> Result<(Vec<ClientFrame>, usize), End> {
        loop {
            let (whole, missing) = self.whole_frames().map_err(broken)?;
            if whole > 0 {
                let frames = self.decode(whole).map_err(broken)?;
                return Ok((frames, whole));
            }
            // Idle connections cost no buffer: it is made when there is something to read.
            self.conn
                .stream
                .readable()
                .await
                .map_err(|_e| End::Closed)?;
            self.buffer
                .reserve(missing.clamp(READ_BYTES, 16 * READ_BYTES));
            match self.conn.stream.try_read_buf(&mut self.buffer) {
                Ok(0) if self.buffer.is_empty() => return Err(End::Closed),
                Ok(0) => return Err(End::Broken("it ends within a frame".to_owned())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.buffer.is_empty() {
                        self.buffer = BytesMut::new();
                    }
                }
                Err(_) => return Err(End::Closed),
            }
        }
    }

    /// Bytes of the whole frames at the front, and those missing of the frame behind them.
    fn whole_frames(&self) -> Result<(usize, usize), DecodeError> {
        let mut whole = 0;
        loop {
            let rest = self.buffer.get(whole..).unwrap_or_default();
            match frame_len(rest, self.conn.window.frame_bytes_max) {
                Ok(Some(len)) if len <= rest.len() => whole += len,
                Ok(Some(len)) => return Ok((whole, len - rest.len())),
                Ok(None) => return Ok((whole, 0)),
                // What came before it is still good.
                Err(_) if whole > 0 => return Ok((whole, 0)),
                Err(error) => return Err(error),
            }
        }
    }

    fn decode(&mut self, whole: usize) -> Result<Vec<ClientFrame>, DecodeError> {
        // Bodies are slices of these bytes and may stay for long: a little that arrived in a large
        // buffer is copied, so that it does not keep the buffer.
        let mut bytes = if whole < COPY_BYTES {
            let copy = Bytes::copy_from_slice(self.buffer.get(..whole).unwrap_or_default());
            self.buffer.advance(whole);
            copy
        } else {
            self.buffer.split_to(whole).freeze()
        };
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        let mut frames = Vec::new();
        let mut before = bytes.len();
        while let Some(frame) = ClientFrame::next(&mut bytes, self.conn.window.frame_bytes_max)? {
            if is_answered_alone(&frame) {
                self.conn.remember_put(before - bytes.len());
            }
            before = bytes.len();
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Passes frames on, then waits until more may be read.
    async fn hand_over(&self, (frames, bytes): (Vec<ClientFrame>, usize)) -> Result<(), End> {
        let permits = u32::try_from(bytes.min(READ_AHEAD_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        let _room = room.map_err(|_e| End::Closed)?;
        let event = LocalEvent::Frames {
            conn: self.conn.id,
            frames,
            bytes,
            _room,
        };
        self.events.send(event).await.map_err(|_e| End::Closed)?;
        self.conn.room().await;
        Ok(())
    }
}

fn broken(error: DecodeError) -> End {
    End::Broken(error.to_string())
}

fn remove_stale(path: &Path) -> Result<(), LocalError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            return Err(LocalError::NotASocket {
                path: path.to_owned(),
            });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("read", path)(e)),
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(LocalError::InUse {
            path: path.to_owned(),
            holder: holder::of_socket(path),
        }),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io_error("remove the stale socket", path))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io_error("try the local socket", path)(e)),
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // On Linux the file is created with the descriptor's mode, so that there is no moment at
    // which others could connect; elsewhere the mode is set right after.
    let file = File::from(OwnedFd::from(socket));
    if cfg!(target_os = "linux") {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LocalError + 'a {
    move |source| LocalError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;

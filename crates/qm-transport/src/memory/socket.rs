//! A socket of the simulated network, in the shape that quinn wants.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, Waker, ready};
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Network;

#[derive(Clone)]
pub(super) struct Datagram {
    /// The address the receiver sees.
    pub(super) from: SocketAddr,
    pub(super) bytes: Bytes,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// Datagrams on their way to one socket.
#[derive(Default)]
pub(super) struct Inbox {
    /// By time of arrival, then by order of sending.
    coming: BTreeMap<(Instant, u64), Datagram>,
    timer: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
}

/// Puts a datagram on its way and lets the reader set its timer anew.
pub(super) fn deliver(inbox: &Mutex<Inbox>, at: Instant, number: u64, datagram: Datagram) {
    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
    let first = inbox
        .coming
        .first_key_value()
        .is_none_or(|((earliest, _), _)| at < *earliest);
    inbox.coming.insert((at, number), datagram);
    if first && let Some(reader) = inbox.reader.take() {
        reader.wake();
    }
}

pub(crate) struct SimSocket {
    network: Network,
    bound: SocketAddr,
    inbox: Arc<Mutex<Inbox>>,
}

impl SimSocket {
    pub(super) fn new(network: Network, bound: SocketAddr, inbox: Arc<Mutex<Inbox>>) -> Self {
        Self {
            network,
            bound,
            inbox,
        }
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        for contents in transmit.contents.chunks(segment) {
            let datagram = Datagram {
                from: self.bound,
                bytes: Bytes::copy_from_slice(contents),
                ecn: transmit.ecn,
            };
            self.network
                .carry(self.bound, &self.inbox, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = &mut *inbox;
        loop {
            let now = Instant::now();
            let mut count = 0;
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()) {
                let Some(entry) = inbox.coming.first_entry() else {
                    break;
                };
                if entry.key().0 > now {
                    break;
                }
                let datagram = entry.remove();
                let length = datagram.bytes.len().min(buffer.len());
                if let (Some(to), Some(from)) =
                    (buffer.get_mut(..length), datagram.bytes.get(..length))
                {
                    to.copy_from_slice(from);
                }
                *meta = RecvMeta {
                    addr: datagram.from,
                    len: length,
                    stride: length,
                    ecn: datagram.ecn,
                    dst_ip: None,
                };
                count += 1;
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            inbox.reader = Some(cx.waker().clone());
            let Some(((at, _), _)) = inbox.coming.first_key_value() else {
                return Poll::Pending;
            };
            let timer = inbox
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(*at)));
            if timer.deadline() != *at {
                timer.as_mut().reset(*at);
            }
            ready!(timer.as_mut().poll(cx));
            inbox.timer = None;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.bound)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.release(self.bound, &self.inbox);
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.bound)
    }
}

/// The simulated network takes every datagram at once; it may still lose it.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

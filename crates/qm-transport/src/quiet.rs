//! A socket that can be told to send nothing more.
//!
//! A machine that was resumed from a snapshot may share the keys of its connections with another
//! one: whatever it still sends on them, a close included, may use a nonce a second time.

use core::fmt;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// See the module.
pub(crate) struct QuietSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    quiet: Arc<AtomicBool>,
}

impl QuietSocket {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, quiet: &Arc<AtomicBool>) -> Arc<Self> {
        let quiet = Arc::clone(quiet);
        Arc::new(Self { inner, quiet })
    }
}

impl fmt::Debug for QuietSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuietSocket").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for QuietSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.quiet.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

//! Nodes that dial each other and say what they were told.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use qm_transport::memory::Network;
use qm_transport::{
    CloseReason, DialError, Endpoint, EndpointConfig, Event, Lane, LinkId, NodeKey,
};
use qm_wire::FrameKind;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One endpoint with its key and what it tells.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) key: NodeKey,
    told: mpsc::UnboundedReceiver<Event>,
}

impl Node {
    /// A node on the loopback interface.
    pub(crate) async fn loopback(seed: u8) -> Self {
        Self::loopback_with(seed, EndpointConfig::default()).await
    }

    pub(crate) async fn loopback_with(seed: u8, config: EndpointConfig) -> Self {
        let config = EndpointConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            // A loaded machine takes its time; no test waits for the limit itself.
            flush_timeout: Duration::from_secs(60),
            ..config
        };
        let (events, told) = mpsc::unbounded_channel();
        let key = NodeKey::generate([seed; 32]);
        let endpoint = Endpoint::bind(config, &key, events).await.unwrap();
        Self {
            endpoint,
            key,
            told,
        }
    }

    /// A node at 10.0.0.`seed`:7000 of a simulated network.
    pub(crate) async fn memory(seed: u8, network: &Network) -> Self {
        Self::memory_with(seed, network, EndpointConfig::default()).await
    }

    pub(crate) async fn memory_with(seed: u8, network: &Network, config: EndpointConfig) -> Self {
        let config = EndpointConfig {
            listen: ([10, 0, 0, seed], 7000).into(),
            ..config
        };
        let (events, told) = mpsc::unbounded_channel();
        let key = NodeKey::generate([seed; 32]);
        let endpoint = Endpoint::bind_memory(config, &key, events, network).unwrap();
        Self {
            endpoint,
            key,
            told,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.endpoint.local_addr().unwrap().to_string()
    }

    /// The next event. The limit is on the test's patience only; it is virtual in simulation.
    pub(crate) async fn told(&mut self) -> Event {
        timeout(Duration::from_secs(60), self.told.recv())
            .await
            .expect("an event in time")
            .expect("the endpoint lives")
    }

    /// What has been told already.
    pub(crate) fn told_now(&mut self) -> Option<Event> {
        self.told.try_recv().ok()
    }

    pub(crate) async fn connected(&mut self) -> LinkId {
        match self.told().await {
            Event::Connected { link, .. } => link,
            other => panic!("expected Connected, was told {other:?}"),
        }
    }

    pub(crate) async fn dial_failed(&mut self) -> DialError {
        match self.told().await {
            Event::DialFailed { error, .. } => error,
            other => panic!("expected DialFailed, was told {other:?}"),
        }
    }

    /// Waits for the end of a link, dropping what it still receives.
    pub(crate) async fn closed(&mut self, expected: LinkId) -> CloseReason {
        loop {
            match self.told().await {
                Event::Closed { link, reason } if link == expected => return reason,
                Event::Received { .. } | Event::AddressChanged { .. } => {}
                other => panic!("expected Closed, was told {other:?}"),
            }
        }
    }

    /// The next frames on any lane, given back at once.
    pub(crate) async fn received(&mut self) -> (LinkId, Lane, Bytes) {
        match self.told().await {
            Event::Received {
                link, lane, frames, ..
            } => (link, lane, frames),
            other => panic!("expected Received, was told {other:?}"),
        }
    }
}

/// Connects two nodes; the first one dials.
pub(crate) async fn connect(from: &mut Node, to: &mut Node) -> (LinkId, LinkId) {
    from.endpoint.dial(1, &to.address(), Some(to.key.qm_id()));
    let there = to.connected().await;
    (from.connected().await, there)
}

/// One frame, with a header as SPEC.md has it; the checksum is not the transport's business.
pub(crate) fn put_frame(buffer: &mut BytesMut, body: &[u8]) {
    buffer.put_slice(b"QM");
    buffer.put_u8(1);
    buffer.put_u8(FrameKind::Data.code());
    buffer.put_u32_le(0);
    buffer.put_u32_le(u32::try_from(body.len()).unwrap());
    buffer.put_u32_le(0);
    buffer.put_slice(body);
}

pub(crate) fn frame(body: &[u8]) -> Bytes {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, body);
    buffer.freeze()
}

/// Frames that hold the numbers of a range, each padded to `body_bytes`.
pub(crate) fn numbered(range: core::ops::Range<u64>, body_bytes: usize) -> Bytes {
    let mut buffer = BytesMut::new();
    for number in range {
        let mut body = vec![0; body_bytes.max(8)];
        body[..8].copy_from_slice(&number.to_le_bytes());
        put_frame(&mut buffer, &body);
    }
    buffer.freeze()
}

/// The bodies of a run of frames.
pub(crate) fn bodies(mut frames: Bytes) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    while !frames.is_empty() {
        let header = frames.split_to(16);
        let length = u32::from_le_bytes(header[8..12].try_into().unwrap());
        bodies.push(frames.split_to(length as usize));
    }
    bodies
}

/// The numbers of a run of [`numbered`] frames.
pub(crate) fn numbers(frames: Bytes) -> impl Iterator<Item = u64> {
    bodies(frames)
        .into_iter()
        .map(|body| u64::from_le_bytes(body[..8].try_into().unwrap()))
}

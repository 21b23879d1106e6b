//! The node's side of the socket, as a script: each test says what is answered and when.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use qm_client::{Client, ClientId, Incarnation, MessageId, QmId};
use qm_wire::frame::frame_len;
use qm_wire::local::{
    Accepted, ClientFrame, ClientHello, Delivery, NodeFrame, NodeHello, Put, Receive, ReceiveDone,
    Settle, Settled,
};
use qm_wire::{Class, Envelope, Salt, Tag, Text};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long a frame may take, so that one that never comes fails its test.
const PATIENCE: Duration = Duration::from_secs(20);

const LIMIT: usize = qm_wire::limits::data_frame_bytes(64 << 20);

/// A listening node.
pub(crate) struct Node {
    _dir: TempDir,
    path: PathBuf,
    listener: Option<UnixListener>,
    pub(crate) hello: NodeHello,
}

/// One connection of a client to it.
pub(crate) struct Link {
    stream: UnixStream,
    read: BytesMut,
    /// What the client said first.
    pub(crate) hello: ClientHello,
}

pub(crate) fn id(sequence: u64) -> MessageId {
    MessageId {
        incarnation: Incarnation(5),
        sequence,
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sock");
        let listener = Some(UnixListener::bind(&path).unwrap());
        Self {
            _dir: dir,
            path,
            listener,
            hello: NodeHello {
                protocol: 1,
                node: QmId::from_bytes([1; 16]),
                incarnation: Incarnation(5),
                name: "fake".into(),
                body_bytes_max: 4 << 20,
                window_messages: 64,
                window_bytes: 1 << 20,
            },
        }
    }

    pub(crate) const fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Nobody listens any more.
    pub(crate) fn stop(&mut self) {
        self.listener = None;
        std::fs::remove_file(&self.path).unwrap();
    }

    /// Nobody listens any more, and the socket's file stays, as a killed node leaves it.
    pub(crate) fn leave_socket(&mut self) {
        self.listener = None;
    }

    pub(crate) fn start(&mut self) {
        self.listener = Some(UnixListener::bind(&self.path).unwrap());
    }

    /// The next connection, before any greeting.
    pub(crate) async fn accept_raw(&self) -> UnixStream {
        self.listener.as_ref().unwrap().accept().await.unwrap().0
    }

    /// The next connection, greetings exchanged.
    pub(crate) async fn accept(&self) -> Link {
        self.greet(self.accept_raw().await).await
    }

    /// A connection that was accepted, greetings exchanged.
    pub(crate) async fn greet(&self, stream: UnixStream) -> Link {
        let mut link = Link {
            stream,
            read: BytesMut::new(),
            hello: ClientHello {
                protocol: 0,
                client: ClientId([0; 16]),
                program: Text::EMPTY,
            },
        };
        let Some(ClientFrame::Hello(hello)) = link.next().await else {
            panic!("a client greets first")
        };
        link.hello = hello;
        link.send(NodeFrame::Hello(self.hello.clone())).await;
        link
    }

    /// A client, and the connection it opened.
    pub(crate) async fn client(&self) -> (Client, Link) {
        self.client_with(Client::builder()).await
    }

    pub(crate) async fn client_with(&self, builder: qm_client::Builder) -> (Client, Link) {
        let (client, link) = tokio::join!(builder.connect(&self.path), self.accept());
        (client.unwrap(), link)
    }
}

impl Link {
    /// The client's next frame; `None` when it hung up.
    pub(crate) async fn next(&mut self) -> Option<ClientFrame> {
        loop {
            if let Some(length) = frame_len(&self.read, LIMIT).unwrap()
                && length <= self.read.len()
            {
                let mut frame = self.read.split_to(length).freeze();
                return ClientFrame::next(&mut frame, LIMIT).unwrap();
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read));
            let read = read.await.expect("a frame in time");
            if read.ok()? == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn put(&mut self) -> Put {
        match self.next().await {
            Some(ClientFrame::Put(put)) => put,
            other => panic!("a put was expected: {other:?}"),
        }
    }

    pub(crate) async fn receive(&mut self) -> Receive {
        match self.next().await {
            Some(ClientFrame::Receive(receive)) => receive,
            other => panic!("a receive was expected: {other:?}"),
        }
    }

    pub(crate) async fn settle(&mut self) -> Settle {
        match self.next().await {
            Some(ClientFrame::Settle(settle)) => settle,
            other => panic!("a settle was expected: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, frame: NodeFrame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // A client that hung up meanwhile is what some tests are about.
        self.stream.write_all(bytes).await.ok();
    }

    pub(crate) async fn accept_puts(&mut self, first: u64, count: u32) {
        let accepted = Accepted {
            first_sequence: first,
            count,
            first_id: id(100 + first),
            repeated: false,
        };
        self.send(NodeFrame::Accepted(accepted)).await;
    }

    pub(crate) async fn deliver(&mut self, request: u64, lookup: u64, body: &'static str) {
        self.send(NodeFrame::Delivery(delivery(request, lookup, body)))
            .await;
    }

    pub(crate) async fn done(&mut self, request: u64, messages: u32) {
        let done = ReceiveDone {
            request,
            messages,
            outcome: None,
            text: Text::EMPTY,
        };
        self.send(NodeFrame::ReceiveDone(done)).await;
    }

    pub(crate) async fn settled(&mut self, request: u64, messages: u32) {
        let settled = Settled {
            request,
            messages,
            outcome: None,
            text: Text::EMPTY,
            lost: Vec::new(),
        };
        self.send(NodeFrame::Settled(settled)).await;
    }
}

pub(crate) fn delivery(request: u64, lookup: u64, body: impl Into<Bytes>) -> Delivery {
    let body = body.into();
    let mut envelope = Envelope::new(
        QmId::from_bytes([1; 16]),
        id(lookup),
        Salt([2; 16]),
        Class::Recoverable,
        "orders".parse().unwrap(),
    );
    envelope.body_bytes = u32::try_from(body.len()).unwrap();
    envelope.label = "a label".into();
    let mut encoded = BytesMut::new();
    envelope.encode(&mut encoded).unwrap();
    Delivery {
        request,
        lookup,
        arrived_at_us: 7,
        abort_count: 0,
        be_received_left_ms: qm_wire::INFINITE_MS,
        tag: Tag::compute(&encoded, &envelope.salt, &body),
        envelope: encoded.freeze(),
        body,
    }
}

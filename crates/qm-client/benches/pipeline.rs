//! What the client itself costs: puts and deliveries against a node that does nothing, over a
//! real socket, client and node on one thread each.
//!
//! `cargo bench -p qm-client`, optionally with the number of messages behind `--`.
#![expect(clippy::print_stdout, reason = "a benchmark reports to its user")]
#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use qm_client::{Client, Message, PutTicket, ReceiveOptions};
use qm_wire::frame::frame_len;
use qm_wire::local::{Accepted, ClientFrame, Delivery, NodeFrame, NodeHello, ReceiveDone, Settled};
use qm_wire::{Class, Envelope, Incarnation, MessageId, QmId, Salt, Tag, Text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

const LIMIT: usize = qm_wire::limits::FRAME_BODY_BYTES_DEFAULT;

fn main() {
    let messages = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(500_000);
    let dir = tempfile::tempdir().unwrap();
    for body_bytes in [100, 1024, 65_536] {
        let path = dir.path().join(format!("{body_bytes}.sock"));
        let messages = if body_bytes > 10_000 {
            messages / 50
        } else {
            messages
        };
        let (listening, listens) = std::sync::mpsc::channel();
        let node = {
            let path = path.clone();
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let listener = UnixListener::bind(path).unwrap();
                    listening.send(()).unwrap();
                    serve(listener, messages, body_bytes).await;
                });
            })
        };
        listens.recv().unwrap();
        runtime().block_on(client(&path, messages, body_bytes));
        node.join().unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn client(path: &Path, messages: u64, body_bytes: usize) {
    let client = Client::connect(path).await.unwrap();
    let body = Bytes::from(vec![7; body_bytes]);
    let start = Instant::now();
    let mut under_way: std::collections::VecDeque<PutTicket> = std::collections::VecDeque::new();
    for _ in 0..messages {
        under_way.push_back(
            client
                .put(Message::new("hub/orders", body.clone()))
                .await
                .unwrap(),
        );
        if under_way.len() >= 4096 {
            under_way.pop_front().unwrap().await.unwrap();
        }
    }
    for ticket in under_way {
        ticket.await.unwrap();
    }
    report("put", messages, body_bytes, start.elapsed());

    let queue = "orders".parse().unwrap();
    let options = ReceiveOptions::new().limit(512);
    let mut deliveries = client.deliveries(&queue, &options).unwrap();
    let start = Instant::now();
    for _ in 0..messages {
        // The verdict is on its way; its answer is not what is measured.
        drop(deliveries.next().await.unwrap().unwrap().consume());
    }
    report("receive and consume", messages, body_bytes, start.elapsed());

    let rounds = 20_000.min(messages);
    let mut took = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        client
            .send(Message::new("hub/orders", body.clone()))
            .await
            .unwrap();
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let at = |part: usize| took[took.len() * part / 100].as_secs_f64() * 1e6;
    println!(
        "send one, {body_bytes} B: p50 {:.1} us, p99 {:.1} us",
        at(50),
        at(99)
    );
}

fn report(what: &str, messages: u64, body_bytes: usize, took: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a rate is not exact anyway")]
    let messages = messages as f64;
    println!(
        "{what}, {body_bytes} B: {:.0} k/s, {:.2} us each",
        messages / took.as_secs_f64() / 1e3,
        took.as_secs_f64() * 1e6 / messages,
    );
}

/// Accepts every put, has `left` messages to deliver, believes every verdict.
async fn serve(listener: UnixListener, mut left: u64, body_bytes: usize) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut read, mut out) = (BytesMut::with_capacity(1 << 20), BytesMut::new());
    let mut delivery = delivery(body_bytes);
    loop {
        if stream.read_buf(&mut read).await.unwrap() == 0 {
            return;
        }
        let mut run: Option<Accepted> = None;
        while let Some(length) = frame_len(&read, LIMIT).unwrap() {
            if read.len() < length {
                read.reserve(length);
                break;
            }
            let mut frame = read.split_to(length).freeze();
            match ClientFrame::next(&mut frame, LIMIT).unwrap().unwrap() {
                ClientFrame::Hello(_) => NodeFrame::Hello(hello()).encode(&mut out),
                ClientFrame::Put(put) => match &mut run {
                    Some(run) => run.count += 1,
                    None => {
                        run = Some(Accepted {
                            first_sequence: put.sequence,
                            count: 1,
                            first_id: MessageId {
                                incarnation: Incarnation(1),
                                sequence: put.sequence,
                            },
                            repeated: false,
                        });
                    }
                },
                ClientFrame::Receive(receive) if left > 0 => {
                    let n = left.min(u64::from(receive.messages_max));
                    left -= n;
                    for _ in 0..n {
                        delivery.request = receive.request;
                        delivery.lookup += 1;
                        delivery.encode(&mut out);
                    }
                    let messages = u32::try_from(n).unwrap();
                    done(receive.request, messages).encode(&mut out);
                }
                ClientFrame::Receive(receive) if receive.wait_ms == 0 => {
                    done(receive.request, 0).encode(&mut out);
                }
                ClientFrame::Settle(settle) => {
                    let settled = Settled {
                        request: settle.request,
                        messages: 0,
                        outcome: None,
                        text: Text::EMPTY,
                        lost: Vec::new(),
                    };
                    NodeFrame::Settled(settled).encode(&mut out);
                }
                _ => {}
            }
        }
        if let Some(run) = run {
            NodeFrame::Accepted(run).encode(&mut out);
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        read.reserve(256 << 10);
    }
}

fn done(request: u64, messages: u32) -> NodeFrame {
    NodeFrame::ReceiveDone(ReceiveDone {
        request,
        messages,
        outcome: None,
        text: Text::EMPTY,
    })
}

fn hello() -> NodeHello {
    NodeHello {
        protocol: 1,
        node: QmId::from_bytes([1; 16]),
        incarnation: Incarnation(1),
        name: "bench".into(),
        body_bytes_max: 4 << 20,
        window_messages: 4096,
        window_bytes: 4 << 20,
    }
}

fn delivery(body_bytes: usize) -> Delivery {
    let body = Bytes::from(vec![7; body_bytes]);
    let id = MessageId {
        incarnation: Incarnation(1),
        sequence: 1,
    };
    let queue = "orders".parse().unwrap();
    let mut envelope = Envelope::new(
        QmId::from_bytes([1; 16]),
        id,
        Salt([2; 16]),
        Class::Recoverable,
        queue,
    );
    envelope.body_bytes = u32::try_from(body.len()).unwrap();
    let mut encoded = BytesMut::new();
    envelope.encode(&mut encoded).unwrap();
    Delivery {
        request: 0,
        lookup: 0,
        arrived_at_us: 0,
        abort_count: 0,
        be_received_left_ms: qm_wire::INFINITE_MS,
        tag: Tag::compute(&encoded, &envelope.salt, &body),
        envelope: encoded.freeze(),
        body,
    }
}

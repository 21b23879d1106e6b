//! Processor time per message over the loopback interface, both ends together, in batches of
//! 64 KiB with 1 MiB in flight; plain TCP in the same run for comparison.
//!
//! `cargo bench -p qm-transport`. Trust the ratios more than the figures. Processor time is read
//! from Linux's scheduler; elsewhere only wall time is shown.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_transport::{Endpoint, EndpointConfig, Event, Lane, LinkId, NodeKey};
use qm_wire::FrameKind;
use qm_wire::frame::{HEADER_VERSION, MAGIC, frame_len};
use qm_wire::limits::FRAME_HEADER_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const BATCH_BYTES: usize = 64 << 10;
const IN_FLIGHT_BYTES: usize = 1 << 20;
/// The receiver acknowledges this often; it must stay below what is in flight.
const ACK_BYTES: usize = 256 << 10;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        say("message   transport      CPU ns/message   wall ns/message   MB/s");
        for (message_bytes, messages) in [(100, 400_000), (1024, 100_000)] {
            let mut figures: [Vec<Cost>; 3] = Default::default();
            for _ in 0..ROUNDS {
                for (kind, costs) in figures.iter_mut().enumerate() {
                    let load = Load {
                        message_bytes,
                        messages,
                    };
                    costs.push(match kind {
                        0 => tcp(load).await?,
                        1 => quic(load, 1452).await?,
                        _ => quic(load, 6500).await?,
                    });
                }
            }
            for (name, mut costs) in ["TCP", "QUIC 1452", "QUIC 6500"].into_iter().zip(figures) {
                costs.sort_by_key(|cost| cost.cpu_ns);
                let Some(median) = costs.get(ROUNDS / 2) else {
                    continue;
                };
                let (cpu, wall) = (median.cpu_ns / messages, median.wall_ns / messages);
                let rate = 1000 * message_bytes as u64 * messages / median.wall_ns.max(1);
                say(&format!(
                    "{message_bytes:>7} B {name:<12} {cpu:>16} {wall:>17} {rate:>6}"
                ));
            }
        }
        Ok(())
    })
}

/// Figures are what a benchmark is for.
#[expect(clippy::print_stdout, reason = "the result of the program")]
fn say(line: &str) {
    println!("{line}");
}

#[derive(Clone, Copy)]
struct Load {
    message_bytes: usize,
    messages: u64,
}

impl Load {
    fn frame_bytes(self) -> usize {
        FRAME_HEADER_BYTES + self.message_bytes
    }

    fn total_bytes(self) -> usize {
        self.frame_bytes() * usize::try_from(self.messages).unwrap_or(usize::MAX)
    }

    /// As many whole frames as fit 64 KiB, encoded anew for every batch as a sender would.
    fn batch(self, left_bytes: usize) -> Bytes {
        let frames = BATCH_BYTES.min(left_bytes) / self.frame_bytes();
        let mut buffer = BytesMut::with_capacity(frames * self.frame_bytes());
        for _ in 0..frames {
            put_frame(&mut buffer, self.message_bytes);
        }
        buffer.freeze()
    }
}

fn put_frame(buffer: &mut BytesMut, body_bytes: usize) {
    buffer.put_slice(&MAGIC);
    buffer.put_u8(HEADER_VERSION);
    buffer.put_u8(FrameKind::Data.code());
    buffer.put_u32_le(0);
    buffer.put_u32_le(u32::try_from(body_bytes).unwrap_or(u32::MAX));
    buffer.put_u32_le(0);
    buffer.put_bytes(0x55, body_bytes);
}

/// Whole frames at the front of `bytes`.
fn whole(bytes: &[u8]) -> io::Result<usize> {
    let mut whole = 0;
    loop {
        let rest = bytes.get(whole..).unwrap_or_default();
        match frame_len(rest, 1 << 20).map_err(io::Error::other)? {
            Some(length) if length <= rest.len() => whole += length,
            _ => return Ok(whole),
        }
    }
}

struct Cost {
    cpu_ns: u64,
    wall_ns: u64,
}

struct Meter {
    cpu_ns: u64,
    start: Instant,
}

impl Meter {
    fn start() -> Self {
        Self {
            cpu_ns: cpu_ns(),
            start: Instant::now(),
        }
    }

    fn stop(&self) -> Cost {
        let wall_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Cost {
            cpu_ns: cpu_ns() - self.cpu_ns,
            wall_ns,
        }
    }
}

/// Time this thread, which does everything here, has spent on a processor.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(0)
}

async fn quic(load: Load, mtu_max: u16) -> io::Result<Cost> {
    let (a, mut at_a) = node(1, mtu_max).await?;
    let (b, mut at_b) = node(2, mtu_max).await?;
    a.dial(1, &b.local_addr()?.to_string(), None);
    let (to_b, to_a) = (connected(&mut at_a).await?, connected(&mut at_b).await?);
    // The first megabytes find the datagram size and open the congestion window.
    carry(
        &a,
        to_b,
        &mut at_a,
        &b,
        to_a,
        &mut at_b,
        Load {
            messages: load.messages / 4,
            ..load
        },
    )
    .await?;
    let meter = Meter::start();
    carry(&a, to_b, &mut at_a, &b, to_a, &mut at_b, load).await?;
    let cost = meter.stop();
    a.shutdown().await;
    b.shutdown().await;
    Ok(cost)
}

async fn node(seed: u8, mtu_max: u16) -> io::Result<(Endpoint, mpsc::UnboundedReceiver<Event>)> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = EndpointConfig {
        listen,
        mtu_max,
        ..EndpointConfig::default()
    };
    let (events, told) = mpsc::unbounded_channel();
    let endpoint = Endpoint::bind(config, &NodeKey::generate([seed; 32]), events).await;
    Ok((endpoint.map_err(io::Error::other)?, told))
}

async fn connected(told: &mut mpsc::UnboundedReceiver<Event>) -> io::Result<LinkId> {
    match told.recv().await {
        Some(Event::Connected { link, .. }) => Ok(link),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

async fn carry(
    a: &Endpoint,
    to_b: LinkId,
    at_a: &mut mpsc::UnboundedReceiver<Event>,
    b: &Endpoint,
    to_a: LinkId,
    at_b: &mut mpsc::UnboundedReceiver<Event>,
    load: Load,
) -> io::Result<()> {
    let (mut sent, mut acked, mut received, mut told) = (0, 0, 0, 0);
    let total = load.total_bytes();
    while acked < total {
        while sent < total && sent - acked + BATCH_BYTES <= IN_FLIGHT_BYTES {
            let batch = load.batch(total - sent);
            sent += batch.len();
            a.send(to_b, Lane::Priority(3), batch);
        }
        tokio::select! {
            biased;
            event = at_b.recv() => {
                received += received_bytes(event)?;
                if received - told >= ACK_BYTES || received == total {
                    let mut ack = BytesMut::new();
                    ack.put_slice(&MAGIC);
                    ack.put_u8(HEADER_VERSION);
                    ack.put_u8(FrameKind::SessionAck.code());
                    ack.put_u32_le(0);
                    ack.put_u32_le(8);
                    ack.put_u32_le(0);
                    ack.put_u64_le(received as u64);
                    b.send(to_a, Lane::Ack, ack.freeze());
                    told = received;
                }
            }
            event = at_a.recv() => {
                if let Some(Event::Received { frames, .. }) = event {
                    let mut last = frames.slice(frames.len() - 8..);
                    acked = usize::try_from(last.get_u64_le()).unwrap_or(usize::MAX);
                }
            }
        }
    }
    Ok(())
}

fn received_bytes(event: Option<Event>) -> io::Result<usize> {
    match event {
        Some(Event::Received { frames, .. }) => Ok(frames.len()),
        Some(Event::AddressChanged { .. }) => Ok(0),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

async fn tcp(load: Load) -> io::Result<Cost> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sender = TcpStream::connect(listener.local_addr()?).await?;
    let (receiver, _) = listener.accept().await?;
    sender.set_nodelay(true)?;
    receiver.set_nodelay(true)?;
    let meter = Meter::start();
    tokio::try_join!(tcp_send(sender, load), tcp_receive(receiver, load))?;
    Ok(meter.stop())
}

async fn tcp_send(mut stream: TcpStream, load: Load) -> io::Result<()> {
    let (mut sent, mut acked) = (0, 0);
    let total = load.total_bytes();
    while acked < total {
        if sent < total && sent - acked + BATCH_BYTES <= IN_FLIGHT_BYTES {
            let batch = load.batch(total - sent);
            sent += batch.len();
            stream.write_all(&batch).await?;
        } else {
            acked = usize::try_from(stream.read_u64_le().await?).unwrap_or(usize::MAX);
        }
    }
    Ok(())
}

async fn tcp_receive(mut stream: TcpStream, load: Load) -> io::Result<()> {
    let (mut received, mut told) = (0, 0);
    let mut buffer = BytesMut::new();
    while received < load.total_bytes() {
        buffer.reserve(BATCH_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let frames = buffer.split_to(whole(&buffer)?).freeze();
        received += frames.len();
        if received - told >= ACK_BYTES || received == load.total_bytes() {
            stream.write_u64_le(received as u64).await?;
            told = received;
        }
    }
    Ok(())
}

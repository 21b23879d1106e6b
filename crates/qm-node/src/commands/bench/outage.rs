//! How a node bears the absence of another: messages pile up, the other comes back, all flows out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_client::Message;
use qm_node::admin_json::{Request, StatusDocument};
use qm_wire::Text;
use serde::Serialize;

use crate::cli::OutageArgs;
use crate::config::units::about_size;
use crate::exit::{Exit, Failure};
use crate::output::Output;

use super::super::node::Node;
use super::super::processes::{Pair, Workplace, grouped, millis, per_second};
use super::load::{ANY_NUMBER, Bodies, Consumer, fill};
use super::queue;

/// How often the sending node is asked how much still waits.
const LOOK: Duration = Duration::from_millis(20);
/// Without any movement for so long the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// `qm.bench_outage/1`.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    version: &'static str,
    messages: u64,
    body_bytes: u32,
    in_memory: bool,
    /// Into the sending node's disk.
    accepted_per_s: u64,
    accepted_in_ms: u64,
    /// Of the sending node when all wait.
    waiting_resident_bytes: Option<u64>,
    /// The most it had until then.
    waiting_resident_bytes_max: Option<u64>,
    /// What its files occupy when all wait, for a message.
    waiting_disk_bytes_per_message: u64,
    /// The sending node, killed and started again: from the start of its process to its answer.
    answered_ms: u64,
    /// Of it then.
    started_resident_bytes: Option<u64>,
    /// From the start of the receiving node's process to its first message.
    first_received_ms: u64,
    /// From there until the sending node holds none any more.
    delivered_in_ms: u64,
    delivered_per_s: u64,
    /// Until an application has received the last one.
    received_in_ms: u64,
    received_per_s: u64,
    received: u64,
    /// Afterwards, of sender and receiver.
    resident_bytes: [Option<u64>; 2],
    disk_bytes: [u64; 2],
}

pub(super) async fn outage(args: &OutageArgs, out: &Output) -> Result<Exit, Failure> {
    let place = Workplace::new(&args.place)?;
    let in_memory = place.is_memory();
    let queue = queue();
    let mut pair = Pair::start(place, &queue, false).await?;
    pair.receiver.stop().await?;
    let disk_before = pair.sender.disk_bytes();

    out.note(&format!(
        "{} messages of {} B for a node that is away",
        grouped(args.messages),
        args.size
    ));
    let destination = Text::from(Pair::destination(&queue));
    let message = Message::new(destination, Bytes::from(vec![0x5a; args.size as usize]));
    let messages = (0..args.messages).map(|_| message.clone());
    let accepted_in = fill(&pair.sender, messages).await?;
    let waiting_resident_bytes = pair.sender.resident_bytes();
    let waiting_resident_bytes_max = pair.sender.resident_bytes_max();
    let disk = pair.sender.disk_bytes().saturating_sub(disk_before);
    out.note(&format!(
        "accepted at {} a second; the node is killed, then the other node comes back",
        grouped(per_second(args.messages, accepted_in))
    ));

    let started = Instant::now();
    pair.sender.kill();
    pair.sender.start_again().await?;
    let operator = pair.sender.operate().await?;
    let status: StatusDocument = operator.ask(&Request::Status {}).await?;
    let answered_in = started.elapsed();
    let started_resident_bytes = pair.sender.resident_bytes();
    if status.outgoing_messages != args.messages {
        let cause = format!(
            "of {} messages {} are there after the start",
            args.messages, status.outgoing_messages
        );
        return Err(Failure::of("not_intact", cause));
    }

    let started = Instant::now();
    pair.receiver.start_again().await?;
    let consumer = Consumer::start(&pair.receiver, &queue, ANY_NUMBER, Bodies::Plain)?;
    let (first_at, delivered_at) = watch(&operator, &consumer, args.messages).await?;
    operator.client.close().await;
    let counts = consumer.finish(args.messages).await?;
    let delivered_in = delivered_at.saturating_duration_since(first_at);
    let received_in = counts.last_at.saturating_duration_since(first_at);
    let document = Document {
        schema: "qm.bench_outage/1",
        version: env!("CARGO_PKG_VERSION"),
        messages: args.messages,
        body_bytes: args.size,
        in_memory,
        accepted_per_s: per_second(args.messages, accepted_in),
        accepted_in_ms: millis(accepted_in),
        waiting_resident_bytes,
        waiting_resident_bytes_max,
        waiting_disk_bytes_per_message: disk / args.messages,
        answered_ms: millis(answered_in),
        started_resident_bytes,
        first_received_ms: millis(first_at.duration_since(started)),
        delivered_in_ms: millis(delivered_in),
        delivered_per_s: per_second(args.messages, delivered_in),
        received_in_ms: millis(received_in),
        received_per_s: per_second(counts.received, received_in),
        received: counts.received,
        resident_bytes: [pair.sender.resident_bytes(), pair.receiver.resident_bytes()],
        disk_bytes: [pair.sender.disk_bytes(), pair.receiver.disk_bytes()],
    };
    print(&document, out)?;
    pair.place.tell(out);
    if document.received != args.messages {
        let cause = format!(
            "of {} messages {} were received",
            args.messages, document.received
        );
        return Err(Failure::of("not_intact", cause));
    }
    Ok(Exit::Done)
}

/// When the first one was received, and when the sending node had delivered the last.
async fn watch(
    sender: &Node,
    consumer: &Consumer,
    messages: u64,
) -> Result<(Instant, Instant), Failure> {
    let mut first_at = None;
    let mut moved = (messages, Instant::now());
    loop {
        let now = Instant::now();
        if first_at.is_none() && consumer.received() > 0 {
            first_at = Some(now);
        }
        let status: StatusDocument = sender.ask(&Request::Status {}).await?;
        let waiting = status.outgoing_messages;
        if waiting == 0 {
            return Ok((first_at.unwrap_or(now), now));
        }
        if waiting != moved.0 {
            moved = (waiting, now);
        }
        if moved.1.elapsed() > PATIENCE {
            let cause = format!("{waiting} messages wait and nothing moves");
            return Err(Failure::of("trial", cause));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn print(document: &Document, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(document);
    }
    out.for_people().facts(&facts(document))
}

fn facts(document: &Document) -> Vec<(&'static str, String)> {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), about_size);
    let rate = |per_s, ms: u64| {
        format!(
            "{} a second, in {}.{} s",
            grouped(per_s),
            ms / 1000,
            ms % 1000 / 100
        )
    };
    let [sender_memory, receiver_memory] = document.resident_bytes;
    let [sender_disk, receiver_disk] = document.disk_bytes;
    vec![
        (
            "messages",
            format!(
                "{} of {} B",
                grouped(document.messages),
                document.body_bytes
            ),
        ),
        (
            "accepted",
            rate(document.accepted_per_s, document.accepted_in_ms),
        ),
        (
            "waiting",
            format!(
                "{} of memory ({} at most), {} B of disk for a message",
                size(document.waiting_resident_bytes),
                size(document.waiting_resident_bytes_max),
                document.waiting_disk_bytes_per_message
            ),
        ),
        (
            "killed",
            format!(
                "answered {} ms after its start, with {} of memory",
                document.answered_ms,
                size(document.started_resident_bytes)
            ),
        ),
        (
            "first received",
            format!(
                "{} ms after the start of the other node",
                document.first_received_ms
            ),
        ),
        (
            "delivered",
            rate(document.delivered_per_s, document.delivered_in_ms),
        ),
        (
            "received",
            format!(
                "{}, {}",
                grouped(document.received),
                rate(document.received_per_s, document.received_in_ms)
            ),
        ),
        (
            "afterwards",
            format!(
                "sender {} of memory, {} of disk; receiver {}, {}",
                size(sender_memory),
                about_size(sender_disk),
                size(receiver_memory),
                about_size(receiver_disk)
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn document() -> Document {
        Document {
            schema: "qm.bench_outage/1",
            version: "…",
            messages: 1_000_000,
            body_bytes: 200,
            in_memory: false,
            accepted_per_s: 100_000,
            accepted_in_ms: 10_000,
            waiting_resident_bytes: Some(60 << 20),
            waiting_resident_bytes_max: None,
            waiting_disk_bytes_per_message: 345,
            answered_ms: 420,
            started_resident_bytes: Some(26 << 20),
            first_received_ms: 150,
            delivered_in_ms: 12_345,
            delivered_per_s: 81_004,
            received_in_ms: 12_500,
            received_per_s: 80_000,
            received: 1_000_000,
            resident_bytes: [Some(50 << 20), Some(40 << 20)],
            disk_bytes: [256 << 20, 320 << 20],
        }
    }

    #[test]
    fn the_document_keeps_its_shape() {
        expect![[r#"
            {
              "schema": "qm.bench_outage/1",
              "version": "…",
              "messages": 1000000,
              "body_bytes": 200,
              "in_memory": false,
              "accepted_per_s": 100000,
              "accepted_in_ms": 10000,
              "waiting_resident_bytes": 62914560,
              "waiting_resident_bytes_max": null,
              "waiting_disk_bytes_per_message": 345,
              "answered_ms": 420,
              "started_resident_bytes": 27262976,
              "first_received_ms": 150,
              "delivered_in_ms": 12345,
              "delivered_per_s": 81004,
              "received_in_ms": 12500,
              "received_per_s": 80000,
              "received": 1000000,
              "resident_bytes": [
                52428800,
                41943040
              ],
              "disk_bytes": [
                268435456,
                335544320
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&document()).unwrap());
    }

    #[test]
    fn the_table_says_it_in_words() {
        let text: String = facts(&document())
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        expect![[r#"
            messages: 1,000,000 of 200 B
            accepted: 100,000 a second, in 10.0 s
            waiting: 60.0 MiB of memory (unknown at most), 345 B of disk for a message
            killed: answered 420 ms after its start, with 26.0 MiB of memory
            first received: 150 ms after the start of the other node
            delivered: 81,004 a second, in 12.3 s
            received: 1,000,000, 80,000 a second, in 12.5 s
            afterwards: sender 50.0 MiB of memory, 256 MiB of disk; receiver 40.0 MiB, 320 MiB
        "#]]
        .assert_eq(&text);
    }
}

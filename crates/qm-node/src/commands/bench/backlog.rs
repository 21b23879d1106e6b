//! How a node bears a long queue: what it costs to start with it, to hold it, and to get at
//! messages anywhere in it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_client::{Client, Message, ReceiveOptions, Received};
use qm_node::admin_json::{DoneDocument, Request, StatusDocument};
use qm_wire::{Priority, Text};
use serde::Serialize;

use crate::cli::BacklogArgs;
use crate::config::units::about_size;
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output};

use super::super::node::{from_receive, from_send, from_settle};
use super::super::processes::{NodeProcess, Workplace, grouped, millis, per_second};
use super::load::{Latencies, fill, micros};
use super::queue;

/// Priorities of what waits, from the lowest on; the one above is for what is measured.
const PRIORITIES: u8 = 7;
/// How long everything that waits may wait: every message has a deadline, none comes.
const LIVES: Duration = Duration::from_secs(86_400);
/// Questions of each kind.
const QUESTIONS: u32 = 64;
/// Messages that expire before what waits.
const EXPIRED: u32 = 1_000;
/// How long those live.
const EXPIRE_AFTER: Duration = Duration::from_millis(20);

/// `qm.bench_backlog/1`.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    version: &'static str,
    body_bytes: u32,
    in_memory: bool,
    stages: Vec<Stage>,
}

/// So many messages wait.
#[derive(Debug, Serialize)]
struct Stage {
    waiting: u64,
    /// How fast those came that were not there before; 0 when none did.
    accepted_per_s: u64,
    /// Of the node when they are there.
    resident_bytes: Option<u64>,
    /// What its files occupy for a message, beside what they do with none.
    disk_bytes_per_message: Option<u64>,
    /// Killed and started again: from the start of the process to its first answer.
    answered_ms: u64,
    /// Of the node then.
    started_resident_bytes: Option<u64>,
    /// Microseconds of the first look at the head after that.
    peek_us: Option<u64>,
    /// Of the first receive, which waits until it is on disk that the message was handed out.
    first_us: Option<u64>,
    /// Of the next ones.
    head: Option<Times>,
    /// Of peeking at the oldest message of a priority.
    priority: Option<Times>,
    /// Of receiving a message by its lookup id, at places all over the queue.
    lookup: Option<Times>,
    /// Of receiving behind a thousand messages whose time has run out.
    expired_us: Option<u64>,
    /// Of the node after all that.
    asked_resident_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Times {
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Times {
    fn of(times: Vec<Duration>) -> Self {
        let sorted = Latencies::of(times.into_iter().map(micros).collect());
        Self {
            p50_us: sorted.percentile(50),
            p99_us: sorted.percentile(99),
            max_us: sorted.max(),
        }
    }
}

pub(super) async fn backlog(args: &BacklogArgs, out: &Output) -> Result<Exit, Failure> {
    let place = Workplace::new(&args.place)?;
    let mut document = Document {
        schema: "qm.bench_backlog/1",
        version: env!("CARGO_PKG_VERSION"),
        body_bytes: args.size,
        in_memory: place.is_memory(),
        stages: Vec::new(),
    };
    let mut node = NodeProcess::start(&place, "node").await?;
    let operator = node.operate().await?;
    let create = Request::QueueCreate {
        name: queue(),
        transactional: false,
        quota_bytes: None,
        quota_messages: None,
        max_aborts: 0,
    };
    let _created: DoneDocument = operator.ask(&create).await?;
    operator.client.close().await;
    let empty_disk = node.disk_bytes();
    let mut counts = args.messages.clone();
    counts.sort_unstable();
    let mut sent = 0_u64;
    for count in counts {
        let waiting = waiting(&node).await?;
        let more = count.saturating_sub(waiting);
        out.note(&format!("{} messages wait", grouped(count)));
        let took = fill(&node, messages(sent, more, args.size)).await?;
        sent = sent.saturating_add(more);
        let disk = node.disk_bytes().saturating_sub(empty_disk);
        let mut stage = Stage {
            waiting: count,
            accepted_per_s: per_second(more, took),
            resident_bytes: node.resident_bytes(),
            disk_bytes_per_message: disk.checked_div(count),
            answered_ms: 0,
            started_resident_bytes: None,
            peek_us: None,
            first_us: None,
            head: None,
            priority: None,
            lookup: None,
            expired_us: None,
            asked_resident_bytes: None,
        };
        node.kill();
        let started = Instant::now();
        node.start_again().await?;
        let there = self::waiting(&node).await?;
        stage.answered_ms = millis(started.elapsed());
        stage.started_resident_bytes = node.resident_bytes();
        if there != count {
            let cause = format!("of {count} messages {there} are there after the start");
            return Err(Failure::of("not_intact", cause));
        }
        // A queue that is as good as empty has nothing to be asked for.
        if count > u64::from(QUESTIONS) * 8 {
            ask(&node, &mut stage).await?;
        }
        document.stages.push(stage);
    }
    node.stop().await?;
    place.tell(out);
    print(&document, out)?;
    Ok(Exit::Done)
}

async fn waiting(node: &NodeProcess) -> Result<u64, Failure> {
    let operator = node.operate().await?;
    let status: StatusDocument = operator.ask(&Request::Status {}).await?;
    operator.client.close().await;
    Ok(status.local_messages)
}

/// So many messages with a deadline each, their priorities in turn; `sent` were sent before.
fn messages(sent: u64, more: u64, size: u32) -> impl Iterator<Item = Message> {
    let destination = Text::from(queue().to_string());
    let body = Bytes::from(vec![0x5a; size as usize]);
    (0..more).map(move |number| {
        let turn = sent.wrapping_add(number) % u64::from(PRIORITIES);
        let priority = priority(u8::try_from(turn).unwrap_or_default());
        Message::new(destination.clone(), body.clone())
            .priority(priority)
            .time_to_be_received(LIVES)
    })
}

fn priority(number: u8) -> Priority {
    Priority::new(number).unwrap_or_default()
}

/// The lookup id before all of a priority: higher priorities come first, and the upper four bits
/// are the place of the priority (see `Receive::after`).
const fn before(priority: u8) -> u64 {
    (7 - priority as u64) << 60
}

/// Everything that is asked of a long queue.
async fn ask(node: &NodeProcess, stage: &mut Stage) -> Result<(), Failure> {
    let client = node.connect("bench-receiver").await?;
    let one = ReceiveOptions::new().limit(1);
    stage.peek_us = Some(micros(peek(&client, &one).await?.1));
    stage.first_us = Some(micros(receive(&client, &one).await?));
    let mut head = Vec::new();
    for _ in 0..QUESTIONS {
        head.push(receive(&client, &one).await?);
    }
    stage.head = Some(Times::of(head));

    let mut priorities = Vec::new();
    for question in 0..QUESTIONS {
        let of = u8::try_from(question % u32::from(PRIORITIES)).unwrap_or_default();
        let options = one.clone().after(before(of));
        let (seen, took) = peek(&client, &options).await?;
        if seen.envelope().priority.get() != of {
            let cause = format!("a peek at priority {of} saw another");
            return Err(Failure::of("trial", cause));
        }
        priorities.push(took);
    }
    stage.priority = Some(Times::of(priorities));

    let each = stage.waiting / u64::from(PRIORITIES);
    let mut lookups = Vec::new();
    for question in 0..QUESTIONS {
        let of = u8::try_from(question % u32::from(PRIORITIES)).unwrap_or_default();
        let (first, _) = peek(&client, &one.clone().after(before(of))).await?;
        let depth = each.saturating_mul(u64::from(question)) / u64::from(QUESTIONS) * 9 / 10;
        let at = one.clone().after(first.lookup_id().saturating_add(depth));
        let (there, _) = peek(&client, &at).await?;
        let by_lookup = one.clone().lookup(there.lookup_id());
        lookups.push(receive(&client, &by_lookup).await?);
    }
    stage.lookup = Some(Times::of(lookups));

    let short = Message::new(queue().to_string(), "short").priority(priority(PRIORITIES));
    let short = short.time_to_be_received(EXPIRE_AFTER);
    let short = (0..EXPIRED).map(|_| short.clone());
    for sent in client.send_batch(short).await {
        sent.map_err(|e| from_send(&e))?;
    }
    tokio::time::sleep(EXPIRE_AFTER * 2).await;
    stage.expired_us = Some(micros(receive(&client, &one).await?));
    client.close().await;
    stage.asked_resident_bytes = node.resident_bytes();
    Ok(())
}

/// How long it took until a message was there; it is consumed afterwards.
async fn receive(client: &Client, options: &ReceiveOptions) -> Result<Duration, Failure> {
    let queue = queue();
    let started = Instant::now();
    let received = client.receive(&queue, options).await;
    let took = started.elapsed();
    let Some(delivery) = received.map_err(|e| from_receive(&e))? else {
        return Err(Failure::of("trial", "nothing is there to be received"));
    };
    if delivery.envelope().priority.get() >= PRIORITIES {
        let cause = "a message was handed out whose time had run out";
        return Err(Failure::of("trial", cause));
    }
    delivery.consume().await.map_err(|e| from_settle(&e))?;
    Ok(took)
}

async fn peek(client: &Client, options: &ReceiveOptions) -> Result<(Received, Duration), Failure> {
    let started = Instant::now();
    let seen = client.peek(&queue(), options).await;
    let took = started.elapsed();
    match seen.map_err(|e| from_receive(&e))?.pop() {
        Some(message) => Ok((message, took)),
        None => Err(Failure::of("trial", "nothing is there to be seen")),
    }
}

fn print(document: &Document, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(document);
    }
    let out = out.for_people();
    let columns = [
        Column::right("WAITING"),
        Column::right("ACCEPTED/S"),
        Column::right("MEMORY"),
        Column::right("DISK B"),
        Column::right("ANSWERS MS"),
        Column::right("MEMORY"),
        Column::right("PEEK US"),
        Column::right("FIRST US"),
        Column::right("HEAD"),
        Column::right("PRIORITY"),
        Column::right("LOOKUP"),
        Column::right("EXPIRED US"),
        Column::right("MEMORY"),
    ];
    out.list(&document.stages, columns, row)?;
    out.note(
        "memory when all wait, after kill -9 and a start, and after the questions; DISK for a \
         message; microseconds: of the first peek after the start and the first receive, p50 / \
         p99 / max of the next receives, of a peek at a priority, of receives by lookup id, and \
         of one behind 1,000 expired",
    );
    Ok(())
}

fn row(stage: &Stage) -> [String; 13] {
    let none = || "-".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(none, about_size);
    let number = |number: Option<u64>| number.map_or_else(none, grouped);
    let times = |times: Option<Times>| {
        times.map_or_else(none, |times| {
            format!("{} / {} / {}", times.p50_us, times.p99_us, times.max_us)
        })
    };
    [
        grouped(stage.waiting),
        grouped(stage.accepted_per_s),
        size(stage.resident_bytes),
        number(stage.disk_bytes_per_message),
        stage.answered_ms.to_string(),
        size(stage.started_resident_bytes),
        number(stage.peek_us),
        number(stage.first_us),
        times(stage.head),
        times(stage.priority),
        times(stage.lookup),
        number(stage.expired_us),
        size(stage.asked_resident_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn document() -> Document {
        let times = |us| Some(Times::of(vec![Duration::from_micros(us); 3]));
        let full = Stage {
            waiting: 1_000_000,
            accepted_per_s: 100_000,
            resident_bytes: Some(60 << 20),
            disk_bytes_per_message: Some(160),
            answered_ms: 350,
            started_resident_bytes: Some(30 << 20),
            peek_us: Some(300),
            first_us: Some(900),
            head: times(100),
            priority: times(200),
            lookup: times(300),
            expired_us: Some(4_000),
            asked_resident_bytes: Some(32 << 20),
        };
        let empty = Stage {
            waiting: 0,
            accepted_per_s: 0,
            resident_bytes: None,
            disk_bytes_per_message: None,
            answered_ms: 20,
            started_resident_bytes: None,
            peek_us: None,
            first_us: None,
            head: None,
            priority: None,
            lookup: None,
            expired_us: None,
            asked_resident_bytes: None,
        };
        Document {
            schema: "qm.bench_backlog/1",
            version: "…",
            body_bytes: 16,
            in_memory: false,
            stages: vec![empty, full],
        }
    }

    #[test]
    fn the_document_keeps_its_shape() {
        expect![[r#"
            {
              "schema": "qm.bench_backlog/1",
              "version": "…",
              "body_bytes": 16,
              "in_memory": false,
              "stages": [
                {
                  "waiting": 0,
                  "accepted_per_s": 0,
                  "resident_bytes": null,
                  "disk_bytes_per_message": null,
                  "answered_ms": 20,
                  "started_resident_bytes": null,
                  "peek_us": null,
                  "first_us": null,
                  "head": null,
                  "priority": null,
                  "lookup": null,
                  "expired_us": null,
                  "asked_resident_bytes": null
                },
                {
                  "waiting": 1000000,
                  "accepted_per_s": 100000,
                  "resident_bytes": 62914560,
                  "disk_bytes_per_message": 160,
                  "answered_ms": 350,
                  "started_resident_bytes": 31457280,
                  "peek_us": 300,
                  "first_us": 900,
                  "head": {
                    "p50_us": 100,
                    "p99_us": 100,
                    "max_us": 100
                  },
                  "priority": {
                    "p50_us": 200,
                    "p99_us": 200,
                    "max_us": 200
                  },
                  "lookup": {
                    "p50_us": 300,
                    "p99_us": 300,
                    "max_us": 300
                  },
                  "expired_us": 4000,
                  "asked_resident_bytes": 33554432
                }
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&document()).unwrap());
    }

    #[test]
    fn the_table_says_it_in_columns() {
        let lines: Vec<_> = document()
            .stages
            .iter()
            .map(|stage| row(stage).join("\t"))
            .collect();
        expect![[r#"
            0	0	-	-	20	-	-	-	-	-	-	-	-
            1,000,000	100,000	60.0 MiB	160	350	30.0 MiB	300	900	100 / 100 / 100	200 / 200 / 200	300 / 300 / 300	4,000	32.0 MiB"#]].assert_eq(&lines.join("\n"));
    }

    #[test]
    fn a_priority_begins_behind_the_one_above() {
        assert_eq!((before(7), before(6)), (0, 1 << 60));
        assert!(before(0) < u64::MAX);
    }
}

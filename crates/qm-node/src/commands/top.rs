//! Depths, ages and rates: live on a terminal, one snapshot on a pipe.

use std::time::Duration;

use qm_node::admin_json::{OutgoingDocument, QueueDocument, Request, StatusDocument};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::TopArgs;
use crate::config::units::{about_duration, about_size};
use crate::exit::{Exit, Failure};
use crate::output::{Output, printable};

use super::node::Node;

/// `qm.top/1`.
#[derive(Debug, Serialize)]
struct TopDocument {
    schema: &'static str,
    status: StatusDocument,
    /// Milliseconds over which the rates were measured.
    measured_ms: u64,
    /// Messages a second.
    rates: Vec<Rate>,
    queues: Vec<QueueDocument>,
    outgoing: Vec<OutgoingDocument>,
}

#[derive(Debug, Serialize)]
struct Rate {
    counter: &'static str,
    per_second: f64,
}

pub(crate) async fn top(node: &Node, args: &TopArgs, out: &Output) -> Result<Exit, Failure> {
    let live = out.terminal && !out.json;
    let mut left = match args.count {
        Some(count) => count,
        None if live => u64::MAX,
        None => 1,
    };
    let interrupt = signal(SignalKind::interrupt());
    let mut interrupt = interrupt.map_err(|e| Failure::io("signals cannot be heard", &e))?;
    let mut before = (Instant::now(), ask(node).await?);
    while left > 0 {
        let pause = Duration::from_millis(args.interval.max(100));
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let now = (Instant::now(), ask(node).await?);
        let document = TopDocument {
            schema: "qm.top/1",
            measured_ms: u64::try_from((now.0 - before.0).as_millis()).unwrap_or(u64::MAX),
            rates: rates(&before.1, &now.1, now.0 - before.0),
            queues: node.list(|after| Request::QueueList { after }).await?,
            outgoing: node.list(|after| Request::OutgoingList { after }).await?,
            status: now.1.clone(),
        };
        if out.json {
            out.document(&document)?;
        } else if live {
            // Home and clear: nothing scrolls.
            out.bytes(format!("\x1b[H\x1b[2J{}", screen(&document)).as_bytes())?;
        } else {
            out.bytes(lines(&document).as_bytes())?;
        }
        before = now;
        left = left.saturating_sub(1);
    }
    Ok(Exit::Done)
}

async fn ask(node: &Node) -> Result<StatusDocument, Failure> {
    node.ask(&Request::Status {}).await
}

fn rates(before: &StatusDocument, now: &StatusDocument, over: Duration) -> Vec<Rate> {
    let shown = [
        "accepted",
        "transmitted",
        "acknowledged",
        "delivered",
        "received",
        "duplicates",
        "dead_letters",
    ];
    let old = before.counters.named();
    now.counters
        .named()
        .into_iter()
        .zip(old)
        .filter(|((name, _), _)| shown.contains(name))
        .map(|((counter, new), (_, old))| {
            let count = u32::try_from(new.saturating_sub(old)).unwrap_or(u32::MAX);
            let per_second = f64::from(count) / over.as_secs_f64().max(0.001);
            Rate {
                counter,
                per_second: (per_second * 10.0).round() / 10.0,
            }
        })
        .collect()
}

fn health(status: &StatusDocument) -> &'static str {
    if status.store_full {
        match status.store_full_by.as_deref() {
            Some("limits.store_bytes") => "limits.store_bytes full",
            Some("store.disk_bytes") => "store.disk_bytes full",
            _ => "disk full",
        }
    } else if status.stopping {
        "stopping"
    } else {
        "ok"
    }
}

fn age(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), about_duration)
}

/// Every line begins with what it is about.
fn lines(top: &TopDocument) -> String {
    let status = &top.status;
    let mut text = format!(
        "node\t{}\t{}\t{}\t{} sessions\t{} dead letters\n",
        printable(&status.name),
        health(status),
        about_duration(status.uptime_ms),
        status.sessions,
        status.dead_letters
    );
    for rate in &top.rates {
        text.push_str(&format!("rate\t{}\t{:.1}\n", rate.counter, rate.per_second));
    }
    for queue in &top.queues {
        text.push_str(&format!(
            "queue\t{}\t{}\t{}\t{}\t{}\t{}\n",
            printable(queue.name.as_str()),
            queue.messages,
            queue.bytes,
            queue.leased,
            queue.waiting_receivers,
            age(queue.oldest_age_ms)
        ));
    }
    for out in &top.outgoing {
        text.push_str(&format!(
            "outgoing\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            printable(&out.destination),
            out.state,
            out.waiting,
            out.waiting_bytes,
            out.unacknowledged,
            out.in_doubt,
            age(out.oldest_age_ms)
        ));
    }
    text
}

fn screen(top: &TopDocument) -> String {
    let status = &top.status;
    let mut text = format!(
        "{}  {}  up {}  {} sessions  {} applications  {} dead letters  memory {}\n",
        printable(&status.name),
        health(status),
        about_duration(status.uptime_ms),
        status.sessions,
        status.clients.saturating_sub(1),
        status.dead_letters,
        about_size(status.resident_bytes)
    );
    let rates: Vec<String> = top
        .rates
        .iter()
        .filter(|rate| rate.per_second > 0.0)
        .map(|rate| {
            format!(
                "{} {:.1}/s",
                rate.counter.replace('_', " "),
                rate.per_second
            )
        })
        .collect();
    text.push_str(&if rates.is_empty() {
        "nothing moves\n\n".to_owned()
    } else {
        format!("{}\n\n", rates.join("  "))
    });
    text.push_str(&format!(
        "{:<32} {:>10} {:>10} {:>7} {:>9}  {}\n",
        "QUEUE", "MESSAGES", "BYTES", "TAKEN", "RECEIVERS", "OLDEST"
    ));
    for queue in &top.queues {
        text.push_str(&format!(
            "{:<32} {:>10} {:>10} {:>7} {:>9}  {}\n",
            printable(queue.name.as_str()),
            queue.messages,
            about_size(queue.bytes),
            queue.leased,
            queue.waiting_receivers,
            age(queue.oldest_age_ms)
        ));
    }
    text.push_str(&format!(
        "\n{:<32} {:<17} {:>10} {:>10} {:>7} {:>8}  {}\n",
        "DESTINATION", "STATE", "WAITING", "BYTES", "UNACKED", "IN DOUBT", "OLDEST"
    ));
    for out in &top.outgoing {
        text.push_str(&format!(
            "{:<32} {:<17} {:>10} {:>10} {:>7} {:>8}  {}\n",
            printable(&out.destination),
            out.state,
            out.waiting,
            about_size(out.waiting_bytes),
            out.unacknowledged,
            out.in_doubt,
            age(out.oldest_age_ms)
        ));
    }
    text.push_str("\nCtrl-C ends\n");
    text
}

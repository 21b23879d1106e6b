//! Queues of this node.

use qm_node::admin_json::{DoneDocument, QueueDocument, Request};
use serde::Serialize;

use crate::cli::{Confirm, QueueCommand};
use crate::config::units::{about_duration, about_size};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, messages};

use super::node::Node;

/// `qm.dry_run/1`.
#[derive(Debug, Serialize)]
struct DryRunDocument<'a> {
    schema: &'static str,
    would: &'a str,
    /// How many messages or peers it would concern.
    count: u64,
}

pub(crate) async fn queue(
    node: &Node,
    command: &QueueCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    match command {
        QueueCommand::List => {
            let queues = node
                .list::<QueueDocument>(|after| Request::QueueList { after })
                .await?;
            let columns = [
                Column::left("QUEUE"),
                Column::right("MESSAGES"),
                Column::right("BYTES"),
                Column::right("TAKEN"),
                Column::right("RECEIVERS"),
                Column::right("ARRIVED"),
                Column::right("RECEIVED"),
                Column::left("STATE"),
                Column::right("MAX ABORTS"),
                Column::left("OLDEST"),
            ];
            out.list(&queues, columns, |queue| {
                [
                    queue.name.to_string(),
                    queue.messages.to_string(),
                    queue.bytes.to_string(),
                    queue.leased.to_string(),
                    queue.waiting_receivers.to_string(),
                    queue.arrived.to_string(),
                    queue.received.to_string(),
                    state(queue).to_owned(),
                    aborts(queue),
                    queue.oldest_age_ms.map_or_else(dash, about_duration),
                ]
            })?;
        }
        QueueCommand::Show { name } => {
            let queue: QueueDocument = node.ask(&Request::QueueShow { name: name.clone() }).await?;
            show(&queue, out)?;
        }
        QueueCommand::Create(settings) => {
            let request = Request::QueueCreate {
                name: settings.name.clone(),
                transactional: settings.transactional,
                quota_bytes: settings.quota_bytes,
                quota_messages: settings.quota_messages,
                max_aborts: settings.max_aborts.unwrap_or(0),
            };
            let done: DoneDocument = node.ask(&request).await?;
            tell(&done, &format!("made queue {}", settings.name), out)?;
        }
        QueueCommand::Set(change) => {
            let now: QueueDocument = node
                .ask(&Request::QueueShow {
                    name: change.name.clone(),
                })
                .await?;
            let request = Request::QueueSet {
                name: now.name,
                transactional: now.transactional,
                quota_bytes: change.quota_bytes.map_or(now.quota_bytes, |quota| quota.0),
                quota_messages: change
                    .quota_messages
                    .map_or(now.quota_messages, |quota| quota.0),
                paused: now.paused,
                max_aborts: change.max_aborts.unwrap_or(now.max_aborts),
            };
            let done: DoneDocument = node.ask(&request).await?;
            tell(&done, &format!("changed queue {}", change.name), out)?;
        }
        QueueCommand::Purge {
            name,
            discard,
            confirm,
        } => {
            let queue: QueueDocument = node.ask(&Request::QueueShow { name: name.clone() }).await?;
            let what = format!(
                "remove {} from queue {}{}",
                messages(queue.messages),
                queue.name,
                kept(*discard || queue.name.as_str() == "dead$")
            );
            if agreed(*confirm, &what, queue.messages, out)? {
                let request = Request::QueuePurge {
                    name: name.clone(),
                    discard: *discard,
                };
                let done: DoneDocument = node.ask(&request).await?;
                let text = format!(
                    "removed {} from queue {name}{}",
                    messages(done.count),
                    tally(&done)
                );
                tell(&done, &text, out)?;
            }
        }
        QueueCommand::Delete {
            name,
            force,
            discard,
            confirm,
        } => {
            let queue: QueueDocument = node.ask(&Request::QueueShow { name: name.clone() }).await?;
            let held = queue.messages.saturating_add(queue.leased);
            let what = match held {
                0 => format!("delete queue {}, which is empty", queue.name),
                held => format!(
                    "delete queue {} with {}{}",
                    queue.name,
                    messages(held),
                    kept(*discard)
                ),
            };
            if agreed(*confirm, &what, held, out)? {
                let request = Request::QueueDelete {
                    name: name.clone(),
                    force: *force,
                    discard: *discard,
                };
                let done: DoneDocument = node.ask(&request).await?;
                let text = format!(
                    "deleted queue {name} with {}{}",
                    messages(done.count),
                    tally(&done)
                );
                tell(&done, &text, out)?;
            }
        }
        QueueCommand::Pause { name } => {
            let done: DoneDocument = node
                .ask(&Request::QueuePause { name: name.clone() })
                .await?;
            tell(
                &done,
                &format!("queue {name} holds its receivers back"),
                out,
            )?;
        }
        QueueCommand::Resume { name } => {
            let done: DoneDocument = node
                .ask(&Request::QueueResume { name: name.clone() })
                .await?;
            tell(&done, &format!("queue {name} goes on"), out)?;
        }
    }
    Ok(Exit::Done)
}

/// Whether something that cannot be undone shall be done.
///
/// # Errors
/// When it was not confirmed.
pub(crate) fn agreed(
    confirm: Confirm,
    what: &str,
    count: u64,
    out: &Output,
) -> Result<bool, Failure> {
    if confirm.dry_run {
        if out.json {
            out.document(&DryRunDocument {
                schema: "qm.dry_run/1",
                would: what,
                count,
            })?;
        } else {
            out.line(&format!("would {what}"))?;
        }
        return Ok(false);
    }
    out.confirm(what, confirm.yes).map(|()| true)
}

/// What becomes of messages that are removed.
pub(crate) const fn kept(discard: bool) -> &'static str {
    if discard {
        ", keeping none of them"
    } else {
        "; they become dead letters, unless their senders wished none"
    }
}

/// What became of messages that were removed.
pub(crate) fn tally(done: &DoneDocument) -> String {
    let mut parts = Vec::new();
    for (count, what) in [
        (done.dead_letters, "kept as dead letters"),
        (done.discarded, "kept nowhere"),
        (done.uncertain, "may have arrived all the same"),
        (done.left, "left: under way or in the hands of applications"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            parts.push(format!("{count} {what}"));
        }
    }
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}

/// That it was done.
pub(crate) fn tell(done: &DoneDocument, text: &str, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(done);
    }
    out.note(text);
    Ok(())
}

fn show(queue: &QueueDocument, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(queue);
    }
    let quota = |quota: Option<u64>, show: fn(u64) -> String| quota.map_or_else(none, show);
    out.facts(&[
        ("queue", queue.name.to_string()),
        ("state", state(queue).to_owned()),
        ("messages", queue.messages.to_string()),
        ("bytes", queue.bytes.to_string()),
        ("in the hands of applications", queue.leased.to_string()),
        ("waiting receivers", queue.waiting_receivers.to_string()),
        ("arrived since the start", queue.arrived.to_string()),
        ("received since the start", queue.received.to_string()),
        (
            "transactional",
            if queue.transactional { "yes" } else { "no" }.to_owned(),
        ),
        ("quota in bytes", quota(queue.quota_bytes, about_size)),
        (
            "quota in messages",
            quota(queue.quota_messages, |n| n.to_string()),
        ),
        ("given back at most", aborts(queue)),
        (
            "oldest message in memory",
            queue.oldest_age_ms.map_or_else(dash, about_duration),
        ),
    ])
}

/// After how many returns a message goes to the poison subqueue.
fn aborts(queue: &QueueDocument) -> String {
    match queue.max_aborts {
        0 => "-".to_owned(),
        n => n.to_string(),
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn none() -> String {
    "none".to_owned()
}

const fn state(queue: &QueueDocument) -> &'static str {
    match (queue.paused, queue.full) {
        (true, true) => "paused, full",
        (true, false) => "paused",
        (false, true) => "full",
        (false, false) => "open",
    }
}

//! What was set aside because another machine has it as well: looked at, released, dropped.

use qm_node::admin_json::{DoneDocument, QueueDocument, Request};
use qm_wire::{Outcome, QueueName};

use crate::cli::QuarantineCommand;
use crate::config::units::{about_duration, about_size};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, messages};

use super::node::Node;
use super::queue::{agreed, kept, tally, tell};

/// The subqueue in which messages of a queue are set aside; that queue itself, when it is one.
fn aside(queue: &QueueName) -> Result<QueueName, Failure> {
    if queue.subqueue() == Some(qm_engine::QUARANTINE) {
        return Ok(queue.clone());
    }
    let name = format!("{queue}:{}", qm_engine::QUARANTINE);
    let parsed = name.parse();
    parsed.map_err(|_subqueue| {
        let cause = format!("nothing is ever set aside of {queue}");
        Failure::rejected(Outcome::BAD_REQUEST, cause).with_fix("see: qm-node quarantine list")
    })
}

pub(crate) async fn quarantine(
    node: &Node,
    command: &QuarantineCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    match command {
        QuarantineCommand::List => list(node, out).await?,
        QuarantineCommand::Release { queue, confirm } => {
            let name = aside(queue)?;
            let held = held(node, &name).await?;
            let back = name.without_subqueue();
            let what = format!(
                "release {} into queue {back}; the machine that kept the identity has them as well",
                messages(held)
            );
            if agreed(*confirm, &what, held, out)? {
                let done: DoneDocument = node.ask(&Request::QuarantineRelease { name }).await?;
                let text = format!("released {} into queue {back}", messages(done.count));
                tell(&done, &text, out)?;
            }
        }
        QuarantineCommand::Drop {
            queue,
            discard,
            confirm,
        } => {
            let name = aside(queue)?;
            let held = held(node, &name).await?;
            let what = format!("remove {} from {name}{}", messages(held), kept(*discard));
            if agreed(*confirm, &what, held, out)? {
                let request = Request::QueuePurge {
                    name: name.clone(),
                    discard: *discard,
                };
                let done: DoneDocument = node.ask(&request).await?;
                let text = format!(
                    "removed {} from {name}{}",
                    messages(done.count),
                    tally(&done)
                );
                tell(&done, &text, out)?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn held(node: &Node, name: &QueueName) -> Result<u64, Failure> {
    let request = Request::QueueShow { name: name.clone() };
    match node.ask::<QueueDocument>(&request).await {
        Ok(queue) => Ok(queue.messages),
        Err(failure) if failure.outcome == Some(Outcome::NOT_FOUND) => {
            // Unless the queue itself is not there either.
            let name = name.without_subqueue();
            let request = Request::QueueShow { name: name.clone() };
            node.ask::<QueueDocument>(&request).await?;
            let cause = format!("nothing of queue {name} is set aside");
            Err(Failure::of("nothing", cause).with_fix("see: qm-node quarantine list"))
        }
        Err(failure) => Err(failure),
    }
}

async fn list(node: &Node, out: &Output) -> Result<(), Failure> {
    let mut queues = node
        .list::<QueueDocument>(|after| Request::QueueList { after })
        .await?;
    queues.retain(|queue| queue.name.subqueue() == Some(qm_engine::QUARANTINE));
    let columns = [
        Column::left("QUEUE"),
        Column::right("MESSAGES"),
        Column::right("BYTES"),
        Column::left("OLDEST"),
    ];
    out.list(&queues, columns, |queue| {
        [
            queue.name.without_subqueue().to_string(),
            queue.messages.to_string(),
            about_size(queue.bytes),
            queue
                .oldest_age_ms
                .map_or_else(|| "-".to_owned(), about_duration),
        ]
    })
}

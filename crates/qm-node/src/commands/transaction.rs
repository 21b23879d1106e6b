//! Transactions on the command line: many lines as one, and a message for one command.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_client::{Committed, Outcome, Received, Transaction};
use qm_engine::limits::TRANSACTION_MESSAGES_MAX;
use qm_node::admin_json::rfc3339;
use qm_wire::QueueName;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::cli::{ReceiveArgs, SendArgs, Until};
use crate::exit::{Exit, Failure};
use crate::output::Output;

use super::node::{Node, from_send, from_transaction};
use super::receive::{Stop, filtered, not_had, nothing, wait_of};
use super::send::{Template, duration};
use super::send_lines::{Line, lines_of};

/// `qm.committed/1`.
#[derive(Debug, Serialize)]
struct CommittedDocument {
    schema: &'static str,
    messages: usize,
    /// In the order of the lines.
    ids: Vec<String>,
    /// Whether it had been committed before, under its idempotency key.
    repeated: bool,
}

/// Sends every line, or none.
pub(crate) async fn send_transaction(
    node: &Node,
    args: &SendArgs,
    template: &Template,
    read: Box<dyn Read + Send>,
    out: &Output,
) -> Result<Exit, Failure> {
    if args.wait != Until::Accepted {
        return Err(Failure::usage(
            "a transaction is not followed beyond its commit",
            "leave out --wait, or --transaction",
        ));
    }
    let mut lines = lines_of(node, args, read)?;
    let mut transaction = node.client.begin();
    let mut number = 0_u64;
    while let Some(chunk) = lines.recv().await {
        let chunk = chunk.map_err(|e| Failure::io(format!("behind line {number}"), &e))?;
        for line in chunk {
            number = number.saturating_add(1);
            let at = |failure: Failure| {
                let cause = format!("line {number}: {}; nothing was sent", failure.cause);
                Failure { cause, ..failure }
            };
            let body = match line {
                Line::Whole(body) => body,
                Line::TooLong { bytes } => {
                    let limit = node.client.node().body_bytes_max;
                    let error = qm_client::SendError::TooLarge { bytes, limit };
                    return Err(at(from_send(&error)));
                }
            };
            if transaction.sent() >= TRANSACTION_MESSAGES_MAX {
                let cause =
                    format!("a transaction holds at most {TRANSACTION_MESSAGES_MAX} messages");
                let failure = Failure::rejected(Outcome::TRANSACTION_TOO_LARGE, cause);
                return Err(at(failure));
            }
            let added = transaction.send(template.message(body, Some(number)));
            added.map_err(|error| at(from_send(&error)))?;
        }
    }
    commit_and_tell(args, transaction, out).await
}

/// Sends one message as a transaction.
pub(crate) async fn send_one(
    node: &Node,
    args: &SendArgs,
    template: &Template,
    body: Bytes,
    out: &Output,
) -> Result<Exit, Failure> {
    let mut transaction = node.client.begin();
    let added = transaction.send(template.message(body, None));
    added.map_err(|error| from_send(&error))?;
    commit_and_tell(args, transaction, out).await
}

async fn commit_and_tell(
    args: &SendArgs,
    transaction: Transaction,
    out: &Output,
) -> Result<Exit, Failure> {
    let messages = transaction.sent();
    let limit = args.timeout.map_or(Duration::MAX, duration);
    let committed = match tokio::time::timeout(limit, transaction.commit()).await {
        Ok(committed) => committed,
        Err(_elapsed) => {
            return Err(Failure::of("fate_open", "the node has not answered yet")
                .with_fix("all of it may be accepted, or nothing: see `qm-node status`"));
        }
    };
    let committed = committed.map_err(|error| match &args.idempotency_key {
        Some(_) => from_transaction(&error)
            .with_fix("repeat the command: what was committed is not committed twice"),
        None => from_transaction(&error),
    })?;
    tell(&committed, messages, out)?;
    Ok(Exit::Done)
}

fn tell(committed: &Committed, messages: usize, out: &Output) -> Result<(), Failure> {
    let ids = committed.ids().iter().map(ToString::to_string);
    if out.json {
        return out.document(&CommittedDocument {
            schema: "qm.committed/1",
            messages,
            ids: ids.collect(),
            repeated: committed.repeated(),
        });
    }
    for id in ids {
        out.line(&id)?;
    }
    let before = if committed.repeated() { ", before" } else { "" };
    let word = if messages == 1 { "message" } else { "messages" };
    out.note(&format!("{messages} {word} committed together{before}"));
    Ok(())
}

/// Gives each message to a command: when it succeeds the message is gone, when it fails the message
/// is back in its queue, with a raised abort count.
pub(crate) async fn receive_for_command(
    node: &Node,
    args: &ReceiveArgs,
    out: &Output,
) -> Result<Exit, Failure> {
    let mut left = match args.count {
        _ if args.follow => u64::MAX,
        Some(count) => count,
        None => 1,
    };
    let wait = wait_of(args);
    let mut stop = Stop::listen()?;
    let mut received = 0_u64;
    while left > 0 {
        let mut transaction = node.client.begin();
        let options = filtered(&args.filter).wait(wait);
        let message = tokio::select! {
            biased;
            () = stop.wanted() => break,
            message = transaction.receive(&args.queue, &options) => message,
        };
        let Some(message) = message.map_err(|error| not_had(&error, &args.queue))? else {
            break;
        };
        let done = run(&args.command, &args.queue, &message, &mut stop).await;
        let interrupted = match done {
            Ok(interrupted) => interrupted,
            Err(failure) => {
                transaction.abort().await;
                return Err(failure);
            }
        };
        let committed = transaction.commit().await;
        committed.map_err(|error| from_transaction(&error))?;
        left = left.saturating_sub(1);
        received = received.saturating_add(1);
        if interrupted || args.filter.lookup_id.is_some() {
            break;
        }
    }
    if received == 0 && !args.follow {
        return Err(nothing(node, &args.queue, &args.filter).await);
    }
    if args.follow || args.count.is_some() {
        out.note(&format!("{received} received"));
    }
    Ok(Exit::Done)
}

/// Runs the command with the body on its standard input. Its outputs are this command's. Says
/// whether it was interrupted and succeeded all the same.
async fn run(
    command: &[OsString],
    queue: &QueueName,
    message: &Received,
    stop: &mut Stop,
) -> Result<bool, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage(
            "no command is given",
            "qm-node receive QUEUE --transaction -- COMMAND [ARGUMENT…]",
        ));
    };
    let name = program.to_string_lossy().into_owned();
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment(queue, message))
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&format!("{name} cannot be started: {error}")))?;
    let id = child.id();
    let started = Instant::now();
    let (ended, mut end) = oneshot::channel();
    let body = message.body().clone();
    // Threads, because a command may read slowly, or not at all.
    let feed = child.stdin.take().map(|mut stdin| {
        std::thread::spawn(move || {
            // A command that reads only a part has read enough.
            let _unread = stdin.write_all(&body).is_err();
        })
    });
    std::thread::spawn(move || {
        let status = wait_for(&mut child);
        let _nobody = ended.send(status);
    });
    let mut interrupted = false;
    let status = loop {
        tokio::select! {
            biased;
            status = &mut end => break status,
            // What the command has done by then decides, not the signal: it may finish its work
            // before it ends, and nobody else must get the message meanwhile.
            () = stop.wanted() => {
                if !interrupted {
                    interrupted = true;
                    terminate(id);
                    continue;
                }
                let cause = format!("interrupted twice while {name} ran; the message is back in its queue");
                return Err(Failure::of("aborted", cause)
                    .with_fix(format!("{name} may still run and finish: look for it")));
            }
        }
    };
    // It ends with the command, which was its only reader.
    drop(feed);
    let unknown = |_gone| Err(io::Error::other("its end was not seen"));
    let status = status
        .unwrap_or_else(unknown)
        .map_err(|error| failed(&format!("{name}: {error}")))?;
    if status.success() {
        return Ok(interrupted);
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no success".to_owned(),
    };
    let after = started.elapsed().as_millis();
    Err(failed(&format!(
        "{name} ended with {how} after {after} ms; message {} is back in queue {queue}",
        message.id()
    )))
}

fn wait_for(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    child.wait()
}

/// Asks a command to end.
fn terminate(id: u32) {
    let id = i32::try_from(id)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        let _gone = rustix::process::kill_process(id, rustix::process::Signal::TERM).is_err();
    }
}

fn failed(cause: &str) -> Failure {
    Failure::of("command_failed", cause)
}

/// What a command learns of the message. Names begin with `MESSAGE_`, so that no sender can set a
/// variable that means something to the command.
fn environment(queue: &QueueName, message: &Received) -> Vec<(String, OsString)> {
    let envelope = message.envelope();
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, value: &[u8]| all.push((format!("MESSAGE_{name}"), value.to_vec()));
    add("ID", message.id().to_string().as_bytes());
    add("SOURCE", message.source().to_string().as_bytes());
    add("QUEUE", queue.as_str().as_bytes());
    add("LOOKUP_ID", message.lookup_id().to_string().as_bytes());
    add("ABORT_COUNT", message.abort_count().to_string().as_bytes());
    add("CLASS", envelope.class.name().as_bytes());
    add("PRIORITY", envelope.priority.get().to_string().as_bytes());
    add("SENT_AT", rfc3339(envelope.sent_at_us).as_bytes());
    add("ARRIVED_AT", rfc3339(message.arrived_at_us()).as_bytes());
    add("LABEL", envelope.label.as_bytes());
    add("CORRELATION_ID", &envelope.correlation_id);
    add("RESPONSE_QUEUE", envelope.response_queue.as_bytes());
    add("CONTENT_TYPE", envelope.content_type.as_bytes());
    for (name, value) in envelope.properties.iter() {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        add(&format!("PROPERTY_{name}"), value);
    }
    // A variable cannot hold a NUL.
    all.into_iter()
        .filter(|(_, value)| !value.is_empty() && !value.contains(&0))
        .map(|(name, value)| (name, OsString::from_vec(value)))
        .collect()
}

//! Sending a message.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use qm_client::{AckWishes, FateError, Follow, Message, PutTicket};
use qm_node::admin_json::{Request, WhyDocument};
use qm_wire::limits::BODY_BYTES_MAX;
use qm_wire::{Class, Destination, INFINITE_MS, Outcome, Priority, Text};
use serde::Serialize;

use crate::cli::{AckWish, SendArgs, Until};
use crate::exit::{Exit, Failure};
use crate::output::Output;

use super::node::{Node, from_send};
use super::outgoing::engine_name;
use super::send_lines::send_lines;
use super::transaction::{send_one, send_transaction};

const STANDARD_INPUT: &str = "standard input";

/// Where bodies come from.
pub(crate) enum Source {
    /// One body, here already.
    Body(Bytes),
    /// One body, to be read.
    Whole(Box<dyn Read + Send>, String),
    /// A body per line; with the bytes of all, when known.
    Lines(Box<dyn Read + Send>, Option<u64>),
}

impl Source {
    /// Opens what the command line names.
    ///
    /// # Errors
    /// When it is not there, or nothing is named and nothing is piped.
    pub(crate) fn of(args: &SendArgs) -> Result<Self, Failure> {
        let mut keys = std::collections::BTreeSet::new();
        if let Some((key, _)) = args.properties.iter().find(|(key, _)| !keys.insert(key)) {
            return Err(Failure::usage(
                format!("the property `{key}` is given twice"),
                "a message has one value for each property",
            ));
        }
        if let Some(body) = &args.body {
            return Ok(Self::Body(Bytes::from(body.clone())));
        }
        if let Some(path) = &args.lines {
            let (read, bytes) = open(path)?;
            return Ok(Self::Lines(read, bytes));
        }
        if let Some(path) = &args.file {
            let (read, _) = open(path)?;
            let what = if path == Path::new("-") {
                STANDARD_INPUT.to_owned()
            } else {
                path.display().to_string()
            };
            return Ok(Self::Whole(read, what));
        }
        if io::stdin().is_terminal() {
            return Err(Failure::usage(
                "there is nothing to send",
                "give the body as an argument, with --file or --lines, or pipe it in",
            ));
        }
        Ok(Self::Whole(
            Box::new(io::stdin()),
            STANDARD_INPUT.to_owned(),
        ))
    }
}

fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let failed = |e: io::Error| Failure::io(format!("{} cannot be read", path.display()), &e);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let bytes = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), bytes))
}

/// `qm.sent/1`.
#[derive(Debug, Serialize)]
struct SentDocument {
    schema: &'static str,
    id: String,
    destination: String,
    class: &'static str,
    /// How far it is known to have come.
    state: &'static str,
}

pub(crate) async fn send(
    node: &Node,
    args: &SendArgs,
    source: Option<Source>,
    out: &Output,
) -> Result<Exit, Failure> {
    let template = Template::new(args);
    let body = match source {
        Some(Source::Lines(read, _)) if args.transaction => {
            return send_transaction(node, args, &template, read, out).await;
        }
        Some(Source::Lines(read, bytes)) => {
            return send_lines(node, args, &template, read, bytes, out).await;
        }
        Some(Source::Body(body)) => body,
        Some(Source::Whole(read, what)) => {
            let limit = node.client.node().body_bytes_max.min(BODY_BYTES_MAX);
            read_whole(read, &what, limit)?
        }
        None => Bytes::new(),
    };
    if args.transaction {
        return send_one(node, args, &template, body, out).await;
    }
    let ticket = node.client.put(template.message(body, None)).await;
    let mut ticket = ticket.map_err(|error| from_send(&error))?;
    let limit = args.timeout.map_or(Duration::MAX, duration);
    let id = match tokio::time::timeout(limit, ticket.accepted()).await {
        Ok(accepted) => accepted.map_err(|error| from_send(&error))?,
        Err(_elapsed) => {
            return Err(Failure::of("fate_open", "the node has not answered yet")
                .with_fix("the message may or may not be accepted: see `qm-node status`"));
        }
    };
    // The id is worth knowing whatever becomes of the message, also to whoever does not wait on.
    let mut printed = Ok(());
    if !out.json {
        printed = out.line(&id.to_string());
    }
    let (state, fate) = until(args.wait, &mut ticket, limit).await;
    if out.json {
        printed = out.document(&SentDocument {
            schema: "qm.sent/1",
            id: id.to_string(),
            destination: args.to.to_string(),
            class: args.class.class().name(),
            state,
        });
    }
    // That nobody reads is no success of a message that ended otherwise.
    match fate {
        Ok(()) => printed.map(|()| Exit::Done),
        Err(failure) if failure.code == "fate_open" => {
            let fix = format!("`qm-node why {id}` tells more; the message is still on its way");
            let subject = match args.wait {
                Until::Received => id.to_string(),
                Until::Accepted | Until::Delivered => engine_name(&args.to.to_string()),
            };
            Err(explained(node, subject, failure.with_fix(fix)).await)
        }
        Err(failure) => Err(failure),
    }
}

/// The node knows what holds the message up, and often what can be done.
pub(crate) async fn explained(node: &Node, subject: String, failure: Failure) -> Failure {
    let request = Request::Why { subject };
    let Ok(why) = node.ask::<WhyDocument>(&request).await else {
        return failure;
    };
    if matches!(why.code.as_str(), "unknown" | "idle" | "moving" | "empty") {
        return failure;
    }
    let cause = format!("{}: {}", failure.cause, why.cause);
    let fix = why.fix.unwrap_or_else(|| failure.fix.clone());
    Failure {
        cause,
        fix,
        ..failure
    }
}

/// Waits for the fate that was asked for; with the word for how far the message is known to be.
async fn until(
    wanted: Until,
    ticket: &mut PutTicket,
    limit: Duration,
) -> (&'static str, Result<(), Failure>) {
    let waiting = async {
        match wanted {
            Until::Accepted => Ok("accepted"),
            Until::Delivered => ticket.delivered().await.map(|_id| "delivered"),
            Until::Received => ticket.received().await.map(|_id| "received"),
        }
    };
    match tokio::time::timeout(limit, waiting).await {
        Ok(Ok(state)) => (state, Ok(())),
        Ok(Err(error)) => from_fate(&error),
        Err(_elapsed) => {
            let cause = match wanted {
                Until::Received => "the message is accepted, and it is not known yet how it ended",
                Until::Accepted | Until::Delivered => {
                    "the message is accepted and not yet where it should be"
                }
            };
            ("open", Err(Failure::of("fate_open", cause)))
        }
    }
}

fn from_fate(error: &FateError) -> (&'static str, Result<(), Failure>) {
    match error {
        FateError::Send(error) => ("open", Err(from_send(error))),
        // It may have been received, or may still be: nothing that can be told as its end.
        FateError::Ended {
            outcome: outcome @ Outcome::END_UNKNOWN,
            ..
        } => ("open", Err(Failure::of("fate_open", outcome.describe()))),
        FateError::Ended { outcome, .. } => (
            "ended",
            Err(Failure::rejected(*outcome, outcome.describe())),
        ),
        other => ("open", Err(Failure::of("fate_open", other.to_string()))),
    }
}

fn read_whole(read: impl Read, what: &str, limit: u32) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    // One byte more than is accepted is enough to know that it is too much.
    let more = u64::from(limit).saturating_add(1);
    let failed = |e: io::Error| Failure::io(format!("{what} cannot be read"), &e);
    let length = read.take(more).read_to_end(&mut body).map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) >= more {
        let cause = format!("{what} is larger than the {limit} bytes that the node accepts");
        return Err(Failure::rejected(Outcome::BODY_TOO_LARGE, cause));
    }
    Ok(body.into())
}

pub(crate) fn duration(ms: u64) -> Duration {
    if ms == INFINITE_MS {
        Duration::MAX
    } else {
        Duration::from_millis(ms)
    }
}

/// Everything about a message but its body.
pub(crate) struct Template {
    to: Text,
    class: Class,
    priority: Option<Priority>,
    label: Text,
    correlation_id: Bytes,
    response_queue: Text,
    admin_queue: Text,
    ack_wishes: AckWishes,
    content_type: Text,
    properties: Vec<(Box<str>, Bytes)>,
    idempotency_key: Option<Bytes>,
    time_to_reach_queue: Option<Duration>,
    time_to_be_received: Option<Duration>,
    dead_letter: bool,
    fail_when_full: bool,
    journal: bool,
    follow: Follow,
}

impl Template {
    pub(crate) fn new(args: &SendArgs) -> Self {
        let text = |text: &Option<String>| text.clone().map_or(Text::EMPTY, Text::from);
        let queue =
            |to: &Option<Destination>| to.as_ref().map_or(Text::EMPTY, |to| to.to_string().into());
        let bytes = |text: &Option<String>| text.clone().map(Bytes::from);
        Self {
            to: args.to.to_string().into(),
            class: args.class.class(),
            priority: args
                .priority
                .and_then(|priority| Priority::new(priority).ok()),
            label: text(&args.label),
            correlation_id: bytes(&args.correlation_id).unwrap_or_default(),
            response_queue: queue(&args.response_queue),
            admin_queue: queue(&args.admin_queue),
            ack_wishes: args
                .ack
                .iter()
                .fold(AckWishes::NONE, |all, wish| all.with(bits(*wish))),
            content_type: text(&args.content_type),
            properties: args
                .properties
                .iter()
                .map(|(key, value)| (key.clone().into(), value.clone().into()))
                .collect(),
            idempotency_key: bytes(&args.idempotency_key),
            time_to_reach_queue: args.time_to_reach_queue.map(duration),
            time_to_be_received: args.time_to_be_received.map(duration),
            dead_letter: !args.no_dead_letter,
            fail_when_full: args.fail_when_full,
            journal: args.journal,
            follow: match args.wait {
                Until::Accepted => Follow::None,
                Until::Delivered => Follow::Delivered,
                Until::Received => Follow::Received,
            },
        }
    }

    /// A message with this body; `number` is its place in a series.
    pub(crate) fn message(&self, body: Bytes, number: Option<u64>) -> Message {
        let mut message = Message::new(self.to.clone(), body)
            .class(self.class)
            .label(self.label.clone())
            .correlation_id(self.correlation_id.clone())
            .response_queue(self.response_queue.clone())
            .admin_queue(self.admin_queue.clone(), self.ack_wishes)
            .content_type(self.content_type.clone())
            .dead_letter(self.dead_letter)
            .fail_when_full(self.fail_when_full)
            .journal(self.journal)
            .follow(self.follow);
        if let Some(priority) = self.priority {
            message = message.priority(priority);
        }
        for (key, value) in &self.properties {
            message = message.property(key.clone(), value.clone());
        }
        if let Some(time) = self.time_to_reach_queue {
            message = message.time_to_reach_queue(time);
        }
        if let Some(time) = self.time_to_be_received {
            message = message.time_to_be_received(time);
        }
        match (&self.idempotency_key, number) {
            (Some(key), Some(number)) => message.idempotency_number(key.clone(), number),
            (Some(key), None) => message.idempotency_key(key.clone()),
            (None, _) => message,
        }
    }
}

/// MSMQ's combinations (MS-MQMQ, `PROPID_M_ACKNOWLEDGE`).
const fn bits(wish: AckWish) -> AckWishes {
    match wish {
        AckWish::Reach => AckWishes::POSITIVE_ARRIVAL.with(AckWishes::NEGATIVE_ARRIVAL),
        AckWish::Receive => AckWishes::POSITIVE_RECEIVE
            .with(AckWishes::NEGATIVE_ARRIVAL)
            .with(AckWishes::NEGATIVE_RECEIVE),
        AckWish::NackReach => AckWishes::NEGATIVE_ARRIVAL,
        AckWish::NackReceive => AckWishes::NEGATIVE_ARRIVAL.with(AckWishes::NEGATIVE_RECEIVE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_over_the_limit_is_told_without_being_read_whole() {
        let failure = read_whole(io::repeat(7), "a tap", 10).unwrap_err();
        assert_eq!(
            (failure.exit, failure.code.as_str()),
            (Exit::Rejected, "body_over_limit")
        );
        assert_eq!(read_whole(&[7_u8; 10][..], "ten", 10).unwrap().len(), 10);
    }

    #[test]
    fn ack_wishes_are_those_of_msmq() {
        let values: Vec<u8> = [
            AckWish::Reach,
            AckWish::Receive,
            AckWish::NackReach,
            AckWish::NackReceive,
        ]
        .map(|wish| bits(wish).bits())
        .into();
        assert_eq!(values, [0x05, 0x0e, 0x04, 0x0c]);
    }
}

//! Messages: sending, receiving, looking.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qm_wire::{Class, Destination, QueueName};

use super::misuse::{parse_destination, parse_queue};
use super::numbers::whole;
use crate::config::units::parse_duration;

#[derive(Args, Debug)]
pub(crate) struct SendArgs {
    /// queue | peer/queue | qm://host[:port]/queue | qm:<QMId>/queue
    #[arg(value_name = "DEST", value_parser = parse_destination)]
    pub(crate) to: Destination,
    /// The body; standard input when piped and nothing else is given
    #[arg(conflicts_with_all = ["file", "lines"])]
    pub(crate) body: Option<String>,
    /// Send a file as one message; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "lines")]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    /// Send every line of a file as a message; - for standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) lines: Option<PathBuf>,
    /// Lines end with NUL instead of a line feed, as `find -print0` writes them
    #[arg(long, requires = "lines", conflicts_with_all = ["body", "file"])]
    pub(crate) null: bool,
    #[command(flatten)]
    pub(crate) class: ClassArgs,
    /// 0 (lowest) to 7 [default: 3]
    #[arg(long, value_name = "N", value_parser = whole::<u8>(0..=7))]
    pub(crate) priority: Option<u8>,
    /// What the application calls the message
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// What the message answers
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<String>,
    /// An application property; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = parse_property)]
    pub(crate) properties: Vec<(String, String)>,
    /// Media type of the body
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Accept one message of this key only, so that an interrupted command can be repeated; with
    /// --lines the number of the line is part of the key
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Time to reach the destination queue, such as 30s or 4d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) time_to_reach_queue: Option<u64>,
    /// Time to be received by an application
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) time_to_be_received: Option<u64>,
    /// Where answers should go
    #[arg(long, value_name = "QUEUE", value_parser = parse_destination)]
    pub(crate) response_queue: Option<Destination>,
    /// Where acknowledgements to the application should go: a queue of this node
    #[arg(long, value_name = "QUEUE", requires = "ack", value_parser = parse_destination)]
    pub(crate) admin_queue: Option<Destination>,
    /// Which acknowledgements the application wants
    #[arg(
        long,
        value_name = "WISH",
        value_delimiter = ',',
        requires = "admin_queue"
    )]
    pub(crate) ack: Vec<AckWish>,
    /// Drop the message when it cannot be delivered, instead of keeping it as a dead letter
    #[arg(long)]
    pub(crate) no_dead_letter: bool,
    /// Keep a copy in the queue journal$ when the message has left for its destination
    #[arg(long)]
    pub(crate) journal: bool,
    /// Be refused by a full queue of another node instead of waiting for room
    #[arg(long)]
    pub(crate) fail_when_full: bool,
    /// All lines, or none: they are committed as one transaction
    #[arg(long)]
    pub(crate) transaction: bool,
    /// How far to wait: accepted by this node, delivered to the other, received by an application
    #[arg(long, value_name = "UNTIL", default_value = "accepted")]
    pub(crate) wait: Until,
    /// How long to wait; the message stays on its way afterwards
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<u64>,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct ClassArgs {
    /// express | recoverable | transactional [default: recoverable]
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    class: Option<Class>,
    /// In memory at both ends: fast, gone with a crash
    #[arg(long)]
    express: bool,
    /// On disk at both ends
    #[arg(long)]
    recoverable: bool,
    /// On disk, exactly once, in order
    #[arg(long)]
    transactional: bool,
}

impl ClassArgs {
    pub(crate) fn class(&self) -> Class {
        match self {
            Self {
                class: Some(class), ..
            } => *class,
            Self { express: true, .. } => Class::Express,
            Self {
                transactional: true,
                ..
            } => Class::Transactional,
            Self { .. } => Class::Recoverable,
        }
    }
}

/// MSMQ's acknowledgement wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AckWish {
    /// Reached its queue, or did not
    Reach,
    /// Was received, or was not
    Receive,
    /// Only when it did not reach its queue
    NackReach,
    /// Only when it was not received
    NackReceive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Until {
    Accepted,
    Delivered,
    Received,
}

#[derive(Args, Debug)]
pub(crate) struct ReceiveArgs {
    /// A queue of this node
    #[arg(value_parser = parse_queue)]
    pub(crate) queue: QueueName,
    /// Stop after this many messages, waiting for them unless --wait says otherwise
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) count: Option<u64>,
    /// Go on until interrupted. What was written to a pipe counts as received, whether it was read
    /// or not: to take a few messages use --count rather than `head`
    #[arg(long)]
    pub(crate) follow: bool,
    /// How long to wait for the next message [default: not at all; with --count: for ever]
    #[arg(long, value_name = "TIME", conflicts_with = "follow", value_parser = parse_duration)]
    pub(crate) wait: Option<u64>,
    /// What to print
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: Form,
    /// Write each body to a file in this directory and print its path
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub(crate) out_dir: Option<PathBuf>,
    /// Give each message to a command, the body on its standard input and the rest in variables
    /// MESSAGE_ID, MESSAGE_LABEL, MESSAGE_PROPERTY_name and so on: the message is gone when the
    /// command succeeds, and back in its queue when it fails
    #[arg(long, requires = "command", conflicts_with_all = ["output", "out_dir"])]
    pub(crate) transaction: bool,
    /// The command, with its arguments
    #[arg(last = true, value_name = "COMMAND", requires = "transaction")]
    pub(crate) command: Vec<std::ffi::OsString>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

#[derive(Args, Debug)]
pub(crate) struct PeekArgs {
    /// A queue of this node
    #[arg(value_parser = parse_queue)]
    pub(crate) queue: QueueName,
    /// Show this many messages
    #[arg(long, value_name = "N", default_value = "20")]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) count: u64,
    /// Go on behind this lookup id: the next page
    #[arg(long, value_name = "LOOKUP-ID", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) after: Option<u64>,
    /// What to print
    #[arg(long, value_name = "FORM", default_value = "table")]
    pub(crate) output: PeekForm,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

#[derive(Args, Debug)]
pub(crate) struct Filter {
    /// Only the message with this lookup id
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) lookup_id: Option<u64>,
    /// Only messages with this correlation id
    #[arg(long, value_name = "ID")]
    pub(crate) correlation_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// The body and a line feed; on a terminal control characters are escaped
    Text,
    /// The bytes of the body and nothing else
    Raw,
    /// A JSON document with all properties
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeekForm {
    /// A line for each message
    Table,
    /// The body and a line feed; on a terminal control characters are escaped
    Text,
    /// The bytes of the body and nothing else
    Raw,
    /// A JSON document with all properties
    Json,
}

pub(super) fn parse_class(text: &str) -> Result<Class, String> {
    Class::from_name(text).ok_or_else(|| "write express, recoverable or transactional".to_owned())
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

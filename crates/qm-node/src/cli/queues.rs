//! Queues of this node.

use clap::{Args, Subcommand};
use qm_wire::QueueName;

use super::Confirm;
use super::misuse::parse_queue;
use super::numbers::whole;
use crate::config::units::parse_size;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Make a queue
    Create(QueueSettings),
    /// Change the settings of a queue
    Set(QueueChange),
    /// All queues
    List,
    /// One queue
    Show {
        /// The queue
        #[arg(value_parser = parse_queue)]
        name: QueueName,
    },
    /// Remove the messages that wait in a queue; they become dead letters
    Purge {
        /// The queue
        #[arg(value_parser = parse_queue)]
        name: QueueName,
        /// Keep no dead letters of them
        #[arg(long)]
        discard: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Remove a queue
    Delete {
        /// The queue
        #[arg(value_parser = parse_queue)]
        name: QueueName,
        /// Also when messages are in it; they become dead letters
        #[arg(long)]
        force: bool,
        /// Keep no dead letters of them
        #[arg(long, requires = "force")]
        discard: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Hold receivers back; messages still arrive
    Pause {
        /// The queue
        #[arg(value_parser = parse_queue)]
        name: QueueName,
    },
    /// Let receivers go on
    Resume {
        /// The queue
        #[arg(value_parser = parse_queue)]
        name: QueueName,
    },
}

#[derive(Args, Debug)]
pub(crate) struct QueueSettings {
    /// Its name: up to 124 characters, none of / \ @ ? # " * < > | ; , % among them
    #[arg(value_parser = parse_queue)]
    pub(crate) name: QueueName,
    /// Only transactional messages may enter
    #[arg(long)]
    pub(crate) transactional: bool,
    /// Bytes of waiting messages, such as 100MiB; above, senders wait
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) quota_bytes: Option<u64>,
    /// Number of waiting messages; above, senders wait
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) quota_messages: Option<u64>,
    /// Given back this often, a message goes to the subqueue QUEUE:poison [default: never]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..=u64::MAX))]
    pub(crate) max_aborts: Option<u32>,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct QueueChange {
    /// The queue
    #[arg(value_parser = parse_queue)]
    pub(crate) name: QueueName,
    /// Bytes of waiting messages, such as 100MiB, or none
    #[arg(long, value_name = "SIZE|none", group = "change")]
    #[arg(value_parser = parse_quota_bytes)]
    pub(crate) quota_bytes: Option<Quota>,
    /// Number of waiting messages, or none
    #[arg(long, value_name = "N|none", value_parser = parse_quota_messages, group = "change")]
    pub(crate) quota_messages: Option<Quota>,
    /// Given back this often, a message goes to the subqueue QUEUE:poison; never turns it off
    #[arg(long, value_name = "N|never", value_parser = parse_aborts, group = "change")]
    pub(crate) max_aborts: Option<u32>,
}

/// A quota to set, possibly none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota(pub(crate) Option<u64>);

fn parse_aborts(text: &str) -> Result<u32, String> {
    match text {
        "never" | "none" => Ok(0),
        text => text
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| "write a whole number above 0, or never".to_owned()),
    }
}

fn parse_quota_bytes(text: &str) -> Result<Quota, String> {
    if text == "none" {
        Ok(Quota(None))
    } else {
        parse_size(text).map(|n| Quota(Some(n)))
    }
}

fn parse_quota_messages(text: &str) -> Result<Quota, String> {
    if text == "none" {
        return Ok(Quota(None));
    }
    text.parse()
        .map(|n| Quota(Some(n)))
        .map_err(|_not| "write a whole number or none".to_owned())
}

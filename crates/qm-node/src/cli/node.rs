//! The node itself: its start, its supervision, its store and its configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Confirm;
use super::numbers::whole;
use crate::config::units::parse_duration;

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// UDP address for peers [default: [::]:1801]
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// Name under which people know the node; kept for later starts
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Who may send to the node [default: approve]
    #[arg(long, value_name = "approve|any")]
    pub(super) trust: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) interval: u64,
    /// End after so many looks [default: on a terminal never, on a pipe 1]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) count: Option<u64>,
}

/// For who watches a node: one that stands still for a snapshot answers nobody.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct AnswerArgs {
    /// How long the node may take to answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Dead letters from which it warns
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) warn_dead: u64,
    /// Dead letters from which it is critical
    #[arg(long, value_name = "N", default_value = "1000", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) crit_dead: u64,
    /// Age of the oldest message for another node from which it warns
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = parse_duration)]
    pub(crate) warn_age: u64,
    /// The same, critical
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_duration)]
    pub(crate) crit_age: u64,
    /// Messages for other nodes from which it warns [default: never]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) warn_outgoing: Option<u64>,
    /// The same, critical [default: never]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) crit_outgoing: Option<u64>,
    /// Messages in queues of this node from which it warns [default: never]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) warn_queued: Option<u64>,
    /// The same, critical [default: never]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) crit_queued: Option<u64>,
    /// Per cent of the disk, and of the node's own quota, from which it warns
    #[arg(long, value_name = "PERCENT", default_value = "80", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) warn_disk: u64,
    /// The same, critical
    #[arg(long, value_name = "PERCENT", default_value = "95", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) crit_disk: u64,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Name under which people know the node; kept for later starts
    #[arg(long)]
    pub(super) name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Verify every byte and name what is damaged; changes nothing
    Check,
    /// Save everything undamaged into a new store; the damaged one is kept
    #[command(group = clap::ArgGroup::new("where").required(true))]
    Repair {
        /// Write the new store into this directory, which must not be there yet, and leave the
        /// node's as it is
        #[arg(long, value_name = "DIR", group = "where")]
        #[arg(value_hint = clap::ValueHint::DirPath)]
        out: Option<PathBuf>,
        /// Put the new store in the place of the damaged one, which stays beside it as
        /// store.damaged-N
        #[arg(long, group = "where")]
        in_place: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every key with its value and where it comes from
    Show,
    /// Is the configuration right?
    Check {
        /// A file; without it what `run` would read
        file: Option<PathBuf>,
    },
    /// A file with every key, its meaning and its default
    Example,
}

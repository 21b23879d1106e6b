//! Commands that start nodes of their own: the demonstration and the measurements.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qm_wire::Class;

use super::messages::parse_class;
use super::numbers::whole;
use crate::config::units::parse_duration;

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Send every line of this file [default: at least 50,000 lines of the project you stand in]
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Where nodes that are only tried out keep their things.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlaceArgs {
    /// Make the nodes' directory in this one [default: the system's for temporary files]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the nodes' directory there afterwards, with their logs
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Queue messages for a node that is away, then let it come back
    Outage(OutageArgs),
    /// Let messages wait in a queue, kill the node, and get at them
    Backlog(BacklogArgs),
}

#[derive(Args, Debug)]
pub(crate) struct StreamArgs {
    /// Bytes of a message's body, several separated by commas
    #[arg(
        long,
        value_name = "BYTES",
        value_delimiter = ',',
        default_value = "100,1024"
    )]
    #[arg(value_parser = whole::<u32>(8..=1_048_576))]
    pub(crate) size: Vec<u32>,
    /// express | recoverable | transactional, several separated by commas
    #[arg(long, value_name = "CLASS", value_delimiter = ',', value_parser = parse_class)]
    #[arg(default_value = "express,recoverable,transactional")]
    pub(crate) class: Vec<Class>,
    /// Messages that the application hands over together, several separated by commas; of
    /// several transactional ones, a transaction
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "16")]
    #[arg(value_parser = whole::<u32>(1..=16_384))]
    pub(crate) batch: Vec<u32>,
    /// How long to send at full speed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: u64,
    /// Send this many at full speed instead
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) messages: Option<u64>,
    /// Messages sent and not yet received, at most
    #[arg(long, value_name = "N", default_value = "4096")]
    #[arg(value_parser = whole::<u32>(1..=1_000_000))]
    pub(crate) in_flight: u32,
    /// How long to send at 1,000 messages a second for the latencies
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub(crate) paced: u64,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct OutageArgs {
    /// How many messages wait
    #[arg(long, value_name = "N", default_value = "1000000")]
    #[arg(value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) messages: u64,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value = "200")]
    #[arg(value_parser = whole::<u32>(8..=1_048_576))]
    pub(crate) size: u32,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct BacklogArgs {
    /// How many messages wait, several separated by commas
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "0,1000000"
    )]
    pub(crate) messages: Vec<u64>,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value = "16")]
    #[arg(value_parser = whole::<u32>(8..=1_048_576))]
    pub(crate) size: u32,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

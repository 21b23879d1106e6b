//! Commands that play situations through in virtual time.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::numbers::whole;

use crate::config::units::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Several machines made from one image send to one receiver, under MSMQ's rules and under qm's
    #[command(after_help = CLONES_EXAMPLES)]
    Clones(ClonesArgs),
}

const CLONES_EXAMPLES: &str = "\
Examples:
  qm-node lab clones
  qm-node lab clones --clones 2,4 --rate 1 --lifetime 30s --policy msmq
  qm-node lab clones --seed 7 --json --svg clones.svg

Nothing is sent over a network and no node is needed: time is virtual, and the same options give
the same figures.";

/// Whose rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// As the article on cloned machines and the open specifications describe MSMQ
    Msmq,
    /// The engine of this program
    Qm,
}

#[derive(Args, Debug)]
pub(crate) struct ClonesArgs {
    /// Machines made from the image, several numbers separated by commas
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,2,4,8"
    )]
    #[arg(value_parser = whole::<u16>(1..=64))]
    pub(crate) clones: Vec<u16>,
    /// Messages a second of each of them, several separated by commas
    #[arg(long, value_name = "R", value_delimiter = ',', value_parser = parse_rate)]
    #[arg(default_value = "0.001,0.01,0.1,1")]
    pub(crate) rate: Vec<f64>,
    /// How long the receiver remembers to whom acknowledgements go
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(crate) lifetime: u64,
    /// Whose rules hold, several separated by commas
    #[arg(
        long,
        value_name = "POLICY",
        value_delimiter = ',',
        default_value = "msmq,qm"
    )]
    pub(crate) policy: Vec<Policy>,
    /// For how long messages are sent
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub(crate) duration: u64,
    /// Messages, at most, that a machine sent elsewhere since it was made from the image: so far
    /// apart are the counters that they all inherited
    #[arg(long, value_name = "N", default_value = "1000")]
    #[arg(value_parser = whole::<u32>(0..=1_000_000))]
    pub(crate) apart: u32,
    /// Everything that is left to chance follows from it
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole::<u64>(0..=u64::MAX))]
    pub(crate) seed: u64,
    /// Draw the times in the outgoing queue into this file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.000_001..=1_000.0).contains(&rate) => Ok(rate),
        _ => Err("write messages a second, from 0.000001 to 1000".to_owned()),
    }
}

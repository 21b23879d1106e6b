//! Dead letters.

use clap::{Args, Subcommand};
use qm_wire::Destination;

use super::Confirm;
use super::numbers::whole;
use crate::config::units::parse_duration;

const DEAD_EXAMPLES: &str = "\
Examples:
  qm-node dead list --reason bad_destination_queue --older-than 1h
  qm-node dead show 19d2f1
  qm-node dead resend 19d2f1c55fd1a3b0-17
  qm-node dead resend --all --destination hub/orders --dry-run
  qm-node dead resend --all --reason 8000 --to hub/orders2 --yes
  qm-node dead drop --all --older-than 30d";

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Dead letters, oldest first
    #[command(after_help = DEAD_EXAMPLES)]
    List {
        #[command(flatten)]
        filter: DeadFilter,
        /// At most this many
        #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=u64::MAX))]
        count: Option<u64>,
    },
    /// One dead letter, with its body
    Show {
        /// The message id, or the unique beginning of it
        #[arg(value_name = "MESSAGE-ID")]
        id: String,
    },
    /// Send dead letters again to where they were to go, as new messages
    #[command(after_help = DEAD_EXAMPLES)]
    Resend {
        #[command(flatten)]
        which: DeadSelection,
        /// Also those that may have been delivered all the same
        #[arg(long)]
        force: bool,
        /// Send them here instead
        #[arg(long, value_name = "DEST")]
        to: Option<Destination>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Remove dead letters for good
    Drop {
        #[command(flatten)]
        which: DeadSelection,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DeadFilter {
    /// Only with this reason: its word or four digits, as `qm-node errors` lists them
    #[arg(long, value_name = "CODE", value_parser = parse_outcome)]
    pub(crate) reason: Option<qm_wire::Outcome>,
    /// Only for this destination, node or queue
    #[arg(long, value_name = "DEST")]
    pub(crate) destination: Option<String>,
    /// Only those dead for this long, such as 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) older_than: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct DeadSelection {
    /// Message ids, or unique beginnings of them
    #[arg(value_name = "MESSAGE-ID")]
    pub(crate) ids: Vec<String>,
    /// All that the filters admit
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) filter: DeadFilter,
}

fn parse_outcome(text: &str) -> Result<qm_wire::Outcome, String> {
    qm_wire::Outcome::from_name(&text.to_lowercase())
        .ok_or_else(|| "this is no reason; `qm-node errors` lists them".to_owned())
}

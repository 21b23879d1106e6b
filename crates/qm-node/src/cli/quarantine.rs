//! Messages that another machine has as well.

use clap::Subcommand;
use qm_wire::QueueName;

use super::Confirm;
use super::misuse::parse_queue;

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// What is set aside, by the queue in which it waited
    List,
    /// Give them back to their queue, behind what waits there: this machine deals with them
    ///
    /// The machine that kept the identity has them as well: whatever it does with them is done
    /// twice, unless it does nothing.
    Release {
        /// The queue in which they waited
        #[arg(value_parser = parse_queue)]
        queue: QueueName,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Remove them: the other machine deals with them
    Drop {
        /// The queue in which they waited
        #[arg(value_parser = parse_queue)]
        queue: QueueName,
        /// Keep no dead letters of them
        #[arg(long)]
        discard: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
}

//! Other nodes: who they are, and what leaves for them.

use clap::{Args, Subcommand};
use qm_wire::QmId;

use super::Confirm;

#[derive(Debug, Subcommand)]
pub(crate) enum OutgoingCommand {
    /// All destinations
    List,
    /// Destinations of one name
    Show {
        /// A destination, a peer, or the beginning of either
        dest: String,
    },
    /// Stop transmitting
    Pause(OutgoingSelection),
    /// Go on transmitting
    Resume(OutgoingSelection),
    /// Dial now instead of at the next time
    Retry(OutgoingSelection),
    /// Remove what waits and is not under way; it becomes dead letters
    Purge {
        #[command(flatten)]
        which: OutgoingSelection,
        /// Keep no dead letters of it
        #[arg(long)]
        discard: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StreamCommand {
    /// All streams, leaving and arriving
    List,
    /// Begin streams anew that stand because their destination lost what it had acknowledged;
    /// what is not acknowledged is sent, and what the destination still knows is not sent twice
    Rebase(OutgoingSelection),
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct OutgoingSelection {
    /// A destination, a peer, or the unique beginning of either
    #[arg(group = "which")]
    pub(crate) dest: Option<String>,
    /// All destinations
    #[arg(long, group = "which")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// All peers
    List,
    /// One peer
    Show {
        /// Its name or identity, or the unique beginning of either
        who: String,
    },
    /// Give a node a name, and let it send here
    Add {
        /// Name for the peer, as in NAME/queue
        name: String,
        /// HOST or HOST:PORT
        #[arg(required_unless_present = "qm")]
        address: Option<String>,
        /// Its identity, when known
        #[arg(long, value_name = "QMID")]
        qm: Option<QmId>,
        /// Hold a connection open even when nothing waits
        #[arg(long)]
        keep_connected: bool,
    },
    /// Let a pending peer send here
    Approve {
        /// Its name or identity, or the unique beginning of either
        who: String,
        /// Name for the peer, as in NAME/queue
        #[arg(long)]
        name: Option<String>,
    },
    /// Let a peer not send here, and close its sessions
    Block {
        /// Its name or identity, or the unique beginning of either
        who: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Remove a peer: by its name from the address book, with the identity remembered for its
    /// address; by its identity altogether, so that it is a stranger again
    Forget {
        /// Its name or identity, or the unique beginning of either
        who: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

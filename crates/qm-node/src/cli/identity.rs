//! The identity of this node.

use std::path::PathBuf;

use clap::Subcommand;

use super::Confirm;

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// QMId, fingerprint and name, whether the node runs or not; and the former identity, as long
    /// as it drains or may be taken back
    Show,
    /// Take a new identity while the node runs: the cure for a copied machine
    ///
    /// Nothing stalls, is lost or comes twice. Every destination is spoken to under the former
    /// identity until its operator approves the new one; what waits is delivered under the
    /// identity under which it was sent. The former key is kept for 30 days after that.
    Remint {
        /// Why, for logs and for whoever asks later
        #[arg(long, value_name = "TEXT", default_value = "asked for by the operator")]
        because: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Make the data directory ready to be copied, for images: no keys, no messages, nothing of
    /// this machine; the next start makes a new identity
    ///
    /// The node must not run. With messages in it nothing is done unless it is said what becomes of
    /// them.
    Sysprep {
        /// Give up the messages that wait, dead letters among them
        #[arg(long, conflicts_with = "export")]
        purge: bool,
        /// Move keys and messages into this directory, which must not be there yet
        #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        export: Option<PathBuf>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Go back to the former identity, as long as its key is there
    Reclaim {
        #[command(flatten)]
        confirm: Confirm,
    },
}

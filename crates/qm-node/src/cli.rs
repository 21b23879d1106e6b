//! What can be typed.

mod lab;
mod misuse;
#[cfg(test)]
mod promises;
mod trials;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use qm_wire::{Class, Destination, QmId, QueueName};

use crate::config::Flags;
use crate::config::units::{parse_duration, parse_size};

pub(crate) use self::lab::{ClonesArgs, LabCommand, Policy};
pub(crate) use self::misuse::misuse;
use self::misuse::parse_destination;
pub(crate) use self::trials::{
    BenchArgs, BenchCommand, DemoArgs, OutageArgs, PlaceArgs, StreamArgs,
};

const EXAMPLES: &str = "\
See it work:
  qm-node demo

Try it, on one machine:
  qm-node run                                in a second terminal:
  qm-node queue create orders
  qm-node send orders 'three apples'
  qm-node receive orders

To another machine (its operator approves this node once):
  qm-node send qm://hub.example/orders 'three apples' --wait delivered
  qm-node why qm://hub.example/orders

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 nothing there or fate open,
4 rejected with a typed code (`qm-node errors`), 5 no node is running.
Environment: QM_CONFIG, QM_DATA, QM_SOCKET, QM_LOG, and QM_SECTION__KEY for every key of
`qm-node config show`. NO_COLOR switches colours off.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  qm-node doctor
  qm-node doctor --json | jq 'select(.level == \"problem\")'

Exit code 1 when something must be done, 0 when there are only notices or nothing.";

const CHECK_EXAMPLES: &str = "\
Examples:
  qm-node check
  qm-node check --warn-dead 10 --crit-age 6h --warn-queued 10000

A node that does not run is critical; one that cannot be asked is unknown.";

const WHY_EXAMPLES: &str = "\
Examples:
  qm-node why hub/orders           a destination: what is sent there
  qm-node why orders               a queue of this node
  qm-node why 19d2f1c55fd1a3b0-17  a message: where it is and what it waits for

Exit code 3 when nothing here has that name.";

const TRACE_EXAMPLES: &str = "\
Example:
  qm-node trace 19d2f1c55fd1a3b0-17

A node remembers its last events in memory (history.events, history.bytes), and says when what it
remembers is not the whole story. Exit code 3 when nothing is known of the message.";

const DEAD_EXAMPLES: &str = "\
Examples:
  qm-node dead list --reason bad_destination_queue --older-than 1h
  qm-node dead show 19d2f1
  qm-node dead resend 19d2f1c55fd1a3b0-17
  qm-node dead resend --all --destination hub/orders --dry-run
  qm-node dead resend --all --reason 8000 --to hub/orders2 --yes
  qm-node dead drop --all --older-than 30d";

/// A store-and-forward queue manager: the daemon, and the commands to use and operate it.
///
/// A program sends to its own node and is done; the node delivers when the other side can be
/// reached, once.
#[derive(Debug, Parser)]
#[command(name = "qm-node", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// Print JSON documents, one a line; errors as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No remarks on standard error, errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Data directory of the node [QM_DATA]
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data: Option<PathBuf>,
    /// Socket of the node [QM_SOCKET; default: node.sock in the data directory]
    #[arg(long, global = true, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    socket: Option<PathBuf>,
    /// Configuration file [QM_CONFIG]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node; the first start creates its identity and store
    Run(RunArgs),
    /// Create identity and store without running, and print the fingerprint
    Init(InitArgs),
    /// Is the node running and healthy?
    Status,
    /// Depths, ages and rates, live on a terminal, one snapshot on a pipe
    Top(TopArgs),
    /// What is wrong with the node and its machine, and what to do; whether it runs or not
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor,
    /// One line for a monitoring system: exit 0 good, 1 warning, 2 critical, 3 unknown
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Send a message, or one per line of a file
    Send(Box<SendArgs>),
    /// Take messages out of a queue of this node
    Receive(ReceiveArgs),
    /// Look at messages without taking them
    Peek(PeekArgs),
    /// Queues of this node
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Queues of messages that wait for other nodes
    #[command(subcommand)]
    Outgoing(OutgoingCommand),
    /// Transactional streams: exactly once and in order, per sender and destination queue
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Other nodes: who may send here, and where they are
    #[command(subcommand)]
    Peers(PeersCommand),
    /// Where acknowledgements would be sent
    Routes,
    /// How the duplicate cache is doing
    Dedup,
    /// Who this node is
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// What is configured
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The message store on disk, while the node does not run
    #[command(subcommand)]
    Store(StoreCommand),
    /// Messages that could not be delivered: look at them, send them again, drop them
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Why is it not moving? One line of cause, what to do, the evidence
    #[command(after_help = WHY_EXAMPLES)]
    Why {
        /// A message id, a queue, a destination or a peer
        subject: String,
    },
    /// What happened to a message, as far as this node knows
    #[command(after_help = TRACE_EXAMPLES)]
    Trace {
        /// A message id, as `send` and `peek` print it
        #[arg(value_name = "MESSAGE-ID")]
        id: String,
    },
    /// Send a text through two nodes on this machine, and kill one of them in the middle
    Demo(DemoArgs),
    /// Measure two nodes on this machine, beside what its disk can do
    Bench(Box<BenchArgs>),
    /// Play situations through in virtual time
    #[command(subcommand)]
    Lab(LabCommand),
    /// Error codes, with what to do
    Errors {
        /// A code or its name; all without it
        code: Option<String>,
    },
    /// Completions for a shell, on standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The manual page, on standard output
    Man {
        /// Write a page per command into this directory instead
        #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// UDP address for peers [default: [::]:1801]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Name under which people know the node; kept for later starts
    #[arg(long)]
    name: Option<String>,
    /// Who may send to the node [default: approve]
    #[arg(long, value_name = "approve|any")]
    trust: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) interval: u64,
    /// End after so many looks [default: on a terminal never, on a pipe 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Dead letters from which it warns
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) warn_dead: u64,
    /// Dead letters from which it is critical
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) crit_dead: u64,
    /// Age of the oldest message for another node from which it warns
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = parse_duration)]
    pub(crate) warn_age: u64,
    /// The same, critical
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_duration)]
    pub(crate) crit_age: u64,
    /// Messages for other nodes from which it warns [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) warn_outgoing: Option<u64>,
    /// The same, critical [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) crit_outgoing: Option<u64>,
    /// Messages in queues of this node from which it warns [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) warn_queued: Option<u64>,
    /// The same, critical [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) crit_queued: Option<u64>,
    /// Per cent of the disk, and of the node's own quota, from which it warns
    #[arg(long, value_name = "PERCENT", default_value = "80")]
    pub(crate) warn_disk: u64,
    /// The same, critical
    #[arg(long, value_name = "PERCENT", default_value = "95")]
    pub(crate) crit_disk: u64,
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Name under which people know the node; kept for later starts
    #[arg(long)]
    name: Option<String>,
}

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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..8))]
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
    /// Where acknowledgements to the application should go
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
    /// Be refused by a full queue instead of waiting for room
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
    pub(crate) queue: QueueName,
    /// Stop after this many messages, waiting for them unless --wait says otherwise
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
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
    pub(crate) queue: QueueName,
    /// Show this many messages
    #[arg(long, value_name = "N", default_value = "20")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Go on behind this lookup id: the next page
    #[arg(long, value_name = "LOOKUP-ID")]
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
    #[arg(long, value_name = "N")]
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

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Confirm {
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Make a queue
    Create(QueueSettings),
    /// Change the settings of a queue
    Set(QueueChange),
    /// All queues
    List,
    /// One queue
    Show { name: QueueName },
    /// Remove the messages that wait in a queue; they become dead letters
    Purge {
        name: QueueName,
        /// Keep no dead letters of them
        #[arg(long)]
        discard: bool,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Remove a queue
    Delete {
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
    Pause { name: QueueName },
    /// Let receivers go on
    Resume { name: QueueName },
}

#[derive(Args, Debug)]
pub(crate) struct QueueSettings {
    pub(crate) name: QueueName,
    /// Only transactional messages may enter
    #[arg(long)]
    pub(crate) transactional: bool,
    /// Bytes of waiting messages, such as 100MiB; above, senders wait
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) quota_bytes: Option<u64>,
    /// Number of waiting messages; above, senders wait
    #[arg(long, value_name = "N")]
    pub(crate) quota_messages: Option<u64>,
    /// Given back this often, a message goes to the subqueue QUEUE:poison [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_aborts: Option<u32>,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct QueueChange {
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

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Dead letters, oldest first
    #[command(after_help = DEAD_EXAMPLES)]
    List {
        #[command(flatten)]
        filter: DeadFilter,
        /// At most this many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
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

#[derive(Args, Debug)]
pub(crate) struct OutgoingSelection {
    /// A destination, a peer, or the unique beginning of either
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) dest: Option<String>,
    /// All destinations
    #[arg(long)]
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
    /// Remove a peer from the address book, with the identity remembered for its address
    Forget {
        /// Its name or identity, or the unique beginning of either
        who: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

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

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Verify every byte and name what is damaged; changes nothing
    Check,
    /// Save everything undamaged into a new store; the damaged one is kept
    Repair {
        /// Write the new store into this directory, which must not be there yet, and leave the
        /// node's as it is
        #[arg(long, value_name = "DIR", required_unless_present = "in_place")]
        #[arg(value_hint = clap::ValueHint::DirPath)]
        out: Option<PathBuf>,
        /// Put the new store in the place of the damaged one, which stays beside it as
        /// store.damaged-N
        #[arg(long, conflicts_with = "out")]
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

impl Cli {
    /// What the command line says about the configuration.
    pub(crate) fn flags(&self) -> Flags {
        let mut values = Vec::new();
        let mut add = |flag, key, value: Option<String>| {
            values.extend(value.map(|value| (flag, key, value)));
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        add("--data", "data", path(&self.common.data));
        add("--socket", "socket", path(&self.common.socket));
        match &self.command {
            Command::Run(args) => {
                add("--listen", "listen", args.listen.clone());
                add("--name", "name", args.name.clone());
                add("--trust", "trust", args.trust.clone());
            }
            Command::Init(args) => add("--name", "name", args.name.clone()),
            _ => {}
        }
        Flags {
            config: self.common.config.clone(),
            values,
        }
    }
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

fn parse_class(text: &str) -> Result<Class, String> {
    Class::from_name(text).ok_or_else(|| "write express, recoverable or transactional".to_owned())
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn parse_outcome(text: &str) -> Result<qm_wire::Outcome, String> {
    qm_wire::Outcome::from_name(&text.to_lowercase())
        .ok_or_else(|| "this is no reason; `qm-node errors` lists them".to_owned())
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("qm-node").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (line, kind) in [
            ("send", ErrorKind::MissingRequiredArgument),
            ("send q a --file b", ErrorKind::ArgumentConflict),
            ("send q --file a --lines b", ErrorKind::ArgumentConflict),
            ("send q a --null", ErrorKind::ArgumentConflict),
            ("send q --null", ErrorKind::MissingRequiredArgument),
            (
                "send q a --express --class recoverable",
                ErrorKind::ArgumentConflict,
            ),
            ("send q a --priority 8", ErrorKind::ValueValidation),
            ("send q a --timeout 5", ErrorKind::ValueValidation),
            ("send http://hub/q a", ErrorKind::ValueValidation),
            ("send q a --property x", ErrorKind::ValueValidation),
            ("send q a --ack reach", ErrorKind::MissingRequiredArgument),
            ("send q a --wait ever", ErrorKind::InvalidValue),
            ("receive q --count 1 --follow", ErrorKind::ArgumentConflict),
            ("receive q --count 0", ErrorKind::ValueValidation),
            ("receive a/b", ErrorKind::ValueValidation),
            (
                "receive q --output raw --out-dir d",
                ErrorKind::ArgumentConflict,
            ),
            ("queue set q", ErrorKind::MissingRequiredArgument),
            ("queue set q --quota-bytes many", ErrorKind::ValueValidation),
            ("queue set q --max-aborts 0", ErrorKind::ValueValidation),
            ("dead list --reason nothing", ErrorKind::ValueValidation),
            ("dead resend 19 --all", ErrorKind::ArgumentConflict),
            ("dead show", ErrorKind::MissingRequiredArgument),
            ("outgoing purge", ErrorKind::MissingRequiredArgument),
            ("outgoing purge hub --all", ErrorKind::ArgumentConflict),
            ("peers add hub", ErrorKind::MissingRequiredArgument),
            ("store repair", ErrorKind::MissingRequiredArgument),
            (
                "store repair --out d --in-place",
                ErrorKind::ArgumentConflict,
            ),
            ("queu list", ErrorKind::InvalidSubcommand),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn what_is_meant_is_understood() {
        let sent = |line: &str| match parse(line).unwrap().command {
            Command::Send(args) => args,
            other => panic!("{other:?}"),
        };
        assert_eq!(sent("send q x").class.class(), Class::Recoverable);
        assert_eq!(sent("send q x --express").class.class(), Class::Express);
        assert_eq!(
            sent("send q x --class transactional").class.class(),
            Class::Transactional
        );
        let args =
            sent("send qm://hub/q --lines - --null --idempotency-key k --time-to-reach-queue 4d");
        assert_eq!(args.lines, Some("-".into()));
        assert_eq!(args.time_to_reach_queue, Some(345_600_000));
        let args = sent("send q x --admin-queue acks --ack reach,nack-receive --property a=b=c");
        assert_eq!(args.ack, [AckWish::Reach, AckWish::NackReceive]);
        assert_eq!(args.properties, [("a".to_owned(), "b=c".to_owned())]);
        let cli =
            parse("run --data /d --listen :1 --name n --trust any --socket s --config c").unwrap();
        let flags = cli.flags();
        assert_eq!(flags.config, Some("c".into()));
        let keys: Vec<_> = flags
            .values
            .iter()
            .map(|(_, key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            keys,
            ["data=/d", "socket=s", "listen=:1", "name=n", "trust=any"]
        );
        // Options of every command may stand anywhere.
        assert!(parse("--json queue list").unwrap().common.json);
        assert!(parse("queue list --json").unwrap().common.json);
    }
}

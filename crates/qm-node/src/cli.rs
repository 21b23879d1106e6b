//! What can be typed.

mod dead;
mod identity;
mod lab;
mod messages;
mod misuse;
mod node;
mod numbers;
mod peers;
#[cfg(test)]
mod promises;
mod quarantine;
mod queues;
mod trials;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Flags;
use crate::config::units::{about_duration, parse_duration};

pub(crate) use self::dead::{DeadCommand, DeadFilter, DeadSelection};
pub(crate) use self::identity::IdentityCommand;
pub(crate) use self::lab::{ClonesArgs, LabCommand, Policy};
pub(crate) use self::messages::{
    AckWish, Filter, Form, PeekArgs, PeekForm, ReceiveArgs, SendArgs, Until,
};
pub(crate) use self::misuse::misuse;
pub(crate) use self::node::{
    AnswerArgs, CheckArgs, ConfigCommand, InitArgs, RunArgs, StoreCommand, TopArgs,
};
pub(crate) use self::peers::{OutgoingCommand, OutgoingSelection, PeersCommand, StreamCommand};
pub(crate) use self::quarantine::QuarantineCommand;
pub(crate) use self::queues::QueueCommand;
pub(crate) use self::trials::{
    BacklogArgs, BenchArgs, BenchCommand, DemoArgs, OutageArgs, PlaceArgs, StreamArgs,
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
    Doctor(AnswerArgs),
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
    /// Messages that another machine has as well, set aside when this one took another identity
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Hold the node still for a snapshot of its machine, until `thaw` or for a while
    ///
    /// It drops its connections without a word, has everything on disk, then answers and does
    /// nothing: the snapshot holds no keys of live connections.
    Freeze {
        /// Go on by itself after so long, at most 10min
        #[arg(long = "for", value_name = "TIME", value_parser = parse_freeze, default_value = "60s")]
        for_ms: u64,
    },
    /// Let a node go on that was held still
    Thaw,
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

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Confirm {
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Longer a node does not stand still.
fn parse_freeze(text: &str) -> Result<u64, String> {
    let longest = qm_node::FREEZE_MS_MAX;
    parse_duration(text).and_then(|ms| {
        let fits = ms <= longest;
        fits.then_some(ms)
            .ok_or_else(|| format!("at most {} are possible", about_duration(longest)))
    })
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;
    use qm_wire::Class;

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
            ("freeze --for 11min", ErrorKind::ValueValidation),
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

//! What can go wrong, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_wire::local::NodeHello;
use qm_wire::{DecodeError, MessageId, OpenError, Outcome, QueueName, Text};

/// The connection to the node cannot be made or is gone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error(
        "no queue manager answers at {path} ({reason}); start one with `qm-node run`, or name the \
         socket of the one that runs"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        reason: Arc<io::Error>,
    },
    /// The operating system does not let this user connect.
    #[error(
        "this user may not use the queue manager's socket {path} ({reason}); only the user of the \
         queue manager may: run the application as that user"
    )]
    Denied {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        reason: Arc<io::Error>,
    },
    /// The path does not fit into a socket address.
    #[error(
        "the socket path {path} is too long for this operating system (about 100 bytes are \
         possible); let the node listen at a shorter one"
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Reading or writing the socket failed.
    #[error("the connection to the queue manager at {path} failed: {reason}; is it still running?")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        reason: Arc<io::Error>,
    },
    /// The node ended the connection.
    #[error(
        "the queue manager at {path} ended the connection; it was stopped or restarted, or its \
         log says why"
    )]
    HungUp {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody accepted the connection but did not answer the greeting.
    #[error(
        "whoever listens at {path} did not answer within {after_ms} ms; if it is the queue \
         manager, its log tells what holds it up"
    )]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited, milliseconds.
        after_ms: u64,
    },
    /// What arrived is not the local protocol, or breaks its rules.
    #[error(
        "what answers at {path} does not speak the queue manager's local protocol: {reason}; check \
         the path, and that node and application are of versions that go together"
    )]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// Which rule.
        reason: Violation,
    },
    /// The node speaks another version of the local protocol.
    #[error(
        "the queue manager at {path} speaks version {node} of the local protocol, this \
         application {client}; update the older of the two"
    )]
    Version {
        /// The socket.
        path: PathBuf,
        /// The node's version.
        node: u16,
        /// This library's version.
        client: u16,
    },
    /// After a reconnect another queue manager answered at the socket.
    #[error(
        "another queue manager answers at {path} now: {after} instead of {before}; what was \
         unanswered stays with the former one"
    )]
    OtherNode {
        /// The socket.
        path: PathBuf,
        /// Who answered before.
        before: qm_wire::QmId,
        /// Who answers now.
        after: qm_wire::QmId,
    },
    /// The queue manager was restarted; express messages do not survive that.
    #[error(
        "the queue manager at {path} was restarted, and its memory of express messages is gone"
    )]
    Restarted {
        /// The socket.
        path: PathBuf,
    },
    /// The operating system withheld what a client needs.
    #[error("the operating system gave no {what}: {reason}")]
    System {
        /// Random bytes or a thread.
        what: &'static str,
        /// What it said.
        reason: Arc<str>,
    },
    /// The client was closed by the application.
    #[error("this client was closed")]
    Closed,
}

impl ClientError {
    pub(crate) fn from_connect(path: &Path, error: io::Error) -> Self {
        let kind = error.kind();
        let (path, reason) = (path.to_owned(), Arc::new(error));
        match kind {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionRefused => Self::NotRunning { path, reason },
            io::ErrorKind::PermissionDenied => Self::Denied { path, reason },
            io::ErrorKind::InvalidInput => Self::PathTooLong { path },
            _ => Self::Io { path, reason },
        }
    }

    pub(crate) fn from_io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::HungUp { path },
            _ => Self::Io {
                path,
                reason: Arc::new(error),
            },
        }
    }

    pub(crate) fn protocol(path: &Path, reason: impl Into<Violation>) -> Self {
        Self::Protocol {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn other_node(path: &Path, before: &NodeHello, after: &NodeHello) -> Self {
        Self::OtherNode {
            path: path.to_owned(),
            before: before.node,
            after: after.node,
        }
    }
}

/// A rule of the local protocol that the other side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Bytes that are no frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The first frame is no greeting.
    #[error("the first frame is no greeting")]
    NoHello,
    /// A second greeting.
    #[error("a second greeting arrived")]
    SecondHello,
    /// An answer to a put that was not sent.
    #[error("put {sequence} was answered but never sent")]
    AnsweredUnsent {
        /// Its sequence.
        sequence: u64,
    },
    /// An answer to a request that is not open.
    #[error("request {request} was answered, and no such request is open")]
    UnknownRequest {
        /// Its number.
        request: u64,
    },
}

/// A message was not accepted, or nobody knows whether it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The node refused the message; nothing of it is kept.
    #[error("the queue manager refused the message: {outcome}{}", explained(*.outcome, .text))]
    Rejected {
        /// Why.
        outcome: Outcome,
        /// One sentence for people, possibly empty.
        text: Text,
    },
    /// A property of the message breaks a limit of the format; nothing was sent.
    #[error("the message cannot be sent: {0}; shorten or correct that property")]
    Invalid(#[from] DecodeError),
    /// The body is larger than the node accepts; nothing was sent.
    #[error(
        "the body has {bytes} bytes and the queue manager accepts {limit}; raise its limit for \
         bodies or split the message"
    )]
    TooLarge {
        /// Bytes of the body.
        bytes: u64,
        /// The node's limit.
        limit: u32,
    },
    /// The message never left this process, because the node was away for too long.
    #[error("the message was not sent: {0}")]
    Disconnected(ClientError),
    /// The message was handed over and the answer was lost: it may have been accepted or not.
    /// Sending it again may double it, unless it carries an idempotency key.
    #[error(
        "the message may or may not have been accepted: {0}; sending it again may double it, \
         unless it carries an idempotency key"
    )]
    OutcomeUnknown(ClientError),
    /// Too many messages are followed at once; nothing was sent.
    #[error(
        "{limit} messages are being followed already; await or drop their tickets first, or send \
         without following"
    )]
    TooManyFollowed {
        /// The client's limit.
        limit: usize,
    },
}

/// A transaction was not committed, or nobody knows whether it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The node did not commit it; nothing of it happened.
    #[error("the transaction was not committed: {outcome}{}", explained(*.outcome, .text))]
    Aborted {
        /// Why.
        outcome: Outcome,
        /// One sentence for people, possibly empty.
        text: Text,
    },
    /// The connection was lost before the commit was sent, or what it had received went back with
    /// an earlier one; nothing of it happened.
    #[error("the transaction was not committed, and nothing of it happened: {0}")]
    Disconnected(ClientError),
    /// The commit was sent and the answer was lost: all of it happened, or nothing.
    #[error(
        "the transaction may or may not have been committed: {0}; doing it again may double it, \
         unless its messages carry idempotency keys"
    )]
    OutcomeUnknown(ClientError),
}

/// The fate of an accepted message is bad or cannot be told.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FateError {
    /// The message was not accepted in the first place.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The message ended otherwise.
    #[error("message {id} ended: {outcome}, {}", .outcome.describe())]
    Ended {
        /// The message.
        id: MessageId,
        /// How.
        outcome: Outcome,
    },
    /// The node was restarted or another one answers: it no longer reports to this client.
    #[error("nothing more is reported about message {id}; `qm-node why {id}` tells what is known")]
    Unknown {
        /// The message.
        id: MessageId,
    },
    /// The message was put without the wish to be followed so far.
    #[error("the message was sent without following it that far; set `Message::follow`")]
    NotFollowed,
}

/// A receive or peek request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The node refused the request.
    #[error("the queue manager refused to hand out messages: {outcome}{}", explained(*.outcome, .text))]
    Refused {
        /// Why.
        outcome: Outcome,
        /// One sentence for people, possibly empty.
        text: Text,
    },
    /// The request breaks a limit of the format; nothing was sent.
    #[error("the request cannot be sent: {0}")]
    Invalid(#[from] DecodeError),
    /// The node is away.
    #[error("no message could be received: {0}")]
    Disconnected(ClientError),
    /// A message arrived from the node in a damaged state. It was given back.
    #[error(
        "message {lookup} of queue {queue} is damaged: {reason}; it was given back, \
         `qm-node store check` examines the disk"
    )]
    Damaged {
        /// The queue.
        queue: QueueName,
        /// The message's lookup id.
        lookup: u64,
        /// What is wrong.
        reason: Arc<OpenError>,
    },
}

/// A delivery could not be settled as wished.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The message was given back before, because its lease ran out or the connection was lost:
    /// it will be delivered again, to whomever.
    #[error(
        "message {lookup} of queue {queue} is no longer leased to this client and will be \
         delivered again"
    )]
    LeaseLost {
        /// The queue.
        queue: QueueName,
        /// The message's lookup id.
        lookup: u64,
    },
    /// The connection was lost before the node answered: the message is either settled or will be
    /// delivered again.
    #[error(
        "message {lookup} of queue {queue} is either settled or will be delivered again: {reason}"
    )]
    OutcomeUnknown {
        /// The queue.
        queue: QueueName,
        /// The message's lookup id.
        lookup: u64,
        /// How the connection ended.
        reason: ClientError,
    },
    /// The node refused.
    #[error("the queue manager did not settle the message: {outcome}{}", explained(*.outcome, .text))]
    Refused {
        /// Why.
        outcome: Outcome,
        /// One sentence for people, possibly empty.
        text: Text,
    },
}

/// An administrative request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The node did not do what was asked; its answer in JSON says why.
    #[error("the queue manager did not do it: {}", String::from_utf8_lossy(.json))]
    Failed {
        /// The node's answer.
        json: Vec<u8>,
    },
    /// The request is over the limit; nothing was sent.
    #[error("the request cannot be sent: {0}")]
    Invalid(#[from] DecodeError),
    /// The request never left this process.
    #[error("the request was not sent: {0}")]
    Disconnected(ClientError),
    /// The connection was lost before the node answered.
    #[error("the request may or may not have been done: {0}")]
    OutcomeUnknown(ClientError),
}

/// The node's sentence, or else the one that belongs to the outcome.
fn explained(outcome: Outcome, text: &Text) -> String {
    if text.is_empty() {
        format!(", {}", outcome.describe())
    } else {
        format!(", {text}")
    }
}

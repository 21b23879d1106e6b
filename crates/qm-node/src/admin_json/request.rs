//! What may be asked.

use qm_engine::LocalSettings;
use qm_engine::admin::{AdminRequest, DeadFilter, Selector};
use qm_wire::{Outcome, QmId, QueueName};
use serde::{Deserialize, Serialize};

use super::{AdminJsonError, Asked, Shape};

/// A request as it travels; the verb is the field `do`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Answered by a [`StatusDocument`](super::StatusDocument).
    #[serde(rename = "status")]
    Status {},
    /// Answered by a [`List`](super::List) of [`QueueDocument`](super::QueueDocument)s.
    #[serde(rename = "queue.list")]
    QueueList {
        /// Only those behind this key of an earlier answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Answered by a [`QueueDocument`](super::QueueDocument).
    #[serde(rename = "queue.show")]
    QueueShow {
        /// The queue.
        name: QueueName,
    },
    /// Make a queue.
    #[serde(rename = "queue.create")]
    QueueCreate {
        /// Its name.
        name: QueueName,
        /// Whether only transactional messages may enter.
        #[serde(default)]
        transactional: bool,
        /// Bytes of waiting messages; `null` for no limit.
        #[serde(default)]
        quota_bytes: Option<u64>,
        /// Number of waiting messages; `null` for no limit.
        #[serde(default)]
        quota_messages: Option<u64>,
        /// Given back this often, a message goes to the subqueue `poison`; 0 for never.
        #[serde(default)]
        max_aborts: u32,
    },
    /// Change a queue. Every setting is named, so that none changes by being left out.
    #[serde(rename = "queue.set")]
    QueueSet {
        /// Its name.
        name: QueueName,
        /// Whether only transactional messages may enter.
        transactional: bool,
        /// Bytes of waiting messages; `null` for no limit.
        #[serde(deserialize_with = "named")]
        quota_bytes: Option<u64>,
        /// Number of waiting messages; `null` for no limit.
        #[serde(deserialize_with = "named")]
        quota_messages: Option<u64>,
        /// Whether receivers are held back.
        paused: bool,
        /// Given back this often, a message goes to the subqueue `poison`; 0 for never.
        max_aborts: u32,
    },
    /// Delete a queue.
    #[serde(rename = "queue.delete")]
    QueueDelete {
        /// Its name.
        name: QueueName,
        /// Also when messages are in it.
        #[serde(default)]
        force: bool,
        /// Keep no dead letters of its messages.
        #[serde(default)]
        discard: bool,
    },
    /// Remove all waiting messages of a queue.
    #[serde(rename = "queue.purge")]
    QueuePurge {
        /// Its name.
        name: QueueName,
        /// Keep no dead letters of them.
        #[serde(default)]
        discard: bool,
    },
    /// Hold the node still for a snapshot.
    #[serde(rename = "node.freeze")]
    NodeFreeze {
        /// At most so long, milliseconds: up to ten minutes.
        for_ms: u64,
    },
    /// Let it go on.
    #[serde(rename = "node.thaw")]
    NodeThaw {},
    /// Move everything in a quarantine behind what waits in its queue.
    #[serde(rename = "quarantine.release")]
    QuarantineRelease {
        /// Its name, `QUEUE:quarantine`.
        name: QueueName,
    },
    /// Hold receivers of a queue back.
    #[serde(rename = "queue.pause")]
    QueuePause {
        /// Its name.
        name: QueueName,
    },
    /// Let receivers of a queue go on.
    #[serde(rename = "queue.resume")]
    QueueResume {
        /// Its name.
        name: QueueName,
    },
    /// Answered by a [`List`](super::List) of [`OutgoingDocument`](super::OutgoingDocument)s.
    #[serde(rename = "outgoing.list")]
    OutgoingList {
        /// Only those behind this key of an earlier answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Stop transmitting to destinations.
    #[serde(rename = "outgoing.pause")]
    OutgoingPause(Which),
    /// Go on transmitting to destinations.
    #[serde(rename = "outgoing.resume")]
    OutgoingResume(Which),
    /// Dial now.
    #[serde(rename = "outgoing.retry")]
    OutgoingRetry(Which),
    /// Remove what waits and was never transmitted.
    #[serde(rename = "outgoing.purge")]
    OutgoingPurge {
        /// A destination as printed, a peer's name, or `peer/queue`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<String>,
        /// All of them; exactly one of the two is given.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        all: bool,
        /// Keep no dead letters.
        #[serde(default)]
        discard: bool,
    },
    /// Answered by an [`IdentityDocument`](super::IdentityDocument).
    #[serde(rename = "identity.show")]
    IdentityShow {},
    /// Take a new identity while running; answered by an
    /// [`IdentityDocument`](super::IdentityDocument) when the change is durable.
    #[serde(rename = "identity.remint")]
    IdentityRemint {
        /// Why, for people.
        #[serde(default)]
        because: String,
    },
    /// Go back to the former identity while its key is there; answered as `identity.remint`.
    #[serde(rename = "identity.reclaim")]
    IdentityReclaim {},
    /// Answered by a [`List`](super::List) of [`StreamDocument`](super::StreamDocument)s.
    #[serde(rename = "stream.list")]
    StreamList {
        /// Only those behind this key of an earlier answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Begin outgoing transactional streams anew that stand, or a named one; answered by a
    /// [`RebasedDocument`](super::RebasedDocument).
    #[serde(rename = "stream.rebase")]
    StreamRebase {
        /// A destination as printed, a peer's name, or `peer/queue`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        which: Option<String>,
        /// All that stand; exactly one of the two is given.
        #[serde(default, skip_serializing_if = "core::ops::Not::not")]
        all: bool,
        /// Only say what it would concern.
        #[serde(default)]
        dry_run: bool,
    },
    /// Answered by a [`List`](super::List) of [`PeerDocument`](super::PeerDocument)s.
    #[serde(rename = "peers.list")]
    PeersList {
        /// Only those behind this key of an earlier answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Add a peer to the address book.
    #[serde(rename = "peers.add")]
    PeersAdd {
        /// The operator's name for it.
        name: String,
        /// `host:port`.
        #[serde(default)]
        address: Option<String>,
        /// Its identity.
        #[serde(default)]
        qm: Option<QmId>,
        /// Hold a connection open even when nothing waits.
        #[serde(default)]
        keep_connected: bool,
    },
    /// Let a pending peer send.
    #[serde(rename = "peers.approve")]
    PeersApprove {
        /// Its identity or name, or the unique beginning of either.
        who: String,
        /// The operator's name for it.
        #[serde(default)]
        name: Option<String>,
    },
    /// Let a peer not send.
    #[serde(rename = "peers.block")]
    PeersBlock {
        /// Its identity or name, or the unique beginning of either.
        who: String,
    },
    /// Remove a peer from the address book.
    #[serde(rename = "peers.forget")]
    PeersForget {
        /// Its identity or name, or the unique beginning of either.
        who: String,
    },
    /// Answered by a [`List`](super::List) of [`RouteDocument`](super::RouteDocument)s whose
    /// summary is a [`RouteStatsDocument`](super::RouteStatsDocument).
    #[serde(rename = "routes")]
    Routes {
        /// Only those behind this key of an earlier answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Answered by a [`DedupDocument`](super::DedupDocument).
    #[serde(rename = "dedup")]
    Dedup {},
    /// Answered by a [`List`](super::List) of
    /// [`DeadLetterDocument`](super::DeadLetterDocument)s, oldest first. What is given must all
    /// hold.
    #[serde(rename = "dead.list")]
    DeadList {
        /// Only those behind this key of an earlier answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// With this reason: its word or its four hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// For this destination, node or queue.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        destination: Option<String>,
        /// Dead for so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older_than_ms: Option<u64>,
        /// Whose message id begins so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// Send dead letters again as new messages. Answered by a [`List`](super::List) of
    /// [`LetterFateDocument`](super::LetterFateDocument)s.
    #[serde(rename = "dead.resend")]
    DeadResend {
        /// Positions of the letters.
        positions: Vec<u64>,
        /// Also those that may have been delivered.
        #[serde(default)]
        force: bool,
        /// Somewhere else than to their original destinations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// Remove dead letters for good. Answered as `dead.resend`.
    #[serde(rename = "dead.drop")]
    DeadDrop {
        /// Positions of the letters.
        positions: Vec<u64>,
    },
    /// Answered by a [`TraceDocument`](super::TraceDocument).
    #[serde(rename = "trace")]
    Trace {
        /// A message id.
        subject: String,
    },
    /// Answered by a [`WhyDocument`](super::WhyDocument).
    #[serde(rename = "why")]
    Why {
        /// A message id, a queue, a destination or a peer.
        subject: String,
    },
}

/// Which outgoing queues: exactly one of the two fields is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// A destination as printed, a peer's name, or `peer/queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub which: Option<String>,
    /// All of them.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub all: bool,
}

impl Which {
    /// The outgoing queues of this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            which: Some(name.into()),
            all: false,
        }
    }

    pub(super) fn selector(self) -> Result<Selector, AdminJsonError> {
        match self {
            Self {
                which: Some(name),
                all: false,
            } => Ok(Selector::Name(name)),
            Self {
                which: None,
                all: true,
            } => Ok(Selector::All),
            Self { .. } => Err(AdminJsonError {
                cause: "give either `which` or `\"all\":true`".to_owned(),
            }),
        }
    }
}

fn outcome_of(reason: &str) -> Result<Outcome, AdminJsonError> {
    Outcome::from_name(&reason.to_lowercase()).ok_or_else(|| AdminJsonError {
        cause: format!("`{reason}` is no reason; `qm-node errors` lists them"),
    })
}

fn position_of(after: &str) -> Result<u64, AdminJsonError> {
    after.parse().map_err(|_not| AdminJsonError {
        cause: format!("`{after}` is no place among dead letters"),
    })
}

/// A value that may be `null` but not be left out.
fn named<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(from)
}

impl Request {
    /// What the engine is asked.
    pub(super) fn ask(self) -> Result<Asked, AdminJsonError> {
        let mut shape = Shape::default();
        let request = match self {
            Self::Status {} => AdminRequest::Status,
            Self::QueueList { after } => {
                shape.after = after;
                AdminRequest::Queues
            }
            Self::QueueShow { name } => {
                shape.only = Some(name.as_str().to_owned());
                AdminRequest::Queues
            }
            Self::QueueCreate {
                name,
                transactional,
                quota_bytes,
                quota_messages,
                max_aborts,
            } => AdminRequest::QueueCreate(LocalSettings {
                aborts_max: max_aborts,
                transactional,
                quota_bytes: quota_bytes.unwrap_or(u64::MAX),
                quota_messages: quota_messages.unwrap_or(u64::MAX),
                ..LocalSettings::new(name)
            }),
            Self::QueueSet {
                name,
                transactional,
                quota_bytes,
                quota_messages,
                paused,
                max_aborts,
            } => AdminRequest::QueueSet(LocalSettings {
                aborts_max: max_aborts,
                transactional,
                quota_bytes: quota_bytes.unwrap_or(u64::MAX),
                quota_messages: quota_messages.unwrap_or(u64::MAX),
                paused,
                ..LocalSettings::new(name)
            }),
            Self::QueueDelete {
                name,
                force,
                discard,
            } => AdminRequest::QueueDelete {
                name,
                force,
                discard,
            },
            Self::QueuePurge { name, discard } => AdminRequest::QueuePurge { name, discard },
            Self::NodeFreeze { for_ms } => AdminRequest::Freeze { for_ms },
            Self::NodeThaw {} => AdminRequest::Thaw,
            Self::QuarantineRelease { name } => AdminRequest::QuarantineRelease { name },
            Self::QueuePause { name } => AdminRequest::QueuePause { name, paused: true },
            Self::QueueResume { name } => AdminRequest::QueuePause {
                name,
                paused: false,
            },
            Self::OutgoingList { after } => {
                shape.after = after;
                AdminRequest::Outgoing
            }
            Self::OutgoingPause(which) => AdminRequest::OutgoingPause {
                which: which.selector()?,
                paused: true,
            },
            Self::OutgoingResume(which) => AdminRequest::OutgoingPause {
                which: which.selector()?,
                paused: false,
            },
            Self::OutgoingRetry(which) => AdminRequest::OutgoingRetry {
                which: which.selector()?,
            },
            Self::OutgoingPurge {
                which,
                all,
                discard,
            } => AdminRequest::OutgoingPurge {
                which: Which { which, all }.selector()?,
                discard,
            },
            Self::IdentityShow {} => AdminRequest::Identity,
            Self::IdentityRemint { because } => AdminRequest::Remint { because },
            Self::IdentityReclaim {} => AdminRequest::Reclaim,
            Self::StreamList { after } => {
                shape.after = after;
                AdminRequest::Streams
            }
            Self::StreamRebase {
                which,
                all,
                dry_run,
            } => AdminRequest::StreamRebase {
                which: Which { which, all }.selector()?,
                dry_run,
            },
            Self::PeersList { after } => {
                shape.after = after;
                AdminRequest::Peers
            }
            Self::PeersAdd {
                name,
                address,
                qm,
                keep_connected,
            } => AdminRequest::PeerAdd {
                name,
                address,
                qm,
                keep_connected,
            },
            Self::PeersApprove { who, name } => AdminRequest::PeerApprove { who, name },
            Self::PeersBlock { who } => AdminRequest::PeerBlock { who },
            Self::PeersForget { who } => AdminRequest::PeerForget { who },
            Self::Routes { after } => {
                shape.after = after;
                AdminRequest::Routes
            }
            Self::Dedup {} => AdminRequest::Dedup,
            Self::DeadList {
                after,
                reason,
                destination,
                older_than_ms,
                id,
            } => AdminRequest::DeadList {
                filter: DeadFilter {
                    outcome: reason.map(|reason| outcome_of(&reason)).transpose()?,
                    destination,
                    older_than_ms,
                    id,
                },
                after: after.map(|after| position_of(&after)).transpose()?,
            },
            Self::DeadResend {
                positions,
                force,
                to,
            } => AdminRequest::DeadResend {
                positions,
                force,
                to,
            },
            Self::DeadDrop { positions } => AdminRequest::DeadDrop { positions },
            Self::Trace { subject } => AdminRequest::Trace { subject },
            Self::Why { subject } => AdminRequest::Why { subject },
        };
        Ok(Asked { request, shape })
    }
}

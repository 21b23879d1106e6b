//! The documents, field by field. What stands here is a contract: fields are added, never changed.

use std::borrow::Cow;

use qm_engine::admin::{
    Counters, OutgoingView, PeerView, PurgeTally, QueueView, StatusView, WhyView,
};
use qm_wire::{Incarnation, Outcome, QmId, QueueName};
use serde::{Deserialize, Serialize};

use super::caches::RouteStatsDocument;
use super::identity::FormerDocument;
use super::letters::ConnectionDocument;
use super::time::rfc3339;
use super::twins::{BranchDocument, PartedDocument, TwinDocument, WentBackDocument};
use crate::health::StoreHealthDocument;
use crate::info::NodeInfo;

/// The name of a document's shape and its version.
pub(super) type Schema = Cow<'static, str>;

/// An item of a listing.
pub trait Document: Serialize {
    /// What the item is, for sentences.
    const NOUN: &'static str;
    /// What to do when there is none of a name.
    const NOT_FOUND_FIX: &'static str;

    /// Unique among the items of a listing, in lower case; listings are sorted by it.
    fn key(&self) -> String;
}

/// A page of a listing, `qm.list/1`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct List<T> {
    /// `qm.list/1`.
    pub schema: Schema,
    /// Counters of what is listed.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub summary: Option<RouteStatsDocument>,
    /// The items, sorted by key.
    pub items: Vec<T>,
    /// To be given back in the next request when the listing goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

const fn none<T>() -> Option<T> {
    None
}

impl<T> List<T> {
    pub(super) const fn new(summary: Option<RouteStatsDocument>) -> Self {
        Self {
            schema: Cow::Borrowed("qm.list/1"),
            summary,
            items: Vec::new(),
            after: None,
        }
    }
}

/// Something was done, `qm.done/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DoneDocument {
    /// `qm.done/1`.
    pub schema: Schema,
    /// How many things it concerned.
    pub count: u64,
    /// Messages of these that were kept as dead letters; for purges and deletions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
    /// Messages of these that were kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded: Option<u64>,
    /// Messages of these that may have been delivered or received all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertain: Option<u64>,
    /// Messages left: in the hands of applications, or transmitted and not settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
}

impl DoneDocument {
    /// So many things were done.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self {
            schema: Cow::Borrowed("qm.done/1"),
            count,
            dead_letters: None,
            discarded: None,
            uncertain: None,
            left: None,
        }
    }

    /// Adds what another request did.
    pub const fn add(&mut self, other: &Self) {
        const fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (some, None) | (None, some) => some,
            }
        }
        self.count = self.count.saturating_add(other.count);
        self.dead_letters = sum(self.dead_letters, other.dead_letters);
        self.discarded = sum(self.discarded, other.discarded);
        self.uncertain = sum(self.uncertain, other.uncertain);
        self.left = sum(self.left, other.left);
    }

    /// Messages were removed.
    #[must_use]
    pub fn purged(tally: &PurgeTally) -> Self {
        Self {
            dead_letters: Some(tally.dead_letters),
            discarded: Some(tally.discarded),
            uncertain: Some(tally.uncertain),
            left: Some(tally.left),
            ..Self::new(tally.messages)
        }
    }
}

/// Something cannot be done, `qm.error/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ErrorDocument {
    /// `qm.error/1`.
    pub schema: Schema,
    /// A stable word; that of the outcome when there is one.
    pub code: String,
    /// Four hexadecimal digits of the outcome, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What is wrong, where.
    pub cause: String,
    /// What to do.
    pub fix: String,
    /// Number of the line of the input that it is about, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What else is wrong, when several things are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Self>,
}

impl ErrorDocument {
    /// An error of the node itself or of the command line.
    #[must_use]
    pub fn new(code: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            schema: Cow::Borrowed("qm.error/1"),
            code: code.into(),
            outcome: None,
            cause: cause.into(),
            fix: fix.into(),
            line: None,
            more: Vec::new(),
        }
    }

    /// The same about a line of the input.
    #[must_use]
    pub fn of_line(self, number: u64) -> Self {
        Self {
            line: Some(number),
            ..self
        }
    }

    /// The same with what else is wrong.
    #[must_use]
    pub fn and(self, more: Vec<Self>) -> Self {
        Self { more, ..self }
    }

    /// A typed outcome.
    #[must_use]
    pub fn of_outcome(outcome: Outcome, cause: &str, fix: &str) -> Self {
        let number = format!("{:04X}", outcome.0);
        Self {
            outcome: Some(number.clone()),
            ..Self::new(outcome.name().map_or(number, str::to_owned), cause, fix)
        }
    }
}

/// What the process knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeDocument {
    /// `qm.node/1`.
    pub schema: Schema,
    /// Display name.
    pub name: String,
    /// Identity.
    pub qm: QmId,
    /// The full digest of its key in base32, by which peers pin it.
    pub fingerprint: String,
    /// The UDP socket.
    pub listen: String,
    /// `host:port` that peers can try.
    pub addresses: Vec<String>,
    /// The socket of applications.
    pub socket: String,
    /// The data directory.
    pub data: String,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
}

impl NodeDocument {
    /// The facts of a running node.
    #[must_use]
    pub fn new(node: &NodeInfo) -> Self {
        Self {
            schema: Cow::Borrowed("qm.node/1"),
            name: node.name.clone(),
            qm: node.qm,
            fingerprint: node.fingerprint.clone(),
            listen: node.listen.to_string(),
            addresses: node.addresses.clone(),
            socket: node.socket.display().to_string(),
            data: node.data.display().to_string(),
            version: node.version.to_owned(),
            pid: node.pid,
        }
    }
}

/// What `status` shows, `qm.status/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatusDocument {
    /// `qm.status/1`.
    pub schema: Schema,
    /// Display name.
    pub name: String,
    /// Identity.
    pub qm: QmId,
    /// This life.
    pub incarnation: Incarnation,
    /// Milliseconds since this life began.
    pub uptime_ms: u64,
    /// Messages in local queues.
    pub local_messages: u64,
    /// Bytes in local queues.
    pub local_bytes: u64,
    /// Messages waiting for other nodes, in flight included.
    pub outgoing_messages: u64,
    /// Bytes waiting for other nodes.
    pub outgoing_bytes: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Peers that await approval.
    pub pending_peers: u64,
    /// Messages set aside because another machine has them as well.
    #[serde(default)]
    pub quarantined: u64,
    /// Applications connected.
    pub clients: u64,
    /// Whether the node is stopping.
    #[serde(default)]
    pub stopping: bool,
    /// Whether messages are refused because there is no room.
    pub store_full: bool,
    /// What is full: `disk`, or the name of the limit; `null` when nothing is.
    #[serde(default)]
    pub store_full_by: Option<Cow<'static, str>>,
    /// Bytes of messages on disk.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Above, nothing is accepted.
    #[serde(default)]
    pub stored_bytes_max: u64,
    /// Bytes of waiting express messages, in memory.
    #[serde(default)]
    pub express_bytes: u64,
    /// Above, no express message is accepted.
    #[serde(default)]
    pub express_bytes_max: u64,
    /// For how long the disk has not confirmed the oldest write; `null` when none is open.
    #[serde(default)]
    pub unconfirmed_ms: Option<u64>,
    /// Records that are on disk and that no read brings.
    #[serde(default)]
    pub missing_records: u64,
    /// What is known of damage on disk; missing as long as nothing was verified in the background
    /// and no damage was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_health: Option<StoreHealthDocument>,
    /// Why the node has no network at present, which is tried again; missing when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_failed: Option<String>,
    /// Bytes of messages held in memory.
    pub resident_bytes: u64,
    /// Identities that several live machines use, this node's own among them; missing when there
    /// are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<TwinDocument>,
    /// Machines that had an identity beside another one and have had one of their own for less than
    /// a week; missing when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parted: Vec<PartedDocument>,
    /// Histories that were seen to branch, this node's own among them; missing when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branched: Vec<BranchDocument>,
    /// Peers that know more of this node than it does: its store went back; missing when there are
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_store_went_back: Vec<WentBackDocument>,
    /// Who this node was before, as long as that drains or may be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<FormerDocument>,
    /// Sums since this life began.
    pub counters: CountersDocument,
    /// The process.
    pub node: NodeDocument,
}

impl StatusDocument {
    pub(super) fn new(view: &StatusView, node: &NodeInfo) -> Self {
        Self {
            schema: Cow::Borrowed("qm.status/1"),
            name: view.name.clone(),
            qm: view.qm,
            incarnation: view.incarnation,
            uptime_ms: view.uptime_ms,
            local_messages: view.local_messages,
            local_bytes: view.local_bytes,
            outgoing_messages: view.outgoing_messages,
            outgoing_bytes: view.outgoing_bytes,
            dead_letters: view.dead_letters,
            sessions: view.sessions,
            pending_peers: view.pending_peers,
            quarantined: view.quarantined,
            clients: view.clients,
            stopping: view.stopping,
            store_full: view.full_by.is_some(),
            store_full_by: view.full_by.map(|by| Cow::Borrowed(by.name())),
            stored_bytes: view.stored_bytes,
            stored_bytes_max: view.stored_bytes_max,
            express_bytes: view.express_bytes,
            express_bytes_max: view.express_bytes_max,
            unconfirmed_ms: view.unconfirmed_ms,
            missing_records: view.missing_records,
            store_health: node.health.document(),
            network_failed: node.network_failed.clone(),
            resident_bytes: view.resident_bytes,
            twins: view.twins.iter().map(TwinDocument::new).collect(),
            parted: view.parted.iter().map(PartedDocument::new).collect(),
            branched: view.branched.iter().map(BranchDocument::new).collect(),
            own_store_went_back: view.went_back.iter().map(WentBackDocument::new).collect(),
            former: view.former.as_ref().map(FormerDocument::new),
            counters: CountersDocument::new(&view.counters),
            node: NodeDocument::new(node),
        }
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $field:ident,)*) => {
        /// Sums since the start of the process.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct CountersDocument {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl CountersDocument {
            pub(super) const fn new(counters: &Counters) -> Self {
                Self { $($field: counters.$field,)* }
            }

            /// Every sum with its name.
            #[must_use]
            pub const fn named(&self) -> [(&'static str, u64); [$(stringify!($field)),*].len()] {
                [$((stringify!($field), self.$field)),*]
            }
        }
    };
}

counters! {
    /// Messages accepted from applications.
    accepted,
    /// Messages refused to applications.
    refused,
    /// Transmissions of messages, repeated ones included.
    transmitted,
    /// Transmissions that repeat an earlier one.
    retransmitted,
    /// Outgoing messages settled by the destination's word.
    acknowledged,
    /// Messages that arrived from peers and were stored to their class.
    delivered,
    /// Messages consumed by applications.
    received,
    /// Deliveries given back.
    given_back,
    /// Duplicates removed.
    duplicates,
    /// Repeated requests of applications answered with the first answer.
    repeated_requests,
    /// Transactions of applications that were committed.
    transactions_committed,
    /// Transactions that were open for longer than they may.
    transactions_timed_out,
    /// Dead letters kept.
    dead_letters,
    /// Messages dropped because their sender wished no dead letter.
    discarded,
    /// Transmissions refused to peers.
    rejected,
    /// Acks that named messages not held here.
    acks_not_held,
    /// Acks that did not match what they named.
    acks_unverified,
    /// Acks sent off their session.
    acks_routed,
    /// Messages asked for by query.
    queried,
    /// Peers that broke the protocol.
    misbehaved,
    /// Messages that operators removed, dead letters kept or not.
    purged,
    /// Dead letters sent again.
    resent,
    /// Dead letters dropped by operators.
    letters_dropped,
    /// Messages moved to a poison subqueue.
    poisoned,
    /// Records of messages that could not be read back.
    unreadable,
    /// Dead letters of messages that may have been transmitted, whose destinations are asked.
    letters_unconfirmed,
    /// Of these, those that the destination confirmed.
    letters_confirmed,
    /// Those whose messages were delivered all the same.
    letters_withdrawn,
    /// Those of which the destination can no longer know.
    letters_uncertain,
    /// Deaths that stay uncertain because the destination is in another life than was known.
    uncertain_by_restart,
    /// The same because the destination may have forgotten the arrival.
    uncertain_by_forgetting,
    /// The same because the destination refuses this sender.
    uncertain_by_refusal,
    /// The same because too many messages were asked for.
    uncertain_by_limit,
    /// Messages of others that this node promised never to take.
    voids,
    /// Messages of others that ended here and of which their senders wait to hear how.
    finals,
    /// Of these, those whose senders confirmed that they know.
    finals_confirmed,
    /// Those that were forgotten unconfirmed.
    finals_forgotten,
    /// Times that two live machines with the identity of a peer were proven, or one more of them.
    twins_seen,
    /// The same of this node's own identity.
    own_twins,
    /// Pairs of sessions of a peer that were not asked whether they are two live machines.
    twins_unasked,
    /// Messages of this node of which it became known how they ended at their destinations.
    finals_heard,
    /// The same of which nobody can tell any more.
    finals_unknown,
    /// Copies of messages that have left, put into the journal queue.
    journalled,
    /// Messages to applications of this node about what became of theirs.
    reports,
    /// Such messages that were lost, because their queue is gone or too many waited for the disk.
    reports_lost,
}

/// A local queue, `qm.queue/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueDocument {
    /// `qm.queue/1`.
    pub schema: Schema,
    /// Its name.
    pub name: QueueName,
    /// Waiting messages, leased ones not counted.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages in the hands of applications.
    pub leased: u64,
    /// Applications that wait for a message.
    pub waiting_receivers: u64,
    /// Messages that arrived since the start of the process.
    pub arrived: u64,
    /// Messages consumed since the start of the process.
    pub received: u64,
    /// Whether only transactional messages may enter.
    pub transactional: bool,
    /// Whether receivers are held back.
    pub paused: bool,
    /// Whether it is at its quota.
    pub full: bool,
    /// Bytes of waiting messages that are admitted; `null` for no limit.
    pub quota_bytes: Option<u64>,
    /// Waiting messages that are admitted; `null` for no limit.
    pub quota_messages: Option<u64>,
    /// Given back this often, a message goes to the subqueue `poison`; 0 for never.
    #[serde(default)]
    pub max_aborts: u32,
    /// Age of the oldest message that waits in memory; `null` when none does.
    #[serde(default)]
    pub oldest_age_ms: Option<u64>,
}

impl QueueDocument {
    pub(super) fn new(view: &QueueView) -> Self {
        let settings = &view.settings;
        Self {
            schema: Cow::Borrowed("qm.queue/1"),
            name: settings.name.clone(),
            messages: view.messages,
            bytes: view.bytes,
            leased: view.leased,
            waiting_receivers: view.waiting_receivers,
            arrived: view.arrived,
            received: view.received,
            transactional: settings.transactional,
            paused: settings.paused,
            full: view.full,
            quota_bytes: limited(settings.quota_bytes),
            quota_messages: limited(settings.quota_messages),
            max_aborts: settings.aborts_max,
            oldest_age_ms: view.oldest_ms,
        }
    }
}

impl Document for QueueDocument {
    const NOUN: &'static str = "queue";
    const NOT_FOUND_FIX: &'static str =
        "`qm-node queue list` shows the queues, `qm-node queue create NAME` makes one";

    fn key(&self) -> String {
        self.name.as_str().to_lowercase()
    }
}

/// A destination queue, `qm.outgoing/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutgoingDocument {
    /// `qm.outgoing/1`.
    pub schema: Schema,
    /// The destination as `send` takes it.
    pub destination: String,
    /// The destination node as addressed, `qm:<QMId>` or `qm://host:port`.
    pub remote: String,
    /// The queue there.
    pub queue: QueueName,
    /// The node's identity, once known.
    pub peer: Option<QmId>,
    /// The operator's name for the node.
    pub peer_name: Option<String>,
    /// One word.
    pub state: String,
    /// Messages that wait.
    pub waiting: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// Transmitted, not acknowledged.
    pub unacknowledged: u64,
    /// Transmitted earlier, fate being asked.
    pub in_doubt: u64,
    /// Milliseconds until the next dial.
    pub retry_in_ms: Option<u64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Messages acknowledged since the start of the process.
    pub acknowledged: u64,
    /// Age of the oldest message that waits in memory; `null` when none does.
    #[serde(default)]
    pub oldest_age_ms: Option<u64>,
    /// What happened to its connections, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<ConnectionDocument>,
}

impl OutgoingDocument {
    pub(super) fn new(view: &OutgoingView) -> Self {
        Self {
            schema: Cow::Borrowed("qm.outgoing/1"),
            destination: view.remote.destination(&view.queue),
            remote: view.remote.to_string(),
            queue: view.queue.clone(),
            peer: view.peer,
            peer_name: view.peer_name.clone(),
            state: view.state.name().to_owned(),
            waiting: view.waiting,
            waiting_bytes: view.waiting_bytes,
            unacknowledged: view.unacknowledged,
            in_doubt: view.in_doubt,
            retry_in_ms: view.retry_in_ms,
            last_error: view.last_error.clone(),
            acknowledged: view.acknowledged,
            oldest_age_ms: view.oldest_ms,
            connections: view
                .connections
                .iter()
                .map(ConnectionDocument::new)
                .collect(),
        }
    }
}

impl Document for OutgoingDocument {
    const NOUN: &'static str = "outgoing queue";
    const NOT_FOUND_FIX: &'static str = "`qm-node outgoing list` shows the destinations";

    fn key(&self) -> String {
        self.destination.to_lowercase()
    }
}

/// A peer, `qm.peer/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerDocument {
    /// `qm.peer/1`.
    pub schema: Schema,
    /// The operator's name.
    pub name: Option<String>,
    /// What the peer calls itself.
    pub announced_name: String,
    /// The host it runs on, as it says.
    pub host: String,
    /// Identity, once known.
    pub qm: Option<QmId>,
    /// Addresses known.
    pub addresses: Vec<String>,
    /// `approved`, `pending`, `blocked` or `known`.
    pub approval: String,
    /// Whether a connection is held open.
    pub keep_connected: bool,
    /// Whether a session is open.
    pub connected: bool,
    /// Its life as of the last session.
    pub incarnation: Option<Incarnation>,
    /// Beginning of the last session; `null` for never.
    pub last_seen: Option<String>,
    /// What happened to connections with it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<ConnectionDocument>,
    /// The live machines that use its identity; missing unless they are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twins: Option<TwinDocument>,
    /// The identity that it follows, proven with both keys; missing unless it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeds: Option<QmId>,
    /// The identity that follows it, proven with both keys; missing unless one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded_by: Option<QmId>,
}

impl PeerDocument {
    pub(super) fn new(view: &PeerView) -> Self {
        Self {
            schema: Cow::Borrowed("qm.peer/1"),
            name: view.name.clone(),
            announced_name: view.announced_name.clone(),
            host: view.host.clone(),
            qm: view.qm,
            addresses: view.addresses.clone(),
            approval: view.approval.to_owned(),
            keep_connected: view.keep_connected,
            connected: view.connected,
            incarnation: view.incarnation,
            last_seen: (view.last_seen_us > 0).then(|| rfc3339(view.last_seen_us)),
            connections: view
                .connections
                .iter()
                .map(ConnectionDocument::new)
                .collect(),
            twins: view.twins.as_ref().map(TwinDocument::new),
            succeeds: view.succeeds,
            succeeded_by: view.succeeded_by,
        }
    }
}

impl Document for PeerDocument {
    const NOUN: &'static str = "peer";
    const NOT_FOUND_FIX: &'static str = "`qm-node peers list` shows the peers";

    fn key(&self) -> String {
        let name = self.name.as_deref().unwrap_or(&self.announced_name);
        let qm = self.qm.map(|qm| qm.to_string()).unwrap_or_default();
        let key = format!("{name}\t{qm}\t{}", self.addresses.join(" "));
        key.to_lowercase()
    }
}

/// What `why` shows, `qm.why/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WhyDocument {
    /// `qm.why/1`.
    pub schema: Schema,
    /// What was asked about, as understood.
    pub subject: String,
    /// A stable word.
    pub code: String,
    /// One line.
    pub cause: String,
    /// What to do, when something can be done.
    pub fix: Option<String>,
    /// Lines of evidence.
    pub evidence: Vec<String>,
}

impl WhyDocument {
    pub(super) fn new(view: &WhyView) -> Self {
        Self {
            schema: Cow::Borrowed("qm.why/1"),
            subject: view.subject.clone(),
            code: view.code.name().to_owned(),
            cause: view.cause.clone(),
            fix: view.fix.clone(),
            evidence: view.evidence.clone(),
        }
    }
}

/// `u64::MAX` stands for no limit.
const fn limited(quota: u64) -> Option<u64> {
    if quota == u64::MAX { None } else { Some(quota) }
}

//! Administrative requests and their answers, as plain values; the node turns them into JSON.

use qm_cache::{DedupStats, RouteStats};
use qm_wire::{Class, Incarnation, MessageId, Outcome, QmId, QueueName};

pub use crate::cause::Cause;
use crate::identity::{BranchView, PartedView, TwinView, WentBackView};
pub use crate::io::FullBy;
use crate::record::{LocalSettings, RemoteKey};
pub use crate::reidentify::view::{FormerDestination, FormerView, IdentityView};
pub use crate::stream::operator::StreamView;

/// What an operator asks of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminRequest {
    /// Identity, counters, sums.
    Status,
    /// All local queues.
    Queues,
    /// Make a local queue.
    QueueCreate(LocalSettings),
    /// Change a local queue.
    QueueSet(LocalSettings),
    /// Delete a local queue; with messages in it only when forced.
    QueueDelete {
        /// Its name.
        name: QueueName,
        /// Also when it is not empty.
        force: bool,
        /// Keep no dead letters of its messages, whatever their senders wished.
        discard: bool,
    },
    /// Remove all waiting messages of a local queue.
    QueuePurge {
        /// Its name.
        name: QueueName,
        /// Keep no dead letters of them, whatever their senders wished.
        discard: bool,
    },
    /// Move everything in a quarantine behind what waits in its queue.
    QuarantineRelease {
        /// Its name, `QUEUE:quarantine`.
        name: QueueName,
    },
    /// Hold receivers of a local queue back, or let them go on.
    QueuePause {
        /// Its name.
        name: QueueName,
        /// Which of the two.
        paused: bool,
    },
    /// All outgoing queues.
    Outgoing,
    /// Stop or go on transmitting to destinations that match.
    OutgoingPause {
        /// Which.
        which: Selector,
        /// Which of the two.
        paused: bool,
    },
    /// Dial now.
    OutgoingRetry {
        /// Which.
        which: Selector,
    },
    /// Remove what waits and was never transmitted.
    OutgoingPurge {
        /// Which.
        which: Selector,
        /// Keep no dead letters, whatever the senders wished.
        discard: bool,
    },
    /// The address book.
    Peers,
    /// Add a peer by address; it is approved when it answers.
    PeerAdd {
        /// The operator's name for it.
        name: String,
        /// `host:port`.
        address: Option<String>,
        /// Its identity, when known.
        qm: Option<QmId>,
        /// Hold a connection open even when nothing waits.
        keep_connected: bool,
    },
    /// Let a pending peer send.
    PeerApprove {
        /// Its identity, or the unique beginning of it or of its name.
        who: String,
        /// The operator's name for it.
        name: Option<String>,
    },
    /// Let a peer not send, close its sessions.
    PeerBlock {
        /// As for approve.
        who: String,
    },
    /// Remove a peer from the address book.
    PeerForget {
        /// As for approve.
        who: String,
    },
    /// The ack-route cache.
    Routes,
    /// The duplicate cache.
    Dedup,
    /// Dead letters, oldest first, a page at a time.
    DeadList {
        /// Which.
        filter: DeadFilter,
        /// Only those behind this position.
        after: Option<u64>,
    },
    /// Send dead letters again as new messages.
    DeadResend {
        /// Positions of the letters.
        positions: Vec<u64>,
        /// Also those that may have been delivered.
        force: bool,
        /// Somewhere else than to their original destinations.
        to: Option<String>,
    },
    /// Remove dead letters for good.
    DeadDrop {
        /// Positions of the letters.
        positions: Vec<u64>,
    },
    /// Hold the node still for a snapshot, with no connection and nothing to be written.
    Freeze {
        /// At most so long, milliseconds.
        for_ms: u64,
    },
    /// Let it go on.
    Thaw,
    /// Who this node is, and was.
    Identity,
    /// Take a new identity, online.
    Remint {
        /// Why, for people.
        because: String,
    },
    /// Go back to the former identity, online, as long as its key is there.
    Reclaim,
    /// All transactional streams, leaving and arriving.
    Streams,
    /// Begin outgoing streams anew that stand; a named one whatever it does.
    StreamRebase {
        /// Which.
        which: Selector,
        /// Only say what it would concern.
        dry_run: bool,
    },
    /// What happened to this message, as far as this node knows?
    Trace {
        /// A message id.
        subject: String,
    },
    /// Why is this message, queue or destination not moving?
    Why {
        /// A message id, a queue, a destination or a peer.
        subject: String,
    },
}

/// Which outgoing queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All.
    All,
    /// A destination as printed, a peer's name, or `peer/queue`.
    Name(String),
}

impl AdminRequest {
    /// Whether it changes what is stored, so that its answer waits for the disk. Those that take
    /// several steps are answered by the last one.
    pub(crate) const fn changes_what_is_stored(&self) -> bool {
        matches!(
            self,
            Self::QueueCreate(_)
                | Self::QueueSet(_)
                | Self::QueuePause { .. }
                | Self::OutgoingPause { .. }
                | Self::PeerAdd { .. }
                | Self::PeerApprove { .. }
                | Self::PeerBlock { .. }
                | Self::PeerForget { .. }
                | Self::StreamRebase { dry_run: false, .. }
        )
    }
}

/// Answer to an [`AdminRequest`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AdminReply {
    /// Done; how many things it concerned.
    Done {
        /// Queues, peers or messages, as the request says.
        count: u64,
    },
    /// See [`StatusView`].
    Status(Box<StatusView>),
    /// See [`QueueView`].
    Queues(Vec<QueueView>),
    /// See [`OutgoingView`].
    Outgoing(Vec<OutgoingView>),
    /// See [`PeerView`].
    Peers(Vec<PeerView>),
    /// See [`RouteView`].
    Routes {
        /// Counters.
        stats: RouteStats,
        /// Sessions that answer acks now.
        rows: Vec<RouteView>,
    },
    /// Counters of the duplicate cache.
    Dedup(Box<DedupStats>),
    /// See [`WhyView`].
    Why(WhyView),
    /// See [`TraceView`].
    Trace(Box<TraceView>),
    /// See [`IdentityView`].
    Identity(Box<IdentityView>),
    /// See [`StreamView`].
    Streams(Vec<StreamView>),
    /// Streams were begun anew.
    Rebased {
        /// How many.
        streams: u64,
        /// Messages in them that are not settled.
        messages: u64,
        /// Dead letters that nobody will confirm any more.
        uncertain: u64,
    },
    /// Messages were removed.
    Purged(PurgeTally),
    /// A page of dead letters.
    DeadLetters {
        /// The letters.
        letters: Vec<DeadLetterView>,
        /// To be given back in the next request when there are more.
        after: Option<u64>,
    },
    /// What became of each letter named.
    LetterFates(Vec<LetterFate>),
    /// It cannot be done.
    Failed {
        /// Typed reason.
        outcome: Outcome,
        /// What is wrong, where.
        cause: String,
        /// What to do.
        fix: String,
    },
}

/// Sums since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages accepted from applications.
    pub accepted: u64,
    /// Messages refused to applications.
    pub refused: u64,
    /// Transmissions of messages, repeated ones included.
    pub transmitted: u64,
    /// Transmissions that repeat an earlier one.
    pub retransmitted: u64,
    /// Outgoing messages settled by the destination's word.
    pub acknowledged: u64,
    /// Transmissions of messages that came from peers, whatever became of them.
    pub arrived: u64,
    /// Messages that arrived from peers and were stored to their class.
    pub delivered: u64,
    /// Messages consumed by applications.
    pub received: u64,
    /// Deliveries given back.
    pub given_back: u64,
    /// Duplicates removed.
    pub duplicates: u64,
    /// Repeated requests of applications answered with the first answer.
    pub repeated_requests: u64,
    /// Transactions of applications that were committed.
    pub transactions_committed: u64,
    /// Transactions that were open for longer than they may.
    pub transactions_timed_out: u64,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Messages dropped because their sender wished no dead letter.
    pub discarded: u64,
    /// Transmissions refused to peers.
    pub rejected: u64,
    /// Acks that named messages not held here.
    pub acks_not_held: u64,
    /// Acks that did not match what they named.
    pub acks_unverified: u64,
    /// Acks sent off their session.
    pub acks_routed: u64,
    /// Messages asked for by query.
    pub queried: u64,
    /// Peers that broke the protocol.
    pub misbehaved: u64,
    /// Messages that operators removed, dead letters kept or not.
    pub purged: u64,
    /// Dead letters sent again.
    pub resent: u64,
    /// Dead letters dropped by operators.
    pub letters_dropped: u64,
    /// Messages moved to a poison subqueue.
    pub poisoned: u64,
    /// Records of messages that could not be read back.
    pub unreadable: u64,
    /// Transactional messages that came again and were recognised by their links.
    pub stream_duplicates: u64,
    /// Times that two messages followed one link: a sender was cloned or went back.
    pub streams_branched: u64,
    /// Skips sent for transactional messages that left otherwise than by delivery.
    pub skips_sent: u64,
    /// Times that a sender was told which links are known here.
    pub needs_sent: u64,
    /// Times that a stream stood for its operator.
    pub streams_held: u64,
    /// Streams begun anew.
    pub streams_rerooted: u64,
    /// Dead letters of messages that may have been transmitted, whose destinations are asked.
    pub letters_unconfirmed: u64,
    /// Of these, those that the destination confirmed.
    pub letters_confirmed: u64,
    /// Those whose messages were delivered all the same: they are no dead letters any more.
    pub letters_withdrawn: u64,
    /// Those of which the destination can no longer know.
    pub letters_uncertain: u64,
    /// Deaths that stay uncertain because the destination began another life since the message was
    /// minted.
    pub uncertain_by_restart: u64,
    /// The same because the destination may have forgotten the arrival.
    pub uncertain_by_forgetting: u64,
    /// The same because the destination refuses this sender, which it may have let in before.
    pub uncertain_by_refusal: u64,
    /// The same because too many messages were asked for.
    pub uncertain_by_limit: u64,
    /// Messages of others that this node promised never to take.
    pub voids: u64,
    /// Messages of others that ended here and of which their senders wait to hear how.
    pub finals: u64,
    /// Of these, those whose senders confirmed that they know.
    pub finals_confirmed: u64,
    /// Those that were forgotten unconfirmed, for want of room or after 30 days.
    pub finals_forgotten: u64,
    /// Times that two live machines with the identity of a peer were proven, or one more of them.
    pub twins_seen: u64,
    /// The same of this node's own identity.
    pub own_twins: u64,
    /// Pairs of sessions of one peer that were not asked whether they are two live machines,
    /// because too many were being asked.
    pub twins_unasked: u64,
    /// Messages of this node of which it became known how they ended at their destinations.
    pub finals_heard: u64,
    /// The same of which nobody can tell any more.
    pub finals_unknown: u64,
    /// Copies of messages that have left, put into the journal queue.
    pub journalled: u64,
    /// Messages to applications of this node about what became of theirs.
    pub reports: u64,
    /// Such messages that were lost, because their queue is gone or too many waited for the disk.
    pub reports_lost: u64,
}

/// What `status` shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StatusView {
    /// Identity.
    pub qm: QmId,
    /// This life.
    pub incarnation: Incarnation,
    /// Display name.
    pub name: String,
    /// Milliseconds since this life began.
    pub uptime_ms: u64,
    /// Sums.
    pub counters: Counters,
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
    pub quarantined: u64,
    /// Applications connected.
    pub clients: u64,
    /// Whether the node is stopping.
    pub stopping: bool,
    /// Bytes of messages on disk.
    pub stored_bytes: u64,
    /// Above, nothing is accepted.
    pub stored_bytes_max: u64,
    /// Bytes of waiting express messages.
    pub express_bytes: u64,
    /// Above, no express message is accepted.
    pub express_bytes_max: u64,
    /// For how long the disk has not confirmed the oldest write, milliseconds.
    pub unconfirmed_ms: Option<u64>,
    /// Records that are on disk and that no read brings.
    pub missing_records: u64,
    /// What is full, so that messages are refused.
    pub full_by: Option<FullBy>,
    /// Bytes of messages held in memory.
    pub resident_bytes: u64,
    /// Identities that several live machines use, this node's own among them.
    pub twins: Vec<TwinView>,
    /// Machines that had an identity beside another one until lately.
    pub parted: Vec<PartedView>,
    /// Histories that were seen to branch, this node's own among them.
    pub branched: Vec<BranchView>,
    /// Peers that hold tokens which this node made and does not remember: its store went back.
    pub went_back: Vec<WentBackView>,
    /// Who this node was before, as long as that drains or may be taken back.
    pub former: Option<FormerView>,
}

/// What `queue list` shows of a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueView {
    /// Its settings.
    pub settings: LocalSettings,
    /// Waiting messages, leased ones not counted.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages in the hands of applications.
    pub leased: u64,
    /// Applications that wait for a message.
    pub waiting_receivers: u64,
    /// Age of the oldest message that waits in memory, milliseconds.
    pub oldest_ms: Option<u64>,
    /// Whether it is at its quota.
    pub full: bool,
    /// Messages that arrived since the start of the process.
    pub arrived: u64,
    /// Messages consumed since the start of the process.
    pub received: u64,
}

/// What `outgoing list` shows of a destination queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OutgoingView {
    /// The destination node as addressed.
    pub remote: RemoteKey,
    /// The queue there.
    pub queue: QueueName,
    /// The node's identity, once known.
    pub peer: Option<QmId>,
    /// The operator's name for the node.
    pub peer_name: Option<String>,
    /// One word.
    pub state: OutgoingState,
    /// Messages that wait.
    pub waiting: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// Age of the oldest message that waits in memory, milliseconds.
    pub oldest_ms: Option<u64>,
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
    /// What happened to its connections, oldest first.
    pub connections: Vec<ConnectionEvent>,
}

/// State of an outgoing queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutgoingState {
    /// Nothing waits and there is no session.
    Idle,
    /// A session is open.
    Connected,
    /// A dial or handshake is under way.
    Connecting,
    /// Waiting to dial again.
    Waiting,
    /// The peer has not approved this node.
    PendingApproval,
    /// The destination queue is full.
    QueueFull,
    /// Paused by the operator.
    Paused,
    /// The session is open and the peer grants no credit.
    NoCredit,
    /// No address is known for the peer.
    NoAddress,
}

impl OutgoingState {
    /// The word shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::PendingApproval => "pending_approval",
            Self::QueueFull => "queue_full",
            Self::Paused => "paused",
            Self::NoCredit => "no_credit",
            Self::NoAddress => "no_address",
        }
    }
}

/// What `peers list` shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerView {
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
    pub approval: &'static str,
    /// Whether a connection is held open.
    pub keep_connected: bool,
    /// Whether a session is open.
    pub connected: bool,
    /// Its life as of the last session.
    pub incarnation: Option<Incarnation>,
    /// Wall clock of the last session's beginning, microseconds; 0 for never.
    pub last_seen_us: u64,
    /// What happened to connections with it, oldest first.
    pub connections: Vec<ConnectionEvent>,
    /// The live machines that use its identity, when they are several.
    pub twins: Option<TwinView>,
    /// The identity that this one follows, proven by both keys.
    pub succeeds: Option<QmId>,
    /// The identity that follows this one, proven by both keys.
    pub succeeded_by: Option<QmId>,
}

/// What `routes` shows: where acks for a queue manager's life would go.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteView {
    /// The queue manager.
    pub qm: QmId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Sessions and addresses, newest first.
    pub candidates: Vec<String>,
}

/// What `why` shows: one line of cause, then the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WhyView {
    /// What was asked about, as understood.
    pub subject: String,
    /// The cause.
    pub code: Cause,
    /// One line.
    pub cause: String,
    /// What to do, when something can be done.
    pub fix: Option<String>,
    /// Lines of evidence.
    pub evidence: Vec<String>,
}

/// Which dead letters; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// With this reason.
    pub outcome: Option<Outcome>,
    /// For this destination, node or queue.
    pub destination: Option<String>,
    /// Dead for so long, milliseconds.
    pub older_than_ms: Option<u64>,
    /// Whose message id begins so.
    pub id: Option<String>,
}

/// What `dead list` shows of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterView {
    /// Its place among the dead letters, never used again.
    pub position: u64,
    /// The number by which it can be peeked at.
    pub lookup: u64,
    /// The message.
    pub id: MessageId,
    /// Who minted it.
    pub source: QmId,
    /// Why it is dead.
    pub outcome: Outcome,
    /// Whether it may have been delivered or received all the same.
    pub uncertain: bool,
    /// Whether its destination is being asked and has not answered yet.
    pub unconfirmed: bool,
    /// Wall clock of its death, microseconds.
    pub died_us: u64,
    /// Milliseconds since.
    pub age_ms: u64,
    /// The queue manager whose word it is; `None` when an earlier version did not note it.
    pub by: Option<QmId>,
    /// Where it was to go.
    pub destination: String,
    /// Its class.
    pub class: Class,
    /// Its priority.
    pub priority: u8,
    /// Wall clock of its acceptance, microseconds.
    pub sent_us: u64,
    /// What the application called it.
    pub label: String,
    /// The message that it repeated.
    pub resent_from: Option<String>,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// Whether an application holds it.
    pub leased: bool,
}

/// What became of a dead letter that was to be resent or dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LetterFate {
    /// Its place among the dead letters.
    pub position: u64,
    /// The message, when it could be read.
    pub id: Option<MessageId>,
    /// The new message that took its place.
    pub resent_as: Option<MessageId>,
    /// Where it was to go.
    pub destination: String,
    /// Why it was left alone; `None` when it was done.
    pub outcome: Option<Outcome>,
    /// The same in words.
    pub text: String,
}

/// What a purge or the deletion of a queue did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurgeTally {
    /// Messages removed from their queues.
    pub messages: u64,
    /// Of these, kept as dead letters.
    pub dead_letters: u64,
    /// Of these, kept nowhere, because their senders or the operator wished so.
    pub discarded: u64,
    /// Of the removed ones, those that may have been delivered or received all the same.
    pub uncertain: u64,
    /// Messages left: in the hands of applications, or transmitted and not settled.
    pub left: u64,
}

/// What `trace` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceView {
    /// The message.
    pub id: MessageId,
    /// Who minted it, when that is known here.
    pub source: Option<QmId>,
    /// Where it is now, a stable word.
    pub state: &'static str,
    /// The same in words.
    pub now: String,
    /// What happened to it here, oldest first.
    pub events: Vec<TraceEvent>,
    /// Whether the history of this node reaches back to before the message.
    pub complete: bool,
    /// Wall clock of the oldest event remembered, of whatever message, microseconds.
    pub remembered_since_us: Option<u64>,
    /// Events remembered, of all messages.
    pub remembered: u64,
    /// Events remembered at most.
    pub remembered_max: u64,
    /// What to ask, and where, to learn more.
    pub ask: Vec<String>,
}

/// Something that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEvent {
    /// Wall clock, microseconds.
    pub at_us: u64,
    /// A stable word.
    pub event: &'static str,
    /// The same in words.
    pub text: String,
}

/// Something that happened to connections with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionEvent {
    /// Wall clock, microseconds.
    pub at_us: u64,
    /// A stable word: `dial_failed`, `connected`, `opened`, `closed`, `refused`.
    pub event: &'static str,
    /// In words, with the cause.
    pub text: String,
}

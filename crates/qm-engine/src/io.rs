//! The vocabulary of the boundary: everything that goes into the engine and comes out of it.

use core::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{Incarnation, MessageId, Outcome, QmId, QueueName, Tag};

use crate::admin::{AdminReply, AdminRequest};
use crate::config::OnTwin;
use crate::identity::{BranchEvidence, TwinMachine};

/// A connection to a peer, numbered by the driver and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A connection of an application, numbered by the driver and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A run of stored messages with rising positions: one priority of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// Which priority of its queue it holds.
    #[must_use]
    pub const fn priority(self) -> u8 {
        crate::engine::Engine::queue_of(self).1
    }
}

/// A persist request; the store reports them durable in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A read request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadId(pub u64);

/// Ordered channel of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Hello, welcome, credit, queries, goodbye.
    Control,
    /// Acknowledgements and refusals.
    Ack,
    /// Messages of this priority.
    Priority(u8),
}

/// One change to what is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// A message.
    Put {
        /// Where.
        stream: StreamId,
        /// Rising within the stream.
        position: u64,
        /// What the node knows of it, with the envelope.
        head: Bytes,
        /// The body, untouched.
        body: Bytes,
    },
    /// Messages are gone.
    Remove {
        /// Where.
        stream: StreamId,
        /// First position.
        first: u64,
        /// Last position, inclusive.
        last: u64,
    },
    /// A small named value.
    Set {
        /// Its name.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// A small named value is gone.
    Unset {
        /// Its name.
        key: Bytes,
    },
}

/// How many refusals ([`Input::PersistRefused`]) were known when a batch was made. Batches are
/// handed over ahead of the answers to earlier ones; the store must refuse one that knows of fewer
/// than there were, so that on disk is never what comes later without what comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalsKnown {
    /// What puts messages, or speaks for them, is behind every batch: of all refusals. Messages
    /// would overtake what was refused, and answers would speak for it.
    All(u64),
    /// What only gives room back is behind batches of its kind: of the refusals of these. A removal
    /// would be on disk without the mark that was gathered before it. It passes the others: a full
    /// disk drains.
    Settling(u64),
}

/// A message as read back from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its position.
    pub position: u64,
    /// What was stored as its head.
    pub head: Bytes,
    /// The body.
    pub body: Bytes,
}

/// What recovery found of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSummary {
    /// Above every position that the store still knows of.
    pub next_position: u64,
    /// Lowest live position.
    pub first_live: u64,
    /// Live messages.
    pub live_records: u64,
    /// Their bytes.
    pub live_bytes: u64,
}

/// What recovery found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every stream with live messages.
    pub streams: std::collections::BTreeMap<StreamId, StreamSummary>,
    /// The named values.
    pub state: std::collections::BTreeMap<Bytes, Bytes>,
    /// Heads of the newest messages put, live or not, in their order: what the duplicate cache
    /// starts from.
    pub recent: Vec<(StreamId, Bytes)>,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DialFailure {
    /// The name does not resolve.
    Unresolved,
    /// Nothing listens there, or the network says so.
    Refused,
    /// Nothing answers.
    Unreachable,
    /// Somebody else answers.
    WrongIdentity,
    /// The secure handshake failed.
    Handshake,
    /// Another protocol is spoken there.
    Version,
}

impl DialFailure {
    /// A word for commands and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::WrongIdentity => "wrong_identity",
            Self::Handshake => "handshake",
            Self::Version => "version",
        }
    }
}

/// What keeps a node from accepting messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullBy {
    /// The disk.
    Disk,
    /// The part of the disk that the store may take.
    DiskLimit,
    /// The bytes of messages that may wait, [`crate::EngineConfig::store_bytes_max`].
    Stored,
}

impl FullBy {
    /// What operators know it by: the disk, or the name of the limit.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::DiskLimit => "store.disk_bytes",
            Self::Stored => "limits.store_bytes",
        }
    }

    /// The same in a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Disk => "the disk of this node is full",
            Self::DiskLimit => "the files of this node fill what store.disk_bytes allows",
            Self::Stored => {
                "the messages that wait on this node fill what limits.store_bytes allows"
            }
        }
    }
}

/// What happened outside.
#[derive(Clone, Debug)]
#[non_exhaustive]
// Puts are the common case; boxing them would cost an allocation a message.
pub enum Input {
    /// A link is up, its peer's key proven.
    Connected {
        /// The link.
        link: LinkId,
        /// Identity computed from the proven key.
        peer: QmId,
        /// The key.
        public_key: [u8; 32],
        /// The identity that this node proved: its own, or its former one while that drains.
        own: QmId,
        /// Where the peer is seen.
        remote: SocketAddr,
        /// The [`Output::Dial`] that it answers; `None` for a link the peer dialled.
        dial: Option<u64>,
    },
    /// A dial failed.
    DialFailed {
        /// Which.
        dial: u64,
        /// Why.
        failure: DialFailure,
        /// One sentence for the operator.
        text: String,
    },
    /// Whole frames arrived.
    Received {
        /// On which link.
        link: LinkId,
        /// The frames, back to back.
        frames: Bytes,
    },
    /// A link is gone.
    Closed {
        /// Which.
        link: LinkId,
        /// One sentence for the operator.
        text: String,
    },
    /// Everything up to this ticket is on disk.
    Persisted {
        /// The ticket.
        ticket: Ticket,
    },
    /// The disk is full: nothing of this ticket was done. Which of the later ones it must refuse as
    /// well, [`RefusalsKnown`] tells.
    PersistRefused {
        /// The ticket.
        ticket: Ticket,
        /// The changes that were not done, as they were handed over.
        ops: Vec<StoreOp>,
        /// Whether a limit of the store refused it, and not the disk.
        limited: bool,
    },
    /// There is room again for what was refused last. Nobody has to tell: a full disk is tried
    /// again every second.
    DiskHasRoom,
    /// The answer to [`Output::Load`], in the order of positions.
    Loaded {
        /// Which.
        load: LoadId,
        /// The messages, at most as many as asked for; empty when there are none.
        records: Vec<StoredRecord>,
    },
    /// Told before the [`Input::Loaded`] of the same load: a record is damaged and can never be
    /// read.
    Damaged {
        /// Which load met it.
        load: LoadId,
        /// Its position, below those of the records that were read.
        position: u64,
        /// Whether its bytes were kept elsewhere, so that it may be removed.
        set_aside: bool,
    },
    /// A frame of an application.
    Client {
        /// Its connection.
        conn: ConnId,
        /// The frame.
        frame: ClientFrame,
    },
    /// An application's connection is gone.
    ClientClosed {
        /// Which.
        conn: ConnId,
    },
    /// An administrative request.
    Admin {
        /// Whose.
        conn: ConnId,
        /// Number that the answer repeats.
        request: u64,
        /// What.
        what: AdminRequest,
    },
    /// The answer to [`Output::Sign`].
    Signed {
        /// Which.
        sign: u64,
        /// Ed25519 by the node's key.
        signature: [u8; 64],
    },
    /// The answer to [`Output::Verify`].
    Verified {
        /// Which.
        verify: u64,
        /// Whether the signature is by that key over exactly these bytes.
        good: bool,
    },
    /// The answer to [`Output::Succeed`]: both keys are on disk and have signed.
    Succeeded {
        /// Signed with both.
        succession: qm_wire::Succession,
        /// For the tokens of the identity that follows, as in [`Identity`](crate::Identity).
        token_key: crate::identity::TokenKey,
    },
    /// The other answer to [`Output::Succeed`]: nothing changed.
    NotSucceeded {
        /// One sentence for the operator.
        text: String,
    },
    /// This process may have been resumed from a snapshot, or stood still for one: another one may
    /// hold whatever it holds. A hint, and never held against anybody.
    Resumed {
        /// What says so, for people.
        why: &'static str,
    },
    /// The node has no network, or has it again. Dials wait for it, and nobody hears of them.
    Network {
        /// What is wrong with it.
        failed: Option<String>,
    },
    /// Time passed.
    Tick,
    /// The process is about to stop: say goodbye, take no further messages.
    Stop,
}

/// What shall happen outside.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// Transmit whole frames; in order per lane.
    Send {
        /// On which link.
        link: LinkId,
        /// On which lane.
        lane: Lane,
        /// The frames, back to back.
        frames: Bytes,
    },
    /// Stand still: send nothing more on any link, have everything on disk, then answer this
    /// request and do nothing until another says [`AdminRequest::Thaw`] or the time is over. What
    /// follows is [`Input::Resumed`].
    Freeze {
        /// Whose request it is.
        conn: ConnId,
        /// Its number.
        request: u64,
        /// At most so long, milliseconds.
        for_ms: u64,
    },
    /// Forget every link and every dial without sending anything more on them. Links and dials that
    /// follow are others.
    Abandon,
    /// Close a link after what was sent on it.
    Close {
        /// Which.
        link: LinkId,
        /// Typed reason.
        reason: Outcome,
        /// One sentence for the other side.
        text: String,
    },
    /// The peer of a link may send: give the link the full use of the network. Until then it is a
    /// stranger's, and needs room for greetings and acks only.
    Trust {
        /// Which.
        link: LinkId,
    },
    /// Open a link; answered by [`Input::Connected`] or [`Input::DialFailed`].
    Dial {
        /// Number that the answer repeats.
        dial: u64,
        /// `host:port`.
        address: String,
        /// Who must answer.
        expected: Option<QmId>,
        /// The identity to prove: this node's own, or its former one while that drains.
        own: QmId,
    },
    /// Make these changes durable, all or nothing; answered by [`Input::Persisted`].
    Persist {
        /// Rising by one.
        ticket: Ticket,
        /// The changes.
        ops: Vec<StoreOp>,
        /// The place of the batch among those that are refused.
        refusals_known: RefusalsKnown,
    },
    /// Read messages back; answered by [`Input::Loaded`].
    Load {
        /// Number that the answer repeats.
        load: LoadId,
        /// Where.
        stream: StreamId,
        /// Lowest position wanted.
        from: u64,
        /// At most this many messages.
        records_max: usize,
        /// About this many bytes; at least one message.
        bytes_max: usize,
    },
    /// Sign with the node's key, which the engine has not got; answered by [`Input::Signed`].
    Sign {
        /// Number that the answer repeats.
        sign: u64,
        /// What to sign, with its domain.
        bytes: Bytes,
    },
    /// Verify a signature; answered by [`Input::Verified`].
    Verify {
        /// Number that the answer repeats.
        verify: u64,
        /// The Ed25519 key that must have signed.
        key: [u8; 32],
        /// What was signed, with its domain.
        bytes: Bytes,
        /// Ed25519.
        signature: [u8; 64],
    },
    /// Have another key ready, on disk, and sign the succession with both; answered by
    /// [`Input::Succeeded`] or [`Input::NotSucceeded`]. The roles of the keys do not change yet.
    Succeed {
        /// The key of the identity that this node has now.
        old_key: [u8; 32],
        /// The key that shall follow, which this node still has; `None` for a new one.
        new_key: Option<[u8; 32]>,
    },
    /// The roles of the keys changed, durably: speak under `current` from now on, and under
    /// `former` only where this node is told to or is asked for it. Other keys are to be erased.
    Keys {
        /// Who this node is.
        current: QmId,
        /// Who it was, as long as that drains or may be taken back.
        former: Option<QmId>,
    },
    /// A frame for an application.
    Client {
        /// Its connection.
        conn: ConnId,
        /// The frame.
        frame: NodeFrame,
    },
    /// Answer to an administrative request.
    Admin {
        /// Whose.
        conn: ConnId,
        /// The request's number.
        request: u64,
        /// The answer.
        reply: AdminReply,
    },
    /// Close the connection of an application that broke the protocol.
    CloseClient {
        /// Which.
        conn: ConnId,
        /// Why.
        text: String,
    },
    /// For logs, counters and the simulation's oracle.
    Event(Event),
}

/// Something worth telling. Never carries a body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message was accepted from an application, to its class.
    Accepted {
        /// Its id.
        id: MessageId,
    },
    /// A message arrived from a peer and is stored to its class.
    Delivered {
        /// Who minted it.
        source: QmId,
        /// Its id.
        id: MessageId,
        /// Which of several messages with that name.
        tag: Tag,
    },
    /// An outgoing message is settled by the destination's word.
    Acknowledged {
        /// Its id.
        id: MessageId,
    },
    /// The destination of a dead message confirmed that it will not take it.
    DeathConfirmed {
        /// Its id.
        id: MessageId,
    },
    /// The destination of a dead message can no longer know whether it took it.
    DeathUncertain {
        /// Its id.
        id: MessageId,
    },
    /// A transactional stream stands until an operator decides.
    StreamHeld {
        /// The node at the other end, once known.
        peer: Option<QmId>,
        /// Its queue.
        queue: QueueName,
        /// Whether messages arrive in it here.
        incoming: bool,
        /// Why.
        text: String,
    },
    /// A transactional stream was begun anew.
    StreamRerooted {
        /// The node at the other end, once known.
        peer: Option<QmId>,
        /// Its queue.
        queue: QueueName,
        /// Why.
        text: String,
    },
    /// Two transactional messages followed one link: their sender was cloned or went back to a
    /// backup. Both are taken.
    StreamBranched {
        /// The sender.
        peer: QmId,
        /// The queue.
        queue: QueueName,
        /// The position at which they part.
        position: u64,
    },
    /// A message went to the dead-letter queue, or was dropped because its sender wished so.
    Dead {
        /// Its id.
        id: MessageId,
        /// Why.
        outcome: Outcome,
        /// Whether a dead letter was kept.
        kept: bool,
        /// Whether it may have been delivered or received all the same.
        uncertain: bool,
    },
    /// A dead letter was sent again as a new message, in one commit with its removal.
    Resent {
        /// Who minted the dead message.
        source: QmId,
        /// Its id.
        id: MessageId,
        /// The new message of this node.
        resent_as: MessageId,
    },
    /// A duplicate was removed.
    DuplicateRemoved {
        /// Who minted it.
        source: QmId,
        /// Its id.
        id: MessageId,
    },
    /// A session is open for messages in both directions.
    SessionOpened {
        /// On which link.
        link: LinkId,
        /// With whom.
        peer: QmId,
        /// In which life.
        incarnation: Incarnation,
    },
    /// A session ended.
    SessionClosed {
        /// On which link.
        link: LinkId,
        /// With whom.
        peer: QmId,
        /// Why.
        text: String,
    },
    /// A dial failed.
    DialFailed {
        /// The address dialled.
        address: String,
        /// Why.
        failure: DialFailure,
        /// In words.
        text: String,
    },
    /// An unknown queue manager awaits approval.
    PeerPending {
        /// Who.
        peer: QmId,
        /// Its display name.
        name: String,
    },
    /// This node is somebody else from now on.
    Reidentified {
        /// Who it was.
        old: QmId,
        /// Who it is.
        new: QmId,
        /// Why.
        because: String,
    },
    /// From now on messages for a destination are minted under the new identity.
    IdentitySwitched {
        /// The destination node.
        peer: Option<QmId>,
        /// As addressed.
        remote: String,
    },
    /// Everything under the former identity is delivered or was given up.
    FormerDrained {
        /// Which identity.
        former: QmId,
    },
    /// The key of the former identity is to be erased.
    FormerErased {
        /// Which identity.
        former: QmId,
    },
    /// A peer proved, with both keys, that it has another identity from now on.
    PeerSucceeded {
        /// Who it was.
        old: QmId,
        /// Who it is.
        new: QmId,
        /// Addresses and names that stand for the new one from now on.
        moved: usize,
    },
    /// A peer broke the protocol; its session was closed.
    PeerMisbehaved {
        /// Who.
        peer: QmId,
        /// How.
        text: String,
    },
    /// A routed ack named messages this node does not hold; it was answered.
    AckNotHeld {
        /// Who acknowledged.
        peer: QmId,
        /// How many entries.
        entries: usize,
        /// Whether an incarnation was named that was never this node's: a sign of a clone.
        foreign_incarnation: bool,
    },
    /// An ack could not be verified and was not applied; its messages are asked for instead.
    AckUnverified {
        /// Who acknowledged.
        peer: QmId,
    },
    /// Another queue manager answers at an address than the one pinned.
    IdentityChanged {
        /// The address.
        address: String,
        /// Pinned at first contact.
        pinned: QmId,
        /// Who answers now.
        found: QmId,
    },
    /// Two live machines have a peer's identity: both answered on sessions of their own.
    TwinSeen {
        /// The identity.
        peer: QmId,
        /// Both machines.
        machines: Box<[TwinMachine; 2]>,
    },
    /// Sessions of a peer were not asked whether they are two live machines, because too many are
    /// being asked: so copies may go unnoticed.
    TwinUnasked {
        /// The peer.
        peer: QmId,
    },
    /// Another live machine has this node's own identity: it signed a fresh challenge with its
    /// key.
    OwnTwin {
        /// The node over which it was asked; `None` when it was met directly.
        told_by: Option<QmId>,
        /// The other machine.
        other: Box<TwinMachine>,
    },
    /// Another live machine with this node's identity proved the higher rank: this node is the one
    /// that has to take another identity. Told once; kept over restarts.
    ElectionLost {
        /// The node over which they spoke; `None` when they met directly.
        told_by: Option<QmId>,
        /// The machine that keeps the identity.
        winner: Box<TwinMachine>,
        /// What is to be done, by this node's configuration.
        on_twin: OnTwin,
    },
    /// One of several live machines with one identity takes one of its own: its sessions under this
    /// one drain.
    TwinParted {
        /// The identity that they had; this node's own, when its copy parted.
        qm: QmId,
        /// That machine.
        title: String,
        /// Whether one machine is left, and the alarm is over.
        over: bool,
    },
    /// Messages were set aside that the machine which keeps this node's former identity has as
    /// well.
    Quarantined {
        /// The queue in which they waited.
        queue: QueueName,
        /// How many.
        messages: u64,
    },
    /// The operator released such messages.
    QuarantineReleased {
        /// The quarantine that they left.
        queue: QueueName,
        /// How many.
        messages: u64,
    },
    /// This process may have been resumed from a snapshot: it has dropped its connections without a
    /// word and begun a new life.
    Resumed {
        /// What says so.
        why: &'static str,
    },
    /// The identity is on another machine than the one it was made on. A hint: told to peers, and
    /// a lower rank among copies.
    Moved,
    /// The history of a peer was seen to branch: it was copied, or went back to a backup.
    HistoryBranched {
        /// The peer.
        peer: QmId,
        /// How that was seen.
        by: BranchEvidence,
    },
    /// A peer has seen this node's own history branch; this node minted under another life's name
    /// from then on.
    OwnHistoryBranched {
        /// The peer.
        told_by: QmId,
    },
    /// This node's own store went back: a peer holds a token that this node made and does not
    /// remember.
    OwnStoreWentBack {
        /// The peer.
        peer: QmId,
    },
    /// There is no room for messages, or there is again.
    StoreFull {
        /// Which of the two.
        full: bool,
        /// What is, or was, full.
        by: FullBy,
    },
    /// A queue reached its quota, or has room again.
    QueueFull {
        /// The queue.
        queue: QueueName,
        /// Which of the two.
        full: bool,
    },
    /// A stored message is damaged on disk; it left its queue without being served.
    MessageDamaged {
        /// The queue; with the node it waited for when it is an outgoing one.
        queue: String,
        /// Its priority.
        priority: u8,
        /// Its position in its stream.
        position: u64,
        /// Whether it was removed from the store, because its bytes were kept elsewhere.
        removed: bool,
    },
    /// A stored record cannot be understood and was left alone.
    Unreadable {
        /// What.
        what: &'static str,
    },
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}

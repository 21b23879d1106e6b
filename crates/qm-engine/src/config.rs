//! What an operator can set, with the defaults of the manual.

use crate::limits::SKIPS_MAX;

/// Who may send to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// An unknown queue manager is pending until the operator approves it: it gets no credit,
    /// transmits nothing and loses nothing.
    #[default]
    Approve,
    /// Everybody is approved at first contact. For laboratories.
    Any,
}

/// What a node does that is the lower one of two live machines with its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTwin {
    /// It takes another identity.
    #[default]
    Reidentify,
    /// It tells its operator, and nothing else.
    AlarmOnly,
}

impl OnTwin {
    /// As it stands in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reidentify => "reidentify",
            Self::AlarmOnly => "alarm-only",
        }
    }
}

/// Settings of an engine. All times are milliseconds of node time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Display name of the node.
    pub name: String,
    /// Host name, a hint shown to peers' operators.
    pub host: String,
    /// UDP port at which peers can dial back; 0 when the node does not listen.
    pub listen_port: u16,
    /// Who may send to this node.
    pub trust: Trust,
    /// Largest body accepted from applications and peers.
    pub body_bytes_max: u32,
    /// Entries of the duplicate cache; 0 turns it off.
    pub dedup_capacity: usize,
    /// Age at which entries of the duplicate cache are purged.
    pub dedup_purge_interval_ms: u64,
    /// Life of an ack route since it was last heard of.
    pub ack_route_lifetime_ms: u64,
    /// Interval at which dead ack routes are removed.
    pub ack_route_purge_interval_ms: u64,
    /// Messages a peer may have in flight towards this node.
    pub window_messages: u64,
    /// Bytes a peer may have in flight towards this node.
    pub window_bytes: u64,
    /// Puts an application may have unanswered.
    pub client_window_messages: u32,
    /// Bytes of puts an application may have unanswered.
    pub client_window_bytes: u32,
    /// First pause before a peer is dialled again; doubles up to the maximum.
    pub reconnect_min_ms: u64,
    /// Longest pause before a peer is dialled again.
    pub reconnect_max_ms: u64,
    /// Time for hello and welcome.
    pub handshake_timeout_ms: u64,
    /// By what this machine is known, to notice that the identity is on another one.
    pub seals: Vec<crate::identity::Seal>,
    /// What this node does when a copy of it ranks higher.
    pub on_twin: OnTwin,
    /// In an open session the peer gets another token at this interval: so long a copy of a running
    /// machine can be unnoticed that shares its connections.
    pub token_rotation_ms: u64,
    /// A session without messages for this long is closed, unless the peer is kept connected.
    pub idle_session_ms: u64,
    /// Unacknowledged for this long, a message is asked for (never resent blindly): at the least,
    /// however fast acks are. A peer that restarted is noticed by that question.
    pub ack_wait_min_ms: u64,
    /// The same at the most, however slow acks are; between the two it is eight times as long as
    /// acks take.
    pub ack_wait_ms: u64,
    /// While answers stay open they are asked for again at this interval.
    pub query_interval_ms: u64,
    /// Default time to reach the queue of express messages.
    pub express_reach_queue_ms: u64,
    /// Default time to reach the queue of recoverable messages.
    pub recoverable_reach_queue_ms: u64,
    /// Bytes of waiting durable messages kept in memory beside the disk, over all queues.
    pub resident_bytes_max: usize,
    /// Bytes of waiting express messages, over all queues. This node's own applications may use
    /// seven eighths, the rest is for arrivals.
    pub express_bytes_max: usize,
    /// Bytes of live messages that the store may hold. Arrivals may use an eighth even when
    /// messages for others have filled all of it.
    pub store_bytes_max: u64,
    /// A batch for the store is closed when it is about this large; with one more message it must
    /// fit a segment of the store.
    pub batch_bytes_max: usize,
    /// Peers that may await approval at a time.
    pub pending_peers_max: usize,
    /// Events of messages remembered for `trace`; 0 for none.
    pub history_events_max: usize,
    /// Bytes of memory for them; the smaller of the two limits holds.
    pub history_bytes_max: usize,
    /// Links that are remembered of each transactional stream that arrives, beyond those that its
    /// sender has not settled: as far back a restored backup of a sender may lie.
    pub stream_history_links: usize,
    /// Transactional messages that expired or were purged and that no destination has answered for;
    /// while there are so many, no other one expires or is purged.
    pub skips_max: usize,
    /// How long the outcomes of an application's requests and its idempotency keys are kept.
    pub outcome_retention_ms: u64,
    /// How long a transaction of an application may be open.
    pub transaction_ms_max: u64,
    /// Deliberate breaks of single rules, for tests that must notice them.
    #[cfg(feature = "__breaks")]
    pub breaks: crate::Breaks,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            host: String::new(),
            listen_port: 0,
            trust: Trust::Approve,
            body_bytes_max: qm_wire::limits::BODY_BYTES_DEFAULT,
            dedup_capacity: 10_000,
            dedup_purge_interval_ms: 30 * 60 * 1_000,
            ack_route_lifetime_ms: 10 * 60 * 1_000,
            ack_route_purge_interval_ms: 60 * 1_000,
            window_messages: 4_096,
            window_bytes: 4 << 20,
            client_window_messages: 8_192,
            client_window_bytes: 8 << 20,
            reconnect_min_ms: 200,
            reconnect_max_ms: 30_000,
            handshake_timeout_ms: 10_000,
            seals: Vec::new(),
            on_twin: OnTwin::Reidentify,
            token_rotation_ms: 600_000,
            idle_session_ms: 300_000,
            ack_wait_min_ms: 1_000,
            ack_wait_ms: 20_000,
            query_interval_ms: 30_000,
            express_reach_queue_ms: 4 * 24 * 60 * 60 * 1_000,
            recoverable_reach_queue_ms: qm_wire::INFINITE_MS,
            resident_bytes_max: 16 << 20,
            express_bytes_max: 64 << 20,
            store_bytes_max: 64 << 30,
            batch_bytes_max: 8 << 20,
            pending_peers_max: 1_000,
            history_events_max: 32_768,
            history_bytes_max: 4 << 20,
            stream_history_links: 100_000,
            skips_max: SKIPS_MAX,
            outcome_retention_ms: 24 * 60 * 60 * 1_000,
            transaction_ms_max: 60 * 60 * 1_000,
            #[cfg(feature = "__breaks")]
            breaks: crate::Breaks::default(),
        }
    }
}

//! Every maximum of the engine that is not a setting, in one place, each with its reason.
//!
//! What an operator can set stands in [`EngineConfig`](crate::EngineConfig); docs/limits.md lists
//! both, with what happens at each.

/// Messages in flight on one session: what one ack may span on the wire.
pub const FLIGHTS_MAX: usize = 4_096;

/// Bytes in flight on one session; the last message may exceed it. They stay in memory until they
/// are settled, whatever credit the peer grants.
pub const FLIGHT_BYTES_MAX: u64 = 16 << 20;

/// How long an older session of a peer may be silent when asked for a sign, once a later one is
/// open. Many round trips, and a tenth of the time after which QUIC gives up.
pub const SILENT_RIVAL_MS: u64 = 3_000;

/// How long a session may be silent after messages in flight on it were asked for: then it is
/// dialled anew. Well below QUIC's idle timeout, which a path that works one way never meets.
pub const SILENT_SESSION_MS: u64 = 10_000;

/// A session is looked at within a few milliseconds of its time. So much later, this node stood
/// still, and gives a silent peer as much again.
pub const LATE_LOOK_MS: u64 = 1_000;

/// Refusals remembered per session; the oldest are forgotten first.
pub const REFUSED_MAX: usize = 4_096;

/// Acks in [`DOUBTFUL_SPAN_MS`] that name messages in flight and do not fit them. A few happen when
/// a query overtakes an ack; each costs a look at all it names.
pub const DOUBTFUL_MAX: u32 = 256;

/// See [`DOUBTFUL_MAX`].
pub const DOUBTFUL_SPAN_MS: u64 = 10_000;

/// Messages of an earlier life in doubt at a time, for one priority of one queue: their bodies are
/// in memory, and each is one entry of a query.
pub const DOUBTS_MAX: usize = 1_024;

/// Bytes of the same.
pub const DOUBT_BYTES_MAX: u64 = 4 << 20;

/// Messages that ended here and that their destinations are asked for, of all destinations.
/// Beyond, what may have been delivered is uncertain at once.
pub const ASKED_MAX: usize = 262_144;

/// Messages of one sender that this node promised not to take. Beyond, the oldest are forgotten of
/// which nothing can be under way any more; if there is none, the sender hears *unknown* and goes
/// on asking.
pub const VOIDS_PER_PEER_MAX: usize = 65_536;

/// The same of all senders.
pub const VOIDS_MAX: usize = 262_144;

/// For how long such a promise is remembered: 30 days.
pub const VOID_AGE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Messages of one sender of which is kept how they ended, until it has confirmed that it knows.
/// Beyond, its oldest are forgotten, and it hears that nobody can tell.
pub const FINALS_PER_PEER_MAX: usize = 65_536;

/// The same of all senders: some 40 MiB. Beyond, only a sender that has some may replace them.
pub const FINALS_MAX: usize = 262_144;

/// For how long that is kept, and for how long a sender waits behind the time when its message must
/// have ended: 30 days.
pub const FINAL_AGE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// How often somebody else is told of an end when whoever was told does not hold the message; then
/// its sender has to ask.
pub const FINAL_TRIES_MAX: u8 = 3;

/// After how long a destination is asked again how messages ended, on a session that stays open.
/// Nothing that is told gets lost there, but a session on which nothing is asked ends as idle.
pub const FINAL_QUERY_MS: u64 = 4 * 60 * 1_000;

/// Messages of this node whose ends are awaited: some 60 MiB. Beyond, none is accepted that wishes
/// to hear of its end.
pub const AWAITED_MAX: usize = 262_144;

/// Bytes that these take on disk: some wish to hear of their ends in a queue, whose name is kept.
pub const AWAITED_BYTES_MAX: usize = 64 << 20;

/// Messages to applications about what became of theirs that are decided and not put yet, because
/// the disk is full. Beyond, they are lost, and counted.
pub const REPORTS_MAX: usize = 65_536;

/// Lives of one sender of which is known up to where arrivals may be forgotten. Of a sender with
/// more lives everything may be.
pub const FORGOTTEN_LIVES_PER_PEER_MAX: usize = 256;

/// The same of all senders.
pub const FORGOTTEN_LIVES_MAX: usize = 262_144;

/// Changes of a destination's life that are remembered, to know which one was known when a message
/// was minted. Of what is older nothing is certain.
pub const MET_LIVES_MAX: usize = 64;

/// Newest arrivals of one peer that are known as such whatever others send: four times what it can
/// have in flight.
pub const RECENT_PER_PEER_MAX: usize = 16_384;
const _: () = assert!(RECENT_PER_PEER_MAX == 4 * FLIGHTS_MAX);

/// The same of all peers: some 16 MiB.
pub const RECENT_TOTAL_MAX: usize = 262_144;

/// Arrivals that the list on disk names at least, for the next start: 1.3 MiB. With a larger
/// duplicate cache as many as that holds.
pub const RECALLED_MAX: usize = 32_768;

/// Acks owed to one life of a peer at most; beyond, the peer's own query fetches them.
pub const OWED_MAX: usize = 16_384;

/// Lives of one peer to which acks are owed at a time: a peer may claim any number of lives, and
/// must not take the places of others.
pub const OWED_LIVES_PER_PEER_MAX: usize = 16;

/// Lives of all peers to which acks are owed at a time.
pub const OWED_LIVES_MAX: usize = 4_096;

/// Acks owed to all lives of all peers: some 12 MiB.
pub const OWED_TOTAL_MAX: usize = 262_144;

/// Queue managers remembered, approved or not. Strangers beyond `pending_peers_max` push out the
/// stranger seen longest ago; beyond this, nobody new is let in.
pub const PEERS_MAX: usize = 65_536;

/// Peers whose misbehaviour is remembered at a time.
pub const PENALTIES_MAX: usize = 4_096;

/// First pause after a peer broke the protocol, during which it is not let in again; doubles with
/// each further time up to [`PENALTY_PAUSE_MAX_MS`].
pub const PENALTY_PAUSE_MIN_MS: u64 = 1_000;

/// Longest such pause. A peer that kept the rules for ten times as long starts anew.
pub const PENALTY_PAUSE_MAX_MS: u64 = 60_000;

/// Local and outgoing queues together; each costs a little memory and a record on disk, and an
/// application makes outgoing ones by naming destinations.
pub const QUEUES_MAX: usize = 65_536;

/// Destinations kept as they were understood, of all applications: what one of them writes beyond
/// that is read anew each time. At most [`qm_wire::limits::ADDRESS_BYTES_MAX`] each.
pub const UNDERSTOOD_MAX: usize = 64;

/// For how long an outgoing queue without work is kept, milliseconds.
pub const OUT_QUEUE_IDLE_MS: u64 = 10 * 60_000;

/// Runs of answers kept per client: as many as it may have requests unanswered, because each
/// message is a run of its own when applications take turns. 32 bytes each in memory.
pub const CLIENT_RUNS_MAX: usize = 8_192;

/// Runs of answers of one client that are stored together: a batch writes those that it adds to.
/// Such a page takes half a KiB on disk when applications take turns, four at most.
pub const CLIENT_PAGE_RUNS: usize = 128;

/// Blocks of 512 numbers kept per idempotency key, a million numbers; beyond, its lowest ones are
/// forgotten, and a repeated number from there is refused. A batch writes the blocks it adds to.
pub const KEY_BLOCKS_MAX: usize = 2_048;

/// Refusals kept per client.
pub const CLIENT_REFUSALS_MAX: usize = 1_024;

/// Clients remembered at a time, and blocks of numbers of keys; the longest untouched are forgotten
/// first.
pub const REMEMBERED_MAX: usize = 100_000;

/// So many more may come before the longest untouched are looked for: that costs a look at all.
pub const REMEMBERED_SLACK_MAX: usize = 10_000;

/// Messages whose fate is followed at a time.
pub const FOLLOWED_MAX: usize = 1 << 20;

/// Messages that one application may hold unsettled.
pub const LEASES_MAX: usize = 65_536;

/// Bytes of messages that one application may hold unsettled; the last one may exceed it. They are
/// in memory.
pub const LEASE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of messages that all applications together may hold unsettled.
pub const LEASE_BYTES_TOTAL_MAX: u64 = 512 << 20;

/// Addresses remembered per peer.
pub const ADDRESSES_MAX: usize = 8;

/// Transactional streams of one peer: one a queue as a rule, more when stores were lost or streams
/// begun anew. Beyond, a new one is held.
pub const STREAMS_PER_PEER_MAX: usize = 1_024;

/// Branches of one stream: each is a clone or a restored backup of its sender.
pub const BRANCHES_MAX: usize = 256;

/// A sender may say that it has not settled what lies so far back at most: what it has in flight,
/// and all the skips that it may keep.
pub const LOW_SPAN_MAX: u64 = 262_144;

/// Links of all streams; beyond, of each only [`LINKS_KEPT_LEAST`] are kept.
pub const LINKS_TOTAL_MAX: usize = 4_000_000;

/// Links of a stream that are kept when there are too many of all.
pub const LINKS_KEPT_LEAST: usize = 8_192;

/// For how long links are kept at least, while they are not too many: 30 days.
pub const STREAM_AGE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// Transactional messages that left their streams otherwise than by delivery and that no
/// destination has answered for: each takes a few hundred bytes of memory until then.
pub const SKIPS_MAX: usize = 262_144;

/// Skips that a sender leaves unanswered on one session: a window, as of messages. No credit bounds
/// them, so a receiver that has twice as many to write down ends the session.
pub const SKIPS_OPEN_MAX: usize = 4_096;

/// A sender is told no second time within so long what is needed of a stream, unless something came
/// of the first.
pub const NEED_PAUSE_MS: u64 = 1_000;

/// Messages that wait for the duplicate cache's word at a time.
pub const RESERVED_MAX: usize = 65_536;

/// Messages that one transaction may send and receive: with their bytes, at most a batch for the
/// store, they are committed as one.
pub const TRANSACTION_MESSAGES_MAX: usize = 16_384;

/// Transactions that one application may have open on one connection.
pub const TRANSACTIONS_PER_CONNECTION_MAX: usize = 256;

/// Transactions that all applications together may have open.
pub const TRANSACTIONS_MAX: usize = 16_384;

/// Bytes of what open transactions of all applications are to send: it is in memory.
pub const TRANSACTION_BYTES_TOTAL_MAX: usize = 64 << 20;

/// Runs of messages of one stream that were handed out more than once, or out of turn, of which is
/// stored how often each was. Beyond, neighbours count as handed out as often as the less often
/// handed out of the two.
pub const HANDED_RUNS_MAX: usize = 4_096;

/// Messages of one stream that may be noted as handed out before they are, so that a busy receiver
/// does not wait for the disk: after a crash they seem to have been.
pub const HANDED_AHEAD_MAX: u64 = 256;

//! The queue manager's engine: one input in, then outputs out until there are none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use qm_cache::{AckRouteCache, DedupCache, DedupConfig, Key, RouteConfig};
use qm_wire::local::Receive;
use qm_wire::{Entry, Incarnation, MessageId, MessageKey, QmId, QueueName};

use crate::admin::{AdminReply, Counters};
use crate::arrivals::Arrivals;
use crate::asking::Asks;
use crate::awaited::Awaiting;
use crate::backlog::Message;
use crate::clients::Clients;
use crate::commits::{Commits, Origin, Then};
use crate::config::EngineConfig;
use crate::connections::Connections;
use crate::dead::LetterDo;
use crate::destination::Understood;
use crate::entropy::Entropy;
use crate::finals::Finals;
use crate::forgotten::Forgotten;
use crate::heirs::Heirs;
use crate::history::History;
use crate::identity::branches::Branched;
use crate::identity::courses::Courses;
use crate::identity::election::Election;
use crate::identity::handshake::Tokens;
use crate::identity::parted::Partings;
use crate::identity::{TokenKey, Twins};
use crate::io::{ConnId, Event, Input, LinkId, LoadId, Output, Recovered, StreamId};
use crate::jobs::{JobId, Jobs};
use crate::met::MetLives;
use crate::outgoing::{OutQueue, Remote};
use crate::peers::PeerBook;
use crate::penalty::Penalties;
use crate::purge::Purge;
use crate::quarantine::Quarantine;
use crate::queues::LocalQueue;
use crate::recent::RecentArrivals;
use crate::record::RemoteKey;
use crate::reidentify::Reidentifying;
use crate::reports::Reports;
use crate::room::Room;
use crate::scan::ScanJob;
use crate::session::Session;
use crate::stream::receiving::InStreams;
use crate::time::{Now, Timestamp};
use crate::unconfirmed::OpenLetters;
use crate::voids::Voids;

/// Who this queue manager is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id, computed from the key.
    pub qm: QmId,
    /// Its Ed25519 public key.
    pub public_key: [u8; 32],
    /// Identity of its store; a new store is a new one.
    pub store_id: [u8; 16],
    /// Authenticates the tokens that it gives to peers; from its private key.
    pub token_key: TokenKey,
}

/// Key of the duplicate cache: the message's full name; its tag tells contents apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalKey(pub MessageKey);

impl Key for ArrivalKey {
    type Words = <MessageKey as Key>::Words;
    const WORDS: usize = MessageKey::WORDS;
    const IDENTITY_WORDS: usize = MessageKey::IDENTITY_WORDS;
    const OWNER_WORDS: usize = MessageKey::OWNER_WORDS;

    fn to_words(&self) -> Self::Words {
        self.0.to_words()
    }
}

/// Where an ack can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A live session.
    Session(LinkId),
    /// An address at which the peer said it listens.
    Address(String),
}

/// Key of the ack-route cache.
pub(crate) type RouteKey = (QmId, Incarnation);

/// What a timer is for; validity is checked when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Dial(u32),
    Session(LinkId),
    Receivers(u32),
    Expiry,
    Maintenance,
    /// More applications or keys are remembered than there should be.
    Outcomes,
    StoreRetry,
    StoreRoom,
    Purge,
    Transaction(ConnId, u64),
}

/// A read that is under way and what it is for.
#[derive(Debug)]
pub(crate) enum LoadFor {
    Backlog {
        queue: u32,
        priority: u8,
        local: bool,
    },
    Scan(Box<ScanJob>),
    DeadList {
        job: JobId,
    },
    Dead {
        job: JobId,
        position: u64,
        what: LetterDo,
    },
    Seek {
        job: JobId,
    },
}

/// A queue manager as a state machine.
///
/// Feed it with [`Engine::handle`], then call [`Engine::poll`] until it returns `None`, then sleep
/// until [`Engine::next_deadline`] or the next input. Several inputs may be handled before polling;
/// what they cause then leaves in one batch. The engine does no I/O, reads no clock and draws no
/// randomness of its own: the same inputs give the same outputs.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) me: Identity,
    pub(crate) incarnation: Incarnation,
    pub(crate) started: Timestamp,
    pub(crate) next_sequence: u64,
    pub(crate) salt: [u8; 16],
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) now: Now,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counters: Counters,
    pub(crate) commits: Commits,
    pub(crate) clock_saved: Timestamp,
    /// How often this queue manager was started, this time included.
    pub(crate) life: u32,
    /// Position of the first message of a queue that had none before this life.
    pub(crate) first_position: u64,
    /// Whether the number of this life is on disk; nothing is handed out before.
    pub(crate) life_begun: bool,
    /// Requests that wait for it.
    pub(crate) early_receives: Vec<(ConnId, Receive)>,
    pub(crate) life_saved: bool,
    pub(crate) stopping: bool,
    /// What is wrong with the network of this node.
    pub(crate) network_failed: Option<String>,
    pub(crate) room: Room,

    pub(crate) locals: BTreeMap<u32, LocalQueue>,
    pub(crate) local_names: BTreeMap<QueueName, u32>,
    pub(crate) outs: BTreeMap<u32, OutQueue>,
    pub(crate) remotes: BTreeMap<u32, Remote>,
    /// By the identity of this node under which it is spoken to, and its address.
    pub(crate) remote_keys: BTreeMap<(QmId, RemoteKey), u32>,
    pub(crate) reidentifying: Reidentifying,
    pub(crate) heirs: Heirs,
    pub(crate) next_queue: u32,
    pub(crate) next_remote: u32,
    pub(crate) prior_incarnations: BTreeSet<Incarnation>,

    pub(crate) peers: PeerBook,
    pub(crate) sessions: BTreeMap<LinkId, Session>,
    pub(crate) by_peer: BTreeMap<QmId, BTreeSet<LinkId>>,
    pub(crate) dials: BTreeMap<u64, u32>,
    pub(crate) next_dial: u64,
    pub(crate) next_attempt: u64,
    pub(crate) doubts: BTreeMap<MessageId, (u32, u8, u64)>,
    pub(crate) owed: BTreeMap<RouteKey, Vec<Entry>>,

    pub(crate) dedup: Arc<DedupCache<ArrivalKey>>,
    pub(crate) routes: Arc<AckRouteCache<RouteKey, Route>>,

    pub(crate) clients: Clients,
    pub(crate) penalties: Penalties,
    pub(crate) understood: Understood,
    pub(crate) jobs: Jobs,
    pub(crate) purges: BTreeMap<(bool, u32), Purge>,
    pub(crate) history: History,
    pub(crate) connections: Connections,
    /// Copies of identities: those of peers, and of this node's own.
    pub(crate) twins: Twins,
    pub(crate) arrivals: Arrivals,
    /// Tokens that tell branches of histories apart: those held, and those given.
    pub(crate) tokens: Tokens,
    /// Which of two copies keeps the identity.
    pub(crate) election: Election,
    /// The courses of the store.
    pub(crate) courses: Courses,
    /// Messages that are set aside because another machine has them as well.
    pub(crate) quarantine: Quarantine,
    /// Machines that left an identity to another.
    pub(crate) partings: Partings,
    /// Whether the identity is on another machine than the one it was made on.
    pub(crate) moved: bool,
    /// Histories that were seen to branch.
    pub(crate) branched: Branched,
    /// What each peer may send again.
    pub(crate) recent: RecentArrivals,
    /// Arrivals that were undone and did not come again.
    pub(crate) undone_arrivals: BTreeSet<MessageKey>,
    /// Of requests that reject messages in several batches, how many came back to their queue.
    pub(crate) back_again: BTreeMap<(ConnId, u64), u32>,
    /// Outgoing queues of transactional messages, by the ids of their streams.
    pub(crate) stream_ids: BTreeMap<qm_wire::StreamId, u32>,
    /// Of these, those whose marks changed since the last batch.
    pub(crate) dirty_streams: Vec<u32>,
    /// Outgoing queues whose streams are written with the messages gathered now.
    pub(crate) begun_streams: Vec<u32>,
    /// Messages whose destinations said that they have them while applications held their dead
    /// letters: where their skips stand.
    pub(crate) skips_heard: BTreeMap<MessageId, (u32, u64)>,
    /// Streams that arrive here.
    pub(crate) ins: InStreams,
    /// Dead letters about which something is open.
    pub(crate) open_letters: OpenLetters,
    /// Positions of dead letters that are being sent again.
    pub(crate) letters_resent: BTreeSet<u64>,
    /// Messages that ended here and that their destinations are asked for.
    pub(crate) asks: Asks,
    /// Messages that arrived at their destinations and whose ends there are awaited.
    pub(crate) awaiting: Awaiting,
    /// Messages that have left, whose copies the disk refused.
    pub(crate) journal_later: Vec<Origin>,
    /// What applications are to hear of their messages.
    pub(crate) reports: Reports,
    /// How messages of others ended here, for their senders.
    pub(crate) finals: Finals,
    /// Lives of destinations, and from which message on they were known.
    pub(crate) met: MetLives,
    /// Of these, those that are to be written.
    pub(crate) met_dirty: BTreeSet<QmId>,
    /// What the duplicate cache may have forgotten.
    pub(crate) forgotten: Forgotten,
    /// Messages of others that are never to be taken.
    pub(crate) voids: Voids,
    /// Streams whose hand-outs are to be noted with the next batch.
    pub(crate) handed_dirty: BTreeSet<(u32, u8)>,
    /// Streams whose messages are awaited, to be noted with the next batch of messages.
    pub(crate) handed_awaited: BTreeSet<(u32, u8)>,

    pub(crate) loads: BTreeMap<LoadId, LoadFor>,
    pub(crate) next_load: u64,
    pub(crate) resident_bytes: usize,
    pub(crate) express_bytes: usize,
    pub(crate) stored_bytes: u64,
    /// Express messages for which the disk had no room when the node stopped.
    pub(crate) spills_refused: u64,

    pub(crate) busy_sessions: BTreeSet<LinkId>,
    pub(crate) busy_peers: BTreeSet<QmId>,
    pub(crate) busy_queues: BTreeSet<u32>,
    pub(crate) timers: BTreeSet<(Timestamp, Timer)>,
    pub(crate) flushed: bool,
    #[cfg(feature = "__breaks")]
    pub(crate) reached: crate::probe::Reached,
    /// Refusals that a break holds back.
    #[cfg(feature = "__breaks")]
    pub(crate) late: Vec<crate::late::Late>,
}

impl core::fmt::Debug for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine")
            .field("qm", &self.me.qm)
            .field("incarnation", &self.incarnation)
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine over what recovery found. Draws its incarnation from `entropy`.
    #[must_use]
    pub fn new(
        config: EngineConfig,
        me: Identity,
        recovered: Recovered,
        mut entropy: Box<dyn Entropy>,
        now: Now,
    ) -> Self {
        let incarnation = Incarnation(entropy.next_u64());
        let hash_key = [entropy.next_u64(), entropy.next_u64()];
        let mut dedup_config = DedupConfig::with_capacity(config.dedup_capacity);
        dedup_config.purge_interval_ms = config.dedup_purge_interval_ms;
        dedup_config.in_flight_max = crate::limits::RESERVED_MAX;
        let route_config = RouteConfig {
            lifetime_ms: config.ack_route_lifetime_ms,
            ..RouteConfig::default()
        };
        let mut engine = Self {
            me,
            incarnation,
            started: now.at,
            next_sequence: 1,
            salt: [0; 16],
            entropy,
            now,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            commits: Commits::default(),
            clock_saved: Timestamp(0),
            life: 0,
            first_position: 0,
            life_begun: false,
            early_receives: Vec::new(),
            life_saved: false,
            stopping: false,
            network_failed: None,
            room: Room::default(),
            locals: BTreeMap::new(),
            local_names: BTreeMap::new(),
            outs: BTreeMap::new(),
            remotes: BTreeMap::new(),
            remote_keys: BTreeMap::new(),
            reidentifying: Reidentifying::default(),
            heirs: Heirs::default(),
            next_queue: 0,
            next_remote: 0,
            prior_incarnations: BTreeSet::new(),
            peers: PeerBook::default(),
            sessions: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            dials: BTreeMap::new(),
            next_dial: 0,
            next_attempt: 0,
            doubts: BTreeMap::new(),
            owed: BTreeMap::new(),
            dedup: Arc::new(DedupCache::new(dedup_config, hash_key)),
            routes: Arc::new(AckRouteCache::new(route_config, hash_key)),
            clients: Clients::default(),
            penalties: Penalties::default(),
            understood: Understood::default(),
            jobs: Jobs::default(),
            purges: BTreeMap::new(),
            history: History::new(config.history_events_max, config.history_bytes_max),
            connections: Connections::default(),
            twins: Twins::default(),
            arrivals: Arrivals::default(),
            tokens: Tokens::default(),
            election: Election::default(),
            courses: Courses::default(),
            quarantine: Quarantine::default(),
            partings: Partings::default(),
            moved: false,
            branched: Branched::default(),
            recent: RecentArrivals::new(config.dedup_capacity > 0),
            undone_arrivals: BTreeSet::new(),
            back_again: BTreeMap::new(),
            stream_ids: BTreeMap::new(),
            dirty_streams: Vec::new(),
            begun_streams: Vec::new(),
            skips_heard: BTreeMap::new(),
            ins: InStreams::default(),
            open_letters: OpenLetters::new(),
            letters_resent: BTreeSet::new(),
            asks: Asks::default(),
            awaiting: Awaiting::default(),
            finals: Finals::default(),
            reports: Reports::default(),
            journal_later: Vec::new(),
            voids: Voids::default(),
            met: MetLives::new(),
            met_dirty: BTreeSet::new(),
            forgotten: Forgotten::new(config.dedup_capacity, config.dedup_purge_interval_ms),
            handed_dirty: BTreeSet::new(),
            handed_awaited: BTreeSet::new(),
            loads: BTreeMap::new(),
            next_load: 0,
            resident_bytes: 0,
            express_bytes: 0,
            stored_bytes: 0,
            spills_refused: 0,
            busy_sessions: BTreeSet::new(),
            busy_peers: BTreeSet::new(),
            busy_queues: BTreeSet::new(),
            timers: BTreeSet::new(),
            flushed: false,
            #[cfg(feature = "__breaks")]
            reached: crate::probe::Reached::default(),
            #[cfg(feature = "__breaks")]
            late: Vec::new(),
            config,
        };
        engine.recover(recovered);
        engine.save_met_in_parts();
        engine.arm(now.at.plus_ms(1_000), Timer::Maintenance);
        engine
    }

    /// This queue manager's identity.
    #[must_use]
    pub const fn qm_id(&self) -> QmId {
        self.me.qm
    }

    /// This life.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Sums since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Express messages that an orderly stop could not write down, because the disk had no room.
    #[must_use]
    pub const fn spills_refused(&self) -> u64 {
        self.spills_refused
    }

    /// The duplicate cache, shared with whoever only reads.
    #[must_use]
    pub fn dedup_cache(&self) -> Arc<DedupCache<ArrivalKey>> {
        Arc::clone(&self.dedup)
    }

    /// Takes one input in.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.advance(now);
        self.flushed = false;
        match input {
            Input::Connected {
                link,
                peer,
                public_key,
                own,
                remote,
                dial,
            } => {
                self.on_connected(link, (own, peer), &public_key, remote, dial);
            }
            Input::DialFailed {
                dial,
                failure,
                text,
            } => self.on_dial_failed(dial, failure, text),
            Input::Received { link, frames } => self.on_received(link, frames),
            Input::Closed { link, text } => self.on_closed(link, &text),
            Input::Persisted { ticket } => {
                while let Some(durable) = self.commits.durable(ticket) {
                    let then = if durable.overtakes {
                        self.undo(durable.then)
                    } else {
                        if durable.puts {
                            self.disk_took();
                        }
                        durable.then
                    };
                    self.on_durable(then);
                }
            }
            Input::PersistRefused {
                ticket,
                ops,
                limited,
            } => {
                if let Some(then) = self.commits.refused(ticket, ops) {
                    self.on_refused(then, limited);
                }
            }
            Input::DiskHasRoom => self.on_disk_has_room(),
            Input::Damaged {
                load,
                position,
                set_aside,
            } => self.on_damaged(load, position, set_aside),
            Input::Loaded { load, records } => self.on_loaded(load, records),
            Input::Client { conn, frame } => self.on_client(conn, frame),
            Input::ClientClosed { conn } => self.on_client_closed(conn),
            Input::Admin {
                conn,
                request,
                what,
            } => {
                let is_written = what.changes_what_is_stored();
                match self.on_admin(conn, request, what) {
                    // Told when it is on disk: an operator relies on it, too.
                    Some(reply) if is_written && !matches!(reply, AdminReply::Failed { .. }) => {
                        self.commits.after_settling(Then::Told {
                            conn,
                            request,
                            reply: Box::new(reply),
                        });
                    }
                    Some(reply) => self.outputs.push_back(Output::Admin {
                        conn,
                        request,
                        reply,
                    }),
                    None => {}
                }
            }
            Input::Signed { sign, signature } => self.on_signed(sign, signature),
            Input::Verified { verify, good } => self.on_verified(verify, good),
            Input::Succeeded {
                succession,
                token_key,
            } => self.on_succeeded(succession, token_key),
            Input::NotSucceeded { text } => self.on_not_succeeded(&text),
            Input::Resumed { why } => self.on_resumed(why),
            Input::Network { failed } => self.network_failed = failed,
            Input::Tick => {}
            Input::Stop => self.on_stop(),
        }
        self.seal_if_large();
    }

    /// The next thing that shall happen outside, `None` when nothing is left to say.
    pub fn poll(&mut self, now: Now) -> Option<Output> {
        self.advance(now);
        if !self.flushed {
            self.flush();
            self.flushed = true;
        }
        let output = self.outputs.pop_front();
        if output.is_none() {
            self.flushed = false;
        }
        output
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        self.timers.first().map_or(Timestamp::NEVER, |(at, _)| *at)
    }

    fn advance(&mut self, now: Now) {
        // A driver that hands in an older time would let timers fire twice.
        self.now.at = self.now.at.max(now.at);
        self.now.wall_us = now.wall_us;
        if crate::broken!(self, wall_clock) {
            self.now.at = self.now.at.max(Timestamp(now.wall_us));
        }
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > self.now.at {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Dial(remote) => self.on_dial_timer(remote),
                Timer::Session(link) => self.on_session_timer(link),
                Timer::Receivers(queue) => self.on_receivers_timer(queue),
                Timer::Expiry => self.expire_due(),
                Timer::Maintenance => self.on_maintenance(),
                Timer::Outcomes => self.purge_outcomes(),
                Timer::StoreRetry => self.on_store_retry(),
                Timer::StoreRoom => self.on_store_room(),
                Timer::Transaction(conn, transaction) => {
                    self.on_transaction_timer(conn, transaction);
                }
                // The next batch goes on with it.
                Timer::Purge => self.flushed = false,
            }
        }
    }

    /// Everything that is decided once for a batch of inputs.
    fn flush(&mut self) {
        self.step_purges();
        self.step_quarantine();
        self.look_for_room();
        while let Some(queue) = self.busy_queues.pop_first() {
            self.serve_receivers(queue);
        }
        while let Some(peer) = self.busy_peers.pop_first() {
            self.pump_peer(peer);
        }
        while let Some(link) = self.busy_sessions.pop_first() {
            self.flush_session(link);
        }
        self.look_after_followed(false);
        self.flush_clients();
        self.seal();
    }

    /// Keeps a batch within a segment of the store.
    pub(crate) fn seal_if_large(&mut self) {
        if self.commits.gathered_bytes() >= self.config.batch_bytes_max {
            self.seal();
        }
    }

    /// Closes the batches gathered so far and hands them to the store.
    pub(crate) fn seal(&mut self) {
        self.save_clients();
        self.save_chains();
        self.save_branches();
        self.save_handed();
        self.save_arrivals();
        // What is made from here on gets another salt, also when the disk has nothing to keep of
        // this batch: nothing that was made with a salt leaves before it is dropped, so that nobody
        // can know the one under which a message of his is going to be made (W-TAG-4).
        self.salt = [0; 16];
        if self.commits.is_empty() {
            return;
        }
        self.save_clock();
        self.save_met();
        self.awaiting.sealed();
        let puts = self.commits.has_puts();
        for sealed in self.commits.seal(self.now.at) {
            self.outputs.push_back(Output::Persist {
                ticket: sealed.ticket,
                ops: sealed.ops,
                refusals_known: sealed.refusals_known,
            });
        }
        if puts {
            self.courses.stored(self.stamp());
        }
    }

    fn save_clock(&mut self) {
        if !self.life_saved {
            // Acks for this life must find their way to the next one while it holds its messages.
            self.life_saved = true;
            self.commits
                .set(life_key(self.incarnation), Bytes::from_static(&[1]));
        }
        if self.clock_saved != Timestamp(0) && self.now.at.ms_since(self.clock_saved) < 1_000 {
            return;
        }
        self.clock_saved = self.now.at;
        let mut value = BytesMut::with_capacity(17);
        value.put_u8(1);
        value.put_u64_le(self.now.at.0);
        value.put_u64_le(self.now.wall_us);
        self.commits
            .set(Bytes::from_static(b"clock"), value.freeze());
    }

    fn on_maintenance(&mut self) {
        let now_ms = self.now.at.as_ms();
        self.dedup.purge(now_ms);
        for session in self.sessions.values_mut() {
            // It is open, even if nothing comes.
            session.refresh_routes(now_ms);
        }
        self.routes.purge(now_ms);
        self.purge_outcomes();
        self.look_after_followed(true);
        self.forgive();
        self.forget_lives();
        self.forget_idle_queues();
        self.forget_links();
        self.look_after_former();
        self.follow_election("another live machine keeps it");
        self.forget_voids();
        self.forget_finals();
        self.forget_awaited();
        self.count_stored_bytes();
        let interval = self.config.ack_route_purge_interval_ms.max(1_000);
        self.arm(self.now.at.plus_ms(interval), Timer::Maintenance);
    }

    /// Earlier lives are history once nothing is left that they might have minted.
    fn forget_lives(&mut self) {
        let holds = self
            .outs
            .values()
            .any(|out| out.has_work() || out.in_flight > 0);
        if !holds {
            // How messages ended that they minted is told by the name of the life, too.
            let lives = core::mem::take(&mut self.prior_incarnations);
            let (awaits, over): (BTreeSet<_>, BTreeSet<_>) = lives
                .into_iter()
                .partition(|life| self.awaiting.awaits_of(*life));
            self.prior_incarnations = awaits;
            for life in over {
                self.commits.unset(life_key(life));
            }
        }
    }

    /// Counts anew what the books hold, so that estimates made at recovery do not last. Express
    /// messages do not count, wherever they are: they are in no store.
    fn count_stored_bytes(&mut self) {
        let locals = self.locals.values().map(LocalQueue::stored_bytes);
        let outs = self.outs.values().flat_map(|out| out.lanes.values());
        let outs = outs.map(|lane| {
            let doubts = lane.doubt.values().map(Message::stored_bytes).sum::<u64>();
            lane.backlog.stored_bytes() + doubts
        });
        let flights = self
            .sessions
            .values()
            .flat_map(|session| session.flights.values());
        let flights = flights.map(|flight| flight.message.stored_bytes());
        self.stored_bytes = locals.chain(outs).chain(flights).sum();
    }

    fn on_stop(&mut self) {
        self.stopping = true;
        let links: Vec<_> = self.sessions.keys().copied().collect();
        for link in links {
            self.end_session(link, qm_wire::Outcome::STOPPING, "the node is stopping");
        }
        self.unmark_ahead();
        self.commits.try_again();
        if !crate::broken!(self, no_spill) {
            self.spill_express();
        }
    }

    pub(crate) fn arm(&mut self, at: Timestamp, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// The stream of one priority of one queue.
    pub(crate) const fn stream_of(queue: u32, priority: u8) -> StreamId {
        StreamId(queue * 8 + priority as u32)
    }

    pub(crate) const fn queue_of(stream: StreamId) -> (u32, u8) {
        (stream.0 / 8, (stream.0 % 8) as u8)
    }

    /// Randomness of the batch being gathered, drawn when its first message is made.
    pub(crate) fn batch_salt(&mut self) -> qm_wire::Salt {
        if self.salt == [0; 16] {
            self.entropy.fill(&mut self.salt);
        }
        qm_wire::Salt(self.salt)
    }

    /// Whether another durable message may be kept in memory beside its copy on disk.
    pub(crate) const fn may_keep(&self, cost: usize) -> bool {
        self.resident_bytes.saturating_add(cost) <= self.config.resident_bytes_max
            || crate::broken!(self, ignore_memory)
    }

    /// Accounts for a message that entered memory.
    pub(crate) const fn hold(&mut self, durable: bool, cost: usize) {
        if durable {
            self.resident_bytes += cost;
        } else {
            self.express_bytes += cost;
        }
    }

    /// Accounts for a message that left memory.
    pub(crate) const fn release(&mut self, message: &Message) {
        let cost = message.cost();
        if message.class.is_durable() {
            self.resident_bytes = self.resident_bytes.saturating_sub(cost);
        } else {
            self.express_bytes = self.express_bytes.saturating_sub(cost);
        }
    }

    pub(crate) fn start_load(
        &mut self,
        stream: StreamId,
        from: u64,
        records_max: usize,
        bytes_max: usize,
        what: LoadFor,
    ) {
        self.next_load += 1;
        let load = LoadId(self.next_load);
        self.loads.insert(load, what);
        self.outputs.push_back(Output::Load {
            load,
            stream,
            from,
            records_max,
            bytes_max,
        });
    }
}

/// Name of the value that says a life of this queue manager minted messages.
pub(crate) fn life_key(life: Incarnation) -> Bytes {
    crate::record::prefixed(b"life/", &life.0.to_be_bytes())
}

//! One session with one peer on one link: handshake, credit, what is in flight, what is to be
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use qm_wire::{
    Credit, Data, Entry, Goodbye, Hello, Incarnation, Outcome, PROTOCOL_MAX, PROTOCOL_MIN,
    PeerFrame, QmId, QueueName, QueueState, Refusal, Reject, SessionAck, Tag, Welcome,
    WelcomeFlags, tag_hash,
};

use crate::backlog::Message;
use crate::config::EngineConfig;
use crate::connections::With;
use crate::engine::{Engine, Route, Timer};
use crate::finals::push_finals;
use crate::identity::handshake::SessionTokens;
use crate::io::{Event, Lane, LinkId, Output};
use crate::limits::{DOUBTFUL_MAX, DOUBTFUL_SPAN_MS, FLIGHT_BYTES_MAX, FLIGHTS_MAX};
use crate::limits::{LATE_LOOK_MS, REFUSED_MAX};
use crate::peers::Approval;
use crate::stream::receiving::{StrangeStreams, StreamAnswers};
use crate::time::Timestamp;

/// Frames are handed to the transport in buffers of about this size.
const BUFFER_BYTES: usize = 64 << 10;

/// A transmitted message that is not settled.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) queue: u32,
    pub(crate) priority: u8,
    pub(crate) sent: Timestamp,
    pub(crate) message: Message,
}

/// How much of something doubtful a peer may do: so many in a span.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    since: Timestamp,
    used: u32,
}

impl Allowance {
    pub(crate) const fn admits(&mut self, now: Timestamp) -> bool {
        if now.ms_since(self.since) >= DOUBTFUL_SPAN_MS {
            self.since = now;
            self.used = 0;
        }
        self.used += 1;
        self.used <= DOUBTFUL_MAX
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: LinkId,
    pub(crate) peer: QmId,
    /// The identity that this node proved to it.
    pub(crate) own: QmId,
    pub(crate) remote: SocketAddr,
    pub(crate) dialled: bool,
    pub(crate) began: Timestamp,
    pub(crate) attempt: u64,
    /// The peer's hello, once it came.
    pub(crate) hello: Option<Hello>,
    /// The peer's welcome, once it came.
    pub(crate) welcome: Option<Welcome>,
    pub(crate) tokens: SessionTokens,
    /// Whether my welcome told the peer that it awaits approval.
    pub(crate) peer_pending: bool,
    /// Whether the peer's welcome told me that I await approval.
    pub(crate) pending: bool,
    pub(crate) opened: bool,
    /// Whether the peer proved that its identity is a former one.
    pub(crate) succeeded: bool,
    /// Words about machines that left an identity.
    pub(crate) parted_heard: u8,
    /// Whether the peer said goodbye.
    pub(crate) ends: bool,
    pub(crate) last_activity: Timestamp,
    /// How long acks take, smoothed, milliseconds.
    ack_takes_ms: u64,
    /// When the last ack came.
    pub(crate) last_ack: Timestamp,
    /// When the session is looked at next.
    pub(crate) timer: Timestamp,
    /// By when something must be heard, since something was asked.
    pub(crate) sign_until: Option<Timestamp>,

    // Sending.
    pub(crate) next_number: u64,
    pub(crate) flights: BTreeMap<u64, Flight>,
    pub(crate) flight_bytes: u64,
    pub(crate) credit: Credit,
    pub(crate) sent: Credit,
    pub(crate) closed_queues: BTreeSet<QueueName>,
    pub(crate) next_query: Timestamp,
    /// Up to where the peer may have forgotten messages of lives of this node.
    pub(crate) evicted: BTreeMap<Incarnation, u64>,

    // Receiving.
    pub(crate) granted: Credit,
    pub(crate) arrived: Credit,
    /// Arrived and not settled by an ack or a refusal: holds credit back.
    pub(crate) unsettled: Credit,
    pub(crate) acks: Vec<(u64, Tag)>,
    pub(crate) duplicate_acks: Vec<(u64, Tag)>,
    pub(crate) refusals: Vec<Refusal>,
    /// Answers for transactional messages.
    pub(crate) stream_answers: StreamAnswers,
    /// Messages of streams of which nothing is known here.
    pub(crate) strange_streams: StrangeStreams,
    /// What was refused on this session (W-USE-9); the oldest are forgotten first.
    pub(crate) refused: BTreeMap<Entry, Outcome>,
    refused_order: VecDeque<Entry>,
    /// How messages of the peer ended, to be told to it.
    pub(crate) finals: Vec<(Entry, Outcome)>,
    /// What it told of, is on disk here and is to be confirmed: with their sources.
    pub(crate) finals_noted: Vec<(QmId, Entry)>,
    /// When it is asked next how messages ended.
    pub(crate) next_finals: Timestamp,
    /// Whether not all that it is to be asked for fitted into one query.
    pub(crate) more_finals: bool,
    /// Acks that did not fit what they named.
    pub(crate) unverified: Allowance,
    /// When messages were last asked for because of one.
    pub(crate) asked_instead: Option<Timestamp>,
    /// Queues that the peer was told are full.
    pub(crate) told_full: BTreeSet<QueueName>,

    buffers: BTreeMap<Lane, BytesMut>,
}

impl Session {
    pub(crate) fn new(
        link: LinkId,
        (own, peer): (QmId, QmId),
        remote: SocketAddr,
        dialled: bool,
        now: Timestamp,
        attempt: u64,
    ) -> Self {
        let none = Credit {
            messages: 0,
            bytes: 0,
        };
        Self {
            link,
            peer,
            own,
            remote,
            dialled,
            began: now,
            attempt,
            hello: None,
            welcome: None,
            tokens: SessionTokens::default(),
            peer_pending: false,
            pending: false,
            opened: false,
            succeeded: false,
            parted_heard: 0,
            ends: false,
            last_activity: now,
            ack_takes_ms: 0,
            last_ack: Timestamp(0),
            timer: Timestamp::NEVER,
            sign_until: None,
            next_number: 1,
            flights: BTreeMap::new(),
            flight_bytes: 0,
            credit: none,
            sent: none,
            closed_queues: BTreeSet::new(),
            next_query: Timestamp::NEVER,
            evicted: BTreeMap::new(),
            granted: none,
            arrived: none,
            unsettled: none,
            acks: Vec::new(),
            duplicate_acks: Vec::new(),
            refusals: Vec::new(),
            stream_answers: StreamAnswers::default(),
            strange_streams: StrangeStreams::default(),
            refused: BTreeMap::new(),
            refused_order: VecDeque::new(),
            finals: Vec::new(),
            finals_noted: Vec::new(),
            next_finals: Timestamp(0),
            more_finals: false,
            unverified: Allowance::default(),
            asked_instead: None,
            told_full: BTreeSet::new(),
            buffers: BTreeMap::new(),
        }
    }

    pub(crate) fn push(&mut self, lane: Lane, frame: &PeerFrame) {
        frame.encode(self.buffers.entry(lane).or_default());
    }

    /// Appends a message; returns a buffer that is full enough to leave.
    pub(crate) fn push_data(&mut self, lane: Lane, data: &Data) -> Option<Bytes> {
        let buffer = self.buffers.entry(lane).or_default();
        data.encode(buffer);
        (buffer.len() >= BUFFER_BYTES).then(|| core::mem::take(buffer).freeze())
    }

    pub(crate) fn take_buffers(&mut self) -> BTreeMap<Lane, BytesMut> {
        core::mem::take(&mut self.buffers)
    }

    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.hello.as_ref().map(|hello| hello.incarnation)
    }

    /// Whether messages may leave on this session.
    pub(crate) const fn may_send(&self) -> bool {
        self.opened && !self.pending
    }

    /// Whether a message of this size may leave now: within credit, or alone when it exceeds every
    /// credit.
    pub(crate) fn admits(&self, bytes: u64) -> bool {
        // The peer's credit cannot make this node keep more in flight than a window of its own.
        if self.sent.messages >= self.credit.messages
            || self.flights.len() >= FLIGHTS_MAX
            || self.flight_bytes >= FLIGHT_BYTES_MAX
        {
            return false;
        }
        self.sent.bytes.saturating_add(bytes) <= self.credit.bytes
            || (self.flights.is_empty() && self.credit.bytes > 0)
    }

    /// Remembers a refusal, and forgets the oldest when there are too many.
    pub(crate) fn remember_refusal(&mut self, entry: Entry, outcome: Outcome) {
        if self.refused.insert(entry, outcome).is_none() {
            self.refused_order.push_back(entry);
        }
        if self.refused_order.len() > REFUSED_MAX
            && let Some(oldest) = self.refused_order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }

    /// Learns how long acks take.
    pub(crate) const fn ack_came(&mut self, after_ms: u64) {
        self.ack_takes_ms = (7 * self.ack_takes_ms + after_ms) / 8;
    }

    /// How long a message may be unacknowledged before it is asked for.
    pub(crate) fn ack_wait_ms(&self, config: &EngineConfig) -> u64 {
        let most = config.ack_wait_ms.max(config.ack_wait_min_ms);
        self.ack_takes_ms
            .saturating_mul(8)
            .clamp(config.ack_wait_min_ms, most)
    }

    /// Where the peer says it can be dialled.
    fn listens_at(&self) -> Option<String> {
        let port = self.hello.as_ref()?.listen_port;
        (port != 0).then(|| SocketAddr::new(self.remote.ip(), port).to_string())
    }

    /// The incarnation and priors for which acks may be routed to this session.
    fn lives(&self) -> Vec<Incarnation> {
        self.hello.as_ref().map_or_else(Vec::new, |hello| {
            let mut lives = hello.prior_incarnations.clone();
            lives.push(hello.incarnation);
            lives
        })
    }
}

/// Ranges and hash of numbered tags, as few frames as the limits allow.
pub(crate) fn session_acks(mut tags: Vec<(u64, Tag)>, duplicate: bool) -> Vec<SessionAck> {
    tags.sort_unstable_by_key(|(number, _)| *number);
    tags.dedup_by_key(|(number, _)| *number);
    let mut frames = Vec::new();
    let mut rest = VecDeque::from(tags);
    while let Some((first, _)) = rest.front().copied() {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut named = Vec::new();
        while let Some((number, tag)) = rest.front().copied() {
            if number - first >= qm_wire::limits::WINDOW_MESSAGES_MAX {
                break;
            }
            let full = ranges.len() == qm_wire::limits::ACK_RANGES_MAX;
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ if full => break,
                _ => ranges.push((number, number)),
            }
            named.push(tag);
            rest.pop_front();
        }
        frames.push(SessionAck {
            duplicate,
            tag_hash: tag_hash(named),
            ranges,
        });
    }
    frames
}

/// Whether the peer of an open session is to get another token.
fn session_due(session: Option<&Session>, now: Timestamp) -> bool {
    session.is_some_and(|session| session.tokens.rotate_at.is_some_and(|at| at <= now))
}

impl Engine {
    pub(crate) fn on_connected(
        &mut self,
        link: LinkId,
        (own, peer): (QmId, QmId),
        public_key: &[u8; 32],
        remote: SocketAddr,
        dial: Option<u64>,
    ) {
        let dialled = dial.is_some();
        if let Some(dial) = dial
            && !self.dial_succeeded(dial, peer)
        {
            self.close_link(
                link,
                Outcome::WRONG_IDENTITY,
                "another queue manager was expected",
            );
            return;
        }
        if self.stopping {
            self.close_link(link, Outcome::STOPPING, "the node is stopping");
            return;
        }
        if !self.is_own(own) {
            // Its key was erased, or given up, while the connection was made.
            let text = "this node has not got that identity any more";
            self.close_link(link, Outcome::WRONG_IDENTITY, text);
            return;
        }
        if let Some(left_ms) = self.penalty_left_ms(peer) {
            let text = format!(
                "this peer broke the protocol; it is let in again in {left_ms} milliseconds"
            );
            self.close_link(link, Outcome::BUSY, &text);
            return self.disconnected_from(own, peer, 0, &text);
        }
        let approval = self.meet(peer, public_key);
        if approval == Approval::Blocked {
            self.turn_away(link, Outcome::BLOCKED, "this peer is blocked");
            return self.disconnected_from(own, peer, 0, "this peer is blocked here");
        }
        if approval == Approval::Overflow {
            self.turn_away(link, Outcome::BUSY, "too many peers await approval");
            return self.disconnected_from(own, peer, 0, "too many peers await approval here");
        }
        if approval == Approval::Approved {
            self.outputs.push_back(Output::Trust { link });
        }
        self.next_attempt += 1;
        let attempt = self.next_attempt;
        let mut session = Session::new(link, (own, peer), remote, dialled, self.now.at, attempt);
        let token = self.token_for(own, peer);
        session.tokens = SessionTokens::new(token.clone());
        let priors: Vec<_> = self
            .prior_incarnations
            .iter()
            .copied()
            .take(qm_wire::limits::PRIOR_INCARNATIONS_MAX)
            .collect();
        session.push(
            Lane::Control,
            &PeerFrame::Hello(Hello {
                protocol_min: PROTOCOL_MIN,
                protocol_max: PROTOCOL_MAX,
                incarnation: self.incarnation,
                prior_incarnations: priors,
                attempt,
                token,
                listen_port: self.config.listen_port,
                body_bytes_max: self.config.body_bytes_max,
                flags: self.hello_flags(own),
                enrolment: Bytes::new(),
                name: self.config.name.as_str().into(),
                host: self.config.host.as_str().into(),
            }),
        );
        self.sessions.insert(link, session);
        self.by_peer.entry(peer).or_default().insert(link);
        self.twins_session_began(link, (own, peer));
        self.busy_sessions.insert(link);
        self.arm_session(link, self.now.at.plus_ms(self.config.handshake_timeout_ms));
    }

    pub(crate) fn on_hello(&mut self, link: LinkId, mut hello: Hello) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if session.hello.is_some() {
            return self.misbehaved(link, "a second hello on one session");
        }
        let peer = session.peer;
        let protocol = PROTOCOL_MAX.min(hello.protocol_max);
        if protocol < hello.protocol_min || protocol < PROTOCOL_MIN {
            let text = format!(
                "no common protocol version: the peer speaks {} to {}, this node {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                hello.protocol_min, hello.protocol_max
            );
            return self.end_session(link, Outcome::VERSION, &text);
        }
        if self.is_own(peer) && hello.incarnation == self.incarnation {
            return self.end_session(link, Outcome::WRONG_IDENTITY, "this node dialled itself");
        }
        let remote = session.remote;
        self.look_for_own_copy(link, &hello);
        let newly_pending = self.peers.announced(peer, &hello, remote, self.now.wall_us);
        let pending = self.peers.approval(peer) == Approval::Pending;
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce);
        if newly_pending {
            let name = hello.name.as_str().to_owned();
            self.event(Event::PeerPending { peer, name });
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.peer_pending = pending;
        session.tokens.nonce = nonce;
        session.tokens.protocol = protocol;
        let token = core::mem::take(&mut hello.token);
        session.hello = Some(hello);
        self.save_peer(peer);
        self.on_presented(link, &token);
    }

    pub(crate) fn on_welcome(&mut self, link: LinkId, welcome: Welcome) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let first = session.welcome.as_ref();
        let repeated = first.is_some();
        let same =
            |first: &Welcome| first.nonce == welcome.nonce && first.store_id == welcome.store_id;
        if welcome.attempt != session.attempt || !first.is_none_or(same) {
            return self.misbehaved(link, "a welcome that answers no hello of this session");
        }
        let branched = welcome.flags.contains(WelcomeFlags::BRANCHED);
        let token = welcome.token.clone();
        if !repeated {
            session.pending = welcome.flags.contains(WelcomeFlags::PENDING);
            session.welcome = Some(welcome);
        }
        self.take_token(link, &token, branched, repeated);
    }

    /// Opens the session once both hellos are answered, and both answers confirmed.
    pub(crate) fn try_open(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let confirmed = session.tokens.confirmed && session.tokens.peer_confirmed;
        if session.opened || session.hello.is_none() || session.welcome.is_none() || !confirmed {
            return;
        }
        session.opened = true;
        session.last_activity = self.now.at;
        let (own, peer) = (session.own, session.peer);
        let Some(hello) = session.hello.as_ref() else {
            return;
        };
        let incarnation = hello.incarnation;
        self.event(Event::SessionOpened {
            link,
            peer,
            incarnation,
        });
        self.connections.opened(peer);
        if let Some(session) = self.sessions.get(&link) {
            let who = if session.dialled {
                "dialled"
            } else {
                "answered"
            };
            let text = format!(
                "session {who}, peer at {}, life {incarnation}",
                session.remote
            );
            self.note_connection(With::Peer(peer), "opened", &text);
        }
        self.meet_life(peer, incarnation);
        self.supersede(link, peer, incarnation);
        self.doubt_other_lives(link, peer, incarnation);
        if !self.sessions.contains_key(&link) {
            return;
        }
        self.look_for_twins(link, peer);
        self.ask_own_copy(link);
        self.learn_routes(link);
        let store = self
            .sessions
            .get(&link)
            .and_then(|session| session.welcome.as_ref())
            .map(|welcome| welcome.store_id);
        if let Some(store) = store {
            self.meet_store(link, peer, store);
        }
        self.tell_full_queues(link);
        self.grant_credit(link);
        self.pay_owed_acks(peer);
        self.connected_to(own, peer);
        self.query_doubts(own, peer);
        self.query_awaited(own, peer);
        self.tell_finals(link, peer);
        self.tell_succession(link);
        self.tell_parted(link);
        self.tell_who_parted(link);
        self.look_for_approval(link);
        self.busy_peers.insert(peer);
        self.arm_session(link, self.now.at.plus_ms(self.config.idle_session_ms));
    }

    /// Lets the peer transmit as much as the window has room for. Never less than before.
    pub(crate) fn grant_credit(&mut self, link: LinkId) {
        if self.stopping || !self.may_grant() {
            return;
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if !session.opened || session.peer_pending {
            return;
        }
        let settled = Credit {
            messages: session
                .arrived
                .messages
                .saturating_sub(session.unsettled.messages),
            bytes: session
                .arrived
                .bytes
                .saturating_sub(session.unsettled.bytes),
        };
        let target = Credit {
            messages: settled.messages.saturating_add(self.config.window_messages),
            bytes: settled.bytes.saturating_add(self.config.window_bytes),
        };
        // Half a window at a time keeps the control lane quiet; the first grant is always sent.
        let gain_messages = target.messages.saturating_sub(session.granted.messages);
        let gain_bytes = target.bytes.saturating_sub(session.granted.bytes);
        if gain_messages >= self.config.window_messages.div_ceil(2)
            || gain_bytes >= self.config.window_bytes.div_ceil(2)
        {
            session.granted = Credit {
                messages: session.granted.messages.max(target.messages),
                bytes: session.granted.bytes.max(target.bytes),
            };
            let frame = PeerFrame::Credit(session.granted);
            session.push(Lane::Control, &frame);
            self.busy_sessions.insert(link);
        }
    }

    pub(crate) fn on_credit(&mut self, link: LinkId, credit: Credit) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.credit.messages = session.credit.messages.max(credit.messages);
        session.credit.bytes = session.credit.bytes.max(credit.bytes);
        // Credit is what approval looks like from the other side.
        session.pending = false;
        let peer = session.peer;
        self.busy_peers.insert(peer);
        self.look_for_approval(link);
    }

    pub(crate) fn on_queue_state(&mut self, link: LinkId, state: QueueState) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let peer = session.peer;
        let used = self
            .remotes
            .values()
            .any(|remote| remote.peer() == Some(peer) && remote.queues.contains_key(&state.queue));
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if state.open {
            session.closed_queues.remove(&state.queue);
        } else if used {
            session.closed_queues.insert(state.queue.detach());
        }
        let peer = session.peer;
        self.busy_peers.insert(peer);
    }

    /// Sends what was gathered for this session: acks, refusals, credit, buffers.
    pub(crate) fn flush_session(&mut self, link: LinkId) {
        self.grant_credit(link);
        #[cfg(feature = "__breaks")]
        self.tell_late(link);
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if !session.acks.is_empty() {
            for ack in session_acks(core::mem::take(&mut session.acks), false) {
                session.push(Lane::Ack, &PeerFrame::SessionAck(ack));
            }
        }
        if !session.duplicate_acks.is_empty() {
            for ack in session_acks(core::mem::take(&mut session.duplicate_acks), true) {
                session.push(Lane::Ack, &PeerFrame::SessionAck(ack));
            }
        }
        let refusals = core::mem::take(&mut session.refusals);
        for chunk in refusals.chunks(qm_wire::limits::ENTRIES_MAX) {
            session.push(
                Lane::Ack,
                &PeerFrame::Reject(Reject {
                    refusals: chunk.to_vec(),
                }),
            );
        }
        // Behind the refusals: what is needed again must not be sent again that was refused.
        for frame in session.stream_answers.take() {
            session.push(Lane::Ack, &frame);
        }
        // Behind the acks of their messages.
        push_finals(session);
        for (lane, buffer) in session.take_buffers() {
            if !buffer.is_empty() {
                self.outputs.push_back(Output::Send {
                    link,
                    lane,
                    frames: buffer.freeze(),
                });
            }
        }
    }

    /// Looks at a session at this time, or earlier when that is planned already.
    pub(crate) fn arm_session(&mut self, link: LinkId, at: Timestamp) {
        if let Some(session) = self.sessions.get_mut(&link)
            && at < session.timer
        {
            session.timer = at;
            self.arm(at, Timer::Session(link));
        }
    }

    pub(crate) fn on_session_timer(&mut self, link: LinkId) {
        let now = self.now.at;
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if session.timer > now {
            // A later plan that an earlier one overtook.
            return;
        }
        session.timer = Timestamp::NEVER;
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if !session.opened {
            let due = session.began.plus_ms(self.config.handshake_timeout_ms);
            let (own, peer) = (session.own, session.peer);
            if now >= due && self.sending_session(own, peer).is_some() {
                // Both dialled at once, and the other session was the quicker one.
                self.end_session(link, Outcome::SUPERSEDED, "another session took over");
            } else if now >= due {
                self.end_session(link, Outcome::PROTOCOL, "the handshake took too long");
            } else {
                self.arm_session(link, due);
            }
            return;
        }
        let sign_until = session.sign_until.unwrap_or(Timestamp::NEVER);
        if now >= sign_until {
            if now.ms_since(sign_until) < LATE_LOOK_MS {
                return self.end_silent(link);
            }
            // This node, or its machine, stood still: what came meanwhile is heard first.
            if let Some(session) = self.sessions.get_mut(&link) {
                session.sign_until = Some(now.plus_ms(LATE_LOOK_MS));
            }
        }
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let idle_at = session.last_activity.plus_ms(self.config.idle_session_ms);
        if now >= idle_at && session.flights.is_empty() && !self.is_wanted(session) {
            return self.end_session(link, Outcome::IDLE, "nothing was sent for a while");
        }
        self.query_overdue(link);
        self.query_awaited_when_due(link);
        if session_due(self.sessions.get(&link), now) {
            self.rotate(link);
        }
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let next = if session.flights.is_empty() && session.next_query == Timestamp::NEVER {
            idle_at.max(now.plus_ms(1_000))
        } else {
            now.plus_ms(session.ack_wait_ms(&self.config).max(100))
        };
        let sign_until = self
            .sessions
            .get(&link)
            .and_then(|session| session.sign_until)
            .unwrap_or(Timestamp::NEVER);
        let rotate_at = self
            .sessions
            .get(&link)
            .and_then(|session| session.tokens.rotate_at)
            .unwrap_or(Timestamp::NEVER);
        self.arm_session(link, next.min(sign_until).min(rotate_at));
    }

    pub(crate) fn on_goodbye(&mut self, link: LinkId, goodbye: &Goodbye) {
        let text = format!(
            "the peer said goodbye: {} ({})",
            goodbye.text, goodbye.reason
        );
        if let Some(session) = self.sessions.get(&link) {
            let peer = session.peer;
            // One of several machines gives the identity up; it says nothing of the others.
            // W-TWN-5.
            let leaves = goodbye.reason == Outcome::WRONG_IDENTITY && session.opened;
            if leaves {
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.ends = true;
                }
                self.twin_parts(link);
            // A session that gave way to another one says nothing about the peer.
            } else if goodbye.reason != Outcome::SUPERSEDED && goodbye.reason != Outcome::IDLE {
                self.connections.ended(peer, goodbye.reason);
                for remote in self.remotes.values_mut() {
                    if remote.peer() == Some(peer) {
                        remote.last_failure = None;
                    }
                }
            }
        }
        let refused = self.sessions.get(&link).map(|s| (s.own, s.peer));
        if goodbye.reason == Outcome::UNSUPPORTED
            && let Some((_, peer)) = refused
        {
            self.understands_no_succession(peer);
        }
        self.close_link(link, goodbye.reason, "goodbye");
        self.on_closed(link, &text);
        if goodbye.reason == Outcome::BLOCKED
            && let Some((own, peer)) = refused
        {
            self.blocked_by(own, peer);
        }
    }

    /// Says goodbye and closes; everything in flight becomes doubtful.
    pub(crate) fn end_session(&mut self, link: LinkId, reason: Outcome, text: &str) {
        if let Some(session) = self.sessions.get_mut(&link) {
            let frame = PeerFrame::Goodbye(Goodbye {
                reason,
                text: text.into(),
            });
            session.push(Lane::Control, &frame);
            self.flush_session(link);
        }
        self.close_link(link, reason, text);
        self.on_closed(link, text);
    }

    pub(crate) fn misbehaved(&mut self, link: LinkId, text: &str) {
        self.counters.misbehaved += 1;
        if let Some(session) = self.sessions.get(&link) {
            let peer = session.peer;
            self.penalize(peer);
            self.event(Event::PeerMisbehaved {
                peer,
                text: text.to_owned(),
            });
        }
        self.end_session(link, Outcome::PROTOCOL, text);
    }

    /// Closes a link on which no session was begun, with a word that its peer can act on.
    fn turn_away(&mut self, link: LinkId, reason: Outcome, text: &str) {
        let frame = PeerFrame::Goodbye(Goodbye {
            reason,
            text: text.into(),
        });
        let mut frames = BytesMut::new();
        frame.encode(&mut frames);
        self.outputs.push_back(Output::Send {
            link,
            lane: Lane::Control,
            frames: frames.freeze(),
        });
        self.close_link(link, reason, text);
    }

    /// Acknowledgements for what a peer sent go where it is. Nothing is taken from one that is
    /// pending, so it has no rows.
    pub(crate) fn learn_routes(&self, link: LinkId) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if !session.opened || session.peer_pending {
            return;
        }
        let (peer, lives) = (session.peer, session.lives());
        let now_ms = self.now.at.as_ms();
        for life in lives {
            // The address was for the time without a session.
            for route in self.routes.candidates(&(peer, life), now_ms) {
                if matches!(route, Route::Address(_)) {
                    self.routes.failed(&(peer, life), &route);
                }
            }
            self.routes
                .learn((peer, life), Route::Session(link), now_ms);
        }
    }

    fn close_link(&mut self, link: LinkId, reason: Outcome, text: &str) {
        self.outputs.push_back(Output::Close {
            link,
            reason,
            text: text.to_owned(),
        });
    }

    pub(crate) fn on_closed(&mut self, link: LinkId, text: &str) {
        let Some(session) = self.sessions.remove(&link) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        self.busy_sessions.remove(&link);
        if let Some(links) = self.by_peer.get_mut(&peer) {
            links.remove(&link);
            if links.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        self.twins_session_ended(link, (own, peer));
        for life in session.lives() {
            self.routes.failed(&(peer, life), &Route::Session(link));
            if let Some(address) = session.listens_at()
                && !session.peer_pending
            {
                let now_ms = self.now.at.as_ms();
                self.routes
                    .learn((peer, life), Route::Address(address), now_ms);
            }
        }
        self.unsend_skips(link);
        for flight in session.flights.into_values() {
            self.landed(flight.queue, flight.priority);
            if crate::broken!(self, resend_blindly) {
                self.send_again(flight.queue, flight.priority, flight.message);
                continue;
            }
            self.put_in_doubt(flight.queue, flight.priority, flight.message);
        }
        self.note_connection(With::Peer(peer), "closed", text);
        self.event(Event::SessionClosed {
            link,
            peer,
            text: text.to_owned(),
        });
        let lasted_ms = if session.opened {
            self.now.at.ms_since(session.began)
        } else {
            0
        };
        self.disconnected_from(own, peer, lasted_ms, text);
        self.query_doubts(own, peer);
        self.busy_peers.insert(peer);
        self.ask_the_heir(own, peer);
    }

    /// The session to transmit to this peer on under one of this node's identities: open, and of
    /// the peer's newest life. Of two machines with one identity, not the one that gives it up.
    pub(crate) fn sending_session(&self, own: QmId, peer: QmId) -> Option<LinkId> {
        let may_send = |session: &Session| session.own == own && session.may_send();
        let links = self.by_peer.get(&peer)?.iter().rev().copied();
        let mut open = links.filter(|link| self.sessions.get(link).is_some_and(may_send));
        open.find(|link| {
            let session = self.sessions.get(link);
            // Who follows a machine that drains was shown; else another one keeps its identity.
            session.is_some_and(|session| session.succeeded) || !self.is_draining(*link)
        })
    }

    /// Whether there is a session with this peer under one of this node's identities.
    pub(crate) fn has_session(&self, own: QmId, peer: QmId) -> bool {
        let links = self.by_peer.get(&peer).into_iter().flatten();
        links
            .filter_map(|link| self.sessions.get(link))
            .any(|session| session.own == own)
    }
}

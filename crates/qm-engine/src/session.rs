//! One session with one peer on one link: what it knows and holds, what leaves on it together, and
//! when it is looked at.
//!
//! [`opening`] is how it begins, [`credit`] what each side may transmit, [`ending`] how it ends.

mod credit;
mod ending;
mod opening;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use qm_cache::RouteHandle;
use qm_wire::{
    Credit, Data, Entry, Hello, Incarnation, Outcome, PeerFrame, QmId, QueueName, Refusal, Reject,
    SessionAck, Tag, Welcome, tag_hash,
};

use crate::backlog::Message;
use crate::config::EngineConfig;
use crate::engine::{Engine, Route, Timer};
use crate::finals::push_finals;
use crate::identity::handshake::SessionTokens;
use crate::io::{Lane, LinkId, Output};
use crate::limits::{DOUBTFUL_MAX, DOUBTFUL_SPAN_MS, FLIGHT_BYTES_MAX, FLIGHTS_MAX};
use crate::limits::{LATE_LOOK_MS, REFUSED_MAX};
use crate::outgoing::DoubtsAsked;
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
    /// The life of this node that its hello told: the peer knows it by this one until the session
    /// ends, whatever begins meanwhile.
    pub(crate) told_life: Incarnation,
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
    /// Where acknowledgements for the peer's lives go by this session, as fresh as what came on it.
    pub(crate) routes: Vec<RouteHandle<Route>>,
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
    /// What it is being asked about.
    pub(crate) doubts_asked: DoubtsAsked,
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
    /// Skips that are on their way to the disk.
    pub(crate) skips_open: usize,
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
    /// Refusals of whole messages as damaged: one end has a fault in it, and repeats it.
    pub(crate) called_damaged: Allowance,
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
        (attempt, told_life): (u64, Incarnation),
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
            told_life,
            hello: None,
            welcome: None,
            tokens: SessionTokens::default(),
            peer_pending: false,
            pending: false,
            opened: false,
            routes: Vec::new(),
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
            doubts_asked: DoubtsAsked::default(),
            evicted: BTreeMap::new(),
            granted: none,
            arrived: none,
            unsettled: none,
            acks: Vec::new(),
            duplicate_acks: Vec::new(),
            refusals: Vec::new(),
            skips_open: 0,
            stream_answers: StreamAnswers::default(),
            strange_streams: StrangeStreams::default(),
            refused: BTreeMap::new(),
            refused_order: VecDeque::new(),
            finals: Vec::new(),
            finals_noted: Vec::new(),
            next_finals: Timestamp(0),
            more_finals: false,
            unverified: Allowance::default(),
            called_damaged: Allowance::default(),
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

    /// The peer is heard, or at the other end still: acknowledgements go where it was heard last.
    /// A way that led to somebody else is not found again like that.
    pub(crate) fn refresh_routes(&mut self, now_ms: u64) {
        self.routes.retain(|route| route.refresh(now_ms));
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

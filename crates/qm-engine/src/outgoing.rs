//! Messages on their way to other nodes: where they wait, when they leave, what becomes of those
//! that may have been transmitted before.

use std::collections::BTreeMap;

use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{
    Class, Data, Entry, MessageFlags, Outcome, PeerFrame, Priority, QmId, Query, QueueName, Transit,
};

use crate::backlog::{Backlog, Message, left_ms};
use crate::commits::{Died, Origin};
use crate::dead::{Doubt, End};
use crate::engine::{Engine, LoadFor, Timer};
use crate::expiry::TOGETHER_MS;
use crate::history::What;
use crate::io::{DialFailure, Event, Lane, LinkId, Output, StoreOp};
use crate::journal::wishes_copy;
use crate::limits::{DOUBT_BYTES_MAX, DOUBTS_MAX, QUEUES_MAX, SILENT_SESSION_MS};
use crate::record::RemoteKey;
use crate::reports::{Wanted, With};
use crate::session::Flight;
use crate::stream::sending::OutStream;
use crate::time::Timestamp;

/// Messages read from disk at a time.
const LOAD_RECORDS: usize = 1_024;
/// Bytes read from disk at a time.
const LOAD_BYTES: usize = 1 << 20;

/// A destination node as addressed.
#[derive(Debug)]
pub(crate) struct Remote {
    /// The identity of this node under which it is spoken to.
    pub(crate) own: QmId,
    pub(crate) key: RemoteKey,
    pub(crate) pin: Option<QmId>,
    pub(crate) queues: BTreeMap<QueueName, u32>,
    pub(crate) state: DialState,
    pub(crate) backoff_ms: u64,
    pub(crate) turn: usize,
    pub(crate) last_error: Option<String>,
    pub(crate) last_failure: Option<DialFailure>,
}

/// Where the next connection stands.
#[derive(Debug)]
pub(crate) enum DialState {
    Idle,
    Dialing { address: String },
    Waiting { until: Timestamp },
}

impl Remote {
    pub(crate) const fn new(own: QmId, key: RemoteKey, pin: Option<QmId>) -> Self {
        Self {
            own,
            key,
            pin,
            queues: BTreeMap::new(),
            state: DialState::Idle,
            backoff_ms: 0,
            turn: 0,
            last_error: None,
            last_failure: None,
        }
    }

    /// The only queue manager that may speak about what waits here.
    pub(crate) const fn peer(&self) -> Option<QmId> {
        self.pin
    }
}

/// The messages for one queue of one remote.
#[derive(Debug)]
pub(crate) struct OutQueue {
    pub(crate) remote: u32,
    pub(crate) queue: QueueName,
    pub(crate) paused: bool,
    pub(crate) lanes: BTreeMap<u8, OutLane>,
    pub(crate) in_flight: u64,
    pub(crate) acknowledged: u64,
    /// Messages that ended here and that the destination is asked for.
    pub(crate) asked: u64,
    /// Of its transactional messages, once there was one.
    pub(crate) stream: Option<OutStream>,
    /// Since when maintenance finds no work for it.
    pub(crate) idle_since: Option<Timestamp>,
}

/// One priority of an outgoing queue.
#[derive(Debug)]
pub(crate) struct OutLane {
    pub(crate) backlog: Backlog,
    /// Messages that may have been transmitted before, by position; none is sent again before the
    /// destination said that it does not have it.
    pub(crate) doubt: BTreeMap<u64, Message>,
    doubt_bytes: u64,
    /// Before this time none of them expires.
    pub(crate) doubt_deadline: Timestamp,
    /// Messages of this priority in flight, and on which session: all on one, because two
    /// sessions are not ordered among themselves.
    flying: (u64, Option<LinkId>),
}

impl OutLane {
    pub(crate) const fn new(backlog: Backlog) -> Self {
        Self {
            backlog,
            doubt: BTreeMap::new(),
            doubt_bytes: 0,
            doubt_deadline: Timestamp::NEVER,
            flying: (0, None),
        }
    }

    /// Whether messages are in flight on another session than this one.
    pub(crate) fn flies_elsewhere(&self, link: LinkId) -> bool {
        self.flying.0 > 0 && self.flying.1 != Some(link)
    }
}

impl OutQueue {
    pub(crate) fn has_work(&self) -> bool {
        self.lanes
            .values()
            .any(|lane| !lane.backlog.is_empty() || !lane.doubt.is_empty())
            || self.skipping() > 0
            || self.asked > 0
    }

    /// Whether transactional messages of it may still be on their way.
    pub(crate) fn holds_stream(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| {
            self.has_work() || self.in_flight > 0 || !stream.leaving.is_empty()
        })
    }

    pub(crate) fn waiting(&self) -> (u64, u64) {
        self.lanes.values().fold((0, 0), |(messages, bytes), lane| {
            (messages + lane.backlog.messages, bytes + lane.backlog.bytes)
        })
    }

    /// Transactional messages in doubt.
    pub(crate) fn doubtful_in_stream(&self) -> u64 {
        let doubts = self.lanes.values().flat_map(|lane| lane.doubt.values());
        doubts.filter(|m| m.class == Class::Transactional).count() as u64
    }

    pub(crate) fn doubtful(&self) -> u64 {
        self.lanes
            .values()
            .map(|lane| lane.doubt.len() as u64)
            .sum()
    }
}

impl Engine {
    /// The outgoing queue for a queue of a remote, made durable with its first message. `own`: the
    /// identity under which its messages are minted.
    pub(crate) fn out_queue(&mut self, own: QmId, key: &RemoteKey, queue: &QueueName) -> u32 {
        let remote = self.remote_as(own, key);
        let known = self.remotes.get(&remote).and_then(|r| r.queues.get(queue));
        if let Some(number) = known.copied() {
            if let Some(out) = self.outs.get_mut(&number) {
                out.idle_since = None;
            }
            return number;
        }
        let number = self.next_queue;
        self.next_queue += 1;
        let queue = queue.detach();
        let paused = self
            .sibling_of(own, key, &queue)
            .is_some_and(|out| out.paused);
        self.insert_out_queue(number, remote, queue, paused);
        self.record_queue(number);
        if own != self.me.qm {
            self.make_siblings();
        }
        number
    }

    /// Whether another queue may be made, here or towards a remote.
    pub(crate) fn may_add_queue(&self) -> bool {
        // Each priority of a queue is a stream, numbered in 32 bits and never again.
        self.locals.len() + self.outs.len() < QUEUES_MAX && self.next_queue < u32::MAX / 8
    }

    pub(crate) fn is_out_queue(&self, key: &RemoteKey, queue: &QueueName) -> bool {
        let remote = self
            .find_remote(key)
            .as_ref()
            .and_then(|number| self.remotes.get(number));
        remote.is_some_and(|remote| remote.queues.contains_key(queue))
    }

    pub(crate) fn insert_out_queue(
        &mut self,
        number: u32,
        remote: u32,
        queue: QueueName,
        paused: bool,
    ) {
        if let Some(remote) = self.remotes.get_mut(&remote) {
            remote.queues.insert(queue.clone(), number);
        }
        let lanes = BTreeMap::new();
        let out = OutQueue {
            remote,
            queue,
            paused,
            lanes,
            in_flight: 0,
            acknowledged: 0,
            asked: 0,
            stream: None,
            idle_since: None,
        };
        self.outs.insert(number, out);
    }

    pub(crate) fn out_lane(&mut self, number: u32, priority: u8) -> Option<&mut OutLane> {
        let stream = Self::stream_of(number, priority);
        let first = self.first_position;
        self.outs.get_mut(&number).map(|out| {
            out.lanes
                .entry(priority)
                .or_insert_with(|| OutLane::new(Backlog::new(stream, first)))
        })
    }

    /// Wakes whatever may move messages of this outgoing queue.
    pub(crate) fn nudge_out(&mut self, number: u32) {
        let Some(remote_number) = self.outs.get(&number).map(|out| out.remote) else {
            return;
        };
        let Some(remote) = self.remotes.get(&remote_number) else {
            return;
        };
        let own = remote.own;
        if let Some(peer) = remote.peer()
            && self.by_peer.contains_key(&peer)
        {
            // Also when only the other identity has a session: its messages wait for these.
            self.busy_peers.insert(peer);
            if self.has_session(own, peer) {
                return;
            }
        }
        self.want_connection(remote_number);
    }

    /// The outgoing queues for a peer whose messages are minted under one of this node's
    /// identities.
    pub(crate) fn queues_towards(&self, own: QmId, peer: QmId) -> Vec<u32> {
        self.remotes
            .values()
            .filter(|remote| remote.own == own && remote.peer() == Some(peer))
            .flat_map(|remote| remote.queues.values().copied())
            .collect()
    }

    /// Transmits what credit and the state of queues allow, higher priorities first.
    pub(crate) fn pump_peer(&mut self, peer: QmId) {
        // The former identity first: the other one waits for it.
        for own in self.owns() {
            self.pump_peer_as(own, peer);
        }
    }

    fn pump_peer_as(&mut self, own: QmId, peer: QmId) {
        let Some(link) = self.sending_session(own, peer) else {
            return;
        };
        let numbers = self.queues_towards(own, peer);
        self.ask_fresh(own, peer, &numbers);
        let mut asked = false;
        for priority in (0..Priority::COUNT).rev() {
            let Ok(priority) = u8::try_from(priority) else {
                continue;
            };
            for number in &numbers {
                asked |= self.pump_lane(link, *number, priority);
            }
        }
        if asked {
            self.query_doubts(own, peer);
        }
        self.busy_sessions.insert(link);
    }

    /// Returns whether messages of an earlier life were found whose fate must be asked.
    fn pump_lane(&mut self, link: LinkId, number: u32, priority: u8) -> bool {
        let mut asked = false;
        let mut first_flight = false;
        let barred = priority == Priority::LOWEST.get() && self.is_barred(number);
        // Nothing leaves for which its copy would find no room.
        let full = self.disk_refuses();
        loop {
            if priority == Priority::LOWEST.get() && !barred && !self.pump_stream(link, number) {
                return asked;
            }
            let now = self.now;
            let incarnation = self.incarnation;
            let Some(out) = self.outs.get_mut(&number) else {
                return asked;
            };
            let Some(session) = self.sessions.get_mut(&link) else {
                return asked;
            };
            if out.paused || session.closed_queues.contains(&out.queue) {
                return asked;
            }
            let Some(lane) = out.lanes.get_mut(&priority) else {
                return asked;
            };
            let Some(next) = lane.backlog.peek() else {
                break;
            };
            // W-USE-8: it is not sent any more; whether it was sent before, its destination says. A
            // transactional message that was is judged by its destination, in its place.
            let may_be_there = next.transmitted || next.id.incarnation != incarnation;
            let judged_there = may_be_there && next.class == Class::Transactional;
            if next.reach_deadline() <= now.at && !judged_there {
                let Some(message) = lane.backlog.pop() else {
                    break;
                };
                self.release(&message);
                self.expire_out(number, priority, &message);
                continue;
            }
            // Order within a priority: nothing leaves before what is older and in doubt.
            let inherited = next.id.incarnation != incarnation
                && !next.transmitted
                && !crate::broken!(self, forget_doubt);
            if inherited {
                if lane.doubt.len() >= DOUBTS_MAX || lane.doubt_bytes >= DOUBT_BYTES_MAX {
                    break;
                }
                let Some(message) = lane.backlog.pop() else {
                    break;
                };
                self.release(&message);
                self.put_in_doubt(number, priority, message);
                asked = true;
                continue;
            }
            if lane
                .doubt
                .first_key_value()
                .is_some_and(|(first, _)| *first < next.position)
                && !crate::broken!(self, overtake_doubt)
            {
                break;
            }
            if lane.flies_elsewhere(link) {
                break;
            }
            if full && wishes_copy(next) {
                break;
            }
            let transactional = next.class == Class::Transactional;
            if transactional && barred {
                crate::reached!(self, BarredByFormer);
                break;
            }
            let stream = out.stream.as_mut().filter(|_| transactional);
            if stream
                .as_ref()
                .is_some_and(|s| s.waits_behind(next.position))
            {
                break;
            }
            if transactional && stream.is_none() {
                self.begin_stream(number);
                continue;
            }
            if !session.admits(next.credit()) && !crate::broken!(self, ignore_credit) {
                break;
            }
            let Some(message) = lane.backlog.pop() else {
                break;
            };
            #[cfg(feature = "__breaks")]
            let message = if crate::broken!(self, relabel_queue) {
                crate::relabel::relabelled(message, session.own)
            } else {
                message
            };
            // In flight it is bounded by the window, not by what may be kept beside the disk.
            let held = if message.class.is_durable() {
                &mut self.resident_bytes
            } else {
                &mut self.express_bytes
            };
            *held = held.saturating_sub(message.cost());
            let place = match stream {
                None => None,
                Some(stream) => match stream.fly(&message, (link, session.next_number)) {
                    Some(place) => Some(place),
                    None => {
                        // It was settled once; only its removal was lost.
                        if wishes_copy(&message) {
                            self.leave_delivered(number, priority, &message);
                        } else {
                            self.remove_from_store(number, priority, &message);
                        }
                        continue;
                    }
                },
            };
            let flying = &mut lane.flying;
            let again = message.transmitted;
            if again && message.reach_deadline() <= now.at {
                crate::reached!(self, ExpiredAsked);
            }
            let data = Data {
                number: session.next_number,
                tag: message.tag,
                transit: Transit {
                    place,
                    ..Transit::direct(
                        left_ms(message.reach_left_ms, message.at, now.at),
                        left_ms(message.receive_left_ms, message.at, now.at),
                    )
                },
                envelope: message.envelope.clone(),
                body: message.body.clone(),
            };
            session.next_number += 1;
            session.sent.messages += 1;
            session.sent.bytes += message.credit();
            session.last_activity = now.at;
            let lane = Lane::Priority(priority);
            if let Some(frames) = session.push_data(lane, &data) {
                self.outputs.push_back(Output::Send { link, lane, frames });
            }
            let peer = session.peer;
            let sent = (message.source, message.id);
            let flight = Flight {
                queue: number,
                priority,
                sent: now.at,
                message,
            };
            session.flight_bytes = session.flight_bytes.saturating_add(flight.message.credit());
            session.flights.insert(data.number, flight);
            out.in_flight += 1;
            flying.0 += 1;
            flying.1 = Some(link);
            first_flight |= session.flights.len() == 1;
            self.counters.transmitted += 1;
            let (source, id) = sent;
            self.note(source, id, What::Transmitted { peer, link, again });
            self.counters.retransmitted += u64::from(again);
            if crate::broken!(self, settle_on_transmit) {
                self.settle_flight(link, data.number);
            }
        }
        if first_flight && let Some(session) = self.sessions.get(&link) {
            let wait_ms = session.ack_wait_ms(&self.config);
            self.arm_session(link, self.now.at.plus_ms(wait_ms));
        }
        self.refill_out(number, priority);
        asked
    }

    /// Reads on from disk when memory runs low.
    pub(crate) fn refill_out(&mut self, number: u32, priority: u8) {
        let room = self.may_keep(LOAD_BYTES);
        // What is purged is not asked for first.
        let purged = self.purges.contains_key(&(false, number));
        let Some(lane) = self
            .outs
            .get_mut(&number)
            .and_then(|out| out.lanes.get_mut(&priority))
        else {
            return;
        };
        if lane.doubt.len() >= DOUBTS_MAX && !purged {
            return;
        }
        let Some(from) = lane.backlog.wants_load(LOAD_RECORDS, room) else {
            return;
        };
        lane.backlog.load_started();
        let stream = lane.backlog.stream;
        let what = LoadFor::Backlog {
            queue: number,
            priority,
            local: false,
        };
        self.start_load(stream, from, LOAD_RECORDS, LOAD_BYTES, what);
    }

    /// One message less in flight.
    pub(crate) fn landed(&mut self, number: u32, priority: u8) {
        let Some(out) = self.outs.get_mut(&number) else {
            return;
        };
        out.in_flight = out.in_flight.saturating_sub(1);
        if let Some(lane) = out.lanes.get_mut(&priority) {
            lane.flying.0 = lane.flying.0.saturating_sub(1);
        }
    }

    /// A message that may have been transmitted: it is asked for, not sent again.
    pub(crate) fn put_in_doubt(&mut self, number: u32, priority: u8, message: Message) {
        let id = message.id;
        let position = message.position;
        self.place_in_stream(number, &message);
        if let Some(out) = self.outs.get_mut(&number) {
            if id.incarnation != self.incarnation {
                self.prior_incarnations.insert(id.incarnation);
            }
            if let Some(lane) = out.lanes.get_mut(&priority) {
                let mut message = message;
                message.transmitted = true;
                let source = message.source;
                // The destination of a transactional message judges its time.
                let due = if message.class == Class::Transactional {
                    Timestamp::NEVER
                } else {
                    message.reach_deadline()
                };
                lane.doubt_deadline = lane.doubt_deadline.min(due);
                lane.doubt_bytes = lane.doubt_bytes.saturating_add(message.credit());
                lane.doubt.insert(position, message);
                self.doubts.insert(id, (number, priority, position));
                let peer = self.remotes.get(&out.remote).and_then(Remote::peer);
                self.note(source, id, What::InDoubt { peer });
                if due != Timestamp::NEVER {
                    // A full disk may have just refused its letter.
                    self.arm(due.max(self.now.at.plus_ms(100)), Timer::Expiry);
                }
            }
        }
    }

    /// Takes a message out of doubt that ends here, whatever became of it.
    pub(crate) fn give_up_doubt(
        &mut self,
        number: u32,
        priority: u8,
        position: u64,
    ) -> Option<Message> {
        let lane = self.outs.get_mut(&number)?.lanes.get_mut(&priority)?;
        let message = lane.doubt.remove(&position)?;
        lane.doubt_bytes = lane.doubt_bytes.saturating_sub(message.credit());
        self.doubts.remove(&message.id);
        Some(message)
    }

    /// Takes a message out of doubt when tag and destination are right.
    pub(crate) fn take_doubt(&mut self, peer: QmId, entry: &Entry) -> Option<(u32, u8, Message)> {
        let (number, priority, position) = *self.doubts.get(&entry.id)?;
        let out = self.outs.get_mut(&number)?;
        // W-USE-1: only the queue manager a message was sent to may speak about it.
        let of = self.remotes.get(&out.remote).and_then(Remote::peer);
        if of != Some(peer) && !self.heirs.succeeded(peer, of) {
            return None;
        }
        let lane = out.lanes.get_mut(&priority)?;
        if lane.doubt.get(&position)?.tag != entry.tag {
            return None;
        }
        let message = lane.doubt.remove(&position)?;
        lane.doubt_bytes = lane.doubt_bytes.saturating_sub(message.credit());
        self.doubts.remove(&entry.id);
        Some((number, priority, message))
    }

    /// Asks a peer for everything in doubt towards it.
    pub(crate) fn query_doubts(&mut self, own: QmId, peer: QmId) {
        let Some(link) = self.sending_session(own, peer) else {
            return;
        };
        let mut entries = Vec::new();
        for number in self.queues_towards(own, peer) {
            if let Some(out) = self.outs.get(&number) {
                for lane in out.lanes.values() {
                    entries.extend(lane.doubt.values().map(Message::entry));
                }
            }
        }
        self.send_query(link, &entries);
        self.query_ended(own, peer);
    }

    pub(crate) fn send_query(&mut self, link: LinkId, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let interval = self.config.query_interval_ms;
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let me = session.own;
        for chunk in entries.chunks(ENTRIES_MAX) {
            let query = Query {
                source: me,
                void: false,
                entries: chunk.to_vec(),
            };
            session.push(Lane::Control, &PeerFrame::Query(query));
        }
        let peer = session.peer;
        for entry in entries {
            self.note(me, entry.id, What::Queried { peer });
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let next_query = self.now.at.plus_ms(interval);
        session.next_query = next_query;
        self.counters.queried += entries.len() as u64;
        self.arm_session(link, next_query);
        self.expect_sign(link, SILENT_SESSION_MS);
        self.busy_sessions.insert(link);
    }

    /// Asks for what has been unacknowledged for too long, first after the ack wait, then at the
    /// query interval.
    pub(crate) fn query_overdue(&mut self, link: LinkId) {
        let now = self.now.at;
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if !session.may_send()
            || (session.next_query != Timestamp::NEVER && now < session.next_query)
        {
            return;
        }
        let (own, peer) = (session.own, session.peer);
        let wait_ms = session.ack_wait_ms(&self.config);
        let mut entries: Vec<Entry> = session
            .flights
            .values()
            .take(ENTRIES_MAX)
            .filter(|flight| flight.sent.plus_ms(wait_ms) <= now)
            .map(|flight| flight.message.entry())
            .collect();
        if self.sending_session(own, peer) == Some(link) {
            for number in self.queues_towards(own, peer) {
                if let Some(out) = self.outs.get(&number) {
                    for lane in out.lanes.values() {
                        entries.extend(lane.doubt.values().map(Message::entry));
                    }
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.next_query = Timestamp::NEVER;
        }
        self.send_query(link, &entries);
        if self.sending_session(own, peer) == Some(link) && self.query_ended(own, peer) {
            let next_query = now.plus_ms(self.config.query_interval_ms);
            if let Some(session) = self.sessions.get_mut(&link) {
                session.next_query = session.next_query.min(next_query);
            }
            self.arm_session(link, next_query);
        }
    }

    /// The destination has it: the message leaves the queue for good.
    pub(crate) fn settle_delivered(&mut self, number: u32, priority: u8, message: &Message) {
        self.settle_in_stream(number, message);
        if let Some(out) = self.outs.get_mut(&number) {
            out.acknowledged += 1;
        }
        self.counters.acknowledged += 1;
        let peer = self.peer_of(number);
        self.leave_delivered(number, priority, message);
        self.note(message.source, message.id, What::Acknowledged { peer });
        self.event(Event::Acknowledged { id: message.id });
        self.tell_fate(message.id, Outcome::REACHED_QUEUE);
    }

    /// What was delivered goes, with all that is noted of it, in one commit.
    pub(crate) fn leave_delivered(&mut self, number: u32, priority: u8, message: &Message) {
        // A copy needs room: with it everything is refused, and comes again.
        let copies = wishes_copy(message);
        let with = if copies { With::Event } else { With::Nothing };
        let wanted = Wanted::of(&message.envelope);
        let of = (message.id, message.class);
        let arrived = Outcome::REACHED_QUEUE;
        self.report(wanted.as_ref(), of, arrived, copies, with);
        if let Some(peer) = self.peer_of(number) {
            self.await_final(message, peer, copies);
        }
        if copies {
            self.journal(number, priority, message);
        } else {
            self.remove_from_store(number, priority, message);
        }
    }

    fn remove_from_store(&mut self, number: u32, priority: u8, message: &Message) {
        let stream = Self::stream_of(number, priority);
        if message.class.is_durable() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
            let (first, last) = (message.position, message.position);
            self.commits.settle(StoreOp::Remove {
                stream,
                first,
                last,
            });
        }
    }

    /// The destination said that the message will not be delivered.
    pub(crate) fn bury(
        &mut self,
        number: u32,
        priority: u8,
        message: &Message,
        outcome: Outcome,
        doubt: Doubt,
    ) {
        // A refusal that claims success is a fault of the peer, and a dead letter all the same.
        let outcome = if outcome.0 == 0 || outcome.is_positive() {
            Outcome::PROTOCOL
        } else {
            outcome
        };
        let peer = self
            .outs
            .get(&number)
            .and_then(|out| self.remotes.get(&out.remote))
            .and_then(Remote::peer);
        let end = End {
            by: peer.unwrap_or(self.me.qm),
            uncertain: doubt == Doubt::Stays && message.class != Class::Transactional,
            unconfirmed: doubt == Doubt::Asks,
            ..End::here(self.me.qm, outcome)
        };
        self.bury_as(number, priority, message, end);
    }

    /// The time of a message ran out before it was acknowledged.
    pub(crate) fn expire_out(&mut self, number: u32, priority: u8, message: &Message) {
        let unconfirmed = self.may_be_there(message) && !crate::broken!(self, expire_in_doubt);
        if unconfirmed {
            crate::reached!(self, ExpiredInDoubt);
        } else {
            crate::reached!(self, ExpiredWaiting);
        }
        let end = End {
            unconfirmed,
            ..End::here(self.own_of(number), Outcome::REACH_QUEUE_EXPIRED)
        };
        self.bury_as(number, priority, message, end);
    }

    /// The message will not be delivered: dead letter, or nothing when its sender or the operator
    /// wished so.
    pub(crate) fn bury_as(&mut self, number: u32, priority: u8, message: &Message, mut end: End) {
        // Until its destination has answered for its place, it may have been delivered.
        self.place_before_leaving(number, message);
        let mut placed = self.is_placed(number, message);
        if crate::broken!(self, no_skip) && core::mem::take(&mut placed) {
            self.settle_in_stream(number, message);
        }
        if message.class == Class::Transactional {
            end.unconfirmed = placed;
        } else if end.unconfirmed && !self.may_ask() {
            self.counters.uncertain_by_limit += 1;
            (end.unconfirmed, end.uncertain) = (false, true);
        }
        let asks = end.unconfirmed && !placed;
        let kept = message.flags.contains(MessageFlags::DEAD_LETTER) && !end.discard;
        let destination = self.outs.get(&number).map_or_else(String::new, |out| {
            let remote = self.remotes.get(&out.remote);
            remote.map_or_else(String::new, |remote| remote.key.destination(&out.queue))
        });
        if message.class.is_durable() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
        }
        let stream = Self::stream_of(number, priority);
        let removal = message.class.is_durable().then_some(StoreOp::Remove {
            stream,
            first: message.position,
            last: message.position,
        });
        if kept {
            // In one batch with the removal: the message is always in exactly one of the two.
            let from = Some(Origin {
                local: false,
                queue: number,
                priority,
                message: message.clone(),
            });
            let letter = self.put_dead_letter(message, end, &destination, removal, from);
            if placed {
                self.leave_stream(number, message, end.outcome, letter);
            } else {
                self.leaves_unplaced(number, message);
            }
            if asks {
                self.ask_for(number, message, end.outcome, letter);
            }
            self.report_death(number, message, end, true);
            // The letter, its removal and its skip are in one batch.
            self.seal_if_large();
        } else {
            if let Some(removal) = removal {
                self.commits.settle(removal);
            }
            if placed {
                self.leave_stream(number, message, end.outcome, None);
            }
            if asks {
                self.ask_for(number, message, end.outcome, None);
            }
            self.report_death(number, message, end, false);
            self.counters.discarded += 1;
            let died = Died {
                source: message.source,
                id: message.id,
                end,
                kept,
            };
            self.died(died, !message.class.is_durable());
        }
    }

    /// Whoever wishes to hear of it does so when it is certain, or when nobody can say more.
    fn report_death(&mut self, number: u32, message: &Message, end: End, putting: bool) {
        // Of a destination that was never met nobody can say more.
        if let Some(peer) = self.peer_of(number).filter(|_| end.unconfirmed) {
            return self.await_word(message, peer, end.outcome, putting);
        }
        let wanted = Wanted::of(&message.envelope).map(Wanted::unarrived);
        let with = if putting { With::Event } else { With::Nothing };
        let of = (message.id, message.class);
        self.report(wanted.as_ref(), of, end.outcome, putting, with);
    }

    /// It may be sent again: the destination said it does not have it.
    pub(crate) fn send_again(&mut self, number: u32, priority: u8, message: Message) {
        self.place_in_stream(number, &message);
        let durable = message.class.is_durable();
        let deadline = message.reach_deadline();
        if let Some(lane) = self.out_lane(number, priority) {
            let cost = lane.backlog.give_back(message);
            self.hold(durable, cost);
        }
        self.watch_again(false, number, priority, deadline, TOGETHER_MS);
        self.nudge_out(number);
    }
}

//! The engine as the sender of streams.
//!
//! # For whoever commits transactional messages
//!
//! [`Engine::mint_transactional`] hands one message over, into the batch that is being gathered:
//! everything that is put before the next seal is one commit, with or without other changes. It
//! returns what [`Then`](crate::commits::Then) needs, as for other classes; `put_durable` and
//! `put_refused` of the result do the rest. Position and link of the message need no change of
//! their own in that batch: they follow from its place in the outgoing queue (see
//! [`chain`](crate::stream::chain)). What must be in the same commit, the stream's identity with
//! its first message, is added here.

use std::collections::BTreeSet;

use qm_wire::{
    Class, Link, MessageId, Outcome, PeerFrame, Place, Priority, QmId, QueueName, Skip, StreamId,
};

use crate::backlog::Message;
use crate::commits::PutAt;
use crate::engine::Engine;
use crate::io::{Lane, LinkId, StoreOp};
use crate::journal::wishes_copy;
use crate::limits::SKIPS_OPEN_MAX;
use crate::outgoing::{OutLane, OutQueue};
use crate::record::RemoteKey;
use crate::stream::chain::{Chain, Mark, Skipping};
use crate::stream::record::{StoredChain, chain_key, encode_skip, skip_key};

/// A stream and what the engine knows beside its chain.
#[derive(Debug)]
pub(crate) struct OutStream {
    pub(crate) chain: Chain<(LinkId, u64)>,
    /// Store of the destination that has the history of this stream, once it was met.
    pub(crate) store: Option<[u8; 16]>,
    /// It was begun anew, and its destination has not shown yet that it has a link of it. What is
    /// settled of it was settled by name: that the destination lacks its links is no loss.
    pub(crate) unproven: bool,
    /// It is about to begin anew: what is settled of it was given up.
    pub(crate) begins: bool,
    /// The newest session with the destination, and the oldest position that was not settled when
    /// it opened.
    pub(crate) floor: Option<(LinkId, u64)>,
    /// On which session the destination said that it lacks what was settled, the oldest position
    /// that was not settled then, and how often it said so since.
    pub(crate) lacks: Option<(LinkId, u64, u8)>,
    /// Why it stands, and on which session that was found out.
    pub(crate) held: Option<HeldStream>,
    /// Messages without a place whose dead letters are on their way to the disk: nothing that lies
    /// behind them gets a place before it is certain that they left.
    pub(crate) leaving: BTreeSet<u64>,
    /// Whether its identity is on disk, or in the batch being gathered.
    recorded: bool,
    dirty: bool,
}

/// A stream that stands until its operator decides.
#[derive(Clone, Debug)]
pub(crate) struct HeldStream {
    pub(crate) link: LinkId,
    pub(crate) outcome: Outcome,
    pub(crate) text: String,
}

impl Engine {
    /// Takes a transactional message for a queue of another node into the batch being gathered:
    /// see the module. The message's class is transactional, its envelope names `queue` and
    /// priority 0, and whether another outgoing queue may be made was checked before.
    pub(crate) fn mint_transactional(
        &mut self,
        key: &RemoteKey,
        queue: &QueueName,
        message: Message,
    ) -> PutAt {
        let number = self.out_queue(message.source, key, queue);
        self.put_out(number, Priority::LOWEST.get(), message)
    }

    /// Sees to it that a queue has a stream and that its identity is durable with the message that
    /// is put now.
    pub(crate) fn begin_stream(&mut self, number: u32) {
        let Some(out) = self.outs.get(&number) else {
            return;
        };
        if out.stream.is_none() {
            let mut id = [0; 16];
            self.entropy.fill(&mut id);
            self.add_stream(number, StreamId(id), None, [], []);
        }
        let Some(stream) = self.outs.get_mut(&number).and_then(|o| o.stream.as_mut()) else {
            return;
        };
        if !core::mem::replace(&mut stream.recorded, true) {
            self.begun_streams.push(number);
        }
    }

    pub(crate) fn add_stream(
        &mut self,
        number: u32,
        id: StreamId,
        store: Option<[u8; 16]>,
        marks: impl IntoIterator<Item = Mark>,
        skips: impl IntoIterator<Item = Skipping<(LinkId, u64)>>,
    ) {
        let own = self.own_of(number);
        self.puts_to_work(number);
        let Some(out) = self.outs.get_mut(&number) else {
            return;
        };
        let root = Link::start(&own, &id, &out.queue);
        out.stream = Some(OutStream {
            chain: Chain::recovered(id, root, marks, skips),
            store,
            unproven: false,
            begins: false,
            floor: None,
            lacks: None,
            held: None,
            leaving: BTreeSet::new(),
            recorded: false,
            dirty: false,
        });
        self.stream_ids.insert(id, number);
    }

    /// Gives a message its place, when it is about to be transmitted or may have been.
    pub(crate) fn place_in_stream(&mut self, number: u32, message: &Message) {
        if message.class != Class::Transactional {
            return;
        }
        if self.outs.get(&number).is_some_and(|o| o.stream.is_none()) {
            self.begin_stream(number);
        }
        if let Some(stream) = self.out_stream(number) {
            stream.chain.place(message.position, message.tag);
            stream.chain.set_flight(message.position, None);
        }
    }

    /// Gives a message its place, and those before it, although it was never transmitted: a copy of
    /// this node may transmit it, and what is behind it must have the same links there and here.
    pub(crate) fn place_before_leaving(&mut self, number: u32, message: &Message) {
        if message.class != Class::Transactional || self.is_placed(number, message) {
            return;
        }
        let Some(out) = self.outs.get(&number) else {
            return;
        };
        let (Some(lane), Some(stream)) = (out.lanes.get(&Priority::LOWEST.get()), &out.stream)
        else {
            return;
        };
        // Of many that leave each looks only at what none before it looked at.
        let unplaced = stream.chain.placed_to().saturating_add(1)..message.position;
        let before = lane.backlog.resident_in(unplaced);
        let before = before.filter(|m| m.class == Class::Transactional);
        let tags: Vec<_> = before.map(|m| (m.position, m.tag)).collect();
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        for (at, tag) in tags {
            stream.chain.place(at, tag);
        }
        stream.chain.place(message.position, message.tag);
    }

    /// Gives everything that may have had a place a new one, in order: nothing may find that what
    /// is behind it has its place already.
    pub(crate) fn place_again(&mut self, number: u32, flights: &[crate::session::Flight]) {
        let lane = self
            .outs
            .get(&number)
            .and_then(|out| out.lanes.get(&Priority::LOWEST.get()));
        let Some(lane) = lane else { return };
        let transactional = |m: &&Message| m.class == Class::Transactional;
        let flights = flights.iter().map(|flight| &flight.message);
        let known = flights.chain(lane.doubt.values()).filter(transactional);
        let mut tags: Vec<_> = known.map(|m| (m.position, m.tag)).collect();
        let waiting = || lane.backlog.resident().filter(transactional);
        let transmitted = waiting().filter(|m| m.transmitted).map(|m| m.position);
        let last = tags.iter().map(|(at, _)| *at).chain(transmitted).max();
        let waiting = waiting().filter(|m| last.is_some_and(|last| m.position <= last));
        tags.extend(waiting.map(|m| (m.position, m.tag)));
        tags.sort_unstable();
        if let Some(stream) = self.out_stream(number) {
            for (at, tag) in tags {
                stream.chain.place(at, tag);
            }
        }
    }

    pub(crate) fn out_stream(&mut self, number: u32) -> Option<&mut OutStream> {
        self.outs.get_mut(&number)?.stream.as_mut()
    }

    /// The stream of an id, if this peer may speak about it (W-USE-1).
    pub(crate) fn stream_towards(&self, peer: QmId, id: StreamId) -> Option<u32> {
        let number = *self.stream_ids.get(&id)?;
        let remote = self.remotes.get(&self.outs.get(&number)?.remote)?;
        let may = remote.peer() == Some(peer) || self.heirs.succeeded(peer, remote.peer());
        may.then_some(number)
    }

    /// Sends the skips whose turn it is; tells whether messages of the stream may follow. `open`:
    /// how many skips the peer has not answered for, once that is known. No answer comes while
    /// queues are gone through.
    pub(crate) fn pump_stream(
        &mut self,
        link: LinkId,
        number: u32,
        open: &mut Option<usize>,
    ) -> bool {
        loop {
            let Some(out) = self.outs.get_mut(&number) else {
                return false;
            };
            let Some(stream) = out.stream.as_mut() else {
                return true;
            };
            if out.paused || stream.held.as_ref().is_some_and(|held| held.link == link) {
                return false;
            }
            let lane = out.lanes.get(&Priority::LOWEST.get());
            let waits = lane.map_or(u64::MAX, |lane| lane.backlog.first_at());
            let other_link = |lane: &OutLane| lane.flies_elsewhere(link);
            if lane.is_some_and(other_link) {
                return true;
            }
            let Some(skip) = stream.chain.sendable_skip(waits).cloned() else {
                return true;
            };
            // No credit bounds them, and the receiver has to write each down.
            let sent = open.unwrap_or_else(|| self.open_skips(link));
            if sent >= SKIPS_OPEN_MAX {
                *open = Some(sent);
                return false;
            }
            *open = Some(sent + 1);
            let Some(out) = self.outs.get_mut(&number) else {
                return false;
            };
            let Some(stream) = out.stream.as_mut() else {
                return true;
            };
            let (mark, previous) = (skip.mark, skip.previous);
            let frame = PeerFrame::Skip(Skip {
                place: stream.chain.travels(mark, previous),
                entry: skip.entry,
                outcome: skip.outcome,
                queue: out.queue.clone(),
            });
            stream.chain.send_skip(mark.position, (link, 0));
            let Some(session) = self.sessions.get_mut(&link) else {
                return false;
            };
            // On the lane of the messages: behind what is before it, before what is behind it.
            session.push(Lane::Priority(Priority::LOWEST.get()), &frame);
            session.last_activity = self.now.at;
            self.counters.skips_sent += 1;
            self.busy_sessions.insert(link);
        }
    }

    /// Skips towards the peer of a session that it has not answered for.
    fn open_skips(&self, link: LinkId) -> usize {
        let Some(session) = self.sessions.get(&link) else {
            return 0;
        };
        let numbers = self.queues_towards(session.own, session.peer);
        let outs = numbers.iter().filter_map(|number| self.outs.get(number));
        let streams = outs.filter_map(|out| out.stream.as_ref());
        // Whoever held a stream answers for nothing of it any more.
        let held = |stream: &&OutStream| stream.held.as_ref().is_some_and(|held| held.link == link);
        let streams = streams.filter(|stream| !held(stream));
        streams.map(|stream| stream.chain.sent_skips()).sum()
    }

    /// A session is gone: skips that were sent on it are sent again.
    pub(crate) fn unsend_skips(&mut self, link: LinkId) {
        for stream in self.outs.values_mut().filter_map(|o| o.stream.as_mut()) {
            let sent = |skip: &Skipping<(LinkId, u64)>| skip.sent;
            let lost = |at: Option<(LinkId, u64)>| at.is_some_and(|(on, _)| on == link);
            if stream.chain.skips().any(|skip| lost(sent(skip))) {
                stream.chain.unsend_skips(0);
            }
        }
    }

    /// A message was delivered: its place is a mark, in the commit that removes it.
    pub(crate) fn settle_in_stream(&mut self, number: u32, message: &Message) {
        if message.class != Class::Transactional {
            return;
        }
        if let Some(stream) = self.out_stream(number) {
            stream.chain.settle(message.position);
            stream.held = None;
            self.soil_stream(number);
        }
    }

    pub(crate) fn soil_stream(&mut self, number: u32) {
        if let Some(stream) = self.out_stream(number)
            && !core::mem::replace(&mut stream.dirty, true)
        {
            self.dirty_streams.push(number);
        }
    }

    /// Adds the marks of this batch to it, beside the removals that they replace.
    ///
    /// What is to stand with messages is written as it is now, too: marks may have come since, and
    /// the batch of messages follows that of the removals.
    pub(crate) fn save_chains(&mut self) {
        for number in core::mem::take(&mut self.begun_streams) {
            if let Some(stream) = self.out_stream(number) {
                let (key, value) = (chain_key(number), stream.encode());
                self.commits.put(StoreOp::Set { key, value });
            }
        }
        for number in core::mem::take(&mut self.dirty_streams) {
            if let Some(stream) = self.out_stream(number) {
                stream.dirty = false;
                let value = stream.encode();
                self.commits.set(chain_key(number), value);
            }
        }
    }

    /// A first message was refused with the identity of its stream.
    pub(crate) fn unrecord_stream(&mut self, number: u32) {
        if let Some(stream) = self.out_stream(number) {
            stream.recorded = false;
        }
    }

    /// Whether a message has a place that a skip must take when it leaves otherwise than by
    /// delivery.
    pub(crate) fn is_placed(&self, number: u32, message: &Message) -> bool {
        let stream = self.outs.get(&number).and_then(|out| out.stream.as_ref());
        message.class == Class::Transactional
            && stream.is_some_and(|stream| stream.chain.placed_at(message.position).is_some())
    }

    /// A skip takes the place of a message, in the commit that removes the message. `letter`: its
    /// dead letter, if one is kept, in the batch that puts; otherwise the removal gives room back.
    pub(crate) fn leave_stream(
        &mut self,
        number: u32,
        message: &Message,
        outcome: Outcome,
        letter: Option<u64>,
    ) {
        let kept = letter.map(|letter| (letter, message.credit()));
        let entry = message.entry();
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        let Some(skip) = stream.chain.leave(message.position, entry, outcome, kept) else {
            return;
        };
        let position = skip.mark.position;
        let (key, value) = (skip_key(number, position), encode_skip(skip));
        crate::reached!(self, LeftStream);
        if kept.is_some() {
            self.commits.put(StoreOp::Set { key, value });
        } else {
            self.commits.set(key, value);
            self.commits
                .after_settling(crate::commits::Then::Skipping { number, position });
        }
    }

    /// A message that has no place leaves for a dead letter: nothing overtakes that.
    pub(crate) fn leaves_unplaced(&mut self, number: u32, message: &Message) {
        if message.class == Class::Transactional
            && let Some(stream) = self.out_stream(number)
        {
            stream.leaving.insert(message.position);
        }
    }

    /// It left, or it is where it was.
    pub(crate) fn left_unplaced(&mut self, number: u32, at: u64) {
        if let Some(stream) = self.out_stream(number)
            && stream.leaving.remove(&at)
        {
            self.nudge_out(number);
        }
    }

    /// A skip is on disk: it may be sent.
    pub(crate) fn skip_durable(&mut self, number: u32, position: u64) {
        let skip = self
            .out_stream(number)
            .and_then(|stream| stream.chain.skip_mut(position));
        if let Some(skip) = skip {
            skip.durable = true;
            self.nudge_out(number);
        }
    }

    /// The same for the skip of a message that became a dead letter; whether there is one.
    pub(crate) fn skip_of_letter_durable(&mut self, number: u32, at: u64) -> bool {
        let stream = self.outs.get(&number).and_then(|out| out.stream.as_ref());
        let skip = stream.and_then(|stream| stream.chain.skip_at(at));
        let position = skip.map(|skip| skip.mark.position);
        if let Some(position) = position {
            self.skip_durable(number, position);
        }
        position.is_some()
    }

    /// The disk refused a dead letter: its message stands in its place again.
    pub(crate) fn unleave_stream(&mut self, number: u32, at: u64) {
        if let Some(stream) = self.out_stream(number)
            && let Some(position) = stream.chain.skip_at(at).map(|skip| skip.mark.position)
        {
            stream.chain.unleave(position);
        }
    }
}

impl OutStream {
    fn encode(&self) -> bytes::Bytes {
        let stored = StoredChain {
            id: self.chain.id(),
            store: self.store,
            unproven: self.unproven,
            begins: self.begins,
            marks: self.chain.marks().copied().collect(),
        };
        stored.encode()
    }

    /// It was read from the store.
    pub(crate) const fn found(&mut self) {
        self.recorded = true;
    }

    /// Whether what lies at `at` must wait for the disk's word on something before it.
    pub(crate) fn waits_behind(&self, at: u64) -> bool {
        self.leaving.first().is_some_and(|first| *first < at)
    }

    /// The place of a message that is transmitted now; `None` when it was settled before and only
    /// its removal was lost.
    pub(crate) fn fly(&mut self, message: &Message, flight: (LinkId, u64)) -> Option<Place> {
        let placed = self.chain.place(message.position, message.tag)?;
        let (mark, previous) = (placed.mark, placed.previous);
        self.chain.set_flight(message.position, Some(flight));
        Some(self.chain.travels(mark, previous))
    }
}

impl OutQueue {
    /// A message that waits, has no place, and is given none any more, although nothing says that
    /// it was delivered. There must be none: it would count as settled. What wishes a copy for the
    /// journal may: its mark is on disk, and its copy was refused.
    pub(crate) fn passed_over(&self) -> Option<MessageId> {
        let chain = &self.stream.as_ref()?.chain;
        let lane = self.lanes.get(&Priority::LOWEST.get())?;
        let waiting = lane
            .backlog
            .resident_in(0..chain.placed_to().saturating_add(1));
        let mut waiting = waiting.filter(|m| m.class == Class::Transactional && !wishes_copy(m));
        let passed = waiting.find(|m| chain.has_passed(m.position))?;
        Some(passed.id)
    }

    /// Skips that the destination has not answered for.
    pub(crate) fn skipping(&self) -> u64 {
        let skips = |stream: &OutStream| stream.chain.skips().len() as u64;
        self.stream.as_ref().map_or(0, skips)
    }
}

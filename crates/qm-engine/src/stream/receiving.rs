//! The engine as the receiver of streams: takes what is next, in one commit with its link, and
//! answers when the disk has both.

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::limits::{ACK_RANGES_MAX, ENTRIES_MAX, LEAVES_MAX};
use qm_wire::{
    AsQueueName, Class, Data, Entry, EnvelopeView, Hold, Known, Link, LinkAt, Need, OrderAck,
    Outcome, PeerFrame, Place, QmId, QueueName, Run, Skip, Skipped, StreamId,
};

use crate::backlog::Message;
use crate::commits::{PutAt, Then};
use crate::engine::Engine;
use crate::history::What;
use crate::io::{Event, Lane, LinkId, StoreOp};
use crate::limits::{
    BRANCHES_MAX, LINKS_KEPT_LEAST, LINKS_TOTAL_MAX, LOW_SPAN_MAX, NEED_PAUSE_MS, SKIPS_OPEN_MAX,
    STREAM_AGE_MS, STREAMS_PER_PEER_MAX,
};
use crate::stream::branches::{Branches, Judged, RunChange, RunName, Taken};
use crate::stream::record::{encode_run, encode_stream, run_key, stream_key};
use crate::time::Timestamp;

/// Names a stream at its receiver.
pub(crate) type InKey = (QmId, StreamId);

/// One stream that arrives here.
#[derive(Debug)]
pub(crate) struct InStream {
    pub(crate) queue: QueueName,
    pub(crate) branches: Branches,
    /// When something of it was last taken.
    pub(crate) touched: Timestamp,
    /// The sender's oldest unsettled position, as far as it told.
    pub(crate) low: u64,
    /// On which session and when the sender was last told what is needed.
    needed: Option<(LinkId, Timestamp)>,
    /// What its sender said when it stopped.
    pub(crate) held: Option<(Outcome, String)>,
}

/// A place in a stream at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InPlace {
    pub(crate) stream: StreamId,
    pub(crate) position: u64,
    pub(crate) link: Link,
}

/// All streams that arrive here.
#[derive(Debug, Default)]
pub(crate) struct InStreams {
    pub(crate) streams: BTreeMap<InKey, InStream>,
    /// Those in which something was taken since the last batch.
    dirty: BTreeSet<InKey>,
    /// Skips that were taken since the last batch.
    skips: Vec<Then>,
    /// Messages on disk whose link was refused: they are no part of a stream.
    pub(crate) orphans: BTreeSet<(QmId, Entry)>,
}

impl InStreams {
    /// Who waits for skips that were taken since the last batch.
    pub(crate) fn skips(&self) -> impl Iterator<Item = &Then> {
        self.skips.iter()
    }
}

/// Streams of which nothing is known here, and when their sender was told so last.
#[derive(Debug, Default)]
pub(crate) struct StrangeStreams(BTreeMap<StreamId, Timestamp>);

impl StrangeStreams {
    /// Whether the sender is to be told now. A sender may name any number of streams: beyond a few
    /// it is told of none.
    fn tells(&mut self, stream: StreamId, now: Timestamp) -> bool {
        let due = |at: Timestamp| now.ms_since(at) >= NEED_PAUSE_MS;
        if self.0.len() >= STREAMS_PER_PEER_MAX {
            self.0.retain(|_, at| !due(*at));
        }
        match self.0.get(&stream) {
            Some(at) if !due(*at) => false,
            None if self.0.len() >= STREAMS_PER_PEER_MAX => false,
            _ => {
                self.0.insert(stream, now);
                true
            }
        }
    }
}

/// Answers for streams that wait to leave on a session.
#[derive(Debug, Default)]
pub(crate) struct StreamAnswers {
    acks: Vec<Run>,
    duplicates: Vec<Run>,
    skipped: Vec<LinkAt>,
    needs: Vec<Need>,
}

impl StreamAnswers {
    fn ack(&mut self, run: Run, previous: Option<Link>) {
        if let Some(last) = self.acks.last_mut()
            && last.stream == run.stream
            && last.last.checked_add(1) == Some(run.first)
            && previous == Some(last.link)
        {
            (last.last, last.link) = (run.last, run.link);
            return;
        }
        self.acks.push(run);
    }

    /// The frames, as few as the limits allow.
    pub(crate) fn take(&mut self) -> Vec<PeerFrame> {
        let mut frames = Vec::new();
        for (runs, duplicate) in [(&mut self.acks, false), (&mut self.duplicates, true)] {
            for chunk in core::mem::take(runs).chunks(ACK_RANGES_MAX) {
                let runs = chunk.to_vec();
                frames.push(PeerFrame::OrderAck(OrderAck { duplicate, runs }));
            }
        }
        for chunk in core::mem::take(&mut self.skipped).chunks(ENTRIES_MAX) {
            let links = chunk.to_vec();
            frames.push(PeerFrame::Skipped(Skipped { links }));
        }
        let needs = core::mem::take(&mut self.needs).into_iter();
        frames.extend(needs.map(PeerFrame::Need));
        frames
    }
}

impl Engine {
    /// A message of a stream arrived, whole and from its source.
    pub(crate) fn on_stream_data(
        &mut self,
        link: LinkId,
        peer: QmId,
        data: &Data,
        envelope: &EnvelopeView<'_>,
    ) {
        let Some(place) = data.transit.place else {
            // Without its place it can be neither ordered nor recognised.
            return self.refuse(link, data, Outcome::BAD_REQUEST);
        };
        let key = (peer, place.stream);
        // W-STR-3.
        let this = place.previous.next(data.tag, place.position);
        let queue = envelope.queue.kept_in(&data.envelope);
        let judged = self.judge_in_stream(key, &queue, &place, this);
        match judged {
            Judged::Delivered { first } => {
                self.counters.duplicates += 1;
                self.counters.stream_duplicates += 1;
                self.note(peer, envelope.id, What::Duplicate { peer });
                self.event(Event::DuplicateRemoved {
                    source: peer,
                    id: envelope.id,
                });
                crate::reached!(self, StreamDuplicate);
                self.settle_arrival(link, data);
                self.ack_again(link, &place, first, this);
            }
            Judged::Skipped(_) => {
                self.settle_arrival(link, data);
                self.answer_skipped(link, &place, this);
            }
            Judged::InFlight => self.settle_arrival(link, data),
            Judged::Next { .. } | Judged::Need => {
                if self.is_being_voided(peer, data, envelope) {
                    return self.settle_arrival(link, data);
                }
                if let Some(outcome) = self.stream_refusal_of(peer, data, envelope) {
                    return self.refuse(link, data, outcome);
                }
                if judged == Judged::Need {
                    self.settle_arrival(link, data);
                    return self.tell_need(link, key, &queue);
                }
                self.take_in_stream(link, peer, data, envelope, (place, this));
            }
        }
    }

    fn judge_in_stream(&self, key: InKey, queue: &QueueName, place: &Place, this: Link) -> Judged {
        let (position, previous) = (place.position, place.previous);
        match self.ins.streams.get(&key) {
            Some(stream) => {
                let low = place.low;
                #[cfg(feature = "__breaks")]
                if self.config.breaks.number_for_link {
                    return stream.branches.judge_by_number(position, low);
                }
                stream.branches.judge(position, previous, this, low)
            }
            None => {
                let root = Link::start(&key.0, &key.1, queue);
                Branches::new(root).judge(position, previous, this, place.low)
            }
        }
    }

    /// Why this message cannot enter its queue, if it cannot. What only lacks room is not refused:
    /// it would break the order (a queue that is full takes no more credit).
    fn stream_refusal_of(
        &self,
        peer: QmId,
        data: &Data,
        envelope: &EnvelopeView<'_>,
    ) -> Option<Outcome> {
        if let Some(outcome) = self.remembered_refusal(peer, data, envelope) {
            return Some(outcome);
        }
        if self.is_voided(peer, data, envelope) {
            return Some(Outcome::VOIDED);
        }
        if data.transit.route.is_some() || envelope.report.is_some() {
            return Some(Outcome::UNSUPPORTED);
        }
        let number = self.local_names.get(&envelope.queue as &dyn AsQueueName);
        let Some(queue) = number.and_then(|number| self.locals.get(number)) else {
            return Some(Outcome::BAD_DESTINATION_QUEUE);
        };
        if envelope.queue.is_system() {
            return Some(Outcome::ACCESS_DENIED);
        }
        if !queue.settings.transactional {
            return Some(Outcome::NOT_TRANSACTIONAL_QUEUE);
        }
        if data.transit.is_over() {
            return Some(Outcome::REACH_QUEUE_EXPIRED);
        }
        (queue.settings.quota_bytes < data.credit_bytes()).then_some(Outcome::QUOTA_EXCEEDED)
    }

    fn take_in_stream(
        &mut self,
        link: LinkId,
        peer: QmId,
        data: &Data,
        envelope: &EnvelopeView<'_>,
        (place, this): (Place, Link),
    ) {
        let key = (peer, place.stream);
        let Some(number) = self
            .local_names
            .get(&envelope.queue as &dyn AsQueueName)
            .copied()
        else {
            return;
        };
        if !self.may_take_in_stream(key, &place) {
            self.settle_arrival(link, data);
            let text = "too many streams or branches of this sender are remembered";
            self.tell_hold(link, &place, Outcome::BUSY, text);
            return self.event(Event::StreamHeld {
                peer: Some(peer),
                queue: envelope.queue.kept_in(&data.envelope),
                incoming: true,
                text: text.to_owned(),
            });
        }
        if !self.admit_by_quota(link, number) {
            return;
        }
        let entry = Entry {
            id: envelope.id,
            tag: data.tag,
        };
        let message = Message {
            position: 0,
            source: peer,
            id: envelope.id,
            tag: data.tag,
            class: envelope.class,
            flags: envelope.flags,
            at: self.stamp(),
            wall_us: self.now.wall_us,
            reach_left_ms: data.transit.reach_queue_left_ms,
            receive_left_ms: data.transit.be_received_left_ms,
            aborts: 0,
            transmitted: false,
            envelope: data.envelope.clone(),
            body: data.body.clone(),
        };
        let put = self.put_local(number, envelope.priority.get(), message);
        let taken = Taken {
            entry,
            skipped: Outcome(0),
        };
        let queue = envelope.queue.kept_in(&data.envelope);
        self.record_link(link, key, &queue, (place, this), taken);
        #[cfg_attr(
            not(feature = "__breaks"),
            expect(unused_mut, reason = "a break sets it")
        )]
        let mut acked = false;
        #[cfg(feature = "__breaks")]
        if self.config.breaks.ack_before_durable {
            acked = true;
            self.ack_again(link, &place, place.position, this);
        }
        self.commits.after_putting(Then::Arrived {
            put,
            link,
            number: data.number,
            source: peer,
            entry,
            reservation: None,
            acked,
            place: Some(InPlace {
                stream: place.stream,
                position: place.position,
                link: this,
            }),
        });
    }

    /// Whether another stream or branch of this peer may be remembered.
    fn may_take_in_stream(&self, key: InKey, place: &Place) -> bool {
        match self.ins.streams.get(&key) {
            Some(stream) => stream.branches.count() < BRANCHES_MAX,
            None => {
                let all = (key.0, StreamId([0; 16]))..=(key.0, StreamId([0xff; 16]));
                place.position == 1 && self.ins.streams.range(all).count() < STREAMS_PER_PEER_MAX
            }
        }
    }

    fn record_link(
        &mut self,
        link: LinkId,
        key: InKey,
        queue: &QueueName,
        (place, this): (Place, Link),
        taken: Taken,
    ) {
        let now = self.now.at;
        let stream = self.ins.streams.entry(key).or_insert_with(|| {
            let root = Link::start(&key.0, &key.1, queue);
            InStream::new(queue.detach(), Branches::new(root), now)
        });
        stream.touched = now;
        let span = place.position.saturating_sub(LOW_SPAN_MAX);
        stream.low = stream.low.max(place.low).max(span);
        stream.needed = None;
        stream.held = None;
        let branches = matches!(
            stream
                .branches
                .judge(place.position, place.previous, this, place.low),
            Judged::Next { branches: true }
        );
        stream
            .branches
            .take(place.position, place.previous, this, taken);
        self.ins.dirty.insert(key);
        if branches {
            crate::reached!(self, StreamBranched);
            self.counters.streams_branched += 1;
            self.note_branch(key.0, crate::identity::BranchEvidence::Link);
            self.event(Event::StreamBranched {
                peer: key.0,
                queue: queue.clone(),
                position: place.position,
            });
        }
        let _ = link;
    }

    /// A message of a stream left otherwise than by delivery; no credit, no room is asked for it.
    pub(crate) fn on_skip(&mut self, link: LinkId, skip: &Skip) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if session.peer_pending {
            return self.misbehaved(link, "a skip from a peer that awaits approval");
        }
        if session.skips_open >= 2 * SKIPS_OPEN_MAX {
            return self.misbehaved(link, "more skips than may be unanswered");
        }
        session.last_activity = self.now.at;
        let key = (session.peer, skip.place.stream);
        let this = skip.link();
        let place = skip.place;
        match self.judge_in_stream(key, &skip.queue, &place, this) {
            Judged::Delivered { first } => {
                crate::reached!(self, SkipCameLate);
                self.ack_again(link, &place, first, this);
            }
            Judged::Skipped(_) => self.answer_skipped(link, &place, this),
            Judged::InFlight => {}
            Judged::Need => self.tell_need(link, key, &skip.queue),
            Judged::Next { .. } if !self.may_take_in_stream(key, &place) => self.tell_hold(
                link,
                &place,
                Outcome::BUSY,
                "too many streams or branches of this sender are remembered",
            ),
            Judged::Next { .. } => {
                crate::reached!(self, SkipTaken);
                let skipped = if skip.outcome.0 == 0 || skip.outcome.is_positive() {
                    Outcome::PROTOCOL
                } else {
                    skip.outcome
                };
                let taken = Taken {
                    entry: skip.entry,
                    skipped,
                };
                self.record_link(link, key, &skip.queue, (place, this), taken);
                let place = InPlace {
                    stream: place.stream,
                    position: place.position,
                    link: this,
                };
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.skips_open += 1;
                }
                self.ins.skips.push(Then::SkipTaken {
                    link,
                    source: key.0,
                    place,
                });
            }
        }
    }

    /// Adds what was taken to the batch in which the messages are.
    pub(crate) fn save_branches(&mut self) {
        if self.ins.dirty.is_empty() && self.ins.skips.is_empty() {
            return;
        }
        let puts = self.commits.has_puts();
        if crate::broken!(self, position_apart) && puts {
            return;
        }
        let now = self.now.at.0;
        for key in core::mem::take(&mut self.ins.dirty) {
            let Some(stream) = self.ins.streams.get_mut(&key) else {
                continue;
            };
            let changes = stream.branches.save(now);
            let begins = changes
                .iter()
                .any(|c| matches!(c, RunChange::Set((1, _), _)));
            if begins {
                let value = encode_stream(&stream.queue, stream.branches.has_dropped());
                let key = stream_key(&key);
                self.put_or_set(puts, StoreOp::Set { key, value });
            }
            for change in changes {
                let op = op_of(&key, change);
                self.put_or_set(puts, op);
            }
        }
        for then in core::mem::take(&mut self.ins.skips) {
            if puts {
                self.commits.after_putting(then);
            } else {
                self.commits.after_settling(then);
            }
        }
    }

    fn put_or_set(&mut self, puts: bool, op: StoreOp) {
        if puts {
            self.commits.put(op);
        } else {
            self.commits.change(op);
        }
    }

    /// A message and its link are on disk: shown and acknowledged.
    pub(crate) fn arrived_in_stream(
        &mut self,
        link: LinkId,
        put: PutAt,
        source: QmId,
        entry: Entry,
        place: InPlace,
        acked: bool,
    ) {
        self.note_arrival(source, entry.id, Class::Transactional);
        self.counters.delivered += 1;
        self.event(Event::Delivered {
            source,
            id: entry.id,
            tag: entry.tag,
        });
        if let Some(session) = self.sessions.get_mut(&link) {
            session.unsettled.messages = session.unsettled.messages.saturating_sub(1);
            session.unsettled.bytes = session.unsettled.bytes.saturating_sub(put.credit);
            self.busy_sessions.insert(link);
        }
        let stream = self.ins.streams.get_mut(&(source, place.stream));
        let previous = stream.and_then(|stream| {
            stream.branches.stored(place.position, place.link);
            stream.branches.link_before(place.position, place.link)
        });
        if !acked && let Some(session) = self.answering_session(link, source) {
            let run = Run {
                stream: place.stream,
                first: place.position,
                last: place.position,
                link: place.link,
            };
            session.stream_answers.ack(run, previous);
        }
        self.busy_queues.insert(put.queue);
    }

    /// A skip is on disk.
    pub(crate) fn skip_taken(&mut self, link: LinkId, source: QmId, place: InPlace) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.skips_open = session.skips_open.saturating_sub(1);
        }
        let stream = self.ins.streams.get_mut(&(source, place.stream));
        if !stream.is_some_and(|s| s.branches.stored(place.position, place.link)) {
            // What it followed was refused.
            return;
        }
        if let Some(session) = self.answering_session(link, source) {
            session.stream_answers.skipped.push(LinkAt {
                stream: place.stream,
                position: place.position,
                link: place.link,
            });
        }
    }

    /// The session on which something came; when that is gone another one with its sender: links
    /// say what is meant on any.
    fn answering_session(
        &mut self,
        link: LinkId,
        source: QmId,
    ) -> Option<&mut crate::session::Session> {
        let open = |link: &LinkId| self.sessions.get(link).is_some_and(|s| s.opened);
        let link = if open(&link) {
            link
        } else {
            let links = self.by_peer.get(&source)?;
            links.iter().rev().copied().find(open)?
        };
        self.busy_sessions.insert(link);
        self.sessions.get_mut(&link)
    }

    fn ack_again(&mut self, link: LinkId, place: &Place, first: u64, this: Link) {
        let run = Run {
            stream: place.stream,
            first,
            last: place.position,
            link: this,
        };
        if let Some(session) = self.sessions.get_mut(&link) {
            session.stream_answers.duplicates.push(run);
            self.busy_sessions.insert(link);
        }
    }

    fn answer_skipped(&mut self, link: LinkId, place: &Place, this: Link) {
        crate::reached!(self, AnsweredSkipped);
        if let Some(session) = self.sessions.get_mut(&link) {
            session.stream_answers.skipped.push(LinkAt {
                stream: place.stream,
                position: place.position,
                link: this,
            });
            self.busy_sessions.insert(link);
        }
    }

    /// Tells a sender where it may go on (W-STR-8): once, until that has brought something.
    fn tell_need(&mut self, link: LinkId, key: InKey, queue: &QueueName) {
        let now = self.now.at;
        let leaves = match self.ins.streams.get_mut(&key) {
            Some(stream) => {
                let again =
                    |(on, at): (LinkId, Timestamp)| on == link && now.ms_since(at) < NEED_PAUSE_MS;
                if stream.needed.is_some_and(again) {
                    return;
                }
                stream.needed = Some((link, now));
                stream.branches.leaves(LEAVES_MAX)
            }
            None => {
                let Some(session) = self.sessions.get_mut(&link) else {
                    return;
                };
                if !session.strange_streams.tells(key.1, now) {
                    return;
                }
                Vec::new()
            }
        };
        crate::reached!(self, NeedSent);
        self.counters.needs_sent += 1;
        let need = Need {
            stream: key.1,
            leaves,
            queue: queue.clone(),
        };
        if let Some(session) = self.sessions.get_mut(&link) {
            session.stream_answers.needs.push(need);
            self.busy_sessions.insert(link);
        }
    }

    /// Tells the other side that a stream stands.
    pub(crate) fn tell_hold(&mut self, link: LinkId, place: &Place, outcome: Outcome, text: &str) {
        let frame = PeerFrame::Hold(Hold {
            stream: place.stream,
            position: place.position,
            previous: place.previous,
            outcome,
            text: text.into(),
        });
        if let Some(session) = self.sessions.get_mut(&link) {
            session.push(Lane::Ack, &frame);
            self.busy_sessions.insert(link);
        }
    }

    /// What this node knows of a message that came, or did not come, in a stream.
    pub(crate) fn known_in_streams(&mut self, peer: QmId, entry: &Entry) -> Option<Known> {
        let all = (peer, StreamId([0; 16]))..=(peer, StreamId([0xff; 16]));
        let mut streams = self.ins.streams.range_mut(all);
        let judged = streams.find_map(|(_, stream)| stream.branches.known(entry))?;
        Some(match judged {
            Judged::Delivered { .. } => Known::Delivered,
            // W-STR-7: what left its stream never arrived, whatever its sender says of it.
            Judged::Skipped(outcome) if outcome.is_of_arrived() => Known::Outcome(Outcome::VOIDED),
            Judged::Skipped(outcome) => Known::Outcome(outcome),
            _ => Known::InFlight,
        })
    }

    /// The disk refused a message or skip: its link was never taken.
    pub(crate) fn untake_refused(&mut self, source: QmId, place: InPlace) {
        for op in self.untake(source, place) {
            self.commits.change(op);
        }
    }

    /// Takes a link back, and what follows it. Returns what must change on the disk.
    pub(crate) fn untake(&mut self, source: QmId, place: InPlace) -> Vec<StoreOp> {
        let key = (source, place.stream);
        let Some(stream) = self.ins.streams.get_mut(&key) else {
            return Vec::new();
        };
        let changes = stream.branches.refused(place.position, place.link);
        let ops = changes.into_iter().map(|change| op_of(&key, change));
        let ops: Vec<_> = ops.collect();
        if stream.branches.is_empty() && !stream.branches.has_dropped() {
            self.ins.streams.remove(&key);
            self.ins.dirty.remove(&key);
        }
        ops
    }

    /// Forgets ancestors that nobody can need any more (W-STR-4). The newest links of a stream
    /// stay, also when its queue is gone: it may come back under its name.
    pub(crate) fn forget_links(&mut self) {
        let now = self.now.at;
        let before_us = now.0.saturating_sub(STREAM_AGE_MS.saturating_mul(1_000));
        let total: usize = self.ins.streams.values().map(|s| s.branches.links()).sum();
        let keep = kept_of(total, self.config.stream_history_links);
        let mut gone: Vec<(InKey, Vec<RunName>, bool)> = Vec::new();
        for (key, stream) in &mut self.ins.streams {
            let dropped = stream.branches.has_dropped();
            let names = stream.branches.prune(stream.low, keep, before_us);
            if !names.is_empty() {
                gone.push((*key, names, !dropped));
            }
        }
        for (key, names, first) in gone {
            if first && let Some(stream) = self.ins.streams.get(&key) {
                let value = encode_stream(&stream.queue, true);
                self.commits.set(stream_key(&key), value);
            }
            for name in names {
                self.commits.unset(run_key(&key, name));
            }
            crate::reached!(self, LinksForgotten);
            // Between streams only: what is left of one is told in the same batch.
            self.seal_if_large();
        }
    }

    /// A sender says that a stream of its own stands.
    pub(crate) fn on_hold(&mut self, link: LinkId, hold: &Hold) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        // Either side may have found out.
        if let Some(number) = self.stream_towards(peer, hold.stream) {
            return self.hold_stream(link, number, hold.outcome, hold.text.as_str());
        }
        let Some(stream) = self.ins.streams.get_mut(&(peer, hold.stream)) else {
            return;
        };
        let text = hold.text.as_str().to_owned();
        let queue = stream.queue.clone();
        if stream.held.replace((hold.outcome, text.clone())).is_none() {
            self.event(Event::StreamHeld {
                peer: Some(peer),
                queue,
                incoming: true,
                text,
            });
        }
    }
}

fn op_of(key: &InKey, change: RunChange) -> StoreOp {
    match change {
        RunChange::Set(name, run) => StoreOp::Set {
            key: run_key(key, name),
            value: encode_run(&run),
        },
        RunChange::Unset(name) => StoreOp::Unset {
            key: run_key(key, name),
        },
    }
}

impl InStream {
    pub(crate) const fn new(queue: QueueName, branches: Branches, touched: Timestamp) -> Self {
        Self {
            queue,
            branches,
            touched,
            low: 0,
            needed: None,
            held: None,
        }
    }
}

/// How many links of each stream are kept when all have so many.
const fn kept_of(total: usize, configured: usize) -> usize {
    if total > LINKS_TOTAL_MAX {
        LINKS_KEPT_LEAST
    } else {
        configured
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engine, entry, qm};

    fn place(stream: StreamId, position: u64) -> Place {
        Place {
            stream,
            position,
            low: 0,
            previous: Link([0; 16]),
        }
    }

    const fn stream(n: usize) -> StreamId {
        let [.., a, b] = (n as u64).to_be_bytes();
        StreamId([a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    #[test]
    fn a_sender_is_told_of_so_many_strange_streams_and_of_each_so_often() {
        let mut strange = StrangeStreams::default();
        let at = |ms: u64| Timestamp(ms * 1_000);
        for n in 0..STREAMS_PER_PEER_MAX {
            assert!(strange.tells(stream(n), at(0)));
        }
        let one_more = stream(STREAMS_PER_PEER_MAX);
        assert!(!strange.tells(one_more, at(0)));
        assert!(!strange.tells(stream(0), at(NEED_PAUSE_MS - 1)));
        assert!(strange.tells(stream(0), at(NEED_PAUSE_MS)));
        assert!(strange.tells(one_more, at(NEED_PAUSE_MS)), "others are old");
    }

    #[test]
    fn links_behind_a_span_may_be_forgotten_whatever_the_sender_says() {
        let mut engine = engine();
        let key = (qm(5), stream(1));
        let queue = "orders".parse().expect("a name");
        for (position, low) in [(LOW_SPAN_MAX, 0), (LOW_SPAN_MAX + 1, 1)] {
            let taken = Taken {
                entry: entry(position),
                skipped: Outcome(0),
            };
            let link = Link([u8::from(low == 1); 16]);
            let at = (place(key.1, position), link);
            engine.record_link(LinkId(1), key, &queue, at, taken);
            assert_eq!(engine.ins.streams[&key].low, low);
        }
    }

    #[test]
    fn when_all_streams_have_too_many_links_few_of_each_are_kept() {
        let configured = 100_000;
        assert_eq!(kept_of(LINKS_TOTAL_MAX, configured), configured);
        assert_eq!(kept_of(LINKS_TOTAL_MAX + 1, configured), LINKS_KEPT_LEAST);
    }
}

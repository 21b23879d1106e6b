//! Messages that have left for good and of which somebody waits to hear what became of them at
//! their destination (W-FIN-1).
//!
//! They are written down in the commit that takes them out of their outgoing queue, so that a
//! restart goes on waiting. The destination tells by itself; on every session that opens, and from
//! time to time, it is asked. How a message ended is on disk before the destination is told that it
//! may forget it, and is kept for as long as the answers to requests are. A wait ends unanswered 30
//! days after the message must have ended, or, when it may lie there for ever, after it arrived.

mod audit;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{
    AckWishes, Class, Entry, Envelope, Final, Incarnation, Known, MessageId, NotHeld, Outcome,
    PeerFrame, QmId, Query, Tag,
};

use crate::backlog::Message;
use crate::commits::Then;
use crate::engine::Engine;
use crate::finals::wishes_final;
use crate::history::What;
use crate::io::{Lane, LinkId, StoreOp};
use crate::limits::{AWAITED_BYTES_MAX, AWAITED_MAX, FINAL_AGE_MS, FINAL_QUERY_MS};
use crate::record::{prefixed, take_array};
use crate::reports::{Wanted, With};
use crate::session::Session;
use crate::time::Timestamp;

const AWAIT: &[u8] = b"await/";
const VERSION: u8 = 1;

/// How far the wait for the end of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It ended here with this outcome, and may have arrived all the same.
    Doubt(Outcome),
    /// It arrived.
    Open,
    /// It arrived, and ended so.
    Ended(Outcome),
}

/// One message whose end is awaited, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// Under which identity of this node it was minted.
    own: QmId,
    /// To whom it was sent: nobody else's word counts.
    pub(crate) peer: QmId,
    tag: Tag,
    class: Class,
    /// The life of the destination in which it arrived, when that is known.
    life: Incarnation,
    /// When it arrived, or how it ended was heard.
    pub(crate) at: Timestamp,
    /// When the wait is over.
    until: Timestamp,
    pub(crate) wait: Wait,
    /// Whether its end is wished to be known, and not only whether it arrived.
    final_wished: bool,
    /// What an application wishes to hear of it in a queue of this node.
    wanted: Option<Box<Wanted>>,
    /// On which session it was asked for last, and when.
    asked: Option<(LinkId, Timestamp)>,
}

type Open = (QmId, QmId, MessageId);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Awaiting {
    all: BTreeMap<MessageId, Awaited>,
    /// Those that arrived and whose ends are open: identity of this node, destination, message.
    open: BTreeSet<Open>,
    /// Those whose ends are known, in the order in which that came.
    ended: BTreeSet<(Timestamp, MessageId)>,
    /// Peers of whose messages in doubt some are known to have arrived, and that were not asked
    /// since.
    fresh: BTreeSet<QmId>,
    /// Those that the batch being gathered writes down with what it puts.
    putting: BTreeSet<MessageId>,
    /// Bytes of all.
    bytes: usize,
}

fn await_key(id: MessageId) -> Bytes {
    let mut name = [0; 16];
    let (life, sequence) = name.split_at_mut(8);
    life.copy_from_slice(&id.incarnation.0.to_be_bytes());
    sequence.copy_from_slice(&id.sequence.to_be_bytes());
    prefixed(AWAIT, &name)
}

fn read_await_key(name: &[u8]) -> Option<MessageId> {
    let mut name = name;
    let incarnation = Incarnation(name.try_get_u64().ok()?);
    let sequence = name.try_get_u64().ok()?;
    let id = MessageId {
        incarnation,
        sequence,
    };
    name.is_empty().then_some(id)
}

/// Whether this can be the end of a message that had arrived.
const fn is_end(outcome: Outcome) -> bool {
    outcome.is_of_arrived() && outcome.0 != Outcome::REACHED_QUEUE.0
}

impl Awaited {
    fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(70);
        to.put_u8(VERSION);
        to.put_slice(self.own.as_bytes());
        to.put_slice(self.peer.as_bytes());
        to.put_slice(&self.tag.0);
        to.put_u8(self.class.code());
        to.put_u64_le(self.life.0);
        to.put_u64_le(self.at.0);
        to.put_u64_le(self.until.0);
        let (wait, outcome) = match self.wait {
            Wait::Open => (0, Outcome(0)),
            Wait::Doubt(outcome) => (1, outcome),
            Wait::Ended(outcome) => (2, outcome),
        };
        to.put_u8(wait | u8::from(self.final_wished) << 4);
        to.put_u16_le(outcome.0);
        if let Some(wanted) = &self.wanted {
            wanted.encode(&mut to);
        }
        to.freeze()
    }

    /// What it takes on disk, about.
    fn bytes(&self) -> usize {
        let wanted = self.wanted.as_ref();
        96 + wanted.map_or(0, |wanted| wanted.encoded_len())
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let own = QmId::from_bytes(take_array(&mut r)?);
        let peer = QmId::from_bytes(take_array(&mut r)?);
        let tag = Tag(take_array(&mut r)?);
        let class = Class::from_code(r.try_get_u8().ok()?).ok()?;
        let life = Incarnation(r.try_get_u64_le().ok()?);
        let at = Timestamp(r.try_get_u64_le().ok()?);
        let until = Timestamp(r.try_get_u64_le().ok()?);
        let wait = r.try_get_u8().ok()?;
        let outcome = Outcome(r.try_get_u16_le().ok()?);
        let final_wished = wait & 0x10 != 0;
        let wait = match wait & !0x10 {
            0 => Wait::Open,
            1 => Wait::Doubt(outcome),
            2 => Wait::Ended(outcome),
            _ => return None,
        };
        let wanted = if r.is_empty() {
            None
        } else {
            Some(Box::new(Wanted::decode(&mut r)?))
        };
        r.is_empty().then_some(Self {
            own,
            peer,
            tag,
            class,
            life,
            at,
            until,
            wait,
            final_wished,
            wanted,
            asked: None,
        })
    }
}

impl Awaiting {
    fn insert(&mut self, id: MessageId, awaited: Awaited) {
        let open = (awaited.own, awaited.peer, id);
        self.remove(id);
        match awaited.wait {
            Wait::Open => drop(self.open.insert(open)),
            Wait::Ended(_) => drop(self.ended.insert((awaited.at, id))),
            Wait::Doubt(_) => {}
        }
        self.bytes += awaited.bytes();
        self.all.insert(id, awaited);
    }

    fn remove(&mut self, id: MessageId) -> Option<Awaited> {
        let awaited = self.all.remove(&id)?;
        self.open.remove(&(awaited.own, awaited.peer, id));
        self.ended.remove(&(awaited.at, id));
        self.bytes = self.bytes.saturating_sub(awaited.bytes());
        Some(awaited)
    }

    /// What was gathered is on its way to the disk.
    pub(crate) fn sealed(&mut self) {
        self.putting.clear();
    }

    /// Those that ended here, and may have arrived all the same.
    pub(crate) fn doubts(&self) -> impl Iterator<Item = MessageId> {
        let doubt = |awaited: &Awaited| matches!(awaited.wait, Wait::Doubt(_));
        let doubts = self.all.iter().filter(move |(_, awaited)| doubt(awaited));
        doubts.map(|(id, _)| *id)
    }

    /// What is known of a message.
    pub(crate) fn get(&self, id: MessageId) -> Option<&Awaited> {
        self.all.get(&id)
    }

    /// Whether there is room for another, perhaps in the place of one whose end is known.
    pub(crate) fn has_room(&self) -> bool {
        self.all.len() - self.ended.len() < AWAITED_MAX && self.bytes < AWAITED_BYTES_MAX
    }

    fn span(own: QmId, peer: QmId) -> core::ops::RangeInclusive<Open> {
        let id = |n| MessageId {
            incarnation: Incarnation(n),
            sequence: n,
        };
        (own, peer, id(0))..=(own, peer, id(u64::MAX))
    }

    /// Whether ends of messages are awaited that this life minted.
    pub(crate) fn awaits_of(&self, incarnation: Incarnation) -> bool {
        let id = |sequence| MessageId {
            incarnation,
            sequence,
        };
        let mut of_life = self.all.range(id(0)..=id(u64::MAX));
        of_life.any(|(_, awaited)| !matches!(awaited.wait, Wait::Ended(_)))
    }

    /// The identities of this node under which something open was minted.
    pub(crate) fn owns(&self) -> Vec<QmId> {
        let mut owns = Vec::new();
        let mut next = self.open.first();
        while let Some((own, ..)) = next.copied() {
            owns.push(own);
            let last = *Self::span(own, QmId::from_bytes([0xff; 16])).end();
            let behind = (
                core::ops::Bound::Excluded(last),
                core::ops::Bound::Unbounded,
            );
            next = self.open.range(behind).next();
        }
        owns
    }
}

impl Engine {
    /// A message arrived at this destination: from now on its end there is awaited, if its sender
    /// wishes to know it.
    /// `putting`: whether its removal is in the batch that puts.
    pub(crate) fn await_final(&mut self, message: &Message, peer: QmId, putting: bool) {
        // What was told of its end meanwhile stands.
        if !wishes_final(&message.envelope) || self.awaiting.get(message.id).is_some() {
            return;
        }
        if !self.make_room_to_await() {
            // Nothing more is accepted then; this was before.
            let wanted = Wanted::of(&message.envelope);
            let of = (message.id, message.class);
            let outcome = Outcome::END_UNKNOWN;
            self.report(wanted.as_ref(), of, outcome, false, With::Nothing);
            self.counters.finals_unknown += 1;
            // With its removal: after a crash it would arrive, and be awaited, again.
            return self.tell_end(message.id, Outcome::END_UNKNOWN);
        }
        let awaited = self.awaited(message, peer, Wait::Open);
        if let Some((link, now)) = awaited.asked
            && let Some(session) = self.sessions.get_mut(&link)
            && session.next_finals <= now
        {
            let next = now.plus_ms(FINAL_QUERY_MS);
            session.next_finals = next;
            self.arm_session(link, next);
        }
        if !crate::broken!(self, wait_in_memory) {
            self.write_await(message.id, &awaited, putting);
        }
        self.awaiting.insert(message.id, awaited);
    }

    /// The disk refused that a message has left: it leaves again.
    pub(crate) fn unawait_arrival(&mut self, id: MessageId) {
        if self.awaits_end_of(id).is_some() {
            self.awaiting.remove(id);
        }
    }

    /// A message ended here and may have arrived: should it turn out that it did, its end there is
    /// awaited. `putting`: whether its removal is in the batch that puts.
    pub(crate) fn await_word(
        &mut self,
        message: &Message,
        peer: QmId,
        outcome: Outcome,
        putting: bool,
    ) {
        if Envelope::peek_ack_wishes(&message.envelope) == AckWishes::NONE {
            return;
        }
        if !self.make_room_to_await() {
            self.counters.reports_lost += u64::from(Wanted::of(&message.envelope).is_some());
            return;
        }
        let awaited = self.awaited(message, peer, Wait::Doubt(outcome));
        self.write_await(message.id, &awaited, putting);
        self.awaiting.insert(message.id, awaited);
    }

    /// `putting`: in the batch that puts.
    fn write_await(&mut self, id: MessageId, awaited: &Awaited, putting: bool) {
        let (key, value) = (await_key(id), awaited.encode());
        if putting {
            self.awaiting.putting.insert(id);
            self.commits.put(StoreOp::Set { key, value });
        } else {
            self.behind_what_puts(id);
            self.commits.set(key, value);
        }
    }

    fn unwrite_await(&mut self, id: MessageId) {
        self.behind_what_puts(id);
        self.commits.unset(await_key(id));
    }

    /// Of what is gathered, the batch that puts is the last one: what it says of a message must not
    /// be the last word when more is known.
    fn behind_what_puts(&mut self, id: MessageId) {
        if self.awaiting.putting.contains(&id) {
            self.seal();
        }
    }

    fn make_room_to_await(&mut self) -> bool {
        while self.awaiting.all.len() >= AWAITED_MAX || self.awaiting.bytes >= AWAITED_BYTES_MAX {
            let Some((_, oldest)) = self.awaiting.ended.first().copied() else {
                return false;
            };
            self.awaiting.remove(oldest);
            self.unwrite_await(oldest);
        }
        true
    }

    fn awaited(&self, message: &Message, peer: QmId, wait: Wait) -> Awaited {
        let now = self.now.at;
        let ends = if message.receive_left_ms == qm_wire::INFINITE_MS {
            now
        } else {
            message.receive_deadline().max(now)
        };
        let link = self.sending_session(message.source, peer);
        let session = link.and_then(|link| self.sessions.get(&link));
        let life = session.and_then(Session::incarnation);
        Awaited {
            own: message.source,
            peer,
            tag: message.tag,
            class: message.class,
            life: life.unwrap_or(Incarnation(0)),
            at: now,
            until: ends.plus_ms(FINAL_AGE_MS),
            wait,
            wanted: Wanted::of(&message.envelope).map(Box::new),
            final_wished: wishes_final(&message.envelope),
            // On this session nothing that is told gets lost.
            asked: link.map(|link| (link, now)),
        }
    }

    /// The disk refused the letter of a message in doubt: it is where it was.
    pub(crate) fn unawait(&mut self, id: MessageId) {
        let doubt = |awaited: &Awaited| matches!(awaited.wait, Wait::Doubt(_));
        if self.awaiting.get(id).is_some_and(doubt) {
            self.awaiting.remove(id);
        }
    }

    /// What ended here in doubt did not arrive, or nobody can say whether it did: its death is what
    /// was told of it.
    pub(crate) fn death_stands(&mut self, id: MessageId) {
        let Some(awaited) = self.awaiting.get(id) else {
            return;
        };
        if let Wait::Doubt(outcome) = awaited.wait {
            let (wanted, class) = (awaited.wanted.clone(), awaited.class);
            self.awaiting.remove(id);
            self.unwrite_await(id);
            self.report(
                wanted.as_deref(),
                (id, class),
                outcome,
                false,
                With::Nothing,
            );
        }
    }

    /// What ended here in doubt had arrived.
    pub(crate) fn doubted_arrived(&mut self, id: MessageId) {
        let Some(mut awaited) = self.awaiting.get(id).cloned() else {
            return;
        };
        if matches!(awaited.wait, Wait::Doubt(_)) {
            let (wanted, of) = (awaited.wanted.clone(), (id, awaited.class));
            debug_assert!(!self.awaiting.putting.contains(&id), "its death is on disk");
            self.report(
                wanted.as_deref(),
                of,
                Outcome::REACHED_QUEUE,
                false,
                With::Nothing,
            );
            if !awaited.final_wished {
                self.awaiting.remove(id);
                return self.unwrite_await(id);
            }
            awaited.wait = Wait::Open;
            awaited.at = self.now.at;
            awaited.asked = None;
            let peer = awaited.peer;
            self.write_await(id, &awaited, false);
            self.awaiting.insert(id, awaited);
            // It may have been told before. Asking costs a look at all that are open: once for all
            // that are learnt together.
            let peer = self.heirs.of(peer);
            self.awaiting.fresh.insert(peer);
            self.busy_peers.insert(peer);
        }
    }

    /// Asks a peer about what is known to have arrived there since; called whenever something may
    /// leave.
    pub(crate) fn query_fresh_awaited(&mut self, peer: QmId) {
        if self.awaiting.fresh.remove(&peer) {
            for own in self.owns() {
                self.query_awaited(own, peer);
            }
        }
    }

    /// The identities of messages of which a peer may speak: its own, and those that it had.
    fn spoken_for(&self, peer: QmId) -> Vec<QmId> {
        let mut all = vec![peer];
        while let Some(before) = all.last().and_then(|qm| self.heirs.predecessor(*qm)) {
            if all.contains(&before) {
                break;
            }
            all.push(before);
        }
        all
    }

    /// Whether a peer is to be asked, or to tell, how messages ended that were minted under one of
    /// this node's identities.
    pub(crate) fn awaits_finals(&self, own: QmId, peer: QmId) -> bool {
        if self.awaiting.open.is_empty() {
            return false;
        }
        let sources = self.asking_as(own);
        let peers = self.spoken_for(peer);
        let mut spans = sources
            .iter()
            .flat_map(|source| peers.iter().map(|peer| Awaiting::span(*source, *peer)));
        spans.any(|span| self.awaiting.open.range(span).next().is_some())
    }

    /// Where the end of a message is awaited, if it is open.
    pub(crate) fn awaits_end_of(&self, id: MessageId) -> Option<QmId> {
        let awaited = self.awaiting.get(id)?;
        (awaited.wait == Wait::Open).then_some(awaited.peer)
    }

    /// Whether the end of anything is open that was minted under this identity.
    pub(crate) fn awaits_finals_as(&self, source: QmId) -> bool {
        self.awaiting.owns().contains(&source)
    }

    /// The identities in whose name a session under this one may ask: its own, and for the present
    /// one those of which nothing else is left.
    fn asking_as(&self, own: QmId) -> Vec<QmId> {
        let mut sources = vec![own];
        if own == self.me.qm {
            let gone = self.awaiting.owns().into_iter();
            sources.extend(gone.filter(|source| !self.is_own(*source)));
        }
        sources
    }

    /// Asks a peer how messages ended that it has not been asked for on this session, or long ago:
    /// as many as one query takes, the next when it has answered.
    pub(crate) fn query_awaited(&mut self, own: QmId, peer: QmId) {
        if self.awaiting.open.is_empty() {
            return;
        }
        let Some(link) = self.sending_session(own, peer) else {
            return;
        };
        let now = self.now.at;
        let peers = self.spoken_for(peer);
        let (mut more, mut next) = (false, now.plus_ms(FINAL_QUERY_MS));
        for source in self.asking_as(own) {
            let mut entries = Vec::new();
            let open = peers.iter();
            let open =
                open.flat_map(|peer| self.awaiting.open.range(Awaiting::span(source, *peer)));
            for (_, _, id) in open {
                if entries.len() >= ENTRIES_MAX {
                    more = true;
                    break;
                }
                let Some(awaited) = self.awaiting.all.get_mut(id) else {
                    continue;
                };
                let asked = awaited.asked.filter(|(on, _)| *on == link);
                let again = asked.map(|(_, at)| at.plus_ms(FINAL_QUERY_MS));
                if let Some(again) = again.filter(|again| *again > now) {
                    next = next.min(again);
                } else {
                    awaited.asked = Some((link, now));
                    let (id, tag) = (*id, awaited.tag);
                    entries.push(Entry { id, tag });
                }
            }
            let Some(session) = self.sessions.get_mut(&link) else {
                return;
            };
            if !entries.is_empty() {
                self.counters.queried += entries.len() as u64;
                let query = Query {
                    source,
                    void: false,
                    entries,
                };
                session.push(Lane::Control, &PeerFrame::Query(query));
                self.busy_sessions.insert(link);
            }
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.next_finals = next;
            session.more_finals = more;
        }
        self.arm_session(link, next);
    }

    /// A peer has answered: it is asked for what did not fit into the last query.
    pub(crate) fn query_more_awaited(&mut self, link: LinkId) {
        if let Some(session) = self.sessions.get(&link).filter(|s| s.more_finals) {
            let (own, peer) = (session.own, session.peer);
            self.query_awaited(own, peer);
        }
    }

    /// Asks again from time to time on a session that stays open.
    pub(crate) fn query_awaited_when_due(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let (own, peer, next) = (session.own, session.peer, session.next_finals);
        if !self.awaits_finals(own, peer) {
            return;
        }
        if next <= self.now.at {
            self.query_awaited(own, peer);
        } else {
            self.arm_session(link, next);
        }
    }

    /// A message of this node whose end is awaited, if this peer may speak about it (W-USE-1).
    fn awaited_of(&self, peer: QmId, source: QmId, entry: &Entry) -> Option<&Awaited> {
        self.awaiting.get(entry.id).filter(|awaited| {
            let of = awaited.peer;
            awaited.tag == entry.tag
                && awaited.own == source
                && (of == peer || self.heirs.succeeded(peer, Some(of)))
        })
    }

    /// A destination tells how messages ended.
    pub(crate) fn on_final(&mut self, link: LinkId, told: &Final) {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer) else {
            return;
        };
        if told.entries.iter().any(|(_, outcome)| !is_end(*outcome)) {
            return self.misbehaved(link, "a final that is no end of a message that arrived");
        }
        let entries = told.entries.iter().map(|(entry, _)| entry);
        let flights = self.flights_by_id(peer, entries);
        let mut not_held = Vec::new();
        for (entry, outcome) in &told.entries {
            let awaited = self.awaited_of(peer, told.source, entry);
            if awaited.is_none_or(|awaited| !matches!(awaited.wait, Wait::Doubt(_))) {
                // Its ack is behind this, or lost; what ended there had arrived.
                self.settle_held(peer, entry, &flights);
            }
            if matches!(self.awaiting.get(entry.id), Some(a) if matches!(a.wait, Wait::Doubt(_))) {
                // Delivered wins over its letter.
                crate::reached!(self, FinalOverLetter);
                self.ended_acknowledged(peer, entry);
            }
            if !self.final_heard(link, peer, told.source, entry, *outcome) {
                not_held.push((*entry, self.ever_mine(entry)));
            }
            self.seal_if_large();
        }
        if let Some(session) = self.sessions.get_mut(&link)
            && !not_held.is_empty()
        {
            self.counters.acks_not_held += not_held.len() as u64;
            let frame = NotHeld {
                source: told.source,
                entries: not_held,
            };
            session.push(Lane::Ack, &PeerFrame::NotHeld(frame));
            self.busy_sessions.insert(link);
        }
        self.busy_peers.insert(peer);
    }

    /// An answer about a message whose end is awaited. Returns whether it is one.
    pub(crate) fn answer_awaited(
        &mut self,
        link: LinkId,
        source: QmId,
        entry: &Entry,
        known: Known,
    ) -> bool {
        let Some(session) = self.sessions.get(&link) else {
            return false;
        };
        let (peer, life) = (session.peer, session.incarnation());
        let Some(awaited) = self.awaited_of(peer, source, entry) else {
            return false;
        };
        if matches!(awaited.wait, Wait::Doubt(_)) {
            return false;
        }
        match known {
            Known::Outcome(outcome) if is_end(outcome) => {
                crate::reached!(self, FinalAnswered);
                self.final_heard(link, peer, source, entry, outcome);
            }
            // It was in the memory of a life that is over. What was told of its end stands.
            Known::Unknown
                if awaited.wait == Wait::Open
                    && awaited.class == Class::Express
                    && awaited.life != Incarnation(0)
                    && life.is_some_and(|life| life != awaited.life) =>
            {
                self.end_unknown(entry.id);
            }
            _ => {}
        }
        true
    }

    /// Notes how a message ended. Returns whether its end is, or was, awaited here.
    pub(crate) fn final_heard(
        &mut self,
        link: LinkId,
        peer: QmId,
        source: QmId,
        entry: &Entry,
        outcome: Outcome,
    ) -> bool {
        let Some(mut awaited) = self.awaited_of(peer, source, entry).cloned() else {
            return false;
        };
        let entry = *entry;
        let first = match awaited.wait {
            // Also a repeated one is confirmed: the first confirmation may be lost.
            Wait::Ended(_) => {
                crate::reached!(self, FinalHeardAgain);
                false
            }
            Wait::Open => true,
            // Its letter is on its way to the disk, or in an application's hands: it is told again.
            Wait::Doubt(_) => return true,
        };
        if first {
            let (wanted, of) = (awaited.wanted.clone(), (entry.id, awaited.class));
            // What is to be reported and that it was heard are one batch: it is heard again when
            // the disk refuses it, and would be reported twice.
            self.behind_what_puts(entry.id);
            self.report(wanted.as_deref(), of, outcome, false, With::Event);
            awaited.wait = Wait::Ended(outcome);
            awaited.at = self.now.at;
            self.write_await(entry.id, &awaited, false);
            self.awaiting.insert(entry.id, awaited);
        }
        self.commits.after_settling(Then::FinalHeard {
            link,
            source,
            entry,
            first,
        });
        true
    }

    /// W-FIN-3: how a message ended is on disk. Whoever waits hears it, and its destination may
    /// forget it.
    pub(crate) fn final_noted(&mut self, link: LinkId, source: QmId, entry: Entry, first: bool) {
        let awaited = self.awaiting.get(entry.id);
        let known = awaited.map(|awaited| (awaited.wait, awaited.peer, awaited.own));
        let Some((Wait::Ended(outcome), peer, own)) = known else {
            // The disk refused the batch before this one, which had the end: it is told again.
            return;
        };
        if first {
            self.counters.finals_heard += 1;
            self.note(own, entry.id, What::EndedThere { peer, outcome });
            self.tell_fate(entry.id, outcome);
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.finals_noted.push((source, entry));
            self.busy_sessions.insert(link);
        }
    }

    /// Nobody can tell any more how a message ended.
    fn end_unknown(&mut self, id: MessageId) {
        let Some(awaited) = self.awaiting.remove(id) else {
            return;
        };
        crate::reached!(self, EndUnknown);
        self.unwrite_await(id);
        let of = (id, awaited.class);
        let wanted = awaited.wanted.as_deref();
        self.report(wanted, of, Outcome::END_UNKNOWN, false, With::Nothing);
        self.counters.finals_unknown += 1;
        let (peer, outcome) = (awaited.peer, Outcome::END_UNKNOWN);
        self.note(awaited.own, id, What::EndedThere { peer, outcome });
        // Not before it is forgotten on disk: after a crash it would be asked for again.
        self.tell_end(id, outcome);
    }

    /// Forgets what was told long ago, and gives up what nobody can tell any more.
    pub(crate) fn forget_awaited(&mut self) {
        let (now, kept) = (self.now.at, self.config.outcome_retention_ms);
        let told = self.awaiting.ended.iter();
        let told = told.take_while(|(at, _)| now.ms_since(*at) >= kept);
        let told: Vec<_> = told.map(|(_, id)| *id).collect();
        let open = self.awaiting.open.iter().map(|(_, _, id)| *id);
        let over = |id: &MessageId| self.awaiting.get(*id).is_some_and(|a| a.until <= now);
        let open: Vec<_> = open.filter(over).collect();
        for id in told {
            self.awaiting.remove(id);
            self.unwrite_await(id);
            self.seal_if_large();
        }
        for id in open {
            self.end_unknown(id);
            self.seal_if_large();
        }
    }

    /// Reads back whose end is awaited. Returns whether the value was understood.
    pub(crate) fn recover_awaited(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let id = read_await_key(key.strip_prefix(AWAIT)?);
        let Some((id, awaited)) = id.zip(Awaited::decode(value)) else {
            return Some(false);
        };
        self.awaiting.insert(id, awaited);
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited(own: u8, wait: Wait) -> Awaited {
        Awaited {
            own: QmId::from_bytes([own; 16]),
            peer: QmId::from_bytes([9; 16]),
            tag: Tag([4; 8]),
            class: Class::Express,
            life: Incarnation(8),
            at: Timestamp(5),
            until: Timestamp(6),
            wait,
            final_wished: true,
            wanted: None,
            asked: None,
        }
    }

    const fn id(sequence: u64) -> MessageId {
        MessageId {
            incarnation: Incarnation(7),
            sequence,
        }
    }

    #[test]
    fn what_is_awaited_comes_back_as_it_was() {
        for wait in [
            Wait::Open,
            Wait::Doubt(Outcome::REACH_QUEUE_EXPIRED),
            Wait::Ended(Outcome::RECEIVED),
        ] {
            let awaited = awaited(1, wait);
            let value = awaited.encode();
            assert_eq!(Awaited::decode(&value), Some(awaited));
            assert_eq!(Awaited::decode(&value.slice(..value.len() - 1)), None);
        }
        let key = await_key(id(3));
        let name = key.strip_prefix(AWAIT).unwrap();
        assert_eq!(read_await_key(name), Some(id(3)));
        assert_eq!(read_await_key(&name[1..]), None);
    }

    #[test]
    fn what_is_open_is_found_by_the_identities_between_which_it_travelled() {
        let mut awaiting = Awaiting::default();
        for (n, own) in [(1, 1), (2, 0xff), (3, 1), (4, 0)] {
            awaiting.insert(id(n), awaited(own, Wait::Open));
        }
        let owns = [0, 1, 0xff].map(|own| QmId::from_bytes([own; 16]));
        assert_eq!(awaiting.owns(), owns);
        awaiting.insert(id(4), awaited(0, Wait::Ended(Outcome::RECEIVED)));
        awaiting.remove(id(2));
        assert_eq!(awaiting.owns(), [owns[1]]);
        let span = Awaiting::span(owns[1], QmId::from_bytes([9; 16]));
        assert_eq!(awaiting.open.range(span).count(), 2);
        assert_eq!((awaiting.open.len(), awaiting.all.len()), (2, 3));
    }

    #[test]
    fn what_is_awaited_takes_so_many_bytes() {
        let mut engine = crate::testing::engine();
        engine.awaiting.insert(id(1), awaited(1, Wait::Open));
        engine
            .awaiting
            .insert(id(2), awaited(1, Wait::Ended(Outcome::RECEIVED)));
        engine.awaiting.bytes = AWAITED_BYTES_MAX - 1;
        assert!(engine.awaiting.has_room() && engine.make_room_to_await());
        assert_eq!(engine.awaiting.all.len(), 2);
        engine.awaiting.bytes = AWAITED_BYTES_MAX;
        assert!(!engine.awaiting.has_room());
        // One whose end is known makes room, one that is open does not.
        assert!(engine.make_room_to_await());
        assert_eq!(engine.awaiting.all.len(), 1);
        engine.awaiting.bytes = AWAITED_BYTES_MAX;
        assert!(!engine.make_room_to_await());
        assert_eq!(engine.awaiting.all.len(), 1);
    }
}

//! What became of messages of others behind their arrival: received, expired, purged, rejected
//! (W-FIN-1). It is kept for senders that wait for it.
//!
//! A final is written in the commit in which its message leaves the queue. It is sent as soon as
//! it is on disk, to where its sender was last heard of, told on every session that opens, and
//! answers queries; it stays until the sender has confirmed that it wrote it down, or for 30 days.
//! When a sender leaves too many unconfirmed, its oldest go, and nobody's push out those of others.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{
    AckWishes, Entry, Envelope, Final, FinalConfirm, MessageKey, Outcome, PeerFrame, QmId,
};

use crate::arrivals::{arrival_bytes, read_arrival};
use crate::backlog::Message;
use crate::commits::Then;
use crate::engine::{Engine, Route};
use crate::io::{Lane, LinkId, StoreOp};
use crate::limits::{FINAL_AGE_MS, FINAL_TRIES_MAX, FINALS_MAX, FINALS_PER_PEER_MAX};
use crate::record::{RemoteKey, prefixed};
use crate::session::Session;
use crate::time::Timestamp;

const FINAL: &[u8] = b"final/";
const VERSION: u8 = 1;

/// How a message ended here, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended {
    outcome: Outcome,
    at: Timestamp,
    durable: bool,
    /// Its place among those of its sender.
    serial: u64,
    /// How often somebody said that he does not hold the message.
    not_held: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Finals {
    known: BTreeMap<MessageKey, Ended>,
    /// Of each sender, in the order in which they were made.
    order: BTreeMap<QmId, BTreeMap<u64, Entry>>,
    last_serial: u64,
}

/// Whether the sender of a message waits for what becomes of it behind its arrival. Whichever of
/// the two it wishes: the other ends its wait.
pub(crate) fn wishes_final(envelope: &[u8]) -> bool {
    let wishes = Envelope::peek_ack_wishes(envelope);
    wishes.contains(AckWishes::POSITIVE_RECEIVE) || wishes.contains(AckWishes::NEGATIVE_RECEIVE)
}

pub(crate) fn final_key(key: &MessageKey) -> Bytes {
    prefixed(FINAL, &arrival_bytes(key))
}

fn encode(outcome: Outcome, at: Timestamp) -> Bytes {
    let mut to = BytesMut::with_capacity(11);
    to.put_u8(VERSION);
    to.put_u16_le(outcome.0);
    to.put_u64_le(at.0);
    to.freeze()
}

fn decode(value: &Bytes) -> Option<(Outcome, Timestamp)> {
    let mut r = value.clone();
    if r.try_get_u8().ok()? != VERSION {
        return None;
    }
    let outcome = Outcome(r.try_get_u16_le().ok()?);
    let at = Timestamp(r.try_get_u64_le().ok()?);
    r.is_empty().then_some((outcome, at))
}

impl Finals {
    /// Finals that are kept.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// How a message ended, once that is on disk.
    pub(crate) fn of(&self, key: &MessageKey) -> Option<Outcome> {
        if self.known.is_empty() {
            return None;
        }
        let ended = self.known.get(key).filter(|ended| ended.durable);
        ended.map(|ended| ended.outcome)
    }

    /// Those that are on disk.
    pub(crate) fn durable(&self) -> impl Iterator<Item = &MessageKey> {
        let durable = self.known.iter().filter(|(_, ended)| ended.durable);
        durable.map(|(key, _)| key)
    }

    /// Each is listed once, within bounds, and on disk or on its way there.
    pub(crate) fn audit(&self, is_under_way: impl Fn(&MessageKey) -> bool) -> Result<(), String> {
        let listed: usize = self.order.values().map(BTreeMap::len).sum();
        let of_peer = self.order.values().map(BTreeMap::len).max();
        let all = self.known.len();
        if listed != all || all > FINALS_MAX || of_peer.unwrap_or(0) > FINALS_PER_PEER_MAX {
            return Err(format!(
                "{all} ends, {listed} listed, {of_peer:?} of a peer"
            ));
        }
        for (key, ended) in &self.known {
            let id = key.entry.id;
            let order = self.order.get(&key.source);
            if order.and_then(|order| order.get(&ended.serial)) != Some(&key.entry) {
                return Err(format!("the end of {id} is not listed"));
            }
            if !ended.durable && !is_under_way(key) {
                return Err(format!("the end of {id} is neither on disk nor on its way"));
            }
        }
        Ok(())
    }

    fn of_sender(&self, source: QmId) -> usize {
        self.order.get(&source).map_or(0, BTreeMap::len)
    }

    fn insert(&mut self, key: MessageKey, outcome: Outcome, at: Timestamp, durable: bool) {
        self.last_serial += 1;
        let serial = self.last_serial;
        let ended = Ended {
            outcome,
            at,
            durable,
            serial,
            not_held: 0,
        };
        self.known.insert(key, ended);
        let order = self.order.entry(key.source).or_default();
        order.insert(serial, key.entry);
    }

    /// The oldest of a sender.
    fn oldest(&self, source: QmId) -> Option<(MessageKey, Ended)> {
        let (_, entry) = self.order.get(&source)?.first_key_value()?;
        let entry = *entry;
        let key = MessageKey { source, entry };
        self.known.get(&key).map(|ended| (key, *ended))
    }

    fn remove(&mut self, key: &MessageKey) -> bool {
        let Some(ended) = self.known.remove(key) else {
            return false;
        };
        if let Some(order) = self.order.get_mut(&key.source) {
            order.remove(&ended.serial);
            if order.is_empty() {
                self.order.remove(&key.source);
            }
        }
        true
    }
}

impl Engine {
    /// Whether a message in this queue of this node was sent to it, and not moved there.
    pub(crate) fn is_destination(&self, number: u32, envelope: &Bytes) -> bool {
        let queue = self.locals.get(&number);
        Envelope::decode(envelope)
            .ok()
            .zip(queue)
            .is_some_and(|(envelope, queue)| envelope.queue == queue.settings.name)
    }

    /// A message of a peer leaves its queue for good: its sender will hear how, if it waits for
    /// that. `putting`: whether the removal is in the batch that puts.
    pub(crate) fn note_final(
        &mut self,
        number: u32,
        message: &Message,
        outcome: Outcome,
        putting: bool,
    ) {
        let expired = outcome == Outcome::RECEIVE_EXPIRED;
        let outcome = if expired && crate::broken!(self, received_for_expired) {
            Outcome::RECEIVED
        } else {
            outcome
        };
        let Some(key) = self.begin_final(number, message, outcome) else {
            return;
        };
        if crate::broken!(self, final_before_durable) {
            self.final_durable(key);
        }
        let (name, value) = (final_key(&key), encode(outcome, self.now.at));
        let then = Then::Final { key };
        if crate::broken!(self, final_in_memory) {
            self.commits.after_settling(then);
        } else if putting {
            self.commits.put(StoreOp::Set { key: name, value });
            self.commits.after_putting(then);
        } else {
            self.commits.set(name, value);
            self.commits.after_settling(then);
        }
    }

    /// The same for a message that a transaction takes: in its commit, which speaks for it.
    pub(crate) fn note_final_taken(
        &mut self,
        number: u32,
        message: &Message,
    ) -> Option<MessageKey> {
        let outcome = Outcome::RECEIVED;
        let key = self.begin_final(number, message, outcome)?;
        let (name, value) = (final_key(&key), encode(outcome, self.now.at));
        self.commits.put(StoreOp::Set { key: name, value });
        Some(key)
    }

    fn begin_final(
        &mut self,
        number: u32,
        message: &Message,
        outcome: Outcome,
    ) -> Option<MessageKey> {
        if !wishes_final(&message.envelope) || self.is_own(message.source) {
            return None;
        }
        let (source, entry) = (message.source, message.entry());
        let key = MessageKey { source, entry };
        // What ended once cannot end otherwise.
        if self.finals.known.contains_key(&key) || !self.is_destination(number, &message.envelope) {
            return None;
        }
        while self.finals.of_sender(source) >= FINALS_PER_PEER_MAX
            || self.finals.len() >= FINALS_MAX
        {
            self.counters.finals_forgotten += 1;
            let Some((oldest, _)) = self.finals.oldest(source) else {
                // Those of others have all the room.
                return None;
            };
            self.drop_final(&oldest);
        }
        self.finals.insert(key, outcome, self.now.at, false);
        Some(key)
    }

    fn drop_final(&mut self, key: &MessageKey) -> bool {
        let known = self.finals.remove(key);
        if known {
            self.commits.unset(final_key(key));
        }
        known
    }

    /// It is on disk: the sender may hear it.
    pub(crate) fn final_durable(&mut self, key: MessageKey) {
        if let Some(ended) = self.finals.known.get_mut(&key) {
            ended.durable = true;
            self.counters.finals += 1;
            self.send_final(key, None);
        }
    }

    /// Tells how a message ended where its sender was last heard of, but not on this session.
    fn send_final(&mut self, key: MessageKey, not_on: Option<LinkId>) {
        let Some(outcome) = self.finals.of(&key) else {
            return;
        };
        let life = (key.source, key.entry.id.incarnation);
        let now_ms = self.now.at.as_ms();
        let mut listens = false;
        for route in self.routes.candidates(&life, now_ms) {
            match route {
                Route::Session(link) if not_on != Some(link) => {
                    if let Some(session) = self.sessions.get_mut(&link) {
                        crate::reached!(self, FinalTold);
                        session.finals.push((key.entry, outcome));
                        self.busy_sessions.insert(link);
                        return;
                    }
                }
                Route::Session(_) => {}
                Route::Address(_) => listens = true,
            }
        }
        // Another life of it may have taken over what this one waited for.
        let links = self.by_peer.get(&key.source).into_iter().flatten();
        let mut others = links.rev().filter(|link| not_on != Some(**link));
        let open = others.find(|link| self.sessions.get(link).is_some_and(|s| s.opened));
        if let Some(link) = open.copied()
            && let Some(session) = self.sessions.get_mut(&link)
        {
            session.finals.push((key.entry, outcome));
            self.busy_sessions.insert(link);
        } else if listens {
            // Dialling where it said that it listens is worth a try.
            let number = self.remote(&RemoteKey::Id(key.source));
            self.want_connection(number);
        }
    }

    /// Whether something is to be told to a peer that is not connected, and where it listens is
    /// known.
    pub(crate) fn has_final_for(&self, peer: QmId) -> bool {
        let Some((oldest, ended)) = self.finals.oldest(peer) else {
            return false;
        };
        let life = (peer, oldest.entry.id.incarnation);
        ended.durable
            && ended.not_held == 0
            && !self
                .routes
                .candidates(&life, self.now.at.as_ms())
                .is_empty()
    }

    /// A session with a peer is open: it hears what it has not confirmed, the oldest of it. It asks
    /// for the rest itself.
    pub(crate) fn tell_finals(&mut self, link: LinkId, peer: QmId) {
        let Some(order) = self.finals.order.get(&peer) else {
            return;
        };
        let known = &self.finals.known;
        let told = order.values().filter_map(|entry| {
            let (source, entry) = (peer, *entry);
            let ended = known.get(&MessageKey { source, entry })?;
            (ended.durable && ended.not_held == 0).then_some((entry, ended.outcome))
        });
        let told: Vec<_> = told.take(ENTRIES_MAX).collect();
        if let Some(session) = self.sessions.get_mut(&link)
            && !told.is_empty()
        {
            crate::reached!(self, FinalToldAgain);
            session.finals.extend(told);
            self.busy_sessions.insert(link);
        }
    }

    /// Whoever was told does not hold the message. Returns whether there is a final of it.
    pub(crate) fn final_not_held(&mut self, link: LinkId, key: MessageKey) -> bool {
        let Some(ended) = self.finals.known.get_mut(&key).filter(|e| e.durable) else {
            return false;
        };
        crate::reached!(self, FinalNotHeld);
        ended.not_held = ended.not_held.saturating_add(1);
        // Perhaps a copy of the sender does; at last it waits for the sender's own question.
        if ended.not_held <= FINAL_TRIES_MAX {
            self.send_final(key, Some(link));
        }
        true
    }

    /// The disk did not note it, in a batch that puts: its message is where it was.
    pub(crate) fn final_refused(&mut self, key: MessageKey) {
        crate::reached!(self, FinalRefused);
        self.finals.remove(&key);
    }

    /// What a transaction took is not received after all.
    pub(crate) fn finals_void(&mut self, keys: &[MessageKey]) {
        for key in keys {
            self.finals.remove(key);
        }
    }

    /// The same, when the disk had it already.
    pub(crate) fn unset_finals(&mut self, keys: &[MessageKey]) {
        for key in keys {
            self.commits.unset(final_key(key));
        }
    }

    /// A sender wrote finals down: they need not be kept.
    pub(crate) fn on_final_confirm(&mut self, link: LinkId, confirm: &FinalConfirm) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let (peer, source) = (session.peer, confirm.source);
        if !self.is_or_was(peer, source) {
            return self.misbehaved(link, "a confirmation of another queue manager's finals");
        }
        for entry in &confirm.entries {
            let entry = *entry;
            if self.drop_final(&MessageKey { source, entry }) {
                self.counters.finals_confirmed += 1;
            }
            self.seal_if_large();
        }
    }

    /// Whether a peer is this queue manager, or has proven that it was (W-FIN-4).
    pub(crate) fn is_or_was(&self, peer: QmId, source: QmId) -> bool {
        source == peer || self.heirs.of(source) == peer
    }

    /// Forgets what nobody asked for in 30 days.
    pub(crate) fn forget_finals(&mut self) {
        let sources: Vec<_> = self.finals.order.keys().copied().collect();
        for source in sources {
            while let Some((oldest, ended)) = self.finals.oldest(source)
                && self.now.at.ms_since(ended.at) >= FINAL_AGE_MS
            {
                self.counters.finals_forgotten += 1;
                self.drop_final(&oldest);
                self.seal_if_large();
            }
        }
    }

    /// Reads a final back. Returns whether the value was understood.
    pub(crate) fn recover_final(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let key = read_arrival(key.strip_prefix(FINAL)?);
        let Some((key, (outcome, at))) = key.zip(decode(value)) else {
            return Some(false);
        };
        self.finals.insert(key, outcome, at, true);
        Some(true)
    }

    /// Puts what was read back into the order in which it happened.
    pub(crate) fn order_finals(&mut self) {
        let known = core::mem::take(&mut self.finals.known);
        self.finals.order.clear();
        let mut all: Vec<_> = known.into_iter().collect();
        all.sort_by_key(|(_, ended)| ended.at);
        for (key, ended) in all {
            self.finals.insert(key, ended.outcome, ended.at, true);
        }
    }
}

/// Finals and their confirmations that were gathered for a session leave.
pub(crate) fn push_finals(session: &mut Session) {
    let finals = core::mem::take(&mut session.finals);
    let source = session.peer;
    for entries in finals.chunks(ENTRIES_MAX) {
        let entries = entries.to_vec();
        session.push(Lane::Ack, &PeerFrame::Final(Final { source, entries }));
    }
    let mut noted = core::mem::take(&mut session.finals_noted);
    noted.sort_unstable_by_key(|(source, _)| *source);
    for of_source in noted.chunk_by(|one, other| one.0 == other.0) {
        for entries in of_source.chunks(ENTRIES_MAX) {
            let Some((source, _)) = entries.first() else {
                continue;
            };
            let source = *source;
            let entries = entries.iter().map(|(_, entry)| *entry).collect();
            let frame = PeerFrame::FinalConfirm(FinalConfirm { source, entries });
            session.push(Lane::Ack, &frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qm_wire::{Incarnation, MessageId, Tag};

    fn key(source: u8, sequence: u64) -> MessageKey {
        let id = MessageId {
            incarnation: Incarnation(1),
            sequence,
        };
        let tag = Tag([3; 8]);
        MessageKey {
            source: QmId::from_bytes([source; 16]),
            entry: Entry { id, tag },
        }
    }

    #[test]
    fn a_final_comes_back_as_it_was() {
        let value = encode(Outcome::RECEIVED, Timestamp(7));
        assert_eq!(decode(&value), Some((Outcome::RECEIVED, Timestamp(7))));
        assert_eq!(decode(&value.slice(..value.len() - 1)), None);
    }

    #[test]
    fn what_was_confirmed_out_of_turn_takes_no_room() {
        let mut finals = Finals::default();
        for sequence in 1..=3 {
            finals.insert(key(1, sequence), Outcome::RECEIVED, Timestamp(0), true);
        }
        assert!(finals.remove(&key(1, 2)) && !finals.remove(&key(1, 2)));
        assert_eq!(finals.of_sender(key(1, 1).source), 2);
        assert_eq!(finals.oldest(key(1, 1).source).unwrap().0, key(1, 1));
        assert!(finals.remove(&key(1, 1)) && finals.remove(&key(1, 3)));
        assert!(finals.order.is_empty() && finals.oldest(key(1, 1).source).is_none());
    }

    #[test]
    fn of_all_senders_so_many_finals_are_kept_and_each_makes_room_for_its_own() {
        let mut engine = crate::testing::engine();
        let name: qm_wire::QueueName = "orders".parse().unwrap();
        let number = engine.create_queue(crate::LocalSettings::new(name.clone()));
        let ends = |engine: &mut Engine, source: usize, sequence: u64| {
            let key = crate::testing::key(source, sequence);
            let message = wishing(key, name.clone());
            engine.begin_final(number, &message, Outcome::RECEIVED)
        };
        let each = (FINALS_MAX / 8) as u64;
        for (source, sequence) in (0..8).flat_map(|s| (0..each).map(move |n| (s, n))) {
            let key = crate::testing::key(source, sequence);
            engine
                .finals
                .insert(key, Outcome::RECEIVED, Timestamp(0), true);
        }
        assert_eq!(ends(&mut engine, 9, 0), None, "it has none to give up");
        let counted = engine.counters.finals_forgotten;
        assert!(ends(&mut engine, 3, each).is_some());
        assert_eq!(engine.counters.finals_forgotten, counted + 1);
        assert_eq!(engine.finals.len(), FINALS_MAX);
        let oldest = |engine: &Engine, n| engine.finals.oldest(crate::testing::qm(n)).unwrap().0;
        assert_eq!(oldest(&engine, 3), crate::testing::key(3, 1));
        assert_eq!(oldest(&engine, 4), crate::testing::key(4, 0));
        assert_eq!(engine.finals.of_sender(crate::testing::qm(9)), 0);
        let freed = crate::testing::key(4, 0);
        engine.drop_final(&freed);
        assert!(ends(&mut engine, 9, 0).is_some(), "a place is free");
    }

    /// A message whose sender wishes to hear of its end.
    fn wishing(key: MessageKey, queue: qm_wire::QueueName) -> Message {
        let salt = qm_wire::Salt([3; 16]);
        let class = qm_wire::Class::Recoverable;
        let mut envelope = Envelope::new(key.source, key.entry.id, salt, class, queue);
        envelope.ack_wishes = AckWishes::POSITIVE_RECEIVE;
        envelope.admin_queue = "acks".into();
        let mut bytes = BytesMut::new();
        envelope.encode(&mut bytes).unwrap();
        Message {
            position: 1,
            source: key.source,
            id: key.entry.id,
            tag: key.entry.tag,
            class,
            flags: qm_wire::MessageFlags::NONE,
            at: Timestamp(0),
            wall_us: 0,
            reach_left_ms: 0,
            receive_left_ms: 0,
            aborts: 0,
            transmitted: false,
            envelope: bytes.freeze(),
            body: Bytes::new(),
        }
    }
}

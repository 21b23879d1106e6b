//! Messages that ended here although their destination may have them: it is asked, with a query
//! that voids what it does not have (W-USE-8), and its word ends the doubt.
//!
//! This is for express and recoverable messages; a transactional one leaves a skip in its stream,
//! which asks the same. What is asked for lies on disk, written in the commit that removes the
//! message from its queue, and stays there over restarts until the destination has answered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{Entry, Incarnation, Known, MessageId, Outcome, PeerFrame, QmId, Query, Tag};

use crate::backlog::Message;
use crate::commits::Then;
use crate::engine::Engine;
use crate::history::What;
use crate::io::{Lane, LinkId, StoreOp};
use crate::limits::{ASKED_MAX, SILENT_SESSION_MS};
use crate::outgoing::Remote;
use crate::record::{prefixed, take_array};
use crate::time::Timestamp;

const ASK: &[u8] = b"ask/";
const VERSION: u8 = 1;

/// One message that its destination is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// The outgoing queue it was in.
    pub(crate) queue: u32,
    tag: Tag,
    /// How it ended here.
    outcome: Outcome,
    /// Its dead letter, if one was kept: position and bytes.
    letter: Option<(u64, u64)>,
    /// Whether this is on disk: the destination is not asked before, or a crash would send a
    /// message whose death it has confirmed.
    durable: bool,
    /// On which session it was asked last, and when.
    asked: Option<(LinkId, Timestamp)>,
    /// Its destination is about to know: it is not asked again before.
    not_before: Timestamp,
    /// What ends it as soon as this is on disk and nobody holds its dead letter.
    word: Option<Word>,
}

/// What was learnt about a message that ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Its destination has it.
    There,
    /// Its destination will not speak about it.
    Refused,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    open: BTreeMap<MessageId, Asking>,
    by_queue: BTreeSet<(u32, MessageId)>,
    /// Queues of which something became ready to be asked.
    fresh: BTreeSet<u32>,
}

fn ask_key(id: MessageId) -> Bytes {
    let mut name = [0; 16];
    let (life, sequence) = name.split_at_mut(8);
    life.copy_from_slice(&id.incarnation.0.to_be_bytes());
    sequence.copy_from_slice(&id.sequence.to_be_bytes());
    prefixed(ASK, &name)
}

impl Asking {
    fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(32);
        to.put_u8(VERSION);
        to.put_u32_le(self.queue);
        to.put_slice(&self.tag.0);
        to.put_u16_le(self.outcome.0);
        if let Some((position, bytes)) = self.letter {
            to.put_u64_le(position);
            to.put_u64_le(bytes);
        }
        to.freeze()
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let queue = r.try_get_u32_le().ok()?;
        let tag = Tag(take_array(&mut r)?);
        let outcome = Outcome(r.try_get_u16_le().ok()?);
        let letter = if r.is_empty() {
            None
        } else {
            Some((r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?))
        };
        r.is_empty().then_some(Self {
            queue,
            tag,
            outcome,
            letter,
            durable: true,
            asked: None,
            not_before: Timestamp(0),
            word: None,
        })
    }
}

impl Asks {
    /// Messages whose fate is open.
    pub(crate) fn ids(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.open.keys().copied()
    }

    fn span(queue: u32) -> core::ops::RangeInclusive<(u32, MessageId)> {
        let id = |n| MessageId {
            incarnation: Incarnation(n),
            sequence: n,
        };
        (queue, id(0))..=(queue, id(u64::MAX))
    }

    fn insert(&mut self, id: MessageId, asking: Asking) {
        self.by_queue.insert((asking.queue, id));
        self.open.insert(id, asking);
    }

    fn remove(&mut self, id: MessageId) -> Option<Asking> {
        let asking = self.open.remove(&id)?;
        self.by_queue.remove(&(asking.queue, id));
        Some(asking)
    }
}

impl Engine {
    /// Whether a waiting message may have reached its destination: it was transmitted, or an
    /// earlier life may have done that.
    pub(crate) fn may_be_there(&self, message: &Message) -> bool {
        let earlier = message.id.incarnation != self.incarnation;
        message.transmitted || earlier && !crate::broken!(self, forget_doubt)
    }

    /// Whether another message can be asked for.
    pub(crate) fn may_ask(&self) -> bool {
        self.asks.open.len() < ASKED_MAX
    }

    /// From now on the destination is asked for a message that ended here, in the commit that
    /// removes it. `letter`: where its dead letter lies, in the batch that puts.
    pub(crate) fn ask_for(
        &mut self,
        queue: u32,
        message: &Message,
        outcome: Outcome,
        letter: Option<u64>,
    ) {
        let asking = Asking {
            queue,
            tag: message.tag,
            outcome,
            letter: letter.map(|letter| (letter, message.credit())),
            durable: false,
            asked: None,
            not_before: Timestamp(0),
            word: None,
        };
        let (key, value) = (ask_key(message.id), asking.encode());
        if letter.is_some() {
            self.commits.put(StoreOp::Set { key, value });
        } else {
            self.commits.set(key, value);
            self.commits.after_settling(Then::Asking { id: message.id });
        }
        self.asks.insert(message.id, asking);
        self.puts_to_work(queue);
        if let Some(out) = self.outs.get_mut(&queue) {
            out.asked += 1;
        }
    }

    fn end_ask(&mut self, id: MessageId) -> Option<Asking> {
        let asking = self.asks.remove(id)?;
        if let Some(out) = self.outs.get_mut(&asking.queue) {
            out.asked = out.asked.saturating_sub(1);
        }
        Some(asking)
    }

    /// It is on disk: the destination may be asked.
    pub(crate) fn ask_durable(&mut self, id: MessageId) {
        let Some(asking) = self.asks.open.get_mut(&id) else {
            return;
        };
        asking.durable = true;
        let queue = asking.queue;
        if asking.word.is_some() {
            return self.end_by_word(id);
        }
        self.asks.fresh.insert(queue);
        self.nudge_out(queue);
    }

    /// The disk refused the dead letter with which it was noted: the message is where it was.
    pub(crate) fn unask(&mut self, id: MessageId) {
        self.end_ask(id);
    }

    /// Asks a peer about what became ready to be asked; called whenever something may leave.
    pub(crate) fn ask_fresh(&mut self, own: QmId, peer: QmId, queues: &[u32]) {
        if self.asks.fresh.is_empty() {
            return;
        }
        let mut any = false;
        for queue in queues {
            any |= self.asks.fresh.remove(queue);
        }
        if any {
            self.query_ended(own, peer);
        }
    }

    /// Asks a peer about messages that ended here, so many as one query takes; the next when it
    /// has answered. Returns whether any is still to be answered.
    pub(crate) fn query_ended(&mut self, own: QmId, peer: QmId) -> bool {
        let Some(link) = self.sending_session(own, peer) else {
            return false;
        };
        let (now, interval) = (self.now.at, self.config.query_interval_ms);
        let (mut entries, mut open) = (Vec::new(), false);
        'queues: for queue in self.queues_towards(own, peer) {
            for (_, id) in self.asks.by_queue.range(Asks::span(queue)) {
                let asked = |a: &&Asking| a.durable && a.word.is_none();
                let Some(asking) = self.asks.open.get(id).filter(asked) else {
                    continue;
                };
                open = true;
                let due = asking.not_before <= now
                    && asking
                        .asked
                        .is_none_or(|(on, at)| on != link || at.plus_ms(interval) <= now);
                if due {
                    let (id, tag) = (*id, asking.tag);
                    entries.push(Entry { id, tag });
                }
                if entries.len() >= ENTRIES_MAX {
                    break 'queues;
                }
            }
        }
        if entries.is_empty() {
            return open;
        }
        for entry in &entries {
            if let Some(asking) = self.asks.open.get_mut(&entry.id) {
                asking.asked = Some((link, now));
            }
            self.note(own, entry.id, What::Queried { peer });
        }
        self.counters.queried += entries.len() as u64;
        crate::reached!(self, EndedAsked);
        let next_query = now.plus_ms(interval);
        if let Some(session) = self.sessions.get_mut(&link) {
            let query = Query {
                source: own,
                void: true,
                entries,
            };
            session.push(Lane::Control, &PeerFrame::Query(query));
            session.next_query = session.next_query.min(next_query);
        }
        self.arm_session(link, next_query);
        self.expect_sign(link, SILENT_SESSION_MS);
        self.busy_sessions.insert(link);
        true
    }

    /// Whether this peer may speak about this entry, which ended here.
    fn is_asked(&self, peer: QmId, entry: &Entry) -> bool {
        self.asks.open.get(&entry.id).is_some_and(|asking| {
            // W-USE-1.
            let remote = self.outs.get(&asking.queue).map(|out| out.remote);
            let remote = remote.and_then(|remote| self.remotes.get(&remote));
            asking.tag == entry.tag && remote.and_then(Remote::peer) == Some(peer)
        })
    }

    /// The destination's word on a message that ended here. Returns whether it was one.
    pub(crate) fn answer_ended(&mut self, link: LinkId, entry: &Entry, known: Known) -> bool {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer) else {
            return false;
        };
        if !self.is_asked(peer, entry) {
            return false;
        }
        match known {
            // W-USE-8: an unknown that voids nothing ends no doubt, and what is being stored will
            // be known soon.
            Known::Unknown => {}
            Known::InFlight => {
                let soon = self.now.at.plus_ms(1_000);
                if let Some(asking) = self.asks.open.get_mut(&entry.id) {
                    // Not at once: every query would be answered so, without end.
                    asking.asked = None;
                    asking.not_before = soon;
                }
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.next_query = session.next_query.min(soon);
                }
                self.arm_session(link, soon);
            }
            Known::Delivered => self.ended_is_there(entry),
            // What was received there, or ended in its queue there, had arrived.
            Known::Outcome(outcome) if outcome.is_of_arrived() => self.ended_is_there(entry),
            // Its dead letter is not on disk yet; when it is, it is asked for.
            Known::Outcome(_) if !self.is_ask_durable(entry.id) => {}
            Known::Outcome(_) => {
                let Some(asking) = self.end_ask(entry.id) else {
                    return true;
                };
                crate::reached!(self, EndedVoided);
                self.commits.unset(ask_key(entry.id));
                let letter = asking.letter.map(|(position, _)| position);
                match self.unsure_of(link, entry) {
                    None => self.letter_certain(letter, entry.id),
                    Some(unsure) => {
                        self.count_unsure(unsure);
                        self.letter_uncertain(letter, entry.id);
                    }
                }
                self.tell_end(entry.id, asking.outcome);
            }
        }
        true
    }

    /// Delivered wins: it is no dead letter. Returns whether the entry was asked for.
    pub(crate) fn ended_acknowledged(&mut self, peer: QmId, entry: &Entry) -> bool {
        let asked = self.is_asked(peer, entry);
        if asked {
            self.ended_is_there(entry);
        }
        asked
    }

    /// Whether a message of this node ended here and its destination is asked whether it arrived
    /// all the same. A routed ack for it is an answer to that, not one for what is not held.
    #[must_use]
    pub fn asks_about(&self, id: MessageId) -> bool {
        self.asks.open.contains_key(&id)
    }

    fn is_ask_durable(&self, id: MessageId) -> bool {
        let asking = self.asks.open.get(&id);
        asking.is_some_and(|asking| asking.durable)
    }

    fn ended_is_there(&mut self, entry: &Entry) {
        if let Some(asking) = self.asks.open.get_mut(&entry.id) {
            asking.word = Some(Word::There);
            self.end_by_word(entry.id);
        }
    }

    /// A dead letter is not in an application's hands any more: what was learnt meanwhile counts.
    pub(crate) fn letter_let_go(&mut self, id: MessageId) {
        self.skip_let_go(id);
        self.end_by_word(id);
    }

    /// A peer will not speak about what ended in an outgoing queue towards it.
    pub(crate) fn refused_asks(&mut self, queue: u32) {
        let asked = self.asks.by_queue.range(Asks::span(queue));
        let asked: Vec<_> = asked.map(|(_, id)| *id).collect();
        for id in asked {
            if let Some(asking) = self.asks.open.get_mut(&id)
                && asking.word.is_none()
            {
                asking.word = Some(Word::Refused);
                self.end_by_word(id);
                // Each stands for itself, and there may be more than one batch takes.
                self.seal_if_large();
            }
        }
    }

    /// Ends an ask with what was learnt, unless its dead letter cannot be touched just now: it is
    /// on its way to the disk, or an application holds it. The ask stays on disk as long, so that
    /// a crash forgets nothing.
    fn end_by_word(&mut self, id: MessageId) {
        let Some(asking) = self.asks.open.get(&id) else {
            return;
        };
        let letter = asking.letter.map(|(position, _)| position);
        let (Some(word), true) = (asking.word, asking.durable) else {
            return;
        };
        if word == Word::There && letter.is_some_and(|at| self.is_letter_held(at)) {
            return;
        }
        let Some(asking) = self.end_ask(id) else {
            return;
        };
        self.commits.unset(ask_key(id));
        match word {
            Word::There => {
                crate::reached!(self, EndedDelivered);
                let entry = Entry {
                    id,
                    tag: asking.tag,
                };
                self.was_delivered(asking.queue, entry, asking.letter);
            }
            Word::Refused => {
                self.counters.uncertain_by_refusal += 1;
                self.letter_uncertain(letter, id);
                self.tell_end(id, asking.outcome);
            }
        }
    }

    /// Reads back what is asked for. Returns whether the value was understood.
    pub(crate) fn recover_ask(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let mut name = Bytes::copy_from_slice(key.strip_prefix(ASK)?);
        let id = name.try_get_u64().ok().zip(name.try_get_u64().ok());
        let Some(((life, sequence), asking)) = id.zip(Asking::decode(value)) else {
            return Some(false);
        };
        let id = MessageId {
            incarnation: Incarnation(life),
            sequence,
        };
        self.asks.insert(id, asking);
        Some(true)
    }

    /// Counts what was read back, once the queues are there.
    pub(crate) fn count_asks(&mut self) {
        for (queue, _) in &self.asks.by_queue {
            if let Some(out) = self.outs.get_mut(queue) {
                out.asked += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_back_as_it_was() {
        for letter in [None, Some((7, 1_000))] {
            let asking = Asking {
                queue: 3,
                tag: Tag([4; 8]),
                outcome: Outcome::REACH_QUEUE_EXPIRED,
                letter,
                durable: true,
                asked: None,
                not_before: Timestamp(0),
                word: None,
            };
            let value = asking.encode();
            assert_eq!(Asking::decode(&value), Some(asking));
            for cut in [1, value.len() - 1] {
                assert_eq!(Asking::decode(&value.slice(..cut)), None, "{cut}");
            }
        }
    }

    #[test]
    fn so_many_are_asked_for() {
        let mut engine = crate::testing::engine();
        let asking = Asking {
            queue: 1,
            tag: Tag([3; 8]),
            outcome: Outcome::PURGED_IN_TRANSIT,
            letter: None,
            durable: true,
            asked: None,
            not_before: Timestamp(0),
            word: None,
        };
        for sequence in 1..ASKED_MAX as u64 {
            engine
                .asks
                .insert(crate::testing::id(sequence), asking.clone());
        }
        assert!(engine.may_ask());
        engine.asks.insert(crate::testing::id(0), asking);
        assert!(!engine.may_ask());
    }
}

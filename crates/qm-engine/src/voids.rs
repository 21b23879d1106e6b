//! What this node promised never to take: messages whose senders gave them up and asked (W-USE-8).
//!
//! A void is on disk before it is answered, and messages that come after it are refused. It is
//! forgotten when it is 30 days old, or earlier when its sender has too many of them, the oldest
//! first; but never while a session lives that was open when it was recorded, because the message
//! may still be on its way there.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use qm_wire::{Answer, Entry, Known, MessageKey, Outcome, PeerFrame, QmId};

use crate::arrivals::{arrival_bytes, read_arrival};
use crate::commits::Then;
use crate::engine::Engine;
use crate::io::{Lane, LinkId};
use crate::limits::{VOID_AGE_MS, VOIDS_MAX, VOIDS_PER_PEER_MAX};
use crate::record::prefixed;
use crate::time::Timestamp;

const VOID: &[u8] = b"void/";
const VERSION: u8 = 1;

/// A message that will not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Void {
    /// Node time at which it was recorded.
    at: Timestamp,
    durable: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Voids {
    known: BTreeMap<MessageKey, Void>,
    /// Of each sender, the oldest first.
    order: BTreeMap<QmId, VecDeque<Entry>>,
}

/// What became of a request to void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voiding {
    /// It is on its way to the disk: the answer comes then.
    Begun,
    /// It is on disk.
    Done,
    /// Another request is on its way to the disk.
    Pending,
    /// There is no room to remember it.
    Full,
}

pub(crate) fn void_key(key: &MessageKey) -> Bytes {
    prefixed(VOID, &arrival_bytes(key))
}

fn void_value(at: Timestamp) -> Bytes {
    let mut to = BytesMut::with_capacity(9);
    to.put_u8(VERSION);
    to.put_u64_le(at.0);
    to.freeze()
}

impl Voids {
    /// Whether a message is not to be taken.
    pub(crate) fn has(&self, key: &MessageKey) -> bool {
        !self.known.is_empty() && self.known.contains_key(key)
    }

    /// Whether a message is not to be taken once the disk has that; nothing is said of it before.
    pub(crate) fn is_pending(&self, key: &MessageKey) -> bool {
        let void = self.known.get(key);
        void.is_some_and(|void| !void.durable)
    }

    /// Voids remembered.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Those that are on disk.
    pub(crate) fn durable(&self) -> impl Iterator<Item = &MessageKey> {
        let durable = self.known.iter().filter(|(_, void)| void.durable);
        durable.map(|(key, _)| key)
    }

    /// Each is listed once, within bounds, and on disk or on its way there.
    pub(crate) fn audit(&self, is_under_way: impl Fn(&MessageKey) -> bool) -> Result<(), String> {
        let listed: usize = self.order.values().map(VecDeque::len).sum();
        let of_peer = self.order.values().map(VecDeque::len).max();
        let all = self.known.len();
        if listed != all || all > VOIDS_MAX || of_peer.unwrap_or(0) > VOIDS_PER_PEER_MAX {
            return Err(format!(
                "{all} voids, {listed} listed, {of_peer:?} of a peer"
            ));
        }
        let mut pending = self.known.iter().filter(|(_, void)| !void.durable);
        match pending.find(|(key, _)| !is_under_way(key)) {
            Some((key, _)) => Err(format!(
                "the void of {} is neither on disk nor on its way",
                key.entry.id
            )),
            None => Ok(()),
        }
    }

    fn insert(&mut self, key: MessageKey, void: Void) {
        self.known.insert(key, void);
        let order = self.order.entry(key.source).or_default();
        order.push_back(key.entry);
    }

    /// The oldest void of a sender.
    fn oldest(&self, source: QmId) -> Option<(MessageKey, Void)> {
        let entry = *self.order.get(&source)?.front()?;
        let key = MessageKey { source, entry };
        self.known.get(&key).map(|void| (key, *void))
    }

    fn remove(&mut self, key: &MessageKey) {
        self.known.remove(key);
        if let Some(order) = self.order.get_mut(&key.source) {
            if order.front() == Some(&key.entry) {
                order.pop_front();
            } else {
                order.retain(|entry| *entry != key.entry);
            }
            if order.is_empty() {
                self.order.remove(&key.source);
            }
        }
    }
}

impl Engine {
    /// A sender asks that a message which is not here never be taken.
    pub(crate) fn void(&mut self, key: MessageKey) -> Voiding {
        if let Some(void) = self.voids.known.get(&key) {
            return if void.durable {
                Voiding::Done
            } else {
                Voiding::Pending
            };
        }
        let of_peer = |voids: &Voids| voids.order.get(&key.source).map_or(0, VecDeque::len);
        while of_peer(&self.voids) >= VOIDS_PER_PEER_MAX || self.voids.len() >= VOIDS_MAX {
            // Nobody's voids push out those of others.
            if !self.forget_oldest_void(key.source) {
                return Voiding::Full;
            }
        }
        let at = self.now.at;
        let durable = crate::broken!(self, void_in_memory);
        self.voids.insert(key, Void { at, durable });
        self.counters.voids += 1;
        crate::reached!(self, VoidRecorded);
        if durable {
            return Voiding::Done;
        }
        self.commits.set(void_key(&key), void_value(at));
        Voiding::Begun
    }

    /// Forgets the oldest void of a sender, unless what it is about may still be under way.
    fn forget_oldest_void(&mut self, source: QmId) -> bool {
        let Some((key, void)) = self.voids.oldest(source) else {
            return false;
        };
        if self.may_be_under_way(source, void.at) || !void.durable {
            return false;
        }
        self.voids.remove(&key);
        self.commits.unset(void_key(&key));
        true
    }

    /// Whether a session lives that was open at that time.
    fn may_be_under_way(&self, peer: QmId, at: Timestamp) -> bool {
        let links = self.by_peer.get(&peer).into_iter().flatten();
        links
            .filter_map(|link| self.sessions.get(link))
            .any(|session| session.began <= at)
    }

    /// Forgets what is old enough.
    pub(crate) fn forget_voids(&mut self) {
        let sources: Vec<_> = self.voids.order.keys().copied().collect();
        for source in sources {
            while let Some((_, void)) = self.voids.oldest(source)
                && self.now.at.ms_since(void.at) >= VOID_AGE_MS
                && self.forget_oldest_void(source)
            {
                self.seal_if_large();
            }
        }
    }

    /// Voids are on disk: whoever asked is told.
    pub(crate) fn voids_durable(&mut self, link: LinkId, source: QmId, entries: &[Entry]) {
        let voided = Known::Outcome(Outcome::VOIDED);
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let entry = *entry;
            if let Some(void) = self.voids.known.get_mut(&MessageKey { source, entry }) {
                void.durable = true;
                answers.push((entry, voided));
            }
        }
        self.answer_query(link, source, answers);
    }

    /// Answers what a peer asked, if its session is still there.
    pub(crate) fn answer_query(
        &mut self,
        link: LinkId,
        source: QmId,
        entries: Vec<(Entry, Known)>,
    ) {
        if entries.is_empty() {
            return;
        }
        let open = |known: &Known| !matches!(known, Known::Delivered | Known::InFlight);
        let lives = entries.iter().filter(|(_, known)| open(known));
        let lives = lives.map(|(entry, _)| entry.id.incarnation).collect();
        let marks = self.evicted_of(source, &lives);
        if let Some(session) = self.sessions.get_mut(&link) {
            for marks in marks {
                session.push(Lane::Control, &PeerFrame::Evicted(marks));
            }
            let answer = Answer { source, entries };
            session.push(Lane::Control, &PeerFrame::Answer(answer));
            self.busy_sessions.insert(link);
        }
    }

    /// Begins to void what was asked for; the answer leaves when the disk has it.
    pub(crate) fn after_voiding(&mut self, link: LinkId, source: QmId, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.commits.after_settling(Then::Voided {
                link,
                source,
                entries,
            });
        }
    }

    /// Reads a void back. Returns whether the value was understood.
    pub(crate) fn recover_void(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let key = read_arrival(key.strip_prefix(VOID)?);
        let at = match value.split_first() {
            Some((&VERSION, at)) => <[u8; 8]>::try_from(at).ok(),
            _ => None,
        };
        let Some((key, at)) = key.zip(at) else {
            return Some(false);
        };
        let at = Timestamp(u64::from_le_bytes(at));
        self.voids.insert(key, Void { at, durable: true });
        Some(true)
    }

    /// Puts what was read back into the order in which it was recorded.
    pub(crate) fn order_voids(&mut self) {
        let known = &self.voids.known;
        for (source, order) in &mut self.voids.order {
            let at = |entry: &Entry| {
                let key = MessageKey {
                    source: *source,
                    entry: *entry,
                };
                known.get(&key).map(|void| void.at)
            };
            order.make_contiguous().sort_by_key(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engine, key};

    #[test]
    fn all_senders_together_have_so_many_voids_and_take_none_from_each_other() {
        let mut engine = engine();
        let each = (VOIDS_MAX / 8) as u64;
        for (source, sequence) in (0..8).flat_map(|s| (0..each).map(move |n| (s, n))) {
            if (source, sequence) != (7, each - 1) {
                let (at, durable) = (Timestamp(0), true);
                engine
                    .voids
                    .insert(key(source, sequence), Void { at, durable });
            }
        }
        assert_eq!(engine.void(key(8, 0)), Voiding::Begun, "the last one");
        assert_eq!(engine.voids.len(), VOIDS_MAX);
        assert_eq!(
            engine.void(key(9, 0)),
            Voiding::Full,
            "it has none to give up"
        );
        // Its own oldest one makes room.
        assert_eq!(engine.void(key(3, each)), Voiding::Begun);
        assert_eq!(engine.voids.len(), VOIDS_MAX);
        assert!(!engine.voids.known.contains_key(&key(3, 0)));
        assert!(engine.voids.known.contains_key(&key(4, 0)));
    }
}

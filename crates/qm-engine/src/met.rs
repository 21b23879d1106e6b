//! Which life of a destination was known when a message was minted: only while it goes on can the
//! destination know whether it took the message (W-FIN-2).
//!
//! It is kept once for all messages minted between two changes, by the sequence from which it
//! holds, and written before the first of them.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Entry, Evicted, Incarnation, MessageId, QmId};

use crate::engine::Engine;
use crate::io::LinkId;
use crate::limits::MET_LIVES_MAX;
use crate::record::prefixed;

const MET: &[u8] = b"met/";
const VERSION: u8 = 1;

/// From this message on, this life of a destination was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    from: MessageId,
    life: Incarnation,
}

/// The lives of destinations that were met, the newest last.
pub(crate) type MetLives = BTreeMap<QmId, Vec<Met>>;

/// Why a destination can no longer know whether it took a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsure {
    /// It is another life than the one that was known when the message was minted.
    Restarted,
    /// It may have forgotten the arrival.
    Forgotten,
}

fn met_value(met: &[Met]) -> Bytes {
    let mut to = BytesMut::with_capacity(1 + 24 * met.len());
    to.put_u8(VERSION);
    for met in met {
        to.put_u64_le(met.from.incarnation.0);
        to.put_u64_le(met.from.sequence);
        to.put_u64_le(met.life.0);
    }
    to.freeze()
}

fn read_met(value: &Bytes) -> Option<Vec<Met>> {
    let mut r = value.clone();
    if r.try_get_u8().ok()? != VERSION {
        return None;
    }
    let mut met = Vec::with_capacity(r.len() / 24);
    while !r.is_empty() {
        let incarnation = Incarnation(r.try_get_u64_le().ok()?);
        let sequence = r.try_get_u64_le().ok()?;
        let life = Incarnation(r.try_get_u64_le().ok()?);
        let from = MessageId {
            incarnation,
            sequence,
        };
        met.push(Met { from, life });
    }
    Some(met)
}

impl Engine {
    /// A session with a life of a peer opened: what is minted from now on is minted knowing it.
    ///
    /// Nothing is minted for a stranger that nobody addresses, and strangers are without number.
    pub(crate) fn meet_life(&mut self, peer: QmId, life: Incarnation) {
        let addressed = || self.remotes.values().any(|of| of.peer() == Some(peer));
        if !self.is_heard(peer) && !addressed() {
            return;
        }
        let known = self.met.get(&peer).and_then(|met| met.last());
        if known.is_some_and(|met| met.life == life && met.from.incarnation == self.incarnation) {
            return;
        }
        self.note_met(peer, life, self.next_sequence);
    }

    /// A peer was approved, or is addressed, that may have a session already.
    pub(crate) fn meet_open(&mut self, peer: QmId) {
        let links = self.by_peer.get(&peer).into_iter().flatten();
        let open: Vec<_> = links
            .filter_map(|link| self.sessions.get(link))
            .filter(|session| session.opened)
            .filter_map(|session| Some((session.link, session.incarnation()?)))
            .collect();
        for (link, life) in open {
            self.meet_life(peer, life);
            self.learn_routes(link);
        }
    }

    /// A peer is forgotten: whatever is minted for it later is minted knowing nothing.
    pub(crate) fn forget_met(&mut self, peer: QmId) {
        self.met_dirty.remove(&peer);
        if self.met.remove(&peer).is_some() {
            self.commits.unset(prefixed(MET, peer.as_bytes()));
        }
    }

    fn note_met(&mut self, peer: QmId, life: Incarnation, sequence: u64) {
        let me = self.incarnation;
        let priors = &self.prior_incarnations;
        let met = self.met.entry(peer).or_default();
        met.retain(|met| met.from.incarnation == me || priors.contains(&met.from.incarnation));
        let excess = (met.len() + 1).saturating_sub(MET_LIVES_MAX);
        met.drain(..excess);
        let from = MessageId {
            incarnation: me,
            sequence,
        };
        met.push(Met { from, life });
        self.met_dirty.insert(peer);
    }

    /// Adds what was met since to a batch that is written anyway: that of the first message minted
    /// knowing it, at the latest.
    pub(crate) fn save_met(&mut self) {
        for peer in core::mem::take(&mut self.met_dirty) {
            if let Some(met) = self.met.get(&peer) {
                let value = met_value(met);
                self.commits.set(prefixed(MET, peer.as_bytes()), value);
            }
        }
    }

    /// The same for what a life takes over from the one before: that may be more than one batch.
    pub(crate) fn save_met_in_parts(&mut self) {
        for peer in core::mem::take(&mut self.met_dirty) {
            self.met_dirty.insert(peer);
            self.save_met();
            self.seal_if_large();
        }
    }

    /// Reads back which lives were met. Returns whether the value was understood.
    pub(crate) fn recover_met(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let peer = <[u8; 16]>::try_from(key.strip_prefix(MET)?).ok();
        let Some((peer, met)) = peer.zip(read_met(value)) else {
            return Some(false);
        };
        self.met.insert(QmId::from_bytes(peer), met);
        Some(true)
    }

    /// What this life mints is minted knowing what the last one knew.
    pub(crate) fn remember_met(&mut self) {
        let newest = |(peer, met): (&QmId, &Vec<Met>)| Some((*peer, met.last()?.life));
        let all: Vec<_> = self.met.iter().filter_map(newest).collect();
        for (peer, life) in all {
            self.note_met(peer, life, 0);
        }
    }

    /// The life of a destination that was known when a message was minted.
    fn known_at_mint(&self, peer: QmId, id: MessageId) -> Option<Incarnation> {
        let met = self.met.get(&peer)?.iter().rev();
        let mut met = met.filter(|met| met.from.incarnation == id.incarnation);
        met.find(|met| met.from.sequence <= id.sequence)
            .map(|met| met.life)
    }

    /// A destination says up to where it may have forgotten arrivals; it stands before its answer.
    pub(crate) fn on_evicted(&mut self, link: LinkId, evicted: &Evicted) {
        if !self.is_own(evicted.source) {
            return self.misbehaved(link, "marks for another queue manager's messages");
        }
        for (life, mark) in &evicted.marks {
            let mine = *life == self.incarnation || self.prior_incarnations.contains(life);
            if mine && let Some(session) = self.sessions.get_mut(&link) {
                let known = session.evicted.entry(*life).or_insert(0);
                *known = (*mark).max(*known);
            }
        }
    }

    /// Whether the answer on this session, that a message is not there, is certain; why not.
    pub(crate) fn unsure_of(&self, link: LinkId, entry: &Entry) -> Option<Unsure> {
        let session = self.sessions.get(&link)?;
        let id = entry.id;
        let known = self.known_at_mint(session.peer, id);
        if crate::broken!(self, trust_any_void) {
            return None;
        }
        if known.is_none() || known != session.incarnation() {
            return Some(Unsure::Restarted);
        }
        let mark = session.evicted.get(&id.incarnation).copied();
        (mark.unwrap_or(0) >= id.sequence).then_some(Unsure::Forgotten)
    }

    /// Counts why a death stays uncertain.
    pub(crate) const fn count_unsure(&mut self, unsure: Unsure) {
        match unsure {
            Unsure::Restarted => self.counters.uncertain_by_restart += 1,
            Unsure::Forgotten => self.counters.uncertain_by_forgetting += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_met_comes_back_as_it_was() {
        let met: Vec<_> = (1..4)
            .map(|n| Met {
                from: MessageId {
                    incarnation: Incarnation(n),
                    sequence: 10 * n,
                },
                life: Incarnation(100 + n),
            })
            .collect();
        let value = met_value(&met);
        assert_eq!(read_met(&value), Some(met));
        assert_eq!(read_met(&value.slice(..value.len() - 1)), None);
    }
}

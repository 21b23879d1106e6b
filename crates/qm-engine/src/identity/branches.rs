//! Histories that branched, told to people: those of peers, and this node's own.
//!
//! That a history branched is no accusation: a restored backup does it, too. No identity changes
//! and no message's way does.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Incarnation, QmId};

use crate::connections::With;
use crate::engine::{Engine, life_key};
use crate::io::Event;
use crate::record::prefixed;
use crate::time::Timestamp;

const BRANCHED: &[u8] = b"branched/";
const WENT_BACK: &[u8] = b"went-back/";
const VERSION: u8 = 1;
/// Peers of which it is remembered; of others only the event tells.
const PEERS_MAX: usize = 1_024;
/// What is remembered is written down at most so often.
const SAVE_MS: u64 = 60_000;

/// How a history was seen to branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchEvidence {
    /// A token that was spent before, presented by somebody who lives.
    Token,
    /// Two messages with one id and different tags.
    Tag,
    /// Two transactional messages behind one link.
    Link,
}

impl BranchEvidence {
    /// A word for logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Tag => "tag",
            Self::Link => "link",
        }
    }
}

/// The history of a peer branched: it was copied, or went back to a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchView {
    /// The peer; this node itself when a peer said that of it.
    pub qm: QmId,
    /// How often a spent token said so.
    pub tokens: u64,
    /// How often two tags did.
    pub tags: u64,
    /// How often two links did.
    pub links: u64,
    /// Wall clock of the first time, microseconds.
    pub first_us: u64,
    /// Of the last.
    pub last_us: u64,
}

/// This node's own store went back: a peer holds a token that it does not remember giving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WentBackView {
    /// The peer that holds it.
    pub peer: QmId,
    /// Wall clock of the first time, microseconds.
    pub first_us: u64,
    /// Of the last.
    pub last_us: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    counts: [u64; 3],
    first_us: u64,
    last_us: u64,
    saved: Option<Timestamp>,
}

impl Seen {
    fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(41);
        to.put_u8(VERSION);
        to.put_u64_le(self.first_us);
        to.put_u64_le(self.last_us);
        for count in self.counts {
            to.put_u64_le(count);
        }
        to.freeze()
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut seen = Self {
            first_us: r.try_get_u64_le().ok()?,
            last_us: r.try_get_u64_le().ok()?,
            ..Self::default()
        };
        for count in &mut seen.counts {
            *count = r.try_get_u64_le().ok()?;
        }
        r.is_empty().then_some(seen)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Branched {
    of: BTreeMap<QmId, Seen>,
    went_back: BTreeMap<QmId, Seen>,
}

impl Branched {
    pub(crate) fn views(&self) -> Vec<BranchView> {
        let view = |(qm, seen): (&QmId, &Seen)| {
            let [tokens, tags, links] = seen.counts;
            BranchView {
                qm: *qm,
                tokens,
                tags,
                links,
                first_us: seen.first_us,
                last_us: seen.last_us,
            }
        };
        self.of.iter().map(view).collect()
    }

    pub(crate) fn went_back(&self) -> Vec<WentBackView> {
        let view = |(peer, seen): (&QmId, &Seen)| WentBackView {
            peer: *peer,
            first_us: seen.first_us,
            last_us: seen.last_us,
        };
        self.went_back.iter().map(view).collect()
    }
}

/// Notes a sighting; what to write down, if it is time.
fn note(
    of: &mut BTreeMap<QmId, Seen>,
    qm: QmId,
    which: usize,
    now: crate::time::Now,
) -> Option<Bytes> {
    if of.len() >= PEERS_MAX && !of.contains_key(&qm) {
        return None;
    }
    let seen = of.entry(qm).or_default();
    let count = seen.counts.get_mut(which)?;
    let first = *count == 0;
    *count = count.saturating_add(1);
    if seen.first_us == 0 {
        seen.first_us = now.wall_us;
    }
    seen.last_us = now.wall_us;
    let due = |at: Timestamp| now.at.ms_since(at) >= SAVE_MS;
    if !first && !seen.saved.is_none_or(due) {
        return None;
    }
    seen.saved = Some(now.at);
    Some(seen.encode())
}

impl Engine {
    /// The history of a peer was seen to branch.
    pub(crate) fn note_branch(&mut self, peer: QmId, by: BranchEvidence) {
        let which = match by {
            BranchEvidence::Token => 0,
            BranchEvidence::Tag => 1,
            BranchEvidence::Link => 2,
        };
        if let Some(value) = note(&mut self.branched.of, peer, which, self.now) {
            self.commits.set(prefixed(BRANCHED, peer.as_bytes()), value);
        }
        let text = format!("its history branched, says a {}", by.name());
        self.note_connection(With::Peer(peer), "branched", &text);
        self.event(Event::HistoryBranched { peer, by });
    }

    /// A peer said that of this node, or showed it.
    pub(super) fn own_history_branched(&mut self, told_by: QmId) {
        let me = self.me.qm;
        if let Some(value) = note(&mut self.branched.of, me, 0, self.now) {
            self.commits.set(prefixed(BRANCHED, me.as_bytes()), value);
        }
        self.event(Event::OwnHistoryBranched { told_by });
    }

    /// A peer holds a token that this node made and does not remember.
    pub(super) fn own_store_went_back(&mut self, peer: QmId) {
        if let Some(value) = note(&mut self.branched.went_back, peer, 0, self.now) {
            self.commits
                .set(prefixed(WENT_BACK, peer.as_bytes()), value);
        }
        self.event(Event::OwnStoreWentBack { peer });
    }

    /// From now on this process mints under another life's name.
    pub(crate) fn begin_incarnation(&mut self) {
        crate::reached!(self, NewLife);
        let former = self.incarnation;
        self.prior_incarnations.insert(former);
        if !self.life_saved {
            // As long as it holds messages of that life, their acks must find it.
            self.commits.set(life_key(former), Bytes::from_static(&[1]));
        }
        self.incarnation = Incarnation(self.entropy.next_u64());
        self.next_sequence = 1;
        self.life_saved = false;
        self.salt = [0; 16];
        let peers: Vec<QmId> = self.by_peer.keys().copied().collect();
        self.busy_peers.extend(peers);
    }

    /// The operator forgot a peer.
    pub(crate) fn forget_branches(&mut self, peer: QmId) {
        if self.branched.of.remove(&peer).is_some() {
            self.commits.unset(prefixed(BRANCHED, peer.as_bytes()));
        }
        if self.branched.went_back.remove(&peer).is_some() {
            self.commits.unset(prefixed(WENT_BACK, peer.as_bytes()));
        }
    }

    /// Reads back what was noted. Whether the value was understood, if it is such a note.
    pub(crate) fn recover_branched(&mut self, key: &[u8], value: &Bytes) -> Option<bool> {
        let of = key.strip_prefix(BRANCHED);
        let qm = of.or_else(|| key.strip_prefix(WENT_BACK))?;
        let qm = <[u8; 16]>::try_from(qm).map(QmId::from_bytes).ok();
        let Some((qm, seen)) = qm.zip(Seen::decode(value)) else {
            return Some(false);
        };
        let notes = if of.is_some() {
            &mut self.branched.of
        } else {
            &mut self.branched.went_back
        };
        notes.insert(qm, seen);
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::qm;
    use crate::time::Now;

    #[test]
    fn of_so_many_peers_is_remembered_that_their_history_branched() {
        let mut of = BTreeMap::new();
        for n in 0..=PEERS_MAX {
            let noted = note(&mut of, qm(n), 0, Now::default()).is_some();
            assert_eq!(noted, n < PEERS_MAX, "{n}");
        }
        assert_eq!(of.len(), PEERS_MAX);
        assert!(note(&mut of, qm(0), 1, Now::default()).is_some(), "known");
    }
}

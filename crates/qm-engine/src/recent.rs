//! What arrived last from each peer: all that it may still send again.
//!
//! The duplicate cache is one for all, so a busy peer can push out of it what another one sent just
//! before its connection broke. That other one holds these messages until it hears of their
//! arrival, and when it is back it asks for them, or sends them again. A sender keeps no more in
//! flight than [`FLIGHTS_MAX`](crate::limits::FLIGHTS_MAX) messages of a session and settles what
//! is in doubt before it goes on, so the newest few times that many of each peer are all that can
//! come again; here they stay, whatever others do. Only newer arrivals of the same peer take their
//! places; when all peers together have too many, the oldest of the peer that has most go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qm_wire::{Entry, QmId};

use crate::limits::{RECENT_PER_PEER_MAX, RECENT_TOTAL_MAX};

#[derive(Debug, Default)]
struct OfPeer {
    order: VecDeque<Entry>,
    known: BTreeSet<Entry>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RecentArrivals {
    peers: BTreeMap<QmId, OfPeer>,
    total: usize,
    /// How many are dropped at a time when there are too many: looking for the peer with most costs
    /// a look at all.
    share: usize,
    is_on: bool,
}

impl RecentArrivals {
    /// Empty; when it is off, it stays so.
    pub(crate) const fn new(is_on: bool) -> Self {
        Self {
            peers: BTreeMap::new(),
            total: 0,
            share: RECENT_TOTAL_MAX / 64,
            is_on,
        }
    }

    /// Whether this message of the peer is among its newest arrivals.
    pub(crate) fn contains(&self, peer: QmId, entry: &Entry) -> bool {
        self.peers
            .get(&peer)
            .is_some_and(|of_peer| of_peer.known.contains(entry))
    }

    /// A message is stored to its class.
    pub(crate) fn insert(&mut self, peer: QmId, entry: Entry) {
        if !self.is_on {
            return;
        }
        let of_peer = self.peers.entry(peer).or_default();
        if !of_peer.known.insert(entry) {
            return;
        }
        of_peer.order.push_back(entry);
        self.total += 1;
        if of_peer.order.len() > RECENT_PER_PEER_MAX
            && let Some(oldest) = of_peer.order.pop_front()
        {
            of_peer.known.remove(&oldest);
            self.total -= 1;
        }
        if self.total > RECENT_TOTAL_MAX {
            self.drop_of_largest();
        }
    }

    fn drop_of_largest(&mut self) {
        let largest = self
            .peers
            .values_mut()
            .max_by_key(|of_peer| of_peer.order.len());
        let Some(of_peer) = largest else {
            return;
        };
        let count = self.share.min(of_peer.order.len().div_ceil(2));
        for oldest in of_peer.order.drain(..count) {
            of_peer.known.remove(&oldest);
        }
        self.total -= count;
    }

    /// How many are remembered.
    pub(crate) const fn len(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::{Incarnation, MessageId, Tag};

    use super::*;

    fn entry(sequence: usize) -> Entry {
        Entry {
            id: MessageId {
                incarnation: Incarnation(1),
                sequence: sequence as u64,
            },
            tag: Tag([0; 8]),
        }
    }

    fn peer(number: usize) -> QmId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        QmId::from_ed25519_public_key(&key)
    }

    #[test]
    fn only_a_peers_own_arrivals_push_out_what_it_sent() {
        let mut recent = RecentArrivals::new(true);
        recent.insert(peer(1), entry(1));
        for number in 0..2 * RECENT_PER_PEER_MAX {
            recent.insert(peer(2), entry(number));
        }
        assert!(recent.contains(peer(1), &entry(1)));
        assert!(!recent.contains(peer(2), &entry(RECENT_PER_PEER_MAX - 1)));
        assert!(recent.contains(peer(2), &entry(RECENT_PER_PEER_MAX)));
        assert_eq!(recent.len(), RECENT_PER_PEER_MAX + 1);
    }

    #[test]
    fn the_same_numbers_with_another_tag_are_another_message() {
        let mut recent = RecentArrivals::new(true);
        recent.insert(peer(1), entry(1));
        let other = Entry {
            tag: Tag([1; 8]),
            ..entry(1)
        };
        assert!(!recent.contains(peer(1), &other));
    }

    #[test]
    fn many_peers_together_are_bounded_at_the_cost_of_those_with_most() {
        let mut recent = RecentArrivals::new(true);
        recent.insert(peer(0), entry(1));
        let busy = RECENT_TOTAL_MAX / RECENT_PER_PEER_MAX + 2;
        for number in 0..RECENT_PER_PEER_MAX {
            for busy in 1..=busy {
                recent.insert(peer(busy), entry(number));
            }
        }
        assert!(recent.len() <= RECENT_TOTAL_MAX);
        let kept: usize = recent
            .peers
            .values()
            .map(|of_peer| of_peer.known.len())
            .sum();
        assert_eq!(kept, recent.len());
        assert!(
            recent.contains(peer(0), &entry(1)),
            "the quiet one keeps its own"
        );
    }

    #[test]
    fn off_remembers_nothing() {
        let mut recent = RecentArrivals::new(false);
        recent.insert(peer(1), entry(1));
        assert!(!recent.contains(peer(1), &entry(1)));
    }
}

//! What happened to connections with each peer: a few events for people, in memory.

use std::collections::{BTreeMap, VecDeque};

use qm_wire::{Outcome, QmId};

use crate::admin::ConnectionEvent;
use crate::engine::Engine;
use crate::outgoing::Remote;
use crate::record::RemoteKey;

/// Events remembered of one peer or address.
const EVENTS_MAX: usize = 16;
/// Peers and addresses of which events are remembered; beyond, no others are until a restart.
const SUBJECTS_MAX: usize = 4_096;
/// Bytes of the words of an event, which a peer may have chosen.
const TEXT_BYTES_MAX: usize = 256;

/// Whom an event concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum With {
    Peer(QmId),
    Address(RemoteKey),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    events: BTreeMap<With, VecDeque<(u64, ConnectionEvent)>>,
    /// How a peer ended its last session, until the next one opens.
    ends: BTreeMap<QmId, Outcome>,
    last: u64,
}

impl Connections {
    /// A session with this peer is open: what ended earlier ones is history.
    pub(crate) fn opened(&mut self, peer: QmId) {
        self.ends.remove(&peer);
    }

    /// The peer said why it ends a session.
    pub(crate) fn ended(&mut self, peer: QmId, reason: Outcome) {
        if self.ends.len() < SUBJECTS_MAX || self.ends.contains_key(&peer) {
            self.ends.insert(peer, reason);
        }
    }

    /// Why the peer ended its last session, if it said so and none is open since.
    pub(crate) fn end_of(&self, peer: QmId) -> Option<Outcome> {
        self.ends.get(&peer).copied()
    }

    fn push(&mut self, with: With, event: ConnectionEvent) {
        if self.events.len() >= SUBJECTS_MAX && !self.events.contains_key(&with) {
            return;
        }
        self.last += 1;
        let events = self.events.entry(with).or_default();
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back((self.last, event));
    }

    fn of<'a>(&'a self, with: &With) -> impl Iterator<Item = &'a (u64, ConnectionEvent)> {
        self.events.get(with).into_iter().flatten()
    }
}

impl Engine {
    /// Remembers what happened to a connection.
    pub(crate) fn note_connection(&mut self, with: With, event: &'static str, text: &str) {
        let mut cut = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let event = ConnectionEvent {
            at_us: self.now.wall_us,
            event,
            text: text.get(..cut).unwrap_or_default().to_owned(),
        };
        self.connections.push(with, event);
    }

    /// What happened to connections with a destination node, oldest first.
    pub(crate) fn connections_of(&self, remote: &Remote) -> Vec<ConnectionEvent> {
        self.connections_with(remote.peer(), Some(&remote.key))
    }

    pub(crate) fn connections_with(
        &self,
        peer: Option<QmId>,
        key: Option<&RemoteKey>,
    ) -> Vec<ConnectionEvent> {
        let mut subjects: Vec<With> = peer.map(With::Peer).into_iter().collect();
        subjects.extend(key.cloned().map(With::Address));
        if let Some(peer) = peer {
            // Every address under which it is dialled.
            let keys = self
                .remotes
                .values()
                .filter(|remote| remote.peer() == Some(peer))
                .map(|remote| With::Address(remote.key.clone()));
            subjects.extend(keys);
        }
        subjects.sort();
        subjects.dedup();
        let mut events: Vec<_> = subjects
            .iter()
            .flat_map(|with| self.connections.of(with))
            .collect();
        events.sort_by_key(|(order, _)| *order);
        let from = events.len().saturating_sub(EVENTS_MAX);
        events
            .into_iter()
            .skip(from)
            .map(|(_, event)| event.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engine, qm};

    #[test]
    fn of_so_many_peers_is_known_what_happened_and_their_words_are_cut() {
        let mut engine = engine();
        let words = format!("{}\u{e9}", "x".repeat(TEXT_BYTES_MAX - 1));
        let told = |engine: &Engine, n: usize| {
            let events = engine.connections_with(Some(qm(n)), None);
            events.first().map(|event| event.text.len())
        };
        for n in 0..=SUBJECTS_MAX {
            let peer = qm(n);
            engine.note_connection(With::Peer(peer), "closed", &words);
            engine.connections.ended(peer, Outcome::BUSY);
        }
        assert_eq!(told(&engine, SUBJECTS_MAX - 1), Some(TEXT_BYTES_MAX - 1));
        let end = |engine: &Engine, n: usize| engine.connections.end_of(qm(n));
        assert_eq!(end(&engine, SUBJECTS_MAX - 1), Some(Outcome::BUSY));
        assert_eq!(told(&engine, SUBJECTS_MAX), None, "of one more nothing is");
        assert_eq!(end(&engine, SUBJECTS_MAX), None);
        engine.note_connection(With::Peer(qm(0)), "closed", "short");
        assert_eq!(engine.connections_with(Some(qm(0)), None).len(), 2);
    }
}
